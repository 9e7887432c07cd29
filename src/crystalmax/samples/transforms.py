"""Transforms of a batch with pairs: they make views of the same crystals (true samples) or corruptions (false samples).

The three corruptions here are those of the paper (Fig. 5). Each keeps one part of the crystal as it is, so that critics
have to know the other part, which is taken from donors: other crystals of the batch, drawn uniformly.
"""

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from crystalmax.crystal import CrystalBatch, pairs_of
from crystalmax.segments import gather, offsets, rank_within, uniform


@runtime_checkable
class Transform(Protocol):
    """Makes another batch of a batch; both have pairs, and crystals in the same order."""

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        """The transformed batch; the input is left as it is."""


@dataclass(frozen=True)
class FalseComposition:
    """The geometry of each crystal with the species of a donor: each site takes the species of one of its sites."""

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        return replace(batch, species=gather(batch.species, donor_sites(batch, rng)))


@dataclass(frozen=True)
class FalsePolymorph:
    """The species of each crystal with the distances of a donor.

    Each site keeps its neighbors, that is which species they are and how many, but their displacements are those around
    a site of the donor. A row of merged pairs is drawn as often as any other, however many pairs it stands for, so long
    distances come too often: their mean is 5.2 instead of 4.9 angstrom for the phonon crystals, 4.4 instead of 4.3 for
    perovskites. Without merging the means agree.
    """

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        pairs = pairs_of(batch)
        n_pairs = torch.bincount(pairs.center, minlength=batch.n_sites)
        start = offsets(n_pairs)[:-1]
        donor = gather(donor_sites(batch, rng), pairs.center)
        shift = _integers_below(n_pairs, rng)
        slot = torch.arange(len(pairs.center), device=batch.device) - gather(start, pairs.center)
        slot = (slot + gather(shift, donor)) % gather(n_pairs, donor)
        displacement = gather(pairs.displacement, gather(start, donor) + slot)
        return replace(batch, pairs=replace(pairs, displacement=displacement))


@dataclass(frozen=True)
class FalsePermutation:
    """The geometry and the composition of each crystal, its species shuffled among its sites."""

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        sizes = batch.sites_of_crystal
        source = gather(offsets(sizes)[:-1], batch.crystal_of_site) + _random_rank(batch, rng)
        return replace(batch, species=gather(batch.species, source))


def donor_crystals(batch: CrystalBatch, rng: Generator) -> Int[Tensor, " crystals"]:
    """For each crystal another one of the batch, uniformly drawn."""
    if (n := batch.n_crystals) < 2:
        raise ValueError(f"false samples need another crystal to come from, but this batch has {n}")
    step = torch.randint(1, n, (n,), generator=rng, device=rng.device).to(batch.device)
    return (torch.arange(n, device=batch.device) + step) % n


def donor_sites(batch: CrystalBatch, rng: Generator) -> Int[Tensor, " sites"]:
    """For each site a site of the donor of its crystal; different ones, as long as the donor has enough."""
    sizes = batch.sites_of_crystal
    donor = donor_crystals(batch, rng)
    turn = gather(_integers_below(gather(sizes, donor), rng), batch.crystal_of_site)
    donor = gather(donor, batch.crystal_of_site)
    return gather(offsets(sizes)[:-1], donor) + (_random_rank(batch, rng) + turn) % gather(sizes, donor)


def _random_rank(batch: CrystalBatch, rng: Generator) -> Int[Tensor, " sites"]:
    """A random order of the sites of each crystal."""
    keys = torch.rand(batch.n_sites, generator=rng, device=rng.device).to(batch.device)
    return rank_within(keys, batch.crystal_of_site, batch.sites_of_crystal)


def _integers_below(bounds: Int[Tensor, " rows"], rng: Generator) -> Int[Tensor, " rows"]:
    """A random integer in [0, bound) for each bound; 0 for a bound of 0."""
    return (uniform(len(bounds), rng, bounds.device) * bounds).long().clamp_max((bounds - 1).clamp_min(0))
