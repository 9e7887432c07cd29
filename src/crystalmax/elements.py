"""One table of elemental properties for Z = 1 to 103: the eight features that the paper gives to a site.

Units, sources and the few decided values are stated in the header of `data/elements.csv`, the only place where the
numbers live. Weights are only valid with the table that they were trained on, hence `features_hash`.
"""

import csv
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import numpy as np
from jaxtyping import Float


def rows_of(name: str) -> list[dict[str, str]]:
    """Rows of a table of the elements that ships, from hydrogen on, without the comments above it."""
    lines = files("crystalmax").joinpath(f"data/{name}").read_text(encoding="utf-8").splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


_ROWS = rows_of("elements.csv")

FEATURES: tuple[str, ...] = tuple(name for name in _ROWS[0] if name not in {"symbol", "decided"})
"""Names of the features, in the order of the columns of `table`."""

SYMBOLS: tuple[str, ...] = tuple(row["symbol"] for row in _ROWS)
"""Symbols by increasing atomic number; the element Z is `SYMBOLS[Z - 1]`."""

N_ELEMENTS = len(SYMBOLS)
"""Lawrencium is the heaviest for which tables of properties exist."""

ATOMIC_NUMBERS: Mapping[str, int] = MappingProxyType({symbol: z for z, symbol in enumerate(SYMBOLS, start=1)})


@cache
def table() -> Float[np.ndarray, "elements features"]:
    """The features of every element in the units of the source, one row an element; read-only."""
    values = np.array([[float(row[feature]) for feature in FEATURES] for row in _ROWS])
    values.flags.writeable = False
    return values


def columns(*names: str) -> Float[np.ndarray, "features elements"]:
    """These features of every element, a row each."""
    return table()[:, [FEATURES.index(name) for name in names]].T


@cache
def standardised() -> Float[np.ndarray, "elements features"]:
    """The table with each column brought to mean 0 and deviation 1 over the elements; read-only.

    No column is transformed first: the skewed one, density, would gain nothing from a logarithm, which turns the
    eleven gases, all alike to a crystal, into outliers that dominate the column.
    """
    raw = table()
    values: Float[np.ndarray, "elements features"] = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    values.flags.writeable = False
    return values


@cache
def features_hash() -> str:
    """Twelve hexadecimal digits that change whenever a symbol, a feature or a value of the table changes."""
    content = hashlib.sha256(",".join((*SYMBOLS, *FEATURES)).encode())
    content.update(table().astype("<f8").tobytes())
    return content.hexdigest()[:12]
