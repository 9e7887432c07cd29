"""Records: what is read of each structure, a crystal or the reason of its refusal, with labels and notes."""

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import NamedTuple

from crystalmax.crystal import Crystal
from crystalmax.reading.structures import Refused

log = logging.getLogger(__name__)

GREATEST = 1e100
"""Largest absolute value of a label; a larger one is a slip, and sums of squares overflow from some 1e150 on."""


@dataclass(frozen=True)
class Record:
    """One structure of a source; keys are unique within one call of `sources.read`.

    Attributes:
        key: Name of the structure.
        source: File, table or list that it came from.
        crystal: The crystal; None if it was refused.
        targets: Labels of the structure, also if it was refused.
        notes: Reinterpretations that were made.
        refusal: The reason, if it was refused.
        mark: Result of the function that `sources.read` was given as `mark`.
    """

    key: str
    source: str
    crystal: Crystal | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refusal: Refused | None = None
    mark: object = None

    def renamed(self, key: str) -> "Record":
        """The same structure under another name."""
        crystal = None if self.crystal is None else replace(self.crystal, key=key)
        refusal = None if self.refusal is None else Refused(key, self.refusal.reason, self.refusal.remedy)
        return replace(self, key=key, crystal=crystal, refusal=refusal)


class Labelled(NamedTuple):
    """Crystals with a finite value of a property, refusals, keys of crystals without value, and records with notes."""

    crystals: list[Crystal]
    refused: list[Record]
    without: list[str]
    noted: list[Record]


def labelled(records: Iterable[Record], target: str) -> Labelled:
    """Sort records by whether they have a crystal, and a finite value of the target.

    Raises:
        ValueError: Fewer than two crystals have a value, or one is absurdly large. The message names the properties
            that there are, and the first refusal.
    """
    known: set[str] = set()
    found = Labelled([], [], [], [])
    for record in records:
        known.update(record.targets)
        if record.crystal is None:
            found.refused.append(record)
        elif not math.isfinite(value := record.targets.get(target, math.nan)):
            found.without.append(record.key)
        elif abs(value) > GREATEST:
            raise ValueError(f"{target!r} of {record.key!r} is {value:g}; correct it, or leave its cell empty")
        else:
            found.crystals.append(record.crystal)
            if record.notes:
                found.noted.append(record)
    if len(found.crystals) < 2:
        who = f"two crystals are needed, and only {found.crystals[0].key!r}" if found.crystals else "no crystal"
        hint = f"the properties are: {', '.join(sorted(known))}" if known else "there are no properties at all"
        hint += "" if target in known else "; a column of text is none, also where it holds numbers"
        hint += f"; crystals have names such as {found.without[0]!r}" if found.without else ""
        hint += f"; {len(found.refused):,} refused, first {found.refused[0].refusal}" if found.refused else ""
        raise ValueError(f"{who} has a value of {target!r}; {hint}")
    values = [crystal.targets[target] for crystal in found.crystals]
    for value, times in Counter(values).items():
        if times > 1 and re.fullmatch(r"-?9{3,}(\.9+)?", f"{value:.15g}"):
            told = "%d of %d values of %r are %g, which often stands for no value; if so here, leave these cells empty"
            log.warning(told, times, len(values), target, value)
    middle = median(values)
    away = [abs(value - middle) for value in values]
    if len(values) >= 10 and 2 * max(away) > sum(away):  # of fewer, one often does, and errors say little anyway
        worst = found.crystals[away.index(max(away))]
        outweighs = f"which alone makes most of a mean error, as the median is {middle:g}; if it is a slip, correct it"
        log.warning("%r of %r is %g, %s", target, worst.key, worst.targets[target], outweighs)
    return found
