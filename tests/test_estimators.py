"""Bounds of mutual information against their equations, and at points where they are known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.estimators import Estimator, InfoNCE, JensenShannon, Scores
from crystalmax.spec import build, describe
from reference.deep_infomax import info_nce, jensen_shannon

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


EQUATIONS = {JensenShannon(): jensen_shannon, InfoNCE(): info_nce}


@pytest.mark.parametrize("estimator", EQUATIONS, ids=repr)
@given(sets=sets_of_scores)
def test_it_equals_the_equation_set_by_set(estimator, sets):
    true, false = (flat(side) for side in zip(*sets, strict=True))
    loss = estimator.loss(true, false, len(sets))
    expected = [EQUATIONS[estimator](repeated(own), repeated(other)) for own, other in sets]
    assert loss.tolist() == pytest.approx(expected, abs=1e-8)


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
