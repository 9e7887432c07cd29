"""Tables of structures and tables of labels: CSV, Parquet and data frames."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crystalmax.structures import Refused

SUFFIXES = (".csv", ".parquet", ".pq")
STRUCTURE = "cif"
IDENTIFIERS = ("key", "id", "material_id", "mp_id", "cif_id", "structure_id", "identifier", "file", "filename")
"""Names of columns that identify a row, the first that is there counts."""
Table = pd.DataFrame
_BATCH = 1024


class Row(NamedTuple):
    """One row of a table: an identifier, the CIF and every numeric column."""

    key: str
    cif: str | bytes
    targets: Mapping[str, float]


@dataclass(frozen=True)
class Labels:
    """Properties by name of a structure.

    Attributes:
        source: The table that they came from.
        rows: For each structure, its properties.
    """

    source: str
    rows: Mapping[str, Mapping[str, float]]

    def find(self, key: str) -> tuple[str, Mapping[str, float]]:
        """The name that stands for a key, and its labels: the key itself, its file without folders, or its file."""
        file = key.partition(":")[0]
        for name in (key, file, file.rpartition("/")[2]):
            if name in self.rows:
                return name, self.rows[name]
        return "", {}


def read_labels(table: str | PathLike[str] | Table) -> Labels:
    """Labels from a table whose identifier column, or else whose first column, names structures.

    Raises:
        ValueError: A structure is named twice.
    """
    source = "labels" if isinstance(table, Table) else str(table)
    rows: dict[str, Mapping[str, float]] = {}
    for batch in _batches(table):
        identifier = _identifier(batch.schema) or batch.schema.names[0]
        names = [_bare(str(name)) for name in batch.column(identifier).to_pylist()]
        for name, targets in zip(names, _targets(batch, {identifier}), strict=True):
            if name in rows:
                raise ValueError(f"{source} names {name!r} twice; keep one row for each structure.")
            rows[name] = targets
    return Labels(source, rows)


def rows_of(table: Path | Table, name: str) -> Iterator[Row | Refused]:
    """The rows of a table with a `cif` column; one refusal where it has none or cannot be read.

    Args:
        table: A CSV or Parquet file, or a data frame.
        name: What rows are called, with their number, where no column identifies them.
    """
    number = 0
    try:
        for batch in _batches(table):
            columns = batch.schema.names
            if STRUCTURE not in columns:
                reason = f"the table has no column {STRUCTURE!r} among {', '.join(columns)}"
                remedy = f"name the column of CIF text {STRUCTURE!r}, or give the table as labels of a folder"
                yield Refused(name, reason, remedy)
                return
            identifier = _identifier(batch.schema)
            given = batch.column(identifier).to_pylist() if identifier else [None] * len(batch)
            structures = batch.column(STRUCTURE).to_pylist()
            targets = _targets(batch, {identifier, STRUCTURE})
            for key, cif, row in zip(given, structures, targets, strict=True):
                yield Row(str(key) if key is not None else f"{name}-{number}", _text(cif), row)
                number += 1
    except (pa.ArrowException, ValueError, OSError) as error:
        reason = f"the table cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        yield Refused(name, reason, "write it anew as CSV or Parquet")
        return
    if number == 0:
        yield Refused(name, "the table has no rows", "give a table with one structure a row")


def _text(cif: object) -> str | bytes:
    if isinstance(cif, bytes):
        return cif
    return cif if isinstance(cif, str) else ""


def _batches(table: str | PathLike[str] | Table) -> Iterator[pa.RecordBatch]:
    if not isinstance(table, Table):
        path = Path(table)
        if path.suffix.lower() != ".csv":
            yield from pq.ParquetFile(path).iter_batches(batch_size=_BATCH)
            return
        table = _read_csv(path)
    yield from pa.Table.from_pandas(table, preserve_index=False).to_batches(max_chunksize=_BATCH)


def _read_csv(path: Path) -> Table:
    try:
        path.read_bytes().decode("utf-8")
        encoding = "utf-8-sig"
    except UnicodeDecodeError:
        encoding = "latin-1"
    header = list(pd.read_csv(path, encoding=encoding, nrows=0).columns)
    # Identifiers are names even where they look like numbers: 007 is not 7.
    names = [column for column in header if column.lower() in IDENTIFIERS]
    if not names and STRUCTURE not in header:
        names = header[:1]
    return pd.read_csv(path, encoding=encoding, dtype=dict.fromkeys(names, str))


def _identifier(schema: pa.Schema) -> str | None:
    columns = {column.lower(): column for column in reversed(schema.names)}
    return next((columns[name] for name in IDENTIFIERS if name in columns), None)


def _targets(batch: pa.RecordBatch, leave_out: set[str | None]) -> list[dict[str, float]]:
    names, columns = [], []
    for name, kind in zip(batch.schema.names, batch.schema.types, strict=True):
        is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        if is_number and name not in leave_out:
            names.append(name)
            columns.append(batch.column(name).cast(pa.float64() if not pa.types.is_boolean(kind) else pa.int8()))
    values = [np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64).tolist() for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)] or [{} for _ in range(len(batch))]


def _bare(name: str) -> str:
    """A name without the suffix of a structure file."""
    for suffix in (".cif", ".mcif", ".vasp", ".poscar", ".json", ".xyz", ".extxyz"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
