"""Numbers of every crystal that training needs, made once by all processes and read from a file."""

import logging
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int

from crystalmax.crystal import Crystal
from crystalmax.dataset import Dataset
from crystalmax.disk import DiskArray
from crystalmax.spread import in_order
from crystalmax.writing import at_once

log = logging.getLogger(__name__)

SAMPLE = 40_000
"""Mean and deviation are those of a random draw of so many crystals, or of all if they are fewer."""

_CHUNK = 64  # crystals that a worker is given at once
_BLOCK = 4096  # crystals whose numbers are in memory at once

Make = Callable[[list[Crystal]], Float[np.ndarray, "crystals columns"]]


def standardised(data: Dataset, rows: Int[np.ndarray, " rows"], make: Make, width: int, path: Path) -> DiskArray:
    """Numbers with mean 0 and deviation 1 in these rows, NaN in others, float32 on disk; a file that is there counts.

    Args:
        data: The crystals.
        rows: Those whose numbers are needed, ascending.
        make: Gives the numbers of some crystals; it is sent to the processes that joblib is set to use.
        width: How many numbers a crystal has.
        path: The file, which ends in `.f4`.
    """
    with FileLock(path.with_suffix(".lock")):  # several processes may train together
        if not path.exists():
            log.info("making %d numbers of each of %s crystals, once for this run", width, f"{len(rows):,}")
            _write(data, rows, make, width, path)
    return DiskArray(path, (len(data), width), "remove it, and it is made anew")


def _write(data: Dataset, rows: Int[np.ndarray, " rows"], make: Make, width: int, path: Path) -> None:
    """Write the numbers as they come, look at a sample of them, and write them again to its scale."""
    chunks = (data.crystals(rows[begin : begin + _CHUNK]) for begin in range(0, len(rows), _CHUNK))
    sample, drawn, begin = _sample(len(rows)), [], 0
    with TemporaryFile(dir=path.parent) as rough, at_once(path) as file:
        for found in in_order(make, chunks, None):
            rough.write(found.astype("<f8").tobytes())
            first, last = np.searchsorted(sample, [begin, begin + len(found)])
            drawn.append(found[sample[first:last] - begin])
            begin += len(found)
        rough.seek(0)
        looked_at = np.concatenate(drawn)
        mean, deviation = looked_at.mean(axis=0), looked_at.std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
        for begin in range(0, len(data), _BLOCK):
            first, last = np.searchsorted(rows, [begin, begin + _BLOCK])
            values = np.frombuffer(rough.read(8 * width * (last - first)), dtype="<f8").reshape(-1, width)
            block = np.full((min(_BLOCK, len(data) - begin), width), np.nan, dtype="<f4")
            block[rows[first:last] - begin] = (values - mean) / scale
            file.write(block.tobytes())


def _sample(n_rows: int) -> Int[np.ndarray, " drawn"]:
    if n_rows <= SAMPLE:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(0).choice(n_rows, SAMPLE, replace=False))
