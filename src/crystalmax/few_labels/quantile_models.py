"""Models that predict a distribution for each row, given as its quantiles at `LEVELS`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import cho_solve
from scipy.stats import norm
from sklearn import config_context
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.preprocessing import StandardScaler
from sklearn.tree import ExtraTreeRegressor
from sklearn.utils import check_array

from crystalmax.few_labels.kernels import JITTER, PRIORS, Likely
from crystalmax.few_labels.powers import Powers

LEVELS: Float[np.ndarray, " levels"] = (np.arange(49) + 0.5) / 49
"""Probabilities of the quantiles that models predict; the middle one is the median."""

FEW = 300
"""Labels, at most, for the search of hyperparameters of a kernel, whose time grows with the cube of their number."""

FARTHEST = 4.0
"""Columns are clipped at this many standard deviations from their mean before a Gaussian process sees them."""

MANY = 0.1
"""A value that at least this share of the labels have is treated apart (see `Hurdle`), if as many have other values."""

LEAST = 5
"""The least number of labels that must have that value, and that must have others."""

Columns = Float[np.ndarray, "rows columns"]
Labels = Float[np.ndarray, " labels"]
Blocks = Sequence[int]
Parts = Sequence[Int[np.ndarray, " _"]]
Quantiles = Float[np.ndarray, "_ levels"]


@runtime_checkable
class Member(Protocol):
    """A fitted model that predicts distributions."""

    def quantiles(self, X: Columns) -> Quantiles:
        """Quantiles of the distribution of each row at `LEVELS`."""


@dataclass(frozen=True)
class Forest:
    """A quantile forest: labels that share leaves with a row are weighted by how often they do (Meinshausen 2006).

    The trees are those of `ExtraTreesRegressor`, which with few labels takes twice the time for the same trees.

    Attributes:
        trees: Extremely randomised trees.
        ascending: The labels.
        leaf_of_label: For each tree, the leaf that each label is in.
    """

    trees: Sequence[ExtraTreeRegressor]
    ascending: Labels
    leaf_of_label: Int[np.ndarray, "trees labels"]

    @classmethod
    def fit(cls, X: Columns, y: Labels, trees: int, seed: int, *, powers: bool = False) -> "Forest":
        """Grow trees until each leaf holds one value; with `powers` they learn the power transform of the labels."""
        order = np.argsort(y, kind="stable")
        rows, wanted = _single(X[order]), (Powers.of(y).there(y) if powers else y)[order]
        seeds = np.random.RandomState(seed).randint(np.iinfo(np.int32).max, size=trees)
        with config_context(skip_parameter_validation=True):
            grown = [
                ExtraTreeRegressor(max_features=1 / 3, random_state=each).fit(rows, wanted, check_input=False)
                for each in seeds
            ]
        return cls(grown, y[order], np.stack([tree.tree_.apply(rows) for tree in grown]))

    def quantiles(self, X: Columns) -> Quantiles:
        """Quantiles at `LEVELS` of the labels that share a leaf with each row, weighted by how often they do."""
        rows, weights = _single(X), np.zeros((len(X), len(self.ascending)))
        for tree, leaf_of_label in zip(self.trees, self.leaf_of_label, strict=True):
            together = tree.tree_.apply(rows)[:, None] == leaf_of_label
            weights += together / together.sum(axis=1, keepdims=True)
        weights /= weights.sum(axis=1, keepdims=True)
        return _quantiles(np.broadcast_to(self.ascending, weights.shape), weights, LEVELS)


@dataclass(frozen=True)
class Process:
    """A Gaussian process on scaled columns and labels, with a Matern kernel.

    Attributes:
        scaler: Standardises the columns.
        process: The Gaussian process, on labels with mean 0 and standard deviation 1.
        powers: The power transform of labels before that, if there is one.
        middle: Mean of the (transformed) labels.
        spread: Their standard deviation.
        likely: The hyperparameters.
        seed: Seed of the choice of labels that decide these.
    """

    scaler: StandardScaler
    process: GaussianProcessRegressor
    powers: Powers | None
    middle: float
    spread: float
    likely: Likely
    seed: int

    @classmethod
    def fit(
        cls, X: Columns, y: Labels, blocks: Blocks, *, powers: bool = False, seed: int = 0, known: Likely | None = None
    ) -> "Process":
        """Fit to all labels, with hyperparameters that are known or else found by the likelihood of `FEW` labels."""
        scaler = StandardScaler().set_output(transform="default").fit(X)
        inputs = _scaled(scaler, X)
        scale = Powers.of(y) if powers else None
        labels = scale.there(y) if scale else y
        middle, spread = float(labels.mean()), float(labels.std()) or 1.0
        labels = (labels - middle) / spread
        few = np.random.default_rng(seed).permutation(len(labels))[:FEW]
        if known is None:
            priors = PRIORS if len(labels) <= FEW else PRIORS[:1]  # with more labels, the prior hardly matters
            found = [Likely.before(blocks, prior).search(inputs[few], labels[few]) for prior in priors]
            known = min(found, key=lambda one: _surprise(_conditioned(one, inputs[few], labels[few])))
        elif known.apart:  # so many scales would know the labels that are left out
            known = known.search(inputs[few], labels[few])
        return cls(scaler, _conditioned(known, inputs, labels), scale, middle, spread, known, seed)

    def again(self, X: Columns, y: Labels) -> "Process":
        """Other labels with the same hyperparameters, or with those near them, where each column has a scale."""
        return Process.fit(X, y, (), powers=self.powers is not None, seed=self.seed, known=self.likely)

    @property
    def apart(self) -> "Process":
        """The same, but `again` finds a length scale for each column."""
        return replace(self, likely=replace(self.likely, apart=True))

    def quantiles(self, X: Columns) -> Quantiles:
        """Quantiles at `LEVELS` of a measurement at each row, noise included."""
        return self._said(*self.process.predict(_scaled(self.scaler, X), return_std=True))

    def above(self, X: Columns, value: float) -> Float[np.ndarray, " rows"]:
        """Probability that a measurement at each row is above a value; labels were learnt as they are."""
        mean, deviation = self.process.predict(_scaled(self.scaler, X), return_std=True)
        away = self.middle + self.spread * mean - value
        found: Float[np.ndarray, " rows"] = norm.cdf(away / (self.spread * deviation))
        return found

    def left_out(self, parts: Parts) -> Quantiles:
        """Quantiles for each label by the process without that label's part, in closed form.

        After Rasmussen and Williams, Gaussian Processes for Machine Learning, eq. 5.12, for parts, not single labels.
        """
        labels = self.process.y_train_
        precision = cho_solve((self.process.L_, True), np.eye(len(labels)))
        mean, variance = np.empty_like(labels), np.empty_like(labels)
        for held in parts:
            covariance = np.linalg.inv(precision[np.ix_(held, held)])
            mean[held] = labels[held] - covariance @ (precision[held] @ labels)
            variance[held] = np.diag(covariance)
        return self._said(mean, np.sqrt(variance))

    def _said(self, mean: Float[np.ndarray, " rows"], deviation: Float[np.ndarray, " rows"]) -> Quantiles:
        """From normal distributions of scaled labels to quantiles in units of the labels."""
        values: Quantiles = self.middle + self.spread * (mean[:, None] + deviation[:, None] * norm.ppf(LEVELS))
        return self.powers.back(values) if self.powers else values


@dataclass(frozen=True)
class Hurdle:
    """A hurdle model for properties where many labels have one value, such as the gap of 0 of metals.

    One Gaussian process predicts whether a row has another value, and a second one which value it is then (Cragg 1971,
    DOI 10.2307/1909582). The second learns from labels as they are or after a power transform, whichever has the lower
    leave-one-out error.

    Attributes:
        value: The value that many labels have.
        differs: A process on labels of 1 for rows with another value, and -1 for rows with this one.
        others: A process on the labels with other values.
        bounds: Limits of predictions: the value, where it is the least or the greatest label, else infinite.
    """

    value: float
    differs: Process
    others: Process
    bounds: tuple[float, float]

    @classmethod
    def fit(cls, X: Columns, y: Labels, value: float, blocks: Blocks, *, seed: int = 0) -> "Hurdle":
        """Fit both processes; at least two labels must have other values."""
        differs = y != value
        columns, others = X[differs], y[differs]
        found = [Process.fit(columns, others, blocks, powers=powers, seed=seed) for powers in (False, True)]
        each = np.arange(len(others))[:, None]
        told = [process.left_out(list(each))[:, len(LEVELS) // 2] for process in found]
        best = int(np.argmin([np.abs(median - others).mean() for median in told]))
        bounds = value if value <= y.min() else -np.inf, value if value >= y.max() else np.inf
        return cls(value, Process.fit(X, 2.0 * differs - 1, blocks, seed=seed), found[best], bounds)

    def again(self, X: Columns, y: Labels) -> "Hurdle":
        """Other labels with the same hyperparameters."""
        differs = y != self.value
        others = self.others.again(X[differs], y[differs])
        return replace(self, differs=self.differs.again(X, 2.0 * differs - 1), others=others)

    @property
    def apart(self) -> "Hurdle":
        """The same, but `again` finds a length scale for each column."""
        return replace(self, differs=self.differs.apart, others=self.others.apart)

    def quantiles(self, X: Columns) -> Quantiles:
        """Quantiles at `LEVELS` of the mixture of the one value and the distribution of others, by probability."""
        differs = self.differs.above(X, 0.0)[:, None]
        values = np.insert(np.clip(self.others.quantiles(X), *self.bounds), 0, self.value, axis=1)
        weights = np.concatenate([1 - differs, np.broadcast_to(differs / len(LEVELS), (len(X), len(LEVELS)))], axis=1)
        order = np.argsort(values, axis=1, kind="stable")
        return _quantiles(np.take_along_axis(values, order, axis=1), np.take_along_axis(weights, order, axis=1), LEVELS)


@dataclass(frozen=True)
class Told:
    """The prediction of another model, with the distribution of errors that it made on labels it had not seen.

    Attributes:
        errors: Quantiles at `LEVELS` of the label minus the prediction.
    """

    errors: Float[np.ndarray, " levels"]

    @classmethod
    def fit(cls, X: Columns, y: Labels) -> "Told":
        """Fit to one column: a prediction of each label by a model that had not seen it."""
        return cls(np.quantile(y - X[:, 0], LEVELS))

    def quantiles(self, X: Columns) -> Quantiles:
        """Quantiles at `LEVELS` of the value, given a prediction of each row."""
        said: Quantiles = X + self.errors
        return said


def value_of_many(y: Labels, parts: Parts) -> float | None:
    """The most frequent label, if enough labels have it, and enough another, whichever part is left out; else None."""
    values, counts = np.unique(y, return_counts=True)
    has = y == values[counts.argmax()]
    kept = [np.delete(has, held) for held in parts]
    least = [min(each.sum(), (~each).sum()) - max(LEAST, MANY * len(each)) for each in kept]
    return float(values[counts.argmax()]) if min(least) >= 0 else None


def left_out(fit: Callable[[Columns, Labels], Member], X: Columns, y: Labels, parts: Parts) -> Quantiles:
    """Quantiles for each label by a member that was fitted without its part."""
    found = np.empty((len(y), len(LEVELS)))
    for held in parts:
        kept = np.setdiff1d(np.arange(len(y)), held)
        found[held] = fit(X[kept], y[kept]).quantiles(X[held])
    return found


def mixture(
    members: Sequence[Quantiles], shares: Sequence[float], levels: Sequence[float]
) -> Float[np.ndarray, "rows asked"]:
    """Quantiles at these levels of a mixture of distributions, each given by its quantiles at `LEVELS`."""
    used = [(member, share) for member, share in zip(members, shares, strict=True) if share]
    values = np.concatenate([member for member, _ in used], axis=1)
    weights = np.repeat([share for _, share in used], len(LEVELS)) / len(LEVELS)
    order = np.argsort(values, axis=1, kind="stable")
    return _quantiles(np.take_along_axis(values, order, axis=1), weights[order], np.asarray(levels, dtype=float))


def _quantiles(
    values: Float[np.ndarray, "rows points"],
    weights: Float[np.ndarray, "rows points"],
    levels: Float[np.ndarray, " asked"],
) -> Float[np.ndarray, "rows asked"]:
    """Quantiles of weighted points, ascending in each row; weights of a row sum to 1."""
    row = np.arange(len(values))[:, None]
    reached = np.cumsum(weights, axis=1)
    # One search serves all rows: each has a stretch of its own on one line. Rounding must not skip a point.
    place = np.searchsorted((reached + 2 * row).ravel(), (levels - 1e-9 + 2 * row).ravel())
    return np.take_along_axis(values, place.reshape(len(values), -1) - row * values.shape[1], axis=1)


def _conditioned(likely: Likely, inputs: Columns, labels: Labels) -> GaussianProcessRegressor:
    return GaussianProcessRegressor(likely.kernel, alpha=JITTER, optimizer=None).fit(inputs, labels)


def _surprise(process: GaussianProcessRegressor) -> float:
    """Mean negative log probability of each label given all others, up to constants (ibid., eqs. 5.10 to 5.12)."""
    variance = 1 / np.diag(cho_solve((process.L_, True), np.eye(len(process.L_))))
    return float((variance * process.alpha_**2 + np.log(variance)).mean())


def _single(X: Columns) -> Float[np.ndarray, "rows columns"]:
    """Columns in float32, as trees need them; a ValueError where a number is too large for it."""
    rows: Float[np.ndarray, "rows columns"] = check_array(X, dtype=np.float32, order="C")
    return rows


def _scaled(scaler: StandardScaler, X: Columns) -> Columns:
    scaled: Columns = np.clip(scaler.transform(X), -FARTHEST, FARTHEST)
    return scaled
