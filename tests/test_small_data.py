"""The regressor for few labels: each member against a naive computation, the mixture, and what is promised of both."""

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler

from crystalmax import SmallDataRegressor
from crystalmax.small_data import ANEW, LEVELS, MASSES, Forest, Member, Process, _ends, _parts, mixture

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


def test_quantiles_of_the_forest_are_those_of_labels_in_the_same_leaves():
    (X, y), (unseen, _) = steps(60), steps(9, seed=1)
    forest = Forest.fit(X, y, trees=7, seed=3)
    found = forest.quantiles(unseen)
    grown = forest.forest
    for row in range(len(unseen)):
        weights = np.zeros(len(y))
        for tree in grown.estimators_:
            same = tree.apply(X.astype(np.float32)) == tree.apply(unseen[row : row + 1].astype(np.float32))
            weights[same] += 1 / same.sum() / 7
        expected = [weighted_quantile(y, weights, level) for level in LEVELS]
        np.testing.assert_allclose(found[row], expected)


def test_a_process_leaves_labels_out_as_if_it_had_never_seen_them():
    X, y = smooth(40)
    process = Process.fit(X, y, np.arange(40), (4,))
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


def test_transformed_labels_come_back_in_their_units_and_stay_among_the_labels():
    X, y = smooth(60)
    y = np.exp(2 * y)
    process = Process.fit(X, y, np.arange(60), (4,), PowerTransformer())
    found = process.quantiles(np.concatenate([X, 100 * X]))
    assert np.isfinite(found).all()
    assert (np.diff(found, axis=1) >= 0).all()
    assert np.abs(found[:60, MIDDLE] - y).mean() < 0.5 * np.abs(np.median(y) - y).mean()
    assert found.min() >= y.min() * 0.999
    assert found.max() <= y.max() * 1.001


def errors_of(regressor, function, n_labels=80):
    X, y = function(n_labels + 400)
    return np.abs(regressor.fit(X[:n_labels], y[:n_labels]).predict(X[n_labels:]) - y[n_labels:]).mean()


def test_the_labels_choose_the_member_that_suits_them():
    (X, y), (A, b) = smooth(80), steps(80)
    of_smooth, of_steps = SmallDataRegressor(50).fit(X, y), SmallDataRegressor(50).fit(A, b)
    assert of_smooth.shares_[0] <= 0.25
    assert of_steps.shares_[0] >= 0.5
    for regressor in (of_smooth, of_steps):
        assert sum(regressor.shares_) == 1
        assert len(regressor.members_) == len(regressor.shares_) == 3
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
        regressor.shares_ = (1.0, 0.0, 0.0)  # four trees for labels left out: five quantiles, and jumps between them
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
    alone = Process.fit(X[kept], y[kept], np.arange(len(kept)), (4,)).quantiles(X[held])
    assert np.allclose(regressor.left_out_[1][held], alone) == (labels <= ANEW)


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
    with pytest.raises(ValueError, match=r"coverage of 90 was asked for; give one between 0 and 1"):
        regressor.predict_interval(X, 90)


def test_neither_scale_of_columns_nor_order_of_rows_matters_to_the_processes():
    X, y = smooth(50)
    plain = Process.fit(X, y, np.arange(50), (4,)).quantiles(X)
    scaled = Process.fit(X * [7, 0.2, 30, 1] + 5, y, np.arange(50), (4,)).quantiles(X * [7, 0.2, 30, 1] + 5)
    np.testing.assert_allclose(plain, scaled, rtol=1e-3, atol=1e-3)
    order = np.random.default_rng(0).permutation(50)
    other = Process.fit(X[order], y[order], np.arange(50), (4,)).quantiles(X)
    np.testing.assert_allclose(other, plain, rtol=1e-3, atol=1e-3)


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


def test_equal_labels_are_predicted_as_they_are():
    X, _ = smooth(12)
    regressor = SmallDataRegressor(5).fit(X, np.full(12, 3.5))
    np.testing.assert_allclose(regressor.predict(X), 3.5)


def test_what_it_cannot_learn_from_is_refused():
    X, y = smooth(10)
    with pytest.raises(ValueError, match="NaN"):
        SmallDataRegressor().fit(np.where(X > 0, np.nan, X), y)
    with pytest.raises(ValueError, match="all 10 labels are of one group"):
        SmallDataRegressor().fit(X, y, groups=np.zeros(10, dtype=int))
    with pytest.raises(ValueError, match=r"blocks of 2 \+ 3 columns were announced, but there are 4 columns"):
        SmallDataRegressor(blocks=(2, 3)).fit(X, y)
    with pytest.raises(ValueError, match="features"):
        SmallDataRegressor(5).fit(X, y).predict(X[:, :2])
