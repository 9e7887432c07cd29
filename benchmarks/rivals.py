"""Claim: the default featuriser and regressor err less than vectors from elsewhere, one kind of vectors at a time.

    OMP_NUM_THREADS=1 python benchmarks/rivals.py --data DIR --vectors ofm=ofm.parquet \
        --ours benchmarks/results/few_labels.json --out benchmarks/results/rivals.json

`few_labels.py` keeps only the best of all rivals. This measures further ones on the same draws, each with the better of
ridge regression and extra trees, and leaves what is ours as that result has it. Results are added to the file.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from few_labels import best_of, numbers_of
from machine import about, parser_of, publish
from properties import PROPERTIES, TESTED, unseen

from crystalmax.baselines import formula
from crystalmax.evaluation import FeatureSet, evaluate
from crystalmax.study.vectors import files_by_name


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of(__doc__, crystals=4000)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--vectors", nargs="+", required=True, help="NAME=FILE, as the scripts in peers/ write it")
    parser.add_argument("--ours", type=Path, required=True, help="a result of few_labels.py")
    options = parser.parse_args()
    ours = json.loads(options.ours.read_text())
    found = json.loads(options.out.read_text())["rivals"] if options.out and options.out.exists() else {}
    plan = replace(TESTED, n_draws=options.draws)
    for name, path in files_by_name(options.vectors).items():
        vectors = pd.read_parquet(path).set_index("key")
        for table, target, keep in PROPERTIES:
            crystals = unseen(options.data / f"{table}.parquet", target, keep, options.crystals)
            keys = [f"{table}: {crystal.key}" for crystal in crystals]
            if not set(keys) <= set(vectors.index):
                continue
            sets = {name: FeatureSet(numbers_of(vectors, keys), "baseline")}
            y, groups = np.array([crystal.targets[target] for crystal in crystals]), list(map(formula, crystals))
            scores = evaluate(sets, y, plan=plan, groups=groups, n_jobs=options.jobs).table
            rows = []
            for mine in ours["properties"][f"{table}, {target}"]:
                best = best_of(scores, mine["labels"], fair=True)
                # A potential is called frozen, anything else a rival; here there is one of them.
                (_, label), (_, mae) = best.items()
                rows.append({"labels": mine["labels"], "best": label, "mae": mae, "ratio": round(mine["mae"] / mae, 3)})
            found.setdefault(name, {})[f"{table}, {target}"] = rows
            print(name, target, *rows, sep="\n", flush=True)
            publish({"draws": options.draws, "ours": ours["commit"], "rivals": found, **about()}, options.out)


if __name__ == "__main__":
    main()
