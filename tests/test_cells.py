import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import spglib
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.cells import canonical
from crystalmax.crystal import Crystal, CrystalBatch, Occupant
from crystalmax.geometry import AllPairs

IRON, NICKEL = (Occupant(26, 1.0),), (Occupant(28, 1.0),)
ALLOY = (Occupant(26, 0.5), Occupant(28, 0.5))
KINDS = (IRON, NICKEL, ALLOY)


def from_angles(a, b, c, alpha, beta, gamma):
    ca, cb, cg = np.cos(np.radians([alpha, beta, gamma]))
    return np.linalg.cholesky(np.outer([a, b, c], [a, b, c]) * np.array([[1, cg, cb], [cg, 1, ca], [cb, ca, 1]]))


NASTY = {
    "cubic": from_angles(4, 4, 4, 90, 90, 90),
    "fcc": from_angles(3, 3, 3, 60, 60, 60),
    "bcc": from_angles(3, 3, 3, *[np.degrees(np.arccos(-1 / 3))] * 3),
    "hcp": from_angles(3, 3, 4.9, 90, 90, 120),
    "rhombohedral, almost fcc": from_angles(3, 3, 3, 60.1, 60.1, 60.1),
    "rhombohedral, almost cubic": from_angles(4, 4, 4, 89.7, 89.7, 89.7),
    "tetragonal, almost cubic": from_angles(4, 4, 4.002, 90, 90, 90),
    "body-centered tetragonal": from_angles(4, 4, 5.2, 90, 90, 90)
    - np.diag([0, 0, 2.6])
    + [[0] * 3, [0] * 3, [2, 2, 0]],
    "monoclinic, almost orthorhombic": from_angles(3.7, 4.1, 5, 90, 90.05, 90),
    "long and thin": from_angles(2.9, 3.3, 31, 80, 95, 101),
    "flat": from_angles(2.5, 9.7, 10.3, 90, 90, 97),
    "triclinic": from_angles(4.3, 5.1, 6.6, 71, 83, 64),
}
seeds = st.integers(0, 2**32 - 1)


def make(lattice, rng, n_sites, wobble, n_kinds=3):
    """A crystal with sites near distinct points of a grid, which makes special positions and symmetries likely."""
    grid = rng.choice(6**3, size=n_sites, replace=False)
    positions = np.stack(np.unravel_index(grid, (6, 6, 6)), 1) / 6 + wobble * rng.uniform(-1, 1, (n_sites, 3))
    return Crystal(np.asarray(lattice), positions, rng.integers(0, n_kinds, n_sites), KINDS, "made")


def repeated(crystal, matrix):
    """The same crystal in the supercell that the rows of an integer matrix give, found by search."""
    matrix = np.array(matrix)
    inverse = np.linalg.inv(matrix)
    corners = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 3), -1).reshape(-1, 3) @ inverse
    inside = corners[((corners > -1e-9) & (corners < 1 - 1e-9)).all(1)]
    assert len(inside) == abs(round(np.linalg.det(matrix)))
    positions = (crystal.positions @ inverse)[:, None] + inside
    return replace(
        crystal,
        lattice=matrix @ crystal.lattice,
        positions=positions.reshape(-1, 3),
        species=np.repeat(crystal.species, len(inside)),
    )


def disguised(crystal, rng, noise=0.0):
    """The same crystal turned, shifted, its sites shuffled and each number a little off."""
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn *= np.sign(np.linalg.det(turn))
    lattice = crystal.lattice @ turn
    order = rng.permutation(crystal.n_sites)
    positions = crystal.positions + rng.uniform(-3, 3, 3)
    positions = positions + noise * rng.uniform(-1, 1, positions.shape) @ np.linalg.inv(lattice)
    lattice = lattice + noise * rng.uniform(-1, 1, (3, 3))
    return replace(crystal, lattice=lattice, positions=positions[order] % 1, species=crystal.species[order])


def unimodular(rng):
    while True:
        matrix = rng.integers(-1, 2, (3, 3))
        if abs(round(np.linalg.det(matrix))) == 1:
            return matrix


def other_cells(crystal, rng, noise=0.0):
    """Six ways to write a crystal down."""
    matrices = [
        np.eye(3, dtype=int),
        unimodular(rng),
        unimodular(rng),
        np.diag([2, 2, 1]),
        np.diag([1, 1, 3]) @ unimodular(rng),
    ]
    matrices.append(np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]))
    return [disguised(repeated(crystal, matrix), rng, noise) for matrix in matrices]


def surroundings(crystal, max_sites=50):
    """All that a network sees: distances of each pair of species, and per site a smooth sum over its neighbors."""
    pairs = AllPairs(max_sites)(CrystalBatch.collate([crystal])).pairs
    center, neighbor, count = (t.numpy() for t in (pairs.center, pairs.neighbor, pairs.count))
    distance = pairs.distance.double().numpy()
    kind = crystal.species
    order = np.lexsort((distance, kind[neighbor], kind[center]))
    copies = count[order].astype(int)
    sees = np.stack([kind[center], kind[neighbor]], 1)[order].repeat(copies, 0)
    smooth = np.cos(0.9 * distance + kind[neighbor]) * np.exp(-distance / 4) * count
    site = np.bincount(center, smooth, minlength=len(kind))
    return sees, distance[order].repeat(copies), np.sort(site + 100 * kind)


def agree(one, other, within):
    return (
        one[0].shape == other[0].shape
        and (one[0] == other[0]).all()
        and all(np.abs(a - b).max() < within for a, b in zip(one[1:], other[1:], strict=True))
    )


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(NASTY)), seeds, st.integers(1, 6), st.sampled_from([0.0, 0.03]))
def test_every_cell_of_a_crystal_leads_to_the_same_pairs(name, seed, n_sites, wobble):
    rng = np.random.default_rng(seed)
    crystal = make(NASTY[name], rng, n_sites, wobble)
    first, *rest = [canonical(cell) for cell in other_cells(crystal, rng)]
    for other in rest:
        assert other.n_sites == first.n_sites
        assert agree(surroundings(first), surroundings(other), 1.2e-5)  # merging may round by 1e-5


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(NASTY)), seeds, st.integers(1, 6), st.sampled_from([0.0, 0.03]))
def test_noise_does_not_change_the_pairs(name, seed, n_sites, wobble):
    rng = np.random.default_rng(seed)
    crystal = make(NASTY[name], rng, n_sites, wobble)
    first, *rest = [canonical(cell) for cell in other_cells(crystal, rng, noise=1e-6)]
    for other in rest:
        assert agree(surroundings(first), surroundings(other), 5e-5)


@pytest.mark.parametrize("max_sites", [13, 50, 77])
@pytest.mark.parametrize("seed", range(4))
def test_axes_of_a_cube_that_the_content_makes_unequal_are_told_apart(seed, max_sites):
    # Layers along one axis of a cubic lattice: four sites repeat 3 x 2 x 2 times, and along which axis matters.
    rng = np.random.default_rng(seed)
    positions = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0.5, 0.5, 0.5]])
    layers = Crystal(NASTY["cubic"], positions, np.array([0, 0, 1, 1]), KINDS, "layers")
    turned = [replace(layers, positions=positions[:, axes]) for axes in ([0, 1, 2], [1, 2, 0], [2, 1, 0])]
    found = [surroundings(canonical(disguised(cell, rng)), max_sites) for cell in turned]
    assert agree(found[0], found[1], 1e-5)
    assert agree(found[0], found[2], 1e-5)


def test_without_a_canonical_cell_these_axes_would_be_confused():
    # Shows that the test above can fail.
    positions = np.array([[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0.5, 0.5, 0.5]])
    layers = Crystal(NASTY["cubic"], positions, np.array([0, 0, 1, 1]), KINDS, "layers")
    turned = [replace(layers, positions=positions[:, axes]) for axes in ([0, 1, 2], [1, 2, 0], [2, 1, 0])]
    first, *rest = [surroundings(cell) for cell in turned]
    assert not all(agree(first, other, 1e-5) for other in rest)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(NASTY)), seeds, st.integers(1, 8))
def test_size_and_lengths_are_those_of_spglib(name, seed, n_sites):
    rng = np.random.default_rng(seed)
    crystal = other_cells(make(NASTY[name], rng, n_sites, 0.0, n_kinds=2), rng)[rng.integers(6)]
    lattice, positions, _ = spglib.find_primitive((crystal.lattice, crystal.positions, crystal.species), symprec=1e-4)
    found = canonical(crystal)
    assert found.n_sites == len(positions)
    reduced = spglib.niggli_reduce(lattice)
    np.testing.assert_allclose(np.linalg.norm(found.lattice, axis=1), np.linalg.norm(reduced, axis=1), atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(NASTY)), seeds)
def test_it_is_the_same_crystal_and_not_its_mirror_image(name, seed):
    rng = np.random.default_rng(seed)
    crystal = make(NASTY[name], rng, 5, 0.1)
    crystal = replace(crystal, species=np.array([0, 1, 1, 1, 1]))  # the iron site marks the center
    cell = disguised(repeated(crystal, unimodular(rng)), rng)
    around, found = iron_nickel(cell), iron_nickel(canonical(cell))
    np.testing.assert_allclose(np.linalg.norm(around, axis=1), np.linalg.norm(found, axis=1), atol=1e-6)
    turn = np.linalg.lstsq(around, found, rcond=None)[0]
    np.testing.assert_allclose(around @ turn, found, atol=1e-5)
    assert np.linalg.det(turn) == pytest.approx(1, abs=1e-5)


def iron_nickel(crystal):
    """The eight shortest vectors from the iron site to nickel sites."""
    images = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), -1).reshape(-1, 3)
    iron = crystal.positions[crystal.species == 0]
    assert len(iron) == 1
    steps = ((crystal.positions[crystal.species == 1] - iron)[:, None] + images).reshape(-1, 3) @ crystal.lattice
    return steps[np.argsort((steps**2).sum(1))[:8]]


@pytest.mark.parametrize("name", sorted(NASTY))
def test_orientation_is_standard(name):
    rng = np.random.default_rng(0)
    lattice = canonical(disguised(make(NASTY[name], rng, 3, 0.1), rng)).lattice
    assert (lattice[np.triu_indices(3, 1)] == 0).all()
    assert (lattice.diagonal() > 0).all()
    lengths = np.linalg.norm(lattice, axis=1)
    assert (np.diff(lengths) > -1e-3).all()


def test_a_left_handed_cell_is_no_different():
    rng = np.random.default_rng(3)
    crystal = make(NASTY["triclinic"], rng, 4, 0.1)
    swapped = replace(crystal, lattice=crystal.lattice[[1, 0, 2]], positions=crystal.positions[:, [1, 0, 2]])
    assert agree(surroundings(canonical(crystal)), surroundings(canonical(swapped)), 1e-5)
    assert np.linalg.det(canonical(swapped).lattice) > 0


def halves(offset):
    """Two cells along x of a crystal with three sites, the second iron site moved along y, in angstrom."""
    single = Crystal(from_angles(4, 5, 6, 90, 90, 90), np.array([[0, 0, 0], [0.3, 0.4, 0.1]]), np.array([0, 1]), KINDS)
    double = repeated(single, np.diag([2, 1, 1]))
    moved = double.positions.copy()
    moved[1, 1] += offset / 5
    return replace(double, positions=moved)


def test_almost_equal_sites_become_their_average():
    merged = canonical(halves(0.008))
    assert merged.n_sites == 2
    iron, nickel = merged.positions[merged.species == 0][0], merged.positions[merged.species == 1][0]
    step = (nickel - iron) - np.rint(nickel - iron)
    assert np.linalg.norm(step @ merged.lattice) == pytest.approx(np.linalg.norm([1.2, 2 - 0.004, 0.6]), abs=1e-9)


def test_the_tolerance_decides():
    assert canonical(halves(0.02)).n_sites == 4
    assert canonical(halves(0.02), tolerance=0.05).n_sites == 2
    assert canonical(halves(0.008), tolerance=0.005).n_sites == 4


def test_translations_that_fit_only_one_by_one_are_no_symmetry():
    # Steps of a quarter move each site by 0.008 angstrom at most, but two of them move some by 0.016.
    positions = np.stack([np.arange(4) / 4, np.array([0, 0.008, 0.016, 0.008]) / 5, np.zeros(4)], 1)
    chain = Crystal(from_angles(16, 5, 6, 90, 90, 90), positions, np.zeros(4, dtype=int), (IRON,))
    assert canonical(chain).n_sites == 4
    assert canonical(chain, tolerance=0.02).n_sites == 1


def test_species_and_occupancies_keep_sites_apart():
    positions = np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    for kinds, size in (((IRON, NICKEL), 2), ((IRON, ALLOY), 2)):
        cell = Crystal(NASTY["cubic"], positions, np.array([0, 1]), kinds)
        assert canonical(cell).n_sites == size
    assert canonical(Crystal(NASTY["cubic"], positions, np.array([0, 0]), (ALLOY,))).n_sites == 1


def test_a_large_cell_keeps_its_composition_per_volume():
    rng = np.random.default_rng(5)
    crystal = make(NASTY["triclinic"], rng, 5, 0.05)
    found = canonical(disguised(repeated(crystal, np.diag([5, 5, 6])), rng))
    assert found.n_sites == 5
    assert found.volume == pytest.approx(crystal.volume)
    assert Counter(found.species.tolist()) == Counter(crystal.species.tolist())


def test_what_is_not_geometry_is_kept():
    crystal = replace(halves(0), key="mine", targets={"gap": 1.5})
    found = canonical(crystal)
    assert (found.key, found.targets, found.kinds) == ("mine", {"gap": 1.5}, KINDS)


def test_a_cell_without_volume_is_refused():
    flat = Crystal(np.diag([3.0, 3.0, 0.0]), np.zeros((1, 3)), np.zeros(1, dtype=int), (IRON,), "flat")
    with pytest.raises(ValueError, match="'flat' has a cell of 0 cubic angstrom"):
        canonical(flat)


@pytest.mark.parametrize("shear", [150, 10**3, 10**5])
@pytest.mark.parametrize("name", ["fcc", "long and thin", "triclinic"])
def test_a_cell_that_leans_far_is_reduced_in_no_time(name, shear):
    crystal = make(NASTY[name], np.random.default_rng(0), 1, 0.0)
    leaning = np.array([[1, 0, shear], [0, 1, -shear // 3], [0, 0, 1]])
    began = time.process_time()
    found = canonical(replace(crystal, lattice=leaning @ crystal.lattice))
    assert time.process_time() - began < 0.1
    np.testing.assert_allclose(found.lattice, canonical(crystal).lattice, atol=1e-3)
