"""Files that appear whole or not at all, and checksums that tell whether they are still what was written."""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any
from uuid import uuid4

from filelock import FileLock, Timeout

PARTIAL = ".partial"
"""How the name of a file ends until it is whole."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Where a disk is full, which the system says without a name, say what was being written."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = str(path)
            if error.errno == errno.EFBIG and error.strerror:
                error.strerror += " (`ulimit -f` says how large files may be)"
        raise


@contextmanager
def at_once(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, which replaces `path` when the block ends, and leaves nothing behind if it fails.

    Of several that are written at a time under one name, the one that ends last stays.
    """
    partial = path.with_name(f"{path.name}.{uuid4().hex[:8]}{PARTIAL}")
    try:
        with _named(path), partial.open("xb") as file:
            yield file
            file.flush()
            # Else a crash of the machine could keep the new name and lose what it stands for.
            os.fsync(file.fileno())
        partial.replace(path)
        settle(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def check_free(folder: Path) -> None:
    """Refuse, as `check_place` does, to write a model there, also where something is already."""
    # No whole folder takes the place of a link, of where a disk is mounted, or of the folder that one is in.
    is_fixed = folder.is_symlink() or os.path.ismount(folder) or not folder.name
    if is_fixed or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise FileExistsError(f"{folder} exists already; remove it or choose another name for the model")
    check_place(folder)


def check_file(file: Path, *endings: str) -> None:
    """Refuse, before the work, a file that has none of these endings, is a folder or cannot be written.

    Raises:
        ValueError: It has another ending.
        OSError: It cannot be written.
    """
    if endings and file.suffix.lower() not in endings:
        raise ValueError(f"it has the ending {file.suffix!r}; expected {' or '.join(endings)}")
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; choose another name for the file")
    check_place(file)


def check_place(path: Path) -> None:
    """Refuse, by an OSError and before the work, to write where that cannot be."""
    parent = next(filter(os.path.exists, path.parents), path.parent)
    if not parent.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {str(parent)!r} is no folder; choose another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: {str(parent)!r} may not be written to; choose another place")


@contextmanager
def folder_at_once(path: Path) -> Iterator[Path]:
    """A hidden folder to write to, which becomes `path` when the block ends, and vanishes if it fails.

    What an earlier process left of such a folder, because it was killed, is cleared away.

    Raises:
        OSError: It cannot be written there, or another process is writing it.
    """
    check_place(path)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with alone(path, path.with_name(f".{path.name}.lock")):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            settle(*partial.iterdir(), partial)
            partial.rename(path)
            settle(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def alone(path: Path, lock: Path) -> Iterator[None]:
    """Let no other process write there meanwhile; one that was killed holds nothing.

    Raises:
        BlockingIOError: Another process does.
    """
    try:
        with FileLock(lock, timeout=0), _named(path):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise BlockingIOError(f"another job is writing {path}; wait for it, or choose another name") from None


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write plain data so that a reader sees all of it or nothing."""
    with at_once(path) as file:
        file.write((json.dumps(data, indent=1) + "\n").encode())


def read_json(path: Path, most_bytes: int) -> Any:  # noqa: ANN401  # whatever the file says
    """Plain data from a file that may be damaged, or not ours.

    Raises:
        ValueError: It is missing, too large to be what is looked for, or no JSON.
    """
    try:
        if not 0 < (found := path.stat().st_size) <= most_bytes:  # 0 are also what a link to a device has
            raise ValueError(f"{path.name} has {found:,} bytes, not 1 to {most_bytes:,}")
        return json.loads(path.read_bytes())
    except (OSError, RecursionError) as error:
        raise ValueError(str(error)) from None


def settle(*paths: Path) -> None:
    """Wait until these files and folders are on the disk, where the system can tell."""
    for path in paths:
        if os.name == "posix" or path.is_file():  # elsewhere folders cannot be opened
            number = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
            try:
                os.fsync(number)
            finally:
                os.close(number)


def checksum(path: Path) -> dict[str, int | str]:
    """Size and SHA-256 of a file, as they are stored beside it."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def checksum_of(content: bytes) -> dict[str, int | str]:
    """Size and SHA-256 of the content of a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def checksums(paths: Iterable[Path]) -> dict[str, dict[str, int | str]]:
    """Size and SHA-256 of several files, by name."""
    return {path.name: checksum(path) for path in sorted(paths)}


def read_packed(file: Path) -> None:
    """Read every part of an archive, such as a checkpoint.

    Raises:
        ValueError: The sum of a part is wrong.
        zipfile.BadZipFile: It was cut short, or is no archive.
    """
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():
            raise ValueError(f"the sum of {damaged} is wrong")


def hash_of(content: Mapping[str, Any] | Sequence[Any]) -> str:
    """SHA-256 of plain data, the same before they were written as JSON and after they were read."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def is_changed(content: Mapping[str, Any]) -> bool:
    """Whether plain data differ from what their `content_hash` was made of, or have none."""
    plain = {name: content[name] for name in content if name != "content_hash"}
    return hash_of(plain) != content.get("content_hash")


def is_listing(listed: object) -> bool:
    """Whether this is what `checksums` makes, of names that stay in their folder on every system."""
    return isinstance(listed, dict) and all(
        stays(name)
        and isinstance(entry, dict)
        and type(entry.get("bytes")) is int
        and isinstance(entry.get("sha256"), str)
        for name, entry in listed.items()
    )


def stays(name: str) -> bool:
    """Whether a name is that of a file or folder right here, on every system."""
    return name not in ("", ".", "..") and PurePosixPath(name).name == name == PureWindowsPath(name).name
