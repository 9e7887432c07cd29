"""Claim: intervals of 90 % of the default featuriser and regressor hold 87 to 93 % of measured values.

    OMP_NUM_THREADS=1 python benchmarks/intervals.py --data DIR --jobs 2

On the crystals of `few_labels.py`. There one fifth of the formulas is tested in all draws, and how hard these few
hundred crystals are moves what intervals hold by some percent, whatever the method; here each draw tests another fifth.
About twenty minutes on two cores.
"""

import numpy as np
import pandas as pd
from few_labels import COVERAGE, Ours, errors_of_ours
from joblib import Parallel, delayed
from machine import about, publish
from properties import draws_of, earlier, families, parser_of_properties, plans_of, unseen, wanted

from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.storage.dataset import CrystalDataset


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of_properties(__doc__)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    result = earlier(options.out)
    found, commits = result["properties"], result["commits"]
    featurizer, plans = CrystalFeaturizer(), plans_of(options.draws, anew=True)
    for table, target, keep in wanted(options.targets):
        commits[target] = about()["commit"]
        crystals = unseen(options.data / f"{table}.parquet", target, keep, options.crystals)
        ours = Ours(featurizer.numbers(CrystalDataset.from_crystals(crystals)), featurizer.blocks)
        y = np.array([crystal.targets[target] for crystal in crystals])
        groups = np.array(families(crystals))
        tasks = [delayed(errors_of_ours)(draw, "default", ours, y, groups) for draw in draws_of(plans, groups)]
        scores = pd.DataFrame(Parallel(options.jobs)(tasks)).groupby("labels")
        found[f"{table}, {target}"] = [
            {
                "labels": int(labels),
                "covered": round(float(each.covered.mean()), 3),
                "standard_error": round(float(each.covered.sem()), 3),
                "width": round(float(each.width.median()), 4),
            }
            for labels, each in scores
        ]
        print(target, *found[f"{table}, {target}"], sep="\n", flush=True)
    publish({**result, "draws": options.draws, "coverage": COVERAGE, **about()}, options.out)


if __name__ == "__main__":
    main()
