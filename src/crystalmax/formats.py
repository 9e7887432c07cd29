"""File formats: from the bytes of one file to the crystals in it.

`FORMATS` tells which reader takes a file by its name; a new format is one more function there.
"""

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath

from crystalmax.cif import read_cif
from crystalmax.structures import Reading, Refused, convert

Outcomes = list[Reading | Refused]
Reader = Callable[[bytes, str, int], Outcomes]
"""From content, key and the most sites allowed to what each structure gives; never empty, raises nothing."""


def reader_of(name: str) -> Reader | None:
    """The reader for a file of this name, if its format is known."""
    path = PurePath(name)
    if path.name.upper().startswith(("POSCAR", "CONTCAR")):
        return _read_poscar
    return FORMATS.get(path.suffix.lower())


def read_with_ase(path: str, key: str, max_sites: int) -> Outcomes:
    """What ASE makes of a file on disk, whatever its format; the last resort."""
    from ase.io import read

    return _each(lambda: read(path, index=":"), key, max_sites, "give CIF, POSCAR, pymatgen JSON or a format of ASE")


def _read_cif(content: bytes, key: str, max_sites: int) -> Outcomes:
    return read_cif(content, key, max_sites=max_sites)


def _read_poscar(content: bytes, key: str, max_sites: int) -> Outcomes:
    from pymatgen.io.vasp.inputs import Poscar

    def parse() -> object:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            structure = Poscar.from_str(content.decode("latin-1")).structure
        # Without element names pymatgen makes hydrogen and helium of the first two species.
        if any("cannot be determined" in str(warning.message) for warning in caught):
            raise ValueError("it does not name its elements")
        return structure

    return _each(parse, key, max_sites, "give a POSCAR of VASP 5 with a line of element symbols")


def _read_json(content: bytes, key: str, max_sites: int) -> Outcomes:
    try:
        found = list(_structure_dicts(json.loads(content), key))
    except (ValueError, RecursionError) as error:
        return [Refused(key, f"it is no valid JSON ({error})", "write it anew, as pymatgen's Structure.as_dict does")]
    if not found:
        return [Refused(key, "it holds no structure", "give pymatgen structures, as Structure.as_dict writes them")]
    several = len(found) > 1
    return [
        outcome for name, plain in found for outcome in _read_structure_dict(plain, name if several else key, max_sites)
    ]


def _structure_dicts(plain: object, key: str) -> Iterator[tuple[str, object]]:
    """Names and dicts of structures: a structure itself, a list of them, or a mapping from names to them."""
    if isinstance(plain, list):
        for row, entry in enumerate(plain):
            yield f"{key}:{row}", entry
    elif isinstance(plain, dict) and "lattice" in plain and "sites" in plain:
        yield key, plain
    elif isinstance(plain, dict):
        for name, entry in plain.items():
            if isinstance(entry, dict) and "sites" in entry:
                yield f"{key}:{name}", entry


def _read_structure_dict(plain: object, key: str, max_sites: int) -> Outcomes:
    from pymatgen.core.structure import Structure

    if not isinstance(plain, Mapping) or "lattice" not in plain:
        return [Refused(key, "it is no structure with a lattice", "give pymatgen structures, no molecules")]
    return _each(lambda: Structure.from_dict(dict(plain)), key, max_sites, "write it anew with Structure.as_dict")


def _read_xyz(content: bytes, key: str, max_sites: int) -> Outcomes:
    from ase.io import read

    text = io.StringIO(content.decode("latin-1"))
    remedy = "give an extended XYZ file with a Lattice"
    return _each(lambda: read(text, index=":", format="extxyz"), key, max_sites, remedy)


def _each(parse: Callable[[], object], key: str, max_sites: int, remedy: str) -> Outcomes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = parse()
    except Exception as error:  # whatever a parser raises on broken content, it means the same
        return [Refused(key, " ".join(f"it cannot be read ({type(error).__name__}: {error})".split()), remedy)]
    structures = parsed if isinstance(parsed, list) else [parsed]
    if not structures:
        return [Refused(key, "it holds no structure", remedy)]
    outcomes: Outcomes = []
    for row, structure in enumerate(structures):
        try:
            outcomes.append(convert(structure, f"{key}:{row}" if len(structures) > 1 else key, max_sites=max_sites))
        except Refused as refused:
            outcomes.append(refused)
    return outcomes


FORMATS: dict[str, Reader] = {
    ".cif": _read_cif,
    ".mcif": _read_cif,
    ".vasp": _read_poscar,
    ".poscar": _read_poscar,
    ".json": _read_json,
    ".xyz": _read_xyz,
    ".extxyz": _read_xyz,
}
