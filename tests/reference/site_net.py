"""Site-Net from its descriptions, one pair at a time.

Descriptions: Fig. 2 and Table 1 of DOI 10.1039/d4dd00202d for one block with one head, DOI 10.1039/D3DD00005B for more.
A pair is the concatenation [x_i, x_j, e_ij], where e_ij begins as a layer on the distance. In each block an attention
network gives a logit for each head, a value network what is pooled, a third network the next e_ij. A site is a linear
map of what it pooled in all blocks, a crystal the mean over its sites.
"""

import math
from typing import NamedTuple

import numpy as np
from torch import nn

from crystalmax.elements import N_ELEMENTS, standardised
from crystalmax.encoders.pair_network import PairNetwork
from reference.networks import array, layer_norm, linear, mish, run


class Naive(NamedTuple):
    """Vectors of sites and crystals, and for each site the list of what it pooled: [features of j, distance]."""

    sites: list[np.ndarray]
    crystals: list[np.ndarray]
    pairs_of_site: list[list[np.ndarray]]
    sites_of_crystal: list[list[int]]


class Block(NamedTuple):
    """First layers of all networks of a block as one matrix on the whole concatenation, and what comes behind them."""

    matrix: np.ndarray
    bias: np.ndarray
    norms: nn.ModuleDict
    logits: nn.Linear
    value: nn.Sequential


def features(kind):
    """Nine numbers of a species: eight of its elements, weighted by occupancy, and its mean oxidation state."""
    table = standardised()
    return np.array([sum(kind[z] * table[z, f] for z in range(N_ELEMENTS)) for f in range(8)] + [kind[N_ELEMENTS]])


def unmerged(batch):
    """(neighbor, distance) of every single pair, by center."""
    pairs = [[] for _ in range(batch.n_sites)]
    rows = zip(*(t.tolist() for t in (batch.pairs.center, batch.pairs.neighbor, batch.pairs.displacement)), strict=True)
    for (center, neighbor, vector), count in zip(rows, batch.pairs.count.tolist(), strict=True):
        pairs[center] += [(neighbor, math.sqrt(sum(x * x for x in vector)))] * round(count)
    return pairs


def blocks_of(net):
    """The blocks of a network over pairs, whichever way it stores its weights."""
    if isinstance(net, PairNetwork):
        parts = [net.parts[part] for part in ("center", "neighbor", "distance")]
        return [Block(joined(parts), sum(array(part.bias) for part in parts), net.norms, net.logit, net.value)]
    maps = [block.first.maps for block in net.blocks]
    biases = [array(first[0].bias) for first in maps]
    rest = [(block.norms, block.logits, block.value) for block in net.blocks]
    return [Block(joined(first), bias, *other) for first, bias, other in zip(maps, biases, rest, strict=True)]


def joined(parts):
    return np.concatenate([array(part.weight) for part in parts], axis=1)


def pooled(block, own, x, e, pairs):
    """For the pairs of one site, which itself is `own`: their sum weighted by attention, and the next e of each."""
    read = {name: [] for name in block.norms}
    for (neighbor, _), interaction in zip(pairs, e, strict=True):
        both = mish(block.matrix @ np.concatenate([own, x[neighbor], interaction]) + block.bias)
        for (name, norm), part in zip(block.norms.items(), np.split(both, len(block.norms)), strict=True):
            read[name].append(layer_norm(norm, part))
    logits = [linear(block.logits, hidden) for hidden in read["attention"]]
    values = [run(block.value, hidden) for hidden in read["value"]]
    heads, total = len(logits[0]), []
    for head in range(heads):
        shares = [math.exp(logit[head]) for logit in logits]
        parts = [np.split(value, heads)[head] for value in values]
        total.append(sum(share * part for share, part in zip(shares, parts, strict=True)) / sum(shares))
    return np.concatenate(total), read.get("interaction")


def encode(net, batch, grid=None):
    """Every vector of a batch.

    Args:
        net: A `SiteNet` with `ScaledDistance`.
        batch: With pairs.
        grid: Distances are rounded to multiples of this, in angstrom.
    """
    species, owners = batch.species.tolist(), batch.crystal_of_site.tolist()
    raw = [features(kind) for kind in array(batch.kinds)]
    pairs = unmerged(batch)
    if grid:
        pairs = [[(j, round(distance / grid) * grid) for j, distance in around] for around in pairs]
    scaled = [[(j, (d - net.distance.center) / net.distance.scale) for j, d in around] for around in pairs]
    pairs_of_site = [[np.array([*raw[species[j]], near]) for j, near in around] for around in scaled]
    x = [run(net.embed_site, raw[kind]) for kind in species]
    e = [[run(net.pair.embed_distance, np.array([near])) for _, near in around] for around in scaled]
    in_all_blocks = [[] for _ in x]
    for number, block in enumerate(blocks_of(net.pair)):
        if number:
            x = [run(net.pair.between[number - 1], of_site[-1]) for of_site in in_all_blocks]
        found = [pooled(block, own, x, *rest) for own, *rest in zip(x, e, pairs, strict=True)]
        for of_site, (whole, _) in zip(in_all_blocks, found, strict=True):
            of_site.append(whole)
        e = [news for _, news in found]
    sites = [linear(net.to_site, np.concatenate(of_site)) for of_site in in_all_blocks]
    sites_of_crystal = [[i for i, owner in enumerate(owners) if owner == c] for c in range(batch.n_crystals)]
    crystals = []
    for members in sites_of_crystal:
        mean = sum(run(net.before_mean, sites[i]) for i in members) / len(members)
        crystals.append(run(net.to_crystal, mean))
    return Naive(sites, crystals, pairs_of_site, sites_of_crystal)
