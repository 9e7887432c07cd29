"""Arrays that are read from disk as they are used, and how little of them stays in memory."""

import mmap
from pathlib import Path

import numpy as np


def mapped(path: Path, n_bytes: int, remedy: str) -> np.ndarray:
    """A raw array on disk, of the type that the ending of its file names, mapped into memory.

    Raises:
        ValueError: The file has another size, or is missing; the message ends with the remedy.
    """
    found = path.stat().st_size if path.exists() else None
    if found != n_bytes:
        raise ValueError(f"{path} has {found} bytes where {n_bytes} are expected; {remedy}")
    dtype = np.dtype("<" + path.suffix[1:])
    # As a plain array over the map: each look into a memmap costs microseconds.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r")) if n_bytes else np.empty(0, dtype=dtype)


def forget(array: np.ndarray) -> None:
    """Give back the pages of a mapped array that were read; nothing for one in memory, or where systems cannot."""
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    # Of a map that may be written to, what was written could be lost.
    if isinstance(base, mmap.mmap) and not array.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
