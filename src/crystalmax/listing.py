"""Lists of what was refused and of what was reinterpreted, written line by line as records pass."""

import csv
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from crystalmax.records import Labelled, Record

Lines = Callable[[Record], Iterable[tuple[str, ...]]]


class Listing:
    """A CSV file of what records have to tell; it is not held in memory, since they may be many.

    Args:
        path: The file to write.
        columns: Its header.
        lines: What a record adds to it.
    """

    def __init__(self, path: str | PathLike[str], columns: tuple[str, ...], lines: Lines) -> None:
        self.path, self.columns, self.lines = path, columns, lines

    def __enter__(self) -> "Listing":
        self._file = open(self.path, "w", encoding="utf-8", newline="")  # closed on leaving
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(self.columns)
        return self

    def __exit__(self, *_: Any) -> None:  # noqa: ANN401  # whatever the block raised is passed on
        self._file.close()

    def add(self, record: Record) -> int:
        """Write what a record has to tell; returns how many lines that took."""
        lines = list(self.lines(record))
        self._writer.writerows(lines)
        return len(lines)


def skipped(path: str | PathLike[str]) -> Listing:
    """A list of what was refused, with reason and remedy."""
    return Listing(path, ("key", "source", "reason", "remedy"), _refusals)


def notes(path: str | PathLike[str]) -> Listing:
    """A list of what was reinterpreted, one line a note."""
    return Listing(path, ("key", "source", "note"), _notes)


def write_skipped(path: str | PathLike[str], records: Iterable[Record]) -> int:
    """Write what was refused of these records; returns how many."""
    with skipped(path) as listing:
        return sum(map(listing.add, records))


def list_left_out(read: Labelled, folder: Path) -> str:
    """Write `skipped.csv` and `notes.csv` to a folder; returns in words what has no part in it or was reinterpreted."""
    n_skipped = write_skipped(folder / "skipped.csv", read.refused)
    with notes(folder / "notes.csv") as listing:
        for record in read.noted:
            listing.add(record)
    noted = f"; {len(read.noted):,} read with a note, see {folder / 'notes.csv'}"
    without = f"; {len(read.without):,} crystals have no value of the property" if read.without else ""
    return f"{n_skipped:,} refused, see {folder / 'skipped.csv'}{noted}{without}"


def _refusals(record: Record) -> Iterable[tuple[str, ...]]:
    if record.refusal is not None:
        yield record.key, record.source, record.refusal.reason, record.refusal.remedy


def _notes(record: Record) -> Iterable[tuple[str, ...]]:
    return ((record.key, record.source, note) for note in record.notes)
