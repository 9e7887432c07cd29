"""Where structures come from: files, folders, archives, tables and Python objects, in any mix.

`read` yields one `Record` for every structure, taken or refused, in an order that depends on names alone. What cannot
be taken is a record with the reason. `FORMATS` tells which reader takes a file by its name; a new format is one more
function there.
"""

import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain
from os import PathLike
from pathlib import Path, PurePath

from crystalmax.crystal import Crystal
from crystalmax.limits import MAX_FILE_BYTES, MAX_RATIO, TOO_LARGE, printable, shortened
from crystalmax.reading.cif import read_cif
from crystalmax.reading.formats import Outcomes, Reader, read_json, read_object, read_other, read_poscar, read_xyz
from crystalmax.reading.records import Record
from crystalmax.reading.structures import MAX_SITES, Reading, Refused, origin_of
from crystalmax.reading.tables import SUFFIXES, Row, Table, read_labels, rows_of, with_labels, without_suffix
from crystalmax.spread import in_order
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.storage.manifest import MANIFEST, is_dataset

CHUNK, CHUNK_BYTES = 128, 2**24
"""Structures, and bytes of what holds them, that one worker is given at once."""
_PACKED = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_NO_ARCHIVE = (zipfile.BadZipFile, OSError, NotImplementedError, ValueError)
_JSON, _LINES = re.compile(r'\s*\{\s*"'), re.compile(r"[\r\n]")
_NAME_THEM = "give files named .cif, .vasp, .json, .xyz or POSCAR; name tables and data sets themselves"

Cell = Callable[[Crystal], Crystal] | None
Mark = Callable[[Crystal], object] | None
"""What is done with each crystal where it is read; see `read`."""
_Look = Callable[[Path], tuple[list[Path], list[OSError]]]
"""What lies at a path: its files, in order, and why folders in it cannot be read; each path is looked at once."""


@dataclass(frozen=True)
class _Piece:
    """What one worker opens at once: `opened(key, max_sites)` gives its structures."""

    key: str
    source: str
    opened: Callable[[str, int], Outcomes]
    targets: Mapping[str, float] = field(default_factory=dict)
    n_bytes: int = 0


def read(
    *sources: object,
    labels: str | PathLike[str] | Table | None = None,
    target: str = "",
    max_sites: int = MAX_SITES,
    cell: Cell = None,
    mark: Mark = None,
    n_jobs: int | None = None,
) -> Iterator[Record]:
    """Every structure of the sources, in order.

    Sources are paths (CIF, POSCAR, pymatgen JSON, XYZ, a folder, data set, zip archive, CSV or Parquet with a column
    `cif`, whatever else ASE reads), CIF or JSON text, structures (`Crystal`, pymatgen or its `as_dict()`, ASE), tables
    of pandas, and iterables of these. Folders and archives are searched at any depth for files whose format their name
    tells. Keys come from the identifier column of a table, from file names, or from positions; a key that occurs again
    gets `#2`, `#3` and so on. Names of files lose their suffix unless it alone tells two apart, and begin above the
    folder that was given where several, also in lists, have files of one name.

    Args:
        sources: What to read.
        labels: A table of properties, which become targets, and such keys, names of files or paths to identify them.
        target: The property that is wanted, if it is one: cells of others that are no numbers are not told of.
        max_sites: Cells with more sites are refused.
        cell: Applied to each crystal where it is read, such as `cells.canonical`.
        mark: Applied to the result; what it gives is kept in `Record.mark`.
        n_jobs: Processes; -1 for one a core, None for one, unless `joblib.parallel_config` says otherwise (Dask, Ray).

    Raises:
        FileNotFoundError: There are no such labels.
        ValueError: The labels cannot be read, name a structure twice, or one of them fits structures of several files.
    """
    positions = map(str, range(len(sources))) if len(sources) > 1 else [""]
    look: _Look = cache(_files_in)
    keys = _keys_of(chain.from_iterable(_files_of(path, look) for path in _paths_in(sources)))
    pieces = chain.from_iterable(map(partial(_pieces, look=look, keys=keys, target=target), sources, positions))
    opened = partial(_open, max_sites=max_sites, cell=cell, mark=mark)
    records = chain.from_iterable(in_order(opened, _chunks(pieces), n_jobs))
    return _unique(records if labels is None else with_labels(records, read_labels(labels, target)))


def _chunks(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces by the hundred, or fewer where they are large: several chunks wait in memory for a worker."""
    chunk: list[_Piece] = []
    for piece in pieces:
        chunk.append(piece)
        if len(chunk) == CHUNK or sum(waiting.n_bytes for waiting in chunk) > CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _paths_in(sources: Iterable[object]) -> Iterator[Path]:
    """Paths of what is there, among sources and in lists of them."""
    for source in sources:
        if isinstance(source, list | tuple):
            yield from _paths_in(source)
        elif isinstance(source, str | PathLike) and os.path.exists(source):
            yield Path(source)


def _pieces(source: object, position: str, look: _Look, keys: Mapping[str, str], target: str) -> Iterator[_Piece]:
    if isinstance(source, str) and _JSON.match(source) and not os.path.exists(source):
        opened = partial(read_json, source.encode("utf-8", "replace"))
        yield _Piece(position or "0", f"JSON text {position or 0}", opened)
        return
    if isinstance(source, str) and source and not _LINES.search(source):  # as a path, none is the folder that we are in
        source = Path(source)
    if isinstance(source, PathLike):
        yield from _pieces_of_path(Path(source), look, keys, target)
    elif isinstance(source, Table):
        yield from _pieces_of_rows(rows_of(source, "row"), position or "table")
    elif isinstance(source, str | bytes):
        yield _Piece(position or "0", f"CIF text {position or 0}", partial(read_cif, source))
    elif isinstance(source, Iterable) and not isinstance(source, Mapping) and not origin_of(source):
        # Structures of pymatgen and ASE are iterables too, of their sites.
        for row, entry in enumerate(source):
            known = (look, keys) if isinstance(source, list | tuple) else (cache(_files_in), {})
            yield from _pieces(entry, f"{position}.{row}" if position else str(row), *known, target)
    else:
        key = source.key if isinstance(source, Crystal) else ""
        yield _Piece(key or position or "0", f"{type(source).__name__} {position or 0}", partial(read_object, source))


def _pieces_of_path(path: Path, look: _Look, keys: Mapping[str, str], target: str) -> Iterator[_Piece]:
    keys = keys or _keys_of(_files_of(path, look))  # of a generator, one path is known at a time
    if is_dataset(path):
        for row, crystal in enumerate(CrystalDataset.open(path)):
            yield _Piece(crystal.key, f"{path} row {row}", partial(read_object, crystal))
    elif os.path.isdir(path) or os.path.isfile(path):  # unlike methods of `Path`, false for a name that is too long
        files, closed = look(path)
        for file in files:
            yield from _pieces_of_file(file, keys, target)
        for error in closed:
            reason = f"this folder cannot be read ({error.strerror})"
            yield _refusal(Path(error.filename).name, error.filename, reason, "check its permissions")
        if not files and not closed:
            yield _refusal(path.name, str(path), "no file in this folder is a structure by its name", _NAME_THEM)
    else:
        reason = f"there is no such file or folder as {str(path)[:200]}"
        yield _refusal(path.name[:80], str(path)[:200], reason, "correct the path")


def _files_of(path: Path, look: _Look) -> Iterator[tuple[str, Path, PurePath]]:
    """Each file that a path leads to, also in archives: source, folder or archive that was looked in, name there."""
    folder = path if os.path.isdir(path) else path.parent
    for file in () if is_dataset(path) else look(path)[0]:  # crystals of data sets have names
        yield str(file), folder, file.relative_to(folder)
        if file.suffix.lower() == ".zip":
            with suppress(*_NO_ARCHIVE), zipfile.ZipFile(file) as archive:
                for entry in _entries_of(archive):
                    yield f"{file}!{entry.filename}", file.with_suffix(""), PurePath(entry.filename)


def _files_in(path: Path) -> tuple[list[Path], list[OSError]]:
    if os.path.isfile(path):
        return [path], []
    closed: list[OSError] = []
    wanted = (file for file in _files_below(path, closed) if _is_wanted(file.relative_to(path)))
    # A link that leads nowhere is a structure that is missing; what else is no file, such as a pipe, is none.
    return sorted(file for file in wanted if os.path.isfile(file) or not os.path.exists(file)), closed


def _files_below(folder: Path, closed: list[OSError]) -> Iterator[Path]:
    """Each folder once: first those that lie there, by their own names, then what links among them lead to.

    A link to a folder that holds this one is not followed: it leads to whatever happens to lie beside.
    """
    known, waiting = set(folder.resolve().parents), [folder]
    while waiting:
        for root, folders, names in os.walk(waiting.pop(0), onerror=closed.append):
            if (real := Path(root).resolve()) in known:
                folders.clear()
                continue
            known.add(real)
            yield from (Path(root, name) for name in names)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            waiting += [path for name in folders if (path := Path(root, name)).is_symlink()]


def _pieces_of_file(path: Path, keys: Mapping[str, str], target: str) -> Iterator[_Piece]:
    key, suffix = keys.get(str(path), path.name), path.suffix.lower()  # a file may have come since names were looked at
    if suffix in SUFFIXES:
        yield from _pieces_of_rows(rows_of(path, key, target), str(path))
    elif suffix == ".zip":
        yield from _pieces_of_archive(path, key, keys)
    elif suffix in _PACKED:
        yield _refusal(key, str(path), "it is compressed or an archive", "unpack it, or pack it as .zip")
    elif path.name == MANIFEST and is_dataset(path.parent):
        yield _refusal(key, str(path), "it is of a data set", "give the folder of the data set, by its name")
    else:
        # Workers may have begun in another folder.
        yield _Piece(key, str(path), partial(_read_file, path.absolute()))


def _pieces_of_archive(path: Path, key: str, keys: Mapping[str, str]) -> Iterator[_Piece]:
    """Entries are read in memory, one at a time: no path of an archive ever reaches the disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in (wanted := _entries_of(archive)):
                source, opened = f"{path}!{entry.filename}", _unpacked(archive, entry)
                yield _Piece(keys.get(source, entry.filename), source, opened, n_bytes=entry.file_size)
    except _NO_ARCHIVE as error:
        yield _refusal(key, str(path), f"it is no readable zip archive ({error})", "pack it anew")
    else:
        if not wanted:
            yield _refusal(key, str(path), "the archive holds no structure", _NAME_THEM)


def _entries_of(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    files = sorted(archive.infolist(), key=lambda entry: entry.filename)
    return [entry for entry in files if not entry.is_dir() and _is_wanted(PurePath(entry.filename))]


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[str, int], Outcomes]:
    if (reader := reader_of(entry.filename)) is None:
        return partial(_refuse, "it is an archive within an archive", "unpack it first")
    if entry.file_size > MAX_FILE_BYTES:
        return partial(_refuse, *TOO_LARGE)
    if entry.file_size > 2**20 and entry.file_size > MAX_RATIO * entry.compress_size:
        found = f"it is {entry.file_size / max(entry.compress_size, 1):,.0f} times larger than it is packed"
        return partial(_refuse, f"{found}, more than the {MAX_RATIO} that a structure can be", "check where it is from")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return partial(_refuse, f"it is packed by method {entry.compress_type}", "pack it by the usual one, deflate")
    try:
        return partial(reader, archive.read(entry))  # never more than the size that was looked at
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, ValueError) as error:
        return partial(_refuse, f"this entry cannot be unpacked ({error})", "pack it anew, without a password")


def _pieces_of_rows(rows: Iterable[Row | Refused], source: str) -> Iterator[_Piece]:
    for number, row in enumerate(rows):
        if isinstance(row, Refused):
            yield _refusal(row.key, source, row.reason, row.remedy)
        elif len(row.cif) > MAX_FILE_BYTES:
            yield _refusal(row.key, f"{source} row {number}", *TOO_LARGE)
        else:
            opened = partial(read_cif, row.cif)
            if isinstance(row.cif, str) and "\n" not in row.cif and without_suffix(row.cif) != row.cif:
                reason = f"its `cif` is the name of a file, {row.cif!r}, not CIF text"
                opened = partial(_refuse, reason, "give the files, and this table as labels (--labels)")
            yield _Piece(row.key, f"{source} row {number}", opened, row.targets, len(row.cif))


def _is_wanted(name: PurePath) -> bool:
    is_hidden, suffix = any(part.startswith(".") and part != ".." for part in name.parts), name.suffix.lower()
    is_known = reader_of(name) is not None or suffix in (".zip", *_PACKED)
    return is_known and not is_hidden and suffix not in SUFFIXES  # such as POSCAR_labels.csv


def _keys_of(files: Iterable[tuple[str, Path, PurePath]]) -> dict[str, str]:
    """Names of files without endings, but with as many folders above, and then with endings, as tell them apart."""
    paths, length = {}, {}
    for source, folder, name in files:
        bare = name if _is_poscar(name) else name.with_suffix("")
        paths[source], length[source] = PurePath(os.path.abspath(folder), bare).parts, len(bare.parts)
    while True:
        keys = {source: PurePath(*path[-length[source] :]).as_posix() for source, path in paths.items()}
        one = {key: paths[source] for source, key in keys.items()}
        shared = {key for source, key in keys.items() if one[key] != paths[source]}
        if not shared:
            break
        length.update((source, length[source] + 1) for source, key in keys.items() if key in shared)
    n_endings = Counter(path for path, _ in {(path, PurePath(source).suffix) for source, path in paths.items()})
    return {source: key + PurePath(source).suffix * (n_endings[paths[source]] > 1) for source, key in keys.items()}


def _refusal(key: str, source: str, reason: str, remedy: str) -> _Piece:
    return _Piece(key, source, partial(_refuse, reason, remedy))


def _refuse(reason: str, remedy: str, key: str, _: int) -> Outcomes:
    return [Refused(key, reason, remedy)]


def _open(pieces: list[_Piece], max_sites: int, cell: Cell, mark: Mark) -> list[Record]:
    records = []
    for piece in pieces:
        try:
            outcomes = piece.opened(piece.key, max_sites)
        except ArithmeticError as error:
            outcomes = [_beyond(piece.key, error)]
        records += [_record(outcome, piece.targets, printable(piece.source), cell, mark) for outcome in outcomes]
    return records


def _beyond(key: str, error: ArithmeticError) -> Refused:
    """One absurd number must not end the work on all other structures."""
    return Refused(key, f"a number in it is beyond what can be computed with ({error})", "correct it")


def _record(outcome: Reading | Refused, targets: Mapping[str, float], source: str, cell: Cell, mark: Mark) -> Record:
    if isinstance(outcome, Refused):
        refusal = Refused(shortened(outcome.key), shortened(outcome.reason), outcome.remedy)
        return Record(refusal.key, source, targets=targets, refusal=refusal)
    try:
        crystal = cell(outcome.crystal) if cell else outcome.crystal
        crystal = replace(crystal, key=shortened(crystal.key), targets={**outcome.crystal.targets, **targets})
        made = mark(crystal) if mark else None
    except ArithmeticError as error:
        return _record(_beyond(outcome.crystal.key, error), targets, source, cell, mark)
    notes = tuple(map(shortened, outcome.notes))
    return Record(crystal.key, source, crystal, crystal.targets, notes, mark=made)


def _unique(records: Iterable[Record]) -> Iterator[Record]:
    taken: dict[str, int] = {}
    for record in records:
        key = record.key
        while key in taken:
            taken[record.key] += 1
            key = f"{record.key}#{taken[record.key]}"
        taken[key] = 1
        yield record if key == record.key else record.renamed(key)


def reader_of(name: str | PurePath) -> Reader | None:
    """The reader for a file of this name, if its format is known."""
    name = PurePath(name)
    return FORMATS.get(name.suffix.lower()) or (read_poscar if _is_poscar(name) else None)


def _is_poscar(name: PurePath) -> bool:
    return name.name.upper().startswith(("POSCAR", "CONTCAR"))


def _read_file(path: Path, key: str, max_sites: int) -> Outcomes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return _refuse(*TOO_LARGE, key, max_sites)
        reader = reader_of(path)
        return reader(path.read_bytes(), key, max_sites) if reader else read_other(path, key, max_sites)
    except OSError as error:
        return [Refused(key, f"it cannot be opened ({error.strerror})", "check the file and its permissions")]


FORMATS: dict[str, Reader] = {
    ".cif": read_cif,
    ".mcif": read_cif,
    ".vasp": read_poscar,
    ".poscar": read_poscar,
    ".json": read_json,
    ".xyz": read_xyz,
    ".extxyz": read_xyz,
}
