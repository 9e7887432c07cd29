"""Where structures come from: files, folders, archives, tables and Python objects, in any mix.

`read` yields one `Record` for every structure, taken or refused, in an order that depends on names alone. Nothing that
looks like a structure is passed over: what cannot be taken is a record with the reason. What each format gives is the
matter of `formats` and `tables`, what is taken that of `structures`.
"""

import csv
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from os import PathLike
from pathlib import Path, PurePath, PurePosixPath

from crystalmax.cif import read_cif
from crystalmax.crystal import Crystal
from crystalmax.formats import Outcomes, read_with_ase, reader_of
from crystalmax.structures import MAX_SITES, Refused, convert
from crystalmax.tables import SUFFIXES, Labels, Row, Table, read_labels, rows_of

MAX_FILE_BYTES = 2**28
"""Size above which a file, or an entry of an archive once unpacked, is refused."""
ARCHIVES = frozenset({".gz", ".tar", ".tgz", ".7z", ".bz2", ".xz", ".rar"})
CHUNK = 128

Source = object
"""A path, CIF text, a structure, a data frame with a `cif` column, or an iterable of these."""


@dataclass(frozen=True)
class Record:
    """One structure of a source, taken or refused.

    Attributes:
        key: A name, unique within one call of `read`.
        source: The file, table row or position that it came from.
        crystal: The crystal; none where it was refused.
        targets: Properties that came with it, by name; NaN where unknown.
        notes: Every reinterpretation made while reading.
        refusal: Why it was not taken.
    """

    key: str
    source: str
    crystal: Crystal | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refusal: Refused | None = None


@dataclass(frozen=True)
class _Piece:
    """What one worker reads at once: small, until it is opened, and picklable."""

    key: str
    source: str
    content: object
    targets: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Entry:
    """An unpacked entry of an archive."""

    name: str
    content: bytes


def read(
    *sources: Source,
    labels: str | PathLike[str] | Table | None = None,
    max_sites: int = MAX_SITES,
    n_jobs: int = 1,
) -> Iterator[Record]:
    """Every structure of the sources, in order.

    Folders and zip archives are searched at any depth for files whose format their name tells. Keys come from the
    identifier column of a table, from file names without suffix, or from positions; a key that occurs again gets
    `#2`, `#3` and so on.

    Args:
        sources: Paths (CIF, POSCAR, pymatgen JSON, XYZ, folder, zip archive, CSV or Parquet with a `cif` column,
            whatever else ASE reads), CIF text, structures (`Crystal`, pymatgen, ASE), data frames, iterables of these.
        labels: A table with an identifier column, that of the keys or file names, and properties: they become targets.
        max_sites: Sites above which a cell is refused.
        n_jobs: Processes that parse; -1 for one a core.
    """
    numbers = map(str, range(len(sources))) if len(sources) > 1 else [""]
    chunks = _chunks(chain.from_iterable(map(_pieces, sources, numbers)))
    if n_jobs == 1:
        results: Iterable[list[Record]] = (_open_chunk(chunk, max_sites) for chunk in chunks)
    else:
        from joblib import Parallel, delayed

        parallel = Parallel(n_jobs=n_jobs, return_as="generator")
        results = parallel(delayed(_open_chunk)(chunk, max_sites) for chunk in chunks)
    records = chain.from_iterable(results)
    return _unique(records if labels is None else _labelled(records, read_labels(labels)))


def write_skipped(path: str | PathLike[str], records: Iterable[Record]) -> int:
    """Writes what was refused, with reason and remedy, as CSV; returns how many."""
    refused = [(record, record.refusal) for record in records if record.refusal is not None]
    rows = ([record.key, record.source, refusal.reason, refusal.remedy] for record, refusal in refused)
    _write_csv(path, ["key", "source", "reason", "remedy"], rows)
    return len(refused)


def write_notes(path: str | PathLike[str], records: Iterable[Record]) -> int:
    """Writes what was reinterpreted, one line a note, as CSV; returns how many."""
    rows = [[record.key, record.source, note] for record in records for note in record.notes]
    _write_csv(path, ["key", "source", "note"], rows)
    return len(rows)


def _write_csv(path: str | PathLike[str], header: list[str], rows: Iterable[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _pieces(source: Source, position: str) -> Iterator[_Piece]:
    if isinstance(source, str) and "\n" not in source:
        source = Path(source)
    if isinstance(source, PathLike):
        yield from _pieces_of_path(Path(source))
    elif isinstance(source, Table):
        yield from _pieces_of_rows(rows_of(source, "row"), position or "table")
    elif isinstance(source, Iterable) and not isinstance(source, str | bytes | Mapping) and not _is_structure(source):
        for row, entry in enumerate(source):
            yield from _pieces(entry, f"{position}.{row}" if position else str(row))
    else:
        name = source.key if isinstance(source, Crystal) else ""
        yield _Piece(name or position or "0", f"{type(source).__name__} {position or 0}", source)


def _is_structure(source: object) -> bool:
    # Structures of pymatgen and ASE are sequences of their sites.
    return bool({"pymatgen", "ase"} & {ancestor.__module__.partition(".")[0] for ancestor in type(source).__mro__})


def _pieces_of_path(path: Path) -> Iterator[_Piece]:
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError:  # such as a name that is too long
        is_folder = is_file = False
    if is_folder:
        yield from _pieces_of_folder(path)
    elif not is_file:
        yield _refusal(path.name[:80], str(path)[:200], "there is no such file or folder", "correct the path")
    elif path.suffix.lower() in SUFFIXES:
        yield from _pieces_of_rows(rows_of(path, path.stem), str(path))
    elif path.suffix.lower() == ".zip":
        yield from _pieces_of_archive(path, path.stem)
    else:
        yield _Piece(_key_of(Path(path.name)), str(path), path)


def _pieces_of_folder(folder: Path) -> Iterator[_Piece]:
    found = False
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = path.relative_to(folder)
        suffix = path.suffix.lower()
        if any(part.startswith(".") for part in relative.parts):
            continue
        if suffix == ".zip":
            yield from _pieces_of_archive(path, _key_of(relative))
        elif suffix in ARCHIVES:
            yield _refusal(_key_of(relative), str(path), "of archives only zip is read", "unpack it first")
        elif reader_of(path.name):
            yield _Piece(_key_of(relative), str(path), path)
        else:
            continue
        found = True
    if not found:
        reason = "no file in this folder is a structure by its name"
        yield _refusal(folder.name, str(folder), reason, "give files named .cif, .vasp, .json, .xyz or POSCAR")


def _pieces_of_archive(path: Path, key: str) -> Iterator[_Piece]:
    """Entries are read in memory, one at a time: no path of an archive ever reaches the disk."""
    found = False
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                name = PurePosixPath(entry.filename)
                if entry.is_dir() or name.parts[0] == "__MACOSX" or name.name.startswith("."):
                    continue
                source = f"{path}!{entry.filename}"
                if name.suffix.lower() in {".zip", *ARCHIVES}:
                    yield _refusal(_key_of(name), source, "it is an archive within an archive", "unpack it first")
                elif reader_of(name.name):
                    yield _Piece(_key_of(name), source, _unpacked(archive, entry, _key_of(name)))
                else:
                    continue
                found = True
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        yield _refusal(key, str(path), f"it is no readable zip archive ({error})", "pack it anew")
        return
    if not found:
        yield _refusal(key, str(path), "the archive holds no structure", "pack files named .cif, .vasp, .json or .xyz")


def _unpacked(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, key: str) -> _Entry | Refused:
    try:
        with archive.open(entry) as file:
            # One byte more than allowed, as the size that an archive states need not be true.
            content = file.read(MAX_FILE_BYTES + 1)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError) as error:
        return Refused(key, f"this entry cannot be unpacked ({error})", "pack it anew, without a password")
    return _Entry(entry.filename, content) if len(content) <= MAX_FILE_BYTES else _too_large(key)


def _pieces_of_rows(rows: Iterable[Row | Refused], source: str) -> Iterator[_Piece]:
    for number, row in enumerate(rows):
        if isinstance(row, Refused):
            yield _Piece(row.key, source, row)
        else:
            yield _Piece(row.key, f"{source} row {number}", row.cif, row.targets)


def _key_of(path: PurePath) -> str:
    """The path without the suffix that tells the format; `POSCAR.1` has none."""
    is_poscar = path.name.upper().startswith(("POSCAR", "CONTCAR"))
    return path.as_posix() if is_poscar else path.with_suffix("").as_posix()


def _refusal(key: str, source: str, reason: str, remedy: str) -> _Piece:
    return _Piece(key, source, Refused(key, reason, remedy))


def _too_large(key: str) -> Refused:
    return Refused(key, f"it is larger than {MAX_FILE_BYTES / 2**20:.3g} MiB", "split it into smaller files")


def _chunks(pieces: Iterator[_Piece]) -> Iterator[list[_Piece]]:
    while chunk := list(islice(pieces, CHUNK)):
        yield chunk


def _open_chunk(pieces: list[_Piece], max_sites: int) -> list[Record]:
    return [record for piece in pieces for record in _open(piece, max_sites)]


def _open(piece: _Piece, max_sites: int) -> Iterator[Record]:
    for outcome in _outcomes(piece, max_sites):
        if isinstance(outcome, Refused):
            yield Record(outcome.key, piece.source, targets=piece.targets, refusal=outcome)
        else:
            crystal, notes = outcome
            targets = {**crystal.targets, **piece.targets}
            yield Record(crystal.key, piece.source, replace(crystal, targets=targets), targets, notes)


def _outcomes(piece: _Piece, max_sites: int) -> Outcomes:
    key, content = piece.key, piece.content
    match content:
        case Refused():
            return [content]
        case str() | bytes():
            return read_cif(content, key, max_sites=max_sites)
        case Path():
            return _read_file(content, key, max_sites)
        case _Entry(name, data):
            reader = reader_of(name)
            return reader(data, key, max_sites) if reader else []
    try:
        return [convert(content, key, max_sites=max_sites)]
    except Refused as refused:
        return [refused]
    except TypeError:
        reason = f"a {type(content).__name__} is no structure"
        return [Refused(key, reason, "give a path, CIF text, a pymatgen Structure, ASE Atoms or a Crystal")]


def _read_file(path: Path, key: str, max_sites: int) -> Outcomes:
    reader = reader_of(path.name)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return [_too_large(key)]
        return reader(path.read_bytes(), key, max_sites) if reader else read_with_ase(str(path), key, max_sites)
    except OSError as error:
        return [Refused(key, f"it cannot be opened ({error.strerror})", "check the file and its permissions")]


def _labelled(records: Iterable[Record], labels: Labels) -> Iterator[Record]:
    used: set[str] = set()
    for record in records:
        name, found = labels.find(record.key)
        used.add(name)
        targets = {**record.targets, **found}
        crystal = None if record.crystal is None else replace(record.crystal, targets=targets)
        yield replace(record, crystal=crystal, targets=targets)
    for name in labels.rows:
        if name not in used:
            refusal = Refused(name, "it has labels but no structure", "add the structure, or correct its name")
            yield Record(name, labels.source, targets=labels.rows[name], refusal=refusal)


def _unique(records: Iterable[Record]) -> Iterator[Record]:
    taken: dict[str, int] = {}
    for record in records:
        key = record.key
        while key in taken:
            taken[record.key] += 1
            key = f"{record.key}#{taken[record.key]}"
        taken[key] = 1
        yield record if key == record.key else _renamed(record, key)


def _renamed(record: Record, key: str) -> Record:
    crystal = None if record.crystal is None else replace(record.crystal, key=key)
    refusal = record.refusal and Refused(key, record.refusal.reason, record.refusal.remedy)
    return replace(record, key=key, crystal=crystal, refusal=refusal)
