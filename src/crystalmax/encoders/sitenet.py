"""Site-Net: attention from each site over all pairs, then a mean over sites (DOI 10.1039/d4dd00202d, Table 1)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crystalmax import elements
from crystalmax.crystal import CrystalBatch, Pairs
from crystalmax.elements import N_ELEMENTS
from crystalmax.encoders.layers import DistanceBasis, ScaledDistance, perceptron
from crystalmax.encoding import Constituents, Encoding, Level, Widths
from crystalmax.segments import gather, segment_mean, segment_softmax, weighted_sum

N_SITE_FEATURES = len(elements.FEATURES) + 1
_QUANTUM = 1e-5  # angstrom; distances are read on this grid, so that equal ones are recognised whatever the batch


class SiteNet(nn.Module):
    """Pairs are pooled into sites by attention, sites into a crystal by their mean.

    A pair is the features of its two sites and their distance, so it is a function of (species, species, distance):
    the pair network is evaluated once for each distinct triple of a batch, which is exact and several times cheaper.
    Its first layer acts on a concatenation, so it is split into one term for each part.

    Differs: distances and features enter standardised (the reference feeds raw numbers), the pair of a site with itself
    is left out, and Mish is used throughout, as the paper says (the reference has ReLU in the local encoder).

    Args:
        site_width: Width of a site vector (the local representation).
        crystal_width: Width of a crystal vector (the global representation).
        hidden: Width of hidden layers.
        distance: How a distance becomes a vector.
    """

    site_features: Tensor

    def __init__(
        self, *, site_width: int = 32, crystal_width: int = 64, hidden: int = 64, distance: DistanceBasis | None = None
    ) -> None:
        super().__init__()
        self.site_width, self.crystal_width, self.hidden = site_width, crystal_width, hidden
        self.distance = ScaledDistance() if distance is None else distance
        self.register_buffer("site_features", torch.tensor(elements.standardised()).float(), persistent=False)
        self.embed_site = perceptron([N_SITE_FEATURES, hidden])
        self.embed_distance = perceptron([self.distance.width, hidden])
        # Attention and value networks have first layers of equal shape over the same pairs: they are one layer.
        self.first = nn.ModuleDict({part: nn.Linear(hidden, 2 * hidden) for part in ("center", "neighbor", "distance")})
        self.logit = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 1))
        self.value = nn.Sequential(nn.LayerNorm(hidden), *perceptron([hidden, hidden]))
        self.to_site = nn.Linear(hidden, site_width)
        self.before_mean = perceptron([site_width, hidden, 2 * hidden])
        self.to_crystal = nn.Sequential(*perceptron([2 * hidden, hidden]), nn.Linear(hidden, crystal_width))

    @property
    def widths(self) -> Mapping[str, Widths]:
        """Levels "site" and "crystal"."""
        return {
            "site": Widths(N_SITE_FEATURES + self.distance.width, self.site_width),
            "crystal": Widths(self.site_width, self.crystal_width),
        }

    def forward(self, batch: CrystalBatch, *, greedy: bool = False) -> Encoding:
        """Encode a batch that has pairs."""
        if batch.pairs is None:
            raise ValueError("this batch has no pairs; apply a geometry such as AllPairs() to it first")
        local = self._local(batch, batch.pairs)
        parts = local.summaries.detach() if greedy else local.summaries
        crystals = self.to_crystal(segment_mean(self.before_mean(parts), batch.crystal_of_site, batch.n_crystals))
        everything = torch.arange(batch.n_sites, device=batch.device)
        members = Constituents(parts, everything, batch.crystal_of_site, torch.ones_like(parts[:, 0]))
        whole = Level("crystal", members, crystals, torch.arange(batch.n_crystals, device=batch.device))
        return Encoding((local, whole))

    def _local(self, batch: CrystalBatch, pairs: Pairs) -> Level:
        triples = distinct_triples(batch.species, len(batch.kinds), pairs)
        # The paper's nine features of each species: eight of its elements, weighted by occupancy, and its charge.
        elemental = batch.kinds[:, :N_ELEMENTS] @ self.site_features
        features = torch.cat([elemental, batch.kinds[:, N_ELEMENTS : N_ELEMENTS + 1]], dim=-1)
        site = self.embed_site(features)
        far = self.distance(triples.end_distance)
        end = gather(self.first["neighbor"](site), triples.end_species)
        end = end + self.first["distance"](self.embed_distance(far))
        hidden = nn.functional.mish(gather(end, triples.end) + gather(self.first["center"](site), triples.center))
        attention, value = torch.split(hidden, self.hidden, dim=-1)
        logits = gather(self.logit(attention)[:, 0], triples.of_pair)
        share = segment_softmax(logits, pairs.center, batch.n_sites, pairs.count)
        pooled = weighted_sum(self.value(value), triples.of_pair, share, pairs.center, batch.n_sites)
        ends = torch.cat([gather(features, triples.end_species), far], dim=-1)
        parts = Constituents(ends, gather(triples.end, triples.of_pair), pairs.center, pairs.count)
        return Level("site", parts, self.to_site(pooled), batch.crystal_of_site)


class Triples(NamedTuple):
    """The distinct (species, species, distance) of a batch, and the distinct ends (species, distance) among them.

    `center` is the species at the center of each triple; distances are in angstrom.
    """

    of_pair: Int[Tensor, " pairs"]
    center: Int[Tensor, " triples"]
    end: Int[Tensor, " triples"]
    end_species: Int[Tensor, " ends"]
    end_distance: Float[Tensor, " ends"]


def distinct_triples(species: Int[Tensor, " sites"], n_kinds: int, pairs: Pairs) -> Triples:
    """Find what a pair network has to be evaluated on. Distances are rounded to 1e-5 angstrom."""
    steps = (pairs.distance / _QUANTUM).round().long()
    n_steps = int(steps.max()) + 1 if len(steps) else 1
    end_key = gather(species, pairs.neighbor) * n_steps + steps
    triple_key = gather(species, pairs.center) * (n_kinds * n_steps) + end_key
    triples, of_pair = torch.unique(triple_key, return_inverse=True)
    center = triples // (n_kinds * n_steps)
    ends, end = torch.unique(triples % (n_kinds * n_steps), return_inverse=True)
    return Triples(of_pair, center, end, ends // n_steps, (ends % n_steps).to(pairs.displacement.dtype) * _QUANTUM)
