import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.reading.symmetry import Operations, operations_of, orbits


def group(name):
    block = gemmi.cif.Block("x")
    block.set_pair("_space_group_name_H-M_alt", gemmi.cif.quote(name))
    operations, note = operations_of(block, 90.0, 120.0 if name.startswith(("P 3", "P 6")) else 90.0)
    assert note == ""
    return operations


def naive_images(position, operations):
    """All images, one by one, kept if no kept one is at the same place."""
    kept = []
    for rotation, translation in zip(operations.rotations, operations.translations, strict=True):
        image = rotation @ position + translation
        if all(np.abs((image - other + 0.5) % 1 - 0.5).max() > 1e-4 for other in kept):
            kept.append(image)
    return np.array(kept)


NAMES = ["P -1", "P 1 21/c 1", "F d d d:1", "I 4/m m m", "P 3 2 1", "P 63/m m c", "F m -3 m", "I a -3 d"]
COORDINATES = [0.0, 0.5, 0.25, 1 / 3, 2 / 3, 0.125, 0.1, 0.37, 0.6180339]


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), position=st.tuples(*[st.sampled_from(COORDINATES)] * 3))
def test_an_orbit_is_every_distinct_image_once(name, position):
    operations = group(name)
    sites, atoms = orbits(np.array([position]), 10.0 * np.eye(3), operations)
    expected = naive_images(np.array(position), operations)
    assert len(sites) == len(expected)
    assert (atoms == 0).all()
    between = np.abs((sites[:, None] - expected + 0.5) % 1 - 0.5).max(axis=2)
    np.testing.assert_allclose(between.min(axis=0), 0.0, atol=1e-9)
    assert ((sites >= 0) & (sites < 1)).all()


def test_rounded_coordinates_are_put_on_the_special_position():
    hexagonal = np.array([[4.0, 0, 0], [-2.0, 2 * 3**0.5, 0], [0, 0, 6.0]])
    sites, atoms = orbits(np.array([[0.333, 0.667, 0.25], [0.333, 0.666, 0.75]]), hexagonal, group("P 63/m m c"))
    assert atoms.tolist() == [0, 0, 1, 1]
    np.testing.assert_allclose(sites[0], [1 / 3, 2 / 3, 0.25], atol=1e-12)
    np.testing.assert_allclose(sites[2], [1 / 3, 2 / 3, 0.75], atol=1e-12)


def test_an_atom_farther_off_its_special_position_stays_split():
    cubic = 10.0 * np.eye(3)
    sites, _ = orbits(np.array([[0.02, 0.0, 0.0]]), cubic, group("P m -3 m"))
    assert len(sites) == 6
    sites, _ = orbits(np.array([[0.002, 0.0, 0.0]]), cubic, group("P m -3 m"))
    np.testing.assert_allclose(sites, [[0, 0, 0]], atol=1e-12)


def test_repeated_operations_add_no_atoms():
    operations = group("P -1")
    twice = Operations(*(np.concatenate([array, array]) for array in operations))
    assert len(orbits(np.array([[0.1, 0.2, 0.3]]), 5.0 * np.eye(3), twice)[0]) == 2


@pytest.mark.parametrize(
    ("tag", "value", "alpha", "gamma", "count"),
    [
        ("_symmetry_equiv_pos_as_xyz", "'x,y,z'", 90, 90, 1),
        ("_symmetry_space_group_name_Hall", "'-F 4 2 3'", 90, 90, 192),
        ("_symmetry_space_group_name_H-M", "'R -3 m'", 90, 120, 36),
        ("_symmetry_space_group_name_H-M", "'R -3 m'", 60, 60, 12),
        ("_symmetry_space_group_name_H-M", "Fm-3m", 90, 90, 192),
        ("_symmetry_space_group_name_H-M", "P2_1/c", 90, 90, 4),
        ("_symmetry_space_group_name_H-M", "'P 2(1)/n'", 90, 90, 4),
        ("_symmetry_space_group_name_H-M", "'F d -3 m:2'", 90, 90, 192),
        ("_space_group_name_H-M_alt", "'P -1'", 90, 90, 2),
        ("_symmetry_Int_Tables_number", "225", 90, 90, 192),
        ("_symmetry_Int_Tables_number", "166", 90, 120, 36),
        ("_symmetry_Int_Tables_number", "166", 60, 60, 12),
    ],
)
def test_symmetry_is_found_wherever_a_file_gives_it(tag, value, alpha, gamma, count):
    block = gemmi.cif.Block("x")
    block.set_pair(tag, value)
    operations, note = operations_of(block, float(alpha), float(gamma))
    assert len(operations.rotations) == count
    assert bool(note) == tag.endswith("number")


@pytest.mark.parametrize(("symbol", "noted"), [("F m -3 m", True), ("P 1", False), ("?", False)])
def test_one_operation_of_a_group_that_has_more_is_told_of(symbol, noted):
    block = gemmi.cif.Block("x")
    block.set_pair("_symmetry_space_group_name_H-M", f"'{symbol}'")
    block.init_loop("_symmetry_equiv_pos_as_", ["xyz"]).add_row(["'x,y,z'"])
    operations, note = operations_of(block, 90.0, 90.0)
    assert len(operations.rotations) == 1
    assert note == ("space group 'F m -3 m' has more than the one operation: read as P1" if noted else "")


@pytest.mark.parametrize(
    ("symbol", "origin", "said"),
    [
        ("F d -3 m S", 1, ""),
        ("F d -3 m Z", 2, ""),
        ("F d -3 m", 1, "origin"),
        ("F d -3 m:1", 1, ""),
        ("F d -3 m (origin choice 2)", 2, ""),
        ("F d -3 m O2", 2, ""),
        ("F d -3 m, origin 1 (No. 227)", 1, ""),
        ("?", 1, "number"),
    ],
)
def test_of_two_origins_the_one_that_is_named_is_taken_and_a_guess_is_told(symbol, origin, said):
    block = gemmi.cif.Block("x")
    block.set_pair("_symmetry_space_group_name_H-M", f"'{symbol}'")
    block.set_pair("_symmetry_Int_Tables_number", "227")
    operations, note = operations_of(block, 90.0, 90.0)
    diamond = {1: 0.0, 2: 0.125}[origin] * np.ones((1, 3))
    assert len(orbits(diamond, 3.567 * np.eye(3), operations)[0]) == 8
    assert said in note
    assert bool(note) == bool(said) == ("read as 'F d -3 m:1'" in note)


@pytest.mark.parametrize(
    ("tag", "value", "code", "gamma", "expected"),
    [
        ("_space_group_name_H-M_alt", "'F d -3 m'", "2", 90, "F d -3 m:2"),
        ("_space_group_name_H-M_alt", "'F d -3 m'", "1", 90, "F d -3 m:1"),
        ("_space_group_name_H-M_alt", "'R -3 m'", "h", 120, "R -3 m:H"),
        ("_space_group_name_H-M_alt", "'R -3 m'", "r", 120, "R -3 m:R"),
        ("_space_group_name_H-M_alt", "'P 1 21/c 1'", "b1", 90, "P 1 21/c 1"),
        ("_space_group_name_H-M_alt", "'F d -3 m:1'", "2", 90, "F d -3 m:1"),
        ("_space_group_IT_number", "227", "2", 90, "F d -3 m:2"),
    ],
)
def test_a_code_of_the_coordinate_system_tells_the_origin_and_the_axes(tag, value, code, gamma, expected):
    block = gemmi.cif.Block("x")
    block.set_pair(tag, value)
    block.set_pair("_space_group_IT_coordinate_system_code", code)
    operations, note = operations_of(block, 90.0, float(gamma))
    group = gemmi.find_spacegroup_by_name(expected).operations()
    np.testing.assert_array_equal(operations.translations * gemmi.Op.DEN, [operation.tran for operation in group])
    assert bool(note) == tag.endswith("number")


@pytest.mark.parametrize(("name", "said"), [("?", "no symmetry is given"), ("'Q 9 x'", "'Q 9 x' is not known")])
def test_unknown_symmetry_is_p1_and_said_so(name, said):
    block = gemmi.cif.Block("x")
    block.set_pair("_symmetry_space_group_name_H-M", name)
    operations, note = operations_of(block, 90.0, 90.0)
    np.testing.assert_array_equal(operations.rotations, [np.eye(3)])
    assert said in note
    assert "read as P1" in note
