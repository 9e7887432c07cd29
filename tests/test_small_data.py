"""The regressor for few labels: each member against a naive computation, the mixture, and what is promised of both."""

import math
import pickle
import tracemalloc
import warnings
from dataclasses import dataclass, replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import NotFittedError
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler

from crystalmax import SmallDataRegressor
from crystalmax.few_labels import small_data
from crystalmax.few_labels.kernels import PRIORS
from crystalmax.few_labels.quantile_models import (
    LEVELS,
    Forest,
    Hurdle,
    Member,
    Process,
    left_out,
    mixture,
    value_of_many,
)
from crystalmax.few_labels.small_data import (
    ANEW,
    MASSES,
    PLACES,
    SHARPNESS,
    STEPS,
    _between,
    _ends,
    _parts,
    numbers_of,
    weighed_shares,
)

MIDDLE = len(LEVELS) // 2


def smooth(n, seed=0, noise=0.1):
    """A smooth function of four columns."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)) * [1, 10, 0.1, 1]
    return X, X[:, 0] + np.sin(X[:, 1] / 10) + 5 * X[:, 2] + noise * rng.normal(size=n)


def steps(n, seed=0):
    """A function of steps, mostly nothing, as band gaps are."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n, 4))
    return X, np.where((X[:, 0] > 0.2) & (X[:, 1] > -0.5), 2 + rng.exponential(size=n), 0.0)


def alike(n):
    """A smooth function in which four columns have the same part."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 4))
    return X, np.sin(X.sum(axis=1)) + rng.normal(size=n)


def weighted_quantile(values, weights, level):
    """The least value with so much weight at it and below."""
    reached = 0.0
    for value, weight in sorted(zip(values, weights, strict=True)):
        reached += weight
        if reached >= level - 1e-9:
            return value
    raise AssertionError("weights sum to less than the level")


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_a_mixture_is_a_weighted_set_of_quantiles(seed):
    rng = np.random.default_rng(seed)
    members = [np.sort(rng.normal(size=(3, len(LEVELS))).round(1), axis=1) for _ in range(3)]
    shares = rng.dirichlet(np.ones(3)) * (rng.random(3) < 0.7)
    shares = tuple(shares / shares.sum()) if shares.any() else (0.0, 1.0, 0.0)
    levels = [0.05, 0.5, 0.95]
    found = mixture(members, shares, levels)
    weights = np.repeat(shares, len(LEVELS)) / len(LEVELS)
    for row in range(3):
        points = np.concatenate([member[row] for member in members])
        assert found[row].tolist() == [weighted_quantile(points, weights, level) for level in levels]


def test_one_member_alone_keeps_its_quantiles():
    member = np.sort(np.random.default_rng(0).normal(size=(4, len(LEVELS))), axis=1)
    np.testing.assert_array_equal(mixture([member, -member], (1.0, 0.0), LEVELS.tolist()), member)


def test_a_mixture_ends_at_its_least_and_greatest_point_however_its_weights_round():
    members = [np.sort(np.random.default_rng(seed).normal(size=(40, len(LEVELS))), axis=1) for seed in range(5)]
    for shares in ((0.5, 0.25, 0.25, 0.0, 0.0), (0.7, 0.1, 0.1, 0.05, 0.05)):  # summed to less than 1, and to more
        used = np.concatenate([member for member, share in zip(members, shares, strict=True) if share], axis=1)
        expected = np.stack([used.min(axis=1), used.max(axis=1)], axis=1)
        np.testing.assert_array_equal(mixture(members, shares, [0.0, 1.0]), expected)


def test_quantiles_of_the_forest_are_those_of_labels_in_the_same_leaves():
    (X, y), (unseen, _) = steps(60), steps(9, seed=1)
    forest = Forest.fit(X, y, trees=7, seed=3)
    found = forest.quantiles(unseen)
    order = np.argsort(y, kind="stable")
    grown = ExtraTreesRegressor(7, max_features=1 / 3, random_state=3).fit(X[order], y[order])
    for row in range(len(unseen)):
        weights = np.zeros(len(y))
        for tree in grown.estimators_:
            same = tree.apply(X.astype(np.float32)) == tree.apply(unseen[row : row + 1].astype(np.float32))
            weights[same] += 1 / same.sum() / 7
        expected = [weighted_quantile(y, weights, level) for level in LEVELS]
        np.testing.assert_allclose(found[row], expected)


def test_a_forest_may_split_by_transformed_labels_and_tells_labels_as_they_are():
    (X, y), (unseen, _) = steps(60), steps(9, seed=1)
    y = np.exp(3 * y)
    plain, transformed = (Forest.fit(X, y, 7, 3, powers=powers) for powers in (False, True))
    normal = PowerTransformer().fit_transform(y[:, None])[:, 0]
    same = Forest.fit(X, normal, 7, 3)
    ranks = {float(value): float(label) for value, label in zip(normal, y, strict=True)}
    expected = [[ranks[float(value)] for value in row] for row in same.quantiles(unseen)]
    np.testing.assert_array_equal(transformed.quantiles(unseen), expected)
    assert (transformed.quantiles(unseen) != plain.quantiles(unseen)).any()


def test_a_process_leaves_labels_out_as_if_it_had_never_seen_them():
    X, y = smooth(40)
    process = Process.fit(X, y, (4,))
    parts = [np.arange(0, 40, 3), np.arange(1, 40, 3), np.arange(2, 40, 3)]
    found = process.left_out(parts)
    for held in parts:
        kept = np.setdiff1d(np.arange(40), held)
        again = clone(process.process).set_params(kernel=process.process.kernel_)
        inputs = np.clip(process.scaler.transform(X), -4, 4)
        again.fit(inputs[kept], process.process.y_train_[kept])
        mean, deviation = again.predict(inputs[held], return_std=True)
        np.testing.assert_allclose(found[held][:, MIDDLE], process.middle + process.spread * mean, atol=1e-6)
        width = (found[held][:, -1] - found[held][:, 0]) / process.spread
        np.testing.assert_allclose(width / deviation, 2 * norm.ppf(LEVELS[-1]), rtol=1e-3)


def test_a_process_keeps_no_distances_of_the_search_for_its_hyperparameters():
    X = np.random.default_rng(0).normal(size=(100, 8))
    process = Process.fit(X, X.sum(axis=1), (1,) * 8)
    assert len(pickle.dumps(process)) < 2 * 8 * 100**2  # a matrix between all rows, not one for each block


@pytest.mark.parametrize("labels", [smooth, steps])
def test_of_two_likely_scales_a_process_takes_those_that_tell_each_label_best_from_the_others(labels, monkeypatch):
    X, y = labels(40)
    process, each, surprises = Process.fit(X, y, (1, 3)), [], []
    inputs, told = process.process.X_train_, process.process.y_train_
    for prior in PRIORS:
        monkeypatch.setattr("crystalmax.few_labels.quantile_models.PRIORS", (prior,))
        each.append(Process.fit(X, y, (1, 3)).process.kernel_)
        again = GaussianProcessRegressor(each[-1], alpha=1e-6, optimizer=None)
        alone = 0.0
        for row in range(40):
            kept = np.arange(40) != row
            mean, deviation = again.fit(inputs[kept], told[kept]).predict(inputs[[row]], return_std=True)
            alone -= norm.logpdf(told[row], mean[0], np.sqrt(deviation[0] ** 2 + 1e-6))
        surprises.append(alone)
    assert surprises[0] != pytest.approx(surprises[1], rel=1e-3)
    np.testing.assert_array_equal(process.process.kernel_.theta, each[int(np.argmin(surprises))].theta)
    monkeypatch.setattr("crystalmax.few_labels.quantile_models.PRIORS", PRIORS)
    monkeypatch.setattr("crystalmax.few_labels.quantile_models.FEW", 40)
    np.testing.assert_array_equal(Process.fit(X, y, (1, 3)).process.kernel_.theta, process.process.kernel_.theta)
    monkeypatch.setattr("crystalmax.few_labels.quantile_models.FEW", 39)
    of_many = Process.fit(X, y, (1, 3)).process.kernel_
    monkeypatch.setattr("crystalmax.few_labels.quantile_models.PRIORS", PRIORS[:1])
    np.testing.assert_array_equal(of_many.theta, Process.fit(X, y, (1, 3)).process.kernel_.theta)


def test_told_apart_columns_have_scales_near_that_of_their_block_found_anew_without_labels_left_out():
    X, y = smooth(80)
    plain = Process.fit(X, y, (1, 3))
    apart = plain.apart.again(X, y)
    scales = np.exp(apart.likely.theta[-4:])
    assert (plain.likely.theta[-4:] == 0).all()
    assert scales.max() / scales.min() > 1.2
    fewer = apart.again(X[:60], y[:60])
    assert np.abs(fewer.likely.theta - apart.likely.theta).max() > 0.01
    inputs, labels = fewer.process.X_train_, fewer.process.y_train_
    order = np.random.default_rng(0).permutation(60)
    expected = apart.likely.search(inputs[order], labels[order]).theta
    np.testing.assert_allclose(fewer.likely.theta, expected)


def test_many_labels_tell_columns_apart_where_those_left_out_are_foretold_better_so():
    taken = set()
    for labels, noise in ((smooth, 20), (alike, 0), (steps, 0)):
        X, y = labels(160)
        X = np.column_stack([X, np.random.default_rng(0).normal(size=(160, noise))])
        regressor = SmallDataRegressor(4).fit(X, y)
        y, seed = regressor.labels_, int(np.random.default_rng(0).integers(2**31))
        parts = _parts(np.arange(160), seed)
        plain = [Process.fit(X, y, (4 + noise,), powers=powers, seed=seed) for powers in (False, True)]
        plain += [Hurdle.fit(X, y, 0.0, (4 + noise,), seed=seed)] if labels is steps else []
        for one, member, said in zip(plain, regressor.members_[2:], regressor.left_out_[2:], strict=True):
            apart = one.apart.again(X, y)
            first = one.left_out(parts) if isinstance(one, Process) else left_out(one.again, X, y, parts)
            both = [first, left_out(apart.again, X, y, parts)]
            missed = [np.abs(each[:, MIDDLE] - y) for each in both]
            most = 3 * np.quantile(min(missed, key=np.mean), 0.95)
            better = int(np.argmin([np.minimum(each, most).mean() for each in missed]))
            np.testing.assert_array_equal(said, both[better])
            np.testing.assert_array_equal(member.quantiles(X), (one, apart)[better].quantiles(X))
            taken.add(better)
    assert taken == {0, 1}


def test_a_few_labels_tell_no_columns_apart():
    X, y = smooth(150)
    assert [member.likely.apart for member in SmallDataRegressor(4).fit(X, y).members_[2:]] == [False, False]


def test_transformed_labels_come_back_in_their_units_and_stay_among_the_labels():
    X, y = smooth(60)
    y = np.exp(2 * y)
    process = Process.fit(X, y, (4,), powers=True)
    found = process.quantiles(np.concatenate([X, 100 * X]))
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert np.abs(found[:60, MIDDLE] - y).mean() < 0.5 * np.abs(np.median(y) - y).mean()
    assert found.min() >= y.min() * 0.999
    assert found.max() <= y.max() * 1.001


@pytest.mark.parametrize("value", [0.0, 1.7, 9.0])
def test_a_hurdle_weighs_the_value_of_many_with_its_probability(value):
    X, y = steps(70)
    y = np.where(y == 0, value, y)
    hurdle = Hurdle.fit(X, y, value, (4,))
    mean, deviation = hurdle.differs.process.predict(
        np.clip(hurdle.differs.scaler.transform(X), -4, 4), return_std=True
    )
    signs = np.where(y == value, -1, 1)
    probability = norm.cdf((signs.mean() + signs.std() * mean) / (signs.std() * deviation))
    others = hurdle.others.quantiles(X)
    low, high = value if value <= y.min() else -np.inf, value if value >= y.max() else np.inf
    for row, found in enumerate(hurdle.quantiles(X)):
        points = [value, *np.clip(others[row], low, high)]
        weights = [1 - probability[row], *[probability[row] / len(LEVELS)] * len(LEVELS)]
        assert found.tolist() == [weighted_quantile(points, weights, level) for level in LEVELS]


@pytest.mark.parametrize("scale", [lambda y: y, lambda y: np.exp(4 * y)])
def test_a_hurdle_learns_other_labels_on_the_scale_that_tells_them_better(scale):
    X, y = smooth(60)
    y = np.where(X[:, 3] > 0, 0.0, 100 + scale(y))
    hurdle, other = Hurdle.fit(X, y, 0.0, (4,)), y != 0
    errors = []
    for powers in (False, True):
        known = Process.fit(X[other], y[other], (4,), powers=powers)
        each = [np.array([n]) for n in range(other.sum())]
        errors.append(np.abs(known.left_out(each)[:, MIDDLE] - y[other]).mean())
    assert (hurdle.others.powers is not None) == (errors[1] < errors[0])


@pytest.mark.parametrize("sign", [1, -1])
def test_a_hurdle_says_nothing_beyond_a_value_that_no_label_is_beyond(sign):
    X, y = steps(70)
    hurdle = Hurdle.fit(X, sign * np.abs(y), 0.0, (4,))
    wide = Process.fit(X, np.random.default_rng(0).normal(size=70), (4,))
    others, said = sign * wide.quantiles(X), sign * replace(hurdle, others=wide).quantiles(X)
    assert others.min() < -0.5
    assert said.min() == 0
    assert said.max() > 0.5


def test_a_hurdle_with_the_same_hyperparameters_and_labels_is_the_same():
    X, y = steps(70)
    hurdle = Hurdle.fit(X, y, 0.0, (4,))
    again = hurdle.again(X, y)
    np.testing.assert_allclose(again.quantiles(X), hurdle.quantiles(X), atol=1e-9)
    fewer = hurdle.again(X[:50], y[:50])
    assert fewer.differs.process.kernel_ == hurdle.differs.process.kernel_
    assert len(fewer.differs.process.y_train_) == 50
    assert len(fewer.others.process.y_train_) == (y[:50] != 0).sum()


def test_a_value_of_many_is_one_that_enough_labels_have_and_enough_have_not():
    def found(n_equal, n_others, parts):
        return value_of_many(np.concatenate([np.zeros(n_equal), 1.0 + np.arange(n_others)]), parts)

    assert found(12, 38, [np.arange(2), np.arange(2, 5)]) == 0.0
    assert found(12, 38, [np.arange(2), np.arange(2, 10)]) is None  # two are left of it, fewer than 5
    assert found(40, 8, [np.arange(40, 44)]) is None  # four others are left
    assert found(9, 91, [np.arange(0, 1)]) is None  # fewer than a tenth
    assert found(91, 9, [np.arange(0, 1)]) is None
    assert found(11, 90, [np.arange(0, 1)]) == found(91, 10, [np.arange(0, 1)]) == 0.0  # a tenth is enough
    assert found(6, 20, [np.arange(0, 1)]) == 0.0  # and so are five
    assert value_of_many(np.arange(30.0), [np.arange(5)]) is None


def test_where_many_labels_are_one_value_a_hurdle_takes_a_share():
    X, y = steps(160)
    regressor = SmallDataRegressor(10).fit(X, y)
    assert isinstance(regressor.members_[-1], Hurdle)
    assert len(regressor.members_) == len(regressor.shares_) == len(regressor.left_out_) == 5
    for held in _parts(np.arange(160), int(np.random.default_rng(0).integers(2**31))):
        kept = np.setdiff1d(np.arange(160), held)
        expected = regressor.members_[-1].again(X[kept], y[kept]).quantiles(X[held])
        np.testing.assert_array_equal(regressor.left_out_[-1][held], expected)


def test_mixtures_count_by_a_power_of_their_errors():
    rng = np.random.default_rng(0)
    y, told = rng.normal(size=30), [np.sort(rng.normal(size=(30, len(LEVELS))), axis=1) for _ in range(2)]
    expected, total = np.zeros(2), 0.0
    for first in range(STEPS + 1):
        shares = (first / STEPS, 1 - first / STEPS)
        weight = np.abs(mixture(told, shares, [0.5])[:, 0] - y).mean() ** -SHARPNESS
        expected, total = expected + weight * np.array(shares), total + weight

    def found(told):
        return weighed_shares(2, lambda shares: mixture(told, shares, [0.5])[:, 0] - y)

    np.testing.assert_allclose(found(told), expected / total)
    right = np.repeat(y[:, None], len(LEVELS), axis=1)
    assert found([right, told[0]])[0] > 0.5
    np.testing.assert_allclose(found([right, right]), 0.5)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_shares_do_not_depend_on_the_unit_of_errors(unit):
    off = np.array([[1.0], [2.0]]) * np.random.default_rng(0).normal(size=(2, 20))
    found, other = (weighed_shares(2, lambda shares, one=one: one * (np.array(shares) @ off)) for one in (1.0, unit))
    assert found == pytest.approx(other)
    assert found[0] > 0.6


def test_sharper_weights_leave_less_to_the_poorer_member():
    off = np.array([[1.0], [1.2]]) * np.ones(30)
    shares = [weighed_shares(2, lambda shares: np.array(shares) @ off, sharpness)[0] for sharpness in (20, 40, 100)]
    assert 0.7 < shares[0] < shares[1] - 0.05 < shares[2] - 0.08


def test_one_label_does_not_decide_between_members():
    """One is off by half as much as the other, but for one label, which only the other foresees."""
    near, far = np.full(40, 1.0), np.full(40, 2.0)
    far[0] = 0

    def share_of_near(at_the_label):
        near[0] = at_the_label
        return weighed_shares(2, lambda shares: np.array(shares) @ [near, far])[0]

    assert share_of_near(3.0) == pytest.approx(share_of_near(3e6), abs=0.01)
    assert share_of_near(3e6) > 0.9


def errors_of(regressor, function, n_labels=80):
    X, y = function(n_labels + 400)
    return np.abs(regressor.fit(X[:n_labels], y[:n_labels]).predict(X[n_labels:]) - y[n_labels:]).mean()


def test_the_labels_choose_the_member_that_suits_them():
    (X, y), (A, b) = smooth(80), steps(80)
    of_smooth, of_steps = SmallDataRegressor(50).fit(X, y), SmallDataRegressor(50).fit(A, b)
    assert sum(of_smooth.shares_[2:]) > 0.7
    assert sum(of_steps.shares_[:2]) > sum(of_steps.shares_[2:4])
    for regressor, members in ((of_smooth, 4), (of_steps, 5)):
        assert sum(regressor.shares_) == pytest.approx(1)
        assert len(regressor.members_) == len(regressor.shares_) == members
        assert all(isinstance(member, Member) for member in regressor.members_)


@pytest.mark.parametrize("function", [smooth, steps])
def test_it_errs_less_than_a_forest_or_a_line(function):
    ours = errors_of(SmallDataRegressor(), function)
    assert ours < 0.95 * errors_of(ExtraTreesRegressor(100, max_features=1 / 3, random_state=0), function)
    assert ours < 0.95 * errors_of(make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15))), function)


@pytest.mark.parametrize("function", [smooth, steps])
def test_intervals_hold_as_many_values_as_they_say(function):
    found = []
    for seed in range(8):
        X, y = function(360, seed=seed)
        regressor = SmallDataRegressor(25).fit(X[:60], y[:60])
        for coverage in (0.5, 0.9):
            told, low, high = regressor.predict_with_interval(X[60:], coverage).T
            np.testing.assert_array_equal(told, regressor.predict(X[60:]))
            np.testing.assert_array_equal(np.stack([low, high], 1), regressor.predict_interval(X[60:], coverage))
            assert ((low <= told) & (told <= high)).all()
            found.append((coverage, ((low <= y[60:]) & (y[60:] <= high)).mean()))
    held = {coverage: np.mean([share for asked, share in found if asked == coverage]) for coverage in (0.5, 0.9)}
    assert 0.86 < held[0.9] < 0.96
    assert 0.45 < held[0.5] < (0.62 if function is smooth else 1.0)  # an interval on the value of most is worth more


def test_intervals_are_as_narrow_as_the_labels_left_out_allow():
    X, y = steps(300)
    regressor = SmallDataRegressor(25).fit(X, y)
    holding = {}
    for mass in (0.2, 0.5, 0.7, 0.8, 0.9, 0.96):
        low, high = mixture(regressor.left_out_, regressor.shares_, [(1 - mass) / 2, (1 + mass) / 2]).T
        holding[mass] = ((low <= y) & (y <= high)).mean()
    for coverage in (0.6, 0.8, 0.9):
        least = min(mass for mass, held in holding.items() if held >= coverage * (1 + 1 / 300))
        enough = np.diff(regressor.predict_quantiles(X, [(1 - least) / 2, (1 + least) / 2]))
        assert (np.diff(regressor.predict_interval(X, coverage)) <= enough + 1e-9).all()


def test_intervals_of_few_trees_hold_no_more_than_was_asked_for():
    for coverage in (0.5, 0.7, 0.9):
        X, y = smooth(200)
        regressor = SmallDataRegressor(8).fit(X, y)
        regressor.shares_ = (
            1.0,
            0.0,
            0.0,
            0.0,
        )  # four trees for labels left out: five quantiles, and jumps between them
        low, high = np.split(mixture(regressor.left_out_, regressor.shares_, _ends(MASSES)), 2, axis=1)
        inside = ((low <= y[:, None]) & (y[:, None] <= high)).mean(axis=0)
        assert np.diff(inside).max() > 0.1
        regressor.members_ = tuple(Told(each) for each in regressor.left_out_)
        low, high = regressor.predict_interval(X, coverage).T
        assert coverage <= ((low <= y) & (y <= high)).mean() < coverage + 0.03


@dataclass
class Told:
    """A member that says again what was said of labels left out."""

    said: np.ndarray

    def quantiles(self, X):
        return self.said


@pytest.mark.parametrize("labels", [ANEW, ANEW + 1])
def test_hyperparameters_are_found_without_the_labels_left_out_where_labels_are_few(labels):
    X, y = smooth(labels)
    regressor = SmallDataRegressor(4).fit(X, y)
    parts = _parts(np.arange(labels), int(np.random.default_rng(0).integers(2**31)))
    held, kept = parts[0], np.setdiff1d(np.arange(labels), parts[0])
    alone = Process.fit(X[kept], y[kept], (4,)).quantiles(X[held])
    assert np.allclose(regressor.left_out_[2][held], alone) == (labels <= ANEW)


def test_intervals_reach_beyond_all_quantiles_where_that_is_asked_for():
    X, y = smooth(20)
    y[3] += 20
    regressor = SmallDataRegressor(25).fit(X, y)
    outermost = mixture(regressor.left_out_, regressor.shares_, [0.01, 0.99])
    assert ((outermost[:, 0] > y) | (y > outermost[:, 1])).any()
    low, high = regressor.predict_interval(X, 0.99).T
    all_but_nothing = regressor.predict_quantiles(X, [0.01, 0.99])
    assert (low < all_but_nothing[:, 0]).all()
    assert (high > all_but_nothing[:, 1]).all()


def test_a_block_that_tells_nothing_is_told_from_one_that_does():
    X, y = smooth(460)
    crowd = np.concatenate([X, np.random.default_rng(1).normal(size=(460, 80))], axis=1)
    errors = {
        blocks: np.abs(
            SmallDataRegressor(10, blocks=blocks).fit(crowd[:60], y[:60]).predict(crowd[60:]) - y[60:]
        ).mean()
        for blocks in ((), (4, 80))
    }
    assert errors[4, 80] < 0.7 * errors[()]


def test_intervals_widen_with_coverage_and_where_labels_are_far():
    X, y = smooth(80)
    regressor = SmallDataRegressor(25).fit(X, y)
    widths = [np.diff(regressor.predict_interval(X, coverage)).mean() for coverage in (0.5, 0.8, 0.95)]
    assert widths == sorted(widths)
    for coverage in (0, 1, 90):
        with pytest.raises(ValueError, match=f"coverage of {coverage} was asked for; give one between 0 and 1"):
            regressor.predict_interval(X, coverage)


def test_neither_scale_of_columns_nor_order_of_rows_matters_to_the_processes():
    X, y = smooth(50)
    plain = Process.fit(X, y, (4,)).quantiles(X)
    scaled = Process.fit(X * [7, 0.2, 30, 1] + 5, y, (4,)).quantiles(X * [7, 0.2, 30, 1] + 5)
    np.testing.assert_allclose(plain, scaled, rtol=1e-3, atol=1e-3)
    order = np.random.default_rng(0).permutation(50)
    other = Process.fit(X[order], y[order], (4,)).quantiles(X)
    np.testing.assert_allclose(other, plain, rtol=1e-3, atol=1e-3)


def test_neither_the_unit_of_labels_nor_its_zero_matters_to_a_process():
    X, y = smooth(40)
    plain = Process.fit(X, y, (4,)).quantiles(X)
    for unit in (1e-4, 1e4):
        found = Process.fit(X, unit * (y - 30), (4,)).quantiles(X)
        np.testing.assert_allclose(found / unit + 30, plain, rtol=1e-3, atol=1e-3)


def test_a_process_sees_no_row_farther_than_four_deviations():
    X, y = smooth(40)
    process, far = Process.fit(X, y, (4,)), np.zeros((3, 4))
    far[:, 0] = X[:, 0].mean() + X[:, 0].std() * np.array([3.9, 4, 50])
    nearer, at, beyond = process.quantiles(far)
    np.testing.assert_allclose(beyond, at)
    assert (nearer != at).all()


def test_another_seed_leaves_out_other_labels():
    first, again, other = (_parts(np.arange(30), seed) for seed in (0, 0, 1))
    assert [set(part) for part in first] == [set(part) for part in again]
    assert set(first[0]) not in [set(part) for part in other]
    assert len(first) == 5


def test_labels_of_one_group_are_left_out_together():
    X, y = smooth(30, noise=1.0)
    twice, of_both = np.concatenate([X, X]), np.concatenate([y, y])
    groups = np.tile(np.arange(30), 2)
    apart = SmallDataRegressor(25).fit(twice, of_both)
    together = SmallDataRegressor(25).fit(twice, of_both, groups=groups)
    assert apart.error_ < 0.6 * together.error_  # each label was told by its copy


def test_lists_and_whole_numbers_are_taken_too():
    X, y = steps(40)
    found = SmallDataRegressor(10).fit(
        X.tolist(), y.astype(int).tolist(), groups=[f"group {n // 2}" for n in range(40)]
    )
    assert np.isfinite(found.predict(X.tolist())).all()


def test_the_same_seed_gives_the_same_predictions():
    X, y = steps(50)
    first, again = (SmallDataRegressor(10, random_state=4).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(first.predict_quantiles(X, [0.1, 0.9]), again.predict_quantiles(X, [0.1, 0.9]))
    elsewhere = X + 0.1  # where the forest does not know the answer
    assert (SmallDataRegressor(10, random_state=5).fit(X, y).predict(elsewhere) != first.predict(elsewhere)).any()


@pytest.mark.parametrize("n_labels", [2, 3, 7])
def test_very_few_labels_are_enough_for_an_answer(n_labels):
    X, y = smooth(n_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        regressor = SmallDataRegressor(5).fit(X, y)
        assert np.isfinite(regressor.predict(X)).all()
        assert np.isfinite(regressor.predict_interval(X)).all()


def test_rows_that_could_not_be_read_have_no_prediction_and_others_the_same():
    X, y = smooth(20)
    regressor, holes = SmallDataRegressor(5).fit(X, y), X.copy()
    holes[[3, 7], [0, 2]] = np.nan
    told, expected = (regressor.predict_with_interval(each) for each in (holes, X))
    expected[[3, 7]] = np.nan
    np.testing.assert_allclose(told, expected, rtol=1e-9)
    np.testing.assert_allclose(regressor.predict(holes), expected[:, 0], rtol=1e-9)
    assert np.isnan(regressor.predict_quantiles(holes[[3]], [0.1, 0.5])).all()
    with pytest.raises(ValueError, match="infinity"):
        regressor.predict(np.where(np.isnan(holes), np.inf, holes))


def test_equal_labels_are_predicted_as_they_are():
    X, _ = smooth(12)
    regressor = SmallDataRegressor(5).fit(X, np.full(12, 3.5))
    np.testing.assert_allclose(regressor.predict(X), 3.5)


def test_every_label_has_one_group():
    X, y = smooth(10)
    with pytest.raises(ValueError, match="there are 10 labels but 5 groups; give one for each"):
        SmallDataRegressor().fit(X, y, groups=np.arange(5))
    with pytest.raises(ValueError, match="label 3 has no group"):
        SmallDataRegressor().fit(X, y, groups=[*"abc", None, *"defghi"])


def test_groups_are_numbered_in_the_order_of_their_names():
    assert numbers_of(["b", "a", "c", "a"], 4).tolist() == [1, 0, 2, 0]
    assert numbers_of(None, 3).tolist() == [0, 1, 2]


def test_what_it_cannot_learn_from_is_refused():
    X, y = smooth(10)
    with pytest.raises(ValueError, match="NaN"):
        SmallDataRegressor().fit(np.where(X > 0, np.nan, X), y)
    with pytest.raises(ValueError, match="all 10 labels are of one group"):
        SmallDataRegressor().fit(X, y, groups=np.zeros(10, dtype=int))
    with pytest.raises(ValueError, match="trees is 0; a forest needs 1 at least"):
        SmallDataRegressor(0).fit(X, y)
    for blocks, said in (((2, 3), r"2 \+ 3"), ((0, 4), r"0 \+ 4"), ((-1, 5), r"-1 \+ 5")):
        with pytest.raises(ValueError, match=f"blocks of {said} columns were announced, but there are 4 columns"):
            SmallDataRegressor(blocks=blocks).fit(X, y)
    for ask in (SmallDataRegressor().predict_interval, SmallDataRegressor().predict_with_interval):
        with pytest.raises(NotFittedError):
            ask(X)
    with pytest.raises(ValueError, match="features"):
        SmallDataRegressor(5).fit(X, y).predict(X[:, :2])


def with_told(said, n=80, seed=0, noise=1.0, scale=1.0):
    """Columns, the last what another model says of each label; and labels."""
    X, y = smooth(n, seed, noise)
    return np.column_stack([X, scale * said(y, np.random.default_rng(5))]), scale * y


@pytest.mark.parametrize("scale", [1.0, 1e-21])
def test_who_is_nearly_right_is_believed_and_who_guesses_is_not(scale):
    def right(y, rng):
        return y + 0.05 * rng.normal(size=len(y))

    def guesses(y, rng):
        return rng.permutation(y)

    for said, least, most in ((right, 0.7, 1.0), (guesses, 0.0, 0.1)):
        regressor = SmallDataRegressor(told=1).fit(*with_told(said, scale=scale))
        assert len(regressor.shares_) == 5
        assert least <= regressor.shares_[-1] <= most
        X, y = with_told(said, n=300, seed=1, scale=scale)
        median, low, high = regressor.predict_with_interval(X).T
        assert 0.8 <= np.mean((low <= y) & (y <= high)) <= 0.97
        alone = SmallDataRegressor().fit(
            *(each[:, :4] if each.ndim == 2 else each for each in with_told(said, scale=scale))
        )
        error, error_alone = (np.abs(found - y).mean() for found in (median, alone.predict(X[:, :4])))
        assert error < 0.2 * error_alone if said is right else error < 1.05 * error_alone


def test_what_is_told_is_one_more_voice_and_no_column_of_the_others():
    X, y = smooth(40)
    told = np.column_stack([X, y + np.arange(40) % 3, 0 * y])
    regressor = SmallDataRegressor(blocks=(2, 2), told=2).fit(told, y)
    alone = SmallDataRegressor(blocks=(2, 2)).fit(X, y)
    for one, other in zip(regressor.members_[:4], alone.members_, strict=False):
        np.testing.assert_array_equal(one.quantiles(X), other.quantiles(X))
    for one, other in zip(regressor.left_out_[:4], alone.left_out_, strict=True):
        np.testing.assert_array_equal(one, other)
    first, second = regressor.members_[4:]
    np.testing.assert_allclose(first.errors, np.quantile(-(np.arange(40) % 3), LEVELS), atol=1e-12)
    np.testing.assert_allclose(second.quantiles(np.array([[7.0]]))[0], 7 + np.quantile(y, LEVELS))


def test_of_labels_left_out_what_is_told_is_as_far_off_as_for_the_others():
    X, y = smooth(40)
    far = np.where(np.arange(40) == 3, 100.0, 0.0)
    regressor = SmallDataRegressor(told=1).fit(np.column_stack([X, y - far]), y)
    errors = regressor.left_out_[-1] - (y - far)[:, None]
    np.testing.assert_allclose(errors[3], 0, atol=1e-9)
    assert (errors.max(1) > 1).sum() >= 30  # all that had it among the others


def test_of_columns_told_some_others_describe():
    X, y = smooth(10)
    for told in (-1, 4, 5):
        with pytest.raises(ValueError, match=f"{told} of 4 columns were told; others must say what is described"):
            SmallDataRegressor(told=told).fit(X, y)
    with pytest.raises(ValueError, match=r"blocks of 2 \+ 2 columns were announced, but there are 3 columns"):
        SmallDataRegressor(blocks=(2, 2), told=1).fit(X, y)


def test_an_interval_between_equal_quantiles_ends_at_their_value():
    for value in (0.1, 3.3, -2.7):
        assert (_between(np.full((1, len(MASSES)), value), PLACES) == value).all()


def test_quantiles_are_asked_for_by_probabilities():
    X, y = smooth(10)
    regressor = SmallDataRegressor(5).fit(X, y)
    for level in (-0.1, 1.1, 90, np.nan):
        with pytest.raises(ValueError, match=f"quantiles at {level} were asked for; give probabilities between 0 and"):
            regressor.predict_quantiles(X, [0.5, level])
    least, middle, greatest = regressor.predict_quantiles(X, [0, 0.5, 1]).T
    assert (least < middle).all()
    assert (middle < greatest).all()


def test_labels_that_decide_hyperparameters_are_drawn_anew_with_another_seed(monkeypatch):
    monkeypatch.setattr("crystalmax.few_labels.quantile_models.FEW", 20)
    X, y = smooth(60)
    found = [Process.fit(X, y, (4,), seed=seed).process.kernel_.theta for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert (found[0] != found[2]).any()
    assert (found[0] != Process.fit(X[:20], y[:20], (4,), seed=0).process.kernel_.theta).any()


def test_both_processes_of_a_hurdle_have_a_scale_for_each_block():
    X, y = steps(70)
    for hurdle in (Hurdle.fit(X, y, 0.0, (1, 3)), SmallDataRegressor(5, blocks=(1, 3)).fit(X, y).members_[-1]):
        for process in (hurdle.differs, hurdle.others):
            assert process.likely.widths == (1, 3)


def test_the_error_is_the_mean_over_labels_left_out():
    X, y = smooth(30)
    made = SmallDataRegressor(5).fit(X, y)
    assert made.error_ == pytest.approx(np.abs(made.held_out_ - y).mean())


def test_a_hurdle_of_few_labels_has_not_seen_those_left_out():
    X, y = steps(100)
    made = SmallDataRegressor(5).fit(X, y)
    seed = int(np.random.default_rng(0).integers(2**31))
    held = _parts(np.arange(100), seed)[0]
    kept = np.setdiff1d(np.arange(100), held)
    alone = Hurdle.fit(X[kept], y[kept], 0.0, (4,), seed=seed).quantiles(X[held])
    np.testing.assert_array_equal(made.left_out_[-1][held], alone)


@pytest.mark.parametrize("coverage", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("n", [20, 37])
@pytest.mark.parametrize("width", [0.0, 1.0])
def test_an_interval_holds_one_more_than_its_share_of_labels_left_out(coverage, n, width):
    X, y = smooth(n)
    regressor = SmallDataRegressor(4).fit(X, y)
    told = width * np.quantile(y, LEVELS) + np.zeros((n, 1))  # the same for each label
    regressor.left_out_ = (told,) * len(regressor.shares_)
    regressor.members_ = tuple(Told(each) for each in regressor.left_out_)
    low, high = regressor.predict_interval(X, coverage).T
    held = int(((low <= y) & (y <= high)).sum())
    assert math.ceil(coverage * (n + 1)) <= held <= math.ceil(coverage * (n + 1)) + 2


def test_rows_are_predicted_some_at_a_time(monkeypatch):
    X, y = steps(40)
    regressor, (unseen, _) = SmallDataRegressor(5).fit(X, y), steps(1000, seed=1)
    unseen[[0, 7, 999]] = np.nan
    tracemalloc.start()
    together = regressor.predict_with_interval(unseen)
    all_at_once = tracemalloc.get_traced_memory()[1]
    monkeypatch.setattr("crystalmax.few_labels.small_data.AT_ONCE", 50)
    tracemalloc.reset_peak()
    np.testing.assert_allclose(regressor.predict_with_interval(unseen), together, rtol=1e-9, atol=1e-9)
    assert tracemalloc.get_traced_memory()[1] < all_at_once / 3
    tracemalloc.stop()
    assert np.flatnonzero(np.isnan(together).any(axis=1)).tolist() == [0, 7, 999]


@pytest.mark.parametrize("sign", [1, -1])
def test_intervals_end_at_the_value_of_many_if_it_is_the_least_or_the_greatest(sign):
    (X, y), (unseen, _) = steps(50), steps(200, seed=1)
    regressor = SmallDataRegressor(10).fit(X, sign * y)
    regressor.left_out_ = tuple(np.full_like(each, -sign) for each in regressor.left_out_)  # so all are moved outwards
    told, low, high = regressor.predict_with_interval(unseen).T
    np.testing.assert_array_equal(told, regressor.predict(unseen))
    ends = (low, -high)[sign < 0]
    np.testing.assert_array_equal(ends, np.minimum(0, sign * told))
    assert (low <= told).all()
    assert (told <= high).all()
    shifted = SmallDataRegressor(10).fit(X, np.where(y == 0, 3, y))  # 3 is neither
    assert shifted.bounds_ == (-np.inf, np.inf)


@pytest.mark.parametrize("labels", [smooth, steps])
def test_very_small_labels_are_predicted_as_if_in_a_larger_unit(labels):
    (X, y), (unseen, _) = labels(40), labels(30, seed=1)
    y = np.exp(y)
    unit = 2.0**-70
    small, usual = (SmallDataRegressor(5).fit(X, scale * y / y.max()) for scale in (unit, 1))
    np.testing.assert_array_equal(small.predict(unseen), unit * usual.predict(unseen))
    np.testing.assert_array_equal(small.predict_with_interval(unseen), unit * usual.predict_with_interval(unseen))
    np.testing.assert_array_equal(small.held_out_, unit * usual.held_out_)
    assert small.error_ == unit * usual.error_


@pytest.mark.parametrize("function", [smooth, steps])
def test_who_asks_sklearn_for_tables_gets_the_same_predictions(function):
    (X, y), (unseen, _) = function(40), function(5, seed=1)
    usual = SmallDataRegressor(5).fit(X, y).predict_with_interval(unseen)
    with config_context(transform_output="pandas"):
        found = SmallDataRegressor(5).fit(X, y).predict_with_interval(unseen)
    np.testing.assert_array_equal(found, usual)


def test_who_interrupts_a_fit_has_the_one_before(monkeypatch):
    X, y = smooth(30)
    regressor = SmallDataRegressor(5).fit(X, y)
    before = regressor.predict_with_interval(X)
    with monkeypatch.context() as patched:
        patched.setattr(small_data, "weighed_shares", mock.Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            regressor.fit(X[:20], 1e-9 * y[:20])
    np.testing.assert_array_equal(regressor.predict_with_interval(X), before)


def test_the_error_of_the_greatest_labels_is_finite():
    X, _ = smooth(20)
    y = np.random.default_rng(0).uniform(-1, 1, 20)  # of which nothing can be learnt
    assert 0.1 < SmallDataRegressor(5).fit(X, 1.7e308 * y).error_ / 1.7e308 < 1
