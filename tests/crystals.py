"""A few crystals built by hand, and the same crystals written in other cells."""

from dataclasses import replace
from itertools import product

import numpy as np
from hypothesis import strategies as st

from crystalmax.crystal import Crystal, Occupant
from crystalmax.elements import ATOMIC_NUMBERS


def pure(*symbols):
    """A full site of each element."""
    return tuple((Occupant(ATOMIC_NUMBERS[symbol], 1.0),) for symbol in symbols)


def mixed(**occupancies):
    """One site shared by several elements; less than 1 in sum leaves vacancies."""
    occupants = (Occupant(ATOMIC_NUMBERS[symbol], occupancy) for symbol, occupancy in occupancies.items())
    return tuple(sorted(occupants))


def crystal(key, lattice, positions, species, kinds, **targets):
    return Crystal(
        np.array(lattice, dtype=float), np.array(positions, dtype=float), np.array(species), tuple(kinds), key, targets
    )


def rock_salt(a=5.64, kinds=("Na", "Cl"), key="rock salt"):
    face_centered = a / 2 * (np.ones((3, 3)) - np.eye(3))
    return crystal(key, face_centered, [[0, 0, 0], [0.5, 0.5, 0.5]], [0, 1], pure(*kinds))


def conventional_rock_salt(a=5.64):
    """Rock salt in its cubic cell of eight sites."""
    corners = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    return crystal("rock salt", a * np.eye(3), [*corners, *(corners + 0.5)], [0] * 4 + [1] * 4, pure("Na", "Cl"))


def perovskite(a=3.905, kinds=None, key="perovskite"):
    positions = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return crystal(key, a * np.eye(3), positions, [0, 1, 2, 2, 2], kinds or pure("Sr", "Ti", "O"))


def deficient_perovskite():
    """Mixed on the first site, vacancies on the third."""
    kinds = (mixed(Ca=0.3, Sr=0.7), *pure("Ti"), mixed(O=0.8))
    return perovskite(key="deficient perovskite", kinds=kinds)


def metal(kind, a=3.56, key="metal"):
    """A face-centered metal with one site."""
    return crystal(key, a / 2 * (np.ones((3, 3)) - np.eye(3)), [[0, 0, 0]], [0], [kind])


def quartz():
    lattice = [[4.913, 0, 0], [-4.913 / 2, 4.913 * 3**0.5 / 2, 0], [0, 0, 5.405]]
    x, y, z = 0.4135, 0.2669, 0.7858
    turned = [(x, y, z), (-y, x - y, z + 2 / 3), (y - x, -x, z + 1 / 3)]
    flipped = [(b, a, -c) for a, b, c in turned]
    silicon = [(0.4697, 0, 2 / 3), (0, 0.4697, 1 / 3), (-0.4697, -0.4697, 0)]
    return crystal("quartz", lattice, [*silicon, *turned, *flipped], [0] * 3 + [1] * 6, pure("Si", "O"))


def oblique():
    """No symmetry at all, with charges."""
    lattice = [[4.1, 0, 0], [0.9, 5.2, 0], [-1.3, 0.7, 6.3]]
    positions = [[0.02, 0.11, 0.93], [0.47, 0.52, 0.61], [0.71, 0.13, 0.35], [0.24, 0.83, 0.18]]
    kinds = ((Occupant(29, 1.0, 2.0),), (Occupant(8, 1.0, -2.0),), (Occupant(16, 1.0),))
    return crystal("oblique", lattice, positions, [0, 1, 1, 2], kinds)


def some_crystals():
    return [rock_salt(), perovskite(), deficient_perovskite(), quartz(), oblique(), metal(mixed(Fe=0.5, Ni=0.5))]


def supercell(one, times):
    """The same crystal in a cell that is larger along each axis."""
    shifts = np.array(list(product(*(range(n) for n in times))))
    positions = ((one.positions[:, None] + shifts) / times).reshape(-1, 3)
    lattice = one.lattice * np.array(times)[:, None]
    return replace(one, lattice=lattice, positions=positions, species=np.repeat(one.species, len(shifts)))


def other_basis(one, matrix):
    """The same crystal with cell vectors that are whole combinations, of determinant 1 or -1, of the old ones."""
    return replace(one, lattice=matrix @ one.lattice, positions=one.positions @ np.linalg.inv(matrix))


def shifted(one, vector):
    return replace(one, positions=one.positions + vector)


def shuffled(one, order):
    return replace(one, positions=one.positions[order], species=one.species[order])


def rotation(rng):
    """A random rotation."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def rotated(one, rng):
    return replace(one, lattice=one.lattice @ rotation(rng))


@st.composite
def rewritten(draw, one):
    """The same crystal, written in another way."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    times = draw(st.sampled_from([(1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (1, 1, 3)]))
    other = supercell(one, times)
    shear = np.eye(3, dtype=int)
    row, column = draw(st.sampled_from([(0, 1), (1, 0), (0, 2), (2, 1)]))
    shear[row, column] = draw(st.integers(-1, 1))
    other = other_basis(other, shear)
    other = shuffled(rotated(other, rng), rng.permutation(other.n_sites))
    return shifted(other, rng.uniform(-1, 1, 3))


@st.composite
def random_crystals(draw, max_sites=4):
    """Any crystal of a few sites; sites do not come closer than a fifth of an edge."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_sites = draw(st.integers(1, max_sites))
    lattice = draw(st.floats(3.0, 7.0)) * (np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3)))
    grid = np.array(list(product((0.05, 0.4, 0.75), repeat=3)))
    positions = rng.permutation(grid)[:n_sites] + rng.uniform(0, 0.1, (n_sites, 3))
    kinds = (*pure("O", "Fe", "K"), mixed(Mg=0.4, Si=0.6), mixed(F=0.7))
    species = rng.integers(0, len(kinds), n_sites)
    used, species = np.unique(species, return_inverse=True)
    return crystal(f"random {rng.integers(1000)}", lattice, positions, species, [kinds[kind] for kind in used])
