"""Bands equal what textbooks and naive loops give, for every element, disordered and large cells included."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax import elements
from crystalmax.cells import canonical
from crystalmax.crystal import Crystal, Occupant
from crystalmax.elements import ATOMIC_NUMBERS
from crystalmax.statistics import bands
from crystalmax.statistics.bands import of_bands, overlaps, overlaps_of, shells_of
from crystals import deficient_perovskite, metal, mixed, oblique, perovskite, pure, rock_salt

APART = 30.0
"""Edge of a cell, in angstrom, whose images are out of reach."""


def in_a_box(positions, kind):
    positions = np.array(positions, dtype=float) / APART
    return Crystal(APART * np.eye(3), positions, np.zeros(len(positions), dtype=int), kind, "in a box")


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.tuples(*[st.floats(0.15, 1.5)] * 2),
    st.tuples(*[st.floats(-2, 2)] * 3),
)
def test_functions_overlap_as_integrals_on_a_grid_say(degrees, exponents, shift):
    axis, step = np.linspace(-11, 11, 67, retstep=True)
    x = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    values = []
    for degree, exponent, centre in zip(degrees, exponents, (np.zeros(3), np.array(shift)), strict=True):
        apart = x - centre[:, None, None, None]
        radial = np.exp(-exponent * (apart**2).sum(axis=0))
        for harmonic in bands._HARMONICS[degree]:
            terms = [count * np.prod(apart.T**powers, axis=-1).T for powers, count in harmonic.items()]
            function = sum(terms) * radial
            values.append(function / np.sqrt((function**2).sum() * step**3))
    first = 2 * degrees[0] + 1
    one, other = (np.reshape(each, (len(each), -1)) for each in (values[:first], values[first:]))
    found = overlaps(degrees, np.array([exponents]), np.array([shift]))[0]
    np.testing.assert_allclose(found, one @ other.T * step**3, atol=1e-4)


def test_overlaps_are_sums_over_images_with_their_phases():
    crystal = Crystal(
        np.array([[3.1, 0, 0], [0.4, 3.4, 0], [-0.3, 0.5, 3.9]]),
        np.array([[0.1, 0.2, 0.3], [0.6, 0.55, 0.7]]),
        np.array([0, 1]),
        pure("O", "Ti"),
        "oblique",
    )
    shells = shells_of(crystal)
    found = overlaps_of(crystal, shells)
    starts = np.cumsum([0, *(2 * shells.degree + 1)])
    images = np.array(list(product(range(-4, 5), repeat=3)))
    for wave, k in enumerate(product((0, 0.5), repeat=3)):
        expected = np.zeros(found.shape[1:])
        for i, j in product(range(len(shells.degree)), repeat=2):
            fractional = crystal.positions[shells.site[j]] - crystal.positions[shells.site[i]] + images
            pairs = np.tile([shells.exponent[i], shells.exponent[j]], (len(images), 1))
            apart, (a, b) = fractional @ crystal.lattice, pairs[0]
            each = overlaps((int(shells.degree[i]), int(shells.degree[j])), pairs, apart)
            near = a * b / (a + b) * (apart**2).sum(axis=1) < bands.CAUGHT
            total = np.einsum("n,nab->ab", near * np.cos(2 * np.pi * images @ k), each)
            expected[starts[i] : starts[i + 1], starts[j] : starts[j + 1]] = total
        np.testing.assert_allclose(found[wave], expected, atol=1e-12)


def test_two_hydrogen_atoms_have_the_levels_of_textbooks():
    numbers = of_bands(in_a_box([[0, 0, 0], [0.9, 0, 0]], pure("H")))
    ((_, level, _, width),) = bands._of_atom(1)
    overlap = np.exp(-0.75 / width**2 * 0.9**2 / 2)
    bonding, antibonding = (level * (1 + sign * bands.STRENGTH * overlap) / (1 + sign * overlap) for sign in (1, -1))
    assert numbers["gap of bands"] == pytest.approx(antibonding - bonding)
    assert numbers["middle of the gap of bands"] == pytest.approx((antibonding + bonding) / 2)
    assert numbers["energy of bands less that of atoms"] == pytest.approx(bonding - level)
    assert numbers["spread of filled bands"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("least", [0.03, 0.3])
def test_levels_solve_for_combinations_that_overlap_enough(least):
    rng = np.random.default_rng(0)
    axes, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    overlap = axes @ np.diag([least, 0.5, 0.7, 0.9, 1.2, 1.5]) @ axes.T
    level = -rng.uniform(5, 20, 6)
    energy = bands.STRENGTH / 2 * (level[:, None] + level) * overlap
    np.fill_diagonal(energy, bands.STRENGTH * level * np.diag(overlap) + (1 - bands.STRENGTH) * level)
    kept = axes if least > bands.LEAST_OVERLAP else axes[:, 1:]
    solved = np.linalg.eigvals(np.linalg.solve(kept.T @ overlap @ kept, kept.T @ energy @ kept))
    np.testing.assert_allclose(bands._levels(overlap, level), np.sort(solved.real))


def test_atoms_out_of_reach_keep_their_levels():
    numbers = of_bands(in_a_box([[0, 0, 0], [15, 15, 15]], pure("Ne")))
    levels = {degree: level for degree, level, _, _ in bands._of_atom(10)}
    assert numbers["energy of bands less that of atoms"] == pytest.approx(0, abs=1e-9)
    assert numbers["spread of filled bands"] == pytest.approx((levels[1] - levels[0]) * np.sqrt(2 * 6) / 8)


def test_salt_has_a_gap_and_iron_has_none():
    salt, iron = of_bands(rock_salt()), of_bands(metal(pure("Fe")[0], a=2.87))
    assert salt["direct gap of bands"] >= salt["gap of bands"] > 3
    assert iron["gap of bands"] < 1
    assert iron["logarithm of states at the middle of the gap"] > salt["logarithm of states at the middle of the gap"]
    assert iron["energy of bands less that of atoms"] < 0


@pytest.mark.parametrize("pair", ["Mg Zn", "Ca Cd", "Sr Hg"])
def test_the_gap_of_an_alloy_lies_between_those_of_its_ends_where_one_has_a_closed_shell_that_the_other_lacks(pair):
    a, b = pair.split()
    kinds = *pure(a, b), mixed(**{a: 0.75, b: 0.25})
    one, other, alloy = (of_bands(replace(rock_salt(), kinds=(kind, *pure("O"))))["gap of bands"] for kind in kinds)
    assert min(one, other) < alloy < max(one, other)


@pytest.mark.parametrize(("symbol", "edge", "gap"), [("Ne", 4.43, 13.6), ("Ar", 5.26, 10.4)])
def test_noble_gases_have_the_widest_gaps_which_are_those_of_the_pages(symbol, edge, gap):
    gas, salt = of_bands(metal(*pure(symbol), a=edge)), of_bands(rock_salt())
    assert gas["gap of bands"] == gas["direct gap of bands"] > salt["gap of bands"]
    assert gas["gap of bands"] == pytest.approx(gap, abs=0.05)
    assert gas["logarithm of states at the middle of the gap"] < 1e-3


@pytest.mark.parametrize("kind", [*pure("Na", "Al"), mixed(Mg=0.5, Al=0.5)])
def test_electrons_that_are_odd_or_no_whole_number_leave_no_gap(kind):
    found = of_bands(metal(kind, a=4.2))
    assert found["gap of bands"] == found["direct gap of bands"] == 0


@pytest.mark.parametrize(
    ("symbol", "shells"),
    [
        ("C", [(0, 2, 0.9), (1, 2, 0.9)]),
        ("Na", [(0, 1, 0.9), (1, 0, 1.25)]),
        ("Cu", [(0, 1, 0.9), (1, 0, 1.25), (2, 10, 0.396)]),
        ("Pd", [(0, 0, 0.9), (1, 0, 1.25), (2, 10, 0.468)]),
        ("W", [(0, 2, 0.9), (1, 0, 1.25), (2, 4, 0.54)]),
        ("Pr", [(0, 2, 0.9), (1, 0, 1.25), (2, 0, 0.75), (3, 3, 0.2304)]),
        ("Md", [(0, 2, 0.9), (1, 0, 1.25), (2, 0, 0.75), (3, 13, 0.2304)]),
    ],
)
def test_shells_of_free_atoms_and_those_that_only_a_crystal_fills(symbol, shells):
    z = ATOMIC_NUMBERS[symbol]
    radius, found = elements.columns("radius")[0, z - 1], bands._of_atom(z)
    assert [(degree, held) for degree, _, held, _ in found] == [(degree, held) for degree, held, _ in shells]
    assert [width / radius for *_, width in found] == pytest.approx([width for *_, width in shells])
    for (_, level, held, _), of_s in zip(found[1:], (0.4, 0.75), strict=False):
        assert level == pytest.approx(of_s * found[0][1]) or held


@pytest.mark.parametrize(
    "one",
    [
        *(rock_salt(), perovskite(), deficient_perovskite(), metal(*pure("Na"), a=4.2)),
        replace(metal(mixed(Na=0.7)), lattice=oblique().lattice),
    ],
    ids=["salt", "perovskite", "deficient", "odd", "a level filled in part"],
)
def test_levels_are_filled_from_below_and_their_numbers_are_sums_over_them(one):
    primitive = canonical(one)
    shells = shells_of(primitive)
    each = [
        bands._levels(overlap, np.repeat(shells.level, 2 * shells.degree + 1))
        for overlap in overlaps_of(primitive, shells)
    ]
    room, left, held = 2 / len(each), shells.electrons.sum(), []
    levels = sorted(np.concatenate(each))
    for _ in levels:
        held.append(min(room, left))
        left -= held[-1]
    highest = max(n for n, amount in enumerate(held) if amount > 1e-6)
    above = levels[highest + 1] if held[highest] > room - 1e-6 else levels[highest]
    middle, energy = (levels[highest] + above) / 2, np.dot(held, levels)
    states = room * sum(np.exp(-((level - middle) ** 2) / 2) for level in levels) / (2 * np.pi) ** 0.5
    mean = energy / sum(held)
    spread = np.dot(held, (np.array(levels) - mean) ** 2) / sum(held)
    found, n_sites = of_bands(one), primitive.n_sites
    assert found["middle of the gap of bands"] == pytest.approx(middle)
    assert found["logarithm of states at the middle of the gap"] == pytest.approx(np.log(1 + states / n_sites))
    free = np.dot(shells.electrons, shells.level)
    assert found["energy of bands less that of atoms"] == pytest.approx((energy - free) / n_sites)
    assert found["spread of filled bands"] == pytest.approx(spread**0.5)


@pytest.mark.parametrize("z", range(1, 104))
def test_every_element_has_bands(z):
    crystal = metal((Occupant(z, 1.0),), a=4.0)
    assert np.isfinite(list(of_bands(crystal).values())).all()
    assert shells_of(crystal).electrons.sum() > 0


@pytest.mark.parametrize("occupancy", [1.0, 0.5, 1e-6, 1e-9])
def test_shells_of_a_shared_site_are_means_by_occupancy(occupancy):
    shared = metal((Occupant(26, 0.75 * occupancy), Occupant(28, 0.25 * occupancy)), a=2.8)
    iron, nickel = (np.array(bands._of_atom(z)) for z in (26, 28))
    shells, (degree, level, held, width) = shells_of(shared), (0.75 * iron + 0.25 * nickel).T
    np.testing.assert_array_equal(shells.degree, degree)
    np.testing.assert_allclose(shells.level, level)
    np.testing.assert_allclose(shells.electrons, occupancy * held)
    np.testing.assert_allclose(shells.exponent, (2 * degree + 3) / 4 / width**2)
    assert np.isfinite(list(of_bands(shared).values())).all()


def test_phases_and_then_overlaps_are_left_out_of_large_cells(monkeypatch):
    n_functions = len(overlaps_of(rock_salt(), shells_of(rock_salt()))[0])
    assert len(overlaps_of(rock_salt(), shells_of(rock_salt()))) == 8
    monkeypatch.setattr(bands, "MOST_WITH_PHASES", n_functions - 1)
    assert len(overlaps_of(rock_salt(), shells_of(rock_salt()))) == 1
    monkeypatch.setattr(bands, "MOST_COUPLED", n_functions - 1)
    monkeypatch.delattr(bands, "eigh")  # takes minutes where all levels are known
    alone = of_bands(rock_salt())
    shells = shells_of(rock_salt())
    assert alone["energy of bands less that of atoms"] <= 0
    assert alone["middle of the gap of bands"] in {(a + b) / 2 for a in shells.level for b in shells.level}
