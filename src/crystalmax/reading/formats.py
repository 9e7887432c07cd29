"""Formats other than CIF: from an object, or from the content of a file, to what each structure in it gives."""

import io
import json
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from crystalmax.limits import MAX_ATOMS, refuse_above, refuse_crowds, refuse_far, too_many
from crystalmax.reading.structures import Reading, Refused, convert, origin_of, unknown_element
from crystalmax.reading.symbols import DEUTERIUM

Outcomes = list[Reading | Refused]
Reader = Callable[[bytes, str, int], Outcomes]
"""From content, key and the most sites allowed to what each structure gives; never empty, raises nothing."""


def read_object(structure: object, key: str, max_sites: int) -> Outcomes:
    """A structure of ours, pymatgen or ASE, or a dictionary as pymatgen writes it."""
    if isinstance(structure, Mapping) and {"lattice", "sites"} <= set(structure):
        return _parsed(partial(_structure_of, structure, key), key, max_sites, _AS_DICT)
    try:
        return [convert(structure, key, max_sites=max_sites)]
    except Refused as refused:
        return [refused]


def read_poscar(content: bytes, key: str, max_sites: int) -> Outcomes:
    """A POSCAR, if it names its elements."""
    lines = content.decode("latin-1").splitlines()
    if not any(map(str.isalpha, "".join(lines[5:6]))):
        return [Refused(key, "its sixth line does not name its elements", "give a POSCAR of VASP 5")]
    # Numbers of atoms are believed by the parser, which makes so many before it reads on.
    stated = sum(int(word) for word in "".join(lines[6:7]).split() if word.isdecimal() and len(word) < 20)
    if stated > len(lines):
        return [Refused(key, f"it states {stated:,} atoms in {len(lines):,} lines", "give the whole file")]
    return _read_with_ase(content, key, max_sites, "vasp")


def read_xyz(content: bytes, key: str, max_sites: int) -> Outcomes:
    """Extended XYZ: every frame with a lattice is a crystal."""
    lines, place, n_frames = content.decode("latin-1").splitlines(), 0, 0
    # Counts are believed by the parser, hence a walk from frame to frame.
    while place < len(lines) and lines[place].strip():
        count = lines[place].strip()
        stated = int(count) if count.isdecimal() and len(count) < 20 else len(lines)
        place, n_frames = place + 2 + stated, n_frames + 1
        if place > len(lines):
            found = f"a frame states {count[:20]} atoms and has {len(lines) - place + stated:,} lines"
            return [Refused(key, f"it cannot be read ({found})", "give the whole file, as extended XYZ")]
    if refused := too_many(n_frames, "frames", key):
        return [refused]
    if _WIDE.search(content):
        return [Refused(key, "it has columns of thousands of numbers", "leave out what is not species and positions")]
    return _read_with_ase(content, key, max_sites, "extxyz")


def read_other(path: Path, key: str, max_sites: int) -> Outcomes:
    """A file in whichever format ASE takes it for, of those that neither run nor unpickle what they read."""
    from ase.io.formats import filetype

    try:
        form = filetype(str(path))
    except Exception as error:  # whatever it fails with, it means the same
        return [Refused(key, f"it cannot be read ({type(error).__name__}: {error})", _REMEDY)]
    if form not in ASE_FORMATS:
        reason = f"it cannot be read: ASE takes it for {form!r}, which is not among the formats that are safe to read"
        return [Refused(key, reason, _REMEDY)]
    if form in _GUESSED and re.search(_GUESSED[form], path.read_bytes()):
        return [Refused(key, f"of a {form} file like this one ASE ignores symmetry, or guesses elements", _REMEDY)]
    return _read_with_ase(path, key, max_sites, form)


def _read_with_ase(content: bytes | Path, key: str, max_sites: int, form: str) -> Outcomes:
    isotopes: list[str] = []

    def parse(content: bytes | Path) -> object:
        from ase.io import read

        if isinstance(content, Path):
            return read(content, index=":", format=form)
        try:
            return read(io.StringIO(content.decode("latin-1")), index=":", format=form)
        except KeyError as error:  # its table of elements has no isotopes
            if error.args != ("D",) or isotopes:
                raise unknown_element(key, str(error.args[0])) from None
            isotopes.append(DEUTERIUM)
            return parse(_LONE_D.sub(b"H", content))

    def told(one: Reading | Refused) -> Reading | Refused:
        if isinstance(one, Refused) or 1 not in one.crystal.composition():
            return one
        return one._replace(notes=(*one.notes, *isotopes))

    return list(map(told, _parsed(partial(parse, content), key, max_sites, _REMEDY)))


def read_json(content: bytes, key: str, max_sites: int) -> Outcomes:
    """A structure as pymatgen writes it, a list of them, or a mapping from names to them."""
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        return [Refused(key, f"it is no valid JSON ({error})", "write it anew, as pymatgen's Structure.as_dict does")]
    if refused := too_many(len(plain) if isinstance(plain, list | dict) else 1, "entries", key):
        return [refused]
    entries = {key: plain}
    if isinstance(plain, list):
        entries = {f"{key}:{row}": entry for row, entry in enumerate(plain)}
    elif isinstance(plain, dict) and "sites" not in plain:
        entries = {f"{key}:{name}": entry for name, entry in plain.items()}
    if not entries:
        return [Refused(key, "it holds no structure", _AS_DICT)]
    parsed = (_parsed(partial(_structure_of, one, name), name, max_sites, _AS_DICT) for name, one in entries.items())
    return list(chain.from_iterable(parsed))


def _structure_of(entry: Mapping[str, object], key: str) -> object:
    """A pymatgen structure without properties of sites: reading those, pymatgen imports any module that they name."""
    from pymatgen.core.structure import Structure

    sites = entry["sites"]
    if not isinstance(sites, list):
        raise TypeError("its sites are no list")
    refuse_above(len(sites), MAX_ATOMS, "atoms", key, "give a smaller cell")
    bare = [{"species": site["species"], "abc": site["abc"]} for site in sites]
    return Structure.from_dict({"lattice": entry["lattice"], "sites": bare})


def _parsed(parse: Callable[[], object], key: str, max_sites: int, remedy: str) -> Outcomes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = parse()
    except Refused as refused:
        return [refused]
    except Exception as error:  # whatever a parser raises on broken content, it means the same
        return [Refused(key, " ".join(f"it cannot be read ({type(error).__name__}: {error})".split()), remedy)]
    frames = parsed if isinstance(parsed, list) else [parsed]
    if not frames:
        return [Refused(key, "it holds no structure", remedy)]
    keys = [f"{key}:{row}" for row in range(len(frames))] if len(frames) > 1 else [key]
    return [_taken(frame, name, max_sites) for name, frame in zip(keys, frames, strict=True)]


def _taken(frame: Any, key: str, max_sites: int) -> Reading | Refused:  # noqa: ANN401  # of pymatgen or ASE
    try:
        of_ase = origin_of(frame) == "ase"
        places, cell = (frame.positions, frame.cell) if of_ase else (frame.cart_coords, frame.lattice.matrix)
        refuse_far(np.array(cell), key)
        refuse_crowds(np.asarray(places, dtype=np.float64).reshape(-1, 3), key, max_sites)
        return convert(frame, key, max_sites=max_sites)
    except Refused as refused:
        return refused


_TEXTS = (
    "abinit-in aims castep-cell cfg cif cp2k-restart crystal dftb elk-in espresso-in espresso-out exciting extxyz gen "
    "gpumd lammps-data magres octopus-in onetep-in prismatic res rmc6f siesta-xv struct struct_out v-sim vasp vasp-out "
    "vasp-xdatcar vasp-xml xsf xtd xyz"
)
ASE_FORMATS = frozenset(_TEXTS.split())
"""Formats of text that ASE parses without running, importing or unpickling anything."""
_AS_DICT = "give pymatgen structures, as Structure.as_dict writes them"
_REMEDY = "give CIF, POSCAR, pymatgen JSON or extended XYZ; `ase convert` makes these of much else"
_GUESSED = {"res": rb"(?im)^\s*(SYMM|LATT\s+(?!-1\s))", "lammps-data": rb"(?s)\A(?!.*\bMasses\b)"}
_LONE_D = re.compile(rb"(?<!\S)D(?![^\s/_])")
_WIDE = re.compile(rb"(?i):[a-z]:\d{4}")
