"""Regression from few labels: a forest and Gaussian processes, mixed as the labels themselves advise, with intervals.

Every member predicts a distribution, which is kept as its quantiles at `LEVELS`, so that a mixture of them is a set of
weighted points whatever they are.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike
from scipy.linalg import cho_solve
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, WhiteKernel
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import PowerTransformer, StandardScaler
from sklearn.utils.validation import check_is_fitted, validate_data

from crystalmax.kernels import BlockMatern, most_likely

LEVELS: Float[np.ndarray, " levels"] = (np.arange(49) + 0.5) / 49
"""Probabilities at which members say their quantiles; the middle one is the median."""

MASSES: Float[np.ndarray, " masses"] = np.linspace(0, 0.98, 99)
"""How much of a distribution may lie between the ends of an interval; ends between two of them are interpolated."""

PLACES: Float[np.ndarray, " places"] = np.linspace(0, len(MASSES) - 1, 10 * (len(MASSES) - 1) + 1)
"""Places among `MASSES` where intervals may end: forests of few trees have few quantiles, and jump between them."""

FOLDS = 5
"""Parts of the labels, at most, that are left out in turn, to see how well each member predicts them."""

STEPS = 4
"""Shares of members are multiples of one over this."""

FEW = 300
"""So many labels at most decide the hyperparameters of a kernel, whose search costs the cube of their number."""

ANEW = 150
"""With so many labels at most, intervals rest on hyperparameters that have not seen the labels left out."""

FARTHEST = 4.0
"""Deviations from the mean at which a column is cut off before a Gaussian process sees it."""

Columns = Float[np.ndarray, "rows columns"]
Labels = Float[np.ndarray, " labels"]
Parts = Sequence[Int[np.ndarray, " _"]]
Quantiles = Float[np.ndarray, "_ levels"]


class SmallDataRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Predicts from 50 to some thousand labels, with intervals.

    Three members say a distribution each: a quantile forest of extremely randomised trees (Meinshausen 2006), a
    Gaussian process, and one on labels made normal by a power transform, which suits what is positive and skewed. Their
    mixture has the shares with which its median comes nearest to labels that were left out. The prediction is the
    median of the mixture, where the mean absolute error is least. Intervals lie between quantiles of the
    mixture, as far out as labels left out demand (distributional conformal prediction, DOI 10.1073/pnas.2107794118).
    A fit takes a second and a half with 50 labels, and a quarter of a minute with 1,000.

    Columns need no scaling, and may be more than labels.

    Args:
        trees: Of the forest.
        blocks: Widths of blocks of columns that mean different things, such as vectors beside statistics; the processes
            give each a length scale of its own. One block unless given.
        random_state: Seed of the forest, of the parts that are left out and of the labels that decide hyperparameters.

    Attributes:
        shares_: Share of each member: forest, process, process on transformed labels.
        held_out_: A prediction for each label, left out in turn.
        error_: Their mean absolute error; a little too good, as it chose the shares.
    """

    def __init__(self, trees: int = 100, *, blocks: Sequence[int] = (), random_state: int | None = 0) -> None:
        self.trees, self.blocks, self.random_state = trees, blocks, random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> "SmallDataRegressor":
        """Fit all members, then choose their shares.

        Args:
            X: A row for each label.
            y: The labels.
            groups: A name for each label; labels of one name, such as polymorphs, are left out together.

        Raises:
            ValueError: There are fewer than two labels or groups, values that are not finite, or blocks that do not
                cover the columns.
        """
        found = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        if self.blocks and sum(self.blocks) != found[0].shape[1]:
            raise ValueError(
                f"blocks of {' + '.join(map(str, self.blocks))} columns were announced, but there are "
                f"{found[0].shape[1]} columns; give the widths of what stands side by side, or none"
            )
        return self._fit(found[0], found[1].astype(np.float64), None if groups is None else np.asarray(groups))

    def _fit(self, X: Columns, y: Labels, groups: Shaped[np.ndarray, " labels"] | None) -> "SmallDataRegressor":
        rng = np.random.default_rng(self.random_state)
        seed, few = int(rng.integers(2**31)), rng.permutation(len(y))[:FEW]
        parts = _parts(np.arange(len(y)) if groups is None else groups, seed)
        blocks = tuple(self.blocks) or (X.shape[1],)
        transforms = (None, PowerTransformer())
        processes = [Process.fit(X, y, few, blocks, transform) for transform in transforms]
        self.members_: tuple[Member, ...] = (Forest.fit(X, y, self.trees, seed), *processes)
        # With fewer trees the forest looks worse than it is, and gets a smaller share.
        forest = _left_out(partial(Forest.fit, trees=-(-self.trees // 2), seed=seed), X, y, parts)
        left_out = (forest, *(process.left_out(parts) for process in processes))
        told = {shares: mixture(left_out, shares, [0.5])[:, 0] for shares in _all_shares(len(self.members_))}
        errors = {shares: float(np.abs(each - y).mean()) for shares, each in told.items()}
        self.shares_ = min(errors, key=lambda shares: errors[shares])
        self.held_out_, self.error_ = told[self.shares_], errors[self.shares_]
        if len(y) <= ANEW:  # the shares are none the better for it, but intervals would be too narrow
            again = (partial(Process.fit, few=None, blocks=blocks, transform=each) for each in transforms)
            left_out = (forest, *(_left_out(fit, X, y, parts) for fit in again))
        self.left_out_, self.labels_ = left_out, y
        return self

    def predict(self, X: ArrayLike) -> Float[np.ndarray, " rows"]:
        """The median of the mixture for each row."""
        median: Float[np.ndarray, " rows"] = self.predict_quantiles(X, [0.5])[:, 0]
        return median

    def predict_quantiles(self, X: ArrayLike, levels: Sequence[float]) -> Float[np.ndarray, "rows asked"]:
        """Quantiles of the mixture at these probabilities, as they are."""
        check_is_fitted(self)
        columns: Columns = validate_data(self, X, dtype=np.float64, reset=False)
        return mixture([member.quantiles(columns) for member in self.members_], self.shares_, levels)

    def predict_interval(self, X: ArrayLike, coverage: float = 0.9) -> Float[np.ndarray, "rows 2"]:
        """Ends of an interval for each row that holds the measured value with this probability.

        Raises:
            ValueError: The coverage is not between 0 and 1.
        """
        return self.predict_with_interval(X, coverage)[:, 1:]

    def predict_with_interval(self, X: ArrayLike, coverage: float = 0.9) -> Float[np.ndarray, "rows 3"]:
        """What `predict` and `predict_interval` say, side by side, in half the time.

        Raises:
            ValueError: The coverage is not between 0 and 1.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"a coverage of {coverage} was asked for; give one between 0 and 1, such as 0.9")
        ends = np.split(mixture(self.left_out_, self.shares_, _ends(MASSES)), 2, axis=1)
        low, high = (_between(end, PLACES) for end in ends)
        inside = (low <= self.labels_[:, None]) & (self.labels_[:, None] <= high)
        level = min(1.0, coverage * (1 + 1 / len(self.labels_)))
        enough = inside.mean(axis=0) >= level
        place = PLACES[enough.argmax() if enough.any() else -1]
        # Where even the outermost quantiles hold too few, they are moved outwards.
        beyond = np.maximum(low[:, -1] - self.labels_, self.labels_ - high[:, -1])
        margin = 0.0 if enough.any() else float(np.quantile(beyond, level, method="higher"))
        first = min(int(place), len(MASSES) - 2)
        told = self.predict_quantiles(X, [0.5, *_ends(MASSES[first : first + 2])])
        low, high = (_between(end, place[None] - first) for end in np.split(told[:, 1:], 2, axis=1))
        return np.concatenate([told[:, :1], low - margin, high + margin], axis=1)


@runtime_checkable
class Member(Protocol):
    """A fitted model that predicts distributions."""

    def quantiles(self, X: Columns) -> Quantiles:
        """Quantiles of the distribution of each row at `LEVELS`."""


@dataclass(frozen=True)
class Forest:
    """A forest whose leaves say which labels a row resembles, and how much.

    Attributes:
        forest: The trees.
        ascending: The labels.
        leaf_of_label: The leaf of each tree that holds the label.
    """

    forest: ExtraTreesRegressor
    ascending: Labels
    leaf_of_label: Int[np.ndarray, "labels trees"]

    @classmethod
    def fit(cls, X: Columns, y: Labels, trees: int, seed: int) -> "Forest":
        """Grow trees until each leaf holds one value."""
        order = np.argsort(y, kind="stable")
        forest = ExtraTreesRegressor(trees, max_features=1 / 3, n_jobs=1, random_state=seed).fit(X[order], y[order])
        return cls(forest, y[order], forest.apply(X[order]))

    def quantiles(self, X: Columns) -> Quantiles:
        """Quantiles at `LEVELS` of the labels that share a leaf with each row, weighted by how often they do."""
        weights = np.zeros((len(X), len(self.ascending)))
        for leaf, leaf_of_label in zip(self.forest.apply(X).T, self.leaf_of_label.T, strict=True):
            together = leaf[:, None] == leaf_of_label
            weights += together / together.sum(axis=1, keepdims=True)
        weights /= weights.sum(axis=1, keepdims=True)
        return _quantiles(np.broadcast_to(self.ascending, weights.shape), weights, LEVELS)


def _parts(groups: Shaped[np.ndarray, " labels"], seed: int) -> Parts:
    n_groups = len(np.unique(groups))
    if n_groups < 2:
        raise ValueError(
            f"all {len(groups)} labels are of one group, and none can be left out; give other groups, or none"
        )
    split = GroupKFold(min(FOLDS, n_groups), shuffle=True, random_state=seed)
    return [held for _, held in split.split(groups, groups=groups)]


def _left_out(fit: Callable[[Columns, Labels], Member], X: Columns, y: Labels, parts: Parts) -> Quantiles:
    """What a member says of each label that it was not fitted to."""
    found = np.empty((len(y), len(LEVELS)))
    for held in parts:
        kept = np.setdiff1d(np.arange(len(y)), held)
        found[held] = fit(X[kept], y[kept]).quantiles(X[held])
    return found


@dataclass(frozen=True)
class Process:
    """A Gaussian process on scaled columns and labels, with a Matern kernel over blocks of columns.

    Attributes:
        scaler: Of the columns.
        process: On labels of mean 0 and deviation 1.
        transform: Made the labels normal before that, if it was wanted.
        middle: Mean of the labels, after the transform.
        spread: Their deviation.
    """

    scaler: StandardScaler
    process: GaussianProcessRegressor
    transform: PowerTransformer | None
    middle: float
    spread: float

    @classmethod
    def fit(
        cls,
        X: Columns,
        y: Labels,
        few: Int[np.ndarray, " few"] | None,
        blocks: Sequence[int],
        transform: PowerTransformer | None = None,
    ) -> "Process":
        """Find hyperparameters by the likelihood of a few of the labels, or of all, then condition on all."""
        few = np.arange(len(y)) if few is None else few
        transform = None if transform is None else clone(transform)
        scaler = StandardScaler().fit(X)
        inputs = _scaled(scaler, X)
        labels = y if transform is None else transform.fit_transform(y[:, None])[:, 0]
        middle, spread = float(labels.mean()), float(labels.std()) or 1.0
        labels = (labels - middle) / spread
        # Scales at which, with all blocks equal, rows a deviation apart in every column are at distance 1.
        matern = BlockMatern(blocks, np.full(len(blocks), len(blocks) ** 0.5))
        kernel = ConstantKernel() * matern + WhiteKernel(0.1)
        search = partial(most_likely, scales=slice(1, 1 + len(blocks)))  # between the constant and the noise
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # labels without noise end at a bound, which is right
            found = GaussianProcessRegressor(kernel, alpha=1e-6, optimizer=search).fit(inputs[few], labels[few]).kernel_
        process = GaussianProcessRegressor(found, alpha=1e-6, optimizer=None).fit(inputs, labels)
        return cls(scaler, process, transform, middle, spread)

    def quantiles(self, X: Columns) -> Quantiles:
        """Quantiles at `LEVELS` of a measurement at each row, noise included."""
        return self._said(*self.process.predict(_scaled(self.scaler, X), return_std=True))

    def left_out(self, parts: Parts) -> Quantiles:
        """What the process would say of each label without its part, in closed form.

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
        values = mean[:, None] + deviation[:, None] * norm.ppf(LEVELS)
        if self.transform is None:
            plain: Quantiles = self.middle + self.spread * values
            return plain
        # Beyond the labels, the inverse of a power transform grows without bound, or ends.
        inside = np.clip(values, self.process.y_train_.min(), self.process.y_train_.max())
        units = (self.middle + self.spread * inside).reshape(-1, 1)
        found: Quantiles = self.transform.inverse_transform(units).reshape(values.shape)
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
    reached = np.minimum(np.cumsum(weights, axis=1), 1)
    reached[:, -1] = 1
    # One search serves all rows: each has a stretch of its own on one line. Rounding must not skip a point.
    place = np.searchsorted((reached + 2 * row).ravel(), (levels - 1e-9 + 2 * row).ravel())
    return np.take_along_axis(values, place.reshape(len(values), -1) - row * values.shape[1], axis=1)


def _all_shares(n_members: int) -> list[tuple[float, ...]]:
    """All shares in steps, the most even first, which therefore win ties."""
    steps = [each for each in product(range(STEPS + 1), repeat=n_members) if sum(each) == STEPS]
    return [tuple(step / STEPS for step in each) for each in sorted(steps, key=max)]


def _between(
    ends: Float[np.ndarray, "rows masses"], places: Float[np.ndarray, " places"]
) -> Float[np.ndarray, "rows places"]:
    """Ends of intervals at these places, counted from the first of the ends that are given."""
    first = np.minimum(places.astype(int), ends.shape[1] - 2)
    share = places - first
    found: Float[np.ndarray, "rows places"] = ends[:, first] * (1 - share) + ends[:, first + 1] * share
    return found


def _ends(masses: Float[np.ndarray, " masses"]) -> list[float]:
    """Levels between which so much of a distribution lies; all lower ones first."""
    return [*((1 - masses) / 2).tolist(), *((1 + masses) / 2).tolist()]


def _scaled(scaler: StandardScaler, X: Columns) -> Columns:
    scaled: Columns = np.clip(scaler.transform(X), -FARTHEST, FARTHEST)
    return scaled
