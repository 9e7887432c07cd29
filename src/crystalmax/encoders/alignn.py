"""ALIGNN: from angles to pairs, from pairs to sites (Choudhary and DeCost, DOI 10.1038/s41524-021-00650-1)."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import mish, silu

from crystalmax.crystal import CrystalBatch, Pairs, pairs_of
from crystalmax.encoders.distances import DistanceBasis, GaussianBasis
from crystalmax.encoders.graph import N_SPECIES_FEATURES, MeanOverSites, SpeciesVectors, SumOfParts, crystal_level, ends
from crystalmax.encoders.interpolation import Between, Part, between, taken
from crystalmax.encoding import Constituents, Encoding, Level, Widths
from crystalmax.layers import perceptron
from crystalmax.segments import distinct, gather, offsets, ranges, segment_sum

Edges = Int[Tensor, " edges"]

_QUANTUM = 1e-6  # grid that cosines are rounded to, so that equal angles are recognised
_LITTLE = 1e-6


class Angles(NamedTuple):
    """The angles between pairs with the same center; each pair has one with every pair there, itself included.

    Angle number a is between `pair[a]` and `other[a]`. Many angles are alike, so what they look like is stored once, as
    a view: the end of the other pair (a row of `Ends`) and the cosine. Angle a is the view number `view[a]`.
    """

    pair: Int[Tensor, " angles"]
    other: Int[Tensor, " angles"]
    view: Int[Tensor, " angles"]
    end_of_view: Int[Tensor, " views"]
    cosine_of_view: Float[Tensor, " views"]


def angles_of(pairs: Pairs, of_pair: Int[Tensor, " pairs"], n_sites: int) -> Angles:
    """All angles between pairs with one center; `of_pair` is the end of each pair. Cosines are rounded to 1e-6."""
    if (pairs.count != 1).any():
        raise ValueError(
            "these pairs are merged, so the angles between them are lost; use a geometry that keeps each pair, such as "
            "Neighbors(8.0, max_neighbors=12, merge=False)"
        )
    sizes = torch.bincount(pairs.center, minlength=n_sites)
    seen = gather(sizes, pairs.center)
    pair = torch.repeat_interleave(torch.arange(len(seen), device=seen.device), seen)
    other = ranges(gather(offsets(sizes), pairs.center), seen)
    direction = pairs.displacement.double() / pairs.distance.double()[:, None]
    cosine = (gather(direction, pair) * gather(direction, other)).sum(-1).clamp(-1.0, 1.0)
    n_ends = int(of_pair.max()) + 1 if len(of_pair) else 1
    keys, which = distinct(((cosine + 1) / _QUANTUM).round().long() * n_ends + gather(of_pair, other))
    return Angles(pair, other, which, keys % n_ends, ((keys // n_ends) * _QUANTUM - 1).to(pairs.displacement.dtype))


class EdgeGatedConvolution(nn.Module):
    """Adds to each node a mean over its neighbors, in which each component is weighted by a gate for the edge.

    h_i + SiLU(norm(U h_i + sum_j s_ij * V h_j / sum_j s_ij)), with s_ij = sigmoid(z_ij), z_ij = A h_i + B h_j + C e_ij.

    Differs: LayerNorm in place of batch normalisation, so that a vector does not depend on other crystals of the batch.

    Args:
        width: Width of nodes and edges.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gate = SumOfParts([width] * 3, width)
        self.own, self.others = nn.Linear(width, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(
        self, nodes: Float[Tensor, "nodes width"], edges: Part, center: Edges, neighbor: Edges
    ) -> tuple[Float[Tensor, "nodes width"], Float[Tensor, "edges width"]]:
        """The nodes afterwards, and z of each edge."""
        z = self.gate((nodes, center), (nodes, neighbor), edges)
        gates = z.sigmoid()
        heard = segment_sum(gates * gather(self.others(nodes), neighbor), center, len(nodes))
        heard = heard / (segment_sum(gates, center, len(nodes)) + _LITTLE)
        return nodes + silu(self.norm(self.own(nodes) + heard)), z


class EdgeGatedConvolutions(nn.Module):
    """Several edge-gated convolutions in a row; between two of them, SiLU(norm(z)) is added to each edge."""

    def __init__(self, width: int, number: int) -> None:
        super().__init__()
        self.width, self.number = width, number
        self.layers = nn.ModuleList(EdgeGatedConvolution(width) for _ in range(number))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(number - 1))

    def forward(
        self, nodes: Float[Tensor, "nodes width"], edges: Part, center: Edges, neighbor: Edges
    ) -> Float[Tensor, "nodes width"]:
        """The nodes after all convolutions."""
        for number, layer in enumerate(self.layers):
            nodes, z = layer(nodes, edges, center, neighbor)
            if number < len(self.norms):
                edges = (taken(*edges) + silu(self.norms[number](z)), None)
        return nodes


class ALIGNN(nn.Module):
    """Convolutions among pairs, along angles, then among sites, along pairs; a crystal is the mean over its sites.

    Meant for `Neighbors(8.0, max_neighbors=12, merge=False)`: merged pairs have no angles.

    Differs: all convolutions among pairs come before those among sites, where the paper alternates, so that pairs,
    sites and crystals are levels, each made of the vectors of the one below. A pair has angles with the pairs from its
    own center only. The embedding of a pair includes both species. Elements enter by the features of the Site-Net paper
    and a learnt vector, weighted by occupancy.

    Args:
        pair_width: Width of a pair vector.
        site_width: Width of a site vector (the local representation).
        crystal_width: Width of a crystal vector (the global representation).
        hidden: Width of pairs and sites between convolutions, and of hidden layers.
        convolutions: Number of convolutions among pairs, and among sites.
        distance: How a distance becomes a vector.
    """

    def __init__(
        self,
        *,
        pair_width: int = 32,
        site_width: int = 32,
        crystal_width: int = 64,
        hidden: int = 64,
        convolutions: Sequence[int] = (1, 3),
        distance: DistanceBasis | None = None,
    ) -> None:
        super().__init__()
        if len(convolutions) != 2 or min(convolutions) < 1:
            raise ValueError(f"convolutions is {convolutions}; give two numbers of at least 1, for pairs and for sites")
        self.pair_width, self.site_width, self.crystal_width = pair_width, site_width, crystal_width
        self.hidden, self.convolutions = hidden, convolutions
        self.distance = GaussianBasis(width=41, start=0.0, stop=8.0) if distance is None else distance
        self.angle = GaussianBasis(width=21, start=-1.0, stop=1.0)  # of the cosine
        self.pair_species, self.site_species = SpeciesVectors(hidden), SpeciesVectors(hidden)
        self.embed_pair = SumOfParts([hidden, hidden, self.distance.width], hidden)
        self.norm_pair = nn.LayerNorm(hidden)
        self.embed_angle = perceptron([self.angle.width, hidden])
        self.among_pairs = EdgeGatedConvolutions(hidden, convolutions[0])
        self.to_pair = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, pair_width))
        self.embed_bond = perceptron([pair_width, hidden])
        self.among_sites = EdgeGatedConvolutions(hidden, convolutions[1])
        self.to_site = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, site_width))
        self.to_crystal = MeanOverSites(site_width, crystal_width, hidden)

    @property
    def widths(self) -> Mapping[str, Widths]:
        """Levels "pair", "site" and "crystal"."""
        return {
            "pair": Widths(N_SPECIES_FEATURES + self.distance.width + self.angle.width, self.pair_width),
            "site": Widths(self.pair_width, self.site_width),
            "crystal": Widths(self.site_width, self.crystal_width),
        }

    def forward(self, batch: CrystalBatch, *, greedy: bool = False) -> Encoding:
        """Encode a batch with pairs that are not merged."""
        pairs = pairs_of(batch)
        bonds = self._pairs(batch, pairs)
        parts = bonds.summaries.detach() if greedy else bonds.summaries
        hidden = gather(self.site_species(batch.kinds), batch.species)
        hidden = self.among_sites(hidden, (self.embed_bond(parts), None), pairs.center, pairs.neighbor)
        every_pair = torch.arange(len(parts), device=batch.device)
        members = Constituents(parts, every_pair, pairs.center, pairs.count)
        sites = Level("site", members, self.to_site(hidden), batch.crystal_of_site)
        parts = sites.summaries.detach() if greedy else sites.summaries
        return Encoding((bonds, sites, crystal_level(batch, parts, self.to_crystal(parts, batch))))

    def _pairs(self, batch: CrystalBatch, pairs: Pairs) -> Level:
        seen = ends(batch, pairs, self.pair_species, self.distance)
        angles = angles_of(pairs, seen.of_pair, batch.n_sites)
        cosines = self.angle(angles.cosine_of_view)
        species = self.pair_species(batch.kinds)
        of_center, of_neighbor = gather(batch.species, pairs.center), gather(batch.species, pairs.neighbor)
        both = self.embed_pair((species, of_center), (species, of_neighbor), (seen.distances, seen.of_pair))
        hidden = self.norm_pair(mish(both))
        hidden = self.among_pairs(hidden, self._embedded(angles), angles.pair, angles.other)
        views = [gather(seen.features, angles.end_of_view), gather(seen.distances, angles.end_of_view), cosines]
        members = Constituents(
            torch.cat(views, dim=-1), angles.view, angles.pair, torch.ones_like(angles.pair, dtype=hidden.dtype)
        )
        return Level("pair", members, self.to_pair(hidden), gather(batch.crystal_of_site, pairs.center))

    def _embedded(self, angles: Angles) -> Part:
        """Embedding of each angle, a smooth function of its cosine, by interpolation between knots."""
        n_knots = round(2 / self.angle.step) + 5
        knots = torch.arange(-2, n_knots - 2, device=angles.pair.device, dtype=angles.cosine_of_view.dtype)
        at = between((angles.cosine_of_view.double() + 1) / self.angle.step + 1, knots.dtype)
        table = self.embed_angle(self.angle(knots * self.angle.step - 1))
        return table, Between(gather(at.first, angles.view), gather(at.part, angles.view))
