import warnings
from textwrap import dedent

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Structure
from pymatgen.io.cif import CifParser

from crystalmax.crystal import Occupant
from crystalmax.reading.cif import read_cif
from crystalmax.reading.structures import Reading, Refused, convert


def cif(atoms, *, cell=(5, 5, 5, 90, 90, 90), symmetry="_symmetry_space_group_name_H-M 'P 1'", name="x", extra=""):
    """A small CIF; `atoms` are a header of columns and then rows."""
    columns, *rows = atoms
    if "label" not in columns:
        columns, rows = f"label {columns}", [f"A{number} {row}" for number, row in enumerate(rows)]
    lines = [f"data_{name}", symmetry, extra]
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines += [f"_cell_{key} {value}" for key, value in zip(names, cell, strict=True)]
    lines += ["loop_", *(f"_atom_site_{column}" for column in columns.split()), *rows]
    return "\n".join(lines) + "\n"


def named(group):
    return f"_symmetry_space_group_name_H-M '{group}'"


def only(text, **options):
    (outcome,) = read_cif(text, "it", **options)
    return outcome


XYZ = "fract_x fract_y fract_z"
CSCL = (f"type_symbol {XYZ}", "Cs 0 0 0", "Cl 0.5 0.5 0.5")
RUTILE_OPERATIONS = dedent(
    """
    loop_
    _space_group_symop_operation_xyz
    'x,y,z'
    '-x,-y,z'
    '1/2-y,1/2+x,1/2+z'
    '1/2+y,1/2-x,1/2+z'
    '1/2-x,1/2+y,1/2-z'
    '1/2+x,1/2-y,1/2-z'
    'y,x,-z'
    '-y,-x,-z'
    '-x,-y,-z'
    'x,y,-z'
    '1/2+y,1/2-x,1/2-z'
    '1/2-y,1/2+x,1/2-z'
    '1/2+x,1/2-y,1/2+z'
    '1/2-x,1/2+y,1/2+z'
    '-y,-x,z'
    'y,x,z'
    """
)
CHARGES = "loop_\n_atom_type_symbol\n_atom_type_oxidation_number\nFe3+ 3\nO2- -2\n"

GOOD = {
    "P1": cif(CSCL),
    "triclinic": cif(CSCL, cell=(5, 6, 7, 81.5, 95.25, 112.125)),
    "uncertainties": cif(
        (f"type_symbol {XYZ}", "Cs 0.1(2) .25(10) 0", "Cl 0.503(1) 0.5 -0.5"), cell=("5.1(3)", 5, 5, 90, 90, 90)
    ),
    "explicit operations": cif(
        (f"label {XYZ}", "Ti 0 0 0", "O1 0.3053 0.3053 0"),
        cell=(4.59, 4.59, 2.96, 90, 90, 90),
        symmetry=RUTILE_OPERATIONS,
    ),
    "name of the group": cif((f"type_symbol {XYZ}", "Na 0 0 0", "Cl 0.5 0 0"), symmetry=named("F m -3 m")),
    "name without blanks": cif((f"type_symbol {XYZ}", "C 0 0 0"), symmetry="_space_group_name_H-M_alt 'Im-3m'"),
    "mixed site": cif((f"label type_symbol {XYZ} occupancy", "M1 Na 0 0 0 0.25", "M2 K 0 0 0 0.75", "X Cl .5 .5 .5 1")),
    "vacancies": cif((f"type_symbol {XYZ} occupancy", "Ti 0 0 0 1", "O 0.5 0.5 0.5 0.8")),
    "split position": cif((f"type_symbol {XYZ} occupancy", "K 0.03 0 0 0.5", "Cl .5 .5 .5 1"), symmetry=named("P -1")),
    "charges in symbols": cif((f"type_symbol {XYZ}", "Fe3+ 0 0 0", "N3- 0.5 0.5 0.5")),
    "charges in a table": cif((f"type_symbol {XYZ}", "Fe3+ 0 0 0", "O2- 0.5 0.5 0.5", "O2- 0.5 0 0"), extra=CHARGES),
    "hexagonal, rounded": cif(
        (f"type_symbol {XYZ}", "Zn 0.3333 0.6667 0", "S 0.3333 0.6667 0.375"),
        cell=(3.8, 3.8, 6.2, 90, 90, 120),
        symmetry=named("P 63 m c"),
    ),
    "text fields and comments": "# made by hand\n" + cif(CSCL, extra="_publ_section_title\n;\n _cell_length_a 9\n;\n"),
}


# pymatgen does not know this spelling of the space group, and would read the file as P1.
RHOMBOHEDRAL = cif(
    (f"type_symbol {XYZ}", "Bi 0.234 0.234 0.234"), cell=(4.7, 4.7, 4.7, 57, 57, 57), symmetry=named("R -3 m :R")
)


@pytest.mark.parametrize("name", GOOD)
def test_atoms_are_those_that_pymatgen_finds(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (structure,) = CifParser.from_str(GOOD[name]).parse_structures(primitive=False)
    expected = convert(structure).crystal
    crystal, notes = only(GOOD[name])
    assert notes == ()
    assert crystal.key == "it"
    assert crystal.n_sites == expected.n_sites
    assert crystal.volume == pytest.approx(expected.volume, rel=1e-9)
    assert crystal.composition() == pytest.approx(expected.composition())
    assert occupancies(crystal) == occupancies(expected)
    # The same geometry, whatever the orientation of the cell.
    np.testing.assert_allclose(distances_of(crystal), distances_of(expected), atol=5e-3)


def occupancies(crystal):
    return {tuple(occupant[:2] for occupant in kind) for kind in crystal.kinds}


def distances_of(crystal):
    """The shortest distances between sites, over more images than can hold them."""
    between = crystal.positions[:, None] - crystal.positions
    images = [between - np.rint(between) + np.array(shift) - 2 for shift in np.ndindex(5, 5, 5)]
    return np.sort(np.linalg.norm(np.array(images) @ crystal.lattice, axis=-1).ravel())[:100]


@pytest.mark.parametrize(
    ("name", "sites", "kinds"),
    [
        ("explicit operations", 6, {((22, 1.0, None),), ((8, 1.0, None),)}),
        ("name of the group", 8, {((11, 1.0, None),), ((17, 1.0, None),)}),
        ("mixed site", 2, {((11, 0.25, None), (19, 0.75, None)), ((17, 1.0, None),)}),
        ("vacancies", 2, {((22, 1.0, None),), ((8, 0.8, None),)}),
        ("split position", 3, {((19, 0.5, None),), ((17, 1.0, None),)}),
        ("charges in symbols", 2, {((26, 1.0, 3.0),), ((7, 1.0, -3.0),)}),
        ("charges in a table", 3, {((26, 1.0, 3.0),), ((8, 1.0, -2.0),)}),
        ("hexagonal, rounded", 4, {((30, 1.0, None),), ((16, 1.0, None),)}),
        ("rhombohedral", 2, {((83, 1.0, None),)}),
    ],
)
def test_sites_and_species_are_those_that_the_file_means(name, sites, kinds):
    crystal, _ = only({**GOOD, "rhombohedral": RHOMBOHEDRAL}[name])
    assert crystal.n_sites == sites
    assert {tuple(tuple(one) for one in kind) for kind in crystal.kinds} == kinds


@given(seed=st.integers(0, 10**6))
def test_what_pymatgen_writes_is_read_back(seed):
    rng = np.random.default_rng(seed)
    lattice = 6 * np.eye(3) + rng.uniform(-1, 1, (3, 3))
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0.5, 0.5]])
    shares = rng.uniform(0.1, 0.9, 2).round(3)
    species = ["Sr", {"Fe": shares[0], "Ni": 1 - shares[0]}, {"O": shares[1]}, "O"]
    structure = Structure(lattice, species, corners + rng.uniform(-0.05, 0.05, (4, 3)))
    expected = convert(structure).crystal
    crystal, notes = only(structure.to(fmt="cif"))
    assert notes == ()
    assert crystal.volume == pytest.approx(expected.volume, rel=1e-6)
    assert crystal.composition() == pytest.approx(expected.composition())
    np.testing.assert_allclose(distances_of(crystal), distances_of(expected), atol=1e-5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (cif((f"type_symbol {XYZ}", "D 0 0 0", "Cl .5 .5 .5")), "deuterium was read as hydrogen"),
        (cif((f"label {XYZ}", "T 0 0 0", "Cl .5 .5 .5")), None),
        (cif((f"label {XYZ}", "D1 0 0 0", "Cl .5 .5 .5")), "deuterium was read as hydrogen"),
        (cif((f"label {XYZ}", "Na 0 0 0", "Wat .5 .5 .5")), "water or hydroxyl was read as its oxygen"),
        (cif((f"label {XYZ}", "O-H 0 0 0", "Al .5 .5 .5")), "water or hydroxyl was read as its oxygen"),
        (cif(CSCL, symmetry=""), "no symmetry is given: read as P1"),
        (cif(CSCL, symmetry=named("Q 1")), "'Q 1' is not known: read as P1"),
        (cif(CSCL, extra="_chemical_formula_sum 'Cs Cl2'"), "'Cs Cl2' disagrees with the atoms"),
        (cif(CSCL, extra="_chemical_formula_sum 'Cs2 Cl2'"), ""),
        (cif((f"type_symbol {XYZ} occupancy", "Cs 0 0 0 ?")), "unknown occupancy of Cs was read as 1"),
        (cif((f"type_symbol {XYZ} occupancy", "Cs 0 0 0 .")), ""),
        (cif((f"type_symbol {XYZ} occupancy", "Cs 0 0 0 1", "I .5 0 0 0.0")), "I of occupancy 0 was left out"),
        (cif(CSCL, symmetry="_symmetry_Int_Tables_number 2"), "space group number 2"),
        (cif(CSCL, symmetry=named("P m -3 m"), cell=(4, 5, 4, 90, 90, 90)), "does not have the symmetry of"),
        (cif(CSCL, symmetry=named("P m -3 m"), cell=(5, 5, 5, 90, 91, 90)), "does not have the symmetry of"),
        (cif(CSCL, symmetry=named("P m -3 m"), cell=(5, 5.02, 5, 90, 90.2, 90)), ""),
        (cif(CSCL, symmetry=named("P 6/m m m"), cell=(5, 5, 9, 90, 90, 120)), ""),
    ],
)  # fmt: skip
def test_every_reinterpretation_is_noted(text, said):
    outcome = only(text)
    if said is None:
        assert isinstance(outcome, Refused)
        assert "'T' is not an element" in outcome.reason
        return
    assert isinstance(outcome, Reading), outcome
    assert len(outcome.notes) == bool(said)
    assert all(said in note for note in outcome.notes)


def test_a_refusal_says_where_symmetry_was_guessed():
    spinel = (f"type_symbol {XYZ}", "Mg 0.125 0.125 0.125", "Al 0.5 0.5 0.5", "O 0.2623 0.2623 0.2623")
    text = cif(spinel, cell=(8.0832, 8.0832, 8.0832, 90, 90, 90), symmetry=named("F d -3 m"))
    assert only(text.replace("F d -3 m", "F d -3 m:2")).crystal.n_sites == 56
    refused = only(text)
    assert "0.28 angstrom apart with occupancies summing to 2; which origin of space group" in refused.reason
    assert refused.remedy.endswith(", or add the operations of its space group, as _space_group_symop_operation_xyz")
    twice = only(cif((f"type_symbol {XYZ}", "Cs 0 0 0", "Cl 0 0 0"), symmetry=""))
    assert "sum to 2" in twice.reason
    assert (";" in twice.reason, "add the operations" in twice.remedy) == (False, False)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text: text,
        lambda text: text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: "\ufeff" + text,
        lambda text: text.encode("latin-1"),
        lambda text: text.encode("utf-16"),
        lambda text: f"\ufeff{text}".encode("utf-16-be"),
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: f"# written on an old computer\n{text}".replace("\n", "\r").encode(),
        lambda text: text.replace("'Müller'", "Müller"),
        lambda text: text.replace(" 0.5", " +0.5"),
        lambda text: text.upper(),
    ],
)
def test_encodings_line_endings_and_spelling_of_tags_do_not_matter(encode):
    text = cif(CSCL, extra="_publ_author_name 'Müller'")
    crystal, notes = only(encode(text))
    assert notes == ()
    assert crystal.composition() == {55: 1.0, 17: 1.0}
    np.testing.assert_allclose(crystal.positions % 1, [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_each_block_with_atoms_gives_a_crystal_and_a_bad_one_spoils_none():
    bad = cif((f"type_symbol {XYZ}", "Xx 0 0 0"), name="bad")
    text = "data_global\n_publ_author_name 'A'\n" + cif(CSCL, name="one") + bad + cif(CSCL, name="two")
    one, refused, two = read_cif(text, "file")
    assert (one.crystal.key, refused.key, two.crystal.key) == ("file:one", "file:bad", "file:two")
    assert "'Xx' is not an element" in refused.reason


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("_publ_title 'open\n", "read by pymatgen, as gemmi cannot (string:18:17(308): unterminated"),
        ("_x\n", "_x has no value"),
        ("loop_\n_y\n_z\n1\n", "neither gemmi"),
    ],
)
def test_a_block_of_invalid_syntax_spoils_no_other(broken, said):
    text = cif(CSCL, name="a") + broken + cif(CSCL, name="b") + cif(CSCL, name="a")
    first, second, third = read_cif(text, "file")
    assert said in (first.reason if isinstance(first, Refused) else first.notes[0])
    assert (second.crystal.key, third.crystal.key) == ("file:b", "file:a")
    assert second.notes == third.notes == ()


def test_pymatgen_takes_what_gemmi_does_not():
    fifth = "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'x+1/5,y,z'\n'x+2/5,y,z'\n'x+3/5,y,z'\n'x+4/5,y,z'\n"
    text = cif((f"type_symbol {XYZ}", "Cs 0 0 0"), cell=(25, 5, 5, 90, 90, 90), symmetry=fifth)
    crystal, notes = only(text)
    assert crystal.n_sites == 5
    assert "read by pymatgen, as gemmi cannot (Wrong denominator 5" in notes[0]
    refused = only(text + "_chemical_formula_sum 'Cs Cl'\n")
    assert isinstance(refused, Refused)
    assert "Missing elements Cl" in refused.reason


FIFTH = "loop_\n_symmetry_equiv_pos_as_xyz\n'x,y,z'\n'x+1/5,y,z'\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            cif(CSCL, symmetry=FIFTH.replace("x+1/5,y,z", "x,y")),
            "the cell does not have the symmetry of its operations",
        ),
        (cif(CSCL, symmetry=FIFTH.replace("x+1/5,y,z", "2x,y,z")), "the cell does not have the symmetry"),
        (RHOMBOHEDRAL.replace(" :R", "") + "_note 'cut off\n", "the cell does not have the symmetry of its operations"),
        (cif((f"type_symbol {XYZ}", "Cs 0 0 0", "Cl 0 0 0"), symmetry=FIFTH), "Occupancy 2.0 exceeded tolerance"),
    ],
)
def test_what_pymatgen_makes_of_no_operations_and_of_atoms_in_one_place_is_refused(text, said):
    assert said in only(text).reason


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RHOMBOHEDRAL + "_note 'cut off\n", "P1"),
        (cif((f"type_symbol {XYZ} occupancy", "Na 0 0 0 1", "K 0 0 0 0.04")) + "_note 'cut off\n", "rescaled"),
    ],
)
def test_what_pymatgen_reinterprets_is_noted(text, said):
    notes = only(text).notes
    assert any(said in note for note in notes)
    assert len(notes) == len(set(notes))


@pytest.mark.parametrize("unknown", ["?", "."])
def test_operations_that_are_not_known_leave_it_to_the_symbol(unknown):
    symmetry = f"{named('P m -3 m')}\n_symmetry_equiv_pos_as_xyz {unknown}"
    crystal, notes = only(cif((f"type_symbol {XYZ}", "Cs 0 0 0", "Cl 0.5 0.5 0"), symmetry=symmetry))
    assert crystal.composition() == {55: 1, 17: 3}
    assert notes == ()


@pytest.mark.parametrize("separator", "._")
@pytest.mark.parametrize(
    ("tag", "operations"),
    [
        ("magn_operation{}xyz", "'x,y,z,+1'\n'-x,-y,-z,-1'"),
        ("ssg_operation{}algebraic", "'x1,x2,x3,x4'\n'-x1,-x2,-x3,-x4'"),
        ("magn_ssg_operation{}algebraic", "'x1,x2,x3,x4,+1'\n'-x1,-x2,-x3,-x4,-1'"),
    ],
)
def test_magnetic_or_superspace_symmetry_alone_is_refused(separator, tag, operations):
    loop = f"loop_\n_space_group_symop_{tag.format(separator)}\n{operations}\n"
    assert "magnetic operations only" in only(cif(CSCL, symmetry="", extra=loop)).reason
    assert only(cif(CSCL, symmetry=named("P -1"), extra=loop)).notes == ()


def test_the_largest_cell_is_an_argument():
    text = GOOD["name of the group"]
    assert only(text, max_sites=8).crystal.n_sites == 8
    assert "8 sites, more than the 7 allowed" in only(text, max_sites=7).reason


def test_species_that_are_spelt_differently_are_one():
    crystal, _ = only(cif((f"type_symbol {XYZ} occupancy", "Cs 0 0 0 1", "CS .5 0 0 1.0", "Cs1 0 .5 0 1.00(1)")))
    assert crystal.kinds == ((Occupant(55, 1.0),),)
    assert crystal.species.tolist() == [0, 0, 0]
