"""Fingerprints: one structure has one, however it is written; another structure has another."""

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.crystal import Occupant
from crystalmax.fingerprint import TOLERANCE, Fingerprint, occur_in
from crystalmax.statistics.surroundings import CUTOFF
from crystals import (
    conventional_rock_salt,
    crystal,
    deficient_perovskite,
    metal,
    mixed,
    oblique,
    perovskite,
    pure,
    quartz,
    rewritten,
    rock_salt,
    some_crystals,
)


def cesium_chloride(kinds=("Na", "Cl")):
    return crystal("cesium chloride", 3.5 * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [0, 1], pure(*kinds))


def with_one_other_metal():
    """Rock salt with a metal so rare that its second neighbours of its kind are farther than what is told apart."""
    return replace(conventional_rock_salt(), species=np.array([2, 0, 0, 0, 1, 1, 1, 1]), kinds=pure("Na", "Cl", "K"))


@pytest.mark.parametrize("one", [perovskite(), deficient_perovskite(), with_one_other_metal()], ids=lambda one: one.key)
def test_it_is_the_mean_distances_of_neighbours_of_each_species_by_the_root_of_the_volume_per_atom(one):
    images = np.array(list(product(range(-3, 4), repeat=3)))
    unit, expected = (one.volume / sum(one.composition().values())) ** (1 / 3), []
    for kind, other in product(sorted(range(3), key=one.kinds.__getitem__), repeat=2):
        nearest = []
        for site in one.positions[one.species == kind]:
            around = (one.positions[one.species == other][:, None] + images - site) @ one.lattice
            away = np.sort(np.linalg.norm(around, axis=-1), axis=None)
            nearest.append(np.minimum(away[away > 1e-6][[0, 1, 2, 3, 5, 7, 11, 19]] / unit, 2.5))
        expected.append(np.mean(nearest, axis=0))
    occupancies = [share for kind in sorted(one.kinds) for _, share, _ in kind if share < 1]
    expected.append(occupancies)
    found = Fingerprint.of(one)
    np.testing.assert_allclose(found.distances, np.concatenate(expected))
    np.testing.assert_array_equal(found.hundredths, np.rint(100 * found.distances))  # none is too large for a byte


@given(st.data())
@pytest.mark.parametrize("one", some_crystals(), ids=lambda one: one.key)
def test_a_fingerprint_does_not_depend_on_how_a_crystal_is_written(one, data):
    other = data.draw(rewritten(one))
    np.testing.assert_allclose(Fingerprint.of(other).distances, Fingerprint.of(one).distances, atol=1e-6)
    assert Fingerprint.of(one).equals(Fingerprint.of(other))


@pytest.mark.parametrize("one", some_crystals(), ids=lambda one: one.key)
def test_small_relaxations_keep_the_structure(one):
    rng = np.random.default_rng(0)
    strained = one.lattice @ (1.02 * np.eye(3) + rng.uniform(-0.004, 0.004, (3, 3)))
    moved = one.positions + rng.normal(size=one.positions.shape) @ np.linalg.inv(one.lattice) * 0.01
    assert Fingerprint.of(one).equals(Fingerprint.of(replace(one, lattice=strained, positions=moved)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (rock_salt(), cesium_chloride()),
        (rock_salt(), rock_salt(kinds=("K", "Cl"))),
        (rock_salt(), rock_salt(kinds=("Cl", "F"))),
        (perovskite(), perovskite(kinds=pure("Ti", "Sr", "O"))),
        (rock_salt(kinds=("Fe", "Ni")), metal(mixed(Fe=0.5, Ni=0.5))),
        (quartz(), oblique()),
    ],
    ids=["other structure", "other metal", "other elements", "sites exchanged", "disorder", "anything else"],
)
def test_other_crystals_have_other_fingerprints(one, other):
    assert not Fingerprint.of(one).equals(Fingerprint.of(other))


@pytest.mark.parametrize(
    "states", [(2.0, 3.0), (3.0, 2.0), (3.0, None), (3.0, 3.0)], ids=["mixed", "exchanged", "in part", "alike"]
)
def test_charges_that_only_some_sources_give_change_nothing(states):
    fluoride = (Occupant(9, 1.0, None),)
    cells = (np.diag([4.0, 4.0, 8.0]), [[0, 0, 0], [0, 0, 0.5], [0.5, 0.5, 0.25]])
    charged = crystal("x", *cells, [0, 1, 2], (*((Occupant(26, 1.0, state),) for state in states), fluoride))
    assert Fingerprint.of(charged).equals(Fingerprint.of(crystal("y", *cells, [0, 0, 1], pure("Fe", "F"))))


def test_an_element_that_shares_a_site_with_itself_is_one_species():
    shared = tuple(Occupant(26, amount, state) for amount, state in ((0.7, 2.0), (0.2, 3.0), (0.1, 4.0)))
    one = replace(rock_salt(), kinds=(shared, *pure("O")))
    assert Fingerprint.of(one).equals(Fingerprint.of(rock_salt(kinds=("Fe", "O"))))
    beside_whole = replace(conventional_rock_salt(), species=np.array([0] * 2 + [1] * 2 + [2] * 4))
    beside_whole = replace(beside_whole, kinds=(shared, *pure("Fe", "O")))
    assert Fingerprint.of(beside_whole).equals(Fingerprint.of(rock_salt(kinds=("Fe", "O"))))


def test_how_sites_are_shared_belongs_to_the_structure():
    """Cations that have changed places, more or fewer of them: the formula and all distances are the same."""

    def changed(share):
        return replace(rock_salt(), kinds=(mixed(Na=1 - share, K=share), mixed(Na=share, K=1 - share)))

    assert Fingerprint.of(changed(0.2)).equals(Fingerprint.of(changed(0.22)))
    assert not Fingerprint.of(changed(0.2)).equals(Fingerprint.of(changed(0.4)))
    kinds = tuple(tuple(one._replace(oxidation_state=1.0) for one in kind) for kind in changed(0.2).kinds)
    assert Fingerprint.of(changed(0.2)).equals(Fingerprint.of(replace(rock_salt(), kinds=kinds)))
    nearly = replace(rock_salt(), kinds=(mixed(Na=0.9999), *pure("Cl")))  # as refinements give it
    assert Fingerprint.of(nearly).equals(Fingerprint.of(rock_salt()))


def test_the_tolerance_is_in_the_middle_between_relaxations_and_other_structures():
    one, other = Fingerprint.of(rock_salt()).distances, Fingerprint.of(cesium_chloride()).distances
    assert np.abs(one - other).max() > 2 * TOLERANCE


def test_occurrence_is_looked_up_by_structure():
    known = [Fingerprint.of(one) for one in (rock_salt(), perovskite())]
    asked = [Fingerprint.of(one) for one in (cesium_chloride(), rock_salt(5.7), quartz(), perovskite(4.0))]
    assert occur_in(asked, known).tolist() == [False, True, False, True]
    assert occur_in(asked, []).tolist() == [False] * 4
    assert occur_in([], known).tolist() == []


def packings(a):
    """Atoms of iron at distance a from each other."""
    iron, place = pure("Fe"), [[0, 0, 0]]
    hexagonal = a * np.array([[1, 0, 0], [-0.5, 0.75**0.5, 0], [0, 0, (8 / 3) ** 0.5]])
    return [
        crystal("body-centred", a * 0.75**-0.5 * np.eye(3), [*place, [0.5, 0.5, 0.5]], [0, 0], iron),
        crystal("cubic close", a * 0.5**0.5 * (1 - np.eye(3)), place, [0], iron),
        crystal("hexagonal close", hexagonal, [*place, [1 / 3, 2 / 3, 0.5]], [0, 0], iron),
        crystal("simple cubic", a * np.eye(3), place, [0], iron),
    ]


def test_packings_of_an_element_are_other_structures():
    for one, other in combinations(map(Fingerprint.of, packings(2.5)), 2):
        assert not one.equals(other)


@pytest.mark.parametrize("number", range(4))
def test_an_atom_that_comes_into_sight_changes_little(number):
    twentieth = ((8 / 3) ** 0.5, 3**0.5)[number % 2]
    one, other = (packings(far * CUTOFF / twentieth)[number] for far in (0.99, 1.01))
    assert Fingerprint.of(one).equals(Fingerprint.of(other))
