"""What an encoder returns: levels of permutation-invariant pooling (eq. 1 of DOI 10.1039/d4dd00202d)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from crystalmax.crystal import CrystalBatch


class Widths(NamedTuple):
    """Widths of a level's vectors: of one constituent, and of one summary."""

    constituent: int
    summary: int


@dataclass(frozen=True)
class Constituents:
    """Members of sets. Part p belongs to set `owner[p]`, has the value `values[row[p]]` and counts `weight[p]` times.

    Many parts share a value, as equivalent pairs do, so each value is stored and put through networks only once.
    """

    values: Float[Tensor, "rows width"]
    row: Int[Tensor, " parts"]
    owner: Int[Tensor, " parts"]
    weight: Float[Tensor, " parts"]

    def __post_init__(self) -> None:
        if not len(self.row) == len(self.owner) == len(self.weight):  # loops in C would read beyond the shorter ones
            found = f"{len(self.row)} rows, {len(self.owner)} owners and {len(self.weight)} weights"
            raise ValueError(f"constituents have {found}; give one of each for each part")

    def take(self, parts: Int[Tensor, " chosen"]) -> "Constituents":
        """The chosen parts, in this order; the table of values stays as it is."""
        row, owner, weight = (column.index_select(0, parts) for column in (self.row, self.owner, self.weight))
        return Constituents(self.values, row, owner, weight)


@dataclass(frozen=True)
class Level:
    """One pooling: the members of each set, grouped by owner, and one summary a set.

    Its name is "site" where pairs are pooled into a site, "crystal" where sites are pooled into a crystal; `crystal` is
    what each set belongs to, ascending.
    """

    name: str
    constituents: Constituents
    summaries: Float[Tensor, "wholes width"]
    crystal: Int[Tensor, " wholes"]


@dataclass(frozen=True)
class Encoding:
    """Levels bottom up; `encoding["site"]` finds one by name, `encoding.crystals` are the crystal vectors."""

    levels: tuple[Level, ...]

    def __getitem__(self, name: str) -> Level:
        for level in self.levels:
            if level.name == name:
                return level
        raise KeyError(f"no level {name!r}; this encoding has {', '.join(level.name for level in self.levels)}")

    @property
    def crystals(self) -> Float[Tensor, "crystals width"]:
        """Summaries of the topmost level, one a crystal."""
        return self.levels[-1].summaries


@runtime_checkable
class Encoder(Protocol):
    """A module that turns a batch with pairs into levels.

    `widths` promises the levels bottom up. With `greedy`, no gradient passes from a level to the one below it.
    """

    @property
    def widths(self) -> Mapping[str, Widths]:
        """Widths of each level by name, bottom up."""

    def __call__(self, batch: CrystalBatch, *, greedy: bool = False) -> Encoding:
        """The levels of a batch that has pairs."""


def width_of(encoder: Encoder) -> int:
    """Length of a crystal vector."""
    return list(encoder.widths.values())[-1].summary
