"""Compares how much each block of statistics counts for the vectors that tell them, on development splits.

    pip install optuna  # of which `search.py` makes use
    OMP_NUM_THREADS=1 python benchmarks/blocks.py --data DIR --folder search --out blocks.json

Trainings of the recipe of the weights that ship, judged as `search.py` judges its trials, from the same folder. The
score is against the first weighting, with the same seed. Short trainings take fifteen minutes on one core; those of
full length (`--structures 40000 --epochs 20`, another folder) take eight minutes for each seed and weighting.
"""

import logging
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed, parallel_config
from judged import errors, kept
from machine import about, parser_of, publish
from search import EPOCHS, SHIPPED, trained

from crystalmax.statistics.baselines import BLOCKS
from crystalmax.statistics.intrinsic import WEIGHTS, Statistics

EARLIER = {name: weight for name, weight in WEIGHTS.items() if name != "moduli"}
"""What the weights that shipped until there were moduli had told."""

WEIGHTINGS = {
    "fractions, composition and structure": dict.fromkeys(("fractions", "composition", "structure"), 1.0),
    "springs and densities too": dict.fromkeys(("fractions", "composition", "structure", "springs", "densities"), 1.0),
    "all but the potential, alike": dict.fromkeys(EARLIER, 1.0),
    "fractions and valence less": dict.fromkeys(EARLIER, 1.0) | {"fractions": 0.3, "valence": 0.4},
    "as it ships": EARLIER,
    "further that way": {**EARLIER, "fractions": 0.03, "composition": 0.7, "valence": 0.2}
    | {"charges": 4.0, "levels": 4.0, "springs": 3.0, "densities": 3.0},
    "with the potential": {**EARLIER, "potential": 2.0},
    "with bands": {**EARLIER, "bands": 2.0},
    "with bands that count twice as much": {**EARLIER, "bands": 4.0},
    "with bands and the potential": {**EARLIER, "bands": 2.0, "potential": 2.0},
    "with bands and moduli": {**EARLIER, "bands": 2.0, "moduli": 2.0},
}
"""Of a number of each block; one that is not named is not told."""


def main() -> None:
    """Train, judge, print, write JSON."""
    parser = parser_of(__doc__, crystals=4000)
    parser.add_argument("--folder", type=Path, required=True, help="what is kept between calls, of search.py too")
    parser.add_argument("--structures", type=int, default=8000, help="to learn from")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--weightings", nargs="*", default=[*WEIGHTINGS], choices=WEIGHTINGS, help="the first is 1")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options.folder.mkdir(parents=True, exist_ok=True)
    data, labelled = kept(options.folder, options.data, options.structures, options.crystals)
    rows = np.arange(len(data))
    told = {name: Statistics(weights=WEIGHTINGS[name]) for name in options.weightings}
    with parallel_config(n_jobs=options.jobs):
        prepared = {name: statistics.prepared(data, rows, options.folder) for name, statistics in told.items()}

    def judged(name: str, seed: int) -> dict[str, float]:
        how = {"epochs": options.epochs, "told": told[name], "seed": seed}
        return errors(trained(prepared[name], rows, SHIPPED, **how).numbers, labelled)

    asked = [(name, seed) for seed in options.seeds for name in told]
    errs = dict(zip(asked, Parallel(options.jobs)(delayed(judged)(*each) for each in asked), strict=True))
    found = {}
    for name in told:
        over = [
            np.log([errs[name, seed][cell] / to for cell, to in errs[asked[0][0], seed].items()])
            for seed in options.seeds
        ]
        found[name] = {
            "weights": [WEIGHTINGS[name].get(block, 0.0) for block in BLOCKS],
            "score": round(float(np.mean(over)), 4),
            "scores": [round(float(each.mean()), 4) for each in over],
            "ratios": dict(zip(errs[asked[0]], np.exp(np.mean(over, axis=0)).round(3).tolist(), strict=True)),
        }
    publish(
        {"structures": len(data), "epochs": options.epochs, "seeds": options.seeds, "weightings": found, **about()},
        options.out,
    )


if __name__ == "__main__":
    main()
