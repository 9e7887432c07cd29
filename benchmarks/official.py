"""Claim: on the official folds of matbench_phonons, with all labels, the default prediction errs by less than 34 cm-1.

    OMP_NUM_THREADS=1 python benchmarks/official.py --data matbench_phonons.parquet

34.3 is what MODNet has on the leaderboard of Matbench v0.1, 28.8 the lowest entry. The regressor was made while looking
at other splits of these crystals, so this is no blind entry; the weights have seen none of their formulas. A minute.
"""

import numpy as np
import pandas as pd
from machine import about, parser_of, publish

from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.few_labels.small_data import SmallDataRegressor
from crystalmax.study.matbench import FOLDS

TARGET = "last_phdos_peak_cm1"
COVERAGE = 0.9


def main() -> None:
    """Measure, print, write JSON."""
    options = parser_of(__doc__, crystals=1265).parse_args()
    table = pd.read_parquet(options.data)
    y, fold, formulas = (table[name].to_numpy() for name in (TARGET, FOLDS, "formula"))
    found = {}
    for name, featurizer in (("default", CrystalFeaturizer()), ("statistics", CrystalFeaturizer(None))):
        numbers = featurizer.transform(table.cif.tolist()).astype(float)
        errors, held = [], []
        for test in (fold == each for each in np.unique(fold)):
            regressor = SmallDataRegressor(blocks=featurizer.blocks).fit(numbers[~test], y[~test], formulas[~test])
            told, low, high = regressor.predict_with_interval(numbers[test], COVERAGE).T
            errors.append(float(np.abs(told - y[test]).mean()))
            held.append(float(((low <= y[test]) & (y[test] <= high)).mean()))
        found[name] = {"mae": round(np.mean(errors), 2), "folds": np.round(errors, 2).tolist()}
        found[name]["covered"] = round(np.mean(held), 3)
    publish({"crystals": len(table), **found, **about()}, options.out)


if __name__ == "__main__":
    main()
