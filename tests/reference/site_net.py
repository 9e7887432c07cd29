"""Site-Net from its description (Fig. 2 and Table 1 of DOI 10.1039/d4dd00202d), one pair at a time.

A pair is the concatenation [x_i, x_j, e(d_ij)]; attention and value networks see it; a site is the attention-weighted
sum over its pairs, a crystal the mean over its sites.
"""

import math
from typing import NamedTuple

import numpy as np

from crystalmax.elements import N_ELEMENTS, standardised
from reference.networks import array, layer_norm, linear, mish, run


class Naive(NamedTuple):
    """Vectors of sites and crystals, and for each site the list of what it pooled: [features of j, distance]."""

    sites: list[np.ndarray]
    crystals: list[np.ndarray]
    pairs_of_site: list[list[np.ndarray]]
    sites_of_crystal: list[list[int]]


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


def pair_layer(net):
    """The first layer of both networks, acting on the whole concatenation."""
    parts = [net.pair.parts[part] for part in ("center", "neighbor", "distance")]
    return np.concatenate([array(part.weight) for part in parts], axis=1), sum(array(part.bias) for part in parts)


def pooled(net, x, center, pairs):
    """The attention-weighted sum over the pairs of one site."""
    weight, bias = pair_layer(net)
    logits, values = [], []
    for neighbor, distance in pairs:
        near = (distance - net.distance.center) / net.distance.scale
        e = run(net.pair.embed_distance, np.array([near]))
        both = mish(weight @ np.concatenate([x[center], x[neighbor], e]) + bias)
        logits.append(linear(net.pair.logit, layer_norm(net.pair.norms["attention"], both[: net.hidden]))[0])
        values.append(run(net.pair.value, layer_norm(net.pair.norms["value"], both[net.hidden :])))
    top = max(logits)
    shares = [math.exp(logit - top) for logit in logits]
    return sum(share * value for share, value in zip(shares, values, strict=True)) / sum(shares)


def encode(net, batch, grid=None):
    """Every vector of a batch.

    Args:
        net: A `SiteNet` with `ScaledDistance`.
        batch: With pairs.
        grid: Distances are rounded to multiples of this, in angstrom.
    """
    species, owners = batch.species.tolist(), batch.crystal_of_site.tolist()
    raw = [features(kind) for kind in array(batch.kinds)]
    x = [run(net.embed_site, raw[kind]) for kind in species]
    sites, pairs_of_site = [], []
    for center, pairs in enumerate(unmerged(batch)):
        if grid:
            pairs = [(neighbor, round(distance / grid) * grid) for neighbor, distance in pairs]
        sites.append(linear(net.to_site, pooled(net, x, center, pairs)))
        scaled = [(j, (d - net.distance.center) / net.distance.scale) for j, d in pairs]
        pairs_of_site.append([np.array([*raw[species[j]], near]) for j, near in scaled])
    sites_of_crystal = [[i for i, owner in enumerate(owners) if owner == c] for c in range(batch.n_crystals)]
    crystals = []
    for members in sites_of_crystal:
        mean = sum(run(net.before_mean, sites[i]) for i in members) / len(members)
        crystals.append(run(net.to_crystal, mean))
    return Naive(sites, crystals, pairs_of_site, sites_of_crystal)
