"""Supervised objectives: a small head on the crystal vector, and several of these averaged."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch, property_of
from crystalmax.encoding import Encoder, width_of
from crystalmax.objectives.base import Objective


class Regression(Objective):
    """Mean absolute error of a head with one hidden layer on the crystal vector, in units of the target's deviation.

    Absolute errors, because predictions are judged by them, and because squared errors pull predictions away from 0,
    which half of all gaps are. The head starts with a LayerNorm, so that one learning rate suits vectors of any scale,
    and a crystal unlike all labelled ones does not give it larger numbers than they.

    Args:
        encoder: The encoder, which is trained together with the head.
        target: Name of the property in the batch; crystals without a value are left out.
        mean: Mean of the target over the training crystals.
        deviation: Its standard deviation.
        hidden: Width of the hidden layer.
    """

    def __init__(
        self, encoder: Encoder, *, target: str, mean: float = 0.0, deviation: float = 1.0, hidden: int = 64
    ) -> None:
        super().__init__()
        self.encoder, self.target, self.mean, self.deviation, self.hidden = encoder, target, mean, deviation, hidden
        self.labels_of, width = (target,), width_of(encoder)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.Mish(), nn.Linear(hidden, 1))

    def predict(self, batch: CrystalBatch) -> Float[Tensor, " crystals"]:
        """Predictions in the units of the target, in float64: a mean may be a million times the deviation."""
        return self.mean + self.deviation * self._scaled(batch).double()

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """One term, `error`."""
        truth = (property_of(batch, self.target, "learn") - self.mean) / self.deviation
        known, scaled = ~truth.isnan(), self._scaled(batch)
        error = torch.where(known, scaled - truth.nan_to_num().to(scaled), 0.0)
        return {"error": error.abs().sum() / known.sum().clamp_min(1)}

    def _scaled(self, batch: CrystalBatch) -> Float[Tensor, " crystals"]:
        scaled: Tensor = self.head(self.encoder(batch).crystals)[:, 0]
        return scaled


class Ensemble(Objective):
    """The mean of several regressions of one property (Lakshminarayanan et al., DOI 10.48550/arXiv.1612.01474).

    Args:
        members: Each with its own encoder.

    Raises:
        ValueError: There are no members.
    """

    def __init__(self, members: Sequence[Regression]) -> None:
        super().__init__()
        if not members:
            raise ValueError("an ensemble without members predicts nothing; give at least one regression")
        self.members = tuple(members)
        self.networks = nn.ModuleList(members)

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]  # nobody sets it
        """That of the first member, for vectors: those of several networks cannot be averaged."""
        return self.members[0].encoder

    def predict(self, batch: CrystalBatch) -> Float[Tensor, " crystals"]:
        """Predictions in the units of the target."""
        return torch.stack([member.predict(batch) for member in self.members]).mean(dim=0)

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """One term, `error`: the mean over the members, each of which learns for itself."""
        return {"error": torch.stack([member(batch, rng)["error"] for member in self.members]).mean()}
