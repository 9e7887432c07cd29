"""Transforms of a batch with pairs: a view of the same crystals if called true, a corruption if called false.

The three corruptions here are the paper's (Fig. 5): each keeps a part of the truth, so that it cannot be told without
the other part. Donors are drawn from the same batch, uniformly among the other crystals.
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
    """A batch in, a batch out; both with pairs, crystals in the same order."""

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        """The transformed batch; the input is left as it is."""


@dataclass(frozen=True)
class FalseComposition:
    """The geometry of each crystal with species of another: each site takes the species of one of the donor's sites."""

    def __call__(self, batch: CrystalBatch, rng: Generator) -> CrystalBatch:
        return replace(batch, species=gather(batch.species, donor_sites(batch, rng)))


@dataclass(frozen=True)
class FalsePolymorph:
    """The species of each crystal with distances of another.

    Each site keeps its neighbors, of which species and how many of each, but sees them where a site of the donor sees
    its own: only the displacements are a donor's. Rows of merged pairs are drawn alike, however many pairs each stands
    for, so far ones come too often: a mean distance of 5.2 instead of 4.9 angstrom on phonon crystals, 4.4 instead of
    4.3 on perovskites; without merging they agree.
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
    n = batch.n_crystals
    if n < 2:
        raise ValueError(f"false samples need another crystal to come from, but this batch has {n}")
    step = torch.randint(1, n, (n,), generator=rng, device=rng.device).to(batch.device)
    return (torch.arange(n, device=batch.device) + step) % n


def donor_sites(batch: CrystalBatch, rng: Generator) -> Int[Tensor, " sites"]:
    """For each site one of its crystal's donor; sites of one crystal take different ones as long as there are any."""
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
