"""Ridge regression for absolute errors: its penalty, and the scale of the labels, by labels that are left out."""

from functools import partial

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import PowerTransformer
from sklearn.utils.validation import check_is_fitted, validate_data

_PENALTIES = np.logspace(-2, 5, 15)

Labels = Float[np.ndarray, " rows"]


class PowerRidge(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Ridge regression of labels as they are, or on the scale where they are closest to normal.

    The penalty and the scale are those with the least absolute errors, in units of the labels, where each label is left
    out in turn: squares follow a few large values. Of skewed labels the second scale (Yeo and Johnson, DOI
    10.1093/biomet/87.4.954) makes far less error; on it nothing is predicted beyond the labels, where its inverse grows
    without bound.

    Attributes:
        ridge_: The regression, with its penalty as `alpha_`.
        scale_: Of its labels; None where they stay as they are.
    """

    def fit(self, X: ArrayLike, y: ArrayLike) -> "PowerRidge":
        """Fit on both scales, and keep the one that errs less."""
        columns, labels = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        self.scale_: PowerTransformer | None = None
        self.ridge_ = RidgeCV(_PENALTIES, scoring="neg_mean_absolute_error").fit(columns, labels)
        if np.ptp(labels) > 0:
            scale = PowerTransformer()
            scaled = scale.fit_transform(labels[:, None].astype(np.float64))[:, 0]
            ridge = RidgeCV(_PENALTIES, scoring=partial(_score, scale, scaled)).fit(columns, scaled)
            if ridge.best_score_ > self.ridge_.best_score_:
                self.ridge_, self.scale_, self.scaled_ = ridge, scale, scaled
        return self

    def predict(self, X: ArrayLike) -> Labels:
        """In units of the labels."""
        check_is_fitted(self)
        told: Labels = self.ridge_.predict(validate_data(self, X, dtype=np.float64, reset=False))
        return told if self.scale_ is None else _in_units(self.scale_, self.scaled_, told)


def _in_units(scale: PowerTransformer, known: Float[np.ndarray, " known"], told: Labels) -> Labels:
    found: Labels = scale.inverse_transform(np.clip(told, known.min(), known.max())[:, None])[:, 0]
    return found


def _score(
    scale: PowerTransformer, known: Float[np.ndarray, " known"], identity: BaseEstimator, told: Labels, labels: Labels
) -> float:
    """What `RidgeCV` asks for: the higher, the better."""
    errors = _in_units(scale, known, identity.predict(told)) - _in_units(scale, known, labels)
    return -float(np.abs(errors).mean())
