"""Layers against the numbers that maintained packages gave for the same weights and the same input.

Weights and inputs are sines, so that nothing has to be stored but the answers. They come from cgcnn2 0.6.0
(`cgcnn2.model.ConvLayer`), alignn 2026.8.11 (`alignn.models.alignn_atomwise_pure.EdgeGatedGraphConvPure`) and
matgl 4.1.2 (`matgl.layers._graph_convolution.MEGNetGraphConv`) with torch 2.13 in float64; of the last two only these
classes were loaded, without the packages around them. By:

    for number, (name, parameter) in enumerate(layer.named_parameters()):
        if "bn" not in name:
            parameter.data = 0.5 * waves(number, *parameter.shape)
    cgcnn2: ConvLayer(3, 2).eval() with eps of both normalisations 0, so that these do nothing; then
        layer(waves(20, 3, 3), waves(21, 3, 4, 2), NEIGHBOR.reshape(3, 4))
    alignn: EdgeGatedGraphConvPure(3, 3).forward_tensors(NEIGHBOR, CENTER, 3, waves(20, 3, 3), waves(21, 12, 3))
    matgl: MEGNetGraphConv(*(nn.Sequential(nn.Linear(n, 2), nn.Tanh()) for n in (8, 6, 6))), then
        layer(torch.stack([CENTER, OWN_NEIGHBOR]), waves(21, 12, 2), waves(20, 3, 2), waves(22, 2, 2),
              CRYSTAL, CRYSTAL[CENTER], 3, 2)
"""

import math

import numpy as np
import torch
from torch import nn

from crystalmax.crystal import Pairs
from crystalmax.encoders.alignn import EdgeGatedConvolutions
from crystalmax.encoders.cgcnn import GatedConvolution
from crystalmax.encoders.graph import Ends
from crystalmax.encoders.interpolation import taken
from crystalmax.encoders.megnet import Graph, LocalUpdate, StateUpdate

CENTER = torch.arange(3).repeat_interleave(4)
NEIGHBOR = torch.tensor([1, 2, 1, 0, 0, 2, 2, 1, 0, 1, 0, 2])
OWN_NEIGHBOR = torch.tensor([1, 0, 1, 0, 0, 0, 1, 1, 2, 2, 2, 2])  # the last site is a crystal of its own
CRYSTAL = torch.tensor([0, 0, 1])

CGCNN2 = [
    [1.751361154, 1.712867959, 1.472034239],
    [1.837464489, 1.531715805, 1.107289063],
    [1.950673913, 1.679314114, 1.562389485],
]
ALIGNN_NODES = [
    [0.485740237, 1.588382261, 1.125904858],
    [0.64239638, -0.778368563, -0.462810224],
    [0.124671873, -0.613799485, -0.089745695],
]
ALIGNN_EDGES = [
    [0.552860022, 0.169688174, 0.63168346],
    [-0.849729304, -1.246156023, 0.316473929],
    [-0.194484404, 0.776945424, 1.872537639],
    [0.803617009, -0.023240119, 0.531241641],
    [0.18321295, -1.118576903, -0.831922903],
    [0.449676992, 1.316178315, 0.72069714],
    [0.530424722, 0.472045602, 0.269742168],
    [-0.558683367, -1.235494673, 0.039373879],
    [0.234791986, 1.559388857, 0.720285304],
    [0.519746546, 1.033460504, -0.322578027],
    [0.010765894, -0.940905598, -0.814099091],
    [-0.08963691, 1.877265114, 0.757357461],
]
MATGL_PAIRS = [
    [0.956852809, 0.883505017],
    [0.978448475, 0.793650875],
    [0.941989579, 0.453510713],
    [0.968085765, 0.913821124],
    [0.95856106, 0.960276214],
    [0.965562532, 0.892440081],
    [0.916473324, 0.41695193],
    [0.893259454, 0.641962635],
    [0.21988235, 0.721617376],
    [0.35552924, 0.679585207],
    [0.349379197, 0.108968197],
    [0.21090939, -0.052273569],
]
MATGL_SITES = [[-0.646354592, 0.820875003], [-0.5885795, 0.636065621], [-0.242211888, -0.461537981]]
MATGL_STATE = [[0.66899263, 0.099090762], [0.532114159, 0.253110372]]


def waves(number, *shape):
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(0.7 * places + 1.3 * number).reshape(shape)


def weights(number, *shape):
    return 0.5 * waves(number, *shape)


def set_map(layer, weight, bias=None):
    """The weights of a linear map."""
    layer.weight.data = weight
    if layer.bias is not None:
        layer.bias.data = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias


def pairs_to(neighbor):
    ones = torch.ones(len(neighbor), dtype=torch.float64)
    return Pairs(CENTER, neighbor, torch.ones(len(neighbor), 3, dtype=torch.float64), ones)


def test_cgcnn_convolves_as_cgcnn2_does():
    layer = GatedConvolution(3, 2).double()
    layer.norm_message, layer.norm_site = nn.Identity(), nn.Identity()
    whole, bias = weights(0, 6, 8), weights(1, 6)
    for part, columns in zip(layer.gate_and_core.maps, torch.split(whole, [3, 3, 2], dim=1), strict=True):
        set_map(part, columns, bias)
    distances = waves(21, 3, 4, 2).reshape(12, 2)
    seen = Ends(torch.arange(12), distances, distances)
    found = layer(waves(20, 3, 3), pairs_to(NEIGHBOR), seen)
    np.testing.assert_allclose(found.detach(), CGCNN2, atol=2e-9)


def test_alignn_convolves_as_alignn_does():
    two = EdgeGatedConvolutions(3, 2).double()
    layer = two.layers[0]
    to_neighbor, to_center, edge = weights(0, 3, 3), weights(2, 3, 3), weights(4, 3, 3)
    bias = weights(1, 3) + weights(3, 3) + weights(5, 3)
    for part, matrix in zip(layer.gate.maps, (to_center, to_neighbor, edge), strict=True):
        set_map(part, matrix, bias)
    set_map(layer.own, weights(8, 3, 3), weights(9, 3))
    set_map(layer.others, weights(10, 3, 3), weights(11, 3))
    received = []
    two.layers[1].register_forward_pre_hook(lambda module, arguments: received.extend(arguments[:2]))
    two(waves(20, 3, 3), (waves(21, 12, 3), None), CENTER, NEIGHBOR)
    nodes, (edges, _) = received
    np.testing.assert_allclose(nodes.detach(), ALIGNN_NODES, atol=2e-9)
    np.testing.assert_allclose(edges.detach(), ALIGNN_EDGES, atol=2e-9)


class OneLayer(nn.Module):
    """A linear map and tanh of the parts in another order, as the recorded layer had it."""

    def __init__(self, number, order):
        super().__init__()
        self.number, self.order = number, order

    def forward(self, *parts):
        together = torch.cat([taken(*parts[place]) for place in self.order], dim=-1)
        return torch.tanh(together @ weights(self.number, 2, together.shape[1]).T + weights(self.number + 1, 2))


def test_megnet_updates_as_matgl_does():
    local, whole = LocalUpdate(2), StateUpdate(2)
    local.of_pair, local.of_site = OneLayer(0, (0, 1, 2, 3)), OneLayer(2, (1, 0, 2))
    whole.of_state = OneLayer(4, (2, 0, 1))
    graph, pairs = Graph(waves(21, 12, 2), waves(20, 3, 2), waves(22, 2, 2)), pairs_to(OWN_NEIGHBOR)
    news = local(graph, pairs, CRYSTAL)
    np.testing.assert_allclose(news.pairs, MATGL_PAIRS, atol=2e-9)
    np.testing.assert_allclose(news.sites, MATGL_SITES, atol=2e-9)
    np.testing.assert_allclose(whole(news, pairs, CRYSTAL) - graph.state, MATGL_STATE, atol=2e-9)
