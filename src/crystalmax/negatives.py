"""False constituents: what a critic must learn to tell from the true ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from crystalmax import native
from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Constituents, Encoding, Level
from crystalmax.segments import gather, segment_sum
from crystalmax.transforms import Transform

Encode = Callable[[CrystalBatch], Encoding]


@runtime_checkable
class NegativeSampler(Protocol):
    """Draws one family of false constituents for some levels; `encode` encodes another batch without gradient."""

    def draw(self, truth: Encoding, batch: CrystalBatch, encode: Encode, rng: Generator) -> Mapping[str, Constituents]:
        """False constituents by name of the level, owned by the summaries of `truth`."""


@dataclass(frozen=True)
class OtherCrystals:
    """Constituents of other crystals of the batch, each drawn uniformly from all of them.

    This is the family that makes the estimate a bound of the mutual information.
    """

    def draw(self, truth: Encoding, batch: CrystalBatch, encode: Encode, rng: Generator) -> Mapping[str, Constituents]:
        if batch.n_crystals < 2:
            raise ValueError(f"false samples need another crystal to come from, but this batch has {batch.n_crystals}")
        return {level.name: _from_other_crystals(level, batch.n_crystals, rng) for level in truth.levels}


@dataclass(frozen=True)
class Corrupted:
    """Constituents of a corrupted copy of the batch, at these levels, held against the summaries of the true one."""

    transform: Transform
    levels: tuple[str, ...] = ("site", "crystal")

    def draw(self, truth: Encoding, batch: CrystalBatch, encode: Encode, rng: Generator) -> Mapping[str, Constituents]:
        corrupted = self.transform(batch, rng)
        unchanged = corrupted.pairs is batch.pairs and torch.equal(corrupted.species, batch.species)
        false = truth if unchanged else encode(corrupted)  # among crystals of one element, corruptions change nothing
        return {name: false[name].constituents for name in self.levels}


def _from_other_crystals(level: Level, n_crystals: int, rng: Generator) -> Constituents:
    parts = level.constituents
    crystal = gather(level.crystal, parts.owner)
    chance = torch.rand(len(crystal), generator=rng, device=rng.device, dtype=torch.float64).to(crystal.device)
    return replace(parts, row=gather(parts.row, drawn_from_others(parts.weight, crystal, chance, n_crystals)))


def drawn_from_others(
    weight: Float[Tensor, " parts"], crystal: Int[Tensor, " parts"], chance: Float[Tensor, " parts"], n_crystals: int
) -> Int[Tensor, " parts"]:
    """For each part one of another crystal, drawn by weight with a number in [0, 1); parts are grouped by crystal."""
    n_parts = len(weight)
    if native.usable(weight):
        work, guide = torch.empty(n_parts + 2 * n_crystals, dtype=torch.float64), torch.empty_like(crystal)
        drawn = torch.empty_like(crystal)
        columns = (weight.contiguous(), crystal, chance)
        native.run("draw_from_others", *columns, n_parts, n_crystals, work, guide, drawn)
        return drawn
    weight = weight.double()
    ends = weight.cumsum(0)
    own = segment_sum(weight, crystal, n_crystals)
    begins = gather(own.cumsum(0) - own, crystal)
    own = gather(own, crystal)
    # A point on the line of all weights with the own crystal cut out, so that it can never be drawn.
    point = chance * (ends[-1] - own)
    point = torch.where(point < begins, point, point + own)
    return torch.searchsorted(ends, point, right=True).clamp_max(n_parts - 1)
