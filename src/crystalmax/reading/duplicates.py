"""Structures that occur again among many records: the first one counts."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import UInt

from crystalmax.fingerprint import Fingerprint, are_close
from crystalmax.reading.records import Record
from crystalmax.reading.structures import Refused

log = logging.getLogger(__name__)

_REMEDY = "leave out --unique to keep both"


@dataclass
class _Alike:
    """The first of each structure among those with one formula and as many distances."""

    keys: list[str] = field(default_factory=list)
    targets: list[Mapping[str, float]] = field(default_factory=list)
    distances: bytearray = field(default_factory=bytearray)

    def find(self, distances: UInt[np.ndarray, " numbers"]) -> int | None:
        """Which of them has these distances, the first if several have."""
        known = np.frombuffer(self.distances, dtype=np.uint8).reshape(-1, len(distances))
        close = are_close(known, distances)
        return int(close.argmax()) if close.any() else None


def without_duplicates(records: Iterable[Record]) -> Iterator[Record]:
    """The records, where a crystal with the structure of an earlier one is refused; the reason names that one.

    Two crystals have one structure if their fingerprints agree (see `fingerprint`), which are the marks of the records
    where `read` was given `fingerprint_of`, or else made here. What is kept of each structure, about a kilobyte,
    stays in memory.
    """
    known: dict[tuple[str, int], _Alike] = {}
    n_duplicates = 0
    for record in records:
        if record.crystal is None:
            yield record
            continue
        fingerprint = record.mark if isinstance(record.mark, Fingerprint) else Fingerprint.of(record.crystal)
        distances = fingerprint.hundredths
        alike = known.setdefault((fingerprint.formula, len(distances)), _Alike())
        if (first := alike.find(distances)) is None:
            alike.keys.append(record.key)
            alike.targets.append(record.targets)
            alike.distances += distances.tobytes()
            yield record
        else:
            reason = f"it is a duplicate of {alike.keys[first]!r}{_differences(record.targets, alike.targets[first])}"
            n_duplicates += 1
            yield replace(record, crystal=None, refusal=Refused(record.key, reason, _REMEDY))
    log.info("%d duplicates were left out", n_duplicates)


def _differences(own: Mapping[str, float], kept: Mapping[str, float]) -> str:
    """Labels that are lost with a duplicate, in words; nothing if the structure that is kept has the same."""
    parts = []
    for name, here in own.items():
        there = kept.get(name, math.nan)
        if not math.isnan(here) and here != there:
            parts.append(f"{name} is {here:g} here and {'unknown' if math.isnan(there) else f'{there:g}'} there")
    return f", and their labels differ: {', '.join(parts)}" if parts else ""
