"""Lists of what was refused and of what was reinterpreted, written line by line as records pass."""

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path

from crystalmax.records import Labelled, Record

Lines = Callable[[Record], Iterable[tuple[str, ...]]]
Add = Callable[[Record], int]
"""Writes what a record has to tell; returns how many lines that took."""


def skipped(path: str | PathLike[str]) -> AbstractContextManager[Add]:
    """A list of what was refused, with reason and remedy."""
    return _listing(path, ("key", "source", "reason", "remedy"), _refusals)


def notes(path: str | PathLike[str]) -> AbstractContextManager[Add]:
    """A list of what was reinterpreted, one line a note."""
    return _listing(path, ("key", "source", "note"), lambda one: [(one.key, one.source, note) for note in one.notes])


@contextmanager
def _listing(path: str | PathLike[str], columns: tuple[str, ...], lines_of: Lines) -> Iterator[Add]:
    """A CSV file of what records have to tell; it is not held in memory, since they may be many."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)

        def add(record: Record) -> int:
            lines = list(lines_of(record))
            writer.writerows(lines)
            return len(lines)

        yield add


def write_skipped(path: str | PathLike[str], records: Iterable[Record]) -> int:
    """Write what was refused of these records; returns how many."""
    with skipped(path) as add:
        return sum(map(add, records))


def list_left_out(read: Labelled, folder: Path) -> str:
    """Write `skipped.csv` and `notes.csv` to a folder; returns in words what has no part in it or was reinterpreted."""
    n_skipped = write_skipped(folder / "skipped.csv", read.refused)
    with notes(folder / "notes.csv") as add:
        for record in read.noted:
            add(record)
    noted = f"; {len(read.noted):,} read with a note, see {folder / 'notes.csv'}"
    without = f"; {len(read.without):,} crystals have no value of the property" if read.without else ""
    return f"{n_skipped:,} refused, see {folder / 'skipped.csv'}{noted}{without}"


def _refusals(record: Record) -> Iterable[tuple[str, ...]]:
    if record.refusal is not None:
        yield record.key, record.source, record.refusal.reason, record.refusal.remedy
