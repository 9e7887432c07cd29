"""When should pre-training end, if no label may be looked at? What is watched at each epoch against what it is worth.

    OMP_NUM_THREADS=1 python benchmarks/stopping.py --data DIR --folder levers --out stopping.json --figure stopping.svg

Networks learn from the same structures as those of `levers.py`, and are stopped at ten epochs on the way. There, 1,000
structures that none of them learns from, without labels, say five numbers each; and ridge regression on labels that no
benchmark tests (`judged.py`) says what the vectors are worth. Two seeds of each recipe. Fifteen minutes a recipe and
seed on one core.
"""

import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import entries
import numpy as np
import spglib
from joblib import Parallel, delayed
from judged import errors
from levers import EPOCHS, STRUCTURES, TRUSTED, Task, read
from machine import about, go_on, parser_of, store
from matplotlib import style
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crystalmax.crystal import Crystal
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.learning.pretraining import parts_of, untrained
from crystalmax.learning.training import Split, Training, train
from crystalmax.plots import BLUE, GREEN, ORANGE, STYLE, svg
from crystalmax.storage.dataset import CrystalDataset

RECIPES, SEEDS = ("paper", "infomax", "intrinsic"), (0, 1)
STOPS = (1, 2, 3, 4, 6, 8, 11, 15, 20, 27)
WATCHED = 1000
LARGEST = np.array([2, 15, 74, 142, 167, 194])
"""Largest number of a space group of each crystal system but the last."""


def main() -> None:
    """Measure what is missing, write JSON after each, draw."""
    parser = parser_of(__doc__, crystals=1500)
    parser.add_argument("--folder", type=Path, required=True, help="what is kept between calls, of levers.py too")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    task = Task(options.folder, options.data, options.crystals, STRUCTURES, EPOCHS)
    read(task)
    result = go_on(options.out, {"runs": {}})
    missing = [(recipe, seed) for seed in SEEDS for recipe in RECIPES if f"{recipe}, {seed}" not in result["runs"]]
    work = (delayed(followed)(task, *one) for one in missing)
    for (recipe, seed), found in zip(missing, Parallel(options.jobs, return_as="generator")(work), strict=True):
        result["runs"][f"{recipe}, {seed}"] = found
        store({**result, **about()}, options.out)
    if options.figure:
        options.figure.write_text(svg(draw(result), "stopping"))


def draw(result: dict[str, Any]) -> Figure:
    """What is watched, and what vectors are worth, against epochs: a line for each run."""
    shown: dict[str, Callable[[entries.Run], Sequence[float]]] = {
        "loss, of the first epoch's": lambda run: [row["loss"] / run[1]["loss"] for row in run[1:]],
        "effective rank": lambda run: [row["rank"] for row in run[1:]],
        "told, beyond untrained": lambda run: [row["statistics"] - run[0]["statistics"] for row in run[1:]],
        "error to untrained": lambda run: np.exp(entries.worth(run)[1:]).tolist(),
    }
    with style.context(STYLE):
        figure = Figure(figsize=(7.6, 2.7), layout="constrained", facecolor="white")
        for panel, (title, numbers) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
            for (recipe, runs), colour in zip(entries.runs(result).items(), (ORANGE, BLUE, GREEN), strict=True):
                for place, run in enumerate(runs):
                    epochs = [row["epochs"] for row in run[1:]]
                    panel.plot(epochs, numbers(run), color=colour, label=None if place else recipe, linewidth=1.4)
            panel.set(xscale="log", xticks=[1, 3, 9, 27], xticklabels=["1", "3", "9", "27"], xlabel="epochs")
            panel.minorticks_off()
            panel.set_title(title, fontsize=8)
        figure.legend(*panel.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=3)
    return figure


def followed(task: Task, recipe: str, seed: int) -> list[dict[str, Any]]:
    """What is watched and what the vectors are worth, at each stop."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data, labelled = read(task)
    rows = np.random.default_rng(0).permutation(len(data))
    split = Split(np.sort(rows[:STRUCTURES]), np.sort(rows[STRUCTURES : STRUCTURES + WATCHED]))
    crystals = data.crystals(split.valid)
    watched = CrystalDataset.from_crystals(crystals)
    systems = np.searchsorted(LARGEST, [space_group(crystal) for crystal in crystals])
    told = np.stack([column.numpy() for column in data.batch(split.valid).targets.values()], axis=1)
    parts, run, found = parts_of(recipe), task.folder / f"{recipe} {seed}", []
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    for epochs in (0, *STOPS):
        objective, geometry = untrained(parts, seed, trusted=TRUSTED)
        losses: dict[str, float] = {}
        if epochs:
            how = Training(**{**parts["training"], "seed": seed, "epochs": epochs})
            losses = train(objective, data, split, how, geometry=geometry, folder=run)[-1]
            assert losses.pop("split") == "valid"
        featurizer = CrystalFeaturizer(objective.encoder.eval(), geometry=geometry, statistics=False)
        vectors = featurizer.numbers(watched)
        row = {
            "epochs": epochs,
            "loss": sum(value for name, value in losses.items() if name != "epoch"),
            "rank": effective_rank(vectors),
            "cosine": mean_cosine(vectors),
            "statistics": probe(vectors, told),
            "systems": probe_of_systems(vectors, systems),
            "errors": errors(featurizer.numbers, labelled),
        }
        print(recipe, seed, row, flush=True)
        found.append(row)
    return found


def space_group(crystal: Crystal) -> int:
    """Its number."""
    cell = (crystal.lattice, crystal.positions, crystal.species)
    found = spglib.get_symmetry_dataset(cell, symprec=1e-2)
    return 1 if found is None else int(found.number)


def effective_rank(vectors: np.ndarray) -> float:
    """The exponential of the entropy of singular values as shares of their sum (arXiv:2210.02885, eq. 1)."""
    values = np.linalg.svd(vectors, compute_uv=False)
    shares = values / values.sum() + 1e-12
    return round(float(np.exp(-(shares * np.log(shares)).sum())), 3)


def mean_cosine(vectors: np.ndarray) -> float:
    """Of two vectors; 0 where directions are used alike, 1 where all vectors point the same way."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    n = len(unit)
    return round(float((np.square(unit.sum(0)).sum() - n) / (n * (n - 1))), 4)


def probe(vectors: np.ndarray, told: np.ndarray) -> float:
    """Share of the variance of plain statistics that linear maps of the vectors tell, of structures left out."""
    varied = told[:, told.std(axis=0) > 0]
    ridge = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-2, 5, 15)))
    half = len(vectors) // 2
    said = ridge.fit(vectors[:half], varied[:half]).predict(vectors[half:])
    unexplained = np.square(said - varied[half:]).sum() / np.square(varied[half:] - varied[half:].mean(axis=0)).sum()
    return round(float(1 - unexplained), 4)


def probe_of_systems(vectors: np.ndarray, systems: np.ndarray) -> float:
    """Share of structures left out whose crystal system a linear classifier of the vectors knows."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return round(float(cross_val_score(classifier, vectors, systems, cv=4).mean()), 4)


if __name__ == "__main__":
    main()
