"""Fine-tuning as a scikit-learn regressor: crystals and values in, predictions out."""

import copy
import logging
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import KFold
from sklearn.utils.validation import check_is_fitted

from crystalmax import checkpoint
from crystalmax.crystal import Crystal
from crystalmax.dataset import CrystalDataset, batches_of_sites
from crystalmax.encoding import Encoder
from crystalmax.featurizer import readable
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.objectives.supervised import Regression
from crystalmax.shipped import SHIPPED
from crystalmax.training import Split, Training, seeded_weights, train

log = logging.getLogger(__name__)

_TARGET = "target"


class CrystalRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """A copy of an encoder, trained further together with a small head on labelled crystals.

    When to stop cannot be read off a validation set of five crystals. So the labels are first cut into folds, every
    fold is predicted by a model that has not seen it, and the number of epochs is the one at which the error over
    *all* labels is lowest; then one model is trained on all labels for that long.

    Args:
        encoder: Where to start from; it is copied, not changed.
        geometry: Makes the pairs that the encoder was trained on.
        max_epochs: Passes over the labelled crystals at most.
        learning_rate: Of AdamW.
        sites_per_batch: Batches are filled up to about this many sites, and to at most an eighth of the labels.
        folds: How many, to find when to stop; 0 trains for `max_epochs`.
        seed: Of the head, the folds and the order of crystals.
        accelerator: Where to train, as Lightning names it.

    Attributes:
        epochs_: How many epochs the final model was trained for.
        curve_: Mean squared error over held-out folds after each epoch, in units of the target's variance.
        objective_: The trained encoder with its head.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        geometry: Geometry = AllPairs(),  # noqa: B008  # frozen
        max_epochs: int = 60,
        learning_rate: float = 1e-3,
        sites_per_batch: int = 400,
        folds: int = 5,
        seed: int = 0,
        accelerator: str = "cpu",
    ) -> None:
        self.encoder, self.geometry = encoder, geometry
        self.max_epochs, self.learning_rate, self.sites_per_batch = max_epochs, learning_rate, sites_per_batch
        self.folds, self.seed, self.accelerator = folds, seed, accelerator

    @classmethod
    def from_pretrained(
        cls,
        run: str | Path = SHIPPED,
        *,
        trusted: tuple[str, ...] = (),
        **options: Any,  # noqa: ANN401  # as __init__
    ) -> "CrystalRegressor":
        """Start from the encoder of a run folder, or from the one that comes with the package."""
        model = checkpoint.load(Path(run), trusted=trusted)
        return cls(model.encoder, geometry=model.geometry, **options)

    def fit(self, X: Collection[object], y: Any) -> "CrystalRegressor":  # noqa: ANN401  # any column of numbers
        """Fine-tune on these structures and values.

        Raises:
            Refused: A structure cannot be read.
            ValueError: Lengths differ, a value is not finite, or there are fewer labels than folds.
        """
        values = np.asarray(y, dtype=np.float64)
        if values.shape != (len(X),):
            raise ValueError(f"there are {len(X)} structures but values of shape {values.shape}; give one value each")
        if not np.isfinite(values).all():
            first = np.flatnonzero(~np.isfinite(values))[0]
            raise ValueError(f"value {first} is not a finite number; leave such rows out")
        crystals, _, _ = readable(X, raise_on_error=True)
        pairs = zip(crystals, values.tolist(), strict=True)
        return self.fit_crystals([replace(crystal, targets={_TARGET: value}) for crystal, value in pairs], _TARGET)

    def fit_crystals(self, crystals: Sequence[Crystal], target: str) -> "CrystalRegressor":
        """Fine-tune on canonical crystals that carry their value."""
        data = CrystalDataset.from_crystals(crystals)
        least = max(2, 2 * self.folds)
        if len(data) < least:
            raise ValueError(f"{self.folds} folds need at least {least} labels, but there are {len(data)}")
        rows = np.arange(len(data))
        self.epochs_, self.curve_ = self.max_epochs, np.empty(0)
        if self.folds:
            folds = KFold(self.folds, shuffle=True, random_state=self.seed).split(rows)
            errors = np.zeros(self.max_epochs)
            for fold, (inside, outside) in enumerate(folds):
                log.info("finding when to stop: fold %d of %d", fold + 1, self.folds)
                _, history = self._train(data, target, Split(rows[inside], rows[outside]), self.max_epochs)
                errors += len(outside) * np.array([row["error"] for row in history if row["split"] == "valid"])
            self.curve_ = errors / len(data)
            self.epochs_ = int(_smoothed(self.curve_).argmin()) + 1
        log.info("training on all %d labels for %d epochs", len(data), self.epochs_)
        self.objective_, _ = self._train(data, target, Split(rows, rows[:0]), self.epochs_)
        return self

    def predict(self, X: Collection[object]) -> Float[np.ndarray, " crystals"]:  # sklearn's name
        """Predictions in the units of the values, NaN where a structure cannot be read."""
        check_is_fitted(self, "objective_")
        crystals, rows, _ = readable(X, raise_on_error=False)
        out = np.full(len(X), np.nan)
        if crystals:
            out[rows] = predict(self.objective_, self.geometry, CrystalDataset.from_crystals(crystals))
        return out

    def _train(
        self, data: CrystalDataset, target: str, split: Split, epochs: int
    ) -> tuple[Regression, list[dict[str, Any]]]:
        values = data.target[split.train, data.target_names.index(target)]
        with seeded_weights(self.seed):
            mean, deviation = float(values.mean()), float(values.std()) or 1.0
            objective = Regression(copy.deepcopy(self.encoder), target=target, mean=mean, deviation=deviation)
        # At least eight steps an epoch, however few labels there are.
        sites = min(self.sites_per_batch, max(int(data.n_sites[split.train].sum()) // 8, 1))
        how = Training(
            epochs=epochs, sites_per_batch=sites, learning_rate=self.learning_rate, weight_decay=1e-2, seed=self.seed
        )
        objective.train()
        history = train(objective, data, split, how, geometry=self.geometry, accelerator=self.accelerator)
        return objective.eval(), history


def predict(
    objective: Regression, geometry: Geometry, data: CrystalDataset, sites_per_batch: int = 1200
) -> Float[np.ndarray, " crystals"]:
    """Predictions for a whole data set, in its order, made where the objective is."""
    out = np.empty(len(data))
    device = next(objective.parameters()).device
    with torch.inference_mode():
        for batch in batches_of_sites(data.n_sites, sites_per_batch, np.argsort(data.n_sites, kind="stable")):
            out[batch] = objective.predict(geometry(data.batch(batch).to(device))).double().cpu().numpy()
    return out


def _smoothed(curve: Float[np.ndarray, " epochs"]) -> Float[np.ndarray, " epochs"]:
    """A running mean over five epochs: the minimum of a noisy curve is luck."""
    return np.convolve(np.pad(curve, 2, mode="edge"), np.full(5, 0.2), mode="valid")
