"""Crystals from CIF text: gemmi reads the syntax, numpy makes the atoms, pymatgen takes what gemmi does not accept.

Only cell, symmetry, atoms and the stated formula are looked at. The policies are those of `structures`.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import gemmi
import numpy as np
from gemmi import cif
from jaxtyping import Float, Int

from crystalmax import symbols
from crystalmax.crystal import Crystal, Occupant, Species
from crystalmax.structures import MAX_SITES, Reading, Refused, checked, convert, of_species, unknown_element
from crystalmax.symmetry import operations_of, orbits

_CELL = tuple(
    f"cell_{name}" for name in ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
)
_AXES = ("fract_x", "fract_y", "fract_z")
_FORMULA_SLACK = 0.02
_ROWS_PER_SITE = 20


def read_cif(text: str | bytes, key: str = "", *, max_sites: int = MAX_SITES) -> list[Reading | Refused]:
    """What each data block with atoms gives: a crystal with notes, or why there is none; never empty.

    Cells are kept as the file has them, filled by symmetry.

    Args:
        text: The CIF.
        key: A name for the crystal; where several blocks have atoms, their names are appended.
        max_sites: Sites above which a cell is refused.
    """
    text = _decoded(text)
    if not text.strip():
        return [Refused(key, "it is empty", "give a CIF with a cell and atoms")]
    try:
        blocks = [block for block in cif.read_string(text) if _atom_loop(block)]
    except (ValueError, RuntimeError) as error:
        return _read_parts(text, key, str(error), max_sites)
    if not blocks:
        return [
            Refused(key, "no data block has atoms with fractional coordinates", "give a CIF of a crystal structure")
        ]
    several = len(blocks) > 1
    return [_read_block(block, f"{key}:{block.name}" if several else key, max_sites) for block in blocks]


def _decoded(text: str | bytes) -> str:
    decoded = text if isinstance(text, str) else _from_bytes(text)
    if not decoded.isascii():
        # CIF is ASCII; beyond it are names of people, and minus signs of word processors.
        decoded = decoded.removeprefix("\ufeff").replace("\u2212", "-").encode("ascii", "replace").decode()
    return decoded


def _from_bytes(data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _read_parts(text: str, key: str, cause: str, max_sites: int) -> list[Reading | Refused]:
    """One block at a time where the whole is not valid CIF, so that the good blocks are not lost."""
    parts = [part for part in re.split(r"(?im)^(?=data_)", text) if re.match(r"(?i)data_", part)]
    parts = [part for part in parts if re.search(r"(?i)_atom_site[_.]fract_x", part)]
    if not parts:
        return [Refused(key, f"it is no CIF of a crystal ({cause})", "give a CIF with a cell and atoms")]
    outcomes: list[Reading | Refused] = []
    for part in parts:
        name = key if len(parts) == 1 else f"{key}:{part.split(None, 1)[0][5:]}"
        try:
            block = cif.read_string(part).sole_block()
        except (ValueError, RuntimeError) as error:
            outcomes.append(_read_with_pymatgen(part, name, str(error), max_sites))
        else:
            outcomes.append(_read_block(block, name, max_sites))
    return outcomes


def _read_block(block: cif.Block, key: str, max_sites: int) -> Reading | Refused:
    loop = _atom_loop(block)
    if loop is None:
        return Refused(key, "its atoms have no fractional coordinates", "give a loop of atom sites")
    try:
        return _read_with_gemmi(block, loop, key, max_sites)
    except Refused as refused:
        return refused
    except RuntimeError as error:
        document = cif.Document()
        document.add_copied_block(block)
        return _read_with_pymatgen(document.as_string(), key, str(error), max_sites)


def _read_with_gemmi(block: cif.Block, loop: cif.Loop, key: str, max_sites: int) -> Reading:
    cell, notes = _cell(block, key)
    lattice = np.array(cell.orth.mat.tolist()).T
    if not 0.0 < cell.volume < np.inf:
        raise Refused(key, f"the volume of the cell is {cell.volume:g}", "correct the cell lengths and angles")
    formula = symbols.sum_formula(_value(block, "chemical_formula_sum"))
    atoms = _atoms(loop, _oxidation_states(block), key, formula)
    if len(atoms.species) > _ROWS_PER_SITE * max_sites:
        raise Refused(
            key,
            f"{len(atoms.species)} atoms are listed for at most {max_sites} sites",
            "give a smaller cell, or allow more sites",
        )
    operations, guess = operations_of(block, cell.alpha, cell.gamma)
    notes += [guess, *atoms.notes]
    positions, species = atoms.positions, atoms.species
    if operations is not None and np.isfinite(positions).all():
        positions, sources = orbits(positions, lattice, operations)
        species = species[sources]
    reading = checked(Crystal(lattice, positions, species, atoms.kinds, key), max_sites=max_sites)
    composition = reading.crystal.composition()
    if atoms.has_bare_oxygen and 1 not in composition:
        notes.append("water or hydroxyl was read as its oxygen: its hydrogens have no coordinates")
    if _disagrees(composition, formula):
        notes.append(f"the stated formula {_value(block, 'chemical_formula_sum')!r} disagrees with the atoms")
    return Reading(reading.crystal, (*dict.fromkeys(note for note in notes if note), *reading.notes))


def _read_with_pymatgen(text: str, key: str, cause: str, max_sites: int) -> Reading | Refused:
    from pymatgen.io.cif import CifParser

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Occupancies are for our policies to judge, hence the tolerance.
            parser = CifParser.from_str(text, occupancy_tolerance=1e6)
            (structure,) = parser.parse_structures(primitive=False, on_error="raise")
    except Exception as error:  # whatever a parser raises on broken text, it means the same
        reason = " ".join(f"neither gemmi ({cause}) nor pymatgen ({error}) can read it".split())
        return Refused(key, reason, "repair the CIF; a file cut short, or an unclosed quote, is a common cause")
    try:
        reading = convert(structure, key, max_sites=max_sites)
    except Refused as refused:
        return refused
    stated = re.search(r"(?im)^_chemical_formula_sum\s+(['\"]?)([^'\"\n]*)\1", text)
    if stated and _disagrees(reading.crystal.composition(), symbols.sum_formula(stated.group(2))):
        reason = f"gemmi cannot read it ({cause}), and what pymatgen reads disagrees with the stated formula"
        return Refused(key, reason, "repair the CIF")
    return Reading(reading.crystal, (f"read by pymatgen, as gemmi cannot ({cause})", *reading.notes))


@dataclass(frozen=True)
class _Atoms:
    """The atoms of a block as it lists them, before symmetry."""

    positions: Float[np.ndarray, "atoms 3"]
    species: Int[np.ndarray, " atoms"]
    kinds: tuple[Species, ...]
    notes: tuple[str, ...]
    has_bare_oxygen: bool


def _atoms(loop: cif.Loop, oxidation_states: Mapping[str, float], key: str, formula: Mapping[int, float]) -> _Atoms:
    columns = {tag.lower().replace(".", "_"): row for row, tag in enumerate(loop.tags)}
    values, width = loop.values, len(columns)

    def column(name: str) -> list[str] | None:
        start = columns.get("_atom_site_" + name)
        return None if start is None else values[start::width]

    types, labels = column("type_symbol"), column("label")
    symbols_given = types if types is not None else labels
    if symbols_given is None:
        raise Refused(key, "its atoms have neither type symbols nor labels", "add _atom_site_type_symbol")
    if any(flag.lower() == "dum" for flag in column("calc_flag") or ()):
        raise Refused(key, "it lists dummy atoms", "remove the atoms flagged 'dum'")
    texts: list[str] = []
    for name in _AXES:
        axis = column(name)
        if axis is None:
            raise Refused(key, f"the column _atom_site_{name} is missing", "give three fractional coordinates")
        texts += axis
    positions = _coordinates(texts, labels or symbols_given, key)
    occupancies = column("occupancy") or ["1"] * len(symbols_given)
    distinct: dict[tuple[str, str], int] = {}
    rows = [distinct.setdefault(pair, len(distinct)) for pair in zip(symbols_given, occupancies, strict=True)]
    occupants = _Occupants(key, oxidation_states, formula, are_labels=types is None)
    which, kinds = of_species([occupants.of(symbol, occupancy) for symbol, occupancy in distinct])
    return _Atoms(positions, which[rows], kinds, tuple(occupants.notes), occupants.has_bare_oxygen)


class _Occupants:
    """Turns what a block writes for an atom into an occupant, and keeps note."""

    def __init__(
        self, key: str, oxidation_states: Mapping[str, float], formula: Mapping[int, float], *, are_labels: bool
    ) -> None:
        self.key = key
        self.formula = formula
        self.meaning = symbols.from_label if are_labels else symbols.from_type
        self.oxidation_states = oxidation_states
        self.notes: list[str] = []
        self.has_bare_oxygen = False

    def of(self, symbol: str, occupancy: str) -> Species:
        symbol = cif.as_string(symbol)
        meaning = self.meaning(symbol)
        number = symbols.element(meaning, self.formula.keys())
        if number == 0:
            raise unknown_element(self.key, symbol)
        self.notes.append(meaning.note)
        self.has_bare_oxygen |= meaning.bare_oxygen
        if occupancy == "?":
            self.notes.append(f"the unknown occupancy of {symbol} was read as 1")
        amount = 1.0 if occupancy in {"?", "."} else _number(occupancy)
        if amount is None:
            raise Refused(self.key, f"the occupancy {occupancy!r} of {symbol} is no number", "correct it")
        return (Occupant(number, amount, self.oxidation_states.get(symbol, meaning.oxidation_state)),)


def _cell(block: cif.Block, key: str) -> tuple[gemmi.UnitCell, list[str]]:
    notes = []
    parameters = []
    for name in _CELL:
        text = _value(block, name)
        if "angle" in name and text in {"", "?", "."}:
            notes.append(f"the missing _{name} was read as 90 degrees")
            text = "90"
        number = _number(text)
        if number is None:
            found = f"is {text!r}" if text else "is missing"
            raise Refused(key, f"_{name} {found}", "give three cell lengths and three angles as numbers")
        parameters.append(number)
    if min(parameters) <= 0.0:
        raise Refused(key, f"a cell length or angle is {min(parameters):g}", "correct the cell lengths and angles")
    return gemmi.UnitCell(*parameters), notes


def _coordinates(texts: list[str], labels: list[str], key: str) -> Float[np.ndarray, "atoms 3"]:
    """Coordinates from all x, then all y, then all z."""
    try:
        numbers = list(map(float, texts))
    except ValueError:
        read = [_number(text) for text in texts]
        rows = zip(labels * 3, texts, read, strict=True)
        bad = [f"{cif.as_string(label)} ({text})" for label, text, number in rows if number is None]
        if bad:
            found = f"no coordinates for {', '.join(bad[:3])}" + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
            raise Refused(key, found, "give coordinates, or remove these atoms") from None
        numbers = [number for number in read if number is not None]
    return np.array(numbers).reshape(3, -1).T.copy()


def _number(text: str) -> float | None:
    """A number, without the uncertainty in parentheses that may follow it."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return float(text.strip("'\"").partition("(")[0])
    except ValueError:
        return None


def _value(block: cif.Block, name: str) -> str:
    found = block.find_value(f"_{name}") or block.find_value(f"_{name.replace('_', '.', 1)}")
    return cif.as_string(found) if found else ""


def _atom_loop(block: cif.Block) -> cif.Loop | None:
    for tag in ("_atom_site_fract_x", "_atom_site.fract_x"):
        loop = block.find_loop(tag).get_loop()
        if loop is not None:
            return loop
    return None


def _oxidation_states(block: cif.Block) -> dict[str, float]:
    table = block.find("_atom_type_", ["symbol", "oxidation_number"])
    states = ((cif.as_string(row[0]), _number(row[1])) for row in table)
    return {symbol: state for symbol, state in states if state is not None}


def _disagrees(composition: Mapping[int, float], formula: Mapping[int, float]) -> bool:
    """Whether the share of some element differs; amounts may, as formula units do."""
    atoms, stated = sum(composition.values()), sum(formula.values())
    if not stated:
        return False
    elements = composition.keys() | formula.keys()
    return any(
        abs(composition.get(number, 0.0) / atoms - formula.get(number, 0.0) / stated) > _FORMULA_SLACK
        for number in elements
    )
