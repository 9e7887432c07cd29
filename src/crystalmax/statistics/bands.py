"""Six numbers of the simplest bands of a crystal, those of extended Hueckel theory (Hoffmann, DOI 10.1063/1.1734456).

Each kind of electrons of a free atom is one shell of Gaussian functions: its level is that of the atom
(`electrons.shells`), its width a multiple of the covalent radius, and functions couple by overlap times mean level
(Wolfsberg and Helmholz, DOI 10.1063/1.1700580). Only widths and strength were chosen, on gaps of 350 crystals. Wave
vectors have phases of 1 or -1, so that matrices are real; they are the same for every choice of a primitive cell.
"""

from functools import cache
from itertools import combinations_with_replacement, product
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import eigh

from crystalmax import elements
from crystalmax.cells import canonical
from crystalmax.crystal import Crystal
from crystalmax.statistics import electrons
from crystalmax.statistics.surroundings import surroundings

STRENGTH = 2.0
"""Strength of the coupling, usually 1.75 with wider functions. docs/research/bands.md says how this was chosen."""

WIDTHS = {0: (0.9,), 1: (0.9,), 2: (0.396, 0.468, 0.54), 3: (0.2304,)}
"""Root-mean-square radius of s, p, d (for periods 4, 5 and 6) and f functions, in covalent radii."""

EMPTY = {1: (0.4, 1.25), 2: (0.75, 0.75)}
"""Shells, by degree, that are empty in a free atom but filled in crystals: p of metals, d of the f block. Their level
is this multiple of that of the s shell; their width is as in `WIDTHS`."""

LEAST_OVERLAP = 0.05
"""Eigenvectors of the overlap matrix with a smaller eigenvalue, almost linearly dependent functions, are left out."""

CAUGHT = 9.0
"""The overlap of two Gaussians falls as exp(-x); where x is larger than this, it is taken as 0."""

MOST_WITH_PHASES = 320
"""In cells with more functions than this, only the wave vector 0 is used."""

MOST_COUPLED = 2400
"""In cells with more functions (300 atoms or more), atomic levels stand in for bands, as the time, 3 s here, grows with
the cube of their number."""

_CARTESIAN = {
    degree: [(x, y, z) for x, y, z in product(range(degree + 1), repeat=3) if x + y + z == degree]
    for degree in range(4)
}
_HARMONICS: dict[int, list[dict[tuple[int, int, int], float]]] = {
    0: [{(0, 0, 0): 1}],
    1: [{(1, 0, 0): 1}, {(0, 1, 0): 1}, {(0, 0, 1): 1}],
    2: [
        {(1, 1, 0): 1},
        {(1, 0, 1): 1},
        {(0, 1, 1): 1},
        {(2, 0, 0): 0.5, (0, 2, 0): -0.5},
        {(0, 0, 2): 1, (2, 0, 0): -0.5, (0, 2, 0): -0.5},
    ],
    3: [
        {(0, 0, 3): 1, (2, 0, 1): -1.5, (0, 2, 1): -1.5},
        {(1, 0, 2): 4, (3, 0, 0): -1, (1, 2, 0): -1},
        {(0, 1, 2): 4, (2, 1, 0): -1, (0, 3, 0): -1},
        {(2, 0, 1): 1, (0, 2, 1): -1},
        {(1, 1, 1): 1},
        {(3, 0, 0): 1, (1, 2, 0): -3},
        {(2, 1, 0): 3, (0, 3, 0): -1},
    ],
}
"""Each function as a sum of products of powers of x, y and z, with their coefficients."""


class Shells(NamedTuple):
    """Shells of functions on the sites of a crystal, ascending by degree, then site.

    Attributes:
        degree: 0 for s to 3 for f.
        site: Where each shell is.
        level: In electronvolt.
        electrons: Number of electrons in the shell of the free atom.
        exponent: Exponent of its Gaussians, per square angstrom.
    """

    degree: Int[np.ndarray, " shells"]
    site: Int[np.ndarray, " shells"]
    level: Float[np.ndarray, " shells"]
    electrons: Float[np.ndarray, " shells"]
    exponent: Float[np.ndarray, " shells"]


def of_bands(crystal: Crystal) -> dict[str, float]:
    """Gap and its middle, density of states there, and mean and spread of the filled bands, all in eV.

    The gap is negative where bands overlap. It is 0 where the number of electrons is odd, or not whole, as it may be
    with shared sites. The density of states is per site, with each state blurred by a Gaussian of 1 eV.
    """
    primitive = canonical(crystal.without_charges())
    shells = shells_of(primitive)
    level = np.repeat(shells.level, 2 * shells.degree + 1)
    coupled = len(level) <= MOST_COUPLED
    bands = [_levels(overlap, level) for overlap in overlaps_of(primitive, shells)] if coupled else [np.sort(level)]
    n_electrons, n_sites = float(shells.electrons.sum()), len(primitive.species)
    if n_electrons > 2 * min(map(len, bands)) - 1e-6:  # of noble gases; an electron without a band leaves the crystal
        bands = [np.append(each, 0.0) for each in bands]
    gap, direct = _gaps(bands, n_electrons)
    flat = np.sort(np.concatenate(bands))
    room = 2 / len(bands)  # for electrons in a level of one wave vector of several
    filled = np.clip(n_electrons / room - np.arange(len(flat)), 0, 1)
    highest = int(np.flatnonzero(filled > 1e-6).max(initial=0))
    lowest = highest + 1 if filled[highest] > 1 - 1e-6 and highest + 1 < len(flat) else highest
    middle = (flat[highest] + flat[lowest]) / 2
    states = room * np.exp(-((flat - middle) ** 2) / 2).sum() / np.sqrt(2 * np.pi) / n_sites
    total = room * filled @ flat
    spread = (room * filled @ (flat - total / n_electrons) ** 2 / n_electrons) ** 0.5
    return {
        "middle of the gap of bands": float(middle),
        "gap of bands": float(gap),
        "direct gap of bands": float(direct),
        "logarithm of states at the middle of the gap": float(np.log1p(states)),
        "energy of bands less that of atoms": float(total - shells.electrons @ shells.level) / n_sites,
        "spread of filled bands": float(spread),
    }


def _gaps(bands: list[Float[np.ndarray, " _"]], n_electrons: float) -> tuple[float, float]:
    """The smallest energy from a filled band to an empty one: between any two wave vectors, and at the same one.

    Both are 0 where two electrons in each band leave one partly filled, or none empty.
    """
    n_filled = round(n_electrons / 2)
    if abs(n_electrons / 2 - n_filled) >= 1e-6 or not 0 < n_filled < min(map(len, bands)):
        return 0.0, 0.0
    below, above = np.array([band[n_filled - 1 : n_filled + 1] for band in bands]).T
    return above.min() - below.max(), (above - below).min()


def shells_of(crystal: Crystal) -> Shells:
    """Shells on all sites. On a site that several elements share, shells of one degree are averaged by occupancy."""
    rows = []
    for site, species in enumerate(crystal.species):
        sums: dict[int, Float[np.ndarray, "4"]] = {}
        for occupant in crystal.kinds[species]:
            for degree, level, held, width in _of_atom(occupant.atomic_number):
                mean = occupant.occupancy * np.array([1, level, held, width])
                sums[degree] = sums.get(degree, np.zeros(4)) + mean
        for degree, (share, level, held, width) in sums.items():
            capacity, exponent = 4 * degree + 2, (2 * degree + 3) / 4 / (width / share) ** 2
            # Some occupants lack shells of d and f; those that are closed are no less so for that.
            closed = degree > 1 and abs(held / share - capacity) < 1e-6
            rows.append((degree, site, level / share, capacity if closed else held, exponent))
    degree, site, level, held, exponent = np.array(sorted(rows)).T
    return Shells(degree.astype(int), site.astype(int), level, held, exponent)


@cache
def _of_atom(z: int) -> tuple[tuple[int, float, int, float], ...]:
    """Degree, level in eV, electrons and root of the mean squared radius in angstrom of each shell of an atom."""
    radius = float(elements.columns("radius")[0, z - 1])
    of_elements = electrons.columns(*(f"{kind}_electrons" for kind in electrons.KINDS))
    counts = of_elements[:, z - 1].astype(int).tolist()
    highest = {shell.kind: shell.energy for shell in sorted(electrons.shells(z))}
    s = highest.get(0, -4.0)  # palladium has no s electron
    period = int(np.searchsorted([2, 10, 18, 36, 54, 86], z)) + 1
    found = [(0, s, counts[0], WIDTHS[0][0])]
    if counts[1]:
        found.append((1, highest[1], counts[1], WIDTHS[1][0]))
    elif z > 2:
        found.append((1, EMPTY[1][0] * s, 0, EMPTY[1][1]))
    if counts[2]:
        found.append((2, highest[2], counts[2], WIDTHS[2][min(max(period - 4, 0), 2)]))
    elif 57 <= z <= 70 or 89 <= z <= 102:
        found.append((2, EMPTY[2][0] * s, 0, EMPTY[2][1]))
    if counts[3]:
        found.append((3, highest[3], counts[3], WIDTHS[3][0]))
    return tuple((degree, level, held, width * radius) for degree, level, held, width in found)


def overlaps_of(crystal: Crystal, shells: Shells) -> Float[np.ndarray, "waves functions functions"]:
    """Overlaps of all functions at each wave vector, images included."""
    sizes = 2 * shells.degree + 1
    first, n = np.cumsum(sizes) - sizes, int(sizes.sum())
    around = surroundings(crystal)
    waves = np.array(list(product((0, 0.5), repeat=3)) if n <= MOST_WITH_PHASES else [(0, 0, 0)])
    fractional = around.displacement @ np.linalg.inv(crystal.lattice)
    cells = np.rint(fractional - crystal.positions[around.neighbor] + crystal.positions[around.center])
    phases = np.cos(2 * np.pi * waves @ cells.T)
    shell = np.full((4, len(crystal.species)), -1)
    shell[shells.degree, shells.site] = np.arange(len(shells.degree))
    found = np.zeros((len(waves), n * n))
    for degrees in combinations_with_replacement(range(4), 2):  # each pair is there from both ends
        one, other = shell[degrees[0]][around.center], shell[degrees[1]][around.neighbor]
        pairs = np.flatnonzero((one >= 0) & (other >= 0))
        a, b = shells.exponent[one[pairs]], shells.exponent[other[pairs]]
        pairs = pairs[a * b / (a + b) * around.distance[pairs] ** 2 < CAUGHT]
        if not len(pairs):
            continue
        one, other = one[pairs], other[pairs]
        exponents = np.stack([shells.exponent[one], shells.exponent[other]], axis=1)
        overlap = overlaps(degrees, exponents, around.displacement[pairs])
        if degrees[0] == degrees[1]:
            overlap /= 2
        rows = first[one][:, None, None] + np.arange(2 * degrees[0] + 1)[:, None]
        places = (rows * n + first[other][:, None, None] + np.arange(2 * degrees[1] + 1)).ravel()
        for wave, phase in zip(found, phases[:, pairs], strict=True):
            wave += np.bincount(places, (overlap * phase[:, None, None]).ravel(), n * n)
    square = found.reshape(-1, n, n)
    return square + square.transpose(0, 2, 1) + np.eye(n)


def overlaps(
    degrees: tuple[int, int], exponents: Float[np.ndarray, "pairs 2"], apart: Float[np.ndarray, "pairs 3"]
) -> Float[np.ndarray, "pairs first second"]:
    """Overlaps of normalised harmonic Gaussians at the origin with others at these displacements, in angstrom."""
    x, y, z = (_along(degrees, exponents, along) for along in apart.T)
    first, second = (_CARTESIAN[degree] for degree in degrees)
    products = np.array([[x[i, r] * y[j, s] * z[k, t] for r, s, t in second] for i, j, k in first])
    one, other = map(_harmonics, degrees)
    found: Float[np.ndarray, "pairs first second"] = one @ np.moveaxis(products, 2, 0) @ other.T
    for degree, exponent in zip(degrees, exponents.T, strict=True):
        found *= ((2 * exponent / np.pi) ** 0.75 * (4 * exponent) ** (degree / 2))[:, None, None]
    return found


def _along(
    degrees: tuple[int, int], exponents: Float[np.ndarray, "pairs 2"], x: Float[np.ndarray, " pairs"]
) -> Float[np.ndarray, "first second pairs"]:
    """Integrals along one axis of all powers up to the degrees (Obara and Saika, DOI 10.1063/1.450106, eq. 4)."""
    a, b = exponents.T
    total = a + b
    found = np.zeros((degrees[0] + 1, degrees[1] + 1, len(x)))
    found[0, 0] = np.sqrt(np.pi / total) * np.exp(-a * b / total * x**2)
    for i, j in product(range(degrees[0] + 1), range(degrees[1] + 1)):
        # An index of -1 reads a wrong entry, but its factor is 0.
        if i:
            lower = (i - 1) * found[i - 2, j] + j * found[i - 1, j - 1]
            found[i, j] = b * x / total * found[i - 1, j] + lower / (2 * total)
        elif j:
            found[i, j] = -a * x / total * found[i, j - 1] + (j - 1) * found[i, j - 2] / (2 * total)
    return found


@cache
def _harmonics(degree: int) -> Float[np.ndarray, "functions powers"]:
    """Coefficients of products of powers in each function, whose norm at an exponent of 1/4 is (2 pi)^(3/4)."""
    counts = np.array([[each.get(powers, 0.0) for powers in _CARTESIAN[degree]] for each in _HARMONICS[degree]])
    powers = np.array(_CARTESIAN[degree])
    moments = np.array([1, 0, 1, 0, 3, 0, 15])[powers[:, None] + powers].prod(axis=-1)  # of the normal distribution
    return counts / np.sqrt(np.diag(counts @ moments @ counts.T))[:, None]


def _levels(
    overlap: Float[np.ndarray, "functions functions"], level: Float[np.ndarray, " functions"]
) -> Float[np.ndarray, " bands"]:
    """Energies of the bands at one wave vector, ascending."""
    energy = STRENGTH / 2 * np.add.outer(level, level) * overlap
    np.fill_diagonal(energy, energy.diagonal() + (1 - STRENGTH) * level)  # a function with itself has its level
    try:
        np.linalg.cholesky(overlap - LEAST_OVERLAP * np.eye(len(level)))
    except np.linalg.LinAlgError:
        size, mixed = np.linalg.eigh(overlap)
        basis = mixed[:, size > LEAST_OVERLAP] / np.sqrt(size[size > LEAST_OVERLAP])
        return np.linalg.eigvalsh(basis.T @ energy @ basis)
    # Nothing is left out, as of nine crystals in ten, which takes half the time.
    levels: Float[np.ndarray, " bands"] = eigh(energy, overlap, eigvals_only=True, check_finite=False, driver="gv")
    return levels
