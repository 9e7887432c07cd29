"""Contrastive learning: two views of a crystal, or of an environment, are to have similar vectors."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.contrasts import Contrast, NTXent
from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder
from crystalmax.layers import Dense
from crystalmax.objectives.base import Objective
from crystalmax.transforms import Transform


class Contrastive(Objective):
    """Two views of each batch, drawn apart, are encoded, projected and held against each other.

    Args:
        encoder: What is trained, through all its levels.
        views: Makes a view; true samples in the sense of Deep InfoMax, such as thermal displacements.
        contrast: The loss of two views.
        level: Whose summaries are held against each other: "crystal" for whole crystals, "site" for environments.
        hidden: Width of the hidden layer of the projection.
        width: Width of the projection.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Transform,
        contrast: Contrast | None = None,
        level: str = "crystal",
        hidden: int = 128,
        width: int = 64,
    ) -> None:
        super().__init__()
        if level not in encoder.widths:
            raise ValueError(f"the encoder has no level {level!r}; it has {', '.join(encoder.widths)}")
        self.encoder, self.views, self.level, self.hidden, self.width = encoder, views, level, hidden, width
        self.contrast = NTXent() if contrast is None else contrast
        summary = encoder.widths[level].summary
        self.projection = nn.Sequential(nn.LayerNorm(summary), Dense(summary, hidden), nn.Linear(hidden, width))

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """One term, `contrast`."""
        one, other = (self.projection(self.encoder(self.views(batch, rng))[self.level].summaries) for _ in range(2))
        return {"contrast": self.contrast(one, other)}
