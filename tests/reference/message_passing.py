"""CGCNN, MEGNet and ALIGNN from their papers, one site and one pair at a time, on pairs that are not merged.

Papers: DOI 10.1103/PhysRevLett.120.145301, 10.1021/acs.chemmater.9b01294 and 10.1038/s41524-021-00650-1, with the
deviations that the docstrings of the encoders state.
"""

import math
from typing import NamedTuple

import numpy as np

from crystalmax.elements import N_ELEMENTS
from reference.networks import array, layer_norm, linear, mish, run, softplus
from reference.site_net import features


class Naive(NamedTuple):
    """Summaries of each level by name, and for each of its sets the list of its members."""

    summaries: dict[str, list[np.ndarray]]
    members: dict[str, list[list[np.ndarray]]]


def sigmoid(x):
    return np.array([1 / (1 + math.exp(-value)) for value in x])


def silu(x):
    return x * sigmoid(x)


def soft(x):
    return np.array([softplus(value) for value in x])


def mean(vectors):
    return sum(vectors) / len(vectors)


def gaussians(basis, x):
    step = (basis.stop - basis.start) / (basis.width - 1)
    return np.array([math.exp(-0.5 * ((x - basis.start - k * step) / step) ** 2) for k in range(basis.width)])


def concatenated(layer, *parts):
    """The linear map of a concatenation, with its one matrix and its one bias."""
    weight = np.concatenate([array(part.weight) for part in layer.maps], axis=1)
    return weight @ np.concatenate(parts) + array(layer.maps[0].bias)


def species_vector(net, kind):
    of_elements = sum(kind[z] * array(net.of_elements.weight)[:, z] for z in range(N_ELEMENTS))
    return linear(net.of_features, features(kind)) + of_elements


class Site(NamedTuple):
    """A site: its species as a row of occupancies, its crystal, and (neighbor, displacement) of each of its pairs."""

    kind: np.ndarray
    crystal: int
    pairs: list[tuple[int, np.ndarray]]


def sites_of(batch):
    assert (batch.pairs.count == 1).all()
    kinds, pairs = array(batch.kinds), [[] for _ in range(batch.n_sites)]
    columns = (batch.pairs.center.tolist(), batch.pairs.neighbor.tolist(), array(batch.pairs.displacement))
    for center, neighbor, vector in zip(*columns, strict=True):
        pairs[center].append((neighbor, vector))
    owners = zip(batch.species.tolist(), batch.crystal_of_site.tolist(), pairs, strict=True)
    return [Site(kinds[kind], crystal, around) for kind, crystal, around in owners]


def neighbors_of(net, sites):
    """For each site the features of each neighbor and its distance in the basis."""
    return [
        [np.concatenate([features(sites[j].kind), gaussians(net.distance, math.hypot(*v))]) for j, v in site.pairs]
        for site in sites
    ]


def by_crystal(vectors, sites):
    crystals = range(max(site.crystal for site in sites) + 1)
    return [[v for v, site in zip(vectors, sites, strict=True) if site.crystal == c] for c in crystals]


def mean_over_sites(net, members):
    return run(net.after, mean([run(net.before, site) for site in members]))


def gated_convolution(layer, distance_basis, v, sites):
    new = []
    for own, site in zip(v, sites, strict=True):
        total = own
        for j, vector in site.pairs:
            z = concatenated(layer.gate_and_core, own, v[j], gaussians(distance_basis, math.hypot(*vector)))
            z = layer_norm(layer.norm_message, z)
            total = total + sigmoid(z[: layer.width]) * soft(z[layer.width :])
        new.append(soft(layer_norm(layer.norm_site, total)))
    return new


def cgcnn(net, batch):
    sites = sites_of(batch)
    v = [species_vector(net.species, site.kind) for site in sites]
    for layer in net.layers:
        v = gated_convolution(layer, net.distance, v, sites)
    vectors = [linear(net.to_site, each) for each in v]
    members = by_crystal(vectors, sites)
    crystals = [mean_over_sites(net.to_crystal, each) for each in members]
    return Naive({"site": vectors, "crystal": crystals}, {"site": neighbors_of(net, sites), "crystal": members})


def update(net, *parts):
    return run(net.second, layer_norm(net.norm, mish(concatenated(net.first, *parts))))


def local_update(net, e, v, u, sites):
    new_e = [
        [
            update(net.of_pair, v[i], v[j], e[i][n], u[site.crystal])  # both ends, the pair, the state
            for n, (j, _) in enumerate(site.pairs)
        ]
        for i, site in enumerate(sites)
    ]
    new_v = [update(net.of_site, mean(new_e[i]), v[i], u[site.crystal]) for i, site in enumerate(sites)]
    return new_e, new_v


def state_update(net, e, v, u, sites):
    of_pairs = [[pair for around in own for pair in around] for own in by_crystal(e, sites)]
    means = zip(map(mean, of_pairs), map(mean, by_crystal(v, sites)), u, strict=True)
    return [state + update(net.of_state, pairs, of_sites, state) for pairs, of_sites, state in means]


def lstm_cell(cell, x, hidden, memory):
    both = array(cell.weight_ih) @ x + array(cell.bias_ih) + array(cell.weight_hh) @ hidden + array(cell.bias_hh)
    entrance, forget, news, exit_ = np.split(both, 4)
    memory = sigmoid(forget) * memory + sigmoid(entrance) * np.tanh(news)
    return sigmoid(exit_) * np.tanh(memory), memory


def set2set(net, members):
    said, query, memory = np.zeros(2 * net.width), np.zeros(net.width), np.zeros(net.width)
    for _ in range(net.questions):
        query, memory = lstm_cell(net.ask, said, query, memory)
        shares = [math.exp(sum(member * query)) for member in members]
        answer = sum(share * member for share, member in zip(shares, members, strict=True)) / sum(shares)
        said = np.concatenate([query, answer])
    return said


def megnet(net, batch):
    sites = sites_of(batch)
    v = [species_vector(net.species, site.kind) for site in sites]
    e = [[run(net.embed_distance, gaussians(net.distance, math.hypot(*d))) for _, d in site.pairs] for site in sites]
    u = [array(net.state)] * batch.n_crystals
    new_e, new_v = local_update(net.local[0], e, v, u, sites)
    for whole, local in zip([*net.between, None], [*net.local[1:], None], strict=True):
        e = [[a + b for a, b in zip(*both, strict=True)] for both in zip(e, new_e, strict=True)]
        v = [a + b for a, b in zip(v, new_v, strict=True)]
        if whole:
            u = state_update(whole, new_e, new_v, u, sites)
            new_e, new_v = local_update(local, e, v, u, sites)
    u = [layer_norm(net.norm_state, state) for state in state_update(net.last, new_e, new_v, u, sites)]
    vectors = [run(net.to_site, each) for each in v]
    members, crystals = by_crystal(vectors, sites), []
    for own, state in zip(members, u, strict=True):
        answers = set2set(net.answers, [run(net.embed_site, site) for site in own])
        crystals.append(run(net.to_crystal, np.concatenate([answers, state])))
    return Naive({"site": vectors, "crystal": crystals}, {"site": neighbors_of(net, sites), "crystal": members})


def edge_gated_convolutions(net, nodes, edges):
    """Node i with `edges[i]`, a list of [neighbor, vector of the edge]."""
    for number, layer in enumerate(net.layers):
        new = []
        for i, around in enumerate(edges):
            z = [concatenated(layer.gate, nodes[i], nodes[j], edge) for j, edge in around]
            heard = sum(sigmoid(gate) * linear(layer.others, nodes[j]) for gate, (j, _) in zip(z, around, strict=True))
            heard = heard / (sum(sigmoid(gate) for gate in z) + 1e-6)
            new.append(nodes[i] + silu(layer_norm(layer.norm, linear(layer.own, nodes[i]) + heard)))
            if number < len(net.norms):
                for edge, gate in zip(around, z, strict=True):
                    edge[1] = edge[1] + silu(layer_norm(net.norms[number], gate))
        nodes = new
    return nodes


def alignn(net, batch):
    sites = sites_of(batch)
    flat = [(i, j, vector) for i, site in enumerate(sites) for j, vector in site.pairs]
    species = [species_vector(net.pair_species, site.kind) for site in sites]
    before, edges, of_pairs = [], [], []
    for i, j, vector in flat:
        distance = math.hypot(*vector)
        both = concatenated(net.embed_pair, species[i], species[j], gaussians(net.distance, distance))
        before.append(layer_norm(net.norm_pair, mish(both)))
        around, members = [], []
        for other, (center, end, elsewhere) in enumerate(flat):
            if center == i:
                far = math.hypot(*elsewhere)
                angle = gaussians(net.angle, sum(vector * elsewhere) / (distance * far))
                around.append([other, run(net.embed_angle, angle)])
                members.append(np.concatenate([features(sites[end].kind), gaussians(net.distance, far), angle]))
        edges.append(around)
        of_pairs.append(members)
    hidden = edge_gated_convolutions(net.among_pairs, before, edges)
    pairs = [run(net.to_pair, each) for each in hidden]
    of_sites = [[pair for pair, (i, *_) in zip(pairs, flat, strict=True) if i == site] for site in range(len(sites))]
    bonds = [
        [[j, run(net.embed_bond, pair)] for pair, (i, j, _) in zip(pairs, flat, strict=True) if i == site]
        for site in range(len(sites))
    ]
    hidden = edge_gated_convolutions(
        net.among_sites, [species_vector(net.site_species, site.kind) for site in sites], bonds
    )
    vectors = [run(net.to_site, each) for each in hidden]
    members = by_crystal(vectors, sites)
    crystals = [mean_over_sites(net.to_crystal, each) for each in members]
    return Naive(
        {"pair": pairs, "site": vectors, "crystal": crystals}, {"pair": of_pairs, "site": of_sites, "crystal": members}
    )
