"""Regression from few labels: forests and Gaussian processes, mixed as the labels themselves advise, with intervals.

Every member predicts a distribution, which is kept as its quantiles, so that a mixture of them is a set of weighted
points whatever they are.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import GroupKFold
from sklearn.utils.validation import check_is_fitted, validate_data

from crystalmax.few_labels.powers import unit_of
from crystalmax.few_labels.quantile_models import (
    LEVELS,
    Blocks,
    Columns,
    Forest,
    Hurdle,
    Labels,
    Member,
    Parts,
    Process,
    Quantiles,
    Told,
    left_out,
    mixture,
    value_of_many,
)
from crystalmax.memory import keep_freed_memory

Shares = tuple[float, ...]
MASSES: Float[np.ndarray, " masses"] = np.linspace(0, 0.98, 99)
"""Probabilities between the ends of the intervals that are tried; in between, ends are interpolated."""

PLACES: Float[np.ndarray, " places"] = np.linspace(0, len(MASSES) - 1, 10 * (len(MASSES) - 1) + 1)
"""Fractional indices into `MASSES` at which intervals may end: forests of few trees have few distinct quantiles."""

FOLDS = 5
"""Folds of the cross-validation that shows how well each member predicts labels that it has not seen."""

STEPS = 4
"""The mixtures that are compared have shares that are multiples of 1 over this."""

SHARPNESS = 20
"""Mixtures are averaged with weights of error to the power of minus this: a tenth less error, 8 times the weight."""

FARTHEST = 3
"""Errors are clipped at this many times their 95th percentile, so that no single label decides between members."""

ANEW = 150
"""Up to this many labels, hyperparameters are searched anew in each fold, or intervals would become too narrow, and
columns are not told apart."""

AT_ONCE = 2000
"""Rows that are predicted at once. Each takes 70 bytes of memory for each label."""


class SmallDataRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """Predicts from 50 to some thousand labels, with intervals.

    A mixture of four models, its members, that each predict a distribution: a quantile forest of extremely randomised
    trees, a Gaussian process, and both again on labels made normal by a power transform, which suits positive and
    skewed properties. Where many labels have the same value, such as gaps of 0, a fifth member predicts how likely that
    value is, and what the property is otherwise. The shares of the members are those with which the median of the
    mixture is closest to held-out labels. The prediction is that median, which minimises the mean absolute error.
    Intervals lie between quantiles of the mixture that are calibrated on held-out labels (distributional conformal
    prediction, DOI 10.1073/pnas.2107794118). Columns need no scaling, and there may be more of them than labels. A fit
    takes a second with 50 labels, and about 20 s with 1,000.

    Predictions of other models can join as further members: they are given in the last columns (see `told`).

    Args:
        trees: Number of trees in each forest.
        blocks: Widths of blocks of columns with different meaning, such as vectors beside statistics; the Gaussian
            processes have a length scale for each. One block unless given.
        told: How many of the last columns are predictions by other models, in the units of the labels. In `fit` they
            must be by models that have not seen the label, as `CrystalRegressor.held_out_` or `cross_val_predict`.
        random_state: Seed of the forests, of the folds, and of the choice of labels for the hyperparameters.

    Attributes:
        shares_: Share of each member: the forests on labels as they are and transformed, the two processes likewise,
            the fifth member if there is one, and the other models.
        held_out_: A prediction for each label, by members that were fitted without it.
        error_: Their mean absolute error, which is slightly optimistic, since the shares were chosen by it.
    """

    def __init__(
        self, trees: int = 100, *, blocks: Sequence[int] = (), told: int = 0, random_state: int | None = 0
    ) -> None:
        self.trees, self.blocks, self.told, self.random_state = trees, blocks, told, random_state

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> "SmallDataRegressor":
        """Fit all members, then choose their shares.

        Args:
            X: A row for each label.
            y: The labels.
            groups: A name for each label; labels with the same name, such as polymorphs, stay in one fold.

        Raises:
            ValueError: There are no trees, fewer than two labels or groups, values that are not finite, labels without
                a group, or blocks that do not cover the columns.
        """
        with np.errstate(invalid="ignore"):  # the sum of the greatest labels of both signs is no number
            columns, labels = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        if self.trees < 1:
            raise ValueError(f"trees is {self.trees}; a forest needs 1 at least")
        described = columns.shape[1] - self.told
        if self.told < 0 or described < 1:
            raise ValueError(f"{self.told} of {columns.shape[1]} columns were told; others must say what is described")
        blocks = tuple(self.blocks) or (described,)
        if min(blocks) < 1 or sum(blocks) != described:
            raise ValueError(
                f"blocks of {' + '.join(map(str, blocks))} columns were announced, but there are {described} "
                "columns; give the widths of what stands side by side, at least 1 each, or none"
            )
        return self._fit(columns, labels.astype(np.float64), numbers_of(groups, len(labels)), blocks)

    def _fit(self, X: Columns, y: Labels, groups: Int[np.ndarray, " labels"], blocks: Blocks) -> "SmallDataRegressor":
        keep_freed_memory()
        unit = unit_of(y)
        y = y / unit
        X, *told = self._parted(X, unit)
        seed = int(np.random.default_rng(self.random_state).integers(2**31))
        parts = _parts(groups, seed)
        value = value_of_many(y, parts)
        fit_forests = [partial(Forest.fit, seed=seed, powers=powers) for powers in (False, True)]
        fit_processes = [partial(Process.fit, blocks=blocks, powers=powers, seed=seed) for powers in (False, True)]
        fit_hurdles = [] if value is None else [partial(Hurdle.fit, value=value, blocks=blocks, seed=seed)]
        forests = [fit(X, y, trees=self.trees) for fit in fit_forests]
        processes = [fit(X, y) for fit in fit_processes]
        hurdles = [fit(X, y) for fit in fit_hurdles]
        voices = [Told.fit(column, y) for column in told]
        # Half of the trees save time. With fewer, forests would look worse than they are, and get smaller shares.
        by_forests = [left_out(partial(fit, trees=-(-self.trees // 2)), X, y, parts) for fit in fit_forests]
        kernels: list[tuple[Process | Hurdle, Quantiles]] = [
            *((process, process.left_out(parts)) for process in processes),
            *((hurdle, left_out(hurdle.again, X, y, parts)) for hurdle in hurdles),
        ]
        by_voices = [left_out(Told.fit, column, y, parts) for column in told]
        if len(y) > ANEW:
            kernels = [_better(member, said, X, y, parts) for member, said in kernels]
        members: tuple[Member, ...] = (*forests, *(member for member, _ in kernels), *voices)
        by_kernels = [said for _, said in kernels]

        medians = partial(mixture, [*by_forests, *by_kernels, *by_voices], levels=[0.5])
        shares = weighed_shares(len(members), lambda shares: medians(shares)[:, 0] - y)
        held_out = unit * medians(shares)[:, 0]
        if len(y) <= ANEW:  # shares would not improve by this, but intervals would be too narrow without it
            again: list[Callable[[Columns, Labels], Member]] = [*fit_processes, *fit_hurdles]
            by_kernels = [left_out(fit, X, y, parts) for fit in again]
        # Set together, so that an interrupted fit leaves the one before whole.
        self.unit_, self.members_, self.shares_, self.held_out_ = unit, members, shares, held_out
        self.bounds_ = hurdles[0].bounds if hurdles else (-np.inf, np.inf)
        self.error_ = float(unit * np.abs(held_out / unit - y).mean())
        self.left_out_, self.labels_ = (*by_forests, *by_kernels, *by_voices), y
        return self

    def _parted(self, X: Columns, unit: float) -> list[Float[np.ndarray, "rows _"]]:
        """The columns that describe rows, then each prediction of another model, in the unit of the labels."""
        described = X.shape[1] - self.told
        return [X[:, :described], *(X[:, [column]] / unit for column in range(described, X.shape[1]))]

    def _said(self, X: Columns) -> list[Quantiles]:
        """The quantiles that each member predicts."""
        described, *told = self._parted(X, self.unit_)
        others = len(self.members_) - len(told)
        seen = [*[described] * others, *told]
        return [member.quantiles(columns) for member, columns in zip(self.members_, seen, strict=True)]

    def predict(self, X: ArrayLike) -> Float[np.ndarray, " rows"]:
        """The median of the mixture for each row; NaN for rows with a NaN, as of structures that could not be read."""
        return self.predict_quantiles(X, [0.5])[:, 0]

    def predict_quantiles(self, X: ArrayLike, levels: Sequence[float]) -> Float[np.ndarray, "rows asked"]:
        """Quantiles of the mixture at these probabilities, without calibration; NaN where `predict` gives NaN.

        Raises:
            ValueError: A probability is not between 0 and 1.
        """
        check_is_fitted(self)
        return self.unit_ * self._quantiles(X, levels)

    def _quantiles(self, X: ArrayLike, levels: Sequence[float]) -> Float[np.ndarray, "rows asked"]:
        """As `predict_quantiles`, in the unit of `left_out_`, `labels_` and `bounds_`."""
        if wrong := [level for level in levels if not 0 <= level <= 1]:
            raise ValueError(f"quantiles at {wrong[0]} were asked for; give probabilities between 0 and 1, such as 0.9")
        columns: Columns = validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite="allow-nan")
        known = np.flatnonzero(~np.isnan(columns).any(axis=1))
        told = np.full((len(columns), len(levels)), np.nan)
        for begin in range(0, len(known), AT_ONCE):
            rows = known[begin : begin + AT_ONCE]
            told[rows] = mixture(self._said(columns[rows]), self.shares_, levels)
        return told

    def predict_interval(self, X: ArrayLike, coverage: float = 0.9) -> Float[np.ndarray, "rows 2"]:
        """Ends of an interval for each row that contains the measured value with this probability.

        With n groups of labels the coverage cannot be guaranteed beyond n / (n + 1): with fewer than nine, intervals of
        0.9 are too narrow. Where many labels have the least or the greatest value, such as gaps of 0, intervals end at
        that value; no other bound is known.

        Raises:
            ValueError: The coverage is not between 0 and 1.
        """
        return self.predict_with_interval(X, coverage)[:, 1:]

    def predict_with_interval(self, X: ArrayLike, coverage: float = 0.9) -> Float[np.ndarray, "rows 3"]:
        """Results of `predict` and `predict_interval` side by side, in half the time.

        Raises:
            ValueError: The coverage is not between 0 and 1.
        """
        check_is_fitted(self)
        check_coverage(coverage)
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
        told = self._quantiles(X, [0.5, *_ends(MASSES[first : first + 2])])
        low, high = (_between(end, place[None] - first) for end in np.split(told[:, 1:], 2, axis=1))
        median, (least, greatest) = told[:, :1], self.bounds_
        found: Float[np.ndarray, "rows 3"] = np.concatenate([median, low - margin, high + margin], axis=1)
        return self.unit_ * found.clip(np.minimum(least, median), np.maximum(greatest, median))


def check_coverage(coverage: float) -> None:
    """Raise a ValueError unless this is a probability between 0 and 1."""
    if not 0 < coverage < 1:
        raise ValueError(f"a coverage of {coverage} was asked for; give one between 0 and 1, such as 0.9")


def weighed_shares(members: int, miss: Callable[[Shares], Labels], sharpness: float = SHARPNESS) -> Shares:
    """Shares of this many members: a mean over all mixtures of `STEPS`, weighted by their held-out errors, `miss`."""
    steps = [counts for counts in product(range(STEPS + 1), repeat=members) if sum(counts) == STEPS]
    mixtures = [tuple(count / STEPS for count in counts) for counts in steps]
    errors = _errors(np.array([miss(shares) for shares in mixtures]))
    weights = (errors.min() / errors) ** sharpness
    return tuple((weights @ np.array(mixtures) / weights.sum()).tolist())


def numbers_of(groups: ArrayLike | None, n_labels: int) -> Int[np.ndarray, " labels"]:
    """The number of the group of each label, in the order of their names; without groups, each label is its own."""
    if groups is None:
        return np.arange(n_labels)
    numbers: Int[np.ndarray, " labels"] = pd.factorize(np.ravel(groups), sort=True)[0]
    if len(numbers) != n_labels:
        raise ValueError(f"there are {n_labels} labels but {len(numbers)} groups; give one for each")
    if (missing := np.flatnonzero(numbers < 0)).size:
        raise ValueError(f"label {missing[0]} has no group; give each a group, such as its formula")
    return numbers


def _better(
    member: Process | Hurdle, said: Quantiles, X: Columns, y: Labels, parts: Parts
) -> tuple[Process | Hurdle, Quantiles]:
    """A member, or the same with a length scale for each column: whichever tells labels left out better."""
    apart = member.apart.again(X, y)
    both = ((member, said), (apart, left_out(apart.again, X, y, parts)))
    return both[_errors(np.stack([quantiles[:, len(LEVELS) // 2] - y for _, quantiles in both])).argmin()]


def _errors(missed: Float[np.ndarray, "candidates labels"]) -> Float[np.ndarray, " candidates"]:
    """Mean absolute errors, in which no label counts for more than `FARTHEST` says."""
    missed = np.abs(missed)
    farthest = FARTHEST * float(np.quantile(missed[missed.mean(axis=1).argmin()], 0.95))
    clipped = np.minimum(missed, farthest or np.inf)  # it is 0 where almost all labels are foreseen
    errors: Float[np.ndarray, " candidates"] = np.maximum(clipped.mean(axis=1), np.finfo(float).tiny)
    return errors


def _parts(groups: Int[np.ndarray, " labels"], seed: int) -> Parts:
    if (n_groups := len(np.unique(groups))) < 2:
        raise ValueError(
            f"all {len(groups)} labels are of one group, and none can be left out; give other groups, or none"
        )
    split = GroupKFold(min(FOLDS, n_groups), shuffle=True, random_state=seed)
    return [held for _, held in split.split(groups, groups=groups)]


def _between(
    ends: Float[np.ndarray, "rows masses"], places: Float[np.ndarray, " places"]
) -> Float[np.ndarray, "rows places"]:
    """Ends of intervals at fractional indices into these ends, by linear interpolation."""
    first = np.minimum(places.astype(int), ends.shape[1] - 2)
    share = places - first
    # In this form an end between two that are equal is equal to them, as is the value of many labels.
    found: Float[np.ndarray, "rows places"] = ends[:, first] + (ends[:, first + 1] - ends[:, first]) * share
    return found


def _ends(masses: Float[np.ndarray, " masses"]) -> list[float]:
    """Levels of the quantiles that enclose these central probabilities; all lower ends first."""
    return [*((1 - masses) / 2).tolist(), *((1 + masses) / 2).tolist()]
