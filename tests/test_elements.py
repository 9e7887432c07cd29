"""The element table against physics that everyone can check, and against careless edits."""

import subprocess
import sys

import numpy as np
import pytest

from crystalmax import elements
from crystalmax.elements import ATOMIC_NUMBERS, FEATURES, N_ELEMENTS, SYMBOLS


def column(name):
    return elements.table()[:, FEATURES.index(name)]


def value(symbol, name):
    return column(name)[ATOMIC_NUMBERS[symbol] - 1]


def test_every_element_to_lawrencium_has_every_feature():
    assert N_ELEMENTS == len(set(SYMBOLS)) == 103
    assert elements.table().shape == (103, 8)
    assert np.isfinite(elements.table()).all()
    assert (elements.table() > 0).all()
    assert column("atomic_number").tolist() == list(range(1, 104))
    assert (SYMBOLS[0], SYMBOLS[7], SYMBOLS[25], SYMBOLS[-1]) == ("H", "O", "Fe", "Lr")


@pytest.mark.parametrize(
    ("symbol", "feature", "expected", "tolerance"),
    [
        ("H", "ionization_energy", 13.598, 0.001),
        ("F", "electronegativity", 3.98, 0.0),
        ("Cs", "radius", 2.32, 0.0),
        ("O", "group", 16, 0.0),
        ("U", "row", 7, 0.0),
        ("Nd", "group", 3, 0.0),
        ("Au", "density", 19300, 50),
        ("O", "density", 1.31, 0.02),
        ("Si", "atomic_weight", 28.085, 0.002),
    ],
)
def test_known_values_in_the_stated_units(symbol, feature, expected, tolerance):
    assert value(symbol, feature) == pytest.approx(expected, abs=tolerance)


def test_the_periodic_table_has_its_shape():
    rows, counts = np.unique(column("row"), return_counts=True)
    assert rows.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert counts.tolist() == [2, 8, 8, 18, 18, 32, 17]
    assert [symbol for symbol in SYMBOLS if value(symbol, "group") == 18] == ["He", "Ne", "Ar", "Kr", "Xe", "Rn"]
    # Fluorine and the light noble gases on Allen's scale top it, the heavy alkali metals end it.
    order = [SYMBOLS[i] for i in np.argsort(column("electronegativity"))]
    assert set(order[-3:]) == {"He", "Ne", "F"}
    assert set(order[:2]) == {"Fr", "Cs"}


def test_decided_values_are_listed():
    decided = {row["symbol"]: row["decided"].split() for row in elements._ROWS}
    assert "electronegativity" in decided["He"]
    assert decided["Ce"] == ["group"]
    assert "density" in decided["Lr"]
    assert decided["Fe"] == []
    assert {feature for listed in decided.values() for feature in listed} <= set(FEATURES)


def test_standardised_columns_have_mean_zero_and_deviation_one():
    np.testing.assert_allclose(elements.standardised().mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(elements.standardised().std(axis=0), 1, atol=1e-12)
    # No two elements look alike.
    assert len(np.unique(elements.standardised().round(6), axis=0)) == N_ELEMENTS


def test_the_tables_cannot_be_edited_by_accident():
    for values in (elements.table(), elements.standardised()):
        with pytest.raises(ValueError, match="read-only"):
            values[0, 0] = 7.0


def test_the_hash_follows_the_content(monkeypatch):
    changed = elements.table().copy()
    changed[7, 3] += 1e-6
    before = elements.features_hash()
    monkeypatch.setattr(elements, "table", lambda: changed)
    assert elements.features_hash.__wrapped__() != before
    assert len(before) == 12


def test_importing_the_table_is_light():
    script = (
        "import sys, crystalmax.elements; print(sorted({'torch', 'pandas', 'pymatgen', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
