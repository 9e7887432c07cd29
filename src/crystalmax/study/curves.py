"""Part 1: losses of both levels while a network is pre-trained, on crystals that hold no label (Fig. 6)."""

from functools import partial

import pandas as pd

from crystalmax import checkpoint
from crystalmax.learning.history import read_history
from crystalmax.study.cell import Cell, Result
from crystalmax.study.representation import RECIPES, network_cell
from crystalmax.study.settings import Study


def cells(study: Study) -> list[Cell]:
    """The networks, then a cell for each recipe and data set that is pre-trained on itself."""
    return [network_cell(study, material, recipe) for material in study.own for recipe in RECIPES] + [
        Cell(f"curves/{material.name}/{recipe}", partial(_curves, study, material.name, recipe))
        for material in study.own
        for recipe in RECIPES
    ]


def _curves(study: Study, dataset: str, recipe: str) -> Result:
    """A row for each epoch, level and half of the crystals; `chance` is the loss of a critic that knows nothing."""
    run = study.network_folder(study.material(dataset), recipe)
    objective = checkpoint.load(run).objective
    rows = [
        {
            "part": "curves",
            "dataset": dataset,
            "split": study.split,
            "method": f"{recipe} recipe",
            "kind": "pretrained",
            "seed": study.seed,
            "epoch": losses["epoch"],
            "crystals": losses["split"],
            "level": level,
            "loss": losses[level],
            "penalty": losses[f"{level}_penalty"],
            "chance": objective.chance,
        }
        for losses in read_history(run)
        for level in objective.encoder.widths
    ]
    return Result(pd.DataFrame(rows).astype({"chance": float}))  # none becomes NaN
