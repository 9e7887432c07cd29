"""What electrons say, against chemistry that everyone knows and a loop over all assignments."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax import elements
from crystalmax.elements import ATOMIC_NUMBERS, N_ELEMENTS
from crystalmax.statistics import electrons

BALANCE = "charge that does not balance"


def fractions(**atoms):
    found = np.zeros(N_ELEMENTS)
    for symbol, count in atoms.items():
        found[ATOMIC_NUMBERS[symbol] - 1] = count
    return found / found.sum()


def value(symbol, name):
    return electrons.table()[ATOMIC_NUMBERS[symbol] - 1, electrons.FEATURES.index(name)]


def test_every_element_has_every_feature_and_none_can_be_edited():
    assert electrons.table().shape == (N_ELEMENTS, len(electrons.FEATURES))
    assert np.isfinite(electrons.table()).all()
    with pytest.raises(ValueError, match="read-only"):
        electrons.table()[0, 0] = 1


@pytest.mark.parametrize(
    ("symbol", "feature", "expected"),
    [
        *(("Fe", "d_electrons", 6), ("Fe", "s_electrons", 2), ("Fe", "d_holes", 4), ("Cr", "s_holes", 1)),
        *(("O", "p_holes", 2), ("O", "d_holes", 0), ("Gd", "f_electrons", 7), ("Hf", "f_electrons", 0)),
        *(("Pd", "valence_electrons", 10), ("Pd", "s_electrons", 0), ("Ga", "d_electrons", 0)),
        *(("Cl", "electron_affinity", 3.6127), ("Na", "second_ionization_energy", 47.286)),
        *(("W", "melting_point", 3695.0), ("F", "highest_level", -11.31), ("H", "mendeleev_number", 103)),
    ],
)
def test_known_values(symbol, feature, expected):
    assert value(symbol, feature) == pytest.approx(expected)


def test_electrons_of_the_main_groups_are_those_of_the_group():
    group = elements.table()[:, elements.FEATURES.index("group")]
    counted = electrons.table()[:, electrons.FEATURES.index("valence_electrons")]
    main = np.flatnonzero((group <= 2) | (group >= 13)).tolist()
    expected = [2 if z == 1 else group[z] - (10 if group[z] > 2 else 0) for z in main]
    np.testing.assert_array_equal(counted[main], expected)


def test_shells_hold_what_the_table_counts():
    for symbol, z in ATOMIC_NUMBERS.items():
        held = sum(shell.electrons for shell in electrons.shells(z))
        assert held >= value(symbol, "valence_electrons"), symbol
        assert all(0 <= shell.electrons <= shell.capacity for shell in electrons.shells(z)), symbol


@pytest.mark.parametrize(
    ("atoms", "balance", "highest", "lowest"),
    [
        ({"Na": 1, "Cl": 1}, 0, 1, -1),
        ({"Ti": 1, "O": 2}, 0, 4, -2),
        ({"Ga": 1, "As": 1}, 0, 3, -3),
        ({"Na": 1, "Cl": 2}, 1 / 3, 1, -1),
        ({"Cu": 2, "O": 1}, 0, 1, -2),
        ({"V": 2, "O": 3}, 0, 3, -2),
        ({"U": 1, "O": 2}, 0, 4, -2),
        ({"Pb": 1, "Te": 1}, 0, 2, -2),
        ({"Mo": 1, "Te": 2}, 0, 4, -2),
        ({"Ni": 3, "Al": 1}, electrons.UNBALANCED, 0, 0),
        ({"Na": 1, "Tl": 1}, electrons.UNBALANCED, 0, 0),
        ({"C": 1}, electrons.UNBALANCED, 0, 0),
        ({"Cu": 1}, electrons.UNBALANCED, 0, 0),
        ({"Ar": 1}, 0, 0, 0),
    ],
)
def test_charges_balance_in_salts_and_not_in_alloys(atoms, balance, highest, lowest):
    found = electrons.charges(fractions(**atoms))
    assert found[BALANCE] == pytest.approx(balance)
    assert (found["highest oxidation state"], found["lowest oxidation state"]) == (highest, lowest)
    assert found["no charges"] == (balance == electrons.UNBALANCED)


def test_electrons_that_are_needed_and_given():
    rutile, monoxide = (electrons.charges(fractions(Ti=1, O=count)) for count in (2, 1))
    name = "electrons needed beyond the most that are given"
    assert rutile[name] == pytest.approx(0)
    assert monoxide[name] == pytest.approx((2 - 4) / 2)
    hydride, oxide, fluoride = (
        electrons.charges(fractions(**atoms)) for atoms in ({"Li": 1, "H": 1}, {"Cu": 2, "O": 1}, {"O": 1, "F": 2})
    )
    assert hydride[name] == pytest.approx(0)
    assert oxide[name] == pytest.approx((2 - 2 * 2) / 3)  # the rarer element may be the one that takes
    assert fluoride[name] == pytest.approx(2 / 3)  # oxygen gives none


COMPOSITIONS = st.dictionaries(
    st.sampled_from(["Li", "Mg", "Fe", "O", "S", "Cl", "N", "H", "Cu", "P"]), st.integers(1, 6), min_size=1, max_size=4
)


@settings(max_examples=80, deadline=None)
@given(atoms=COMPOSITIONS)
def test_the_balance_equals_that_of_a_loop_over_all_assignments(atoms):
    share = fractions(**atoms)
    chi = elements.table()[:, elements.FEATURES.index("electronegativity")]
    best = np.inf
    for states in product(*(electrons.oxidation_states(ATOMIC_NUMBERS[symbol]) for symbol in atoms)):
        charged = [(state, ATOMIC_NUMBERS[symbol] - 1) for symbol, state in zip(atoms, states, strict=True)]
        wrong = any(a > 0 > b and chi[i] > chi[j] + electrons.TOLERANCE for a, i in charged for b, j in charged)
        if not wrong and min(states) <= 0 <= max(states):
            best = min(best, abs(sum(state * share[i] for state, i in charged)))
    assert electrons.charges(share)[BALANCE] == pytest.approx(best if np.isfinite(best) else electrons.UNBALANCED)


@settings(max_examples=40, deadline=None)
@given(atoms=COMPOSITIONS)
def test_levels_are_filled_from_below_as_one_by_one(atoms):
    """Levels of a formula, each as often as it has places, filled by one electron after the other."""
    places, held = [], 0
    for symbol, count in atoms.items():
        for shell in electrons.shells(ATOMIC_NUMBERS[symbol]):
            places += [shell.energy] * (count * shell.capacity)
            held += count * shell.electrons
    places.sort()
    found = electrons.frontier_levels(fractions(**atoms))
    assert found["highest occupied level"] == places[held - 1]
    # A level that is partly filled is both, and above all of them an electron is free.
    above = places[held] if held < len(places) else 0.0
    assert found["lowest unoccupied level"] == above
    assert found["gap of levels"] == pytest.approx(above - places[held - 1])


@pytest.mark.parametrize(
    ("atoms", "odd"),
    [
        *(({"Na": 1}, 1), ({"Na": 2}, 1), ({"Na": 1, "Cl": 1}, 0), ({"Fe": 0.5, "Ni": 0.5}, 0), ({"Cu": 1, "O": 1}, 1)),
        *(({"Y": 3, "Al": 5, "O": 12}, 0), ({"Na": 499, "Cl": 500}, 1)),
    ],
)
def test_electrons_of_a_formula_are_counted(atoms, odd):
    assert electrons.frontier_levels(fractions(**atoms))["odd number of electrons"] == odd


def test_a_composition_without_a_formula_is_neither_odd_nor_even():
    share = np.zeros(N_ELEMENTS)
    share[[10, 16]] = 1 / np.pi, 1 - 1 / np.pi
    assert electrons.frontier_levels(share)["odd number of electrons"] == 0.5


def test_a_composition_of_many_elements_takes_no_longer():
    share = np.zeros(N_ELEMENTS)
    share[:60] = 1 / 60
    assert len(electrons._assignments(np.arange(60))) <= electrons.MOST_ASSIGNMENTS
    assert np.isfinite(list(electrons.charges(share).values())).all()


def test_of_elements_beyond_the_most_combinations_the_first_state_counts(monkeypatch):
    chosen = [ATOMIC_NUMBERS[symbol] for symbol in ("Fe", "O", "Mn")]
    iron, oxygen, manganese = map(electrons.oxidation_states, chosen)
    monkeypatch.setattr(electrons, "MOST_ASSIGNMENTS", len(iron) * len(oxygen))
    found = electrons._assignments(np.array(chosen) - 1)
    assert found.tolist() == [list(states) for states in product(iron, oxygen, manganese[:1])]
    assert len(manganese) > 1


@settings(max_examples=80, deadline=None)
@given(atoms=COMPOSITIONS)
def test_of_charges_that_balance_alike_the_least_count(atoms):
    share, chi = fractions(**atoms), elements.table()[:, elements.FEATURES.index("electronegativity")]
    number, found = [ATOMIC_NUMBERS[symbol] for symbol in atoms], []
    for states in product(*map(electrons.oxidation_states, number)):
        pairs = [(state, z - 1) for state, z in zip(states, number, strict=True)]
        wrong = any(a > 0 > b and chi[i] > chi[j] + electrons.TOLERANCE for a, i in pairs for b, j in pairs)
        if not wrong and min(states) <= 0 <= max(states):
            found.append([round(abs(sum(of(s) * share[i] for s, i in pairs)), 6) for of in (float, abs)])
    expected = min(found, default=[electrons.UNBALANCED, 0.0])
    told = electrons.charges(share)
    assert told["mean charge of either sign"] == pytest.approx(expected[1], abs=1e-5)


def test_electrons_needed_beyond_the_least_that_are_given():
    found = electrons.charges(fractions(Fe=1, O=1))
    given = [state for state in electrons.oxidation_states(26) if state > 0]
    assert found["electrons needed beyond the least that are given"] == pytest.approx((2 - min(given)) / 2)
    assert min(given) < max(given)


def test_kinds_and_filling_of_frontier_levels():
    salt, metal = (electrons.frontier_levels(fractions(**atoms)) for atoms in ({"Na": 1, "Cl": 1}, {"Al": 1}))
    names = ("kind of the highest occupied level", "kind of the lowest unoccupied level")
    names += ("filling of the highest occupied level",)
    assert [salt[name] for name in names] == [1, 0, 1]  # full p of Cl, empty s of Na
    assert (salt["elements"], metal["elements"]) == (2, 1)
    neon = electrons.frontier_levels(fractions(Ne=1))
    assert [neon[name] for name in (*names, "lowest unoccupied level")] == [1, 0, 1, 0]  # and a free electron
    assert [metal[name] for name in names] == pytest.approx([1, 1, 1 / 6], abs=1e-5)
