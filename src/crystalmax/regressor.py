"""Fine-tuning as a scikit-learn regressor: crystals and values in, predictions out."""

import copy
import logging
from collections.abc import Iterable, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted

from crystalmax import checkpoint
from crystalmax.crystal import Crystal, formula
from crystalmax.encoding import Encoder
from crystalmax.featurizer import readable
from crystalmax.few_labels.small_data import SHARPNESS, SmallDataRegressor, weighed_shares
from crystalmax.geometry import AllPairs, Geometry
from crystalmax.learning.vectors import encode
from crystalmax.objectives.blend import Blend
from crystalmax.objectives.supervised import Ensemble, Regression
from crystalmax.reading.records import GREATEST
from crystalmax.spec import seeded_weights
from crystalmax.storage.dataset import CrystalDataset, Rows, batches_of_sites

log = logging.getLogger(__name__)

_TARGET = "target"
_FEW = 3000
"""With more labels than this, frozen vectors add nothing to the networks, and their processes take too long."""

Predictions = Float[np.ndarray, " crystals"]


class CrystalRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Copies of an encoder, each trained further together with a small head on labelled crystals, and averaged.

    The labels are cut into folds, by formula if there are two or more for each fold, and for each fold a copy learns
    from all others. So each label has a prediction by a copy that has not seen it, which shows how large errors are.
    There is no early stopping: the learning rate falls to zero by the last epoch. The encoder is trained at a lower
    rate than the head, so that few labels do not undo what it has learnt (Howard and Ruder, DOI 10.18653/v1/P18-1031).

    The prediction is a weighted mean of the copies, of a `SmallDataRegressor` on vectors of the encoder before
    fine-tuning, and of the median label, which is hard to beat where structures say little about the property. The
    weights are chosen by held-out labels, as for the members of that regressor. With more than 3,000 labels it is the
    mean of the copies alone.

    Args:
        encoder: The encoder to start from; it is copied, not changed.
        geometry: Makes the pairs that the encoder was trained on.
        epochs: Passes over the labelled crystals.
        learning_rate: Of AdamW for the head; it rises over the first twentieth of the epochs, then falls to zero.
        encoder_rate: Learning rate of the encoder, as a fraction of that of the head.
        sites_per_batch: Batches are filled up to about this many sites, and to at most an eighth of the labels.
        folds: Number of folds; with 0, one copy learns from all labels, and its error is not known.
        beside: Whether the regressor and the median are used beside the copies.
        seed: Seed of the heads, the folds, the order of crystals and the regressor on frozen vectors.
        accelerator: Device to train on, as Lightning names it.

    Attributes:
        objective_: What predicts: a `Blend`, or an `Ensemble` if the copies are used alone.
        held_out_: A prediction for each label by copies that have not seen it; empty without folds.
        refusals_: After `predict`: for each row that is NaN, its position and the reason.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        geometry: Geometry = AllPairs(),  # noqa: B008  # frozen
        epochs: int = 40,
        learning_rate: float = 3e-3,
        encoder_rate: float = 0.2,
        sites_per_batch: int = 400,
        folds: int = 5,
        beside: bool = True,
        seed: int = 0,
        accelerator: str = "cpu",
    ) -> None:
        self.encoder, self.geometry = encoder, geometry
        self.epochs, self.learning_rate, self.encoder_rate = epochs, learning_rate, encoder_rate
        self.sites_per_batch, self.folds, self.beside = sites_per_batch, folds, beside
        self.seed, self.accelerator = seed, accelerator

    @classmethod
    def from_pretrained(
        cls,
        run: str | Path = "shipped",
        *,
        trusted: tuple[str, ...] = (),
        **options: Any,  # noqa: ANN401  # as __init__
    ) -> "CrystalRegressor":
        """Start from the encoder of a run folder, or from the one that comes with the package."""
        model = checkpoint.load(run, trusted=trusted)
        if names := ", ".join(map(repr, model.labels_of)):
            log.warning("%s has learnt with labels of %s: errors of crystals that had them are too low", run, names)
        return cls(model.encoder, geometry=model.geometry, **options)

    def fit(self, X: Iterable[object], y: Any) -> "CrystalRegressor":  # noqa: ANN401  # any column of numbers
        """Fine-tune on these structures and values.

        Raises:
            Refused: A structure cannot be read.
            ValueError: As `fit_crystals`, or lengths differ, or a value is not finite, or beyond `records.GREATEST`.
        """
        values = np.asarray(y, dtype=np.float64)
        X = X if isinstance(X, Sized) else list(X)
        if values.shape != (len(X),):
            raise ValueError(f"there are {len(X)} structures but values of shape {values.shape}; give one value each")
        if (wrong := np.flatnonzero(~(np.abs(values) <= GREATEST))).size:
            raise ValueError(f"value {wrong[0]} is {values[wrong[0]]:g}, not within {GREATEST:g}; leave such rows out")
        crystals, _, _ = readable(X, raise_on_error=True)
        pairs = zip(crystals, values.tolist(), strict=True)
        return self.fit_crystals([replace(crystal, targets={_TARGET: value}) for crystal, value in pairs], _TARGET)

    def fit_crystals(self, crystals: Sequence[Crystal], target: str) -> "CrystalRegressor":
        """Fine-tune on canonical crystals that carry their value.

        Raises:
            ValueError: There are fewer than two labels for each fold, `folds` is 1 or negative, or there is no encoder.
        """
        if not isinstance(self.encoder, Encoder):
            raise ValueError(f"encoder is {self.encoder!r}; give an encoder, or call `from_pretrained`")
        if self.folds < 0 or self.folds == 1:
            raise ValueError(f"folds is {self.folds}; give 2 or more, or 0 for one copy that learns all labels")
        data = CrystalDataset.from_crystals(crystals)
        least = max(2, 2 * self.folds)
        if len(data) < least:
            raise ValueError(f"{len(data)} labels are too few for {self.folds} folds; give at least {least}")
        rows = np.arange(len(data))
        if not self.folds:
            self.objective_: Ensemble | Blend = Ensemble([self._train(data, target, rows, 0)]).eval()
            self.held_out_ = np.empty(0)
            return self
        groups = np.unique([formula(crystal) for crystal in crystals], return_inverse=True)[1]
        groups = groups if groups.max() + 1 >= least else rows
        values, members = data.values(target), []
        by_copies, by_medians = np.empty(len(data)), np.empty(len(data))
        split = GroupKFold(self.folds, shuffle=True, random_state=self.seed).split(rows, groups=groups)
        for fold, (inside, outside) in enumerate(split):
            log.info("training without fold %d of %d", fold + 1, self.folds)
            members.append(self._train(data, target, inside, fold))
            unseen = CrystalDataset.from_crystals(data.crystals(outside))
            by_copies[outside] = predict(members[-1], self.geometry, unseen)
            by_medians[outside] = np.median(values[inside])
        self.objective_, self.held_out_ = Ensemble(members).eval(), by_copies
        if self.beside and len(data) <= _FEW:
            self.objective_, self.held_out_ = self._beside(self.objective_, by_copies, by_medians, data, values, groups)
        return self

    def _beside(
        self,
        copies: Ensemble,
        by_copies: Predictions,
        by_medians: Predictions,
        data: CrystalDataset,
        values: Predictions,
        groups: Rows,
    ) -> tuple[Blend, Predictions]:
        """Copies, a regressor on vectors and the median as one objective, and its prediction for held-out labels."""
        vectors = encode(self.encoder, self.geometry, data)
        frozen = SmallDataRegressor(random_state=self.seed).fit(vectors, values, groups)
        left_out = np.stack([by_copies, frozen.held_out_, by_medians])
        sharpness = max(SHARPNESS, len(values) / 10)  # parts may differ a lot, which many labels tell well
        shares = weighed_shares(len(left_out), lambda shares: np.array(shares) @ left_out - values, sharpness)
        of_copies, _, of_median = shares
        start = copy.deepcopy(self.encoder)
        blend = Blend(copies, start, labels=len(values), share=of_copies, of_median=of_median, seed=self.seed)
        for name, numbers in (("vectors", vectors), ("values", values), ("groups", groups)):
            getattr(blend, name).copy_(torch.as_tensor(numbers))
        blend.regressor = frozen  # as it would be fitted again
        return blend.eval(), np.array(shares) @ left_out

    def predict(self, X: Iterable[object]) -> Float[np.ndarray, " crystals"]:  # sklearn's name
        """Predictions in the units of the values, NaN where a structure cannot be read."""
        check_is_fitted(self, "objective_")
        crystals, rows, self.refusals_ = readable(X, raise_on_error=False)
        out = np.full(len(rows) + len(self.refusals_), np.nan)
        if crystals:
            out[rows] = predict(self.objective_, self.geometry, CrystalDataset.from_crystals(crystals))
        return out

    def _train(self, data: CrystalDataset, target: str, rows: Rows, member: int) -> Regression:
        from crystalmax.learning.processes import Processes  # imports Lightning, which predictions do not need
        from crystalmax.learning.training import Split, Training, train

        values = data.values(target)[rows]
        # Other heads and orders make the errors of members more independent, so that their mean has a smaller error.
        seed = int(np.random.SeedSequence([self.seed, member]).generate_state(1)[0])
        with seeded_weights(seed):
            mean, deviation = float(values.mean()), float(values.std()) or 1.0
            objective = Regression(copy.deepcopy(self.encoder), target=target, mean=mean, deviation=deviation)
        # At least eight steps an epoch, however few labels there are.
        sites = min(self.sites_per_batch, max(int(data.n_sites[rows].sum()) // 8, 1))
        how = Training(
            epochs=self.epochs,
            sites_per_batch=sites,
            learning_rate=self.learning_rate,
            encoder_rate=self.encoder_rate,
            schedule="cosine",
            weight_decay=1e-2,
            seed=seed,
        )
        here = Processes(accelerator=self.accelerator)
        train(objective, data, Split(rows, rows[:0]), how, geometry=self.geometry, processes=here)
        return objective.eval()


def predict(
    objective: Regression | Ensemble | Blend, geometry: Geometry, data: CrystalDataset, sites_per_batch: int = 1200
) -> Float[np.ndarray, " crystals"]:
    """Predictions for a whole data set, in its order, on the device of the objective."""
    out = np.empty(len(data))
    device = next(objective.parameters()).device
    with torch.inference_mode():
        for batch in batches_of_sites(data.n_sites, sites_per_batch):
            out[batch] = objective.predict(geometry(data.batch(batch).to(device))).double().cpu().numpy()
    return out
