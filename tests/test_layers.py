"""Layers that encoders share."""

import re
from functools import partial

import numpy as np
import pytest
import torch

from crystalmax.encoders import SiteNet
from crystalmax.encoders.distances import DistanceBasis, GaussianBasis, ScaledDistance
from crystalmax.layers import perceptron
from crystalmax.spec import build, describe
from reference.networks import run


def test_a_perceptron_is_linear_then_mish_then_layer_norm():
    layers = perceptron([3, 5, 2]).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(layers(x).detach(), [run(layers, row) for row in x.numpy()], atol=1e-12)
    assert [type(layer).__name__ for layer in layers] == ["Dense"] * 2


def test_a_scaled_distance_is_of_order_one():
    basis = ScaledDistance(center=4.0, scale=2.0)
    assert basis(torch.tensor([2.0, 4.0, 7.0])).tolist() == [[-1.0], [0.0], [1.5]]
    assert basis.width == 1


def test_gaussians_stand_at_equal_steps_as_wide_as_a_step():
    basis = GaussianBasis(width=4, start=1.0, stop=7.0)
    values = basis(torch.tensor([3.0, 4.0]))
    assert values[0].tolist() == pytest.approx([np.exp(-0.5), 1.0, np.exp(-0.5), np.exp(-2.0)])
    assert values[1].tolist() == pytest.approx([np.exp(-0.5 * x**2) for x in (1.5, 0.5, 0.5, 1.5)])


class Backwards(ScaledDistance):
    def __init__(self):
        super().__init__()
        self.step = -0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(GaussianBasis, width=1), "1 Gaussians from 0.5 to 10.0 are no basis; give 2 or more,"),
        (partial(GaussianBasis, start=5.0, stop=1.0), "32 Gaussians from 5.0 to 1.0 are no basis"),
        (partial(ScaledDistance, scale=0.0), "distances cannot be divided by 0.0 angstrom; give a scale above 0"),
        (lambda: SiteNet(distance=Backwards()), "Backwards has the step -0.05; give a length above 0 angstrom"),
    ],
)
def test_a_basis_whose_knots_do_not_rise_is_refused(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize("basis", [ScaledDistance(center=3.0), GaussianBasis(width=6, start=0.0, stop=5.0)])
def test_bases_keep_their_promise_and_survive_a_description(basis):
    assert isinstance(basis, DistanceBasis)
    distance = torch.linspace(0.1, 9.0, 7)
    assert basis(distance).shape == (7, basis.width)
    twin = build(describe(basis))
    assert torch.equal(twin(distance), basis(distance))
    assert not basis.state_dict()
