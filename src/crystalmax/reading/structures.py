"""Crystals from Python objects, and the checks that all structures go through, wherever they come from.

No structure is edited silently: every reinterpretation is listed in `Reading.notes`, and every structure that is not
taken raises `Refused` with a reason and a remedy. The rules, for every reader:

| Found | Done |
|---|---|
| partial occupancies, vacancies, oxidation states | kept as they are |
| several species at one position, occupancies summing to at most 1 | one site with a row of occupancies |
| split positions: partially occupied sites close together | kept as separate sites |
| deuterium | read as hydrogen, noted |
| one position listed twice with the same species, over 1 in sum | kept once, noted |
| occupancies of a position summing to more than 1, at most 1.05 | scaled to 1, noted |
| occupancies summing to more than 1.05 at one position, or on two sites closer than 0.5 angstrom | refused |
| an atom of occupancy 0 | left out, noted; refused where no other atom remains |
| dummy species, unknown element, atomic number above 103 | refused, naming it |
| a cell without finite positive volume, or with lattice planes less than 0.5 angstrom apart | refused |
| a coordinate that is missing, no number or beyond a million, an occupancy that is negative or no number | refused |
| no atom, or more than `max_sites` sites | refused |
| molecules, chains, slabs: an object that is not periodic in three directions | refused |
| the same in a box: a layer without the centre of an atom, thicker than 8 angstrom | taken for a crystal, noted |
| CIF: atoms on a special position to within 0.05 angstrom | put on it exactly, their images counted once |
| CIF: no symmetry, or a name that is not known; one with two origins that says neither | P1; the first; noted |
| CIF: a cell without the symmetry of its operations, by 1 % | as given, noted (refused where gemmi could not read it) |
| CIF: symmetry given as superspace or magnetic operations only | refused |
| CIF: stated formula disagrees with the atoms | kept, noted (refused where gemmi could not read the file) |
| CIF: no element column | element from the label, see `symbols` |
| CIF: syntax that gemmi does not accept | read by pymatgen, noted; refused where it cannot either |
| CIF: several data blocks | one crystal for each block with atoms |
| CIF: UTF-8, or UTF-16 with a byte-order mark, any line ending | read; characters beyond ASCII carry no meaning |
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain, product
from operator import itemgetter
from typing import NamedTuple

import gemmi
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import cKDTree

from crystalmax.crystal import Crystal, Occupant, Species, of_species
from crystalmax.elements import N_ELEMENTS
from crystalmax.limits import Refused as Refused
from crystalmax.reading.symbols import from_type

MAX_SITES = 1000
"""Sites of a cell above which it is refused, unless the caller says otherwise."""
OCCUPANCY_SLACK = 1.05
MOST_CHARGE = 20.0
"""Largest absolute oxidation state that is accepted, since it enters networks as a number."""

FARTHEST = 1e6
"""Largest absolute fractional coordinate; beyond, floating-point numbers lose the position within a cell."""

CONTACT = 0.5
"""Distance in angstrom below which two sites cannot both be occupied, nor two lattice planes be told apart."""
EMPTY = 8.0
"""A cell with an empty layer thicker than this, in angstrom, is noted as a possible slab or molecule."""
MOST_CROWDED = 2000.0
"""Largest product of the number of sites (up to `MAX_SITES`) and their number per cubic angstrom, which is about 0.2 in
crystals. Beyond, the neighbours of all sites would take gigabytes in `surroundings`."""
SAME_POSITION = 0.01
"""Distance in angstrom below which two atoms share one position."""

_IMAGES: Float[np.ndarray, "27 3"] = np.array(list(product((-1.0, 0.0, 1.0), repeat=3)))


class Reading(NamedTuple):
    """A crystal that was read, and a note for every reinterpretation."""

    crystal: Crystal
    notes: tuple[str, ...] = ()


def checked(crystal: Crystal, notes: Iterable[str] = (), *, max_sites: int = MAX_SITES) -> Reading:
    """The crystal with one site for each position, with notes, or `Refused` by the rules above."""
    _check_cell_and_atoms(crystal)
    pairs, distances = close_pairs(crystal.lattice, crystal.positions, CONTACT)
    together = pairs[distances < SAME_POSITION]
    if len(together) or any(len(kind) != 1 or not 0.0 < kind[0].occupancy <= 1.0 for kind in crystal.kinds):
        crystal, merged = _one_site_each_position(crystal, together)
        notes = (*notes, *merged)
        pairs, distances = close_pairs(crystal.lattice, crystal.positions, CONTACT)
    if crystal.n_sites > max_sites:
        reason = f"the cell has {crystal.n_sites} sites, more than the {max_sites} allowed"
        raise Refused(crystal.key, reason, "give a smaller cell, or allow more sites")
    if crystal.n_sites * min(crystal.n_sites, MAX_SITES) > MOST_CROWDED * crystal.volume:
        reason = f"it has {crystal.n_sites:,} sites in {crystal.volume:.0f} cubic angstrom"
        raise Refused(crystal.key, reason, "list each atom once, on one site")
    _check_contacts(crystal, pairs, distances)
    if (empty := _widest_gap(crystal)) > EMPTY:
        looks = "it looks like a slab or a molecule in a box, and was taken for a crystal"
        notes = (*notes, f"an empty layer of {empty:.1f} angstrom: {looks}")
    return Reading(crystal, tuple(dict.fromkeys(notes)))


def convert(structure: object, key: str = "", *, max_sites: int = MAX_SITES) -> Reading:
    """A crystal from a `Crystal`, a pymatgen `Structure` or periodic ASE `Atoms`, with notes.

    An empty key keeps the name of a `Crystal`. For ASE, occupancies come from `info["occupancy"]`, where its CIF reader
    puts them. An atom whose symbol is not among them was exchanged or added since, and has the occupancy 1.

    Raises:
        Refused: It is no structure, or the rules above refuse it.
    """
    origin = origin_of(structure)
    if isinstance(structure, Crystal):
        reading = Reading(replace(structure, key=key) if key else structure)
    elif origin:
        reading = (_from_ase if origin == "ase" else _from_pymatgen)(structure, key)
    else:
        remedy = "give a path, CIF text, a pymatgen Structure or its as_dict(), ASE Atoms or a Crystal"
        raise Refused(key, f"a {type(structure).__name__} is no structure", remedy)
    return checked(*reading, max_sites=max_sites)


def origin_of(structure: object) -> str:
    """The package that an object is from, `ase` or `pymatgen`, read off its class so that neither is imported."""
    packages = {ancestor.__module__.partition(".")[0] for ancestor in type(structure).__mro__}
    return next((package for package in ("ase", "pymatgen") if package in packages), "")  # pymatgen subclasses Atoms


def unknown_element(key: str, symbol: str) -> Refused:
    """The refusal of something that is no element."""
    remedy = "replace the dummy or misspelt species by an element, a mixture by a row for each with its occupancy"
    return Refused(key, f"{symbol!r} is not an element", remedy)


def close_pairs(
    lattice: Float[np.ndarray, "3 3"], positions: Float[np.ndarray, "sites 3"], cutoff: float
) -> tuple[Int[np.ndarray, "pairs 2"], Float[np.ndarray, " pairs"]]:
    """Pairs of different sites closer than a cutoff across all periodic images, and their distances in angstrom.

    Lattice planes must be farther apart than the cutoff.
    """
    # Atoms closer than the cutoff are so along the normal of each lattice plane too, which finds the few candidates.
    # The remainder of a tiny negative number is the whole spacing, hence the second remainder.
    spacings = _plane_spacings(lattice)
    tree = cKDTree(positions * spacings % spacings % spacings, boxsize=spacings)
    pairs = tree.query_pairs(cutoff + 1e-9, p=np.inf, output_type="ndarray").astype(np.int64)
    if len(pairs) == 0:
        return pairs, np.empty(0)
    pairs = pairs[np.lexsort(pairs.T[::-1])]
    between = positions[pairs[:, 1]] - positions[pairs[:, 0]]
    images = (between - np.rint(between))[:, None] + _IMAGES
    nearest = np.linalg.norm(images @ lattice, axis=2).min(axis=1)
    return pairs[nearest < cutoff], nearest[nearest < cutoff]


def _check_cell_and_atoms(crystal: Crystal) -> None:
    key = crystal.key
    if crystal.n_sites == 0:
        raise Refused(key, "it has no atoms", "give at least one atom with coordinates")
    _check_cell(crystal.lattice, key)
    if not np.isfinite(crystal.positions).all():
        raise Refused(key, "a coordinate is not a finite number", "give every atom three fractional coordinates")
    if (farthest := float(np.abs(crystal.positions).max())) > FARTHEST:
        remedy = "give coordinates as fractions of the cell"
        raise Refused(key, f"an atom is {farthest:.3g} cells away, where its place in a cell is lost", remedy)
    for number, occupancy, charge in chain.from_iterable(crystal.kinds):
        if not 1 <= number <= N_ELEMENTS:
            reason = f"atomic number {number} is outside 1 to {N_ELEMENTS}"
            raise Refused(key, reason, "no table of properties covers it; leave this structure out")
        if not 0.0 <= occupancy < math.inf:
            raise Refused(key, f"an occupancy of {_name(number)} is {occupancy:g}", "correct it")
        if charge is not None and not abs(charge) <= MOST_CHARGE:
            raise Refused(key, f"an oxidation state of {_name(number)} is {charge:g}", "correct it")


def _check_cell(lattice: Float[np.ndarray, "3 3"], key: str) -> None:
    spacing = _plane_spacings(lattice).min()
    if not 0.0 < spacing < math.inf:
        raise Refused(key, "the cell has no volume", "correct the cell lengths and angles")
    if spacing < CONTACT:
        reason = f"the cell is collapsed, with lattice planes {spacing:.3g} angstrom apart"
        raise Refused(key, reason, "correct the cell; lengths are in angstrom and angles in degrees")


def _plane_spacings(lattice: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3"]:
    """Distances in angstrom between opposite faces of the cell; 0 or NaN if it has no volume."""
    a, b, c = (gemmi.Vec3(*edge) for edge in lattice.tolist())  # for three numbers, much faster than numpy
    faces = [b.cross(c), c.cross(a), a.cross(b)]
    return np.array([abs(a.dot(faces[0])) / (face.length() or 1.0) for face in faces])


def _widest_gap(crystal: Crystal) -> float:
    """Thickness of the widest layer parallel to a face of the cell without the centre of an atom, in angstrom."""
    places = np.sort(crystal.positions % 1.0, axis=0)
    gaps = np.diff(places, axis=0, append=places[:1] + 1.0).max(axis=0)
    return float((gaps * _plane_spacings(crystal.lattice)).max())


def _one_site_each_position(crystal: Crystal, together: Int[np.ndarray, "pairs 2"]) -> tuple[Crystal, tuple[str, ...]]:
    first = np.arange(crystal.n_sites)
    for one, other in together:
        first[other] = min(first[other], first[one])
    members: dict[int, list[Occupant]] = {}
    for row, site in enumerate(first.tolist()):
        members.setdefault(site, []).extend(crystal.kinds[crystal.species[row]])
    settled = {site: _settled(crystal, site, occupants) for site, occupants in members.items()}
    rows = [site for site, (kind, _) in settled.items() if kind]
    if not rows:
        raise Refused(crystal.key, "every atom has occupancy 0", "correct the occupancies")
    species, kinds = of_species(settled[site][0] for site in rows)
    notes = tuple(note for _, noted in settled.values() for note in noted)
    return replace(crystal, positions=crystal.positions[rows], species=species, kinds=kinds), notes


def _settled(crystal: Crystal, site: int, listed: list[Occupant]) -> tuple[Species, list[str]]:
    """The species at one position, from all occupants that were listed there, and notes."""
    occupants = [occupant for occupant in listed if occupant.occupancy > 0.0]
    notes = [f"{_name(one.atomic_number)} of occupancy 0 was left out" for one in listed if one.occupancy == 0.0]
    total = sum(occupant.occupancy for occupant in occupants)
    if total > OCCUPANCY_SLACK and len(set(occupants)) == 1 and len(occupants) > 1:
        name = _name(occupants[0].atomic_number)
        notes.append(f"{name} is listed {len(occupants)} times at one position and was kept once")
        occupants, total = occupants[:1], occupants[0].occupancy
    if total > OCCUPANCY_SLACK:
        there = " + ".join(f"{_name(number)} {occupancy:g}" for number, occupancy, _ in occupants)
        reason = f"occupancies at {_place(crystal, site)} sum to {total:.3g} ({there})"
        raise Refused(crystal.key, reason, "correct the occupancies, or the coordinates of overlapping atoms")
    if total > 1.0 + 1e-6:
        notes.append(f"occupancies summing to {total:.4g} were scaled to 1")
    amounts: dict[tuple[int, float | None], float] = {}
    for number, occupancy, charge in occupants:
        amounts[number, charge] = amounts.get((number, charge), 0.0) + occupancy / max(total, 1.0)
    kind = [Occupant(number, min(amount, 1.0), charge) for (number, charge), amount in amounts.items()]
    return tuple(sorted(kind, key=lambda one: (one[0], one[2] is not None, one[2] or 0.0))), notes


def _check_contacts(crystal: Crystal, pairs: Int[np.ndarray, "pairs 2"], apart: Float[np.ndarray, " pairs"]) -> None:
    for (one, other), distance in zip(pairs.tolist(), apart.tolist(), strict=True):
        total = sum(occupant.occupancy for site in (one, other) for occupant in crystal.kinds[crystal.species[site]])
        if total > OCCUPANCY_SLACK:
            where = f"{_place(crystal, one)} and {_place(crystal, other)} are {distance:.2f} angstrom apart"
            remedy = "correct the coordinates, or give both partial occupancies"
            raise Refused(crystal.key, f"{where} with occupancies summing to {total:.3g}", remedy)


def _place(crystal: Crystal, site: int) -> str:
    names = "/".join(_name(occupant.atomic_number) for occupant in crystal.kinds[crystal.species[site]])
    return f"{names} at ({', '.join(f'{x:.4f}' for x in crystal.positions[site])})"


def _name(atomic_number: int) -> str:
    return str(gemmi.Element(atomic_number).name)


def _from_pymatgen(structure: object, key: str) -> Reading:
    from pymatgen.core.structure import IStructure

    if not isinstance(structure, IStructure) or not all(structure.lattice.pbc):
        found = f"a {type(structure).__name__} is not periodic in three directions"
        raise Refused(key, found, "give the Structure of a crystal, no molecule or slab")
    # An isotope is told from hydrogen by its name, not by its symbol; dummies have no name, elements no charge.
    rows = [
        [(getattr(one, "name", one.symbol), share, getattr(one, "oxi_state", None)) for one, share in site]
        for site in (site.species.items() for site in structure)
    ]
    return _of_rows(structure.lattice.matrix, structure.frac_coords, rows, key)


def _from_ase(structure: object, key: str) -> Reading:
    from ase import Atoms

    if not isinstance(structure, Atoms) or not structure.pbc.all() or structure.cell.rank < 3:
        remedy = "set three cell vectors and pbc=True; molecules and slabs are no crystals"
        raise Refused(key, "it is not periodic in three directions", remedy)
    occupancies = {str(kind): row for kind, row in structure.info.get("occupancy", {}).items()}
    kinds = structure.arrays.get("spacegroup_kinds", np.full(len(structure), -1))
    of_atoms = ((symbol, occupancies.get(str(kind), {})) for symbol, kind in zip(structure.symbols, kinds, strict=True))
    rows = [
        [(name, share, None) for name, share in (listed if symbol in listed else {symbol: 1.0}).items()]
        for symbol, listed in of_atoms
    ]
    lattice = np.array(structure.cell)
    _check_cell(lattice, key)  # coordinates are computed from it
    return _of_rows(lattice, structure.positions @ np.linalg.inv(lattice), rows, key)


def _of_rows(
    lattice: Float[np.ndarray, "3 3"],
    positions: Float[np.ndarray, "sites 3"],
    rows: Iterable[Iterable[tuple[str, float, float | None]]],
    key: str,
) -> Reading:
    """A crystal from the symbol, occupancy and oxidation state of each occupant of each site."""
    notes: list[str] = []

    def occupant(symbol: str, occupancy: float, charge: float | None) -> Occupant:
        number, _, note = from_type(symbol)
        if number == 0:
            raise unknown_element(key, symbol)
        notes.extend(filter(None, [note]))
        return Occupant(number, float(occupancy), None if charge is None else float(charge))

    species, kinds = of_species(tuple(sorted((occupant(*one) for one in row), key=itemgetter(0))) for row in rows)
    return Reading(Crystal(np.array(lattice), positions.reshape(-1, 3), species, kinds, key), tuple(notes))
