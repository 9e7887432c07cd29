"""The files `skipped.csv` and `notes.csv`, which are written line by line as records are read."""

import csv
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path

from crystalmax.reading.records import Labelled, Record

Lines = Callable[[Record], list[tuple[str, ...]]]
Add = Callable[[Record], int]
"""Writes the lines of a record, and returns their number."""


def skipped(path: str | PathLike[str]) -> AbstractContextManager[Add]:
    """A CSV file of refused structures, with reason and remedy."""
    return _listing(path, ("key", "source", "reason", "remedy"), _refusals)


def notes(path: str | PathLike[str]) -> AbstractContextManager[Add]:
    """A CSV file of reinterpretations, with a line for each note."""
    return _listing(path, ("key", "source", "note"), lambda one: [(one.key, one.source, note) for note in one.notes])


@contextmanager
def _listing(path: str | PathLike[str], columns: tuple[str, ...], lines_of: Lines) -> Iterator[Add]:
    """A CSV file with the lines of records, which are not held in memory, since they may be many."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)

        def add(record: Record) -> int:
            lines = lines_of(record)
            writer.writerows(lines)
            return len(lines)

        yield add


def list_left_out(read: Labelled, folder: Path) -> str:
    """Write `skipped.csv` and `notes.csv` to a folder, and return a summary in words."""
    with skipped(folder / "skipped.csv") as add_skipped, notes(folder / "notes.csv") as add_notes:
        n_skipped = sum(map(add_skipped, read.refused))
        for record in read.noted:
            add_notes(record)
    noted = f"; {len(read.noted):,} read with a note, see {folder / 'notes.csv'}"
    without = f"; {len(read.without):,} crystals have no value of the property" if read.without else ""
    return f"{n_skipped:,} refused, see {folder / 'skipped.csv'}{noted}{without}"


def _refusals(one: Record) -> list[tuple[str, ...]]:
    return [(one.key, one.source, one.refusal.reason, one.refusal.remedy)] if one.refusal else []
