"""Claim: the default featuriser and regressor err less than plain rivals and frozen potentials, and intervals hold.

    OMP_NUM_THREADS=1 python benchmarks/few_labels.py --data DIR --jobs 2 --vectors chgnet=chgnet.parquet ...

On crystals with at most 50 sites whose formulas the weights that ship have not seen (see `vectors.py`). A fifth of the
formulas is tested; paired draws of 50 / 100 / 250 / 1,000 labels from the rest. Rivals are ridge regression and extra
trees, of labels as they are and on a scale where these are closest to normal, on plain numbers, by themselves and
together, and on vectors from elsewhere, made by the scripts in `peers/` from the table that `--table` writes; a
property whose crystals a file does not hold goes without it. The columns of the default featuriser have these four
models, too, which tells what the columns are worth and what the regressor. What `--measure` and `--models` do not name,
and rivals that are not given, stay as they are in the file. The regressor was made on other splits of the rows that are
not tested here, but an earlier version of it was judged on these, so these are development data; `--targets` takes
properties of `BLIND` too, on whose tested rows nothing was chosen. With `--anew` each draw tests another fifth, since a
few hundred crystals with some extreme values decide much. Errors then differ more between draws than between methods,
so where `ours` and `rivals` are measured together, `paired` has the median over draws of the ratio of both. Half an
hour on two cores for ours, and two for all others.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from machine import about, publish, store
from properties import TESTED, draws_of, earlier, families, parser_of_properties, plans_of, unseen, wanted
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from crystalmax.crystal import Crystal
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.few_labels.powers import Powers
from crystalmax.few_labels.small_data import SmallDataRegressor
from crystalmax.judging.evaluation import Draw, FeatureSet, Plan, default_models, evaluate
from crystalmax.statistics.baselines import composition_statistics, element_fractions, structure_statistics
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.study.vectors import files_by_name

COVERAGE = 0.9
DRAWS_OF_OTHERS = 10
"""Draws that are enough to know how wide intervals of other methods are."""
POTENTIALS = ("chgnet", "sevennet")
"""Frozen networks among the rivals; the others are plain numbers."""
THEIRS = ("formation_energy_eV_per_atom",)
"""Properties that these were trained on, and are no fair rivals for."""
DEFAULT = "default"
"""The name of what `CrystalFeaturizer()` gives."""
PARTS = ("ours", "columns", "rivals", "intervals of others")
"""What is measured unless `--measure` says otherwise."""


class OnPowers(RegressorMixin, BaseEstimator):
    """A model that learns labels on the scale where they are closest to normal, and predicts nothing beyond them."""

    def __init__(self, model: BaseEstimator, random_state: int | None = None) -> None:
        self.model, self.random_state = model, random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> "OnPowers":
        """Find the scale, and learn on it."""
        self.model_ = clone(self.model)
        if "random_state" in self.model_.get_params():
            self.model_.set_params(random_state=self.random_state)
        self.powers_ = Powers.of(y)
        self.model_.fit(X, self.powers_.there(y))
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """In the units of the labels."""
        return self.powers_.back(self.model_.predict(X))


MODELS = default_models() | {
    "ridge, powers of labels": OnPowers(RidgeCV(np.logspace(-2, 5, 15), scoring="neg_mean_absolute_error")),
    "extra trees, powers of labels": OnPowers(default_models()["extra trees"]),
}
"""Every rival may have the best of these. Ridge chooses its scale; here it is held to one, too."""


@dataclass(frozen=True)
class Ours:
    """What the product is: columns side by side, and the regressor that knows their blocks."""

    columns: np.ndarray
    blocks: tuple[int, ...]


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of_properties(__doc__)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--labels", type=int, nargs="*", default=TESTED.budgets, help="others stay as they are, too")
    parser.add_argument("--vectors", nargs="*", default=[], help="NAME=FILE, as the scripts in peers/ write it")
    parser.add_argument("--anew", action="store_true", help="test other crystals in each draw")
    parser.add_argument("--measure", nargs="*", default=PARTS, choices=PARTS, help="of rivals, plain numbers")
    parser.add_argument("--models", nargs="*", default=[*MODELS], choices=MODELS, help="of rivals")
    parser.add_argument("--table", type=Path, help="only write the CIFs of the crystals to this table, for peers/")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.table:
        write_table(options.data, wanted(options.targets), options.crystals, options.table)
        return
    plans = plans_of(options.draws, anew=options.anew, labels=options.labels)
    elsewhere = {name: pd.read_parquet(path).set_index("key") for name, path in files_by_name(options.vectors).items()}
    result = earlier(options.out, anew=options.anew) | {"draws": options.draws, "coverage": COVERAGE}
    for table, target, keep in wanted(options.targets):
        crystals = unseen(options.data / f"{table}.parquet", target, keep, options.crystals)
        y = np.array([crystal.targets[target] for crystal in crystals])
        groups = families(crystals)
        draws = draws_of(plans, groups)
        keys = [f"{table}: {crystal.key}" for crystal in crystals]
        rivals = {name: numbers_of(each, keys) for name, each in elsewhere.items() if set(keys) <= set(each.index)}
        rivals |= plain(crystals) if "rivals" in options.measure else {}
        default = described(crystals) if {"ours", "columns"} & {*options.measure} else None
        columns = {DEFAULT: default.columns} if "columns" in options.measure else {}
        models = {name: MODELS[name] for name in options.models}
        scores = {
            part: scores_of(models, features, y, plans, groups, options.jobs)
            for part, features in (("rivals", rivals), ("columns", columns))
            if features
        }
        measured = {
            part: each[each.kind == "baseline"].groupby(["labels", "features", "model"]).mae.median().unstack()
            for part, each in scores.items()
        }
        if "ours" in options.measure:
            drawn = ours(default, y, groups, draws, options.jobs)
            measured["ours"] = summary(drawn)
            if "rivals" in scores:
                measured["paired"] = paired(drawn, scores["rivals"])
        if "intervals of others" in options.measure:
            measured["intervals of others"] = summary(others(crystals, y, draws, options.jobs))
        rows = result["properties"].setdefault(f"{table}, {target}", {})
        commits = result["commits"].setdefault(target, {})
        for part, numbers in measured.items():
            for (labels, method), each in numbers.round(4).iterrows():
                found = each.dropna()
                row = rows.setdefault(str(labels), {}).setdefault(part, {}).setdefault(method, {})
                row |= found.to_dict()
                commit = dict.fromkeys(found.index, about()["commit"])
                commits.setdefault(str(labels), {}).setdefault(part, {}).setdefault(method, {}).update(commit)
        store({**result, **about()}, options.out)
        print(target, len(crystals), *rows.items(), sep="\n", flush=True)
    publish({**result, **about()}, options.out)


def write_table(data: Path, properties: Sequence[tuple[str, str, str]], most: int, out: Path) -> None:
    """CIFs of the crystals of these properties, under names that the tables do not share."""
    names = {
        f"{table}: {crystal.key}"
        for table, target, keep in properties
        for crystal in unseen(data / f"{table}.parquet", target, keep, most)
    }
    parts = []
    for table in dict.fromkeys(table for table, _, _ in properties):
        rows = pd.read_parquet(data / f"{table}.parquet", columns=["material_id", "cif"])
        parts.append(rows.assign(material_id=f"{table}: " + rows.material_id.astype(str)))
    everything = pd.concat(parts)
    everything[everything.material_id.isin(names)].to_parquet(out, index=False)


def numbers_of(table: pd.DataFrame, keys: Sequence[str]) -> np.ndarray:
    """Rows of these crystals; one that was refused has the median of the others."""
    columns = table.select_dtypes("number").loc[list(keys)]
    return columns.fillna(columns.median()).to_numpy()


def plain(crystals: Sequence[Crystal]) -> dict[str, np.ndarray]:
    """Numbers of a composition and of a structure, by themselves and together."""
    composition, structure = composition_statistics(crystals)[0], structure_statistics(crystals)[0]
    return {
        "element fractions": element_fractions(crystals)[0],
        "composition statistics": composition,
        "structure statistics": structure,
        "composition and structure statistics": np.concatenate([composition, structure], axis=1),
    }


def scores_of(
    models: Mapping[str, BaseEstimator],
    features: Mapping[str, np.ndarray],
    y: np.ndarray,
    plans: Sequence[Plan],
    groups: Sequence[str],
    jobs: int,
) -> pd.DataFrame:
    """A row for each set of features, model and draw, with its error, and for the median of the labels."""
    sets = {name: FeatureSet(numbers, "baseline") for name, numbers in features.items()}
    return pd.concat([evaluate(sets, y, models=models, plan=one, groups=groups, n_jobs=jobs).table for one in plans])


def paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Medians over draws of our error over theirs in the same draw, a row for each number of labels and features."""
    both = theirs.merge(ours[ours.method == DEFAULT], on=["labels", "draw", "seed"], suffixes=("", "_of_ours"))
    assert len(both) == len(theirs), "draws of ours and of rivals are not the same"
    ratio = both.assign(ratio=both.mae_of_ours / both.mae)
    return ratio.groupby(["labels", "features", "model"]).ratio.median().unstack()


def described(crystals: Sequence[Crystal]) -> Ours:
    """Columns of the default featuriser, and the widths of their blocks."""
    featurizer = CrystalFeaturizer()
    return Ours(featurizer.numbers(CrystalDataset.from_crystals(crystals)), featurizer.blocks)


def ours(default: Ours, y: np.ndarray, groups: Sequence[str], draws: Sequence[Draw], jobs: int) -> pd.DataFrame:
    """What the product says from all its numbers, and from statistics alone, in each draw."""
    names = np.array(groups)
    vector, *rest = default.blocks
    each = {DEFAULT: default, "statistics": Ours(default.columns[:, vector:], tuple(rest))}
    tasks = [delayed(errors_of_ours)(draw, name, one, y, names) for draw in draws for name, one in each.items()]
    return pd.DataFrame(Parallel(jobs)(tasks))


def others(crystals: Sequence[Crystal], y: np.ndarray, draws: Sequence[Draw], jobs: int) -> pd.DataFrame:
    """Intervals of other methods, from all statistics, in each of a few draws."""
    numbers = CrystalFeaturizer(None).numbers(CrystalDataset.from_crystals(crystals))
    few = [draw for draw in draws if draw.number < DRAWS_OF_OTHERS]
    found = Parallel(jobs)(delayed(intervals_of_others)(draw, numbers, y) for draw in few)
    return pd.DataFrame(chain.from_iterable(found))


def summary(draws: pd.DataFrame) -> pd.DataFrame:
    """Over draws: the mean of how much was held, the median of anything else."""
    grouped = draws.drop(columns=["draw", "seed"]).groupby(["labels", "method"])
    return grouped.median().assign(covered=grouped.covered.mean())


def errors_of_ours(draw: Draw, name: str, ours: Ours, y: np.ndarray, groups: np.ndarray) -> dict[str, object]:
    """Error of the regressor for few labels, and what its intervals hold."""
    ((train, test),) = draw.parts
    with threadpool_limits(1):
        regressor = SmallDataRegressor(blocks=ours.blocks, random_state=draw.number)
        regressor.fit(ours.columns[train], y[train], groups[train])
        told, low, high = regressor.predict_with_interval(ours.columns[test], COVERAGE).T
        error = np.abs(told - y[test]).mean()
    return {**told_of(name, draw), "mae": error, **interval(low, high, y[test])}


def intervals_of_others(draw: Draw, X: np.ndarray, y: np.ndarray) -> list[dict[str, object]]:
    """A Gaussian process by itself, and extra trees with residuals of labels left out, on all statistics."""
    ((train, test),) = draw.parts
    kernel = ConstantKernel() * Matern(X.shape[1] ** 0.5, nu=1.5) + WhiteKernel(0.1)
    process = GaussianProcessRegressor(kernel, alpha=1e-6, normalize_y=True, n_restarts_optimizer=0)
    few = train[:300]  # whose likelihood decides; all labels are conditioned on
    forest = ExtraTreesRegressor(100, max_features=1 / 3, random_state=draw.number)
    with threadpool_limits(1):
        scaler = StandardScaler().fit(X[few])
        process.fit(scaler.transform(X[few]), y[few])
        process.set_params(kernel=process.kernel_, optimizer=None).fit(scaler.transform(X[train]), y[train])
        mean, deviation = process.predict(scaler.transform(X[test]), return_std=True)
        folds = KFold(5, shuffle=True, random_state=0)
        left_out = np.abs(cross_val_predict(forest, X[train], y[train], cv=folds) - y[train])
        margin = np.quantile(left_out, min(1.0, COVERAGE * (1 + 1 / len(train))), method="higher")
        middle = forest.fit(X[train], y[train]).predict(X[test])
    ends = {
        "Gaussian process": (mean - 1.645 * deviation, mean + 1.645 * deviation),
        "extra trees, conformal": (middle - margin, middle + margin),
    }
    return [{**told_of(name, draw), **interval(low, high, y[test])} for name, (low, high) in ends.items()]


def told_of(method: str, draw: Draw) -> dict[str, object]:
    """Whose numbers these are, and of which draw."""
    return {"method": method, "labels": draw.labels, "draw": draw.number, "seed": draw.seed}


def interval(low: np.ndarray, high: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """How many values lie inside, and how wide it is."""
    return {"covered": float(((low <= y) & (y <= high)).mean()), "width": float((high - low).mean())}


if __name__ == "__main__":
    main()
