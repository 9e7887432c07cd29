"""Reconstruction: the crystal vector is trained to predict properties that follow from the structure alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder, width_of
from crystalmax.layers import Dense
from crystalmax.objectives.base import Objective, demand_one_each
from crystalmax.statistics.intrinsic import Composition, Coordination, Density, Intrinsic, RadialDistribution, prepared
from crystalmax.storage.dataset import Dataset

DEFAULT: tuple[Intrinsic, ...] = (Composition(), Density(), RadialDistribution(), Coordination())


class Reconstruction(Objective):
    """A small head on the crystal vector for each intrinsic property; no label is needed.

    Args:
        encoder: The encoder, which is trained together with the heads.
        intrinsics: The properties to predict.
        hidden: Width of the hidden layer of each head; 0 for linear heads, so that linear models can read it too.
    """

    def __init__(self, encoder: Encoder, *, intrinsics: Sequence[Intrinsic] = DEFAULT, hidden: int = 64) -> None:
        super().__init__()
        self.encoder, self.intrinsics, self.hidden = encoder, tuple(intrinsics), hidden
        width = width_of(encoder)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), Dense(width, hidden, norm=False), nn.Linear(hidden, intrinsic.width))
            if hidden
            else nn.Linear(width, intrinsic.width)
            for intrinsic in self.intrinsics
        )

    def prepared(self, data: Dataset, rows: Int[np.ndarray, " rows"], folder: Path) -> Dataset:
        """The data set with the columns that its intrinsic properties need in these rows."""
        return prepared(self.intrinsics, data, rows, folder)

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """A term for each property, under the name of its class, with a number from the second of a class on.

        It is a mean over the crystals where the property is known.
        """
        vectors = self.encoder(batch).crystals
        terms: dict[str, Float[Tensor, ""]] = {}
        for intrinsic, head in zip(self.intrinsics, self.heads, strict=True):
            truth = intrinsic.truth(batch)
            known = ~truth.isnan().any(1)
            losses = intrinsic.loss(head(vectors), truth)
            demand_one_each(intrinsic, "losses", losses, len(truth), "crystals")
            name = type(intrinsic).__name__
            name = f"{name}_{len(terms) + 1}" if name in terms else name
            terms[name] = torch.where(known, losses, 0.0).sum() / known.sum().clamp_min(1)
        return terms
