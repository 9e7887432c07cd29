"""Part 7: how much of what is predicted was seen before, in pre-training or among the crystals with labels."""

from functools import partial
from typing import get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from crystalmax.study.cell import Cell, Result
from crystalmax.study.fingerprint import occur_in
from crystalmax.study.material import Material, SplitBy
from crystalmax.study.settings import Study

Rows = Int[np.ndarray, " _"]


def same_structure(material: Material, rows: Rows, other: Material, others: Rows) -> Bool[np.ndarray, " _"]:
    """For each of these crystals of a data set, whether its structure is among those of the other."""
    known = [other.fingerprints[row] for row in others]
    return occur_in([material.fingerprints[row] for row in rows], known)


def same_formula(material: Material, rows: Rows, other: Material, others: Rows) -> Bool[np.ndarray, " _"]:
    """For each of these crystals of a data set, whether its formula is among those of the other."""
    known = {other.fingerprints[row].formula for row in others}
    return np.array([material.fingerprints[row].formula in known for row in rows], dtype=bool)


def counts(
    material: Material, tested: Rows, pool: Rows, pretraining: tuple[Material, Rows] | None = None
) -> dict[str, int]:
    """Columns that stand in every table of the study: how many tested crystals occur elsewhere, by both measures.

    Args:
        material: The data set.
        tested: Crystals that are predicted.
        pool: Crystals that labels are drawn from.
        pretraining: The crystals that the network learnt from, where there is a trained network.
    """
    donor, seen = pretraining or (material, np.empty(0, dtype=np.int64))
    return {
        "tested": len(tested),
        "structures_in_labels": int(same_structure(material, tested, material, pool).sum()),
        "formulas_in_labels": int(same_formula(material, tested, material, pool).sum()),
        "structures_in_pretraining": int(same_structure(material, tested, donor, seen).sum()),
        "formulas_in_pretraining": int(same_formula(material, tested, donor, seen).sum()),
    }


def cells(study: Study) -> list[Cell]:
    """Part 7: a cell for each data set and way to split it."""
    return [
        Cell(f"leakage/{material.name}/{split}", partial(_counted, study, material.name, split))
        for material in study.materials
        for split in get_args(SplitBy)
        if split != "fold" or material.folds
    ]


def _counted(study: Study, dataset: str, split: SplitBy) -> Result:
    material = study.material(dataset)
    donor = study.material(material.donor)
    parts, seen = (
        material.parts(split, study.seed),
        donor.parts(split if donor is material else study.split, study.seed),
    )
    overlap = counts(material, parts.test, parts.train, (donor, seen.structures))
    row = {"part": "leakage", "dataset": dataset, "split": split, "pool": len(parts.train), **overlap}
    return Result(pd.DataFrame([row]))
