"""Vectors from elsewhere, read from tables like those that `crystalmax represent` writes."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

LEAST_COVERED = 0.5
"""A table that covers a smaller fraction of a data set than this is taken to be of another data set."""


class Vectors(NamedTuple):
    """Named vectors from elsewhere, and those of untrained twins of the same network, if there are any.

    The tables have a column `key`, columns of numbers, and perhaps `refusal` and `note`. Each trained table is of
    another data set; there can be several untrained ones of one data set, each with other weights.
    """

    name: str
    tables: tuple[Path, ...]
    untrained: tuple[Path, ...] = ()


def read_vectors(tables: Sequence[Path], keys: Sequence[str]) -> Float[np.ndarray, "crystals columns"] | None:
    """A row for each key, NaN where the tables have none; None if they are of other data sets.

    Raises:
        ValueError: A table has no column `key`, a key twice, or no numbers.
    """
    for table in map(_of_table, tables):
        if table.index.isin(keys).sum() >= LEAST_COVERED * len(keys):  # a hash table; strings in NumPy take minutes
            return table.reindex(list(keys)).to_numpy(dtype=np.float64)
    return None


@lru_cache(maxsize=128)
def whole_rows(path: Path, keys: tuple[str, ...]) -> Bool[np.ndarray, " crystals"] | None:
    """Whether the table has a vector for each key; None if it is of another data set."""
    values = read_vectors([path], keys)
    return None if values is None else np.isfinite(values).all(axis=1)


@lru_cache(maxsize=32)
def _of_table(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype={"key": str}) if path.suffix == ".csv" else pd.read_parquet(path)
    if "key" not in table:
        raise ValueError(f"{path} has no column 'key' that names the crystals; write it as `crystalmax represent` does")
    if table.key.duplicated().any():
        raise ValueError(f"{path} names {table.key[table.key.duplicated()].iloc[0]!r} twice; keep one row a crystal")
    table = table.drop(columns=["refusal", "note"], errors="ignore")  # from CSV, where they are empty, they are numbers
    numbers = table.assign(key=table.key.astype(str)).set_index("key").select_dtypes("number")
    if numbers.empty:
        raise ValueError(f"{path} has no numbers beside its column 'key'; write it as `crystalmax represent` does")
    return numbers


def files_by_name(pairs: Iterable[str]) -> dict[str, list[Path]]:
    """Files by name, from arguments NAME=FILE; a name may come several times.

    Raises:
        ValueError: A name or a file is missing.
    """
    found: dict[str, list[Path]] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not (name and equals and file):
            raise ValueError(f"{pair!r} is no NAME=FILE; name what the file holds, as in chgnet=vectors.parquet")
        found.setdefault(name, []).append(Path(file))
    return found
