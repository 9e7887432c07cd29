"""A weighted mean of fine-tuned networks, a regressor on frozen vectors, and the median of the labels."""

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from crystalmax.crystal import CrystalBatch
from crystalmax.encoding import Encoder, width_of
from crystalmax.objectives.base import Objective
from crystalmax.objectives.supervised import Ensemble

if TYPE_CHECKING:
    from crystalmax.few_labels.small_data import SmallDataRegressor


class Blend(Objective):
    """A weighted mean of fine-tuned networks, a regressor on vectors of the encoder before that, and the median label.

    Networks learn what the vectors do not hold. A forest and Gaussian processes on the vectors are better at what is
    not smooth, such as gaps, many of which are 0. The median of the labels is hard to beat where structures say little
    about them. The regressor is fitted when it is first used, which takes seconds.

    Args:
        networks: The fine-tuned networks.
        start: The encoder before fine-tuning.
        labels: Number of labels that the regressor is fitted to.
        share: Share of the networks in a prediction.
        of_median: Share of the median; the rest is the share of the regressor.
        seed: Seed of the regressor.
    """

    vectors: Float[Tensor, "labels width"]
    values: Float[Tensor, " labels"]
    groups: Int[Tensor, " labels"]

    def __init__(
        self, networks: Ensemble, start: Encoder, *, labels: int, share: float, of_median: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.networks, self.start, self.labels, self.seed = networks, start, labels, seed
        self.share, self.of_median = share, of_median
        self.register_buffer("vectors", torch.zeros(labels, width_of(start)))
        self.register_buffer("values", torch.zeros(labels, dtype=torch.float64))
        self.register_buffer("groups", torch.zeros(labels, dtype=torch.int64))

    @property
    def encoder(self) -> Encoder:  # type: ignore[override]  # nobody sets it
        """That of the first network."""
        return self.networks.encoder

    @cached_property
    def regressor(self) -> "SmallDataRegressor":
        """Fitted to the vectors of the labelled crystals; the same vectors and package versions give the same one."""
        from crystalmax.few_labels.small_data import SmallDataRegressor  # needs scikit-learn, which training does not

        known = (each.cpu().numpy() for each in (self.vectors, self.values, self.groups))
        return SmallDataRegressor(random_state=self.seed).fit(*known)

    def predict(self, batch: CrystalBatch) -> Float[Tensor, " crystals"]:
        """Predictions in the units of the target."""
        of_networks = self.networks.predict(batch)
        beside = torch.from_numpy(self.regressor.predict(self.start(batch).crystals.detach().cpu().numpy()))
        # `Tensor.median` takes the lower of two in the middle.
        median = float(self.values.quantile(0.5))
        of_regressor = 1 - self.share - self.of_median
        return self.share * of_networks + of_regressor * beside.to(of_networks) + self.of_median * median

    def forward(self, batch: CrystalBatch, rng: Generator) -> Mapping[str, Float[Tensor, ""]]:
        """One term, `error`, that of the networks."""
        terms: Mapping[str, Float[Tensor, ""]] = self.networks(batch, rng)
        return terms
