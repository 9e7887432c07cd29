"""Contrastive learning: two views of a crystal, or of an environment, are to have similar vectors."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder
from crystalmax.layers import Dense
from crystalmax.objectives.base import Objective
from crystalmax.objectives.contrasts import Contrast, NTXent
from crystalmax.samples.alterations import Rebuilt
from crystalmax.samples.transforms import Transform


class Contrastive(Objective):
    """Two random views of each batch are encoded, projected and compared.

    Args:
        encoder: What is trained, through all its levels.
        views: Makes a view; true samples in the sense of Deep InfoMax, such as thermal displacements.
        contrast: The loss of two views.
        level: The level whose summaries are compared: "crystal" for whole crystals, "site" for environments.
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
        """One term, `contrast`.

        Raises:
            ValueError: Sites are compared, and two views do not have the same ones.
        """
        if self.level == "site" and isinstance(self.views, Rebuilt):
            views = [self.views.traced(batch, rng) for _ in range(2)]
            if not torch.equal(views[0].origin, views[1].origin):
                raise ValueError("views that add or leave out sites have none to compare; take the level 'crystal'")
            seen = [view.batch for view in views]
        else:
            seen = [self.views(batch, rng) for _ in range(2)]
        one, other = (self.projection(self.encoder(view)[self.level].summaries) for view in seen)
        return {"contrast": self.contrast(one, other)}
