"""Tables of structures and tables of labels: CSV, Parquet and data frames."""

import logging
import math
import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crystalmax.limits import MAX_WORDS, shortened
from crystalmax.reading.records import Record
from crystalmax.reading.structures import Refused

log = logging.getLogger(__name__)

SUFFIXES = (".csv", ".parquet", ".pq")
STRUCTURE = "cif"
IDENTIFIERS = ("key", "id", "material_id", "mp_id", "cif_id", "structure_id", "identifier", "file", "filename")
"""Names of columns that identify a row; where several are there, the first in this order is taken."""
Table = pd.DataFrame
_ARCHIVE = re.compile(r"(?i)\.zip!")
_ROW = re.compile(r" row \d+$")
_BATCH = 1024
_ROWS_OF_PARQUET = 4  # a cell of 64 MiB may be stored once and repeated in every row, and each copy takes its memory
_UNREADABLE = (pa.ArrowException, ValueError, OSError)
_SUFFIX = re.compile(r"(?i)\.(m?cif|vasp|poscar|json|(ext)?xyz)$")
_QUOTED = re.compile(r'"[^"]*"')
_INDEX = re.compile(r"__index_level_\d+__")  # as pandas writes an index without a name
_NUMBER = re.compile(r"\s*[-+\u2212\u2013]?[.,]?\d")
_COMMA = re.compile(r"(?i)\W*(\d[\d.]*)?,\d+(e[-+]?\d+)?(\(\d+\)|\s*\u00b1.*)?\s*")
_THOUSANDS = re.compile(r"\s*[-+\u2212\u2013]?[1-9]\d{0,2}\.\d{3}\s*")
_TYPESET = str.maketrans("\u2212\u2013\u00a0", "-- ")  # a minus, a dash for one, and spaces of word processors


class Row(NamedTuple):
    """One row of a table: an identifier, the CIF and every numeric column."""

    key: str
    cif: str | bytes
    targets: Mapping[str, float]


def read_labels(table: str | PathLike[str] | Table, target: str = "") -> dict[str, Mapping[str, float]]:
    """The numeric columns of a table by the structures that its identifier column, or else its first column, names.

    If one is the target, of this one alone is told which cells of a file are no numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The table cannot be read, names a structure twice, or has the target where names are looked for.
    """
    labels: dict[str, Mapping[str, float]] = {}
    known: dict[str, str] = {}
    where = "a data frame" if isinstance(table, Table) else table
    if not isinstance(table, Table) and not os.path.isfile(table):
        found = "this is a folder" if os.path.isdir(table) else "there is no such file"
        raise FileNotFoundError(f"{where}: {found}; give a table of labels")
    try:
        batches = list(_batches(table, target))
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the labels in {where} cannot be read ({reason}); save them as CSV in UTF-8") from None
    for batch in batches:
        identifier = identifier_of(batch.schema.names) or batch.schema.names[0]
        if identifier == target != "":
            raise ValueError(f"{where}: {target!r} is taken for the names of structures; call that of the names 'key'")
        for name, targets in zip(batch.column(identifier).to_pylist(), _targets(batch, {identifier}), strict=True):
            if name is None:  # spreadsheets often end in empty rows
                continue
            key = composed(str(name).strip())
            first = known.setdefault(stem := without_suffix(key), key)
            if key in labels or (first != key and stem in (first, key)):  # x.cif and x.vasp may be two structures
                other = labels.get(key, labels[first])
                # As text, in which what both leave empty is no difference.
                column = next((column for column in targets if str(targets[column]) != str(other[column])), None)
                values = f", with {column!r} of {other[column]:g} and {targets[column]:g}" if column else ""
                raise ValueError(f"the labels in {where} name {stem!r} twice{values}; keep one row for each structure")
            labels[key] = targets
    return labels


def with_labels(records: Iterable[Record], labels: Mapping[str, Mapping[str, float]]) -> Iterator[Record]:
    """The records with the labels of one of their names; a label that structures of one file share is theirs all.

    Raises:
        ValueError: One label fits structures of several files, or names begin with the same `MAX_WORDS` letters.
    """
    used: dict[str, tuple[str, list[str]]] = {}
    folded, otherwise = {without_suffix(name).casefold() for name in labels}, dict[str, str]()
    short = {shortened(name): name for name in labels}  # as keys are
    if alike := next((name for name in labels if short[shortened(name)] != name), None):
        raise ValueError(f"{alike[:80]!r}... and another label begin with the same {MAX_WORDS} letters; shorten names")
    written = {composed(os.path.abspath(name)): name for name in labels} | short
    count = Counter(map(without_suffix, written))
    either = {stem: name for known, name in written.items() if count[stem := without_suffix(known)] == 1} | written
    for record in records:
        # Where a key keeps its ending, a label with another one is of another file.
        known = written if without_suffix(file := record.key.partition(":")[0]) != file else either
        names = [key] if (key := composed(record.key)) in known else _names_of(record)
        otherwise |= {name.casefold(): name for name in names if name.casefold() in folded}
        if (name := next((known[name] for name in names if name in known), None)) is not None:
            source = _ROW.sub("", record.source)
            first, keys = used.setdefault(name, (source, []))
            if first != source:
                remedy = f"label files of one name with folder and ending, as {source!r}"
                raise ValueError(f"the label of {name!r} fits {first} and {source}; {remedy}")
            keys.append(record.key)
            targets = {**record.targets, **labels[name]}
            crystal = None if record.crystal is None else replace(record.crystal, targets=targets)
            record = replace(record, crystal=crystal, targets=targets)
        yield record
    _tell_of_shared(used)
    for name in labels:
        if name not in used:
            other = otherwise.get((bare := without_suffix(name)).casefold(), bare)
            remedy = f"write {other!r}, from which it differs by case only" if other != bare else "correct its name"
            refusal = Refused(name, "it has labels but no structure", f"add the structure, or {remedy}")
            yield Record(name, "labels", targets=labels[name], refusal=refusal)


def _names_of(record: Record) -> list[str]:
    """What labels may call a record: its key, its file, its path from any folder on, or its bare name."""
    key, path = composed(record.key), composed(os.path.abspath(record.source))
    file, inner = key.partition(":")[0], _ARCHIVE.sub("/", path)  # keys name an archive like a folder
    part, bare, whole = key.removeprefix(file), os.path.basename(file), os.path.basename(inner)
    names, (stem, ending) = [key, file], os.path.splitext(whole)
    if bare in (whole, stem):  # rows of a table have names of their own
        for tail in (path, inner, *(inner[slash.end() :] for slash in re.finditer("/", inner))):
            short = tail.removesuffix(ending) if bare == stem else tail
            names += [tail + part, short + part, tail, short]
    return [way for name in [*names, bare] for way in (name, without_suffix(name))]


def _tell_of_shared(used: Mapping[str, tuple[str, list[str]]]) -> None:
    """Warn of labels that several structures of a file share."""
    if shared := [name for name, (_, keys) in used.items() if len(keys) > 1]:
        source, keys = used[shared[0]]
        more = f", and so for {len(shared) - 1:,} more labels" if len(shared) > 1 else ""
        one = f"to label one of them, name it in the table, such as {keys[0]!r}"
        remedy = one if len({*keys}) == len(keys) else "give the file once, and each structure a name of its own"
        log.warning("%s: its %d structures share the label of %r%s; %s", source, len(keys), shared[0], more, remedy)


def rows_of(table: Path | Table, name: str, target: str = "") -> Iterator[Row | Refused]:
    """The rows of a table with a `cif` column; one refusal where it has none or cannot be read.

    Rows that no column identifies are called by the name given and their number. For the target see `read_labels`.
    """
    number = 0
    try:
        for batch in _batches(table, target):
            columns = batch.schema.names
            if STRUCTURE not in columns:
                reason = f"the table has no column {STRUCTURE!r} among {', '.join(columns)}"
                remedy = f"name the column of CIF text {STRUCTURE!r}, or give the table as labels of a folder"
                yield Refused(name, reason, remedy)
                return
            identifier = identifier_of(columns)
            keys = batch.column(identifier).to_pylist() if identifier else [None] * len(batch)
            rows = zip(keys, batch.column(STRUCTURE).to_pylist(), _targets(batch, {identifier, STRUCTURE}), strict=True)
            for key, cif, targets in rows:
                text = cif if isinstance(cif, str | bytes) else ""
                yield Row(f"{name}-{number}" if key is None else str(key), text, targets)
                number += 1
    except _UNREADABLE as error:
        reason = f"the table cannot be read ({' '.join(str(error).split())})"
        if number:  # what has been read of it would pass for all of it
            found = name if isinstance(table, Table) else table
            raise ValueError(f"{found}: {reason} after {number:,} rows; copy it anew, or write it anew") from None
        yield Refused(name, reason, "write it anew as CSV in UTF-8 or as Parquet")
        return
    if number == 0:
        yield Refused(name, "the table has no rows", "give a table with one structure a row")


def without_suffix(name: str) -> str:
    """The name of a file of structures without its ending, if it has one of theirs."""
    return _SUFFIX.sub("", name)


def composed(name: str) -> str:
    """The name with accents as part of letters, which macOS takes apart in names of files, and slashes as elsewhere."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def _batches(table: str | PathLike[str] | Table, target: str = "") -> Iterator[pa.RecordBatch]:
    if isinstance(table, Table):
        table = table if table.index.name in (None, *table.columns) else table.reset_index()  # as Parquet keeps it
        # Objects, such as structures beside their labels, are neither names nor numbers.
        table = table.loc[:, [pd.api.types.is_scalar(next(iter(cells.dropna()), 0)) for _, cells in table.items()]]
        yield from pa.Table.from_pandas(table, preserve_index=False).to_batches(max_chunksize=_BATCH)
    elif Path(table).suffix.lower() in (".parquet", ".pq"):
        # What is buffered ahead stays in memory until the end, though it was read.
        file = pq.ParquetFile(table, pre_buffer=False)
        _refuse_twins(file.schema_arrow.names)
        names = [name for name in file.schema_arrow.names if not _INDEX.fullmatch(name)]
        yield from (batch.select(names) for batch in file.iter_batches(batch_size=_ROWS_OF_PARQUET))
    else:
        yield from _batches(read_csv(Path(table), target))


def read_csv(path: Path, target: str = "") -> Table:
    """A table as spreadsheets save it: also with semicolons and decimal commas, or with tabs; an index is left out.

    Raises:
        ValueError: A row has more cells than the header, two columns have one name, or it is no such table.
    """
    with open(path, encoding="utf-8-sig") as file:
        filled = filter(str.strip, file)
        lines = [_QUOTED.sub("", next(filled, "")) for _ in range(2)]
    if re.match(r"#[^;\t,]*$|(?i:sep=)", lines[0]):  # Excel takes the latter for what parts columns
        raise ValueError(f"{path}: its first line is {lines[0].strip()!r}; expected the names of the columns")
    # Of as many in header and first row, a comma may as well stand in a name or a number.
    separator = max(";\t,", key=lambda mark: (min(line.count(mark) for line in lines), mark in lines[0]))
    header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    header = header.str.strip()
    _refuse_twins(filter(None, header), f"{path}: ")  # pandas would call the second `gap.1`
    # Not as pandas calls them: what it has read and written again has such names beside a new index.
    names = [name or f"unnamed column {place}" for place, name in enumerate(header, 1)]
    how: dict[str, Any] = {"sep": separator, "names": names, "header": 0, "index_col": False}
    if not header[0] and len(names) > 1 and _is_index(pd.read_csv(path, **how, usecols=[0, 1]), names[1:]):
        names = names[1:]
    # Identifiers are names even where they look like numbers: 007 is not 7.
    identifier = identifier_of(names) or ("" if STRUCTURE in names[1:] else names[0])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # more cells than the header has would be lost
            table: Table = pd.read_csv(path, **how, dtype={identifier: str})[names]
    except pd.errors.ParserWarning:
        raise ValueError(f"{path}: rows have more cells than the header; a comma within a cell needs quotes") from None
    if identifier and table[identifier].isna().any():  # a name such as NA is missing in other columns only
        alone: Table = pd.read_csv(path, **how, usecols=[identifier], dtype=str, keep_default_na=False, na_values=[""])
        table[identifier] = alone[identifier]
    others = [name for name in names if name not in (identifier, STRUCTURE)]
    commas = separator == ";" and any(table[name].astype("string").str.fullmatch(_COMMA).any() for name in others)
    points = [name for name in others if pd.api.types.is_float_dtype(table[name]) and table[name].notna().any()]
    if separator == ";" and points:  # 1.016 and 950 are numbers, but points of thousands need no comma anywhere
        text = pd.read_csv(path, **how, usecols=points, dtype=str)[points]
        if commas := commas or _are_thousands(text):
            table[points] = text
    for name in others:
        if not pd.api.types.is_numeric_dtype(table[name]) or table[name].isin([math.inf, -math.inf]).any():
            table[name], doubt = _numbers(table[name], decimal="," if commas else ".")
            if doubt and target in ("", name):
                log.warning("%s: %s", path, doubt)
    return table


def _is_index(first: Table, others: list[str]) -> bool:
    """Whether the first of two columns counts from 0, as pandas writes an index, and another can hold names."""
    counter = first.iloc[:, 0].dropna().tolist()
    is_named = STRUCTURE in others or identifier_of(others) or not pd.api.types.is_float_dtype(first.iloc[:, 1])
    return bool(is_named) and counter == [*range(len(counter))]


def _are_thousands(text: Table) -> bool:
    """Whether three digits follow every point, and a column has whole numbers of three digits beside such."""
    parted = text.apply(lambda cells: cells.str.fullmatch(_THOUSANDS, na=False))
    pointed = text.apply(lambda cells: cells.str.contains(".", regex=False, na=False))
    whole = text.apply(lambda cells: cells.str.fullmatch(r"\s*\W?[1-9]\d\d\s*", na=False))
    return bool(parted.equals(pointed) and (parted.any() & whole.any()).any())


def _refuse_twins(names: Iterable[str], where: str = "") -> None:
    """Refuse a table with two columns of one name, of which only one would be read."""
    known = pd.Series([*names], dtype=str)
    if len(twice := known[known.duplicated()]):
        raise ValueError(f"{where}two columns are called {twice.iloc[0]!r}; rename or remove one of them")


def _numbers(cells: pd.Series, decimal: str) -> tuple[pd.Series, str]:
    """Numbers instead of a column of text, unless most of it is text; and a word on what is no number, thus missing."""
    text = cells.astype("string")
    numbers = pd.to_numeric(text.str.replace(decimal, ".").str.translate(_TYPESET), errors="coerce")
    numbers = numbers.astype(float).replace([math.inf, -math.inf], math.nan)
    if decimal == ",":  # among decimal commas, the point of 1.500 may part thousands
        numbers = numbers.mask(text.str.fullmatch(_THOUSANDS).fillna(False).astype(bool))
    wrong = text[numbers.isna() & text.notna()]
    found = f"{len(wrong)} of {text.count()} values of {cells.name!r} are no numbers, such as {next(iter(wrong), '')!r}"
    if numbers.count() > len(wrong):
        return numbers, f"{found}, and count as missing" if len(wrong) else ""
    remedy = "for a property write numbers with a decimal point and nothing else, and leave other cells empty"
    told = f"{found}, and the column counts as text; {remedy}"
    return cells, told if any(map(_NUMBER.match, text.dropna())) else ""


def identifier_of(columns: list[str]) -> str | None:
    """The first of `IDENTIFIERS` that is among these columns, however it is capitalised."""
    by_name = {column.lower(): column for column in reversed(columns)}
    return next((by_name[name] for name in IDENTIFIERS if name in by_name), None)


def _targets(batch: pa.RecordBatch, leave_out: set[str | None]) -> list[dict[str, float]]:
    tests = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal, pa.types.is_boolean)
    numeric = [field.name for field in batch.schema if any(test(field.type) for test in tests)]
    rows = batch.select([name for name in numeric if name not in leave_out]).to_pylist()
    return [{name: math.nan if value is None else float(value) for name, value in row.items()} for row in rows]
