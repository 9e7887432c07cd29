"""Labels on the scale where they are closest to normal."""

import warnings
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PowerTransformer, StandardScaler

EXACT = 1e-4
"""Labels that come back this far off, as a part of their range, have lost too many digits on the way."""

FINEST, COARSEST = 1e-6, 1e100
"""Labels that are all smaller, or have one that is larger, get a unit of their own: trees take a variance below 1e-16
for none, powers see 1 + x, and squares end at 1e308."""


def unit_of(labels: Float[np.ndarray, " labels"]) -> float:
    """One, or a power of two close to the greatest of very small or large labels, by which division is exact."""
    greatest = np.abs(labels).max()
    return float(2.0 ** np.floor(np.log2(greatest))) if 0 < greatest < FINEST or greatest > COARSEST else 1.0


@dataclass(frozen=True)
class Powers:
    """A power transform of labels to mean 0 and deviation 1, and back (Yeo and Johnson, DOI 10.1093/biomet/87.4.954).

    Powers of 1 + x tell labels apart that are of order 1 to some thousand and spread as widely. Labels that differ by a
    thousandth of what they are, or that are tiny, would all become one number; those are standardised first. Nothing
    comes back from beyond the labels, where the inverse grows without bound, or ends.

    Attributes:
        transformer: Of a column of labels.
        bounds: The least and the greatest label on its scale.
    """

    transformer: PowerTransformer | Pipeline | StandardScaler
    bounds: tuple[float, float]

    @classmethod
    def of(cls, labels: Float[np.ndarray, " labels"]) -> "Powers":
        """Find the power that makes these labels most likely to be normal."""
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
        """From units of the labels."""
        scaled: Float[np.ndarray, "*shape"] = self.transformer.transform(labels.reshape(-1, 1)).reshape(labels.shape)
        return scaled

    def back(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """To units of the labels."""
        inside = np.clip(values, *self.bounds).reshape(-1, 1)
        labels: Float[np.ndarray, "*shape"] = self.transformer.inverse_transform(inside).reshape(values.shape)
        return labels
