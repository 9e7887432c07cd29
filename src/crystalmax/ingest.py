"""From sources to a data set: read, bring to the canonical cell, store, and list what was not taken."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from crystalmax import __version__
from crystalmax.cells import canonical
from crystalmax.dataset import CrystalDataset, DatasetWriter
from crystalmax.sources import Record, read, write_notes, write_skipped
from crystalmax.structures import MAX_SITES


class Ingested(NamedTuple):
    """What came of an ingestion."""

    data: CrystalDataset
    n_skipped: int
    n_noted: int


def canonical_records(
    *sources: object, labels: Path | None = None, max_sites: int = MAX_SITES, n_jobs: int = 1
) -> Iterator[Record]:
    """What `sources.read` yields, with every crystal in its canonical cell."""
    return read(*sources, labels=labels, max_sites=max_sites, cell=canonical, n_jobs=n_jobs)


def ingest(records: Iterable[Record], out: Path, *, made_from: Iterable[object]) -> Ingested:
    """Store the crystals of these records as a data set, with `skipped.csv` and `notes.csv` beside the arrays.

    Args:
        records: What `sources.read` yields.
        out: The data set to make.
        made_from: Names of the sources, for the provenance.

    Raises:
        FileExistsError: `out` exists already.
        ValueError: Not one crystal could be read; the message says why the first was refused.
    """
    with DatasetWriter(
        out, provenance={"sources": [str(source) for source in made_from], "crystalmax": __version__}
    ) as writer:
        kept = list(_without_crystals(records, writer))
        if writer.n_crystals == 0:
            reason = next((str(record.refusal) for record in kept if record.refusal), "there was nothing to read")
            raise ValueError(f"no crystal could be read: {reason}")
        n_skipped = write_skipped(writer.folder / "skipped.csv", kept)
        write_notes(writer.folder / "notes.csv", kept)
    n_noted = sum(bool(record.notes) for record in kept)
    return Ingested(CrystalDataset.open(out), n_skipped, n_noted)


def _without_crystals(records: Iterable[Record], writer: DatasetWriter) -> Iterator[Record]:
    """Store crystals as they come; pass on only records that have something to tell."""
    for record in records:
        if record.crystal is not None:
            writer.add(record.crystal)
        if record.refusal is not None or record.notes:
            yield Record(record.key, record.source, notes=record.notes, refusal=record.refusal)
