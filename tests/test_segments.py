"""Ragged arithmetic against loops over sets."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.segments import (
    gather,
    offsets,
    paired_dot,
    ranges,
    rank_within,
    segment_logsumexp,
    segment_mean,
    segment_softmax,
    segment_sum,
    weighted_sum,
)

sizes_of_sets = st.lists(st.integers(0, 4), min_size=1, max_size=5)
seeds = st.integers(0, 2**32 - 1)


def parts_of(sizes, seed, width=3, shuffle=False):
    """Random values and weights for sets of these sizes, and who owns them."""
    rng = torch.Generator().manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    if shuffle:
        owner = owner[torch.randperm(len(owner), generator=rng)]
    values = torch.randn(len(owner), width, generator=rng, dtype=torch.float64)
    weight = torch.randint(1, 4, (len(owner),), generator=rng).double()
    return values, owner, weight


@given(sizes=sizes_of_sets, seed=seeds)
def test_sums_and_means_equal_loops(sizes, seed):
    values, owner, weight = parts_of(sizes, seed, shuffle=True)
    total = segment_sum(values, owner, len(sizes))
    mean = segment_mean(values, owner, len(sizes))
    weighted = segment_mean(values, owner, len(sizes), weight)
    for s in range(len(sizes)):
        members = [p for p in range(len(owner)) if owner[p] == s]
        expected = sum((values[p] for p in members), torch.zeros(3, dtype=torch.float64))
        torch.testing.assert_close(total[s], expected)
        torch.testing.assert_close(mean[s], expected / max(len(members), 1))
        repeated = [values[p] for p in members for _ in range(int(weight[p]))]
        assert not members or torch.allclose(weighted[s], torch.stack(repeated).mean(0))
        assert members or (weighted[s] == 0).all()


def test_sums_take_one_number_a_part_too():
    owner = torch.tensor([0, 0, 2])
    assert segment_sum(torch.tensor([1.0, 2.0, 4.0]), owner, 3).tolist() == [3.0, 0.0, 4.0]
    weight = torch.tensor([1.0, 3.0, 5.0])
    assert segment_mean(torch.tensor([1.0, 2.0, 4.0]), owner, 3, weight).tolist() == [1.75, 0.0, 4.0]


@given(sizes=sizes_of_sets, seed=seeds)
def test_softmax_with_counts_is_softmax_over_repeated_members(sizes, seed):
    values, owner, count = parts_of(sizes, seed, width=1, shuffle=True)
    logits = 5 * values[:, 0]
    share = segment_softmax(logits, owner, len(sizes), count)
    for p in range(len(owner)):
        rivals = [q for q in range(len(owner)) if owner[q] == owner[p]]
        bottom = sum(count[q].item() * math.exp(logits[q]) for q in rivals)
        assert share[p].item() == pytest.approx(count[p].item() * math.exp(logits[p]) / bottom)


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5), seed=seeds)
def test_logsumexp_with_counts_is_that_of_repeated_members(sizes, seed):
    values, owner, count = parts_of(sizes, seed, width=1, shuffle=True)
    found = segment_logsumexp(5 * values[:, 0], owner, len(sizes), count)
    for s in range(len(sizes)):
        total = sum(count[p].item() * math.exp(5 * values[p, 0]) for p in range(len(owner)) if owner[p] == s)
        assert found[s].item() == pytest.approx(math.log(total))


def test_softmax_of_large_logits_stays_finite():
    share = segment_softmax(torch.tensor([1e4, 1e4 - 1, -1e4]), torch.tensor([0, 0, 1]), 2, torch.ones(3))
    assert share.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 1.0])


@given(sizes=sizes_of_sets, starts=st.lists(st.integers(0, 9), min_size=5, max_size=5))
def test_offsets_and_ranges_equal_loops(sizes, starts):
    expected = [begin + i for begin, size in zip(starts, sizes, strict=False) for i in range(size)]
    assert ranges(torch.tensor(starts[: len(sizes)]), torch.tensor(sizes)).tolist() == expected
    assert offsets(torch.tensor(sizes)).tolist() == [sum(sizes[:i]) for i in range(len(sizes) + 1)]


@given(sizes=sizes_of_sets, seed=seeds)
def test_ranks_are_the_order_within_each_set(sizes, seed):
    _, owner, _ = parts_of(sizes, seed)
    keys = torch.rand(len(owner), generator=torch.Generator().manual_seed(seed))
    rank = rank_within(keys, owner, torch.tensor(sizes))
    for p in range(len(owner)):
        assert rank[p] == sum(1 for q in range(len(owner)) if owner[q] == owner[p] and keys[q] < keys[p])


def test_ranks_hold_for_many_owners():
    """A key must not get lost beside a large owner."""
    owner = torch.arange(50_000).repeat_interleave(2)
    keys = torch.tensor([0.5 + 2.0**-24, 0.5]).repeat(50_000)
    assert rank_within(keys, owner, torch.full((50_000,), 2)).reshape(-1, 2).unique(dim=0).tolist() == [[1, 0]]


@given(seed=seeds, n_parts=st.integers(0, 12))
def test_paired_dots_and_weighted_sums_equal_loops(seed, n_parts):
    rng = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(4, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    rows, owners = (torch.randint(4, (n_parts,), generator=rng) for _ in range(2))
    weight = torch.randn(n_parts, generator=rng, dtype=torch.float64)
    dots = paired_dot(left, right, rows, owners)
    assert dots.tolist() == pytest.approx([float(left[i] @ right[j]) for i, j in zip(rows, owners, strict=True)])
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for p in range(n_parts):
        expected[owners[p]] += weight[p] * left[rows[p]]
    torch.testing.assert_close(weighted_sum(left, rows, weight, owners, 4), expected)


def test_more_rows_than_a_chunk_holds_change_nothing():
    rng = torch.Generator().manual_seed(0)
    left, right = torch.randn(50, 64, generator=rng), torch.randn(40, 64, generator=rng)
    rows, owners = torch.randint(50, (20_000,), generator=rng), torch.randint(40, (20_000,), generator=rng)
    weight = torch.randn(20_000, generator=rng)
    expected = (left[rows] * right[owners]).sum(-1)
    torch.testing.assert_close(paired_dot(left, right, rows, owners), expected, atol=1e-4, rtol=1e-5)
    expected = torch.zeros(40, 64).index_add(0, owners, left[rows] * weight[:, None])
    torch.testing.assert_close(weighted_sum(left, rows, weight, owners, 40), expected, atol=1e-3, rtol=1e-4)


def differentiable():
    values, owner, weight = parts_of([2, 0, 3], seed=1)
    rows = torch.tensor([0, 4, 1, 1, 2])
    column = values[:, 0].clone()
    return {
        "gather": (lambda x: gather(x, rows), (values,)),
        "sum": (lambda x: segment_sum(x, owner, 3), (values,)),
        "mean": (lambda x, w: segment_mean(x, owner, 3, w), (values, weight)),
        "softmax": (lambda x, w: segment_softmax(x, owner, 3, w), (column, weight)),
        "logsumexp": (lambda x, w: segment_logsumexp(x, (owner + 1) // 2, 2, w), (column, weight)),
        "paired dot": (lambda x, y: paired_dot(x, y, rows, owner), (values, values.flip(0).clone())),
        "weighted sum": (lambda x, w: weighted_sum(x, rows, w, owner, 3), (values, weight)),
    }


@pytest.mark.parametrize("name", differentiable())
def test_gradients_equal_finite_differences(name):
    function, inputs = differentiable()[name]
    assert torch.autograd.gradcheck(function, [x.requires_grad_() for x in inputs])


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_are_the_same_bit_for_bit_every_time(threads):
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(500, 16, generator=rng, requires_grad=True)
    rows, owner = (torch.randint(500, (5_000,), generator=rng) for _ in range(2))
    weight = torch.rand(5_000, generator=rng)

    def gradient():
        gathered = segment_sum(gather(table, rows) * weight[:, None], owner, 500)
        chunked = weighted_sum(table, rows, weight, owner, 500)
        total = (gathered * chunked).sum() + paired_dot(table, chunked, rows, owner).square().sum()
        return torch.autograd.grad(total, table)[0]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first = gradient()
        assert all(torch.equal(first, gradient()) for _ in range(3))
    finally:
        torch.set_num_threads(before)
