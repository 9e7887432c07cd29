"""The downstream models of the study; every method is given the same ones, with the same search for their settings."""

import warnings
from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor

from crystalmax.judging.evaluation import default_models


class HiddenLayer(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """A network with one hidden layer, trained until its loss stands still, on values in units of their deviation.

    Differs: the paper trained on values as they are, which for wavenumbers of hundreds takes most of the training.

    Args:
        width: Of the hidden layer.
        max_iter: Passes over the labels at most.
        random_state: Seed of the weights and the order of the labels.
    """

    def __init__(self, width: int = 64, *, max_iter: int = 5000, random_state: int | None = None) -> None:
        self.width, self.max_iter, self.random_state = width, max_iter, random_state

    def fit(self, X: Float[np.ndarray, "rows columns"], y: Float[np.ndarray, " rows"]) -> "HiddenLayer":
        """Train on these rows."""
        self.mean_, self.deviation_ = float(y.mean()), float(y.std()) or 1.0
        self.network_ = MLPRegressor(
            hidden_layer_sizes=(self.width,), max_iter=self.max_iter, random_state=self.random_state
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # then `max_iter` is how long it trains
            self.network_.fit(X, (y - self.mean_) / self.deviation_)
        return self

    def predict(self, X: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " rows"]:
        """Predictions in the units of the values."""
        found: Float[np.ndarray, " rows"] = self.mean_ + self.deviation_ * self.network_.predict(X)
        return found


def downstream_models(trees: int = 100, names: Collection[str] | None = None) -> Mapping[str, BaseEstimator]:
    """Least squares, ridge, two forests and a hidden layer of 64, as scikit-learn estimators by name; or some."""
    ours = default_models()
    models = {
        "least squares": LinearRegression(),
        "ridge": ours["ridge"],
        "random forest": RandomForestRegressor(n_estimators=trees, max_features=1 / 3, n_jobs=1),
        "extra trees": ours["extra trees"].set_params(n_estimators=trees),
        "hidden layer": HiddenLayer(),
    }
    return {name: model for name, model in models.items() if names is None or name in names}
