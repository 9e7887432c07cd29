"""Ridge regression that chooses its penalty and the scale of the labels by leave-one-out absolute errors."""

from functools import partial

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import RidgeCV
from sklearn.utils.validation import check_is_fitted, validate_data

from crystalmax.few_labels.powers import Powers, unit_of

_PENALTIES = np.logspace(-2, 5, 15)

Labels = Float[np.ndarray, " rows"]


class PowerRidge(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Ridge regression of labels as they are, or on the scale where they are closest to normal.

    The penalty and the scale are those with the lowest leave-one-out absolute error in the units of the labels; squared
    errors would depend on a few large values. Skewed labels have far lower errors on the second scale, where no
    prediction lies beyond the range of the labels (see `Powers`).

    Attributes:
        ridge_: The regression, with its penalty as `alpha_`.
        powers_: The transform of its labels; None where they stay as they are.
        unit_: What labels are divided by first, other than 1 if they are tiny or huge.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> "PowerRidge":
        """Fit on both scales, and keep the one that errs less."""
        with np.errstate(invalid="ignore"):  # the sum of the greatest labels of both signs is no number
            columns, values = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        self.unit_ = unit_of(values.astype(np.float64))
        labels = values / self.unit_
        self.powers_: Powers | None = None
        self.ridge_ = RidgeCV(_PENALTIES, scoring="neg_mean_absolute_error").fit(columns, labels)
        if np.ptp(labels) > 0:
            powers = Powers.of(labels)
            ridge = RidgeCV(_PENALTIES, scoring=partial(_score, powers)).fit(columns, powers.there(labels))
            if ridge.best_score_ > self.ridge_.best_score_:
                self.ridge_, self.powers_ = ridge, powers
        return self

    def predict(self, X: ArrayLike) -> Labels:
        """Predictions in the units of the labels."""
        check_is_fitted(self)
        told: Labels = self.ridge_.predict(validate_data(self, X, dtype=np.float64, reset=False))
        return self.unit_ * (told if self.powers_ is None else self.powers_.back(told))


def _score(powers: Powers, identity: BaseEstimator, told: Labels, labels: Labels) -> float:
    """The score for `RidgeCV`: minus the mean absolute error in the units of the labels."""
    return -float(np.abs(powers.back(identity.predict(told)) - powers.back(labels)).mean())
