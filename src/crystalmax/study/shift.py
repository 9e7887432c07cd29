"""Part 6: labels of one data set, structures of another, with and without the crystals that both have (Fig. 13)."""

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Bool

from crystalmax.judging.evaluation import TRIVIAL
from crystalmax.storage.dataset import Rows
from crystalmax.study.cell import Cell, Result
from crystalmax.study.material import Material
from crystalmax.study.overlap import same_formula, same_structure
from crystalmax.study.representation import (
    ALL_STATISTICS,
    JOINED,
    Method,
    all_drawn,
    compared,
    method_cells,
    methods,
    network_cell,
    network_vectors,
    scored,
)
from crystalmax.study.settings import Study
from crystalmax.study.transfer import fine_tunings

RECIPE = "infomax"
"""Recipe of the networks that are pre-trained without the overlap."""

OVERLAPS: dict[str, Callable[[Material, Rows, Material, Rows], Bool[np.ndarray, " _"]]] = {
    "shared structures": same_structure,
    "shared formulas": same_formula,
}
"""Crystals that two data sets can have in common: the same structures, or also the same formulas."""

BESIDE = (TRIVIAL, "composition and structure statistics", f"{RECIPE} recipe and statistics", ALL_STATISTICS, JOINED)
"""Methods that are shown beside networks; part 2 has more."""

MODELS = ("ridge", "extra trees", "hidden layer")
"""The downstream models: the paper's hidden layer, and two that need no tuning."""


def cells(study: Study) -> list[Cell]:
    """For each data set with networks of another: frozen vectors and other methods, and fine-tuning as in Fig. 13."""
    borrowers = [material for material in study.materials if material.donor != material.name]
    donors = [study.material(name) for name in sorted({material.donor for material in borrowers})]
    found = [network_cell(study, donor, recipe) for donor in donors for recipe in compared(study)]
    for material in borrowers:
        found += method_cells(study, [material], "shift", rivals, _scored, lambda _: 1500)  # in the unit of fine-tuning
        found += fine_tunings(study, material, ("random", "pretrained"), part="shift")
    return found


def rivals(study: Study, material: Material) -> list[Method]:
    """Networks, trained (also without the overlap of both data sets) and untrained, and plain statistics."""
    donor = study.material(material.donor)
    reduced = []
    for name in OVERLAPS:
        rows = without(study, material, name)
        features = partial(network_vectors, study, material, RECIPE, rows)
        reduced.append(Method(f"{RECIPE} recipe without {name}", "pretrained", features, RECIPE, (donor, rows)))
    found = methods(study, material)
    networks = [method for method in found if method.kind in ("pretrained", "untrained") or method.name in BESIDE]
    return [*networks, *reduced]


def without(study: Study, material: Material, overlap: str) -> Rows:
    """Rows of the donor for pre-training, without those that occur anywhere in the other data set."""
    donor = study.material(material.donor)
    rows = study.parts(donor).structures
    shared = OVERLAPS[overlap](donor, rows, material, np.arange(len(material.data)))
    unshared: Rows = rows[~shared]
    return unshared


def _scored(study: Study, material: Material, name: str, method: Method) -> Result:
    draws = all_drawn(study, material, name)
    seen = 0 if method.pretraining is None else len(method.pretraining[1])
    return scored(study, material, name, method, draws, "shift", models=MODELS, pretrained_on=seen)
