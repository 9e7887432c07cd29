"""From sources to a data set: structures are read, brought to their canonical cell and stored; refusals are listed."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from crystalmax import __version__
from crystalmax.cells import canonical
from crystalmax.reading.listing import notes, skipped
from crystalmax.reading.records import Record
from crystalmax.reading.sources import read
from crystalmax.storage.dataset import CrystalDataset, DatasetWriter


class Ingested(NamedTuple):
    """The data set that `ingest` made, and the numbers of refused and of noted structures."""

    data: CrystalDataset
    n_skipped: int
    n_noted: int


canonical_records = partial(read, cell=canonical)
"""`sources.read` with every crystal in its canonical cell."""


def records_of_files(*sources: Path, **how: Any) -> Iterator[Record]:  # noqa: ANN401  # as `sources.read` takes it
    """As `canonical_records`, for paths on a command line: one that is missing is an error, not a refused structure.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: One is named twice, or as `sources.read`.
    """
    for source in sources:
        if not os.path.exists(source):  # unlike `Path.exists`, false for a name that is too long
            raise FileNotFoundError(f"{str(source)[:200]}: there is no such file or folder; correct the path")
    if twice := [path for path, count in Counter(map(os.path.realpath, sources)).items() if count > 1]:
        raise ValueError(f"{twice[0]} is given twice; give each source once")
    return canonical_records(*sources, **how)


def ingest(records: Iterable[Record], out: str | Path, *, made_from: Iterable[object]) -> Ingested:
    """Store the crystals of these records as a data set, with `skipped.csv` and `notes.csv` beside the arrays.

    Args:
        records: Records of `sources.read`.
        out: The folder of the new data set.
        made_from: Names of the sources, for the provenance.

    Raises:
        FileExistsError: `out` exists already.
        ValueError: Not one crystal could be read; the message says why the first was refused.
    """
    n_skipped = n_noted = 0
    reason = "there was nothing to read"
    provenance = {"sources": [str(source) for source in made_from], "crystalmax": __version__}
    with DatasetWriter(Path(out), provenance=provenance) as writer:
        folder = writer.folder
        with skipped(folder / "skipped.csv") as add_skipped, notes(folder / "notes.csv") as add_notes:
            for record in records:
                if record.crystal is not None:
                    writer.add(record.crystal)
                if record.refusal is not None and not n_skipped:
                    reason = str(record.refusal)
                n_skipped += add_skipped(record)
                n_noted += bool(add_notes(record))
        if writer.n_crystals == 0:
            raise ValueError(f"no crystal could be read: {reason}")
    return Ingested(CrystalDataset.open(out), n_skipped, n_noted)
