"""Small networks applied to one vector, with the weights of torch modules."""

import math

import numpy as np
from torch import nn

from crystalmax.layers import Dense


def array(tensor):
    return tensor.detach().double().numpy()


def linear(layer, x):
    return array(layer.weight) @ x + array(layer.bias)


def softplus(x):
    return math.log1p(math.exp(-abs(x))) + max(x, 0.0)


def mish(x):
    return np.array([value * math.tanh(softplus(value)) for value in x])


def layer_norm(layer, x):
    centered = x - sum(x) / len(x)
    variance = sum(centered**2) / len(x)
    return array(layer.weight) * centered / math.sqrt(variance + layer.eps) + array(layer.bias)


def dense(layer, x):
    activated = mish(linear(layer, x))
    return activated if layer.norm is None else layer_norm(layer.norm, activated)


STEPS = {Dense: dense, nn.Linear: linear, nn.Mish: lambda layer, x: mish(x), nn.LayerNorm: layer_norm}


def run(layers, x):
    """Layer after layer."""
    for layer in layers if isinstance(layers, nn.Sequential | list) else [layers]:
        x = run(layer, x) if isinstance(layer, nn.Sequential) else STEPS[type(layer)](layer, x)
    return x
