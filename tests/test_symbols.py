import pytest

from crystalmax.reading.symbols import from_label, from_type, sum_formula


@pytest.mark.parametrize(
    ("symbol", "number", "charge"),
    [
        ("Fe", 26, None),
        ("FE", 26, None),
        ("fe", 26, None),
        ("Fe3+", 26, 3.0),
        ("Fe+3", 26, 3.0),
        ("O2-", 8, -2.0),
        ("Cl-", 17, -1.0),
        ("Na1.5+", 11, 1.5),
        ("Fe2", 26, None),
        ("CO", 27, None),
        ("OH", 8, None),
        ("Wat", 8, None),
        ("Lr", 103, None),
        ("Og", 118, None),
        ("D", 1, None),
        ("T", 0, None),
        ("Xx", 0, None),
        ("Foo", 0, None),
        ("Mg/Fe", 0, None),
        ("Si, Al", 0, None),
        ("Mg0.5Fe0.5", 0, None),
        ("LaSr", 0, None),
        ("BAl", 0, None),
        ("NaK", 0, None),
        ("SIAL", 0, None),
        ("Al+Si", 0, None),
        ("Al_B", 0, None),
        ("Si4+Al3+", 0, None),
        ("Fe2Ni", 0, None),
        ("Si(Al)", 0, None),
        ("H(SDS)", 1, None),
        ("O1W", 8, None),
        ("Fe(III)", 26, None),
        ("FeIII", 26, None),
        ("SiIV", 14, None),
        ("Sival", 14, None),
        ("C_R", 6, None),
        ("O_3_z", 8, None),
        ("FeM1", 26, None),
        ("X", 0, None),
        ("", 0, None),
    ],
)
def test_type_symbols(symbol, number, charge):
    assert from_type(symbol)[:2] == (number, charge)


@pytest.mark.parametrize(
    ("label", "stated", "number"),
    [
        ("Fe1", "", 26),
        ("AlT", "", 13),
        ("FeMe", "", 26),
        ("Oint", "", 8),
        ("O-H", "", 8),
        ("OH1", "", 8),
        ("Wat2", "", 8),
        ("H2O", "", 8),
        ("Dy1", "", 66),
        ("D1", "", 1),
        ("FE1", "Fe O", 26),
        ("CO1", "Ca C O3", 6),
        ("CO1", "Co O", 27),
        ("CO1", "", 27),
        ("NbA", "Na N", 7),
        ("NbA", "Nb O2", 41),
        ("Pa", "P O4", 15),
        ("Fl", "Ca F2", 9),
        ("NH4", "N H4 Cl", 7),
        ("Vac1", "", 0),
        ("Du", "", 0),
        ("Q1", "", 0),
        ("T1", "", 0),
        ("Al/Si1", "", 0),
        ("Fe3+M1", "", 26),
        ("Ta(A)", "", 73),
        ("1", "", 0),
    ],
)
def test_labels_are_read_with_the_stated_formula_in_mind(label, stated, number):
    assert from_label(label, sum_formula(stated)).atomic_number == number


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("D", "deuterium"),
        ("D12", "deuterium"),
        ("H1", ""),
        ("Dy", ""),
        ("Wat", "water"),
        ("O-H", "hydroxyl"),
        ("Os", ""),
    ],
)
def test_what_is_reinterpreted_leaves_a_note(label, said):
    note = from_label(label).note
    assert said in note
    assert bool(note) == bool(said)


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("Ca2 Al2 Si3 O12 H2", {20: 2, 13: 2, 14: 3, 8: 12, 1: 2}),
        ("C12H10", {6: 12, 1: 10}),
        ("Si.5 Fe1.4 O4.001", {14: 0.5, 26: 1.4, 8: 4.001}),
        ("H D", {1: 2.0}),
        ("(Na K) Cl", {}),
        ("Qq2", {}),
        ("?", {}),
    ],
)
def test_sum_formulas(text, formula):
    assert sum_formula(text) == pytest.approx(formula)
