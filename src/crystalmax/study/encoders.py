"""Any encoder, any objective: four networks untrained, by Deep InfoMax, by reconstruction, and by mixtures.

The paper says that Deep InfoMax is generic, and shows it on Site-Net alone.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Int
from torch import nn

from crystalmax import checkpoint
from crystalmax.judging.evaluation import Kind
from crystalmax.learning.history import read_history
from crystalmax.learning.vectors import encode
from crystalmax.spec import read_recipe
from crystalmax.study import networks, runner
from crystalmax.study.ablation import MODELS
from crystalmax.study.cell import Cell, Result
from crystalmax.study.material import Material
from crystalmax.study.representation import Method, drawn, scored
from crystalmax.study.settings import Study

ENCODERS: Mapping[str, str] = {"Site-Net": "infomax", "CGCNN": "cgcnn", "MEGNet": "megnet", "ALIGNN": "alignn"}
"""The encoders that are compared, and the shipped recipe of each."""

DEEP_INFOMAX = "Deep InfoMax"
"""Name of the objective of these recipes."""

TWINS = 3
"""Most untrained networks for each encoder."""

SITES_PER_BATCH = 400
"""Sites that are encoded at once; on one core, ALIGNN takes five times as long with twelve times as many."""


class Way(NamedTuple):
    """An encoder, and how it was trained.

    Attributes:
        encoder: One of `ENCODERS`.
        objective: One of `objectives`; empty for an untrained network.
        seed: Of the weights of an untrained network; a trained one has that of the study.
    """

    encoder: str
    objective: str = ""
    seed: int = 0

    @property
    def name(self) -> str:
        """Its name in tables; what follows a comma is a change of what comes before it."""
        how = f"by {self.objective}" if self.objective else f"untrained, seed {self.seed}"
        return f"{self.encoder} {how}"


def cells(study: Study) -> list[Cell]:
    """A cell for each way and property; the first cell that needs a network trains it."""
    return [
        Cell(f"encoders/{material.name}/{each.name}/{way.name}", partial(_scored, study, material.name, each.name, way))
        for material in study.materials
        for each in material.properties
        if study.budgets(material, each.name)
        for way in ways(study)
    ]


def ways(study: Study) -> list[Way]:
    """Each encoder untrained, and trained on each objective."""
    found = []
    for encoder in ENCODERS:
        found += [Way(encoder, seed=seed) for seed in study.twin_seeds[:TWINS]]
        found += [Way(encoder, objective) for objective in objectives(encoder)]
    return found


def objectives(encoder: str) -> dict[str, dict[str, Any]]:
    """Recipes for an encoder by name: Deep InfoMax as shipped, reconstruction, and mixtures of it with others."""
    content: dict[str, Any] = read_recipe(ENCODERS[encoder])
    infomax = dict(content["objective"])
    network = infomax.pop("encoder")
    # Pairs of views are made by the same geometry as those of crystals later.
    views = {"use": "Rebuilt", "alterations": [{"use": "ThermalDisplacement"}], "geometry": content["geometry"]}
    reconstruction = {"use": "Reconstruction", "intrinsics": [{"use": "Statistics"}], "hidden": 0}
    mixed: dict[str, tuple[Mapping[str, object], float]] = {
        "reconstruction": (reconstruction, 10.0),
        "contrast": ({"use": "Contrastive", "views": views}, 1.0),
    }
    found = {DEEP_INFOMAX: content, "reconstruction": {**content, "objective": {**reconstruction, "encoder": network}}}
    for name, (partner, weight) in mixed.items():
        parts = [{**part, "later": True} for part in (infomax, partner)]
        mixture = {"use": "Mixture", "encoder": network, "parts": parts, "weights": [1.0, weight], "automatic": True}
        found[f"{DEEP_INFOMAX}, with {name}"] = {**content, "objective": mixture}
    return found


def structures(study: Study, donor: Material) -> Int[np.ndarray, " rows"]:
    """Rows of the donor for training and validation loss, as many as the budget allows."""
    rows = np.random.default_rng(study.seed).permutation(study.parts(donor).structures)
    return np.sort(rows[: study.budget.encoder_crystals])


def costs(cells: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """A table of the parameters of each encoder, and of the seconds for an epoch of 1,000 crystals, as text.

    Args:
        cells: Folder of the cells of a study.
        rows: Results of the cells; the untrained networks of an encoder become one row.
    """
    found = {}
    for dataset, name, method in rows[["dataset", "property", "method"]].drop_duplicates().itertuples(index=False):
        arrays = runner.arrays_in(cells, f"encoders/{dataset}/{name}/{method}")
        seconds = f"{arrays['seconds']:.1f}" if "seconds" in arrays else ""
        found[method.split(", seed")[0]] = {"parameters": int(arrays["parameters"]), "seconds per epoch": seconds}
    return pd.DataFrame.from_dict(found, orient="index")


def _scored(study: Study, dataset: str, name: str, way: Way) -> Result:
    """Rows with errors; arrays with the number of parameters and the seconds for an epoch of training."""
    material = study.material(dataset)
    donor = study.material(material.donor)
    seen = (donor, structures(study, donor)) if way.objective else None
    kind: Kind = "pretrained" if way.objective else "untrained"
    method = Method(way.name, kind, partial(_vectors, study, material, way), way.encoder, seen)
    # Half of the draws, since there are many networks here.
    budgets = [(labels, (n_draws + 1) // 2) for labels, n_draws in study.budgets(material, name)]
    draws = [draw for budget in budgets for draw in drawn(study, material, name, *budget)]
    rows = scored(study, material, name, method, draws, "encoders", models=MODELS).rows
    return Result(rows, _price(study, donor, way))


def _vectors(study: Study, material: Material, way: Way) -> networks.Features:
    def made() -> networks.Features:
        model = _model(study, study.material(material.donor), way)
        return encode(model.encoder, model.geometry, material.data, SITES_PER_BATCH)

    return study.kept(material, way.name, made)


def _price(study: Study, donor: Material, way: Way) -> dict[str, np.ndarray]:
    """Parameters of an encoder; for a trained one also the seconds for 1,000 crystals in the median epoch."""
    encoder = _model(study, donor, way).encoder
    assert isinstance(encoder, nn.Module)  # it was built from a recipe
    found = {"parameters": np.array(sum(parameter.numel() for parameter in encoder.parameters()))}
    if way.objective:
        history = read_history(_folder(study, donor, way))
        rates = [row["crystals_per_second"] for row in history if row["split"] == "train"]
        found["seconds"] = np.array(1000 / np.median(rates))
    return found


def _model(study: Study, donor: Material, way: Way) -> checkpoint.Model:
    if not way.objective:
        return networks.untrained(ENCODERS[way.encoder], way.seed)
    return checkpoint.load(_folder(study, donor, way))


def _folder(study: Study, donor: Material, way: Way) -> Path:
    """The run folder of a trained network."""
    content = objectives(way.encoder)[way.objective]
    training = content["training"]
    epochs = min(training["epochs"], study.budget.encoder_epochs or training["epochs"])
    recipe = {**content, "training": {**training, "epochs": epochs}}
    return study.network_folder(donor, recipe, structures(study, donor))
