"""Numbers of every crystal that training needs, made once by all processes and mapped from a file."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from filelock import FileLock
from jaxtyping import Float, Int

from crystalmax.crystal import Crystal
from crystalmax.dataset import Dataset
from crystalmax.mapping import forget, mapped
from crystalmax.spread import in_order
from crystalmax.writing import at_once

SAMPLE = 40_000
"""Mean and deviation are those of a random draw of so many crystals, or of all if they are fewer."""

_CHUNK = 64  # crystals that a worker is given at once
_BLOCK = 4096  # crystals whose numbers are in memory at once

Make = Callable[[list[Crystal]], Float[np.ndarray, "crystals columns"]]


def standardised(
    data: Dataset, rows: Int[np.ndarray, " rows"], make: Make, width: int, path: Path
) -> Float[np.ndarray, "crystals columns"]:
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
            _write(data, rows, make, width, path)
    return mapped(path, 4 * width * len(data), "remove it, and it is made anew").reshape(-1, width)


def _write(data: Dataset, rows: Int[np.ndarray, " rows"], make: Make, width: int, path: Path) -> None:
    """Write the numbers as they come, look at a sample of them, and write them again to its scale."""
    chunks = (data.crystals(rows[begin : begin + _CHUNK]) for begin in range(0, len(rows), _CHUNK))
    with TemporaryFile(dir=path.parent) as rough, at_once(path) as file:
        for found in in_order(make, chunks, None):
            rough.write(found.astype("<f8").tobytes())
        rough.flush()
        values = np.memmap(rough, dtype="<f8", mode="r", shape=(len(rows), width))
        sample = _sample(len(rows))
        drawn = np.concatenate([_read(values, part) for part in np.array_split(sample, len(sample) // 1024 + 1)])
        mean, deviation = drawn.mean(axis=0), drawn.std(axis=0)
        scale = np.where(deviation > 0, deviation, 1.0)
        for begin in range(0, len(data), _BLOCK):
            first, last = np.searchsorted(rows, [begin, begin + _BLOCK])
            block = np.full((min(_BLOCK, len(data) - begin), width), np.nan, dtype="<f4")
            block[rows[first:last] - begin] = (_read(values, slice(first, last)) - mean) / scale
            file.write(block.tobytes())


def _read(values: np.ndarray, rows: Int[np.ndarray, " rows"] | slice) -> np.ndarray:
    """These rows of a map, of which nothing else stays in memory."""
    found = np.array(values[rows])
    forget(values)
    return found


def _sample(n_rows: int) -> Int[np.ndarray, " drawn"]:
    if n_rows <= SAMPLE:
        return np.arange(n_rows)
    return np.sort(np.random.default_rng(0).choice(n_rows, SAMPLE, replace=False))
