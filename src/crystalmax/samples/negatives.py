"""False constituents, which a critic learns to tell from the true ones (the negative samples of Deep InfoMax)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from crystalmax import native
from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Constituents, Encoding, Level
from crystalmax.samples.alterations import Rebuilt
from crystalmax.samples.transforms import Transform
from crystalmax.segments import demand_rows, gather, segment_sum, uniform

Encode = Callable[[CrystalBatch], Encoding]


@runtime_checkable
class NegativeSampler(Protocol):
    """Draws one family of false constituents for some levels; `encode` encodes another batch without gradient."""

    def draw(self, truth: Encoding, batch: CrystalBatch, encode: Encode, rng: Generator) -> Mapping[str, Constituents]:
        """False constituents by name of the level, owned by the summaries of `truth` and sorted by `owner`.

        Args:
            truth: What the encoder made of the batch.
            batch: The true crystals, with pairs.
            encode: Encodes another batch without gradient.
            rng: The only source of random numbers.
        """


@dataclass(frozen=True)
class OtherCrystals:
    """Constituents of other crystals of the batch, each drawn uniformly from all of them.

    With this family the estimate is a bound of the mutual information. A batch needs two crystals or more, or `draw`
    raises a ValueError.
    """

    def draw(self, truth: Encoding, batch: CrystalBatch, encode: Encode, rng: Generator) -> Mapping[str, Constituents]:
        if batch.n_crystals < 2:
            raise ValueError(f"false samples need another crystal to come from, but this batch has {batch.n_crystals}")
        return {level.name: _from_other_crystals(level, batch.n_crystals, rng) for level in truth.levels}


@dataclass(frozen=True)
class Corrupted:
    """Constituents of a corrupted copy of the batch, compared with the summaries of the true crystals at these levels.

    A transform that adds or removes sites must be a `Rebuilt`. Then the surroundings of each site are compared with the
    true site that it was before; those of a new site are left out.
    """

    transform: Transform
    levels: tuple[str, ...] = ("site", "crystal")

    def draw(self, truth: Encoding, batch: CrystalBatch, encode: Encode, rng: Generator) -> Mapping[str, Constituents]:
        known = [level.name for level in truth.levels]
        if unknown := [name for name in self.levels if name not in known]:
            raise ValueError(f"the encoder has no level {unknown[0]!r} to corrupt; it has {', '.join(known)}")
        if isinstance(self.transform, Rebuilt):
            corrupted, origin = self.transform.traced(batch, rng)
            false = encode(corrupted)
            return {name: _as_owned_before(false[name], origin) for name in self.levels}
        corrupted = self.transform(batch, rng)
        new = {name for name, value in vars(corrupted).items() if value is not getattr(batch, name)}
        unchanged = new <= {"species"} and torch.equal(corrupted.species, batch.species)
        false = truth if unchanged else encode(corrupted)  # among crystals of one element, corruptions change nothing
        return {name: false[name].constituents for name in self.levels}


@dataclass(frozen=True)
class WithoutCollisions:
    """Another sampler, without its collisions: false constituents that equal a true one of the set they are drawn for.

    With one element, for example, every false composition equals the truth; in a perovskite, many permutations do.

    Attributes:
        sampler: Draws the false constituents.
        mask: Whether collisions are left out, or only counted.
        tolerance: Vectors are equal if their numbers differ by at most this, in units of their root mean square.
        counts: For each level, the weight of all collisions so far, and of all false constituents.
    """

    sampler: NegativeSampler
    mask: bool = True
    tolerance: float = 1e-4
    counts: dict[str, tuple[float, float]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def draw(self, truth: Encoding, batch: CrystalBatch, encode: Encode, rng: Generator) -> Mapping[str, Constituents]:
        families = dict(self.sampler.draw(truth, batch, encode, rng))
        for name, family in families.items():
            collides = collisions(truth[name].constituents, family, self.tolerance)
            found, total = self.counts.get(name, (0.0, 0.0))
            own = family.weight[collides].sum().item(), family.weight.sum().item()
            self.counts[name] = (found + own[0], total + own[1])
            if self.mask:
                families[name] = family.take((~collides).nonzero()[:, 0])
        return families

    @property
    def rates(self) -> Mapping[str, float]:
        """Share of collisions among all false constituents so far, by level."""
        return {name: found / total for name, (found, total) in self.counts.items() if total}


@torch.no_grad()
def collisions(true: Constituents, false: Constituents, tolerance: float = 1e-4) -> Bool[Tensor, " falses"]:
    """Whether each false constituent has the same vector as a true one of the set that it is drawn for.

    Equal vectors have equal projections onto a fixed direction, so each false one is compared only with the two true
    ones of its set whose projections are next to its own.
    """
    if not len(true.owner):
        return torch.zeros_like(false.owner, dtype=torch.bool)
    direction = torch.linspace(1, 5, true.values.shape[1], dtype=torch.float64, device=true.values.device).sin()
    of_true, of_false = true.values.double() @ direction, false.values.double() @ direction
    points = torch.cat([of_true, of_false])
    lowest = points.amin()
    span = (points.amax() - lowest).clamp_min(torch.finfo(torch.float64).tiny)
    # The sets lie side by side on one line, so that one search serves all.
    true_keys = true.owner + 0.9 * gather((of_true - lowest) / span, true.row)
    false_keys = false.owner + 0.9 * gather((of_false - lowest) / span, false.row)
    sorted_keys, order = true_keys.sort()
    limit = tolerance * true.values.square().mean().sqrt()
    above = torch.searchsorted(sorted_keys, false_keys)
    collides = torch.zeros_like(false.owner, dtype=torch.bool)
    for beside in (above - 1, above):
        twin = gather(order, beside.clamp(0, len(order) - 1))
        off = gather(true.values, gather(true.row, twin)) - gather(false.values, false.row)
        collides |= (gather(true.owner, twin) == false.owner) & (off.abs().amax(1) <= limit)
    return collides


def _as_owned_before(level: Level, origin: Int[Tensor, " sites"]) -> Constituents:
    """The constituents of an altered batch, with the sites of the true batch as their owners."""
    parts = level.constituents
    if level.name == "crystal":
        return parts
    if level.name != "site":
        raise ValueError(
            f"an altered batch has other sets at the level {level.name!r} than the true one, so nothing there can be "
            "held against the truth; give levels of 'site' and 'crystal' only"
        )
    owner = gather(origin, parts.owner)
    return replace(parts, owner=owner).take((owner >= 0).nonzero()[:, 0])


def _from_other_crystals(level: Level, n_crystals: int, rng: Generator) -> Constituents:
    parts = level.constituents
    demand_rows(level.crystal, n_crystals, f"`crystal` of level {level.name!r}")
    crystal = gather(level.crystal, parts.owner)
    chance = uniform(len(crystal), rng, crystal.device)
    return replace(parts, row=gather(parts.row, drawn_from_others(parts.weight, crystal, chance, n_crystals)))


def drawn_from_others(
    weight: Float[Tensor, " parts"], crystal: Int[Tensor, " parts"], chance: Float[Tensor, " parts"], n_crystals: int
) -> Int[Tensor, " parts"]:
    """For each part, a part of another crystal, drawn by weight; `chance` is in [0, 1), crystals ascend."""
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
    # A point on the line of all weights without those of the own crystal, which is thus never drawn.
    point = chance * (ends[-1] - own)
    point = torch.where(point < begins, point, point + own)
    return torch.searchsorted(ends, point, right=True).clamp_max(n_parts - 1)
