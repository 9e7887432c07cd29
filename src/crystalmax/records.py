"""What reading a structure gives: a crystal, or why it was refused."""

from collections.abc import Mapping
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
