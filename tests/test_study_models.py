"""The hidden layer learns what a line cannot, in any unit, and the same again from the same seed."""

import numpy as np
import pytest
from sklearn.base import clone

from crystalmax.study.models import HiddenLayer, downstream_models


@pytest.fixture(scope="module")
def bowl():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    return X, (X**2).sum(axis=1) + 10


def test_it_learns_what_a_line_cannot(bowl):
    X, y = bowl
    models = downstream_models(trees=10)
    errors = {
        name: np.abs(models[name].fit(X[:200], y[:200]).predict(X[200:]) - y[200:]).mean()
        for name in ("least squares", "hidden layer")
    }
    assert errors["hidden layer"] < 0.5 * errors["least squares"]


def test_the_unit_of_the_values_does_not_matter(bowl):
    X, y = bowl
    small, large = (
        HiddenLayer(random_state=1).fit(X, scale * y + shift).predict(X) for scale, shift in [(1, 0), (1e3, 5)]
    )
    np.testing.assert_allclose(large, 1e3 * small + 5, rtol=1e-6)


def test_one_seed_gives_one_network(bowl):
    first, again, other = (HiddenLayer(random_state=seed).fit(*bowl).predict(bowl[0]) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_values_that_are_all_alike_are_predicted():
    X = np.random.default_rng(0).normal(size=(20, 2))
    assert HiddenLayer(random_state=0).fit(X, np.full(20, 3.0)).predict(X) == pytest.approx(np.full(20, 3.0), abs=0.3)


def test_every_model_can_be_cloned_and_seeded():
    for model in downstream_models(trees=3).values():
        assert repr(clone(model)) == repr(model)
    assert {name for name, model in downstream_models(3).items() if "random_state" in model.get_params()} == {
        "random forest",
        "extra trees",
        "hidden layer",
    }
    assert downstream_models(3)["random forest"].n_estimators == downstream_models(3)["extra trees"].n_estimators == 3
