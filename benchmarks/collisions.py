"""Question: how many false constituents are true ones, and does it help to leave these out?

    OMP_NUM_THREADS=1 python benchmarks/collisions.py --data carbon_24.parquet --target energy_eV_per_atom

Pre-trains a recipe with its collisions and without, from the same initial weights and on the same batches, and scores
frozen vectors by ridge regression at 50 / 100 / 250 labels, 10 paired draws a seed. Reports the share of collisions of
each family for an untrained encoder, and for each seed the median error without collisions over that with them.
Expected: in carbon every false composition and permutation is true; errors differ by a few percent. Two minutes.
"""

import logging
from typing import Any

import numpy as np
import pandas as pd
import torch
from machine import about, parser_of, publish

from crystalmax.judging.evaluation import FeatureSet, LabelBudgets, default_models, evaluate
from crystalmax.learning.training import Split, Training, train
from crystalmax.learning.vectors import encode
from crystalmax.reading.ingest import canonical_records
from crystalmax.samples.alterations import Rebuilt
from crystalmax.samples.corruptions import Dopant, Interstitial, SiteSwap, Strain, Vacancy
from crystalmax.samples.negatives import Corrupted, OtherCrystals, WithoutCollisions
from crystalmax.samples.transforms import FalseComposition, FalsePermutation, FalsePolymorph
from crystalmax.spec import build, read_recipe, seeded_weights
from crystalmax.storage.dataset import CrystalDataset, batches_of_sites

PAPER = (FalsePolymorph(), FalseComposition(), FalsePermutation())


def trained(recipe: dict[str, Any], data: CrystalDataset, how: Training, *, mask: bool) -> Any:
    """The objective after training, its families of false samples wrapped."""
    negatives = [
        {"use": "WithoutCollisions", "sampler": each, "mask": mask} for each in recipe["objective"]["negatives"]
    ]
    with seeded_weights(how.seed):
        objective = build({**recipe["objective"], "negatives": negatives})
    split = Split(train=np.arange(len(data)), valid=np.arange(0))
    train(objective, data, split, how, geometry=build(recipe["geometry"]))
    return objective.eval()


def counted(recipe: dict[str, Any], data: CrystalDataset) -> dict[str, dict[str, float]]:
    """The share of collisions of each family, by level, for an untrained encoder."""
    geometry = build(recipe["geometry"])
    with seeded_weights(0):
        encoder = build(recipe["objective"]["encoder"])
    moved = {type(part).__name__: Rebuilt((part,), geometry) for part in (Vacancy(), Interstitial(), Strain())}
    kept = {type(part).__name__: part for part in (*PAPER, Dopant(), SiteSwap())}
    families = {"OtherCrystals": OtherCrystals(), **{name: Corrupted(part) for name, part in {**kept, **moved}.items()}}
    samplers = {name: WithoutCollisions(family) for name, family in families.items()}
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for rows in batches_of_sites(data.n_sites, 1200, np.arange(len(data))):
            batch = geometry(data.batch(rows))
            truth = encoder(batch)
            for sampler in samplers.values():
                sampler.draw(truth, batch, encoder, rng)
    return {
        name: {level: round(rate, 4) for level, rate in sampler.rates.items()} for name, sampler in samplers.items()
    }


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of(__doc__, crystals=1000)
    parser.add_argument("--target", required=True)
    parser.add_argument("--recipe", default="infomax")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table = pd.read_parquet(options.data)
    small = table[(table.n_sites <= 20) & table[options.target].notna()]
    records = canonical_records(small.sample(min(options.crystals, len(small)), random_state=0))
    data = CrystalDataset.from_crystals([record.crystal for record in records if record.crystal is not None])
    y = np.array(data.target[:, data.target_names.index(options.target)])
    recipe = read_recipe(options.recipe)
    geometry, ratios = build(recipe["geometry"]), []
    for seed in range(options.seeds):
        vectors = {}
        for name, mask in (("all", False), ("masked", True)):
            objective = trained(recipe, data, Training(epochs=options.epochs, seed=seed), mask=mask)
            vectors[name] = FeatureSet(encode(objective.encoder, geometry, data), "pretrained")
        plan = LabelBudgets(budgets=(50, 100, 250), n_draws=10)
        models = {name: model for name, model in default_models().items() if name == "ridge"}
        scores = evaluate(vectors, y, plan=plan, models=models).table
        medians = scores.groupby(["labels", "features"]).mae.median().unstack()
        logging.info("seed %d\n%s", seed, medians)
        ratios.append({int(labels): round(row["masked"] / row["all"], 4) for labels, row in medians.iterrows()})
    result = {"data": options.data.name, "target": options.target, "recipe": options.recipe, "epochs": options.epochs}
    publish({**result, "collisions": counted(recipe, data), "error_masked_over_all": ratios, **about()}, options.out)


if __name__ == "__main__":
    main()
