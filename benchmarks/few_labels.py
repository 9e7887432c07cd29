"""Claim: all statistics with the regressor for few labels err less than plain rivals, and intervals hold what they say.

    OMP_NUM_THREADS=1 python benchmarks/few_labels.py --data DIR --jobs 2

`DIR` holds the tables of `PROPERTIES`; of each, at most so many crystals with at most 50 sites are drawn. A fifth of
the formulas is tested; paired draws of 50 / 100 / 250 / 1,000 labels from the rest. The regressor was made on other
splits of the same data, so these are development data. About half an hour on two cores.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from machine import about, parser_of, publish
from threadpoolctl import threadpool_limits

from crystalmax.baselines import composition_statistics, element_fractions, formula, structure_statistics
from crystalmax.evaluation import Draw, FeatureSet, LabelBudgets, evaluate
from crystalmax.ingest import canonical_records
from crystalmax.small_data import SmallDataRegressor

PROPERTIES = (
    ("matbench_phonons", "last_phdos_peak_cm1", ""),
    ("mp_dielectric", "refractive_index", ""),
    ("expt_gap_mp", "band_gap_expt_eV", ""),
    ("mp_3dsc", "tc_K", ""),
    ("mp_cgcnn", "formation_energy_eV_per_atom", "labels_agree"),
    ("mp_cgcnn", "band_gap_eV", "labels_agree"),
    ("mp_cgcnn", "seebeck_p_uV_per_K", "labels_agree"),
)
"""Table, column, and a column that must be true. The third and the fourth were measured, the others computed."""

COVERAGE = 0.9


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of(__doc__, crystals=4000)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    plan = LabelBudgets(n_draws=options.draws, seed=1)
    found = {}
    for table, target, keep in PROPERTIES:
        features, y, groups = read(options.data / f"{table}.parquet", target, keep, options.crystals)
        rivals = {name: FeatureSet(values, "baseline") for name, values in features.items()}
        both = np.concatenate([features["composition statistics"], features["structure statistics"]], axis=1)
        rivals["composition and structure statistics"] = FeatureSet(both, "baseline")
        plain = evaluate(rivals, y, plan=plan, groups=groups, n_jobs=options.jobs).table
        plain = plain[plain.kind == "baseline"]
        everything = np.concatenate(list(features.values()), axis=1)
        draws = plan.draws(np.unique(groups, return_inverse=True)[1])
        one = delayed(ours)
        ours_found = pd.DataFrame(Parallel(options.jobs)(one(draw, everything, y) for draw in reversed(draws)))
        found[f"{table}, {target}"] = [
            row(labels, plain, ours_found) for labels in sorted(plain.labels.unique().tolist())
        ]
        print(target, *found[f"{table}, {target}"], sep="\n", flush=True)
    publish({"draws": options.draws, "coverage": COVERAGE, "properties": found, **about()}, options.out)


def labelled(path: Path, target: str, keep: str) -> pd.DataFrame:
    """Crystals with at most 50 sites that have a value of the property."""
    table = pd.read_parquet(path)
    return table[(table.n_sites <= 50) & table[target].notna() & (table[keep] == True if keep else True)]  # noqa: E712


def read(path: Path, target: str, keep: str, most: int) -> tuple[dict[str, np.ndarray], np.ndarray, Sequence[str]]:
    """Plain numbers of crystals that have a value of the property, the values, and the formulas."""
    table = labelled(path, target, keep)
    table = table.sample(min(most, len(table)), random_state=2)
    crystals = [record.crystal for record in canonical_records(table) if record.crystal is not None]
    features = {
        "element fractions": element_fractions(crystals)[0],
        "composition statistics": composition_statistics(crystals)[0],
        "structure statistics": structure_statistics(crystals)[0],
    }
    values = np.array([crystal.targets[target] for crystal in crystals])
    return features, values, [formula(crystal) for crystal in crystals]


def ours(draw: Draw, X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Error of the regressor for few labels, and what its intervals hold."""
    ((train, test),) = draw.parts
    with threadpool_limits(1):
        regressor = SmallDataRegressor(random_state=draw.number).fit(X[train], y[train])
        low, high = regressor.predict_interval(X[test], COVERAGE).T
        error = np.abs(regressor.predict(X[test]) - y[test]).mean()
    covered = ((low <= y[test]) & (y[test] <= high)).mean()
    width = (high - low).mean()
    return {"labels": draw.labels, "draw": draw.number, "mae": error, "covered": covered, "width": width}


def row(labels: int, plain: pd.DataFrame, ours_found: pd.DataFrame) -> dict[str, object]:
    """Medians over draws at one number of labels, the best rival by the very errors that it is compared by."""
    medians = plain[plain.labels == labels].groupby(["features", "model"]).mae.median()
    mine = ours_found[ours_found.labels == labels]
    return {
        "labels": labels,
        "rival": ", ".join(medians.idxmin()),
        "mae_of_rival": round(float(medians.min()), 4),
        "mae": round(float(mine.mae.median()), 4),
        "ratio": round(float(mine.mae.median() / medians.min()), 3),
        "covered": round(float(mine.covered.mean()), 3),
        "width": round(float(mine.width.median()), 4),
    }


if __name__ == "__main__":
    main()
