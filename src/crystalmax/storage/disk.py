"""Arrays on disk, of which only the rows that are asked for are read.

This is faster than a memory map, which reads a whole page for one row, and whose pages count as memory of the process
(docs/scale.md).
"""

import errno
import math
import os
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import finalize

import numpy as np
from jaxtyping import Int, Shaped

SMALL = 2**24
"""Arrays of at most this many bytes are read whole on first use, since later rows then come from memory."""
SPARE = 32
"""Number of open files that is left for other work, below the limit of the process."""


class DiskArray:
    """A raw little-endian array on disk; `array[rows]` reads these rows, as a slice does, and `array[:]` all.

    Threads and processes may share one; what goes to another process is the path, not the content.

    Args:
        path: Its ending is the type of the numbers, such as `.f4`.
        shape: Number of rows, then how many numbers each has.
        remedy: What to do if the file has changed; the end of error messages.

    Raises:
        ValueError: The file has another size, or is missing.
        IndexError: A row does not exist.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], remedy: str) -> None:
        self.path, self.shape, self.remedy = path, shape, remedy
        self.dtype = np.dtype("<" + path.suffix[1:])
        self._row_bytes = self.dtype.itemsize * math.prod(shape[1:])
        self._n_bytes = shape[0] * self._row_bytes
        found = path.stat().st_size if path.exists() else None
        if found != self._n_bytes:
            has = "is missing" if found is None else f"has {found} bytes where {self._n_bytes} are expected"
            raise ValueError(f"{path} {has}; {remedy}")
        self._file, self._lock = path.open("rb", buffering=0), Lock()
        finalize(self, self._file.close)
        _allow_more_files(self._file.fileno())

    def __reduce__(self) -> tuple[Any, ...]:
        return DiskArray, (self.path.absolute(), self.shape, self.remedy)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Int[np.ndarray, " rows"]) -> Shaped[np.ndarray, "rows ..."]:
        if isinstance(rows, slice):
            begin, end, step = rows.indices(len(self))
            if step != 1:
                raise IndexError(f"{self.path} is read without gaps; take steps of {step} through what `[:]` gives")
            return self._read([begin], [max(end - begin, 0)])
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"{self.path} has {len(self)} rows; rows {rows.min()} to {rows.max()} were asked for")
        if self._n_bytes <= SMALL:
            found: np.ndarray = self._whole[rows]
            return found
        first = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of each stretch of rows that follow one another
        return self._read(rows[first].tolist(), np.diff(first, append=len(rows)).tolist())

    @cached_property
    def _whole(self) -> Shaped[np.ndarray, "rows ..."]:
        return self[:]

    def _read(self, begins: Sequence[int], counts: Sequence[int]) -> Shaped[np.ndarray, "rows ..."]:
        """Stretches of rows with these begins and lengths."""
        found = np.empty((sum(counts), *self.shape[1:]), dtype=self.dtype)
        left = found.reshape(-1).view(np.uint8).data
        for begin, count in zip(begins, counts, strict=True):
            n_bytes = count * self._row_bytes
            self._fill(left[:n_bytes], begin * self._row_bytes)
            left = left[n_bytes:]
        return found

    def _fill(self, wanted: memoryview, begin: int) -> None:
        """Fill a buffer with bytes from this position on; the system may give them in parts."""
        while (n_read := self._some(wanted, begin)) < len(wanted):
            if not n_read:
                raise ValueError(f"{self.path} ends at byte {begin}: it was cut short while in use; {self.remedy}")
            wanted, begin = wanted[n_read:], begin + n_read

    def _some(self, wanted: memoryview, begin: int) -> int:
        if hasattr(os, "preadv"):  # needs no position in the file, which other threads could move
            return os.preadv(self._file.fileno(), [wanted], begin)
        with self._lock:
            self._file.seek(begin)
            return self._file.readinto(wanted) or 0


def _allow_more_files(n_open: int) -> None:
    """Raise the limit of open files of this process when it is near: each joined data set has seven.

    Raises:
        OSError: The system allows no more.
    """
    if sys.platform == "win32":
        return
    import resource

    most, allowed = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY or n_open < most - SPARE:
        return
    if most == allowed:
        found = f"{n_open:,} files are open, and this system allows a process {most:,}"
        raise OSError(errno.EMFILE, f"{found}; allow more by `ulimit -n`, or join fewer data sets")
    more = 2 * most if allowed == resource.RLIM_INFINITY else min(2 * most, allowed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (more, allowed))
