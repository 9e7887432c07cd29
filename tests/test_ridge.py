import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import PowerTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from crystalmax.few_labels.ridge import PowerRidge
from crystalmax.few_labels.small_data import SmallDataRegressor

PENALTIES = np.logspace(-2, 5, 15)


REFUSED = ("check_estimator_sparse_array", "check_estimator_sparse_matrix", "check_requires_y_none")


def refused_sooner(_):
    return dict.fromkeys(REFUSED, "in tests, types are checked before scikit-learn can say what is wrong")


@parametrize_with_checks([PowerRidge()], expected_failed_checks=refused_sooner)
def test_it_is_a_regressor_as_scikit_learn_expects(estimator, check):
    check(estimator)


@pytest.mark.parametrize("size", [1e-300, 1e150, 1.7e308])
def test_labels_may_be_tiny_or_huge(size):
    X, y = planted(0)
    y /= np.abs(y).max()
    said, expected = PowerRidge().fit(X, size * y).predict(X) / size, PowerRidge().fit(X, y).predict(X)
    assert np.abs(said - expected).max() < 0.02  # powers see 1 + x of labels in another unit


def planted(seed, n_rows=60):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, 6))
    return X, X[:, 0] + 0.3 * rng.normal(size=n_rows)


def left_out(X, y):
    """Predictions for each row by the others, for each penalty."""
    others = ~np.eye(len(y), dtype=bool)
    return {
        penalty: np.array([Ridge(penalty).fit(X[o], y[o]).predict(X[[row]])[0] for row, o in enumerate(others)])
        for penalty in PENALTIES
    }


def best(told, y):
    errors = {penalty: np.abs(each - y).mean() for penalty, each in told.items()}
    return min(errors, key=errors.get), min(errors.values())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bend", [lambda y: y, np.exp, lambda y: np.exp(3 * y)])
def test_scale_and_penalty_are_those_of_a_loop_over_labels_left_out(bend, seed):
    X, y = planted(seed)
    y = bend(y)
    scale = PowerTransformer()
    scaled = scale.fit_transform(y[:, None])[:, 0]
    back = {
        penalty: scale.inverse_transform(np.clip(told, scaled.min(), scaled.max())[:, None])[:, 0]
        for penalty, told in left_out(X, scaled).items()
    }
    plain, powers = best(left_out(X, y), y), best(back, y)
    model = PowerRidge().fit(X, y)
    assert (model.powers_ is None) == (plain[1] <= powers[1])
    penalty, error = min(plain, powers, key=lambda each: each[1])
    assert model.ridge_.alpha_ == penalty
    assert -model.ridge_.best_score_ == pytest.approx(error)


@pytest.mark.parametrize("seed", range(4))
def test_skewed_labels_are_told_far_better_than_by_plain_ridge(seed):
    X, y = planted(seed, 400)
    y = np.exp(y)

    def error(model):
        return np.abs(model.fit(X[:200], y[:200]).predict(X[200:]) - y[200:]).mean()

    assert error(PowerRidge()) < 0.7 * error(RidgeCV(PENALTIES))


def test_labels_on_a_line_are_told():
    X, y = planted(1, 400)
    model = PowerRidge().fit(X, y)
    slope = np.linalg.lstsq(X, y, rcond=None)[0]
    assert np.allclose(model.predict(X), X @ slope, atol=0.2)


def test_columns_of_other_names_are_refused():
    X, y = planted(1)
    table = pd.DataFrame(X, columns=[*"abcdef"])
    with pytest.raises(ValueError, match="feature names should match"):
        PowerRidge().fit(table, y).predict(table[[*"bacdef"]])


def test_equal_labels_are_what_is_predicted():
    X, _ = planted(2)
    assert np.allclose(PowerRidge().fit(X, np.full(len(X), 3.5)).predict(X + 1), 3.5)


def test_nothing_is_predicted_beyond_the_labels_where_these_are_skewed():
    X, y = planted(3)
    y = np.exp(3 * y)
    model = PowerRidge().fit(X, y)
    told = model.predict(100 * X)
    assert model.powers_ is not None
    assert np.isfinite(told).all()
    assert told.max() <= y.max() * (1 + 1e-9)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("regressor", [PowerRidge(), SmallDataRegressor(trees=5)])
def test_the_greatest_labels_are_learnt_without_warnings(regressor):
    """NumPy warned of a sum that is no number, within a check of scikit-learn."""
    labels = np.resize([1.7e308, -1.7e308], 32)
    X = np.column_stack([np.sign(labels), np.random.default_rng(0).normal(size=32)])
    assert (np.sign(regressor.fit(X, labels).predict(X)) == X[:, 0]).all()


@pytest.mark.parametrize("regressor", [PowerRidge(), SmallDataRegressor(trees=5)])
def test_columns_of_half_the_digits_are_learnt_with_all(regressor):
    X, y = planted(4)
    few = X.astype(np.float32)
    said, expected = (regressor.fit(each, y).predict(few) for each in (few, few.astype(np.float64)))
    np.testing.assert_array_equal(said, expected)
