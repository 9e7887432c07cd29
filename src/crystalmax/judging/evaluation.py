"""How well features predict a property from few labels, with the same labels, test rows and scaling for all.

This module knows arrays and scikit-learn estimators only, not crystals. `verdict` says what the scores mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_array, column_or_1d, has_fit_parameter

from crystalmax.few_labels.powers import unit_of
from crystalmax.few_labels.ridge import PowerRidge
from crystalmax.few_labels.small_data import numbers_of
from crystalmax.spread import in_order, one_thread
from crystalmax.terminal import counted

Kind = Literal["pretrained", "untrained", "baseline", "joint", "trivial"]
"""Role of a feature set: trained vectors, their untrained twins, plain numbers, vectors with these, or no features."""

TRIVIAL = "nothing"
"""Name of the predictor that sees no features and always answers with the median of its labels."""

TWIN_SEEDS = (1001, 1002, 1003)
"""Seeds of untrained twins; far from those that runs are usually trained with."""

FEW_LABELS = 150
"""Below this many labels a test split would be too small, and folds are used instead."""


@dataclass(frozen=True)
class FeatureSet:
    """Columns that describe rows, their role, models to try on them alone, and a warning to put before a verdict."""

    values: ArrayLike
    kind: Kind
    models: Mapping[str, BaseEstimator] = field(default_factory=dict)
    caution: str = ""


class Draw(NamedTuple):
    """One draw of labels, as one or several parts, each with rows to learn from and rows to predict.

    All parts together predict the same rows in each draw of a plan. `pool` is the number of rows that the labels were
    drawn from.
    """

    labels: int
    number: int
    seed: int
    pool: int
    parts: tuple[tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]], ...]


@runtime_checkable
class Plan(Protocol):
    """Decides which labels each draw may use; the draws are the same for all methods."""

    def draws(self, groups: Int[np.ndarray, " rows"]) -> tuple[Draw, ...]:
        """Draws over the rows; rows with the same number of a group never are on both sides of a split."""


@dataclass(frozen=True)
class LabelBudgets:
    """A fixed test split, and repeated draws of a few labels from the rest.

    Attributes:
        budgets: Numbers of labels; those as large as the pool or larger are left out.
        n_draws: Number of draws of each budget. The nth draw of a small budget is part of the nth draw of a larger one.
        test_fraction: Fraction of the groups in the test split.
        seed: Seed of the split and of the draws.
    """

    budgets: tuple[int, ...] = (50, 100, 250, 1000)
    n_draws: int = 20
    test_fraction: float = 0.2
    seed: int = 0

    def draws(self, groups: Int[np.ndarray, " rows"]) -> tuple[Draw, ...]:
        """Every budget that the rows outside the test split can supply, times `n_draws`.

        Raises:
            ValueError: There are too few rows for the smallest budget, it is below 1, or fewer than two groups to test.
        """
        if (least := min(self.budgets, default=0)) < 1:
            raise ValueError(f"the budgets are {self.budgets}; give numbers of labels, each 1 at least")
        if (n_groups := int(groups.max()) + 1) * self.test_fraction <= 1:
            found = f"{n_groups} distinct rows or groups leave no two to test"
            raise ValueError(f"{found}; give more formulas, or split by row")
        split = GroupShuffleSplit(1, test_size=self.test_fraction, random_state=self.seed)
        pool, test = next(split.split(groups, groups=groups))
        budgets = [budget for budget in self.budgets if budget < len(pool)]
        if not budgets:
            found = f"{len(pool)} labels remain beside the test split, no more than the smallest budget of {least}"
            raise ValueError(f"{found}; give more labelled rows, smaller budgets, or use RepeatedFolds")
        shuffled = [np.random.default_rng([self.seed, number]).permutation(pool) for number in range(self.n_draws)]
        return tuple(
            Draw(budget, number, self.seed, len(pool), ((rows[:budget], test),))
            for budget in budgets
            for number, rows in enumerate(shuffled)
        )


@dataclass(frozen=True)
class RepeatedFolds:
    """Repeated cross-validation, for when labels are too few to set a test split aside.

    Attributes:
        n_folds: Number of folds; each is predicted from the others.
        n_draws: Number of repetitions, each with other folds.
        seed: Seed of the folds.
    """

    n_folds: int = 5
    n_draws: int = 20
    seed: int = 0

    def draws(self, groups: Int[np.ndarray, " rows"]) -> tuple[Draw, ...]:
        """One draw for each repetition, with the folds as parts.

        Raises:
            ValueError: There are fewer groups than folds, or fewer than two folds.
        """
        n_rows, n_groups = len(groups), int(groups.max()) + 1
        if not 2 <= self.n_folds <= n_groups:
            found = f"{n_groups} distinct rows or groups cannot be cut into {self.n_folds} folds"
            raise ValueError(f"{found}; use fewer folds, but 2 at least, give labels of more formulas, or split by row")
        draws = []
        for number in range(self.n_draws):
            fold = np.random.default_rng([self.seed, number]).permutation(n_groups)[groups] % self.n_folds
            parts = tuple((np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(self.n_folds))
            draws.append(Draw(n_rows - n_rows // self.n_folds, number, self.seed, n_rows, parts))
        return tuple(draws)


def plan_for(n_labels: int, *, seed: int = 0) -> Plan:
    """Label budgets where there are enough labels for a test split, repeated folds where there are not."""
    return RepeatedFolds(seed=seed) if n_labels < FEW_LABELS else LabelBudgets(seed=seed)


def default_models() -> dict[str, BaseEstimator]:
    """A linear model and a forest that need no tuning: ridge regression for absolute errors, and extra trees."""
    return {"ridge": PowerRidge(), "extra trees": ExtraTreesRegressor(n_estimators=100, max_features=1 / 3, n_jobs=1)}


@dataclass(frozen=True)
class Scores:
    """All predictions, and their errors.

    Attributes:
        table: A row for each combination of features, model, labels and draw, with its mean absolute error `mae`;
            `pool` is the number of rows that labels could be drawn from.
        predictions: The predictions of each row of the table.
        tested: Rows of the data set that were predicted.
        measured: Their true values.
        groups: Number of the group of each, such as its formula; if not given, each is its own group.
    """

    table: pd.DataFrame
    predictions: Float[np.ndarray, "scores tested"]
    tested: Int[np.ndarray, " tested"]
    measured: Float[np.ndarray, " tested"]
    groups: Int[np.ndarray, " tested"] | None = None

    def errors(self, features: str, model: str, labels: int) -> Float[np.ndarray, "draws tested"]:
        """Absolute errors of one method at one budget, a row for each draw."""
        of_method = (self.table.features == features) & (self.table.model == model) & (self.table.labels == labels)
        errors: Float[np.ndarray, "draws tested"] = np.abs(self.predictions[of_method.to_numpy()] - self.measured)
        return errors


def evaluate(
    features: Mapping[str, FeatureSet],
    y: ArrayLike,
    *,
    models: Mapping[str, BaseEstimator] | None = None,
    plan: Plan | None = None,
    groups: Sequence[str] | None = None,
    n_jobs: int | None = None,
    progress: bool = False,
) -> Scores:
    """Score models on feature sets with the labels of each draw, and always predicting the median of these labels.

    Args:
        features: Feature sets by name, all with one row for each value of `y`.
        y: The property, without missing values.
        models: scikit-learn regressors by name for every feature set; extra trees and ridge unless given.
        plan: Which labels to learn from; budgets or folds, depending on the number of labels, unless given.
        groups: A name for each row; rows with one name never are on both sides of a split, nor of the internal splits
            of a model whose `fit` takes groups, or of a pipeline that ends in one.
        n_jobs: Processes to spread the draws over, as `joblib` counts them. The scores do not depend on it.
        progress: Whether a terminal shows how many draws are done.
    """
    y = np.asarray(column_or_1d(y, dtype=np.float64))
    read = partial(check_array, dtype=[np.float64, np.float32], ensure_all_finite=False)
    values = {name: read(each.values, input_name=name) for name, each in features.items()}
    _check(values, y)
    common = default_models() if models is None else models
    methods = [
        _Scored(name, feature_set.kind, values[name], model, estimator)
        for name, feature_set in features.items()
        for model, estimator in {**common, **feature_set.models}.items()
    ]
    plan = plan_for(len(y)) if plan is None else plan
    numbers = numbers_of(groups, len(y))
    if not (draws := plan.draws(numbers)):
        raise ValueError(f"{plan} has no draws; give a plan with one at least")
    unit = unit_of(y)
    predict = partial(_predict, methods=methods, y=y / unit, groups=None if groups is None else numbers)
    # Budgets come in ascending order: with the largest first, no process is left alone with one at the end.
    scored = in_order(predict, reversed(draws), n_jobs)
    predicted = list(counted(scored, "draws", len(draws)) if progress else scored)[::-1]
    tested = np.sort(np.concatenate([test for _, test in draws[0].parts]))
    # From (draw, method, row) to a line for each method and draw, with the tested rows alone.
    predictions = unit * np.stack(predicted, axis=1)[:, :, tested].reshape(-1, len(tested))
    names = [(method.name, method.kind, method.model) for method in methods]
    rows = [
        (*name, draw.labels, draw.number, draw.seed, draw.pool)
        for name, draw in product([*names, (TRIVIAL, "trivial", "median")], draws)
    ]
    table = pd.DataFrame(rows, columns=["features", "kind", "model", "labels", "draw", "seed", "pool"])
    table["mae"] = np.abs(predictions - y[tested]).mean(axis=1)
    return Scores(table, predictions, tested, y[tested], numbers[tested])


def _check(features: Mapping[str, np.ndarray], y: Float[np.ndarray, " rows"]) -> None:
    if n_unknown := int((~np.isfinite(y)).sum()):
        raise ValueError(f"{n_unknown} of {len(y)} labels are missing or infinite; leave their rows out first")
    if TRIVIAL in features:
        raise ValueError(f"the name {TRIVIAL!r} is kept for the predictor without features; give another name")
    for name, values in features.items():
        if len(values) != len(y):
            raise ValueError(f"feature set {name!r} has {len(values)} rows for {len(y)} labels; give one row a label")
        if len(bad := np.flatnonzero(~np.isfinite(values).all(axis=1))):
            raise ValueError(
                f"feature set {name!r} has missing or infinite values in {len(bad)} rows, first in row {bad[0]}; "
                "leave these rows out of every feature set"
            )


class _Scored(NamedTuple):
    """A model on a feature set, and the names of both."""

    name: str
    kind: Kind
    values: Float[np.ndarray, "rows columns"]
    model: str
    estimator: BaseEstimator


def _predict(
    draw: Draw, methods: Sequence[_Scored], y: Float[np.ndarray, " rows"], groups: Int[np.ndarray, " rows"] | None
) -> Float[np.ndarray, "predictors rows"]:
    """Predictions of every method, with the median last; NaN in rows that are not tested."""
    predictions = np.full((len(methods) + 1, len(y)), np.nan)
    seed = int(np.random.SeedSequence([draw.seed, draw.number]).generate_state(1)[0])
    with one_thread():  # sums in another order would change the last digit with the number of threads
        for train, test in draw.parts:
            # As `crystalmax fit` does; with one group only, a model has to leave out single labels.
            known = None if groups is None or len(np.unique(groups[train])) < 2 else groups[train]
            for row, method in enumerate(methods):
                seeded = clone(method.estimator)
                seeds = [name for name in seeded.get_params() if name.split("__")[-1] == "random_state"]
                seeded.set_params(**dict.fromkeys(seeds, seed))
                scaler = StandardScaler().fit(method.values[train])
                step, last = (f"{seeded.steps[-1][0]}__", seeded[-1]) if isinstance(seeded, Pipeline) else ("", seeded)
                told = {f"{step}groups": known} if known is not None and has_fit_parameter(last, "groups") else {}
                seeded.fit(scaler.transform(method.values[train]), y[train], **told)
                predictions[row, test] = seeded.predict(scaler.transform(method.values[test]))
            predictions[-1, test] = np.median(y[train])
    return predictions
