"""Bounds of mutual information against their equations, and at points where they are known."""

import importlib.util
import json
import math
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.objectives.estimators import NWJ, DonskerVaradhan, Estimator, InfoNCE, JensenShannon, Scores, Smile
from crystalmax.spec import build, describe
from reference.bounds import donsker_varadhan, nwj, smile
from reference.deep_infomax import info_nce, jensen_shannon

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

score = st.floats(-20, 20)
sets_of_scores = st.lists(
    st.tuples(
        st.lists(st.tuples(score, st.integers(1, 3)), min_size=1, max_size=4),
        st.lists(st.tuples(score, st.integers(1, 3)), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def flat(sets):
    rows = [(value, owner, weight) for owner, members in enumerate(sets) for value, weight in members]
    values, owner, weight = zip(*rows, strict=True)
    return Scores(
        torch.tensor(values, dtype=torch.float64), torch.tensor(owner), torch.tensor(weight, dtype=torch.float64)
    )


def repeated(members):
    return [value for value, weight in members for _ in range(weight)]


EQUATIONS = {
    JensenShannon(): jensen_shannon,
    InfoNCE(): info_nce,
    NWJ(): nwj,
    DonskerVaradhan(): donsker_varadhan,
    Smile(): partial(smile, tau=5.0),
    Smile(clip=0.5): partial(smile, tau=0.5),
}


@pytest.mark.parametrize("estimator", EQUATIONS, ids=repr)
@given(sets=sets_of_scores)
def test_it_equals_the_equation_set_by_set(estimator, sets):
    true, false = (flat(side) for side in zip(*sets, strict=True))
    loss = estimator.loss(true, false, len(sets))
    expected = [EQUATIONS[estimator](repeated(own), repeated(other)) for own, other in sets]
    assert loss.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-8)


def test_zero_scores_give_2_ln_2_and_right_ones_nothing():
    owner, weight = torch.tensor([0, 0, 1]), torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)

    def loss(true, false):
        columns = [torch.full((3,), value, dtype=torch.float64) for value in (true, false)]
        return JensenShannon().loss(*(Scores(column, owner, weight) for column in columns), 2).tolist()

    assert loss(0.0, 0.0) == pytest.approx([2 * math.log(2)] * 2, abs=1e-15)
    assert loss(50.0, -50.0) == pytest.approx([0.0, 0.0], abs=1e-15)
    assert loss(-50.0, 50.0) == pytest.approx([100.0, 100.0])


def test_k_equal_rivals_give_ln_of_k_plus_1():
    true = Scores(torch.zeros(1, dtype=torch.float64), torch.tensor([0]), torch.ones(1, dtype=torch.float64))
    weight = torch.tensor([1.0, 4.0, 2.0], dtype=torch.float64)
    false = Scores(torch.zeros(3, dtype=torch.float64), torch.tensor([0, 0, 0]), weight)
    assert InfoNCE().loss(true, false, 1).item() == pytest.approx(math.log(8), abs=1e-15)


def one_set(values):
    values = torch.tensor(values, dtype=torch.float32).requires_grad_()
    return Scores(values, torch.zeros(len(values), dtype=torch.int64), torch.ones(len(values)))


@pytest.mark.parametrize("estimator", EQUATIONS, ids=repr)
def test_chance_is_the_loss_of_a_critic_that_always_says_0(estimator):
    for n_false in (1, 6):
        loss = estimator.loss(one_set([0.0, 0.0]), one_set([0.0] * n_false), 1).item()
        expected = math.log(n_false + 1) if estimator.chance is None else estimator.chance
        assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("estimator", EQUATIONS, ids=repr)
@given(true=st.lists(score, min_size=1, max_size=4), false=st.lists(score, min_size=2, max_size=4))
def test_only_a_mean_over_false_constituents_is_kept_by_drawing_a_few(estimator, true, false):
    def loss(values):
        return estimator.loss(one_set(true), one_set(values), 1).item()

    whole, mean = loss(false), sum(loss([value]) for value in false) / len(false)
    if estimator.mean_over_false:
        assert mean == pytest.approx(whole, rel=1e-4, abs=1e-4)
    apart = [-4.0, 4.0]
    kept = math.isclose(sum(map(lambda value: loss([value]), apart)) / 2, loss(apart), rel_tol=1e-3)
    assert kept == estimator.mean_over_false


@pytest.mark.parametrize("estimator", EQUATIONS, ids=repr)
def test_scores_that_have_run_away_give_finite_losses_that_pull_them_back(estimator):
    true, false = one_set([-1e4, 3.0]), one_set([1e4, 500.0, -1e4])
    loss = estimator.loss(true, false, 1)
    up, down = torch.autograd.grad(loss.sum(), (true.values, false.values))
    assert torch.isfinite(loss).all()
    assert torch.isfinite(up).all()
    assert torch.isfinite(down).all()
    assert up[0] < 0 < down[0]


@pytest.mark.parametrize("estimator", EQUATIONS, ids=repr)
def test_a_set_without_false_constituents_costs_nothing_and_teaches_nothing(estimator):
    values = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    true = Scores(values, torch.tensor([0, 1, 1]), torch.ones(3))
    false = Scores(values[:1].detach() - 1.5, torch.tensor([0]), torch.ones(1))
    loss = estimator.loss(true, false, 2)
    assert loss[0] != 0
    assert loss[1] == 0
    (slope,) = torch.autograd.grad(loss.sum(), values)
    assert torch.isfinite(slope).all()
    assert slope[1:].tolist() == [0.0, 0.0]


def test_the_slope_of_nwj_is_that_of_its_equation():
    true, false = one_set([0.0]), one_set([-6.0, 0.5, 12.0, 29.0])
    (slope,) = torch.autograd.grad(NWJ().loss(true, false, 1).sum(), false.values)
    assert slope.tolist() == pytest.approx([math.exp(value) / 4 for value in false.values.tolist()], rel=1e-5)


def test_nwj_beyond_its_tangent_stays_above_the_largest_loss_within():
    losses = [NWJ().loss(one_set([0.0]), one_set([value]), 1).item() for value in (29.0, 30.0, 31.0, 100.0, 1e4)]
    assert losses == sorted(losses)
    assert losses[1] == pytest.approx(math.exp(30), rel=1e-5)
    assert losses[2] == pytest.approx(2 * math.exp(30), rel=1e-5)


def test_smile_learns_as_jensen_shannon_does():
    slopes = []
    for estimator in (Smile(clip=1.0), JensenShannon()):
        true, false = one_set([0.3, 7.0]), one_set([-4.0, 0.2, 9.0])
        slopes.append(torch.autograd.grad(estimator.loss(true, false, 1).sum(), (true.values, false.values)))
    for smile_slope, other in zip(*slopes, strict=True):
        assert torch.equal(smile_slope, other)


def test_smile_without_room_for_scores_is_refused():
    with pytest.raises(ValueError, match="with clip = 0; give a number above 0"):
        Smile(clip=0)


@pytest.mark.parametrize("estimator", EQUATIONS, ids=repr)
def test_raising_a_true_score_lowers_the_loss_and_raising_a_false_one_raises_it(estimator):
    owner, weight = torch.tensor([0]), torch.ones(1)
    true, false = torch.tensor([0.3], requires_grad=True), torch.tensor([-0.2], requires_grad=True)
    loss = estimator.loss(Scores(true, owner, weight), Scores(false, owner, weight), 1)
    up, down = torch.autograd.grad(loss.sum(), (true, false))
    assert up < 0 < down


@pytest.mark.parametrize("estimator", EQUATIONS, ids=repr)
def test_it_is_an_estimator_and_survives_a_description(estimator):
    assert isinstance(estimator, Estimator)
    assert build(describe(estimator)) == estimator


def test_a_function_is_not_an_estimator():
    assert not isinstance(lambda true, false, wholes: None, Estimator)


@pytest.fixture(scope="module")
def benchmark():
    """The benchmark's own functions, with small sizes."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("estimators_benchmark", BENCHMARKS / "estimators.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


SMALL = {"rows": 64, "batches": 8, "rows_read": 256, "steps": 150}


def test_the_exact_critic_shows_the_true_information_whatever_reads_it(benchmark):
    run = benchmark.Run(**SMALL)
    for nats in (0.5, 1.5):
        for reading in benchmark.READINGS[1:5]:
            found = benchmark.nats_read(benchmark.exact(nats), reading.read_by, nats, run)
            assert found == pytest.approx(nats, rel=benchmark.TOLERANCE), reading.name


def test_no_critic_shows_more_than_ln_4_nats_by_infonce_with_3_false(benchmark):
    run = benchmark.Run(**SMALL)
    nearly, little = (benchmark.nats_read(benchmark.exact(nats), InfoNCE(), nats, run, 3) for nats in (12.0, 0.5))
    assert 0.9 * math.log(4) < nearly < math.log(4)
    assert 0 < little < 0.5


def test_each_estimator_trains_a_critic_that_shows_one_nat_within_a_tenth(benchmark):
    rows = benchmark.measured(benchmark.READINGS, (1.0,), benchmark.Run(**SMALL))
    assert {row["reading"] for row in rows} == {reading.name for reading in benchmark.READINGS}
    for row in rows:
        assert abs(row["off"]) < benchmark.TOLERANCE, row


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_an_estimator_that_is_off_is_caught(benchmark, factor):
    class Off:
        def loss(self, true, false, wholes):
            return factor * NWJ().loss(true, false, wholes)

    found = benchmark.nats_read(benchmark.exact(1.0), Off(), 1.0, benchmark.Run(**SMALL))
    assert abs(found - 1) > benchmark.TOLERANCE


def test_what_is_published_is_within_the_tolerance(benchmark):
    stored = json.loads((BENCHMARKS / "results" / "estimators.json").read_text(encoding="utf-8"))
    assert {(row["reading"], row["nats"]) for row in stored["rows"]} == {
        (reading.name, nats) for reading in benchmark.READINGS for nats in benchmark.NATS
    }
    assert all(abs(row["found"] / row["expected"] - 1) < benchmark.TOLERANCE for row in stored["rows"])
