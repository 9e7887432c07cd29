"""CGCNN: gated convolutions over neighbors (Xie and Grossman, DOI 10.1103/PhysRevLett.120.145301)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from crystalmax.crystal import CrystalBatch, Pairs, pairs_of
from crystalmax.encoders.distances import DistanceBasis, GaussianBasis
from crystalmax.encoders.graph import Ends, MeanOverSites, SpeciesVectors, SumOfParts, crystal_level, ends, two_levels
from crystalmax.encoding import Encoding, Level, Widths
from crystalmax.segments import gather, segment_sum


class GatedConvolution(nn.Module):
    """Adds gated messages of its neighbors to each site: eq. 5 of the paper.

    v_i <- softplus(v_i + sum_j sigmoid(z_ij W_f + b_f) * softplus(z_ij W_s + b_s)), with z_ij = [v_i, v_j, u_ij].

    Differs: LayerNorm in place of the authors' batch normalisation, so that no vector depends on other crystals; the
    second one comes after the sum with v_i, so that the number of neighbors is not lost. The outer softplus is as in
    their code.

    Args:
        width: Width of a site.
        distance_width: Width of a distance in its basis.
    """

    def __init__(self, width: int, distance_width: int) -> None:
        super().__init__()
        self.width, self.distance_width = width, distance_width
        self.gate_and_core = SumOfParts([width, width, distance_width], 2 * width)
        self.norm_message, self.norm_site = nn.LayerNorm(2 * width), nn.LayerNorm(width)

    def forward(self, sites: Float[Tensor, "sites width"], pairs: Pairs, seen: Ends) -> Float[Tensor, "sites width"]:
        """The sites after one exchange with their neighbors."""
        z = self.gate_and_core((sites, pairs.center), (sites, pairs.neighbor), (seen.distances, seen.of_pair))
        gate, core = self.norm_message(z).chunk(2, dim=-1)
        messages = gate.sigmoid() * softplus(core) * pairs.count[:, None]
        return softplus(self.norm_site(sites + segment_sum(messages, pairs.center, len(sites))))


class CGCNN(nn.Module):
    """Sites exchange gated messages with their neighbors a few times, a crystal is the mean over its sites.

    Meant for `Neighbors(8.0, max_neighbors=12)`; any other geometry will do.

    Differs: elements enter by the features of the Site-Net paper and a learnt vector, weighted by occupancy; there is
    a layer before the mean, without which nothing could be learnt between the levels once gradients are cut there.

    Args:
        site_width: Width of a site vector (the local representation).
        crystal_width: Width of a crystal vector (the global representation).
        hidden: Width of sites between convolutions, and of hidden layers.
        convolutions: Number of convolutions.
        distance: How a distance becomes a vector.
    """

    def __init__(
        self,
        *,
        site_width: int = 32,
        crystal_width: int = 64,
        hidden: int = 64,
        convolutions: int = 3,
        distance: DistanceBasis | None = None,
    ) -> None:
        super().__init__()
        if convolutions < 1:
            raise ValueError(f"convolutions is {convolutions}; give at least 1, or sites would not see their neighbors")
        self.site_width, self.crystal_width, self.hidden = site_width, crystal_width, hidden
        self.convolutions = convolutions
        self.distance = GaussianBasis(width=41, start=0.0, stop=8.0) if distance is None else distance
        self.species = SpeciesVectors(hidden)
        self.layers = nn.ModuleList(GatedConvolution(hidden, self.distance.width) for _ in range(convolutions))
        self.to_site = nn.Linear(hidden, site_width)
        self.to_crystal = MeanOverSites(site_width, crystal_width, hidden)

    @property
    def widths(self) -> Mapping[str, Widths]:
        """Levels "site" and "crystal"."""
        return two_levels(self.distance, self.site_width, self.crystal_width)

    def forward(self, batch: CrystalBatch, *, greedy: bool = False) -> Encoding:
        """Encode a batch that has pairs."""
        pairs = pairs_of(batch)
        seen = ends(batch, pairs, self.species, self.distance)
        hidden = gather(self.species(batch.kinds), batch.species)
        for layer in self.layers:
            hidden = layer(hidden, pairs, seen)
        sites = Level("site", seen.constituents(pairs), self.to_site(hidden), batch.crystal_of_site)
        parts = sites.summaries.detach() if greedy else sites.summaries
        return Encoding((sites, crystal_level(batch, parts, self.to_crystal(parts, batch))))
