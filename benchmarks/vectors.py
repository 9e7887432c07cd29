"""Claim: vectors of the weights that ship err less under ridge than those of the same network untrained, in every cell.

    OMP_NUM_THREADS=1 python benchmarks/vectors.py --data DIR

On crystals with at most 50 sites whose formulas the weights have not seen: tables that were left out as a whole, and of
the Materials Project the formulas that `weights/train.py` reserved. A fifth of the formulas is tested; 20 paired draws
of 50 / 100 / 250 / 1,000 labels from the rest; three untrained networks. Beside them the median of the labels. About
five minutes on one core.
"""

import logging

import numpy as np
from machine import about, publish
from properties import earlier, families, parser_of_properties, plans_of, unseen, wanted

from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.judging.evaluation import TWIN_SEEDS, FeatureSet, default_models, evaluate
from crystalmax.seen import Seen
from crystalmax.shipped import SHIPPED
from crystalmax.storage.dataset import CrystalDataset


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of_properties(__doc__)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    featurizer, seen = CrystalFeaturizer.from_pretrained(), Seen.load(SHIPPED)
    assert seen is not None  # the shipped weights carry their list
    (plan,) = plans_of(options.draws, anew=False)
    result = earlier(options.out)
    found, commits = result["properties"], result["commits"]
    for table, target, keep in wanted(options.targets):
        commits[target] = about()["commit"]
        crystals = unseen(options.data / f"{table}.parquet", target, keep, options.crystals)
        n_known = int(seen.knows(crystals)[1].sum())
        data = CrystalDataset.from_crystals(crystals)
        values = np.array([crystal.targets[target] for crystal in crystals])
        features = {"shipped": FeatureSet(featurizer.numbers(data), "pretrained")} | {
            f"untrained {seed}": FeatureSet(featurizer.untrained_twin(seed).numbers(data), "untrained")
            for seed in TWIN_SEEDS
        }
        ridge = {"ridge": default_models()["ridge"]}
        scores = evaluate(
            features, values, models=ridge, plan=plan, groups=families(crystals), n_jobs=options.jobs
        ).table
        errors = scores.groupby(["labels", "kind"]).mae.median().unstack()
        found[f"{table}, {target}"] = {
            "crystals": len(crystals),
            "formulas_seen": n_known,
            "budgets": [
                {
                    "labels": int(labels),
                    "median": round(float(row.trivial), 4),
                    "untrained": round(float(row.untrained), 4),
                    "shipped": round(float(row.pretrained), 4),
                    "ratio": round(float(row.pretrained / row.untrained), 3),
                }
                for labels, row in errors.iterrows()
            ],
        }
        print(target, *found[f"{table}, {target}"]["budgets"], sep="\n", flush=True)
    publish({**result, "draws": options.draws, **about()}, options.out)


if __name__ == "__main__":
    main()
