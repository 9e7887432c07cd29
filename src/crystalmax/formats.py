"""Formats other than CIF: from an object, or from the content of a file, to what each structure in it gives."""

import io
import json
import warnings
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path

from crystalmax.structures import Reading, Refused, convert

Outcomes = list[Reading | Refused]
Reader = Callable[[bytes, str, int], Outcomes]
"""From content, key and the most sites allowed to what each structure gives; never empty, raises nothing."""


def read_object(structure: object, key: str, max_sites: int) -> Outcomes:
    """A structure of ours, pymatgen or ASE."""
    try:
        return [convert(structure, key, max_sites=max_sites)]
    except Refused as refused:
        return [refused]


def read_poscar(content: bytes, key: str, max_sites: int) -> Outcomes:
    """A POSCAR, if it names its elements."""
    if not any(map(str.isalpha, "".join(content.decode("latin-1").splitlines()[5:6]))):
        return [Refused(key, "its sixth line does not name its elements", "give a POSCAR of VASP 5")]
    return read_with_ase(content, key, max_sites, form="vasp")


def read_with_ase(content: bytes | Path, key: str, max_sites: int, *, form: str | None = None) -> Outcomes:
    """Content in a format that ASE calls `form`, or a file in whichever format ASE takes it for."""

    def parse() -> object:
        from ase.io import read

        file = content if isinstance(content, Path) else io.StringIO(content.decode("latin-1"))
        return read(file, index=":", format=form)

    return _parsed(parse, key, max_sites, "give CIF, POSCAR, pymatgen JSON, extended XYZ or what else ASE reads")


def read_json(content: bytes, key: str, max_sites: int) -> Outcomes:
    """A structure as pymatgen writes it, a list of them, or a mapping from names to them."""
    from pymatgen.core.structure import Structure

    try:
        plain = json.loads(content)
    except (ValueError, RecursionError) as error:
        return [Refused(key, f"it is no valid JSON ({error})", "write it anew, as pymatgen's Structure.as_dict does")]
    entries = {key: plain}
    if isinstance(plain, list):
        entries = {f"{key}:{row}": entry for row, entry in enumerate(plain)}
    elif isinstance(plain, dict) and "sites" not in plain:
        entries = {f"{key}:{name}": entry for name, entry in plain.items()}
    remedy = "give pymatgen structures, as Structure.as_dict writes them"
    if not entries:
        return [Refused(key, "it holds no structure", remedy)]
    parsed = (_parsed(partial(Structure.from_dict, entry), name, max_sites, remedy) for name, entry in entries.items())
    return list(chain.from_iterable(parsed))


def _parsed(parse: Callable[[], object], key: str, max_sites: int, remedy: str) -> Outcomes:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = parse()
    except Exception as error:  # whatever a parser raises on broken content, it means the same
        return [Refused(key, " ".join(f"it cannot be read ({type(error).__name__}: {error})".split()), remedy)]
    frames = parsed if isinstance(parsed, list) else [parsed]
    if not frames:
        return [Refused(key, "it holds no structure", remedy)]
    keys = [f"{key}:{row}" for row in range(len(frames))] if len(frames) > 1 else [key]
    return [
        outcome for name, frame in zip(keys, frames, strict=True) for outcome in read_object(frame, name, max_sites)
    ]
