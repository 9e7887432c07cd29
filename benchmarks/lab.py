"""Parts that `levers.py` tries and no recipe that ships needed; `--trust lab` lets a recipe of your own use them."""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from crystalmax.crystal import CrystalBatch
from crystalmax.elements import N_ELEMENTS
from crystalmax.encoders.distances import DistanceBasis
from crystalmax.encoders.graph import SpeciesVectors, crystal_level
from crystalmax.encoders.sitenet import SiteNet
from crystalmax.encoding import Constituents, Encoding, Widths
from crystalmax.layers import perceptron
from crystalmax.objectives.critics import ProjectedDot
from crystalmax.objectives.regularizers import GaussianNoise, Noised
from crystalmax.segments import gather, paired_dot, segment_mean


class Cosine(ProjectedDot):
    """The cosine of both sides in the common space, over a temperature."""

    def __init__(self, widths: Widths, *, hidden: int = 64, common: int = 128, temperature: float = 0.1) -> None:
        super().__init__(widths, hidden=hidden, common=common)
        self.temperature = temperature

    def forward(self, summaries: Float[Tensor, "wholes width"], constituents: Constituents) -> Float[Tensor, " parts"]:
        """One score a constituent."""
        common = normalize(self.summary(summaries), dim=-1)
        values = normalize(self.last(self.constituent(constituents.values)), dim=-1)
        return paired_dot(values, common, constituents.row, constituents.owner) / self.temperature


class FallingPrice(GaussianNoise):
    """Noise whose price falls along a line, to nothing, over so many steps."""

    step: Tensor

    def __init__(self, widths: Widths, *, steps: int) -> None:
        super().__init__(widths)
        self.steps = steps
        self.register_buffer("step", torch.zeros(()))

    def forward(self, summaries: Float[Tensor, "wholes width"], rng: Generator) -> Noised:
        """Summaries with noise, and what is left of its price."""
        left = (1 - self.step / self.steps).clamp_min(0)
        if self.training:
            self.step += 1
        noised, penalty = super().forward(summaries, rng)
        return noised, left * penalty


class Moments(SiteNet):
    """Site-Net that pools the deviation over sites beside their mean."""

    def __init__(
        self, *, site_width: int = 32, crystal_width: int = 64, hidden: int = 64, distance: DistanceBasis | None = None
    ) -> None:
        super().__init__(site_width=site_width, crystal_width=crystal_width, hidden=hidden, distance=distance)
        self.to_crystal = nn.Sequential(*perceptron([4 * hidden, hidden]), nn.Linear(hidden, crystal_width))

    def forward(self, batch: CrystalBatch, *, greedy: bool = False) -> Encoding:
        """Encode a batch that has pairs."""
        assert batch.pairs is not None  # the geometry made them
        local = self._local(batch, batch.pairs)
        parts = local.summaries.detach() if greedy else local.summaries
        owner, n_crystals = batch.crystal_of_site, batch.n_crystals
        values = self.before_mean(parts)
        mean = segment_mean(values, owner, n_crystals)
        variance = segment_mean((values - gather(mean, owner)).square(), owner, n_crystals)
        crystals = self.to_crystal(torch.cat([mean, (variance + 1e-6).sqrt()], dim=-1))
        return Encoding((local, crystal_level(batch, parts, crystals)))


class LearntElements(SiteNet):
    """Site-Net with a vector learnt for each element, beside the tabulated properties or instead of them."""

    def __init__(
        self,
        *,
        site_width: int = 32,
        crystal_width: int = 64,
        hidden: int = 64,
        distance: DistanceBasis | None = None,
        tabulated: bool = True,
    ) -> None:
        super().__init__(site_width=site_width, crystal_width=crystal_width, hidden=hidden, distance=distance)
        self.tabulated, self.vectors = tabulated, SpeciesVectors(hidden)
        self.embed_vectors = perceptron([hidden, hidden])

    def _embedded(self, kinds: Float[Tensor, "kinds columns"]) -> Float[Tensor, "kinds hidden"]:
        vectors = self.vectors(kinds) if self.tabulated else self.vectors.of_elements(kinds[:, :N_ELEMENTS])
        embedded: Tensor = self.embed_vectors(vectors)
        return embedded
