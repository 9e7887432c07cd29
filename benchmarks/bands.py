"""Question: what are six numbers of the simplest bands worth beside all other columns, on development rows?

    OMP_NUM_THREADS=1 python benchmarks/bands.py --data DIR --jobs 2

They are those of `crystalmax.statistics.bands`, the last block of the statistics. Docs: `docs/research/bands.md`.
"""

import warnings
from collections.abc import Iterable
from itertools import product

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from machine import about, publish
from properties import BLIND, PROPERTIES, development, earlier, families, parser_of_properties, unseen, wanted
from threadpoolctl import threadpool_limits

from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.few_labels.small_data import SmallDataRegressor
from crystalmax.storage.dataset import CrystalDataset

MOST, TESTED = 1500, 300


def errors(numbers: Iterable[np.ndarray], y: np.ndarray, groups: np.ndarray, labels: int, draw: int) -> list[float]:
    """Of the regressor with these blocks of columns, and with all but the last."""
    rng = np.random.default_rng([77, draw])
    names = np.unique(groups)
    held = np.isin(groups, rng.permutation(names)[: len(names) // 3])
    train, test = rng.permutation(np.flatnonzero(~held))[:labels], np.flatnonzero(held)[:TESTED]
    found, blocks = [], list(numbers)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        for kept in (blocks, blocks[:-1]):
            X = np.hstack(kept)
            regressor = SmallDataRegressor(blocks=[block.shape[1] for block in kept], random_state=draw)
            found.append(float(np.abs(regressor.fit(X[train], y[train]).predict(X[test]) - y[test]).mean()))
    return found


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of_properties(__doc__, [target for _, target, _ in (*PROPERTIES, *BLIND)])
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--labels", type=int, nargs="*", default=[50, 250])
    options = parser.parse_args()
    result, featurizer = earlier(options.out), CrystalFeaturizer()
    for table, target, keep in wanted(options.targets):
        crystals = development(unseen(options.data / f"{table}.parquet", target, keep, options.crystals))[:MOST]
        y, groups = np.array([crystal.targets[target] for crystal in crystals]), np.array(families(crystals))
        known = featurizer.numbers(CrystalDataset.from_crystals(crystals)).astype(float)
        numbers = np.split(known, np.cumsum(featurizer.blocks)[:-1], axis=1)  # bands are the last block
        tasks = list(product(options.labels, range(options.draws)))
        found = Parallel(options.jobs)(delayed(errors)(numbers, y, groups, *task) for task in tasks)
        rows = pd.DataFrame(tasks, columns=["labels", "draw"]).assign(ratio=[one / other for one, other in found])
        result["properties"][f"{table}, {target}"] = {
            str(labels): {
                "ratio": round(float(np.exp(np.log(each.ratio).mean())), 3),
                "won": int((each.ratio < 1).sum()),
            }
            for labels, each in rows.groupby("labels")
        }
        result["commits"][target] = about()["commit"]
        print(target, result["properties"][f"{table}, {target}"], flush=True)
        publish({**result, "draws": options.draws, **about()}, options.out)


if __name__ == "__main__":
    main()
