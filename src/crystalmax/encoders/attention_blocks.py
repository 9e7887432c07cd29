"""Several blocks of attention over pairs, each with several heads, between which pairs change too."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mish

from crystalmax.crystal import Pairs
from crystalmax.encoders.distances import DistanceBasis
from crystalmax.encoders.graph import SumOfParts
from crystalmax.encoders.interpolation import Part
from crystalmax.encoders.pair_network import Triples
from crystalmax.layers import perceptron
from crystalmax.segments import attention


class Read(NamedTuple):
    """Output of a block for each pair: a logit for each head, the values that heads pool, and the next interaction."""

    logits: Float[Tensor, "rows heads"]
    values: Float[Tensor, "rows width"]
    interactions: Float[Tensor, "rows width"] | None


class AttentionBlock(nn.Module):
    """Networks over the concatenation [x_i, x_j, e_ij]: of logits, of values and, unless it is the last, of new e_ij.

    All begin with Linear, Mish and LayerNorm. That is all of the third; logits come from a linear map behind it, values
    from another such layer.

    Args:
        width: Width of a site, of an interaction, and of all layers.
        heads: Number of heads.
        last: Whether no block follows, so that interactions are not needed.
    """

    def __init__(self, width: int, heads: int, *, last: bool) -> None:
        super().__init__()
        self.width, self.heads, self.last = width, heads, last
        networks = ("attention", "value") if last else ("attention", "value", "interaction")
        self.first = SumOfParts([width] * 3, len(networks) * width)
        self.norms = nn.ModuleDict({network: nn.LayerNorm(width) for network in networks})
        self.logits = nn.Linear(width, heads)
        self.value = perceptron([width, width])

    def forward(self, center: Part, neighbor: Part, interaction: Part) -> Read:
        """One row for each row of the concatenation."""
        columns = mish(self.first(center, neighbor, interaction)).chunk(len(self.norms), dim=-1)
        hidden = {name: norm(part) for (name, norm), part in zip(self.norms.items(), columns, strict=True)}
        return Read(self.logits(hidden["attention"]), self.value(hidden["value"]), hidden.get("interaction"))


class AttentionBlocks(nn.Module):
    """In each block sites pool their pairs, and pairs are renewed from their sites and what they were.

    Each head pools its own share of the columns of a value, as in a transformer (arXiv:1706.03762), so that more heads
    cost almost nothing, and one head pools as `PairNetwork` does. The result goes through a layer into the next block.
    The first block is a function of (species, species, distance) and is evaluated once for each distinct triple; after
    it, sites of one species differ, so each pair has its own row.

    Args:
        distance: How a distance becomes a vector.
        width: Width of sites, interactions and layers.
        blocks: Number of blocks.
        heads: Number of heads in each block, a divisor of the width.
    """

    def __init__(self, distance: DistanceBasis, width: int, *, blocks: int, heads: int) -> None:
        super().__init__()
        self.distance, self.width, self.heads = distance, width, heads
        self.embed_distance = perceptron([distance.width, width])
        self.blocks = nn.ModuleList(AttentionBlock(width, heads, last=left == 0) for left in reversed(range(blocks)))
        self.between = nn.ModuleList(perceptron([width, width]) for _ in range(blocks - 1))

    def forward(
        self, species: Float[Tensor, "kinds width"], triples: Triples, pairs: Pairs, n_sites: int
    ) -> Float[Tensor, "sites wide"]:
        """What each site pools in each block, side by side, given the embedding of each species."""
        far = self.embed_distance(self.distance(triples.end_distance.to(species.dtype)))
        read = self.blocks[0]((species, triples.center), (species, triples.neighbor), (far, triples.end))
        row = triples.of_pair
        pooled = [self._pooled(read, row, pairs, n_sites)]
        for between, block in zip(self.between, self.blocks[1:], strict=True):
            sites = between(pooled[-1])
            read = block((sites, pairs.center), (sites, pairs.neighbor), (read.interactions, row))
            row = torch.arange(len(pairs.center), device=pairs.center.device)
            pooled.append(self._pooled(read, row, pairs, n_sites))
        return torch.cat(pooled, dim=-1)

    def _pooled(self, read: Read, row: Tensor, pairs: Pairs, n_sites: int) -> Float[Tensor, "sites width"]:
        columns = zip(read.logits.unbind(-1), read.values.chunk(self.heads, dim=-1), strict=True)
        parts = [attention(logit, value, row, pairs.center, pairs.count, n_sites) for logit, value in columns]
        return torch.cat(parts, dim=-1)
