"""Labels on a scale where their distribution is closest to a normal one."""

import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler

EXACT = 1e-4
"""A transform is not used if labels come back from it with a larger error than this part of their range."""

FINEST, COARSEST = 1e-6, 1e100
"""Labels that are all smaller, or have one that is larger, are rescaled: trees take a variance below 1e-16 for none,
power transforms work on 1 + x, and squares overflow above 1e308."""


def unit_of(labels: Float[np.ndarray, " labels"]) -> float:
    """The unit of labels: 1, or of tiny or huge ones a power of two near the greatest, which divides exactly."""
    greatest = np.abs(labels).max()
    return float(2.0 ** np.floor(np.log2(greatest))) if 0 < greatest < FINEST or greatest > COARSEST else 1.0


@dataclass(frozen=True)
class Powers:
    """A power transform of labels to mean 0 and deviation 1, and back (Yeo and Johnson, DOI 10.1093/biomet/87.4.954).

    Powers of 1 + x suit labels between 1 and some thousand that vary as much. Labels that are tiny, or that vary by a
    thousandth of their size, would all become one number; they are standardised first. Values beyond the range of the
    labels are clipped to it on the way back, since there the inverse grows without bound, or does not exist.

    Attributes:
        transformer: Transforms a column of labels.
        bounds: The least and the greatest label on the transformed scale.
    """

    transformer: PowerTransformer | Pipeline | StandardScaler
    bounds: tuple[float, float]

    @classmethod
    def of(cls, labels: Float[np.ndarray, " labels"]) -> "Powers":
        """Fit the power with which these labels are closest to a normal distribution."""
        column = labels[:, None]
        for transformer in (PowerTransformer(), make_pipeline(StandardScaler(), PowerTransformer()), StandardScaler()):
            # Arrays, also where `sklearn.set_config` asks all transformers for tables.
            scaled = transformer.set_output(transform="default").fit_transform(column)
            powers = cls(transformer, (float(scaled.min()), float(scaled.max())))
            with suppress(ValueError), warnings.catch_warnings():  # where an inverse is not a number
                warnings.simplefilter("ignore")
                if np.abs(powers.back(scaled) - column).max() <= EXACT * np.ptp(labels):
                    break
        return powers

    def there(self, labels: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Labels on the transformed scale."""
        scaled: Float[np.ndarray, "*shape"] = self.transformer.transform(labels.reshape(-1, 1)).reshape(labels.shape)
        return scaled

    def back(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Values of the transformed scale as labels, clipped to their range."""
        inside = np.clip(values, *self.bounds).reshape(-1, 1)
        labels: Float[np.ndarray, "*shape"] = self.transformer.inverse_transform(inside).reshape(values.shape)
        return labels
