"""Changes of cells, positions or the list of sites, after which pairs have to be made again.

An alteration returns a batch without pairs, and the site that each of its sites was before. `Rebuilt` applies some
alterations and then a geometry, which makes a transform of them. A change of species alone needs no new pairs.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from crystalmax.crystal import CrystalBatch
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.segments import gather


class Altered(NamedTuple):
    """An altered batch, and for each of its sites the one that it was before: ascending, but -1 for a new site."""

    batch: CrystalBatch
    origin: Int[Tensor, " sites"]


@runtime_checkable
class Alteration(Protocol):
    """Changes cells, positions or sites; crystals keep their order."""

    def altered(self, batch: CrystalBatch, rng: Generator) -> Altered:
        """The altered batch, without pairs, and where its sites come from; the input is left as it is."""


@dataclass(frozen=True)
class Rebuilt:
    """A transform that applies alterations one after another, and then makes the pairs.

    For false samples, the geometry should be that of the true crystals, or a critic would learn to tell geometries.

    Attributes:
        alterations: The alterations, in the order in which they are applied.
        geometry: Makes the pairs.
    """

    alterations: tuple[Alteration, ...]
    geometry: Geometry = field(default_factory=AllPairs)

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        """The altered batch with its pairs."""
        return self.traced(batch, rng).batch

    def traced(self, batch: CrystalBatch, rng: Generator) -> Altered:
        """The altered batch with its pairs, and which site of the input each of its sites was."""
        origin = torch.arange(batch.n_sites, device=batch.device)
        for alteration in self.alterations:
            batch, before = alteration.altered(batch, rng)
            origin = torch.where(before < 0, before, gather(origin, before.clamp_min(0)))
        return Altered(self.geometry(batch), origin)


def same_sites(batch: CrystalBatch) -> Altered:
    """A batch in which cells or positions were changed, and each site is still the one that it was."""
    return Altered(replace(batch, pairs=None), torch.arange(batch.n_sites, device=batch.device))


def with_sites(batch: CrystalBatch, source: Int[Tensor, " others"]) -> CrystalBatch:
    """The batch with these of its sites, in this order, and without pairs."""
    return replace(
        batch,
        positions=gather(batch.positions, source),
        species=gather(batch.species, source),
        crystal_of_site=gather(batch.crystal_of_site, source),
        pairs=None,
    )
