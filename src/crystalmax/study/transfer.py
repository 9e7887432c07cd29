"""Part 3: networks fine-tuned on few labels, from random weights, Deep InfoMax or another property (Fig. 7)."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from crystalmax.checkpoint import Model
from crystalmax.judging.evaluation import TWIN_SEEDS
from crystalmax.regressor import CrystalRegressor, predict
from crystalmax.spec import read_recipe
from crystalmax.storage.dataset import CrystalDataset, Rows
from crystalmax.study.cell import Cell, Result
from crystalmax.study.material import Material
from crystalmax.study.overlap import counts
from crystalmax.study.settings import Study

Start = Literal["random", "pretrained", "supervised"]

STARTS: dict[Start, tuple[str, str]] = {
    "random": ("from random weights", "untrained"),
    "pretrained": ("from Deep InfoMax", "pretrained"),
    "supervised": ("from the other property", "supervised"),
}
"""Starts of fine-tuning, with their name and kind in tables."""

RECIPE = "infomax"
"""The recipe that is pre-trained; all starts have its network."""

FOLDS = 3
"""Number of folds: for each, a copy of the network learns from all others, and the copies are averaged."""

SUPERVISED = {"epochs": 12, "sites_per_batch": 400, "learning_rate": 1e-3, "weight_decay": 1e-2}
"""Training on all labels of the other property: as in fine-tuning, for a fixed number of epochs."""


def cells(study: Study) -> list[Cell]:
    """Trials on data sets that are pre-trained on themselves; one with a single property has no other to start from."""
    starts: tuple[Start, ...] = ("random", "pretrained", "supervised")
    return [
        cell
        for material in study.own
        for cell in fine_tunings(study, material, starts if len(material.properties) > 1 else starts[:2])
    ]


def fine_tunings(study: Study, material: Material, starts: Sequence[Start], *, part: str = "transfer") -> list[Cell]:
    """A cell for each start, number of labels, trial and property of a data set."""
    return [
        Cell(
            f"{part}/{material.name}/{each.name}/{start}/{labels}/{trial:02}",
            partial(_fine_tuned, study, material.name, each.name, start, labels, trial, part),
            cost=150 + labels,  # each step costs something, however few crystals it has
        )
        for start in starts
        for labels in sorted(study.budget.labels, reverse=True)
        for trial in range(study.budget.transfer_seeds)
        # Neighbours in this order need different networks, so that none waits for another process to train it.
        for each in material.properties
        if labels in dict(study.budgets(material, each.name))
    ]


def _fine_tuned(study: Study, dataset: str, target: str, start: Start, labels: int, trial: int, part: str) -> Result:
    """One trial, whose labels, head, folds and order of crystals depend on its number alone, not on the start."""
    material = study.material(dataset)
    values, tested = material.values(target), study.tested(material, target)
    rows = study.labelled(material, target, labels, trial)
    model, pretraining = starting_point(study, material, target, start, trial)
    regressor = CrystalRegressor(
        model.encoder,
        geometry=model.geometry,
        epochs=study.budget.fine_tuning_epochs,
        folds=FOLDS,
        seed=trial,
        accelerator=study.accelerator,
    ).fit_crystals([replace(material.data[row], targets={target: values[row]}) for row in rows], target)
    unseen = CrystalDataset.from_crystals([replace(material.data[row], targets={}) for row in tested])
    predictions = predict(regressor.objective_, regressor.geometry, unseen)
    method, kind = STARTS[start]
    row = {
        "part": part,
        "dataset": dataset,
        "property": target,
        "split": study.split,
        "method": method,
        "kind": kind,
        "family": RECIPE,
        "model": "fine-tuned",
        "labels": labels,
        "draw": trial,
        "seed": study.seed,
        "pool": len(study.pool(material, target)),
        "mae": np.abs(predictions - values[tested]).mean(),
        "epochs": regressor.epochs,
        **counts(material, tested, study.pool(material, target), pretraining),
    }
    arrays = {"predictions": predictions[None].astype(np.float32), "measured": values[tested]}
    return Result(pd.DataFrame([row]), {**arrays, "labelled": rows, "tested": tested})


def starting_point(
    study: Study, material: Material, target: str, start: Start, trial: int
) -> tuple[Model, tuple[Material, Rows] | None]:
    """The network that a trial starts from (trained ones are the same for all trials), and what it has learnt from."""
    if start == "random":
        return study.untrained(RECIPE, TWIN_SEEDS[0] + trial), None
    if start == "pretrained":
        return study.network(study.material(material.donor), RECIPE), study.pretraining(material)
    names = [each.name for each in material.properties]
    other = names[(names.index(target) + 1) % len(names)]
    rows = study.pool(material, other)
    return study.network(material, supervised(other, material.values(other)[rows]), rows), (material, rows)


def supervised(target: str, values: Float[np.ndarray, " labels"]) -> dict[str, object]:
    """A recipe that trains the network of `RECIPE` on labels, standardised as in fine-tuning."""
    recipe = read_recipe(RECIPE)
    objective = recipe["objective"]
    assert isinstance(objective, dict)  # shipped recipes have one
    scale = {"target": target, "mean": float(values.mean()), "deviation": float(values.std()) or 1.0}
    return {
        "geometry": recipe["geometry"],
        "objective": {"use": "Regression", "encoder": objective["encoder"], **scale},
        "training": SUPERVISED,
    }
