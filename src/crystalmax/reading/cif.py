"""Crystals from CIF text: gemmi reads the syntax, numpy makes the atoms, pymatgen takes what gemmi does not accept.

Only cell, symmetry, atoms and the stated formula are looked at. The policies are those of `structures`.
"""

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gemmi
import numpy as np
from gemmi import cif
from jaxtyping import Float

from crystalmax import limits
from crystalmax.crystal import Crystal, Occupant, of_species
from crystalmax.limits import refuse_above, refuse_crowds, refuse_far
from crystalmax.reading import structures, symbols
from crystalmax.reading.structures import MAX_SITES, Reading, Refused, checked, convert, unknown_element
from crystalmax.reading.symmetry import TRIPLETS, keep_cell, operations_of, orbits

_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_AXES = ("fract_x", "fract_y", "fract_z")
_OPERATIONS = ("magn_operation{}xyz", "ssg_operation{}algebraic", "magn_ssg_operation{}algebraic")
_OF_OTHERS = tuple(f"_space_group_symop_{name.format(dot)}" for name in _OPERATIONS for dot in "._")
_FORMULA_SLACK = 0.02
_LONGEST_FORMULA = 2048
_LESS = "give a smaller cell, or fewer operations"
_SYMMETRY = "add the operations of its space group, as _space_group_symop_operation_xyz"


def read_cif(text: str | bytes, key: str = "", max_sites: int = MAX_SITES) -> list[Reading | Refused]:
    """What each data block with atoms gives: a crystal with notes, or why there is none; never empty.

    Cells are kept as the file has them, filled by symmetry. Where several blocks have atoms, keys end in their names.
    """
    if len(text) > limits.MAX_FILE_BYTES:
        return [Refused(key, *limits.TOO_LARGE)]
    if isinstance(text, bytes):
        text = text.decode("utf-16" if text.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8", "replace")
    # CIF is ASCII; what is beyond stands in names and comments.
    text = text.removeprefix("\ufeff").encode("ascii", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        return [Refused(key, "it is empty", "give a CIF with a cell and atoms")]
    try:
        blocks = [block for block in cif.read_string(text) if _atom_loop(block)]
    except (ValueError, RuntimeError) as error:
        # One block at a time, so that the good ones are not lost.
        parts = [part for part in re.split(r"(?im)^(?=data_)", text) if "_atom_site_fract_x" in part.lower()]
        if len(parts) < 2:
            return [_read_with_pymatgen(text, key, str(error), max_sites)]
        if refused := limits.too_many(len(parts), "data blocks", key):
            return [refused]
        named = [(f"{key}:{part.split(maxsplit=1)[0][5:]}", part) for part in parts]
        return [outcome for name, part in named for outcome in read_cif(part, name, max_sites)]
    if not blocks:
        return [Refused(key, "no data block has atoms with fractional coordinates", "give a CIF of a crystal")]
    if refused := limits.too_many(len(blocks), "data blocks", key):
        return [refused]
    return [_read_block(one, f"{key}:{one.name}" if len(blocks) > 1 else key, max_sites) for one in blocks]


def _read_block(block: cif.Block, key: str, max_sites: int) -> Reading | Refused:
    try:
        return _read_with_gemmi(block, key, max_sites)
    except Refused as refused:
        return refused
    except RuntimeError as error:
        document = cif.Document()
        document.add_copied_block(block)
        return _read_with_pymatgen(document.as_string(), key, str(error), max_sites)


def _read_with_gemmi(block: cif.Block, key: str, max_sites: int) -> Reading:
    cell = _cell(block, key)
    stated = cif.as_string(block.find_value("_chemical_formula_sum") or "?")[:_LONGEST_FORMULA]
    formula = symbols.sum_formula(stated)
    n_operations = max(len(block.find_values(tag)) for tag in TRIPLETS)
    refuse_above(n_operations, limits.MAX_OPERATIONS, "symmetry operations", key, "give those of the space group")
    crystal, notes = _listed_atoms(block, formula, np.array(cell.orth.mat.tolist()).T, key)
    refuse_far(np.vstack([crystal.lattice, crystal.positions]), key)
    operations, guess = operations_of(block, cell.alpha, cell.gamma)
    doubts = [guess] if guess else []
    if guess and any(block.find_values(tag) for tag in _OF_OTHERS):
        raise Refused(key, "its symmetry is given as superspace or magnetic operations only", _SYMMETRY)
    if len(operations.rotations) > 1:
        n_images = crystal.n_sites * len(operations.rotations)
        refuse_above(n_images, limits.MAX_IMAGES, "atoms by symmetry", key, _LESS)
        if not keep_cell(operations.rotations, crystal.lattice):
            doubts.append("the cell does not have the symmetry of its operations: read as given")
        positions, atoms = orbits(crystal.positions, crystal.lattice, operations)
        crystal = replace(crystal, positions=positions, species=crystal.species[atoms])
    refuse_crowds(crystal.positions @ crystal.lattice, key, max_sites)
    try:
        reading = checked(crystal, filter(None, (*doubts, *notes)), max_sites=max_sites)
    except Refused as refused:
        if not doubts or len(operations.rotations) == 1:  # alone, the atoms of the file are what it says
            raise
        raise Refused(key, "; ".join((refused.reason, *doubts)), f"{refused.remedy}, or {_SYMMETRY}") from None
    if _disagrees(reading.crystal.composition(), formula):
        note = f"the stated formula {stated!r} disagrees with the atoms"
        return Reading(reading.crystal, (*reading.notes, note))
    return reading


def _read_with_pymatgen(text: str, key: str, cause: str, max_sites: int) -> Reading | Refused:
    from pymatgen.io.cif import CifParser

    if len(text) > limits.MAX_SLOW_BYTES or max(map(len, text.splitlines())) > limits.MAX_SLOW_LINE:
        reason = f"gemmi cannot read it ({cause}), and it is too large, or a line of it too long, for another parser"
        return Refused(key, reason, "repair the CIF; a file cut short, or an unclosed quote, is a common cause")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parser = CifParser.from_str(text, occupancy_tolerance=structures.OCCUPANCY_SLACK)
            _refuse_slow(parser, key)
            (structure,) = parser.parse_structures(primitive=False, on_error="raise")
        if not keep_cell(np.array([op.rotation_matrix for op in parser.symmetry_operations]), structure.lattice.matrix):
            raise ValueError("the cell does not have the symmetry of its operations")
        if problem := parser.check(structure):
            raise ValueError(problem)
        refuse_far(np.vstack([structure.lattice.matrix, structure.frac_coords]), key)
        refuse_crowds(structure.cart_coords, key, max_sites)
        reading = convert(structure, key, max_sites=max_sites)
    except Refused as refused:
        return refused
    except Exception as error:  # whatever a parser raises on broken text, it means the same
        reason = " ".join(f"neither gemmi ({cause}) nor pymatgen ({error}) can read it".split())
        return Refused(key, reason, "repair the CIF; a file cut short, or an unclosed quote, is a common cause")
    notes = f"read by pymatgen, as gemmi cannot ({cause})", *parser.warnings, *reading.notes
    return Reading(reading.crystal, tuple(dict.fromkeys(notes)))


def _refuse_slow(parser: Any, key: str) -> None:  # noqa: ANN401  # a CifParser, whose package is imported late
    """Refuse what pymatgen would take minutes for: it compares every image of every atom with every other."""
    for block in parser._cif.data.values():
        n_atoms = len(block.data.get("_atom_site_fract_x", ()))
        n_listed = max((len(block.data[tag]) for tag in block.data if tag.startswith(TRIPLETS)), default=0)
        refuse_above(n_listed, limits.MAX_OPERATIONS, "symmetry operations", key, _LESS)
        if n_atoms * max(n_listed, 192) > limits.MAX_SLOW_IMAGES:  # else even the largest group is no matter
            n_images = n_atoms * len(parser.get_symops(block))
            refuse_above(n_images, limits.MAX_SLOW_IMAGES, "atoms by symmetry, and gemmi cannot read it", key, _LESS)


def _cell(block: cif.Block, key: str) -> gemmi.UnitCell:
    parameters = []
    for name in _CELL:
        text = block.find_value(f"_cell_{name}") or ""
        parameters.append(cif.as_number(text))
        if not parameters[-1] > 0.0:
            found = f"is {text!r}" if text else "is missing"
            raise Refused(key, f"_cell_{name} {found}", "give three cell lengths and three angles as positive numbers")
    cell = gemmi.UnitCell(*parameters)
    if not cell.volume > 0.0:
        raise Refused(key, "the cell has no volume", "correct the cell lengths and angles")
    return cell


def _listed_atoms(
    block: cif.Block, formula: Mapping[int, float], lattice: Float[np.ndarray, "3 3"], key: str
) -> tuple[Crystal, list[str]]:
    """The atoms as they are listed, before symmetry, and what was reinterpreted."""
    loop = _atom_loop(block)
    assert loop is not None  # blocks without one are passed over
    refuse_above(loop.length(), limits.MAX_ATOMS, "atoms", key, "give a smaller cell")
    values, names_of_columns = loop.values, (tag.lower().removeprefix("_atom_site_") for tag in loop.tags)
    columns = {name: values[column :: loop.width()] for column, name in enumerate(names_of_columns)}
    labels = columns.get("label")
    names = columns.get("type_symbol", labels)
    if names is None:
        raise Refused(key, "its atoms have neither type symbols nor labels", "add _atom_site_type_symbol")
    if "dum" in map(str.lower, columns.get("calc_flag", ())):
        raise Refused(key, "it lists dummy atoms", "remove the atoms flagged 'dum'")
    if missing := [axis for axis in _AXES if axis not in columns]:
        raise Refused(key, f"the column _atom_site_{missing[0]} is missing", "give three fractional coordinates")
    positions = _positions([columns[axis] for axis in _AXES], labels or names, key)
    stated = block.find("_atom_type_", ["symbol", "oxidation_number"])
    states = ((cif.as_string(symbol), cif.as_number(state)) for symbol, state in stated)
    charges = {symbol: state for symbol, state in states if not math.isnan(state)}
    notes: list[str] = []

    def occupant(name: str, occupancy: str) -> Occupant:
        written = cif.as_string(name)
        is_label = "type_symbol" not in columns
        number, charge, note = symbols.from_label(written, formula) if is_label else symbols.from_type(written)
        if number == 0:
            raise unknown_element(key, written)
        if occupancy == "?":
            notes.append(f"the unknown occupancy of {written} was read as 1")
        amount = 1.0 if occupancy in {"?", "."} else cif.as_number(occupancy)
        if math.isnan(amount):
            raise Refused(key, f"the occupancy {occupancy!r} of {written} is no number", "correct it")
        notes.append(note)
        return Occupant(number, amount, charges.get(written, charge))

    rows = list(zip(names, columns.get("occupancy", ["1"] * len(names)), strict=True))
    kind_of = {row: (occupant(*row),) for row in dict.fromkeys(rows)}
    species, kinds = of_species(kind_of[row] for row in rows)
    return Crystal(lattice, positions, species, kinds, key), notes


def _positions(columns: list[list[str]], labels: list[str], key: str) -> Float[np.ndarray, "atoms 3"]:
    positions = np.array([[cif.as_number(text) for text in column] for column in columns]).T.copy()
    if not np.isfinite(positions).all():
        bad = np.argwhere(np.isnan(positions))[:3].tolist()
        named = ", ".join(f"{cif.as_string(labels[atom])} ({columns[axis][atom]})" for atom, axis in bad)
        raise Refused(key, f"no coordinates for {named}", "give coordinates, or remove these atoms")
    return positions


def _atom_loop(block: cif.Block) -> cif.Loop | None:
    return block.find_loop("_atom_site_fract_x").get_loop()


def _disagrees(composition: Mapping[int, float], formula: Mapping[int, float]) -> bool:
    """Whether the share of some element differs; amounts may, as formula units do."""
    atoms, stated = sum(composition.values()), sum(formula.values())
    elements = composition.keys() | formula.keys() if stated else ()
    shares = ((composition.get(number, 0.0) / atoms, formula.get(number, 0.0) / stated) for number in elements)
    return any(abs(found - expected) > _FORMULA_SLACK for found, expected in shares)
