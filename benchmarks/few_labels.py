"""Claim: the default featuriser and regressor err less than plain rivals and frozen potentials, and intervals hold.

    OMP_NUM_THREADS=1 python benchmarks/few_labels.py --data DIR --jobs 2 --vectors chgnet=chgnet.parquet ...

On crystals with at most 50 sites whose formulas the weights that ship have not seen (see `vectors.py`). A fifth of the
formulas is tested; paired draws of 50 / 100 / 250 / 1,000 labels from the rest. Rivals are ridge regression and extra
trees on plain numbers, by themselves and together, and on vectors from elsewhere, made by the scripts in `peers/` from
the table that `--table` writes; a property whose crystals a file does not hold goes without it. The regressor was made
on other splits of the rows that are not tested here, but an earlier version of it was judged on these, so these are
development data. About an hour on two cores.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from machine import about, publish
from properties import PROPERTIES, TESTED, earlier, parser_of_properties, unseen, wanted
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from crystalmax.baselines import composition_statistics, element_fractions, formula, structure_statistics
from crystalmax.crystal import Crystal
from crystalmax.dataset import CrystalDataset
from crystalmax.evaluation import Draw, FeatureSet, evaluate
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.small_data import SmallDataRegressor
from crystalmax.study.vectors import files_by_name

COVERAGE = 0.9
DRAWS_OF_OTHERS = 10
"""Draws that are enough to know how wide intervals of other methods are."""
POTENTIALS = ("chgnet", "sevennet")
"""Frozen networks among the vectors from elsewhere; what is not named here counts among plain numbers."""
THEIRS = ("formation_energy_eV_per_atom",)
"""Properties that these were trained on, and are no fair rivals for."""
OF_RIVALS = ("rival", "mae_of_rival", "intervals_of_others", "frozen", "mae_of_frozen")
"""What a result says of others, which does not change with our features and regressor."""


@dataclass(frozen=True)
class Ours:
    """What the product is: columns side by side, and the regressor that knows their blocks."""

    columns: np.ndarray
    blocks: tuple[int, ...]


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of_properties(__doc__)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--vectors", nargs="*", default=[], help="NAME=FILE, as the scripts in peers/ write it")
    parser.add_argument("--rivals", type=Path, help="an earlier result, to measure ours and --vectors only")
    parser.add_argument("--table", type=Path, help="only write the CIFs of all crystals to this table, for peers/")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.table:
        write_table(options.data, options.crystals, options.table)
        return
    plan = replace(TESTED, n_draws=options.draws)
    elsewhere = {name: pd.read_parquet(path).set_index("key") for name, path in files_by_name(options.vectors).items()}
    known = json.loads(options.rivals.read_text()) if options.rivals else {}
    result = earlier(options.out)
    found, commits = result["properties"], result["commits"]
    for table, target, keep in wanted(options.targets):
        commits[target] = about()["commit"]
        crystals = unseen(options.data / f"{table}.parquet", target, keep, options.crystals)
        y = np.array([crystal.targets[target] for crystal in crystals])
        groups = list(map(formula, crystals))
        keys = [f"{table}: {crystal.key}" for crystal in crystals]
        featurizer = CrystalFeaturizer()
        numbers = featurizer.numbers(CrystalDataset.from_crystals(crystals))
        blocks = featurizer.blocks
        peers = {name: numbers_of(each, keys) for name, each in elsewhere.items() if set(keys) <= set(each.index)}
        # Vectors first.
        ours = {"default": Ours(numbers, blocks), "statistics": Ours(numbers[:, blocks[0] :], blocks[1:])}
        draws = plan.draws(np.unique(groups, return_inverse=True)[1])
        one = delayed(errors_of_ours)
        tasks = [one(draw, name, each, y) for draw in reversed(draws) for name, each in ours.items()]
        mine = pd.DataFrame(Parallel(options.jobs)(tasks))
        budgets = sorted(mine.labels.unique().tolist())
        sets = {name: FeatureSet(values, "baseline") for name, values in peers.items()}
        sets |= {} if known else plain(crystals)
        scores = evaluate(sets, y, plan=plan, groups=groups, n_jobs=options.jobs).table if sets else None
        rivals = [best_of(scores, labels, target not in THEIRS) for labels in budgets]
        if known:
            rivals = list(map(better, known["properties"][f"{table}, {target}"], rivals))
        else:
            few = [draw for draw in reversed(draws) if draw.number < DRAWS_OF_OTHERS]
            others = [delayed(intervals_of_others)(draw, ours["statistics"].columns, y) for draw in few]
            widths = pd.DataFrame(chain.from_iterable(Parallel(options.jobs)(others)))
            rivals = [
                {**each, "intervals_of_others": widths_of_others(widths[widths.labels == labels])}
                for each, labels in zip(rivals, budgets, strict=True)
            ]
        found[f"{table}, {target}"] = [
            row(labels, mine[mine.labels == labels], of_rivals)
            for labels, of_rivals in zip(budgets, rivals, strict=True)
        ]
        print(target, len(crystals), *found[f"{table}, {target}"], sep="\n", flush=True)
    kept = {"rivals_of": f"{known.get('rivals_of', '')} {known['commit']}".strip()} if known else {}
    publish({**result, "draws": options.draws, "coverage": COVERAGE, **kept, **about()}, options.out)


def write_table(data: Path, most: int, out: Path) -> None:
    """CIFs of all crystals, under names that the tables do not share."""
    wanted = {
        f"{table}: {crystal.key}"
        for table, target, keep in PROPERTIES
        for crystal in unseen(data / f"{table}.parquet", target, keep, most)
    }
    parts = []
    for table in dict.fromkeys(table for table, _, _ in PROPERTIES):
        rows = pd.read_parquet(data / f"{table}.parquet", columns=["material_id", "cif"])
        parts.append(rows.assign(material_id=f"{table}: " + rows.material_id.astype(str)))
    everything = pd.concat(parts)
    everything[everything.material_id.isin(wanted)].to_parquet(out, index=False)


def numbers_of(table: pd.DataFrame, keys: Sequence[str]) -> np.ndarray:
    """Rows of these crystals; one that was refused has the median of the others."""
    columns = table.drop(columns="refusal").loc[list(keys)]
    return columns.fillna(columns.median()).to_numpy()


def plain(crystals: Sequence[Crystal]) -> dict[str, FeatureSet]:
    """Numbers of a composition and of a structure, by themselves and together."""
    composition, structure = composition_statistics(crystals)[0], structure_statistics(crystals)[0]
    numbers = {
        "element fractions": element_fractions(crystals)[0],
        "composition statistics": composition,
        "structure statistics": structure,
        "composition and structure statistics": np.concatenate([composition, structure], axis=1),
    }
    return {name: FeatureSet(values, "baseline") for name, values in numbers.items()}


def errors_of_ours(draw: Draw, name: str, ours: Ours, y: np.ndarray) -> dict[str, object]:
    """Error of the regressor for few labels, and what its intervals hold."""
    ((train, test),) = draw.parts
    with threadpool_limits(1):
        regressor = SmallDataRegressor(blocks=ours.blocks, random_state=draw.number).fit(ours.columns[train], y[train])
        told, low, high = regressor.predict_with_interval(ours.columns[test], COVERAGE).T
        error = np.abs(told - y[test]).mean()
    return {"features": name, "labels": draw.labels, "mae": error, **interval(low, high, y[test])}


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
    return [
        {"method": name, "labels": draw.labels, **interval(low, high, y[test])} for name, (low, high) in ends.items()
    ]


def interval(low: np.ndarray, high: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """How many values lie inside, and how wide it is."""
    return {"covered": float(((low <= y) & (y <= high)).mean()), "width": float((high - low).mean())}


def best_of(scores: pd.DataFrame | None, labels: int, fair: bool) -> dict[str, object]:
    """The rival and the potential with the least median over draws, chosen by the very errors that we compare with."""
    found: dict[str, object] = {}
    if scores is None:
        return found
    rivals = scores[(scores.labels == labels) & (scores.kind == "baseline")]
    of_potential = rivals.features.isin(POTENTIALS)
    for name, chosen in (("rival", ~of_potential), ("frozen", of_potential)):
        errors = rivals[chosen].groupby(["features", "model"]).mae.median()
        if len(errors) and (fair or name == "rival"):
            found |= {name: ", ".join(errors.idxmin()), f"mae_of_{name}": round(float(errors.min()), 4)}
    return found


def better(known: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, object]:
    """What an earlier result says of rivals, but for those that a new one beats."""
    found = {name: known[name] for name in OF_RIVALS if name in known}
    for name in ("rival", "frozen"):
        if new.get(f"mae_of_{name}", np.inf) < found.get(f"mae_of_{name}", np.inf):
            found |= {each: new[each] for each in (name, f"mae_of_{name}")}
    return found


def widths_of_others(widths: pd.DataFrame) -> dict[str, object]:
    """How much intervals of other methods hold, and how wide they are."""
    return {
        name: {"covered": round(float(each.covered.mean()), 3), "width": round(float(each.width.median()), 4)}
        for name, each in widths.groupby("method")
    }


def row(labels: int, mine: pd.DataFrame, rivals: Mapping[str, Any]) -> dict[str, object]:
    """Medians over draws at one number of labels, beside rivals."""
    middle = mine.groupby("features")[["mae", "width"]].median()
    error, of_statistics = float(middle.mae["default"]), float(middle.mae["statistics"])
    found = {
        "labels": labels,
        "mae_of_statistics": round(of_statistics, 4),
        "mae": round(error, 4),
        "ratio": round(error / rivals["mae_of_rival"], 3),
        "ratio_to_statistics": round(error / of_statistics, 3),
        "covered": round(float(mine[mine.features == "default"].covered.mean()), 3),
        "width": round(float(middle.width["default"]), 4),
        **rivals,
    }
    if "mae_of_frozen" in rivals:
        found["ratio_to_frozen"] = round(error / rivals["mae_of_frozen"], 3)
    return found


if __name__ == "__main__":
    main()
