"""Numbers of every crystal that training needs, made once by all processes and read from a file."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int

from crystalmax.crystal import Crystal
from crystalmax.spread import in_order
from crystalmax.storage.dataset import Dataset
from crystalmax.storage.disk import DiskArray
from crystalmax.storage.writing import at_once, checksum, settle, write_json

log = logging.getLogger(__name__)

SAMPLE = 40_000
"""Mean and deviation are those of a random draw of so many crystals, or of all if they are fewer."""

_CHUNK = 64  # crystals that a worker is given at once
_BLOCK = 4096  # crystals whose numbers are in memory at once
_SECONDS_BETWEEN_LINES = 60.0

Make = Callable[[list[Crystal]], Float[np.ndarray, "crystals columns"]]


def standardised(data: Dataset, rows: Int[np.ndarray, " rows"], make: Make, width: int, path: Path) -> DiskArray:
    """Numbers with mean 0 and deviation 1 in these rows, NaN in others, float32 on disk; a file that is there counts.

    Until all are made, they are kept beside it, and what was interrupted goes on from there. Its checksum is beside it,
    too, for `integrity.verify`: to read all whenever a run goes on would take long.

    Args:
        data: The crystals.
        rows: Those whose numbers are needed, ascending.
        make: Gives the numbers of some crystals; it is sent to the processes that joblib is set to use.
        width: How many numbers a crystal has.
        path: The file, which ends in `.f4`.
    """
    with FileLock(path.with_suffix(".lock")):  # several processes may train together
        raw = path.with_suffix(".f8")
        if not path.exists():
            _make(data, rows, make, width, raw)
            _standardise(raw, rows, (len(data), width), path)
        if raw.exists():  # or a process that was killed here would have left it for good
            write_json(path.with_suffix(".json"), checksum(path))
            raw.unlink()
    return DiskArray(path, (len(data), width), "remove it, and it is made anew")


def _make(data: Dataset, rows: Int[np.ndarray, " rows"], make: Make, width: int, raw: Path) -> None:
    """Write the numbers as they come, after those that are there."""
    n_made = _whole(raw, width, len(rows))
    with raw.open("ab") as file:
        file.truncate(n_made * 8 * width)
        log.info("making %d numbers of each of %s crystals, once for this run", width, f"{len(rows) - n_made:,}")
        chunks = (data.crystals(rows[begin : begin + _CHUNK]) for begin in range(n_made, len(rows), _CHUNK))
        told = time.monotonic()
        for found in in_order(make, chunks, None):
            file.write(found.astype("<f8").tobytes())
            n_made += len(found)
            if time.monotonic() - told > _SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                file.flush()
                settle(raw)
                log.info("made those of %s of %s crystals", f"{n_made:,}", f"{len(rows):,}")


def _whole(raw: Path, width: int, most: int) -> int:
    """How many rows are there before one that is cut in two, or that a crash of the machine left as zeros."""
    if not raw.exists():
        return 0
    n_rows = min(raw.stat().st_size // (8 * width), most)
    for begin in range(0, n_rows, _BLOCK):
        count = min(_BLOCK, n_rows - begin)
        rows = np.fromfile(raw, "<f8", count * width, offset=8 * width * begin).reshape(-1, width)
        lost = np.flatnonzero(~rows.any(axis=1) | ~np.isfinite(rows).all(axis=1))
        if len(lost):
            return begin + int(lost[0])
    return n_rows


def _standardise(raw: Path, rows: Int[np.ndarray, " rows"], shape: tuple[int, int], path: Path) -> None:
    """Write the numbers to the scale of a sample of them."""
    exact = DiskArray(raw, (len(rows), shape[1]), "remove it, and it is made anew")
    drawn = np.random.default_rng(0).choice(len(rows), min(len(rows), SAMPLE), replace=False)
    looked_at = exact[np.sort(drawn)]
    mean, deviation = looked_at.mean(axis=0), looked_at.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1.0)
    with at_once(path) as file:
        for begin in range(0, shape[0], _BLOCK):
            first, last = np.searchsorted(rows, [begin, begin + _BLOCK]).tolist()
            block = np.full((min(_BLOCK, shape[0] - begin), shape[1]), np.nan, dtype="<f4")
            block[rows[first:last] - begin] = (exact[first:last] - mean) / scale
            file.write(block.tobytes())
