"""A disk that becomes full at a chosen write, below every library that writes through Python's files."""

import builtins
import errno
import io
from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

_open = io.open


@contextmanager
def full_disk(nth):
    """Write number `nth`, counted from 1, and all later ones fail; yields whether any did, and how many there were."""
    disk = SimpleNamespace(writes=0, full=False)

    class Raw(io.FileIO):
        def write(self, content):
            disk.writes += 1
            if disk.writes >= nth:
                disk.full = True
                raise OSError(errno.ENOSPC, "No space left on device")  # as the system says it, without a name
            return super().write(content)

    def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
        if not set(mode) & set("wxa+") or isinstance(file, int):
            return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = Raw(file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedWriter(raw, 1 << 12)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)

    with mock.patch.object(builtins, "open", opened), mock.patch.object(io, "open", opened):
        yield disk
