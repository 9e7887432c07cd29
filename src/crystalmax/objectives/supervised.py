"""Supervised objectives: a small head on the crystal vector."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder, width_of


class Regression(nn.Module):
    """Mean squared error of a head with one hidden layer on the crystal vector, in units of the target's deviation.

    The head starts with a LayerNorm, so that a vector of any scale can be fine-tuned with one learning rate.

    Args:
        encoder: Trained along.
        target: Name of the property in the batch; crystals without a value are left out.
        mean: Mean of the target over the training crystals.
        deviation: Its standard deviation.
        hidden: Width of the hidden layer.
    """

    chance = None

    def __init__(
        self, encoder: Encoder, *, target: str, mean: float = 0.0, deviation: float = 1.0, hidden: int = 64
    ) -> None:
        super().__init__()
        self.encoder, self.target, self.mean, self.deviation, self.hidden = encoder, target, mean, deviation, hidden
        width = width_of(encoder)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.Mish(), nn.Linear(hidden, 1))

    def predict(self, batch: CrystalBatch) -> Float[Tensor, " crystals"]:
        """Predictions in the units of the target."""
        return self.mean + self.deviation * self._scaled(batch)

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """One term, `error`."""
        truth = (batch.targets[self.target].to(torch.float32) - self.mean) / self.deviation
        known = ~truth.isnan()
        error = torch.where(known, self._scaled(batch) - truth.nan_to_num(), 0.0)
        return {"error": (error**2).sum() / known.sum().clamp_min(1)}

    def _scaled(self, batch: CrystalBatch) -> Float[Tensor, " crystals"]:
        scaled: Tensor = self.head(self.encoder(batch).crystals)[:, 0]
        return scaled
