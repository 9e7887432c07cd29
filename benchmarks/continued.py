"""Claim: vectors of the weights that ship are better once these have gone on learning from one's own structures.

    OMP_NUM_THREADS=1 python benchmarks/continued.py --data DIR

The structures are those of each property, without labels; those that will be predicted are among them, as a user's are.
Beside both stand vectors that learnt from these structures alone. Ridge regression on development rows, which no other
benchmark tests, a fifth of their formulas left out, 20 draws of 50 / 100 / 250 labels. About ten minutes on one core.
"""

import logging
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from machine import about, publish
from properties import development, earlier, parser_of_properties, unseen, wanted

from crystalmax.crystal import Crystal, formula
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.judging.evaluation import FeatureSet, LabelBudgets, default_models, evaluate
from crystalmax.learning.pretraining import pretrain
from crystalmax.shipped import SHIPPED
from crystalmax.storage.dataset import CrystalDataset

WAYS: dict[str, Path | None] = {"continued": SHIPPED, "alone": None}
"""What learning from one's own structures starts from."""


def main() -> None:
    """Train, judge, print, write JSON."""
    parser = parser_of_properties(__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    plan = LabelBudgets(budgets=(50, 100, 250), n_draws=options.draws, seed=2)
    ridge = {"ridge": default_models()["ridge"]}
    result = earlier(options.out)
    found, commits = result["properties"], result["commits"]
    for table, target, keep in wanted(options.targets):
        commits[target] = about()["commit"]
        crystals = development(unseen(options.data / f"{table}.parquet", target, keep, options.crystals))
        data = CrystalDataset.from_crystals(crystals)
        featurizers = {"shipped": CrystalFeaturizer.from_pretrained()}
        featurizers |= {name: learnt(crystals, start, options.epochs) for name, start in WAYS.items()}
        features = {name: FeatureSet(each.numbers(data), "pretrained") for name, each in featurizers.items()}
        values, groups = np.array([crystal.targets[target] for crystal in crystals]), list(map(formula, crystals))
        scores = evaluate(features, values, models=ridge, plan=plan, groups=groups, n_jobs=options.jobs).table
        errors = scores[scores.model == "ridge"].pivot_table(index=["labels", "draw"], columns="features", values="mae")
        found[f"{table}, {target}"] = {"structures": len(crystals)} | {
            name: errors[name].div(errors.shipped).groupby("labels").mean().round(3).to_dict() for name in WAYS
        }
        print(target, found[f"{table}, {target}"], flush=True)
    publish({**result, "draws": options.draws, "epochs": options.epochs, **about()}, options.out)


def learnt(crystals: list[Crystal], start: Path | None, epochs: int) -> CrystalFeaturizer:
    """Vectors of the recipe of the weights that ship, after so many epochs of these structures."""
    data = CrystalDataset.from_crystals([replace(crystal, targets={}) for crystal in crystals])
    with TemporaryDirectory() as folder:
        pretrain(data, Path(folder) / "run", start=start, epochs=epochs)
        return CrystalFeaturizer.from_pretrained(Path(folder) / "run")


if __name__ == "__main__":
    main()
