"""Noise on summaries against its equations."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from crystalmax.encoding import Widths
from crystalmax.objectives.regularizers import GaussianNoise, NoRegularizer, Regularizer, UniformPrior
from crystalmax.spec import build, describe
from reference.deep_infomax import divergence, noised

WIDTHS = Widths(constituent=2, summary=4)


def noise_layer(weight=None, bias=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = GaussianNoise(WIDTHS).double()
    if bias is not None:
        nn.init.constant_(layer.log_variance.weight, weight)
        nn.init.constant_(layer.log_variance.bias, bias)
    return layer


def summaries(n=6):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def rng(seed=1):
    return torch.Generator().manual_seed(seed)


def test_noise_and_penalty_equal_the_equations():
    layer, z = noise_layer(), summaries()
    seen, penalty = layer(z, rng())
    drawn = torch.randn(z.shape, generator=rng()).double().numpy()
    expected = [noised(layer, vector, noise) for vector, noise in zip(z.numpy(), drawn, strict=True)]
    np.testing.assert_allclose(seen.detach(), np.array(expected), atol=1e-12)
    assert penalty.tolist() == pytest.approx([divergence(layer, vector) for vector in z.numpy()], abs=1e-12)


def test_the_penalty_is_the_divergence_from_a_standard_normal():
    for log_variance in (-1.5, 0.0, 0.7):
        z = summaries(3)
        _, penalty = noise_layer(0.0, log_variance)(z, rng())
        own = torch.distributions.Normal(z, math.exp(0.5 * log_variance))
        expected = torch.distributions.kl_divergence(own, torch.distributions.Normal(torch.zeros_like(z), 1.0))
        torch.testing.assert_close(penalty, expected.mean(-1))


def test_the_penalty_is_zero_at_zero_with_unit_noise_and_nowhere_less():
    layer = noise_layer(0.0, 0.0)
    assert layer(torch.zeros(2, 4, dtype=torch.float64), rng())[1].tolist() == [0.0, 0.0]
    assert (noise_layer()(100 * summaries(), rng())[1] > 0).all()


def test_the_noise_has_the_learnt_size():
    layer = noise_layer(0.0, math.log(0.25))
    seen, _ = layer(torch.ones(20_000, 4, dtype=torch.float64), rng())
    assert seen.mean().item() == pytest.approx(1.0, abs=0.01)
    assert seen.std().item() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(("bias", "size"), [(1e4, math.exp(2)), (-1e4, math.exp(-5))])
def test_the_size_of_the_noise_has_limits(bias, size):
    zeros = torch.zeros(20_000, 4, dtype=torch.float64)
    seen, penalty = noise_layer(0.0, bias)(zeros, rng())
    assert seen.std().item() == pytest.approx(size, rel=0.01)
    assert torch.isfinite(penalty).all()


def test_chance_comes_from_the_generator_alone():
    layer, z = noise_layer(), summaries()
    assert torch.equal(layer(z, rng(1))[0], layer(z, rng(1))[0])
    assert not torch.equal(layer(z, rng(1))[0], layer(z, rng(2))[0])


def test_without_a_regularizer_nothing_happens():
    z, generator = summaries(), rng()
    before = generator.get_state()
    seen, penalty = NoRegularizer(WIDTHS)(z, generator)
    assert seen is z
    assert (penalty == 0).all()
    assert penalty.shape == (6,)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("kind", [GaussianNoise, NoRegularizer])
def test_they_are_regularizers_and_survive_a_description(kind):
    layer = kind(WIDTHS)
    assert isinstance(layer, Regularizer)
    twin = build(describe(layer))
    assert type(twin) is kind
    assert twin.widths == WIDTHS


def test_the_uniform_prior_is_free_where_columns_are_evenly_spread():
    even = ((torch.arange(8) + 0.5) / 8).logit()
    spread = torch.stack([even, even.flip(0), even.roll(3)], 1)
    prior = UniformPrior(Widths(2, 3))
    seen, penalty = prior(spread, torch.Generator())
    assert torch.equal(seen, spread)
    torch.testing.assert_close(penalty, torch.zeros(8), atol=1e-12, rtol=0)


def test_the_uniform_prior_pulls_a_collapsed_column_apart():
    collapsed = 0.01 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    learnt = collapsed.requires_grad_()
    prior, optimizer = UniformPrior(Widths(2, 4)), torch.optim.Adam([learnt], lr=0.1)
    first = prior(learnt, torch.Generator())[1].mean().item()
    assert first == pytest.approx(1 / 12, rel=0.05)  # the variance of the uniform distribution
    for _ in range(80):
        optimizer.zero_grad()
        prior(learnt, torch.Generator())[1].sum().backward()
        optimizer.step()
    assert prior(learnt, torch.Generator())[1].mean().item() < 0.02 * first
