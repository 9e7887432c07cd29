"""Crystals from Python objects, and what is refused whichever way a structure came in.

No structure is edited silently: whatever is reinterpreted is listed in `Reading.notes`, whatever is not taken is a
`Refused` with a reason and a remedy. The policies, for every reader:

| Found | Done |
|---|---|
| deuterium, tritium | read as hydrogen, noted |
| several species at one position, occupancies summing to at most 1 | one site with a row of occupancies |
| split positions: partially occupied sites close together | kept as separate sites |
| partial occupancies, vacancies, oxidation states | kept as they are |
| one position listed twice with the same species, over 1 in sum | kept once, noted |
| occupancies of a position summing to more than 1, at most 1.05 | scaled to 1, noted |
| occupancies of a position summing to more than 1.05 | refused |
| sites closer than 0.5 angstrom whose occupancies sum to more than 1.05 | refused |
| an atom of occupancy 0 | left out, noted; refused where no other atom remains |
| occupancy negative or not a number | refused |
| dummy species, unknown element, atomic number above 103 | refused, naming it |
| a cell without finite positive volume, an edge below 0.5 or lattice planes less than 0.1 angstrom apart | refused |
| a coordinate that is missing or not a number | refused |
| no atom, or more than `max_sites` sites | refused |
| molecules, chains, slabs: not periodic in three directions | refused |
| CIF: atoms on a special position to within 0.05 angstrom | put on it exactly, their images counted once |
| CIF: no symmetry, or a name that is not known | read as P1, noted |
| CIF: stated formula disagrees with the atoms | kept, noted (refused where gemmi could not read the file) |
| CIF: no element column | element from the label, see `symbols` |
| CIF: syntax that gemmi does not accept | read by pymatgen, noted; refused where it cannot either |
| CIF: several data blocks | one crystal for each block with atoms |
| CIF: UTF-8 or UTF-16 with or without byte-order mark, Latin-1, any line ending | read |
"""

import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import gemmi
import numpy as np
from jaxtyping import Float, Int

from crystalmax.contacts import close_pairs, plane_spacings
from crystalmax.crystal import Crystal, Occupant, Species
from crystalmax.symbols import HEAVIEST, from_type, isotope_note

MAX_SITES = 1000
"""Sites of a cell above which it is refused, unless the caller says otherwise."""
OCCUPANCY_SLACK = 1.05
CONTACT = 0.5
"""Distance in angstrom below which two sites cannot both be occupied."""
SAME_POSITION = 0.01
"""Distance in angstrom below which two atoms share one position."""
FLATTEST = 0.1

_log = logging.getLogger(__name__)


class Refused(ValueError):
    """A structure that is not taken, with the reason and what would help."""

    def __init__(self, key: str, reason: str, remedy: str) -> None:
        super().__init__(key, reason, remedy)
        self.key = key
        self.reason = reason
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.key or 'this structure'}: {self.reason}; {self.remedy}."


class Reading(NamedTuple):
    """A crystal that was taken, and every reinterpretation made on the way."""

    crystal: Crystal
    notes: tuple[str, ...] = ()


def checked(crystal: Crystal, *, notes: Iterable[str] = (), max_sites: int = MAX_SITES) -> Reading:
    """The crystal with one site for each position, if the policies of this module allow it.

    Args:
        crystal: Rows of `positions` may coincide; those that do become one site.
        notes: What was reinterpreted before.
        max_sites: Sites above which the cell is refused.

    Raises:
        Refused: The policies do not allow it.
    """
    _check_cell(crystal)
    crystal, dropped = _without_empty_atoms(crystal)
    pairs, distances = close_pairs(crystal.lattice, crystal.positions, CONTACT)
    together = distances < SAME_POSITION
    untidy = any(len(kind) > 1 or kind[0].occupancy > 1.0 for kind in crystal.kinds)
    merged: tuple[str, ...] = ()
    root = np.arange(crystal.n_sites)
    if untidy or together.any():
        for first, second in pairs[together]:
            root[second] = min(root[second], root[first])
        crystal, merged = _one_site_each_position(crystal, root)
    if crystal.n_sites > max_sites:
        raise Refused(
            crystal.key,
            f"the cell has {crystal.n_sites} sites, more than the {max_sites} allowed",
            "give a smaller cell, or allow more sites",
        )
    if not together.all():
        _check_contacts(crystal, np.searchsorted(np.unique(root), root[pairs]), distances)
    return Reading(crystal, tuple(dict.fromkeys((*notes, *dropped, *merged))))


def convert(structure: object, key: str = "", *, max_sites: int = MAX_SITES) -> Reading:
    """A crystal from a Python object, with notes.

    Args:
        structure: A `Crystal`, a pymatgen `Structure` (ordered or not) or periodic ASE `Atoms`. From ASE, occupancies
            are taken where its CIF reader left them, in `info["occupancy"]`.
        key: A name for it; an empty one keeps the name of a `Crystal`.
        max_sites: Sites above which the cell is refused.

    Raises:
        Refused: The structure is not allowed by the policies of this module.
        TypeError: The object is none of these.
    """
    if isinstance(structure, Crystal):
        return checked(replace(structure, key=key) if key else structure, max_sites=max_sites)
    # The origin is read off the class, so that neither package is imported for nothing.
    origins = {ancestor.__module__.partition(".")[0] for ancestor in type(structure).__mro__}
    if "ase" in origins:  # asked first, as pymatgen has its own subclass of Atoms
        crystal, notes = _from_ase(structure, key)
    elif "pymatgen" in origins:
        crystal, notes = _from_pymatgen(structure, key)
    else:
        raise TypeError(
            f"{key or 'this structure'} is a {type(structure).__name__}; expected a pymatgen Structure, ASE Atoms or a "
            "Crystal. Pass files and folders through crystalmax.sources.read."
        )
    return checked(crystal, notes=notes, max_sites=max_sites)


def to_crystal(structure: object, key: str = "") -> Crystal:
    """A crystal from a `Crystal`, a pymatgen `Structure` or ASE `Atoms`; reinterpretations are logged as warnings."""
    crystal, notes = convert(structure, key)
    for note in notes:
        _log.warning("%s: %s", crystal.key or "this structure", note)
    return crystal


def of_species(species: Iterable[Species]) -> tuple[Int[np.ndarray, " sites"], tuple[Species, ...]]:
    """Rows of distinct species in order of appearance, one a site, and the species themselves."""
    kinds: dict[Species, int] = {}
    rows = [kinds.setdefault(kind, len(kinds)) for kind in species]
    return np.array(rows, dtype=np.int64), tuple(kinds)


def unknown_element(key: str, symbol: str) -> Refused:
    """The refusal of something that is no element."""
    return Refused(key, f"{symbol!r} is not an element", "replace the dummy or misspelt species by an element")


def _check_cell(crystal: Crystal) -> None:
    lattice, key = crystal.lattice, crystal.key
    if crystal.n_sites == 0:
        raise Refused(key, "it has no atoms", "give at least one atom with coordinates")
    spacings = plane_spacings(lattice)
    if not 0.0 < math.prod(spacings) < math.inf:
        volume = crystal.volume if np.isfinite(lattice).all() else math.nan
        raise Refused(key, f"the volume of the cell is {volume:g}", "correct the cell lengths and angles")
    shortest = min(math.hypot(*edge) for edge in lattice.tolist())
    if shortest < CONTACT or min(spacings) < FLATTEST:
        raise Refused(
            key,
            f"the cell is collapsed, with an edge of {shortest:.3g} and planes {min(spacings):.3g} angstrom apart",
            "correct the cell; lengths are in angstrom and angles in degrees",
        )
    if not np.isfinite(crystal.positions).all():
        raise Refused(key, "a coordinate is not a finite number", "give every atom three fractional coordinates")


def _without_empty_atoms(crystal: Crystal) -> tuple[Crystal, tuple[str, ...]]:
    occupied = []
    for kind in crystal.kinds:
        for number, occupancy, _ in kind:
            if not 1 <= number <= HEAVIEST:
                raise Refused(
                    crystal.key,
                    f"atomic number {number} is outside 1 to {HEAVIEST}",
                    "no table of properties covers it; leave this structure out",
                )
            if not 0.0 <= occupancy < np.inf:
                raise Refused(crystal.key, f"an occupancy of {_name(number)} is {occupancy:g}", "correct it")
        occupied.append(tuple(occupant for occupant in kind if occupant.occupancy > 0.0))
    if all(len(old) == len(new) > 0 for old, new in zip(crystal.kinds, occupied, strict=True)):
        return crystal, ()
    kept = np.array([bool(kind) for kind in occupied])[crystal.species]
    if not kept.any():
        raise Refused(crystal.key, "every atom has occupancy 0", "correct the occupancies")
    species, kinds = of_species(occupied[row] for row in crystal.species[kept])
    left_out = sum(len(crystal.kinds[row]) - len(occupied[row]) for row in crystal.species)
    note = f"{left_out} atoms of occupancy 0 were left out"
    return replace(crystal, positions=crystal.positions[kept], species=species, kinds=kinds), (note,)


def _one_site_each_position(crystal: Crystal, root: Int[np.ndarray, " sites"]) -> tuple[Crystal, tuple[str, ...]]:
    members: dict[int, list[Occupant]] = {}
    for row, first in enumerate(root.tolist()):
        members.setdefault(first, []).extend(crystal.kinds[crystal.species[row]])
    first_rows = sorted(members)
    settled = [_settled(crystal, row, members[row]) for row in first_rows]
    species, kinds = of_species(kind for kind, _ in settled)
    notes = tuple(note for _, note in settled if note)
    return replace(crystal, positions=crystal.positions[first_rows], species=species, kinds=kinds), notes


def _settled(crystal: Crystal, row: int, occupants: list[Occupant]) -> tuple[Species, str]:
    """What occupies one position, from all atoms that were listed there."""
    note = ""
    total = sum(occupant.occupancy for occupant in occupants)
    if total > OCCUPANCY_SLACK and len(set(occupants)) == 1 and occupants[0].occupancy <= OCCUPANCY_SLACK:
        note = f"{_name(occupants[0].atomic_number)} is listed {len(occupants)} times at one position and was kept once"
        occupants = occupants[:1]
        total = occupants[0].occupancy
    if total > OCCUPANCY_SLACK:
        there = " + ".join(f"{_name(number)} {occupancy:g}" for number, occupancy, _ in occupants)
        raise Refused(
            crystal.key,
            f"occupancies at {_place(crystal, row)} sum to {total:.3g} ({there})",
            "correct the occupancies, or the coordinates of overlapping atoms",
        )
    amounts: dict[tuple[int, float | None], float] = {}
    for number, occupancy, oxidation in occupants:
        amounts[number, oxidation] = amounts.get((number, oxidation), 0.0) + occupancy / max(total, 1.0)
    if total > 1.0 + 1e-6:
        note = f"occupancies summing to {total:.4g} were scaled to 1"
    kind = (Occupant(number, min(amount, 1.0), oxidation) for (number, oxidation), amount in amounts.items())
    return tuple(sorted(kind, key=lambda one: (one[0], one[2] is not None, one[2] or 0.0))), note


def _check_contacts(
    crystal: Crystal, pairs: Int[np.ndarray, "pairs 2"], distances: Float[np.ndarray, " pairs"]
) -> None:
    occupancy = np.array([sum(occupant.occupancy for occupant in kind) for kind in crystal.kinds])[crystal.species]
    clash = (occupancy[pairs].sum(axis=1) > OCCUPANCY_SLACK) & (pairs[:, 0] != pairs[:, 1])
    for (first, second), distance in zip(pairs[clash].tolist(), distances[clash].tolist(), strict=True):
        raise Refused(
            crystal.key,
            f"{_place(crystal, first)} and {_place(crystal, second)} are {distance:.2f} angstrom apart with "
            f"occupancies summing to {occupancy[first] + occupancy[second]:.3g}",
            "correct the coordinates, or give both partial occupancies",
        )


def _place(crystal: Crystal, row: int) -> str:
    names = "/".join(_name(occupant.atomic_number) for occupant in crystal.kinds[crystal.species[row]])
    return f"{names} at ({', '.join(f'{x:.4f}' for x in crystal.positions[row])})"


def _name(atomic_number: int) -> str:
    return str(gemmi.Element(atomic_number).name)


def _from_pymatgen(structure: object, key: str) -> tuple[Crystal, set[str]]:
    from pymatgen.core.periodic_table import DummySpecies
    from pymatgen.core.periodic_table import Species as Ion
    from pymatgen.core.structure import IStructure

    if not isinstance(structure, IStructure) or not all(structure.lattice.pbc):
        raise Refused(key, "it is not periodic in three directions", "only crystals can be read, no molecules or slabs")
    notes: set[str] = set()

    def kinds() -> Iterator[Species]:
        for site in structure:
            row = []
            for symbol, occupancy in site.species.items():
                if isinstance(symbol, DummySpecies):
                    raise unknown_element(key, symbol.symbol)
                # The isotopes are members of the enumeration Element whose symbol is that of hydrogen.
                written = symbol.symbol if isinstance(symbol, Ion) else symbol.name
                if written in {"D", "T"}:
                    notes.add(isotope_note(written))
                oxidation = symbol.oxi_state if isinstance(symbol, Ion) else None
                row.append(Occupant(int(symbol.Z), float(occupancy), None if oxidation is None else float(oxidation)))
            yield tuple(sorted(row, key=lambda occupant: occupant.atomic_number))

    species, distinct = of_species(kinds())
    lattice = np.array(structure.lattice.matrix, dtype=np.float64)
    return Crystal(
        lattice, np.array(structure.frac_coords, dtype=np.float64).reshape(-1, 3), species, distinct, key
    ), notes


def _from_ase(structure: object, key: str) -> tuple[Crystal, set[str]]:
    from ase import Atoms

    if not isinstance(structure, Atoms) or not structure.pbc.all():
        raise Refused(
            key,
            "it is not periodic in three directions",
            "set a cell and pbc=True; molecules and slabs are no crystals",
        )
    lattice = np.array(structure.cell[:], dtype=np.float64)
    if structure.cell.rank < 3:
        raise Refused(key, "the volume of the cell is 0", "set three independent cell vectors")
    given = {str(kind): row for kind, row in structure.info.get("occupancy", {}).items()}
    which = structure.arrays.get("spacegroup_kinds", np.full(len(structure), -1))
    notes: set[str] = set()

    def kinds() -> Iterator[Species]:
        for number, kind in zip(structure.numbers.tolist(), which.tolist(), strict=True):
            if str(kind) not in given:
                if number == 0:
                    raise unknown_element(key, "X")
                yield (Occupant(number, 1.0),)
                continue
            row = []
            for symbol, occupancy in given[str(kind)].items():
                meaning = from_type(symbol)
                if not meaning.candidates:
                    raise unknown_element(key, symbol)
                notes.update({meaning.note} - {""})
                row.append(Occupant(meaning.candidates[0], float(occupancy)))
            yield tuple(sorted(row))

    species, distinct = of_species(kinds())
    return Crystal(lattice, structure.positions @ np.linalg.inv(lattice), species, distinct, key), notes
