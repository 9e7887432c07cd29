"""Claim: the default recipe makes better vectors than the paper's, and how both stand against no training at all.

    OMP_NUM_THREADS=1 python benchmarks/recipes.py --data mp_cgcnn.parquet --crystals 5000 --epochs 6

Pre-trains each recipe on crystals with at most 20 sites and scores frozen vectors on the same crystals: formation
energy and band gap at 50 / 100 / 250 / 1,000 labels, 10 paired draws, ridge and extra trees, beside plain statistics
(these alone with an empty `--recipes`). This is the development
split: recipes may be chosen on it. About ten minutes a recipe on one core.
"""

import logging

import numpy as np
import pandas as pd
import torch
from machine import about, parser_of, publish
from sklearn.ensemble import ExtraTreesRegressor

from crystalmax.featurizer import untrained
from crystalmax.judging.evaluation import FeatureSet, LabelBudgets, default_models, evaluate
from crystalmax.learning.training import Split, Training, train
from crystalmax.learning.vectors import encode
from crystalmax.reading.ingest import canonical_records
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.statistics.baselines import composition_statistics, structure_statistics
from crystalmax.storage.dataset import CrystalDataset

TARGETS = ("formation_energy_eV_per_atom", "band_gap_eV")
TWINS = (1001, 1002, 1003)


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of(__doc__, crystals=5000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--recipes", nargs="*", default=["paper", "infomax"])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table = pd.read_parquet(options.data)
    chosen = table[(table.n_sites <= 20) & (table.labels_agree == True)].sample(options.crystals, random_state=0)  # noqa: E712
    crystals = [record.crystal for record in canonical_records(chosen) if record.crystal is not None]
    data = CrystalDataset.from_crystals(crystals)
    composition, structure = composition_statistics(crystals)[0], structure_statistics(crystals)[0]
    both = np.concatenate([composition, structure], axis=1)
    vectors = {
        "composition statistics": FeatureSet(composition, "baseline"),
        "composition and structure statistics": FeatureSet(both, "baseline"),
    }
    losses = {}
    for name in options.recipes:
        recipe = read_recipe(name)
        with seeded_weights(0):
            objective = build(recipe["objective"])
        geometry = build(recipe["geometry"])
        for seed in TWINS if name == options.recipes[0] else ():
            vectors[f"untrained {seed}"] = FeatureSet(
                encode(untrained(objective.encoder, seed), geometry, data), "untrained"
            )
        split = Split.random(np.arange(len(data)), 0.05, 0)
        history = train(objective, data, split, Training(epochs=options.epochs), geometry=geometry)
        losses[name] = [row for row in history if row["split"] == "valid"][-1]
        vectors[name] = FeatureSet(encode(objective.eval().encoder, geometry, data), "pretrained")
    models = {**default_models(), "extra trees": ExtraTreesRegressor(60, max_features=1 / 3)}
    errors = {}
    for target in TARGETS:
        y = data.values(target)
        scores = evaluate(vectors, y, plan=LabelBudgets(n_draws=10), models=models).table
        scores["features"] = scores.features.where(scores.kind != "untrained", "untrained")
        medians = scores.groupby(["features", "model", "labels"]).mae.median().round(4)
        errors[target] = {f"{f}, {m}": medians[f, m].to_dict() for f, m in medians.index.droplevel("labels").unique()}
    result = {"data": options.data.name, "epochs": options.epochs, "losses": losses, "mae": errors, **about()}
    result["threads"] = torch.get_num_threads()
    publish(result, options.out)


if __name__ == "__main__":
    main()
