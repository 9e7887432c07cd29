"""The loops in C against torch in float64: same numbers, same gradients."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax import native
from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import pair_network
from crystalmax.encoders.distances import GaussianBasis, ScaledDistance
from crystalmax.encoders.interpolation import between, interpolated
from crystalmax.encoders.pair_network import PairNetwork, distinct_triples, evaluated
from crystalmax.geometry import AllPairs
from crystalmax.layers import Dense
from crystalmax.samples.negatives import drawn_from_others
from crystalmax.segments import attention, distinct, paired_dot, weighted_sum
from crystalmax.spec import build, read_recipe, seeded_weights
from crystals import crystal, pure, random_crystals, some_crystals

pytestmark = pytest.mark.skipif(not native.usable(), reason="the loops were not compiled")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(function, *inputs, module=None, tolerance=1e-5):
    """Values and gradients in float32, where the loops are used, against float64, where they are not."""
    results = []
    for dtype in (torch.float32, torch.float64):
        typed = [x.to(dtype, copy=True) if x.is_floating_point() else x for x in inputs]
        learning = [x.requires_grad_() for x in typed if x.is_floating_point()]
        if module is not None:
            module.to(dtype).zero_grad()
        out = function(*typed)
        out = out if isinstance(out, tuple) else (out,)
        sum((part * random(*part.shape).to(dtype)).sum() for part in out).backward()
        results.append(
            [*out, *(x.grad for x in learning), *(p.grad for p in module.parameters())] if module else [*out]
        )
        if module is None:
            results[-1] += [x.grad for x in learning]
    for single, double in zip(*results, strict=True):
        assert ((single - double).norm() / double.norm().clamp_min(0.1)).item() < tolerance


@pytest.fixture
def calls(monkeypatch):
    """Names of the loops that were called."""
    names, run = [], native.run
    monkeypatch.setattr(native, "run", lambda name, *arguments: names.append(name) or run(name, *arguments))
    return names


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize(
    ("rows", "wide", "out"), [(1, 1, 16), (7, 10, 64), (4, 64, 64), (9, 32, 80), (2, 8, 1024), (0, 3, 16)]
)
def test_a_dense_layer_equals_torch(calls, rows, wide, out, norm):
    with seeded_weights(1):
        layer = Dense(wide, out, norm=norm)
    if rows:
        assert_same(layer, 3 * random(rows, wide), module=layer)
        assert {"dense_forward", "dense_backward"} <= set(calls)
    else:
        assert layer(random(rows, wide)).shape == (0, out)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_layer_wider_than_the_loops_have_room_for_is_left_to_torch(calls, norm, gradients):
    layer = Dense(16, 4096, norm=norm)
    with torch.set_grad_enabled(gradients):
        assert layer(random(5, 16)).shape == (5, 4096)
    assert calls == []


def test_mish_is_right_over_the_whole_range_of_float32():
    layer = Dense(1, 16, norm=False)
    torch.nn.init.ones_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    x = torch.cat([torch.linspace(-120, 120, 4801), torch.tensor([-1e4, 1e4, 0.0])])[:, None]
    with torch.no_grad():
        found, truth = layer(x)[:, :1], torch.nn.functional.mish(x.double())
    assert ((found - truth).abs() / truth.abs().clamp_min(1e-28)).max() < 3e-6
    assert layer(torch.tensor([[float("nan")]])).isnan().all()


def test_a_layer_of_another_width_is_left_to_torch(calls):
    layer = Dense(4, 10)
    layer(random(3, 4))
    assert calls == []


def dense_and_sparse():
    """Crystals of one element in general positions, so that there are many distances, beside a few others."""
    rng = np.random.default_rng(0)
    cells = [4.0 * np.eye(3) + rng.normal(scale=0.3, size=(3, 3)) for _ in range(12)]
    carbon = [crystal(f"c{i}", cell, rng.random((5, 3)), [0] * 5, pure("C")) for i, cell in enumerate(cells)]
    return AllPairs(max_sites=30)(CrystalBatch.collate([*carbon, *some_crystals()]))


@pytest.mark.parametrize("basis", [ScaledDistance(), GaussianBasis(width=8)])
def test_a_pair_network_equals_torch(calls, basis):
    batch = dense_and_sparse()
    triples = distinct_triples(batch.species, len(batch.kinds), batch.pairs)
    with seeded_weights(2):
        network = PairNetwork(basis, 16)
    assert_same(lambda species: network.read(species, triples)[:2], random(len(batch.kinds), 16), module=network)
    assert {"triples_forward", "triples_backward", "interpolate_forward", "interpolate_backward"} <= set(calls)


@pytest.mark.parametrize("basis", [ScaledDistance(), GaussianBasis(width=4)])
def test_knots_stand_in_for_crowded_distances(basis, monkeypatch):
    batch = dense_and_sparse()
    triples = distinct_triples(batch.species, len(batch.kinds), batch.pairs)
    rows = evaluated(triples, len(batch.kinds), basis.step, torch.float64)
    assert 2 * len(rows.center) < len(triples.center) == len(rows.order)
    with seeded_weights(2):
        network = PairNetwork(basis, 16).double()
    species = random(len(batch.kinds), 16).double()
    found = network.read(species, triples)
    monkeypatch.setattr(pair_network, "_CROWD", 10**9)
    exact = network.read(species, triples)
    for a, b in zip(found[:2], exact[:2], strict=True):
        torch.testing.assert_close(a[found[2]], b[exact[2]], atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize("basis", [ScaledDistance(), GaussianBasis(), GaussianBasis(width=8, start=0, stop=6)])
def test_interpolation_between_knots_is_exact_to_float32(basis):
    with seeded_weights(3):
        network = PairNetwork(basis, 64).double()
    distance = torch.linspace(0.01, 14, 3001, dtype=torch.float64)
    at = (torch.arange(int(14 / basis.step) + 4, dtype=torch.float64) - 1) * basis.step
    knots, exact = (network.parts["distance"](network.embed_distance(basis(d))) for d in (at, distance))
    found = interpolated(knots, between(distance / basis.step, torch.float64))
    assert (found - exact).abs().max() < 1e-6 * exact.abs().max()


@given(sizes=st.lists(st.integers(1, 5), min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_draws_from_other_crystals_equal_those_of_torch(sizes, seed):
    rng = torch.Generator().manual_seed(seed)
    of_part = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    weight = torch.randint(1, 4, (len(of_part),), generator=rng).double()
    chance = torch.rand(len(of_part), generator=rng, dtype=torch.float64)
    single, double = (drawn_from_others(w, of_part, chance, len(sizes)) for w in (weight.float(), weight))
    assert torch.equal(single, double)
    assert (of_part[single] != of_part).all()


@pytest.mark.parametrize("weights", [[0.0] * 4, [-1.0] * 4, [1.0, -3.0, 0.5, 1.0], [torch.nan, 1.0, 1.0, 1.0]])
def test_weights_that_are_none_draw_rows_that_there_are(weights):
    of_part = torch.tensor([0, 0, 1, 1])
    chance = torch.tensor([0.1, 0.6, 0.3, 0.9], dtype=torch.float64)
    drawn = drawn_from_others(torch.tensor(weights), of_part, chance, 2)
    assert 0 <= drawn.min() <= drawn.max() < 4


@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_attention_and_sums_equal_torch(sizes, seed):
    rng = torch.Generator().manual_seed(seed)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    row = torch.randint(0, 4, (len(owner),), generator=rng)
    count = torch.randint(1, 4, (len(owner),), generator=rng).double()
    logits, values = 5 * random(4, seed=seed), random(4, 6, seed=seed + 1)
    assert_same(lambda a, b: attention(a, b, row, owner, count.to(a.dtype), len(sizes)), logits, values)
    weights, others = random(len(owner), seed=seed + 2), random(len(sizes), 6, seed=seed + 3)
    assert_same(lambda v, w: weighted_sum(v, row, w, owner, len(sizes)), values, weights)
    assert_same(lambda v, w: paired_dot(v, w, row, owner), values, others)


@given(keys=st.lists(st.integers(0, 2**60) | st.integers(0, 3), max_size=40))
def test_distinct_keys_are_numbered(keys):
    keys = torch.tensor(keys, dtype=torch.int64)
    found, number = distinct(keys)
    assert torch.equal(found[number], keys)
    assert sorted(found.tolist()) == sorted(set(keys.tolist()))


@given(crystals=st.lists(random_crystals(), min_size=1, max_size=4), max_sites=st.integers(2, 60))
def test_pairs_equal_those_of_torch(crystals, max_sites):
    batch, geometry = CrystalBatch.collate(crystals), AllPairs(max_sites=max_sites)
    found, expected = geometry._native(batch), geometry._in_torch(batch)
    for name in ("center", "neighbor", "count"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    torch.testing.assert_close(found.distance, expected.distance, atol=2e-6, rtol=0)


@pytest.mark.parametrize("recipe", ["paper", "infomax"])
def test_losses_and_gradients_equal_those_in_float64(calls, recipe):
    """Within 1e-5 of the plain implementation, as in `reference`, which other tests hold torch in float64 against."""
    batch = AllPairs()(CrystalBatch.collate(some_crystals()))
    plan = read_recipe(recipe)["objective"]
    plan["regularizer"] = {"use": "NoRegularizer", "later": True}  # noise would be drawn anew for each precision
    with seeded_weights(4):
        objective = build(plan)
    found = []
    for dtype in (torch.float32, torch.float64):
        objective.to(dtype).zero_grad()
        pairs = batch.pairs
        typed = {name: getattr(pairs, name).to(dtype) for name in ("displacement", "count")}
        typed_batch = type(batch)(
            **{**vars(batch), "kinds": batch.kinds.to(dtype), "pairs": type(pairs)(**{**vars(pairs), **typed})}
        )
        terms = objective(typed_batch, torch.Generator().manual_seed(5))
        sum(terms.values()).backward()
        found.append((terms, {name: p.grad for name, p in objective.named_parameters()}))
    (losses, gradients), (exact_losses, exact_gradients) = found
    for name, value in losses.items():
        assert value.item() == pytest.approx(exact_losses[name].item(), rel=1e-5, abs=1e-9)
    norm = torch.stack([g.square().sum() for g in exact_gradients.values() if g is not None]).sum().sqrt()
    for name, gradient in exact_gradients.items():
        if gradient is not None:
            assert ((gradients[name] - gradient).norm() / norm).item() < 1e-5, name
    assert {"triples_backward", "dense_backward", "attention_backward", "weighted_sum", "paired_dot"} <= set(calls)


def test_the_loops_can_be_turned_off():
    script = "from crystalmax import native; print(native.usable())"
    environment = {**os.environ, "CRYSTALMAX_NATIVE": "0"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"


def test_indices_of_32_bits_are_refused_before_a_loop_reads_beyond_them():
    row = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(TypeError, match=r"shape \(4,\) is of torch.int32; rows, owners and sites take torch.int64"):
        paired_dot(random(2, 3), random(2, 3), row, row.int())


@pytest.mark.parametrize("wrong", [-1, 4, 2**60])
def test_rows_and_sets_that_there_are_not_are_refused_by_the_loops_themselves(wrong):
    values, row, owner, weight = random(4, 6), torch.arange(4), torch.arange(4), torch.ones(4)
    spoilt = torch.tensor([0, 1, wrong, 3])
    calls = {
        "attention": lambda row, owner: attention(weight, values, row, owner, weight, 4),
        "sums": lambda row, owner: weighted_sum(values, row, weight, owner, 4),
        "dots": lambda row, owner: paired_dot(values, values, row, owner),
    }
    for call in calls.values():
        for rows, owners in ((spoilt, owner), (row, spoilt)):
            with pytest.raises(ValueError, match="part 2 has a row or a set that does not exist"):
                call(rows, owners)


def test_arrays_that_the_loops_do_not_take_are_named_so():
    assert native.usable(torch.zeros(2, 3))
    assert not native.usable(torch.zeros(2, 3, dtype=torch.float64))
    assert not native.usable(torch.zeros(2, native.MOST_WIDTH + 1))
    assert not native.usable(torch.zeros(2, 3, device="meta"))
    assert np.isfinite(native.LANES)
