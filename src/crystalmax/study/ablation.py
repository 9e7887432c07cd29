"""Part 4: the value of each part of the objective: false samples, noise and its penalty, the upper level (Fig. 11).

Beyond the paper, families of false samples are also added, and judged on every property that the study has.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from crystalmax.checkpoint import Model
from crystalmax.encoding import Encoder
from crystalmax.segments import segment_mean
from crystalmax.spec import read_recipe
from crystalmax.storage.dataset import CrystalDataset, batches_of_sites
from crystalmax.study.cell import Cell, Result
from crystalmax.study.material import Material
from crystalmax.study.networks import Features
from crystalmax.study.representation import (
    RECIPES,
    Method,
    all_drawn,
    method_cells,
    methods,
    network_cell,
    network_vectors,
    scored,
)
from crystalmax.study.settings import Study

MODELS = ("ridge", "extra trees")
"""The downstream models that variants are compared with."""

ADDED: Mapping[str, Mapping[str, object]] = {
    "dopants": {"use": "Dopant"},
    "site swaps": {"use": "SiteSwap"},
    "vacancies": {"use": "Rebuilt", "alterations": [{"use": "Vacancy"}]},
    "interstitials": {"use": "Rebuilt", "alterations": [{"use": "Interstitial"}]},
    "strain": {"use": "Rebuilt", "alterations": [{"use": "Strain"}]},
}
"""Transforms that the paper names and does not try; each becomes one more family of the first recipe."""

LOCAL = "local level only"
"""Name of the variant without the upper level."""


def cells(study: Study) -> list[Cell]:
    """The networks as they are, then a cell for each variant and property."""
    donors = [study.material(name) for name in sorted({material.donor for material in study.materials})]
    as_they_are = [network_cell(study, donor, recipe) for donor in donors for recipe in RECIPES]
    return as_they_are + method_cells(study, study.materials, "ablation", rivals, _scored)


def variants(recipe: str) -> dict[str, dict[str, Any]]:
    """A recipe without each family of false samples, without all but the first, with one more, and with other noise.

    Families are added to the first recipe only, and noise is changed where there is any.
    """
    content: dict[str, Any] = read_recipe(recipe)
    families = content["objective"]["negatives"]
    rebuilt = {"geometry": content["geometry"]}  # or a critic would learn which geometry made the pairs

    def changed(**parts: object) -> dict[str, Any]:
        return {**content, "objective": {**content["objective"], **parts}}

    found = {
        f"without {_words(family)}": changed(negatives=[other for other in families if other is not family])
        for family in families
    }
    found[f"{_words(families[0])} alone"] = changed(negatives=families[:1])
    if recipe == RECIPES[0]:
        for name, transform in ADDED.items():
            made = {**transform, **(rebuilt if transform["use"] == "Rebuilt" else {})}
            found[f"with {name}"] = changed(negatives=[*families, {"use": "Corrupted", "transform": made}])
    if content["objective"]["beta"]:
        found["noise at a tenth of its price"] = changed(beta=content["objective"]["beta"] / 10)
        found["noise without a price"] = changed(beta=0.0)
        found["without noise"] = changed(beta=0.0, regularizer={"use": "NoRegularizer", "later": True})
    return found


def rivals(study: Study, material: Material) -> list[Method]:
    """The recipes as they are, their variants, and untrained twins of the network and of its lower level."""
    unchanged = {f"{recipe} recipe" for recipe in RECIPES}
    as_they_are = [
        method
        for method in methods(study, material)
        if method.name in unchanged or (method.kind == "untrained" and method.family in RECIPES)
    ]
    return [*as_they_are, *_variants(study, material)]


def _variants(study: Study, material: Material) -> Iterator[Method]:
    seen = study.pretraining(material)
    for recipe in RECIPES:
        for name, content in variants(recipe).items():
            make = partial(network_vectors, study, material, content)
            yield Method(f"{recipe} recipe, {name}", "pretrained", make, recipe, seen)
        # No gradient passes from the upper level to the lower, so that leaving it out needs no other network.
        make = partial(_of_sites, study, material, recipe, None)
        yield Method(f"{recipe} recipe, {LOCAL}", "pretrained", make, LOCAL, seen)
    for seed in study.twin_seeds:
        make = partial(_of_sites, study, material, RECIPES[0], seed)
        yield Method(f"untrained, seed {seed}, {LOCAL}", "untrained", make, LOCAL)


def _scored(study: Study, material: Material, name: str, method: Method) -> Result:
    draws = all_drawn(study, material, name)
    return Result(scored(study, material, name, method, draws, "ablation", models=MODELS).rows)


def _of_sites(study: Study, material: Material, recipe: str, seed: int | None) -> Features:
    """The mean over sites of their vectors; with a seed, of an untrained network."""
    donor = study.material(material.donor)
    model = study.network(donor, recipe) if seed is None else study.untrained(recipe, seed)
    return means_of_sites(model, material.data)


def means_of_sites(model: Model, data: CrystalDataset, sites_per_batch: int = 1200) -> Features:
    """The mean summary of the sites of each crystal."""
    encoder: Encoder = model.encoder
    out = np.empty((len(data), encoder.widths["site"].summary), dtype=np.float32)
    with torch.inference_mode():
        for rows in batches_of_sites(data.n_sites, sites_per_batch):
            batch = model.geometry(data.batch(rows))
            sites = encoder(batch)["site"]
            out[rows] = segment_mean(sites.summaries, sites.crystal, batch.n_crystals).numpy()
    return out


def _words(family: Mapping[str, Any]) -> str:
    """The name of a family of false samples, for a sentence."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", family.get("transform", family)["use"]).lower()
    return f"{name.removesuffix('s')}s"
