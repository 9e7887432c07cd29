"""Checks that data sets, runs, models and studies are still as they were written. Every byte is read.

Files that are listed with a checksum are compared with it. The others, such as the results of the cells of a study,
have checksums inside, or are only read in the format that their suffix says.
"""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crystalmax import fitted
from crystalmax.checkpoint import SPEC, START, WEIGHTS, read_spec, stopped
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.storage.disk import DiskArray
from crystalmax.storage.manifest import ARRAYS, MANIFEST, read_manifest
from crystalmax.storage.writing import PARTIAL, checksum, is_changed, read_packed

_CHUNK = 2**20  # rows of an array that are checked at once
_AGAIN = "make it again, or get another copy"


class Verified(NamedTuple):
    """The result of checking a folder.

    Attributes:
        n_compared: Number of files that agree with their checksum.
        n_read: Number of files without a checksum that could be read.
        faults: A sentence for each file that is damaged, missing or does not belong there.
        notes: A sentence for each thing that could not be verified.
    """

    n_compared: int = 0
    n_read: int = 0
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """A sentence with the numbers of files."""
        return f"{self.n_compared} files are as they were written; {self.n_read} more carry no checksum and can be read"


def verify(path: str | Path) -> Verified:
    """Read every file of a data set, a run, a model or a study.

    Raises:
        ValueError: The folder is none of these.
    """
    path = Path(path)
    for mark, look in _KINDS.items():
        if (path / mark).is_file():
            try:
                return look(path)
            except ValueError as error:  # of what describes it
                return Verified(faults=(f"{error}.",))
    what = "a file, not a folder" if path.is_file() else "no data set, run, model or study"
    raise ValueError(f"{path} is {what}; give a folder as ingest, pretrain, fit, finetune or study write it")


def _of_dataset(path: Path) -> Verified:
    manifest = read_manifest(path)
    arrays = {name: {"bytes": manifest["bytes"][name], "sha256": manifest["sha256"][name]} for name in ARRAYS}
    found = _compared(path, listed := {**arrays, **manifest["beside"]})
    unlisted = _files(path, {path / name for name in (MANIFEST, *listed)})
    faults = [f"{file} is not in the manifest of the data set; remove it." for file in unlisted]
    if not found.faults:
        faults += _misfits(path)
    return Verified(found.n_compared, 0, (*found.faults, *faults))


def _misfits(path: Path) -> Iterator[str]:
    """A sentence for each inconsistency in the arrays of a data set, which checksums would not show."""
    try:
        data = CrystalDataset.open(path)
    except ValueError as error:
        yield f"{error}."
        return
    for name, ends, least in (("site_end.i8", data.site_end, 1), ("key_end.i8", data.key_end, 0)):
        if not all(chunk[0] >= least and np.all(np.diff(chunk) >= least) for chunk in _chunks(ends)):
            yield f"{path / name} does not rise from crystal to crystal; {_AGAIN}."
    if not all(0 <= chunk.min() <= chunk.max() < len(data.kinds) for chunk in _chunks(data.species)):
        yield f"{path / 'species.i4'} names species beyond the {len(data.kinds)} of the manifest; {_AGAIN}."
    for name, numbers in (("lattice.f8", data.lattice), ("position.f4", data.position)):
        if not all(np.isfinite(chunk).all() for chunk in _chunks(numbers)):
            yield f"{path / name} holds numbers that are not finite; {_AGAIN}."


def _chunks(array: np.ndarray | DiskArray) -> Iterator[np.ndarray]:
    """Parts of an array that overlap by one row."""
    return (array[max(begin - 1, 0) : begin + _CHUNK] for begin in range(0, len(array), _CHUNK))


def _of_run(path: Path) -> Verified:
    start = path / START
    parts = [_of_weights(path), _read(_files(path, {path / SPEC, path / WEIGHTS, start}))]
    return _together([_of_run(start), *parts] if start.is_dir() else parts)


def _of_weights(path: Path) -> Verified:
    """The weights of a run or a model, which its spec lists."""
    if not (path / SPEC).exists():
        note = f"{path} holds no weights yet: its training was not finished; go on with it by --resume."
        return Verified(notes=(note,))
    try:
        spec = read_spec(path)
    except ValueError as error:
        return Verified(faults=(f"{error}.",))
    notes = (f"{told}.",) if (told := stopped(path, spec)) else ()
    return _compared(path, spec["files"])._replace(notes=notes)


def _of_fit(path: Path) -> Verified:
    spec = fitted.read_spec(path)
    models = [path / name for name in (fitted.ENCODER, fitted.NETWORKS) if spec[name]]
    others = _files(path, {*models, *(path / name for name in (fitted.SPEC, *spec["files"]))})
    return _together([_compared(path, spec["files"]), *map(_of_model, models), _read(others)])


def _of_model(path: Path) -> Verified:
    """A model within a fitted one."""
    if (path / SPEC).is_file():  # a run that was copied here
        return _of_run(path)
    missing = path / SPEC if path.exists() else path
    return Verified(faults=(f"{missing} is missing; {_AGAIN}.",))


def _of_study(path: Path) -> Verified:
    parts = [folder for folder in sorted(path.rglob("*")) if any((folder / mark).is_file() for mark in _KINDS)]
    return _together([*map(verify, parts), _read(_files(path, {*parts}))])


def _files(path: Path, known: set[Path]) -> list[Path]:
    """All files below a folder, except these and those in these folders."""
    return sorted(file for file in path.rglob("*") if file.is_file() and known.isdisjoint((file, *file.parents)))


def _compared(path: Path, listed: Mapping[str, Mapping[str, Any]]) -> Verified:
    faults = []
    for name, written in listed.items():
        file = path / name
        if not file.is_file():
            faults.append(f"{file} is missing; {_AGAIN}.")
            continue
        found = checksum(file)
        if found["bytes"] != written["bytes"]:
            faults.append(f"{file} has {found['bytes']:,} bytes and had {written['bytes']:,}; {_AGAIN}.")
        elif found["sha256"] != written["sha256"]:
            faults.append(f"{file} is damaged: its bytes are not those that were written; {_AGAIN}.")
    return Verified(len(listed) - len(faults), 0, tuple(faults))


def _read(files: Iterable[Path]) -> Verified:
    """Files without a listed checksum, read in the format of their suffix."""
    n_read, faults = 0, []
    for file in files:
        if file.suffix == PARTIAL:
            faults.append(f"{file} is left over from a write that was cut off; remove it.")
            continue
        try:
            _READERS.get(file.suffix, checksum)(file)
            n_read += 1
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, pa.ArrowException) as error:
            faults.append(f"{file} is damaged ({' '.join(str(error).split())}); {_AGAIN}.")
    return Verified(0, n_read, tuple(faults))


def _together(parts: Iterable[Verified]) -> Verified:
    n_compared, n_read, faults, notes = zip(*parts, strict=True)
    return Verified(sum(n_compared), sum(n_read), sum(faults, ()), sum(notes, ()))


def _read_json(file: Path) -> Any:  # noqa: ANN401  # whatever it says
    content = json.loads(file.read_bytes())
    if isinstance(content, dict) and "content_hash" in content and is_changed(content):
        raise ValueError("it is not as it was written")
    return content


def _read_columns(file: Path) -> None:
    written = file.with_suffix(".json")
    if written.exists() and _read_json(written) != checksum(file):
        raise ValueError(f"its bytes are not those of which {written.name} has the checksum")


def _read_table(file: Path) -> None:
    with pq.ParquetFile(file) as table:
        for _ in table.iter_batches():
            pass


_KINDS: dict[str, Callable[[Path], Verified]] = {
    MANIFEST: _of_dataset,
    "study.json": _of_study,
    fitted.SPEC: _of_fit,
    SPEC: _of_run,
    "run.json": _of_run,
}
_READERS: dict[str, Callable[[Path], object]] = {
    ".json": _read_json,
    ".f4": _read_columns,
    ".jsonl": lambda file: [json.loads(line) for line in file.read_bytes().splitlines()],
    ".npy": lambda file: np.load(file, mmap_mode="r", allow_pickle=False),
    ".npz": read_packed,
    ".ckpt": read_packed,
    ".parquet": _read_table,
}
