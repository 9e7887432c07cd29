import pickle
import warnings
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, graphene, make_supercell, molecule, mx2
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition, DummySpecies, Element, Lattice, Molecule, Species, Structure

from crystalmax.crystal import Crystal, Occupant
from crystalmax.reading.structures import Refused, checked, close_pairs, convert

CUBE = 4.0 * np.eye(3)


def raw(*atoms, lattice=CUBE, key="here"):
    """A crystal with one row an atom, from (position, occupant, ...)."""
    positions = np.array([position for position, *_ in atoms], dtype=float).reshape(-1, 3)
    kinds = tuple(dict.fromkeys(tuple(Occupant(*one) for one in occupants) for _, *occupants in atoms))
    species = np.array([kinds.index(tuple(Occupant(*one) for one in occupants)) for _, *occupants in atoms], dtype=int)
    return Crystal(np.array(lattice, dtype=float), positions, species, kinds, key)


ORIGIN, CENTER = (0, 0, 0), (0.5, 0.5, 0.5)


def test_a_good_crystal_passes_unchanged():
    crystal = raw((ORIGIN, (55, 1.0)), (CENTER, (17, 1.0, -1.0)))
    reading = checked(crystal)
    assert reading.crystal is crystal
    assert reading.notes == ()


def test_atoms_at_one_position_become_one_site_with_a_row_of_occupancies():
    crystal, notes = checked(raw((ORIGIN, (19, 0.25)), (CENTER, (17, 1.0)), ((1, 1, 1), (11, 0.5))))
    assert crystal.n_sites == 2
    assert crystal.kinds[crystal.species[0]] == (Occupant(11, 0.5), Occupant(19, 0.25))
    assert notes == ()


def test_two_charges_of_one_element_stay_apart_and_equal_ones_add_up():
    crystal, _ = checked(
        raw((ORIGIN, (26, 0.5, 3.0)), (ORIGIN, (26, 0.25, 2.0)), (ORIGIN, (26, 0.25, 2.0)), (CENTER, (8, 0.5, -2.0)))
    )
    assert crystal.kinds[crystal.species[0]] == (Occupant(26, 0.5, 2.0), Occupant(26, 0.5, 3.0))
    assert crystal.kinds[crystal.species[1]] == (Occupant(8, 0.5, -2.0),)


def test_split_positions_stay_separate():
    crystal, notes = checked(raw((ORIGIN, (19, 0.5)), ((0.05, 0, 0), (19, 0.5)), (CENTER, (17, 1.0))))
    assert crystal.n_sites == 3
    assert notes == ()


@given(total=st.floats(0.05, 1.3), share=st.floats(0.1, 0.9))
def test_no_position_is_ever_filled_above_one(total, share):
    crystal = raw((ORIGIN, (28, total * share)), (ORIGIN, (26, total * (1 - share))))
    if total > 1.05 + 1e-9:
        with pytest.raises(Refused, match="sum to"):
            checked(crystal)
    elif total < 1.05 - 1e-9:
        reading = checked(crystal)
        iron, nickel = reading.crystal.kinds[0]
        assert iron.occupancy + nickel.occupancy == pytest.approx(min(total, 1.0))
        assert nickel.occupancy / iron.occupancy == pytest.approx(share / (1 - share))
        assert bool(reading.notes) == (total > 1.0 + 1e-6)


@pytest.mark.parametrize(
    ("crystal", "said"),
    [
        (raw((ORIGIN, (11, 1.0)), (ORIGIN, (11, 1.0))), "Na is listed 2 times at one position"),
        (raw((ORIGIN, (11, 0.0)), (CENTER, (17, 1.0))), "Na of occupancy 0 was left out"),
        (raw((ORIGIN, (11, 1.03)), (CENTER, (17, 1.0))), "occupancies summing to 1.03 were scaled to 1"),
    ],
)
def test_what_is_reinterpreted_is_noted(crystal, said):
    reading = checked(crystal, notes=("before",))
    assert reading.notes[0] == "before"
    assert said in reading.notes[1]
    assert reading.crystal.is_ordered


def boxed(atoms, *, vacuum=5.0, axis=2):
    """Atoms with this much vacuum on both sides of an axis, as calculations of surfaces have it."""
    atoms.center(vacuum, axis)
    atoms.pbc = True
    return atoms


SLAB = fcc111("Cu", (1, 1, 4), vacuum=5.0, periodic=True)


@pytest.mark.parametrize(
    ("atoms", "empty"),
    [
        (SLAB, 10.0),
        (make_supercell(SLAB, [[1, 0, 0], [1, 2, 0], [1, -1, 1]]), 10.0),  # whose third axis leans
        (boxed(fcc111("Cu", (2, 2, 3), a=3.6), vacuum=7.5), 15.0),
        (boxed(molecule("H2O"), axis=(0, 1, 2)), 10.0),
        (Atoms("Ar", cell=[9, 9, 12], pbc=True), 12.0),
    ],
)
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.5, -2.0])
def test_an_empty_layer_is_noted_once(atoms, empty, shift):
    moved = atoms.copy()
    moved.set_scaled_positions(moved.get_scaled_positions() + shift)
    (note,) = convert(moved).notes
    assert note.startswith(f"an empty layer of {empty:.1f} angstrom: it looks like a slab or a molecule in a box")


def layered(layer, distance):
    layer.cell[2] = [0, 0, np.ptp(layer.positions[:, 2]) + distance]
    layer.pbc = True
    return layer


@pytest.mark.parametrize(
    "atoms",
    [
        layered(graphene(), 3.35),
        layered(mx2("MoS2"), 2.96),
        layered(mx2("MoS2"), 7.9),  # far apart, as functionals without dispersion relax them
        bulk("Cs", "bcc", a=6.1),
        make_supercell(bulk("Cu"), 5 * np.eye(3)),
    ],
)
def test_layers_of_a_crystal_are_not_taken_for_slabs(atoms):
    assert convert(atoms).notes == ()


def charged(charge):
    return replace(raw((ORIGIN, (11, 1.0))), kinds=((Occupant(11, 1.0, charge),),))


@pytest.mark.parametrize(
    ("crystal", "reason"),
    [
        (raw((ORIGIN, (11, 1.2))), "sum to 1.2"),
        (raw((ORIGIN, (11, 0.7)), (ORIGIN, (19, 0.7))), r"sum to 1.4 \(Na 0.7 \+ K 0.7\)"),
        (raw((ORIGIN, (11, 1.0)), ((0.1, 0, 0), (17, 1.0))), "0.40 angstrom apart"),
        (raw((ORIGIN, (11, 1.0)), ((0.99, 0, 0), (17, 0.2))), "0.04 angstrom apart .* 1.2"),
        (raw((ORIGIN, (11, 0.0))), "every atom has occupancy 0"),
        (raw((ORIGIN, (11, -0.5))), "occupancy of Na is -0.5"),
        (raw((ORIGIN, (11, np.nan))), "occupancy of Na is nan"),
        (raw((ORIGIN, (11, np.inf))), "occupancy of Na is inf"),
        (charged(1e30), r"oxidation state of Na is 1e\+30"),
        (charged(np.nan), "oxidation state of Na is nan"),
        (raw((ORIGIN, (0, 1.0))), "atomic number 0 is outside"),
        (raw((ORIGIN, (104, 1.0))), "atomic number 104 is outside"),
        (raw(((0, 0, np.nan), (11, 1.0))), "not a finite number"),
        (raw(((0, 0, 1e7), (11, 1.0))), r"an atom is 1e\+07 cells away"),
        (raw(), "no atoms"),
        (raw((ORIGIN, (11, 1.0)), lattice=np.ones((3, 3))), "no volume"),
        (raw((ORIGIN, (11, 1.0)), lattice=np.zeros((3, 3))), "no volume"),
        (raw((ORIGIN, (11, 1.0)), lattice=np.full((3, 3), np.nan)), "no volume"),
        (raw((ORIGIN, (11, 1.0)), lattice=np.diag([4, 4, np.inf])), "no volume"),
        (raw((ORIGIN, (11, 1.0)), lattice=np.diag([4, 4, 0.3])), "collapsed"),
        (raw((ORIGIN, (11, 1.0)), lattice=[[4, 0, 0], [4, 0.4, 0], [0, 0, 4]]), "collapsed"),
    ],
)
def test_what_is_refused_says_why_and_what_would_help(crystal, reason):
    with pytest.raises(Refused, match=reason) as error:
        checked(crystal)
    assert error.value.key == "here"
    assert error.value.remedy
    assert str(error.value) == f"here: {error.value.reason}; {error.value.remedy}."


def test_the_largest_cell_is_an_argument():
    grid = [((x / 3, y / 3, z / 3), (14, 1.0)) for x in range(3) for y in range(3) for z in range(3)]
    crystal = raw(*grid, lattice=9 * np.eye(3))
    assert checked(crystal, max_sites=27).crystal.n_sites == 27
    with pytest.raises(Refused, match="27 sites, more than the 26 allowed"):
        checked(crystal, max_sites=26)


def test_a_refusal_survives_pickling():
    refused = Refused("a", "b", "c")
    again = pickle.loads(pickle.dumps(refused))
    assert (again.key, again.reason, again.remedy) == ("a", "b", "c")


def test_pymatgen_structures_keep_occupancies_charges_and_cell():
    lattice = Lattice.from_parameters(4, 5, 6, 80, 95, 103)
    species = [{Species("Fe", 3): 0.5, Species("Fe", 2): 0.25}, {Element("K"): 0.5, Element("Na"): 0.5}, "O"]
    structure = Structure(lattice, species, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.2]])
    crystal, notes = convert(structure, "mine")
    assert crystal.key == "mine"
    assert notes == ()
    np.testing.assert_array_equal(crystal.lattice, lattice.matrix)
    np.testing.assert_array_equal(crystal.positions, structure.frac_coords)
    assert [crystal.kinds[row] for row in crystal.species] == [
        (Occupant(26, 0.25, 2.0), Occupant(26, 0.5, 3.0)),
        (Occupant(11, 0.5), Occupant(19, 0.5)),
        (Occupant(8, 1.0),),
    ]


def test_explicit_full_occupancy_is_no_occupancy():
    plain = Structure(Lattice.cubic(4), ["Na", "Cl"], [ORIGIN, CENTER])
    explicit = Structure(Lattice.cubic(4), [{"Na": 1.0}, Composition({"Cl": 1.0})], [ORIGIN, CENTER])
    assert convert(plain).crystal.kinds == convert(explicit).crystal.kinds


def test_deuterium_is_hydrogen_with_a_note():
    structure = Structure(Lattice.cubic(4), [{"D": 0.5, "H": 0.5}, "Cl"], [ORIGIN, CENTER])
    crystal, notes = convert(structure)
    assert crystal.kinds[crystal.species[0]] == (Occupant(1, 1.0),)
    assert notes == ("deuterium was read as hydrogen",)
    crystal, notes = convert(Structure(Lattice.cubic(4), [Species("D", 1), "Cl"], [ORIGIN, CENTER]))
    assert crystal.kinds[crystal.species[0]] == (Occupant(1, 1.0, 1.0),)
    assert notes == ("deuterium was read as hydrogen",)
    with pytest.raises(Refused, match="'T' is not an element"):
        convert(Structure(Lattice.cubic(4), [Species("T", 1), "Cl"], [ORIGIN, CENTER]))


@pytest.mark.parametrize(
    ("structure", "reason"),
    [
        (Structure(Lattice.cubic(4), [DummySpecies("Xa"), "O"], [ORIGIN, CENTER]), "'Xa' is not an element"),
        (Molecule(["H", "H"], [[0, 0, 0], [0, 0, 0.7]]), "not periodic"),
        (Structure(Lattice(CUBE, pbc=(True, True, False)), ["Na"], [ORIGIN]), "not periodic"),
        (molecule("H2O"), "not periodic"),
        (bulk("Cu") * (1, 1, 1), None),
        (Atoms("Cu", cell=[4, 4, 0], pbc=True), "not periodic"),
        (Atoms("X", cell=[4, 4, 4], pbc=True), "'X' is not an element"),
        (Atoms("Cu", cell=[4, 4, 4], pbc=[True, True, False]), "not periodic"),
        (Atoms(cell=[4, 4, 4], pbc=True), "no atoms"),
    ],
)
def test_objects_meet_the_same_policies(structure, reason):
    if reason is None:
        assert convert(structure).crystal.n_sites == 1
        return
    with pytest.raises(Refused, match=reason):
        convert(structure, "it")


def test_ase_atoms_keep_cell_and_positions():
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.05, seed=1)
    crystal = convert(atoms).crystal
    np.testing.assert_allclose(crystal.positions @ crystal.lattice, atoms.positions, atol=1e-12)
    assert crystal.composition() == {11: 1.0, 17: 1.0}


def test_occupancies_that_ase_puts_aside_are_taken_back(tmp_path):
    from ase.io import read

    structure = Structure(Lattice.cubic(4), [{"Fe": 0.5, "Ni": 0.5}, {"O": 0.8}], [ORIGIN, CENTER])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure.to(str(tmp_path / "x.cif"))
        atoms = read(tmp_path / "x.cif")
    assert convert(atoms).crystal.composition() == pytest.approx({26: 0.5, 28: 0.5, 8: 0.8})


def test_atoms_that_were_exchanged_or_added_after_ase_read_a_cif_are_what_they_are_now(tmp_path):
    from ase.io import read

    structure = Structure(Lattice.cubic(4), ["Mg", {"O": 0.8}], [ORIGIN, CENTER])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structure.to(str(tmp_path / "x.cif"))
        atoms = read(tmp_path / "x.cif")
    atoms.symbols[0] = "Ni"
    atoms += Atoms("Li", [(2, 2, 0)])
    assert convert(atoms).crystal.composition() == pytest.approx({28: 1.0, 3: 1.0, 8: 0.8})


def test_a_crystal_passes_through_with_its_key_unless_another_is_given():
    crystal = raw((ORIGIN, (11, 1.0)))
    assert convert(crystal).crystal is crystal
    assert convert(crystal, "new").crystal.key == "new"


def test_anything_else_is_no_structure():
    with pytest.raises(Refused, match="a str is no structure"):
        convert("NaCl.cif")


def naive_pairs(lattice, positions, cutoff):
    """The definition: the shortest distance over a generous range of images, for every pair."""
    found = {}
    for i in range(len(positions)):
        for j in range(i + 1, len(positions)):
            shortest = min(
                np.linalg.norm((positions[j] - positions[i] + np.array(image)) @ lattice)
                for image in product(range(-5, 6), repeat=3)
            )
            if shortest < cutoff:
                found[i, j] = shortest
    return found


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 5),
    size=st.sampled_from([1.5, 3.0, 6.0]),
    shear=st.sampled_from([0, 1, -2]),
    share=st.sampled_from([0.2, 0.6, 0.99]),
)
def test_close_pairs_are_those_of_the_definition(seed, n, size, shear, share):
    rng = np.random.default_rng(seed)
    lattice = size * (np.eye(3) + 0.2 * rng.uniform(-1, 1, (3, 3)))
    lattice[2] += shear * lattice[0]
    cutoff = share / np.linalg.norm(np.linalg.inv(lattice), axis=0).max()  # of the distance of lattice planes
    positions = rng.uniform(-1, 2, (n, 3))
    pairs, distances = close_pairs(lattice, positions, cutoff)
    expected = naive_pairs(lattice, positions, cutoff)
    assert [tuple(pair) for pair in pairs.tolist()] == sorted(expected)
    np.testing.assert_allclose(distances, [expected[tuple(pair)] for pair in pairs.tolist()], atol=1e-10)


def test_huge_cells_need_no_table_of_all_pairs():
    line = np.zeros((20_001, 3))
    line[:, 0] = np.arange(len(line)) / len(line)
    pairs, _ = close_pairs(np.diag([len(line) * 1.0, 4.0, 4.0]), line, 1.5)
    assert len(pairs) == len(line)


def test_a_pair_across_the_border_is_found():
    pairs, distances = close_pairs(CUBE, np.array([[0.01, 0.5, 0.5], [0.97, 0.5, 0.5]]), 0.5)
    assert pairs.tolist() == [[0, 1]]
    assert distances == pytest.approx([0.16])
