"""Site-Net: attention from each site over all pairs, then a mean over sites (DOI 10.1039/d4dd00202d, Table 1)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crystalmax import elements
from crystalmax.crystal import CrystalBatch, Pairs, pairs_of
from crystalmax.encoders.attention_blocks import AttentionBlocks
from crystalmax.encoders.distances import DistanceBasis, ScaledDistance
from crystalmax.encoders.graph import N_SPECIES_FEATURES, crystal_level, deaf_to_charges, species_features, two_levels
from crystalmax.encoders.pair_network import PairNetwork, distinct_triples
from crystalmax.encoding import Constituents, Encoding, Level, Widths
from crystalmax.layers import perceptron
from crystalmax.segments import gather, segment_mean


class SiteNet(nn.Module):
    """Pairs are pooled into sites by attention, sites into a crystal by their mean.

    A pair is the features of its two sites and their distance, so it is a function of (species, species, distance):
    the pair network is evaluated once for each distinct triple of a batch, which is several times cheaper.

    With more blocks, as in the supervised Site-Net (DOI 10.1039/D3DD00005B), what a site pooled and what a pair became
    enter the next one (see `AttentionBlocks`), and a site is a linear map of what it pooled in all of them.

    Differs: distances and features enter standardised (the reference feeds raw numbers), the pair of a site with itself
    is left out, and Mish is used throughout, as the paper says (the reference has ReLU in the local encoder).
    Heads pool their own columns of a value (the supervised Site-Net lets each of them pool all columns).

    Args:
        site_width: Width of a site vector (the local representation).
        crystal_width: Width of a crystal vector (the global representation).
        hidden: Width of hidden layers.
        blocks: How many times sites pool their pairs.
        heads: Number of attention heads in each block; `hidden` must be a multiple.
        distance: How a distance becomes a vector.
    """

    site_features: Tensor

    def __init__(
        self,
        *,
        site_width: int = 32,
        crystal_width: int = 64,
        hidden: int = 64,
        blocks: int = 1,
        heads: int = 1,
        distance: DistanceBasis | None = None,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}; give at least 1, or sites would not see their neighbors")
        if heads < 1 or hidden % heads:
            raise ValueError(f"heads is {heads}; they share {hidden} columns evenly, so give a divisor of {hidden}")
        self.site_width, self.crystal_width, self.hidden = site_width, crystal_width, hidden
        self.blocks, self.heads = blocks, heads
        self.distance = ScaledDistance() if distance is None else distance
        self.register_buffer("site_features", torch.tensor(elements.standardised()).float(), persistent=False)
        self.embed_site = perceptron([N_SPECIES_FEATURES, hidden])
        deaf_to_charges(self.embed_site[0])
        self.pair: PairNetwork | AttentionBlocks = (
            PairNetwork(self.distance, hidden)  # several times faster
            if blocks == heads == 1
            else AttentionBlocks(self.distance, hidden, blocks=blocks, heads=heads)
        )
        self.to_site = nn.Linear(blocks * hidden, site_width)
        self.before_mean = perceptron([site_width, hidden, 2 * hidden])
        self.to_crystal = nn.Sequential(*perceptron([2 * hidden, hidden]), nn.Linear(hidden, crystal_width))

    @property
    def widths(self) -> Mapping[str, Widths]:
        """Levels "site" and "crystal"."""
        return two_levels(self.distance, self.site_width, self.crystal_width)

    def forward(self, batch: CrystalBatch, *, greedy: bool = False) -> Encoding:
        """Encode a batch that has pairs."""
        local = self._local(batch, pairs_of(batch))
        parts = local.summaries.detach() if greedy else local.summaries
        crystals = self.to_crystal(segment_mean(self.before_mean(parts), batch.crystal_of_site, batch.n_crystals))
        return Encoding((local, crystal_level(batch, parts, crystals)))

    def _local(self, batch: CrystalBatch, pairs: Pairs) -> Level:
        triples = distinct_triples(batch.species, len(batch.kinds), pairs)
        pooled = self.pair(self._embedded(batch.kinds), triples, pairs, batch.n_sites)
        features = species_features(batch.kinds, self.site_features)
        far = self.distance(triples.end_distance.to(features.dtype))
        ends = torch.cat([gather(features, triples.end_species), far], dim=-1)
        parts = Constituents(ends, gather(triples.end, triples.of_pair), pairs.center, pairs.count)
        return Level("site", parts, self.to_site(pooled), batch.crystal_of_site)

    def _embedded(self, kinds: Float[Tensor, "kinds columns"]) -> Float[Tensor, "kinds hidden"]:
        """The vector that stands for each species in the pair network."""
        vectors: Tensor = self.embed_site(species_features(kinds, self.site_features))
        return vectors
