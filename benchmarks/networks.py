"""Claim: fine-tuned networks beside the forest and the processes (`fit --networks`) lower the error.

    OMP_NUM_THREADS=1 python benchmarks/networks.py --data DIR --jobs 2

The crystals, the fifth that is tested and the draws of labels are those of `few_labels.py`; whether a draw is with
networks or without, it is fitted as `crystalmax fit` does. A draw takes half a minute of one core with 50 labels and a
minute with 250. The file is written after each property and number of labels.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
from few_labels import COVERAGE, interval
from joblib import Parallel, delayed
from machine import about, publish, store
from properties import draws_of, earlier, families, parser_of_properties, plans_of, unseen, wanted
from threadpoolctl import threadpool_limits

from crystalmax import checkpoint, fitted
from crystalmax.crystal import Crystal
from crystalmax.judging.evaluation import Draw
from crystalmax.shipped import SHIPPED
from crystalmax.storage.dataset import CrystalDataset

WAYS = ("without", "with")


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of_properties(__doc__)
    parser.add_argument("--labels", type=int, nargs="*", default=[50, 250])
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args()
    result = earlier(options.out)
    for table, target, keep in wanted(options.targets):
        crystals = unseen(options.data / f"{table}.parquet", target, keep, options.crystals)
        every = draws_of(plans_of(options.draws, anew=False), families(crystals))
        rows = result["properties"].setdefault(f"{table}, {target}", {})
        for labels in options.labels:
            draws = [draw for draw in every if draw.labels == labels]
            found = Parallel(options.jobs)(delayed(measured)(draw, crystals, target) for draw in draws)
            rows[str(labels)] = summary(pd.DataFrame(found))
            print(target, labels, rows[str(labels)], flush=True)
            result["commits"].setdefault(target, {})[str(labels)] = about()["commit"]
            store({**result, **about()}, options.out)
    publish({**result, **about()}, options.out)


def measured(draw: Draw, crystals: list[Crystal], target: str) -> dict[str, float]:
    """Errors and intervals with networks and without, and the share that these have."""
    ((train, test),) = draw.parts
    learnt, tested = ([crystals[row] for row in rows.tolist()] for rows in (train, test))
    y = np.array([crystal.targets[target] for crystal in tested])
    with threadpool_limits(1):
        found = fitted.fit(learnt, target, model=checkpoint.load(SHIPPED), networks=True, seed=draw.number)
        numbers = found.numbers_of(CrystalDataset.from_crystals(tested))
        plain = replace(found, numbers=found.numbers[:, :-1], networks=None)
        row = {"share": found.regressor.shares_[-1], "networks alone": float(np.abs(numbers[:, -1] - y).mean())}
        for way, one, columns in zip(WAYS, (plain, found), (numbers[:, :-1], numbers), strict=True):
            told, low, high = one.regressor.predict_with_interval(columns, COVERAGE).T
            row[way] = float(np.abs(told - y).mean())
            row |= {f"{name} {way}": number for name, number in interval(low, high, y).items()}
    return row


def summary(draws: pd.DataFrame) -> dict[str, object]:
    """Medians over draws, but of what intervals hold the mean; the ratio by pairs, and all errors."""
    ratio = float(np.exp(np.log(draws["with"] / draws["without"]).mean()))
    held = draws[[f"covered {way}" for way in WAYS]].mean()
    found = {**draws.median().round(4), **held.round(4)}
    errors = {way: draws[way].round(5).tolist() for way in WAYS}
    return {**found, "ratio": round(ratio, 3), "won": int((draws["with"] < draws["without"]).sum()), "errors": errors}


if __name__ == "__main__":
    main()
