"""Neighbors against plain loops, other programs, and what must not matter."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import Geometry
from crystalmax.neighbors import Neighbors
from crystalmax.spec import build, describe
from crystals import metal, oblique, perovskite, pure, quartz, random_crystals, rewritten, rock_salt, some_crystals


def neighbors(crystals, *arguments, **options):
    return Neighbors(*arguments, **options)(CrystalBatch.collate(crystals))


def listed(batch):
    """(center, neighbor, displacement) of every single pair."""
    pairs = batch.pairs
    columns = (pairs.center, pairs.neighbor, pairs.displacement)
    return [(c, n, tuple(v)) for c, n, v in zip(*(column.tolist() for column in columns), strict=True)]


def looped(crystal, cutoff, most=None):
    """(center, neighbor, displacement) by loops over sites and 13 x 13 x 13 cells, nearest first for each center."""
    found = []
    for center in range(crystal.n_sites):
        around = []
        for neighbor, cell in product(range(crystal.n_sites), product(range(-6, 7), repeat=3)):
            fraction = crystal.positions[neighbor] + cell - crystal.positions[center]
            vector = fraction @ crystal.lattice
            if np.linalg.norm(vector) > 1e-3:
                around.append((np.linalg.norm(vector), neighbor, tuple(vector)))
        around.sort()
        limit = max(cutoff, around[0][0] + 1e-3)
        if most is not None:
            limit = min(limit, around[most - 1][0] + 1e-3)
        found += [(center, neighbor, vector) for distance, neighbor, vector in around if distance <= limit]
    return found


def ordered(rows):
    return sorted((c, n, *np.round(v, 3) + 0.0) for c, n, v in rows)


@settings(max_examples=12)
@given(random_crystals(max_sites=3), st.sampled_from([(0.5, None), (4.2, None), (4.2, 5), (6.1, 12), (6.1, 1)]))
def test_neighbors_are_those_of_plain_loops(crystal, how):
    batch = neighbors([crystal], *how, merge=False)
    np.testing.assert_allclose(ordered(listed(batch)), ordered(looped(crystal, *how)), atol=2e-3)
    assert torch.equal(batch.pairs.count, torch.ones(len(batch.pairs.center)))


@pytest.mark.parametrize("cutoff", [3.4, 5.3])
def test_neighbors_are_those_that_ase_finds(cutoff):
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    for crystal in (quartz(), oblique(), perovskite()):
        batch = neighbors([crystal], cutoff, merge=False)
        atoms = Atoms("H" * crystal.n_sites, scaled_positions=crystal.positions, cell=crystal.lattice, pbc=True)
        i, j, vectors = neighbor_list("ijD", atoms, cutoff)
        expected = ordered(zip(i.tolist(), j.tolist(), vectors.tolist(), strict=True))
        np.testing.assert_allclose(ordered(listed(batch)), expected, atol=2e-3)


def test_pairs_are_grouped_by_center_nearest_first():
    pairs = neighbors(some_crystals(), 5.0, merge=False).pairs
    assert (pairs.center.diff() >= 0).all()
    assert (pairs.distance.diff()[pairs.center.diff() == 0] > -1e-5).all()


def test_a_site_with_nothing_near_has_its_nearest_shell():
    assert isinstance(Neighbors(), Geometry)
    batch = neighbors([metal(pure("Xe")[0], a=12.0), rock_salt()], 3.0, merge=False)
    xenon = batch.pairs.distance[batch.pairs.center == 0]
    assert len(xenon) == 12
    torch.testing.assert_close(xenon, torch.full((12,), 12 / 2**0.5))
    assert torch.bincount(batch.pairs.center).tolist() == [12, 6, 6]


@pytest.mark.parametrize(("most", "found"), [(1, 6), (6, 6), (7, 18), (18, 18), (19, 26)])
def test_equally_near_neighbors_are_taken_together(most, found):
    shells = neighbors([rock_salt()], 8.0, most, merge=False)
    assert torch.bincount(shells.pairs.center).tolist() == [found, found]


def test_periodic_images_are_neighbors_of_their_own():
    cubic = neighbors([perovskite(a=4.0)], 4.1, merge=False)
    of_titanium = cubic.pairs.neighbor[cubic.pairs.center == 1]
    assert torch.bincount(of_titanium).tolist() == [8, 6, 2, 2, 2]  # its own six images at +a and -a among them
    merged = neighbors([perovskite(a=4.0)], 4.1)
    row = (merged.pairs.center == 1) & (merged.pairs.neighbor == 1)
    assert merged.pairs.count[row].tolist() == [6.0]


@pytest.mark.parametrize(("a", "images"), [(4.0, 6), (4.0001, 6), (4.0005, 0)])
def test_a_shell_at_the_radius_is_within_it_whatever_the_last_digits(a, images):
    pairs = neighbors([perovskite(a=a)], 4.0, merge=False).pairs
    assert ((pairs.center == 1) & (pairs.neighbor == 1)).sum() == images


@given(st.lists(random_crystals(), min_size=1, max_size=4), st.sampled_from([None, 3]))
def test_merged_rows_count_what_single_rows_list(crystals, most):
    merged, single = neighbors(crystals, 4.5, most), neighbors(crystals, 4.5, most, merge=False)
    assert merged.pairs.count.sum() == len(single.pairs.center)
    for power in (1, 2):
        sums = [
            torch.zeros(batch.n_sites).index_add(0, batch.pairs.center, batch.pairs.count * batch.pairs.distance**power)
            for batch in (merged, single)
        ]
        torch.testing.assert_close(*sums)


@given(st.lists(random_crystals(), min_size=2, max_size=4), st.sampled_from([None, 6]))
def test_crystals_do_not_see_each_other(crystals, most):
    together, first, apart = listed(neighbors(crystals, 4.0, most)), 0, []
    for crystal in crystals:
        apart += [(c + first, n + first, v) for c, n, v in listed(neighbors([crystal], 4.0, most))]
        first += crystal.n_sites
    assert [row[:2] for row in together] == [row[:2] for row in apart]


@given(st.sampled_from(some_crystals()).flatmap(lambda one: st.tuples(st.just(one), rewritten(one))))
def test_the_choice_of_cell_does_not_matter(both):
    """Each site sees the same species at the same distances; 5.64 angstrom is a shell of rock salt."""
    seen = []
    for crystal in both:
        batch = neighbors([crystal], 5.64, 12)
        pairs, species = batch.pairs, batch.species
        columns = (species[pairs.center], species[pairs.neighbor], pairs.count, pairs.distance)
        around = [[] for _ in range(batch.n_sites)]
        for site, center, neighbor, count, distance in zip(pairs.center.tolist(), *map(list, columns), strict=True):
            around[site] += [(int(center), int(neighbor), round(float(distance), 2))] * int(count)
        seen.append([sorted(rows) for rows in around])
    one, other = seen
    times = len(other) // len(one)
    assert [len(rows) for rows in sorted(one * times)] == [len(rows) for rows in sorted(other)]
    a, b = (np.array([row for rows in sorted(many) for row in rows]) for many in (one * times, other))
    np.testing.assert_allclose(a, b, atol=0.011)


def test_what_the_batch_held_is_left_as_it_is():
    batch = CrystalBatch.collate(some_crystals())
    before = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    found = Neighbors(5.0, 4)(batch)
    assert batch.pairs is None
    assert all(torch.equal(getattr(found, name), value) for name, value in before.items())
    assert found.pairs.displacement.dtype == found.pairs.count.dtype == torch.float32


def test_a_skewed_cell_and_sites_far_outside_it_change_nothing():
    crystal = oblique()
    skewed = np.array([[1, 0, 0], [5, 1, 0], [-3, 4, 1]])
    far = replace(
        crystal,
        lattice=skewed @ crystal.lattice,
        positions=crystal.positions @ np.linalg.inv(skewed) + [[3, -7, 2], [0, 0, 9], [1, 1, 1], [-4, 0, 0]],
    )
    a, b = (ordered(listed(neighbors([one], 5.0, merge=False))) for one in (crystal, far))
    np.testing.assert_allclose(a, b, atol=2e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "cutoff is 0.0; give a radius above 0"),
        ((math.inf, 12), "cutoff is inf; give a radius .* finite"),
        ((5.0, 0), "max_neighbors is 0; give at least 1"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Neighbors(*arguments)


def test_it_is_described_and_built():
    geometry = Neighbors(7.0, 12, merge=False)
    assert describe(geometry)["use"] == "Neighbors"
    assert build(describe(geometry)) == geometry
