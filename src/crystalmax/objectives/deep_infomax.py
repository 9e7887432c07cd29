"""Deep InfoMax over every level of an encoder (DOI 10.1039/d4dd00202d, eq. 2 to 6)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Constituents, Encoder, Encoding, Level, Widths
from crystalmax.objectives.base import Objective, demand_one_each
from crystalmax.objectives.critics import ProjectedDot
from crystalmax.objectives.estimators import Estimator, JensenShannon, Scores
from crystalmax.objectives.regularizers import GaussianNoise
from crystalmax.samples.negatives import Corrupted, NegativeSampler, OtherCrystals
from crystalmax.samples.transforms import FalseComposition, FalsePermutation, FalsePolymorph
from crystalmax.segments import demand_rows, gather, segment_mean, segment_sum, uniform

PAPER_NEGATIVES: tuple[NegativeSampler, ...] = (
    OtherCrystals(),
    Corrupted(FalsePolymorph()),
    Corrupted(FalseComposition()),
    Corrupted(FalsePermutation(), levels=("crystal",)),
)
"""The four families of the paper; the permutation is left out locally, where swaps within an element change nothing."""


class DeepInfoMax(Objective):
    """At each level a critic learns to tell the constituents of a summary from false ones, and the encoder helps it.

    Each level trains its own part of the encoder: no gradient passes to the level below. The loss of a level is the
    mean over the families of false samples (eq. 6), a mean over constituents, then over sets of a crystal, then over
    crystals.

    Args:
        encoder: What is trained.
        estimator: The bound of the mutual information.
        negatives: The families of false samples.
        critic: Makes the critic of a level from its widths (see `Critic`).
        regularizer: Makes the noise of a level from its widths (see `Regularizer`).
        beta: Weight of the regularizer's penalty (eq. 5).
        constituents: Constituents of each set that are used in a step, drawn by weight each time; all unless given. The
            expected loss stays the same: if an estimator is no mean over false constituents, all of those are used.
        families: Families of false samples that each level uses in a step, drawn each time; all unless given. The
            expected loss, a mean over families, stays the same.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        estimator: Estimator | None = None,
        negatives: Sequence[NegativeSampler] = PAPER_NEGATIVES,
        critic: Callable[[Widths], nn.Module] = ProjectedDot,
        regularizer: Callable[[Widths], nn.Module] = GaussianNoise,
        beta: float = 0.1,
        constituents: int | None = None,
        families: int | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("constituents", constituents), ("families", families)):
            if number is not None and number < 1:
                raise ValueError(f"{name} is {number}; draw at least 1, or leave it out to take all")
        if not beta >= 0:
            raise ValueError(f"beta is {beta}; give 0 for no penalty, or more")
        self.encoder = encoder
        self.estimator = JensenShannon() if estimator is None else estimator
        self.negatives, self.critic, self.regularizer, self.beta = tuple(negatives), critic, regularizer, beta
        self.constituents, self.families = constituents, families
        self.critics = nn.ModuleDict({name: critic(widths) for name, widths in encoder.widths.items()})
        self.regularizers = nn.ModuleDict({name: regularizer(widths) for name, widths in encoder.widths.items()})

    @property
    def chance(self) -> float | None:
        """That of the estimator."""
        return self.estimator.chance

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """Two terms a level: its name, and its name with `_penalty`."""
        truth = self.encoder(batch, greedy=True)
        families = self._families(truth, batch, rng)
        terms: dict[str, Float[Tensor, ""]] = {}
        for level in truth.levels:
            if not (false := families[level.name]):
                raise ValueError(f"no family of false samples covers the level {level.name!r}; add OtherCrystals()")
            loss, penalty = self._level(level, false, rng)
            for name, values in ((level.name, loss), (f"{level.name}_penalty", self.beta * penalty)):
                terms[name] = segment_mean(values, level.crystal, batch.n_crystals).mean()
        return terms

    def _families(self, truth: Encoding, batch: CrystalBatch, rng: Generator) -> dict[str, list[Constituents]]:
        """False constituents of each level, by as many families as are wanted, in a random order if not all are."""
        found: dict[str, list[Constituents]] = {level.name: [] for level in truth.levels}
        n = len(self.negatives)
        wanted = n if self.families is None else self.families
        order = range(n) if wanted >= n else torch.randperm(n, generator=rng, device=rng.device).tolist()
        for number in order:
            if all(len(families) >= wanted for families in found.values()):
                break
            for name, family in self.negatives[number].draw(truth, batch, self._encode_false, rng).items():
                families = found[truth[name].name]  # an error for a level that does not exist
                if len(families) < wanted:
                    families.append(family)
        return found

    def _encode_false(self, batch: CrystalBatch) -> Encoding:
        with torch.no_grad():
            return self.encoder(batch, greedy=True)

    def _level(
        self, level: Level, false: Sequence[Constituents], rng: Generator
    ) -> tuple[Float[Tensor, " wholes"], Float[Tensor, " wholes"]]:
        noised, penalty = self.regularizers[level.name](level.summaries, rng)
        groups = [level.constituents, *false]
        if self.constituents is not None:
            n_drawn = len(groups) if self.estimator.mean_over_false else 1
            groups[:n_drawn] = [drawn(group, self.constituents, len(noised), rng) for group in groups[:n_drawn]]
        together = joined(groups)
        critic = self.critics[level.name]
        scores = critic(noised, together)
        demand_one_each(critic, "scores", scores, len(together.owner), "constituents")
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))  # sums in bfloat16 would lose the loss
        sizes = [len(group.owner) for group in groups]
        columns = (torch.split(column, sizes) for column in (scores, together.owner, together.weight))
        true, *others = (Scores(*part) for part in zip(*columns, strict=True))
        losses = [self.estimator.loss(true, other, len(level.summaries)) for other in others]
        for loss in losses:
            demand_one_each(self.estimator, "losses", loss, len(level.summaries), "sets")
        return torch.stack(losses).mean(0), penalty


def joined(families: Sequence[Constituents]) -> Constituents:
    """Several families as one, so that a critic runs once; families that share their values go on sharing them."""
    for family in families:
        demand_rows(family.row, len(family.values), "`row` of constituents")
    tables = {id(family.values): family.values for family in families}
    first_row = dict(zip(tables, accumulate(map(len, tables.values()), initial=0), strict=False))
    return Constituents(
        torch.cat(list(tables.values())),
        torch.cat([family.row + first_row[id(family.values)] for family in families]),
        torch.cat([family.owner for family in families]),
        torch.cat([family.weight for family in families]),
    )


def drawn(parts: Constituents, number: int, n_sets: int, rng: Generator) -> Constituents:
    """This number of constituents of each set, drawn by weight with replacement; each has the weight 1."""
    if (parts.owner.diff() < 0).any():  # whoever drew them
        parts = parts.take(parts.owner.argsort(stable=True))
    weight = parts.weight.double()
    ends, own = weight.cumsum(0), segment_sum(weight, parts.owner, n_sets)
    owner = torch.repeat_interleave((own > 0).nonzero()[:, 0], number)
    point = gather(own.cumsum(0) - own, owner) + uniform(len(owner), rng, owner.device) * gather(own, owner)
    part = torch.searchsorted(ends, point, right=True).clamp_max(len(ends) - 1)
    values = gather(parts.values, gather(parts.row, part))
    everything = torch.arange(len(owner), device=owner.device)
    return Constituents(values, everything, owner, torch.ones_like(values[:, 0]))
