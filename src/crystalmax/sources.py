"""Where structures come from: files, folders, archives, tables and Python objects, in any mix.

`read` yields one `Record` for every structure, taken or refused, in an order that depends on names alone. What cannot
be taken is a record with the reason. `FORMATS` tells which reader takes a file by its name; a new format is one more
function there.
"""

import logging
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from os import PathLike
from pathlib import Path, PurePath

from crystalmax.cif import read_cif
from crystalmax.crystal import Crystal
from crystalmax.dataset import CrystalDataset
from crystalmax.formats import Outcomes, Reader, read_json, read_object, read_other, read_poscar, read_xyz
from crystalmax.limits import MAX_FILE_BYTES, MAX_RATIO, MAX_WORDS, TOO_LARGE, printable, shortened
from crystalmax.manifest import MANIFEST, is_dataset
from crystalmax.records import Record
from crystalmax.spread import in_order
from crystalmax.structures import MAX_SITES, Reading, Refused, origin_of
from crystalmax.tables import SUFFIXES, Row, Table, composed, read_labels, rows_of, without_suffix

log = logging.getLogger(__name__)

CHUNK, CHUNK_BYTES = 128, 2**24
"""Structures, and bytes of what holds them, that one worker is given at once."""
_PACKED = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_ROW = re.compile(r" row \d+$")
_JSON, _LINES = re.compile(r'\s*\{\s*"'), re.compile(r"[\r\n]")
_NAME_THEM = "give files named .cif, .vasp, .json, .xyz or POSCAR; name tables and data sets themselves"

Cell = Callable[[Crystal], Crystal] | None
Mark = Callable[[Crystal], object] | None
"""What is done with each crystal where it is read; see `read`."""


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
    gets `#2`, `#3` and so on. Names of files lose their suffix unless it alone tells two of them apart.

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
    files = [Path(source) for source in sources if isinstance(source, str | PathLike) and os.path.isfile(source)]
    keys = dict(zip(files, _keys_of([PurePath(file.name) for file in files]), strict=True))
    pieces = chain.from_iterable(map(partial(_pieces, keys=keys, target=target), sources, positions))
    opened = partial(_open, max_sites=max_sites, cell=cell, mark=mark)
    records = chain.from_iterable(in_order(opened, _chunks(pieces), n_jobs))
    return _unique(records if labels is None else _with_labels(records, read_labels(labels, target)))


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


def _pieces(source: object, position: str, keys: Mapping[Path, str], target: str) -> Iterator[_Piece]:
    if isinstance(source, str) and _JSON.match(source) and not os.path.exists(source):
        opened = partial(read_json, source.encode("utf-8", "replace"))
        yield _Piece(position or "0", f"JSON text {position or 0}", opened)
        return
    if isinstance(source, str) and source and not _LINES.search(source):  # as a path, none is the folder that we are in
        source = Path(source)
    if isinstance(source, PathLike):
        yield from _pieces_of_path(Path(source), keys, target)
    elif isinstance(source, Table):
        yield from _pieces_of_rows(rows_of(source, "row"), position or "table")
    elif isinstance(source, str | bytes):
        yield _Piece(position or "0", f"CIF text {position or 0}", partial(read_cif, source))
    elif isinstance(source, Iterable) and not isinstance(source, Mapping) and not origin_of(source):
        # Structures of pymatgen and ASE are iterables too, of their sites.
        for row, entry in enumerate(source):
            yield from _pieces(entry, f"{position}.{row}" if position else str(row), keys, target)
    else:
        key = source.key if isinstance(source, Crystal) else ""
        yield _Piece(key or position or "0", f"{type(source).__name__} {position or 0}", partial(read_object, source))


def _pieces_of_path(path: Path, keys: Mapping[Path, str], target: str) -> Iterator[_Piece]:
    if is_dataset(path):
        for row, crystal in enumerate(CrystalDataset.open(path)):
            yield _Piece(crystal.key, f"{path} row {row}", partial(read_object, crystal))
    elif os.path.isdir(path):  # unlike `Path.is_dir`, false for a name that is too long
        yield from _pieces_of_folder(path)
    elif os.path.isfile(path):
        yield from _pieces_of_file(path, keys.get(path) or _keys_of([PurePath(path.name)])[0], target)
    else:
        reason = f"there is no such file or folder as {str(path)[:200]}"
        yield _refusal(path.name[:80], str(path)[:200], reason, "correct the path")


def _pieces_of_folder(path: Path) -> Iterator[_Piece]:
    closed: list[OSError] = []
    wanted = (file for file in _files_below(path, closed) if _is_wanted(file.relative_to(path)))
    # A link that leads nowhere is a structure that is missing; what else is no file, such as a pipe, is none.
    files = sorted(file for file in wanted if os.path.isfile(file) or not os.path.exists(file))
    for file, key in zip(files, _keys_of([file.relative_to(path) for file in files]), strict=True):
        yield from _pieces_of_file(file, key)
    for error in closed:
        reason = f"this folder cannot be read ({error.strerror})"
        yield _refusal(Path(error.filename).name, error.filename, reason, "check its permissions")
    if not files and not closed:
        yield _refusal(path.name, str(path), "no file in this folder is a structure by its name", _NAME_THEM)


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


def _pieces_of_file(path: Path, key: str, target: str = "") -> Iterator[_Piece]:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        yield from _pieces_of_rows(rows_of(path, key, target), str(path))
    elif suffix == ".zip":
        yield from _pieces_of_archive(path, key)
    elif suffix in _PACKED:
        yield _refusal(key, str(path), "it is compressed or an archive", "unpack it, or pack it as .zip")
    elif path.name == MANIFEST and is_dataset(path.parent):
        yield _refusal(key, str(path), "it is of a data set", "give the folder of the data set, by its name")
    else:
        # Workers may have begun in another folder.
        yield _Piece(key, str(path), partial(_read_file, path.absolute()))


def _pieces_of_archive(path: Path, key: str) -> Iterator[_Piece]:
    """Entries are read in memory, one at a time: no path of an archive ever reaches the disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            files = sorted(archive.infolist(), key=lambda entry: entry.filename)
            wanted = [entry for entry in files if not entry.is_dir() and _is_wanted(PurePath(entry.filename))]
            names = _keys_of([PurePath(entry.filename) for entry in wanted])
            for entry, name in zip(wanted, names, strict=True):
                opened = _unpacked(archive, entry)
                yield _Piece(name, f"{path}!{entry.filename}", opened, n_bytes=entry.file_size)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        yield _refusal(key, str(path), f"it is no readable zip archive ({error})", "pack it anew")
    else:
        if not wanted:
            yield _refusal(key, str(path), "the archive holds no structure", _NAME_THEM)


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[str, int], Outcomes]:
    reader = reader_of(entry.filename)
    if reader is None:
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


def _keys_of(names: list[PurePath]) -> list[str]:
    """Names of files without their endings, but with them where only these tell files apart."""
    bare = {name: (name if _is_poscar(name) else name.with_suffix("")).as_posix() for name in names}
    count = Counter(bare.values())
    return [bare[name] if count[bare[name]] == 1 else name.as_posix() for name in names]


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


def _with_labels(records: Iterable[Record], labels: Mapping[str, Mapping[str, float]]) -> Iterator[Record]:
    """The records with the labels of one of their names; a label that structures of one file share is theirs all.

    Raises:
        ValueError: One label fits structures of several files, or names begin with the same `MAX_WORDS` letters.
    """
    used: dict[str, tuple[str, list[str]]] = {}
    short = {shortened(name): name for name in labels}  # as keys are
    if alike := next((name for name in labels if short[shortened(name)] != name), None):
        raise ValueError(f"{alike[:80]!r}... and another label begin with the same {MAX_WORDS} letters; shorten names")
    written = {os.path.abspath(name): name for name in labels} | short
    count = Counter(map(without_suffix, written))
    either = {stem: name for known, name in written.items() if count[stem := without_suffix(known)] == 1} | written
    for record in records:
        # Where a key keeps its ending, a label with another one is of another file.
        known = written if without_suffix(file := record.key.partition(":")[0]) != file else either
        name = next((known[name] for name in _names_of(record) if name in known), None)
        if name is not None:
            source = _ROW.sub("", record.source)
            first, keys = used.setdefault(name, (source, []))
            if first != source:
                remedy = f"label files of one name with folder and ending, as {source!r}"
                raise ValueError(f"the label of {name!r} fits {first} and {source}; {remedy}")
            keys.append(record.key)
            targets = {**record.targets, **labels[name]}
            crystal = None if record.crystal is None else replace(record.crystal, targets=targets)
            record = replace(record, crystal=crystal, targets=targets)
        yield record
    _tell_of_shared(used)
    for name in labels:
        if name not in used:
            refusal = Refused(name, "it has labels but no structure", "add the structure, or correct its name")
            yield Record(name, "labels", targets=labels[name], refusal=refusal)


def _names_of(record: Record) -> list[str]:
    """What labels may call a record: its key, its file, its path from here or from the root, or its bare name."""
    key, path = composed(record.key), os.path.abspath(composed(record.source))
    file = key.partition(":")[0]
    part, bare, (stem, ending) = key.removeprefix(file), file.rpartition("/")[2], os.path.splitext(path)
    names = [key, file, path + part, without_suffix(path) + part, path]
    if os.path.basename(stem).rpartition("!")[2] == bare:  # what the key leaves out
        names += [file + ending, stem, bare + ending]
    return [way for name in [*names, bare] for way in (name, without_suffix(name))]


def _tell_of_shared(used: Mapping[str, tuple[str, list[str]]]) -> None:
    """Warn of labels that several structures of a file share."""
    if shared := [name for name, (_, keys) in used.items() if len(keys) > 1]:
        source, keys = used[shared[0]]
        more = f", and so for {len(shared) - 1:,} more labels" if len(shared) > 1 else ""
        one = f"to label one of them, name it in the table, such as {keys[0]!r}"
        remedy = one if len({*keys}) == len(keys) else "give the file once, and each structure a name of its own"
        log.warning("%s: its %d structures share the label of %r%s; %s", source, len(keys), shared[0], more, remedy)


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
