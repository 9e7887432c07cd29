"""The manifest of a data set: what lies in its folder, of what size and with which checksums."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from os.path import isfile
from pathlib import Path
from typing import Any

from crystalmax.crystal import Species
from crystalmax.elements import N_ELEMENTS
from crystalmax.storage.writing import hash_of, is_listing, read_json

FORMAT = 1
MANIFEST = "manifest.json"
ARRAYS = ("lattice.f8", "site_end.i8", "position.f4", "species.i4", "target.f8", "key.u1", "key_end.i8")
CONTENT = ("format", "n_crystals", "n_sites", "target_names", "kinds", "bytes", "sha256")
"""Entries of the manifest that its `content_hash` is made of."""
AGAIN = "ingest the source again"
MAX_MANIFEST_BYTES = 2**28
"""A larger manifest is refused unread."""
_TYPES = {"n_crystals": int, "n_sites": int, "target_names": list, "kinds": list, "bytes": dict, "provenance": dict}
_TYPES |= {"sha256": dict, "content_hash": str}


def content_of(
    names: Iterable[str], kinds: Iterable[Species], arrays: Mapping[str, Mapping[str, int | str]]
) -> dict[str, Any]:
    """The part of a manifest that the content hash covers: tables of names and species, sizes and hashes of arrays."""
    sizes = {name: arrays[name]["bytes"] for name in ARRAYS}
    return {
        "format": FORMAT,
        "n_crystals": int(sizes["site_end.i8"]) // 8,
        "n_sites": int(sizes["species.i4"]) // 4,
        "target_names": list(names),
        "kinds": list(kinds),
        "bytes": sizes,
        "sha256": {name: arrays[name]["sha256"] for name in ARRAYS},
    }


def is_dataset(path: Path) -> bool:
    """Whether a folder is a data set, perhaps a damaged one; a manifest alone may be of something else."""
    return isfile(path / MANIFEST) and any(isfile(path / name) for name in ARRAYS)  # false for names too long


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a data set, if it is one and agrees with itself.

    Raises:
        ValueError: It is missing, of another format, incomplete, or its numbers contradict each other.
    """
    file = Path(path) / MANIFEST
    try:
        manifest = read_json(file, MAX_MANIFEST_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} is not a crystalmax data set ({error}); make one with `crystalmax ingest`") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found = manifest.get("format") if isinstance(manifest, dict) else None
        raise ValueError(f"{path} has format {found}, but this version reads format {FORMAT}; ingest the source again")
    try:
        contradiction = _contradiction(manifest)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        contradiction = f"it is incomplete ({type(error).__name__}: {error})"
    if contradiction:
        raise ValueError(f"{file} contradicts itself: {contradiction}; {AGAIN}")
    return manifest


def shapes_of(manifest: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays by the names of their files, from a manifest or the content of one."""
    n_crystals, n_sites, n_letters = manifest["n_crystals"], manifest["n_sites"], manifest["bytes"]["key.u1"]
    structures = (n_crystals, 3, 3), (n_crystals,), (n_sites, 3), (n_sites,)
    targets = n_crystals, len(manifest["target_names"])
    return dict(zip(ARRAYS, (*structures, targets, (n_letters,), (n_crystals,)), strict=True))


def _contradiction(manifest: Mapping[str, Any]) -> str:
    """What is inconsistent in a manifest, in words; empty if nothing is."""
    for name, kind in _TYPES.items():
        if type(manifest[name]) is not kind:
            return f"{name} is {manifest[name]!r:.60}, no {kind.__name__}"
    if set(manifest["bytes"]) != set(ARRAYS) or type(manifest["bytes"]["key.u1"]) is not int:
        return f"it should have the sizes of {', '.join(ARRAYS)}"
    for name, shape in shapes_of(manifest).items():
        n_bytes = math.prod(shape) * int(name[-1])
        if manifest["bytes"][name] != n_bytes:
            return f"{name} should have {n_bytes} bytes, not {manifest['bytes'][name]}"
    if not all(isinstance(name, str) for name in manifest["target_names"]):
        return "a name of a property is no text"
    if not all(manifest["kinds"]):
        return "a species has no elements"
    for number, occupancy, charge in chain.from_iterable(manifest["kinds"]):
        if not (type(number) is int and 1 <= number <= N_ELEMENTS and 0.0 < occupancy <= 1.0):
            return f"a species has atomic number {number} and occupancy {occupancy}"
        if charge is not None and not math.isfinite(charge):
            return f"a species has the charge {charge}"
    if not is_listing(manifest["beside"]):
        return "the list of files beside the arrays is none"
    if set(manifest["sha256"]) != set(ARRAYS) or not all(isinstance(one, str) for one in manifest["sha256"].values()):
        return "its checksums are no texts by name"
    if hash_of({name: manifest[name] for name in CONTENT}) != manifest["content_hash"]:
        return "its content_hash is not that of its content"
    return ""
