"""The critic against the plain dot product of both whole networks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.encoding import Constituents, Widths
from crystalmax.objectives.critics import Critic, ProjectedDot
from crystalmax.spec import build, describe
from reference.deep_infomax import score


def critic():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ProjectedDot(Widths(constituent=3, summary=4), hidden=6, common=5).double()


def drawn(seed, n_parts):
    rng = torch.Generator().manual_seed(seed)
    summaries = torch.randn(3, 4, generator=rng, dtype=torch.float64)
    values = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    row, owner = torch.randint(5, (n_parts,), generator=rng), torch.randint(3, (n_parts,), generator=rng)
    return summaries, Constituents(values, row, owner, torch.ones(n_parts, dtype=torch.float64))


@given(seed=st.integers(0, 2**32 - 1), n_parts=st.integers(1, 8))
def test_scores_equal_the_dot_product_of_both_networks(seed, n_parts):
    summaries, parts = drawn(seed, n_parts)
    net = critic()
    scores = net(summaries, parts)
    for value, row, owner in zip(scores.tolist(), parts.row, parts.owner, strict=True):
        assert value == pytest.approx(score(net, summaries[owner].numpy(), parts.values[row].numpy()), abs=1e-12)


def test_gradients_equal_those_of_the_dot_product_of_both_networks():
    summaries, parts = drawn(1, 7)
    net = critic()
    plain = (net.summary(summaries)[parts.owner] * net.last(net.constituent(parts.values))[parts.row]).sum(-1)
    weights = list(net.parameters())
    expected = torch.autograd.grad(plain.square().sum(), weights)
    for found, wanted in zip(torch.autograd.grad(net(summaries, parts).square().sum(), weights), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_it_is_a_critic_and_survives_a_description():
    net = critic()
    assert isinstance(net, Critic)
    twin = build(describe(net))
    assert describe(twin) == describe(net)
    assert [tuple(p.shape) for p in twin.parameters()] == [tuple(p.shape) for p in net.parameters()]
