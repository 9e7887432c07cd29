"""Labels on the scale where they are closest to normal."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from sklearn.preprocessing import PowerTransformer


@dataclass(frozen=True)
class Powers:
    """A power transform of labels to mean 0 and deviation 1, and back (Yeo and Johnson, DOI 10.1093/biomet/87.4.954).

    Nothing comes back from beyond the labels, where the inverse grows without bound, or ends.

    Attributes:
        transformer: Of a column of labels.
        bounds: The least and the greatest label on its scale.
    """

    transformer: PowerTransformer
    bounds: tuple[float, float]

    @classmethod
    def of(cls, labels: Float[np.ndarray, " labels"]) -> "Powers":
        """Find the power that makes these labels most likely to be normal."""
        transformer = PowerTransformer()
        scaled = transformer.fit_transform(labels[:, None])
        return cls(transformer, (float(scaled.min()), float(scaled.max())))

    def there(self, labels: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """From units of the labels."""
        scaled: Float[np.ndarray, "*shape"] = self.transformer.transform(labels.reshape(-1, 1)).reshape(labels.shape)
        return scaled

    def back(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """To units of the labels."""
        inside = np.clip(values, *self.bounds).reshape(-1, 1)
        labels: Float[np.ndarray, "*shape"] = self.transformer.inverse_transform(inside).reshape(values.shape)
        return labels
