"""What reading a structure gives: a crystal, or why it was refused."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from crystalmax.crystal import Crystal
from crystalmax.structures import Refused


@dataclass(frozen=True)
class Record:
    """One structure of a source; keys are unique within one call of `sources.read`.

    Attributes:
        key: Its name.
        source: Where it came from.
        crystal: What was read; none if it was refused.
        targets: Its labels, also where the structure was refused.
        notes: What was reinterpreted.
        refusal: Why there is no crystal.
        mark: What the `mark` of `sources.read` made of the crystal.
    """

    key: str
    source: str
    crystal: Crystal | None = None
    targets: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    refusal: Refused | None = None
    mark: object = None


def labelled(records: Iterable[Record], target: str) -> list[Crystal]:
    """Crystals that have a finite value of the target.

    Raises:
        ValueError: There is none; the message names the properties that there are.
    """
    known: set[str] = set()
    found = []
    for record in records:
        known.update(record.targets)
        if record.crystal is not None and math.isfinite(record.targets.get(target, math.nan)):
            found.append(record.crystal)
    if not found:
        hint = f"the properties are: {', '.join(sorted(known))}" if known else "there are no properties at all"
        raise ValueError(f"no crystal has a value of {target!r}; {hint}")
    return found
