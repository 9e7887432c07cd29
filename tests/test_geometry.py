from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crystalmax.crystal import Crystal, CrystalBatch, Occupant
from crystalmax.geometry import AllPairs, FoundPairs, Geometry, merged, near_cubic, nearest_images, shortest_basis

KINDS = ((Occupant(8, 1.0),), (Occupant(22, 1.0),), (Occupant(56, 1.0),))
seeds = st.integers(0, 2**32 - 1)
CUBE = np.diag([4.0, 4.0, 4.0])


def one(lattice, positions, species=None):
    positions = np.array(positions, dtype=float).reshape(-1, 3)
    species = np.zeros(len(positions), dtype=int) if species is None else np.array(species)
    return Crystal(np.array(lattice, dtype=float), positions, species, KINDS)


PEROVSKITE = one(CUBE, [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5], [0.5, 0.5, 0.5], [0, 0, 0]], [0, 0, 0, 1, 2])


def drawn(seed, n_sites):
    """A crystal in a cell that may be skewed, but not flat."""
    rng = np.random.default_rng(seed)
    lattice = rng.uniform(2, 7, (3, 1)) * rng.normal(size=(3, 3))
    assume(abs(np.linalg.det(lattice)) > 0.15 * np.linalg.norm(lattice, axis=1).prod())
    return one(lattice, rng.uniform(-2, 2, (n_sites, 3)), rng.integers(0, 3, n_sites))


def looped(crystal, max_sites):
    """(center, neighbor, distance) by plain loops over the sites of the supercell and 7 x 7 x 7 images of each."""
    n_sites = crystal.n_sites
    matrix = near_cubic(torch.tensor(crystal.lattice)[None], torch.tensor([n_sites]), max_sites)[0].numpy()
    basis = shortest_basis(torch.tensor(matrix @ crystal.lattice)[None])[0].numpy()
    images = np.array(list(product(range(-3, 4), repeat=3))) @ basis
    pairs = []
    for center in range(n_sites):
        for neighbor in range(n_sites):
            for cell in product(*[range(repeat) for repeat in matrix.diagonal()]):
                step = (crystal.positions[neighbor] + cell - crystal.positions[center]) @ crystal.lattice
                step = (lambda f: f - np.rint(f))(step @ np.linalg.inv(basis)) @ basis
                if center != neighbor or any(cell):
                    pairs.append((center, neighbor, np.linalg.norm(step + images, axis=1).min()))
    return sorted(pairs)


def listed(batch):
    pairs = batch.pairs
    return [
        (int(c), int(n), float(d), int(m))
        for c, n, d, m in zip(pairs.center, pairs.neighbor, pairs.distance, pairs.count, strict=True)
    ]


@settings(deadline=None, max_examples=25)
@given(seeds, st.integers(1, 9), st.sampled_from([2, 12, 20]), st.booleans())
def test_pairs_are_those_of_plain_loops(seed, n_sites, max_sites, merge):
    crystal = drawn(seed, n_sites)
    expected = looped(crystal, max_sites)
    rows = listed(AllPairs(max_sites, merge)(CrystalBatch.collate([crystal])))
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    found = sorted((c, n, d) for c, n, d, m in rows for _ in range(m))
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose([row[2] for row in found], [row[2] for row in expected], atol=2e-5)


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.1, 12))
def test_nearest_images_are_the_nearest_of_many(seed, stretch):
    rng = np.random.default_rng(seed)
    lattice = np.linalg.qr(rng.normal(size=(3, 3)))[0] + rng.uniform(-0.4, 0.4, (3, 3))
    assume(abs(np.linalg.det(lattice)) > 0.1)
    skew = np.array([[1, 0, 0], [3, 1, 0], [-2, 4, 1]])
    lattice = torch.tensor(skew @ (lattice * [1, 1, stretch]))[None]
    basis = shortest_basis(lattice)
    volume = torch.linalg.det(lattice).abs()
    torch.testing.assert_close(torch.linalg.det(basis).abs(), volume)
    whole = basis @ torch.linalg.inv(lattice)
    torch.testing.assert_close(whole, whole.round(), atol=1e-6, rtol=0)
    steps = torch.tensor(rng.uniform(-3, 3, (3, 50)))
    found = nearest_images(steps, basis, torch.zeros(50, dtype=torch.int64))
    fractions = (found.T - steps.T @ basis[0]) @ torch.linalg.inv(basis[0])
    torch.testing.assert_close(fractions, fractions.round(), atol=1e-6, rtol=0)
    images = torch.tensor(list(product(range(-3, 4), repeat=3))).double() @ basis[0]
    rounded = (steps - steps.round()).T @ basis[0]
    nearest = (rounded[:, None] + images).norm(dim=2).amin(1)
    torch.testing.assert_close(found.norm(dim=0), nearest)


def test_a_perovskite_has_the_neighbors_that_its_drawing_shows():
    batch = AllPairs()(CrystalBatch.collate([PEROVSKITE]))
    rows = [row for row in listed(batch) if row[0] == 3]  # titanium, in 2 x 2 x 2 cells
    oxygen = [(d, m) for _, n, d, m in rows if n < 3]
    assert sum(m for d, m in oxygen if d == pytest.approx(2)) == 6
    assert [(d, m) for _, n, d, m in rows if n == 4] == [(pytest.approx(np.sqrt(12)), 8)]
    # Titanium at +4 and at -4 angstrom is one site of the supercell.
    edges = [(d, m) for _, n, d, m in rows if n == 3]
    assert edges == [(pytest.approx(4 * np.sqrt(s)), m) for s, m in ((1, 3), (2, 3), (3, 1))]


def test_a_single_site_sees_its_own_images():
    rows = listed(AllPairs()(CrystalBatch.collate([one(CUBE, [0, 0, 0])])))
    assert sum(m for *_, m in rows) == 47  # 4 x 4 x 3 cells
    assert rows[0] == (0, 0, pytest.approx(4), 6)
    assert [m for *_, m in listed(AllPairs(2)(CrystalBatch.collate([one(CUBE, [0, 0, 0])])))] == [1]


@settings(deadline=None, max_examples=10)
@given(seeds, st.lists(st.integers(1, 12), min_size=2, max_size=4))
def test_crystals_do_not_see_each_other(seed, sizes):
    crystals = [drawn(seed + number, size) for number, size in enumerate(sizes)]
    together = listed(AllPairs(20)(CrystalBatch.collate(crystals)))
    apart, first = [], 0
    for crystal in crystals:
        rows = listed(AllPairs(20)(CrystalBatch.collate([crystal])))
        apart += [(c + first, n + first, d, m) for c, n, d, m in rows]
        first += crystal.n_sites
    assert [row[:2] + row[3:] for row in together] == [row[:2] + row[3:] for row in apart]
    np.testing.assert_allclose([row[2] for row in together], [row[2] for row in apart], atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seeds, st.integers(1, 12), st.integers(2, 60))
def test_a_center_sees_every_other_site_of_the_supercell_once(seed, n_sites, max_sites):
    batch = AllPairs(max_sites)(CrystalBatch.collate([drawn(seed, n_sites)]))
    seen = torch.bincount(batch.pairs.center, batch.pairs.count, minlength=n_sites)
    assert (seen == seen[0]).all()
    assert (int(seen[0]) + 1) % n_sites == 0
    assert int(seen[0]) + 1 <= max(max_sites, n_sites)


def test_a_crystal_larger_than_allowed_is_its_own_supercell():
    crystal = one(6 * np.eye(3), np.random.default_rng(7).random((9, 3)), np.arange(9) % 3)
    assert sum(m for *_, m in listed(AllPairs(8)(CrystalBatch.collate([crystal])))) == 9 * 8


@settings(deadline=None, max_examples=20)
@given(seeds, st.integers(2, 6))
def test_displacements_point_from_center_to_neighbor_and_lie_on_the_lattice(seed, n_sites):
    crystal = drawn(seed, n_sites)
    batch = AllPairs()(CrystalBatch.collate([crystal]))
    pairs = batch.pairs
    step = batch.positions[pairs.neighbor] - batch.positions[pairs.center]
    cells = pairs.displacement.double() @ torch.linalg.inv(batch.lattice[0]) - step
    torch.testing.assert_close(cells, cells.round(), atol=1e-4, rtol=0)


def test_equal_distances_share_a_row_and_others_do_not():
    # Two neighbors that differ by 4e-6 angstrom merge with both their images, by 4e-3 they do not.
    for gap, rows in ((4e-6, 1), (4e-3, 2)):
        crystal = one(np.diag([4.0, 4.0 + gap, 40.0]), [0, 0, 0])
        near = [row for row in listed(AllPairs(9)(CrystalBatch.collate([crystal]))) if row[2] < 5]
        assert len(near) == rows
        assert sum(m for *_, m in near) == 4


def test_near_cubic_repeats_the_shortest_axis_and_stops_at_the_limit():
    lattices = torch.tensor(np.stack([np.diag([4.0, 4.0, 4.0]), np.diag([3.0, 4.0, 13.0]), np.diag([2.0, 9.0, 9.0])]))
    found = near_cubic(lattices, torch.tensor([5, 2, 51]), 50)
    # 3 x 2 x 2 cells would hold 60 sites; at 15 x 16 x 13 angstrom the third would be next, with too many sites;
    # the last cell is too large as it is.
    assert found.diagonal(dim1=1, dim2=2).tolist() == [[2, 2, 2], [5, 4, 1], [1, 1, 1]]


def test_near_cubic_shears_back():
    # The second vector leans by 0.4 of the third, twice the second by 0.8, so one of the third is taken off.
    lattice = torch.tensor([[[6.0, 0, 0], [0, 4, 0], [0, 0, 4]]]).double()
    shear = torch.tensor([[1.0, 0, 0], [0, 1, 0.4], [0, 0, 1]]).double()
    found = near_cubic(shear @ lattice, torch.tensor([1]), 11)[0]
    assert found.tolist() == [[2, 0, 0], [0, 2, -1], [0, 0, 2]]


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 12), st.integers(2, 60))
def test_near_cubic_fits_and_ignores_signs_orientation_and_noise(seed, n_sites, max_sites):
    crystal = drawn(seed, n_sites)
    rng = np.random.default_rng(seed)
    sign = np.diag(rng.choice([-1, 1], 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    lattices = np.stack([crystal.lattice, crystal.lattice @ turn, sign @ crystal.lattice])
    found = near_cubic(torch.tensor(lattices), torch.full((3,), n_sites), max_sites).numpy()
    assert round(np.linalg.det(found[0])) * n_sites <= max(max_sites, n_sites)
    assert (found[0] == found[1]).all()
    assert (found[0] == sign @ found[2] @ sign).all()


@pytest.mark.parametrize("angles", [(60, 60, 60), (90, 90, 120), (90, 90, 90), (109.4712206, 109.4712206, 109.4712206)])
def test_noise_decides_no_tie(angles):
    ca, cb, cg = np.cos(np.radians(angles))
    lattice = np.linalg.cholesky(np.array([[1, cg, cb], [cg, 1, ca], [cb, ca, 1]]) * 9)
    rng = np.random.default_rng(0)
    noisy = torch.tensor(lattice + rng.uniform(-1e-6, 1e-6, (200, 3, 3)))
    for n_sites in (1, 2, 3, 4, 5):
        found = near_cubic(noisy, torch.full((200,), n_sites), 50)
        assert (found == found[0]).all()


def test_result_is_float32_and_the_batch_is_otherwise_the_same():
    batch = CrystalBatch.collate([PEROVSKITE])
    found = AllPairs()(batch)
    assert batch.pairs is None
    assert found.lattice is batch.lattice
    assert found.pairs.displacement.dtype == found.pairs.count.dtype == torch.float32
    assert found.pairs.center.dtype == found.pairs.neighbor.dtype == torch.int64


def test_it_is_a_geometry_and_refuses_room_for_one_site():
    assert isinstance(AllPairs(), Geometry)
    with pytest.raises(ValueError, match="max_sites is 1; a site needs room for a neighbor"):
        AllPairs(1)
    geometry = AllPairs()
    object.__setattr__(geometry, "max_sites", 50.0)  # the types are checked where tests make one
    with pytest.raises(ValueError, match=r"max_sites is 50\.0; .* give a whole number"):
        geometry.__post_init__()


def test_pairs_of_a_very_large_batch_are_merged_as_those_of_a_small_one():
    n = 140_000  # squared, it leaves no room in 64 bits for a distance
    every = torch.arange(n)
    batch = CrystalBatch(
        lattice=torch.eye(3).double().expand(n, 3, 3),
        positions=torch.zeros(n, 3, dtype=torch.float64),
        species=torch.zeros(n, dtype=torch.int64),
        kinds=torch.ones(1, 105),
        crystal_of_site=every,
    )
    displacement = torch.tensor([[3.0], [0.0], [0.0]], dtype=torch.float64).expand(3, n)
    pairs = merged(batch, FoundPairs(every, every, displacement), displacement[0])
    assert torch.equal(pairs.center, every)
    assert set(pairs.count.tolist()) == {1.0}
