"""MEGNet: pairs, sites and a state of the crystal update each other (DOI 10.1021/acs.chemmater.9b01294)."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import mish

from crystalmax.crystal import CrystalBatch, Pairs, pairs_of
from crystalmax.encoders.distances import DistanceBasis, GaussianBasis
from crystalmax.encoders.graph import SpeciesVectors, SumOfParts, crystal_level, ends, two_levels
from crystalmax.encoding import Encoding, Level, Widths
from crystalmax.layers import perceptron
from crystalmax.segments import attention, gather, segment_mean, segment_sum


class Graph(NamedTuple):
    """Vectors of pairs, of sites, and of the state of each crystal."""

    pairs: Float[Tensor, "pairs width"]
    sites: Float[Tensor, "sites width"]
    state: Float[Tensor, "crystals width"]


class Update(nn.Module):
    """A network with two layers on a concatenation of parts, each as wide as the result."""

    def __init__(self, n_parts: int, width: int) -> None:
        super().__init__()
        self.n_parts, self.width = n_parts, width
        self.first = SumOfParts([width] * n_parts, width)
        self.norm = nn.LayerNorm(width)
        self.second = perceptron([width, width])

    def forward(self, *parts: tuple[Tensor, Tensor | None]) -> Float[Tensor, "rows width"]:
        """One row for each row of the concatenation."""
        updated: Tensor = self.second(self.norm(mish(self.first(*parts))))
        return updated


class LocalUpdate(nn.Module):
    """Each pair from its two sites and the state, then each site from its pairs and the state: eq. 1 to 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.of_pair, self.of_site = Update(4, width), Update(3, width)

    def forward(self, graph: Graph, pairs: Pairs, crystal: Int[Tensor, " sites"]) -> Graph:
        """The updates of pairs and of sites, and the state as it is; `crystal` is the crystal of each site."""
        of_pair = gather(crystal, pairs.center)
        ends = ((graph.sites, pairs.center), (graph.sites, pairs.neighbor))
        new_pairs = self.of_pair(*ends, (graph.pairs, None), (graph.state, of_pair))
        around = segment_mean(new_pairs, pairs.center, len(graph.sites), pairs.count)
        new_sites = self.of_site((around, None), (graph.sites, None), (graph.state, crystal))
        return Graph(new_pairs, new_sites, graph.state)


class StateUpdate(nn.Module):
    """The state of each crystal from the means over the updates of its pairs and of its sites: eq. 5 and 6."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.of_state = Update(3, width)

    def forward(self, news: Graph, pairs: Pairs, crystal: Int[Tensor, " sites"]) -> Float[Tensor, "crystals width"]:
        """The state with its update added; `crystal` is the crystal of each site."""
        n_crystals, n_sites = len(news.state), len(news.sites)
        # By way of the sites: one sum over all pairs of a large cell would lose a digit.
        around = segment_mean(news.pairs, pairs.center, n_sites, pairs.count)
        n_around = segment_sum(pairs.count, pairs.center, n_sites)
        of_pairs = segment_mean(around, crystal, n_crystals, n_around)
        of_sites = segment_mean(news.sites, crystal, n_crystals)
        updated: Tensor = news.state + self.of_state((of_pairs, None), (of_sites, None), (news.state, None))
        return updated


class Set2Set(nn.Module):
    """Set2Set pooling: several rounds of attention over a set, with a query that an LSTM makes of the last result.

    Vinyals et al., arXiv:1511.06391. Neither the order of members nor how often the whole set is repeated matters.

    Args:
        width: Width of a member; the result is twice as wide.
        questions: Number of rounds.
    """

    def __init__(self, width: int, *, questions: int = 3) -> None:
        super().__init__()
        self.width, self.questions = width, questions
        self.ask = nn.LSTMCell(2 * width, width)

    def forward(
        self, members: Float[Tensor, "parts width"], owner: Int[Tensor, " parts"], n_sets: int
    ) -> Float[Tensor, "wholes wide"]:
        """The last query and its result for each set; members are grouped by owner."""
        row, once = torch.arange(len(owner), device=owner.device), torch.ones_like(members[:, 0])
        said = members.new_zeros(n_sets, 2 * self.width)
        query = memory = members.new_zeros(n_sets, self.width)
        for _ in range(self.questions):
            query, memory = self.ask(said, (query, memory))
            fit = (members * gather(query, owner)).sum(-1)
            said = torch.cat([query, attention(fit, members, row, owner, once, n_sets)], dim=-1)
        return said


class MEGNet(nn.Module):
    """Pairs, sites and a state of the crystal update each other; a crystal vector is read from its sites and state.

    Meant for `Neighbors(5.0)`; any other geometry will do.

    Differs: Mish and LayerNorm in place of the shifted softplus; elements enter by the features of the Site-Net paper
    and a learnt vector, weighted by occupancy; the state begins as one learnt vector; bonds are read out through
    sites and state, since the members of a crystal are its sites.

    Args:
        site_width: Width of a site vector (the local representation).
        crystal_width: Width of a crystal vector (the global representation).
        hidden: Width of pairs, sites and state, and of hidden layers.
        blocks: How many rounds of updates.
        distance: How a distance becomes a vector.
    """

    def __init__(
        self,
        *,
        site_width: int = 32,
        crystal_width: int = 64,
        hidden: int = 32,
        blocks: int = 3,
        distance: DistanceBasis | None = None,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}; give at least 1, or sites would not see their neighbors")
        self.site_width, self.crystal_width, self.hidden, self.blocks = site_width, crystal_width, hidden, blocks
        self.distance = GaussianBasis(width=32, start=0.0, stop=6.0) if distance is None else distance
        self.species = SpeciesVectors(hidden)
        self.embed_distance = perceptron([self.distance.width, hidden])
        self.state = nn.Parameter(torch.zeros(hidden))
        self.local = nn.ModuleList(LocalUpdate(hidden) for _ in range(blocks))
        self.between = nn.ModuleList(StateUpdate(hidden) for _ in range(blocks - 1))
        self.last = StateUpdate(hidden)
        self.to_site = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, site_width))
        self.embed_site = perceptron([site_width, hidden])
        self.answers = Set2Set(hidden)
        self.norm_state = nn.LayerNorm(hidden)
        self.to_crystal = nn.Sequential(*perceptron([3 * hidden, 2 * hidden]), nn.Linear(2 * hidden, crystal_width))

    @property
    def widths(self) -> Mapping[str, Widths]:
        """Levels "site" and "crystal"."""
        return two_levels(self.distance, self.site_width, self.crystal_width)

    def forward(self, batch: CrystalBatch, *, greedy: bool = False) -> Encoding:
        """Encode a batch that has pairs."""
        pairs, crystal = pairs_of(batch), batch.crystal_of_site
        seen = ends(batch, pairs, self.species, self.distance)
        graph = Graph(
            gather(self.embed_distance(seen.distances), seen.of_pair),
            gather(self.species(batch.kinds), batch.species),
            self.state.expand(batch.n_crystals, -1),
        )
        news = self.local[0](graph, pairs, crystal)
        for whole, local in zip(self.between, self.local[1:], strict=True):
            graph = Graph(graph.pairs + news.pairs, graph.sites + news.sites, whole(news, pairs, crystal))
            news = local(graph, pairs, crystal)
        sites = Level("site", seen.constituents(pairs), self.to_site(graph.sites + news.sites), crystal)
        parts = sites.summaries.detach() if greedy else sites.summaries
        # The last state influences no site, so it belongs to the level of crystals.
        news = Graph(*(vectors.detach() for vectors in news)) if greedy else news
        state = self.norm_state(self.last(news, pairs, crystal))
        answers = self.answers(self.embed_site(parts), crystal, batch.n_crystals)
        crystals = self.to_crystal(torch.cat([answers, state], dim=-1))
        return Encoding((sites, crystal_level(batch, parts, crystals)))
