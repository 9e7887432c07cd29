"""Deep InfoMax over every level of an encoder (DOI 10.1039/d4dd00202d, eq. 2 to 6)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.critics import ProjectedDot
from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Constituents, Encoder, Encoding, Level, Widths
from crystalmax.estimators import Estimator, JensenShannon, Scores
from crystalmax.negatives import Corrupted, NegativeSampler, OtherCrystals
from crystalmax.regularizers import GaussianNoise
from crystalmax.segments import segment_mean
from crystalmax.transforms import FalseComposition, FalsePermutation, FalsePolymorph

PAPER_NEGATIVES: tuple[NegativeSampler, ...] = (
    OtherCrystals(),
    Corrupted(FalsePolymorph()),
    Corrupted(FalseComposition()),
    Corrupted(FalsePermutation(), levels=("crystal",)),
)
"""The four families of the paper; the permutation is left out locally, where swaps within an element change nothing."""


class DeepInfoMax(nn.Module):
    """At each level a critic learns to tell the constituents of a summary from false ones, and the encoder to let it.

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
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.estimator = JensenShannon() if estimator is None else estimator
        self.negatives, self.critic, self.regularizer, self.beta = tuple(negatives), critic, regularizer, beta
        self.critics = nn.ModuleDict({name: critic(widths) for name, widths in encoder.widths.items()})
        self.regularizers = nn.ModuleDict({name: regularizer(widths) for name, widths in encoder.widths.items()})

    @property
    def chance(self) -> float | None:
        """That of the estimator."""
        return self.estimator.chance

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """Two terms a level: its name, and its name with `_penalty`."""
        truth = self.encoder(batch, greedy=True)
        families = [sampler.draw(truth, batch, self._encode_false, rng) for sampler in self.negatives]
        terms: dict[str, Float[Tensor, ""]] = {}
        for level in truth.levels:
            false = [family[level.name] for family in families if level.name in family]
            if not false:
                raise ValueError(f"no family of false samples covers the level {level.name!r}; add OtherCrystals()")
            loss, penalty = self._level(level, false, rng)
            for name, values in ((level.name, loss), (f"{level.name}_penalty", self.beta * penalty)):
                terms[name] = segment_mean(values, level.crystal, batch.n_crystals).mean()
        return terms

    def _encode_false(self, batch: CrystalBatch) -> Encoding:
        with torch.no_grad():
            return self.encoder(batch, greedy=True)

    def _level(
        self, level: Level, false: Sequence[Constituents], rng: Generator
    ) -> tuple[Float[Tensor, " wholes"], Float[Tensor, " wholes"]]:
        noised, penalty = self.regularizers[level.name](level.summaries, rng)
        together = joined([level.constituents, *false])
        scores = self.critics[level.name](noised, together)
        sizes = [len(level.constituents.owner), *(len(family.owner) for family in false)]
        columns = (torch.split(column, sizes) for column in (scores, together.owner, together.weight))
        true, *others = (Scores(*part) for part in zip(*columns, strict=True))
        losses = [self.estimator.loss(true, other, len(level.summaries)) for other in others]
        return torch.stack(losses).mean(0), penalty


def joined(families: Sequence[Constituents]) -> Constituents:
    """Several families as one, so that a critic runs once; families that share their values go on sharing them."""
    tables = {id(family.values): family.values for family in families}
    first_row = dict(zip(tables, accumulate(map(len, tables.values()), initial=0), strict=False))
    return Constituents(
        torch.cat(list(tables.values())),
        torch.cat([family.row + first_row[id(family.values)] for family in families]),
        torch.cat([family.owner for family in families]),
        torch.cat([family.weight for family in families]),
    )
