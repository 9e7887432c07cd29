"""Site-Net: attention from each site over all pairs, then a mean over sites (DOI 10.1039/d4dd00202d, Table 1)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from crystalmax import elements
from crystalmax.crystal import CrystalBatch, Pairs, pairs_of
from crystalmax.encoders.graph import N_SPECIES_FEATURES, crystal_level, species_features
from crystalmax.encoders.layers import DistanceBasis, ScaledDistance, perceptron
from crystalmax.encoders.pair_network import PairNetwork, distinct_triples
from crystalmax.encoding import Constituents, Encoding, Level, Widths
from crystalmax.segments import attention, gather, segment_mean


class SiteNet(nn.Module):
    """Pairs are pooled into sites by attention, sites into a crystal by their mean.

    A pair is the features of its two sites and their distance, so it is a function of (species, species, distance):
    the pair network is evaluated once for each distinct triple of a batch, which is several times cheaper.

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
        self.embed_site = perceptron([N_SPECIES_FEATURES, hidden])
        self.pair = PairNetwork(self.distance, hidden)
        self.to_site = nn.Linear(hidden, site_width)
        self.before_mean = perceptron([site_width, hidden, 2 * hidden])
        self.to_crystal = nn.Sequential(*perceptron([2 * hidden, hidden]), nn.Linear(hidden, crystal_width))

    @property
    def widths(self) -> Mapping[str, Widths]:
        """Levels "site" and "crystal"."""
        return {
            "site": Widths(N_SPECIES_FEATURES + self.distance.width, self.site_width),
            "crystal": Widths(self.site_width, self.crystal_width),
        }

    def forward(self, batch: CrystalBatch, *, greedy: bool = False) -> Encoding:
        """Encode a batch that has pairs."""
        local = self._local(batch, pairs_of(batch))
        parts = local.summaries.detach() if greedy else local.summaries
        crystals = self.to_crystal(segment_mean(self.before_mean(parts), batch.crystal_of_site, batch.n_crystals))
        return Encoding((local, crystal_level(batch, parts, crystals)))

    def _local(self, batch: CrystalBatch, pairs: Pairs) -> Level:
        triples = distinct_triples(batch.species, len(batch.kinds), pairs)
        features = species_features(batch.kinds, self.site_features)
        logits, values, row = self.pair(self.embed_site(features), triples)
        pooled = attention(logits, values, row, pairs.center, pairs.count, batch.n_sites)
        far = self.distance(triples.end_distance.to(features.dtype))
        ends = torch.cat([gather(features, triples.end_species), far], dim=-1)
        parts = Constituents(ends, gather(triples.end, triples.of_pair), pairs.center, pairs.count)
        return Level("site", parts, self.to_site(pooled), batch.crystal_of_site)
