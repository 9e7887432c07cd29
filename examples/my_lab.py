"""Parts of your own: a false sample and an encoder. Nothing is inherited, nothing is registered."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from crystalmax.crystal import N_KIND_COLUMNS
from crystalmax.encoders.distances import GaussianBasis
from crystalmax.encoding import Constituents, Encoding, Level, Widths
from crystalmax.layers import perceptron
from crystalmax.segments import gather, segment_mean


@dataclass(frozen=True)
class SwapTwo:
    """Two species of the batch change places, everywhere."""

    def __call__(self, batch, rng):
        if len(batch.kinds) < 2:  # such as carbon
            return batch
        one, other = torch.randperm(len(batch.kinds), generator=rng, device=rng.device)[:2].tolist()
        places = torch.arange(len(batch.kinds), device=batch.device)
        places[one], places[other] = other, one
        return replace(batch, species=places[batch.species])


class PlainMeans(nn.Module):
    """A mean over pairs, then a mean over sites: Site-Net without its attention."""

    def __init__(self, *, width=32):
        super().__init__()
        self.width = width
        self.basis = GaussianBasis(width=16)
        self.pair = perceptron([2 * N_KIND_COLUMNS + 16, width])
        self.site = perceptron([width, width])
        self.crystal = nn.Sequential(perceptron([width, width]), nn.Linear(width, width))

    @property
    def widths(self):
        return {"site": Widths(self.width, self.width), "crystal": Widths(self.width, self.width)}

    def forward(self, batch, *, greedy=False):
        site, pairs = batch.kinds[batch.species], batch.pairs
        ends = [gather(site, pairs.center), gather(site, pairs.neighbor), self.basis(pairs.distance)]
        of_pairs = self.pair(torch.cat(ends, dim=-1))
        of_sites = self.site(segment_mean(of_pairs, pairs.center, batch.n_sites, pairs.count))
        members = of_sites.detach() if greedy else of_sites
        of_crystals = self.crystal(segment_mean(members, batch.crystal_of_site, batch.n_crystals))
        every_pair = torch.arange(len(of_pairs), device=batch.device)
        every_site = torch.arange(batch.n_sites, device=batch.device)
        every_crystal = torch.arange(batch.n_crystals, device=batch.device)
        parts = Constituents(of_pairs, every_pair, pairs.center, pairs.count)
        whole = Constituents(members, every_site, batch.crystal_of_site, torch.ones_like(members[:, 0]))
        return Encoding(
            (Level("site", parts, of_sites, batch.crystal_of_site), Level("crystal", whole, of_crystals, every_crystal))
        )
