"""Part 7: overlap of test crystals with training data, for every way to split; and official folds of benchmarks."""

from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pandas as pd

from crystalmax.judging.assessment import small_data
from crystalmax.judging.evaluation import Draw
from crystalmax.study.cell import Cell, Result
from crystalmax.study.material import Material, SplitBy
from crystalmax.study.overlap import counts
from crystalmax.study.representation import Method, method_cells, methods, score
from crystalmax.study.settings import Study


def cells(study: Study) -> list[Cell]:
    """A cell for each data set and split; where there are official folds, one for each method."""
    leakage = [
        Cell(f"leakage/{material.name}/{split}", partial(_counted, study, material.name, split))
        for material in study.materials
        for split in get_args(SplitBy)
        if (material.folds if split == "fold" else split == "row" or len({*material.formulas}) > 2)
    ]
    with_folds = [material for material in study.materials if material.folds]
    return leakage + method_cells(
        study, with_folds, "official", methods, _scored, lambda material: len(material.data) ** 1.2, needs_draws=False
    )


def _scored(study: Study, material: Material, name: str, method: Method) -> Result:
    """Predictions of every fold by models that learnt from the others; each fold is one draw."""
    rows = study.described(material, material.known(name, np.arange(len(material.data))))
    folds = material.values(material.folds)[rows].astype(int)
    found: list[pd.DataFrame] = []
    arrays: dict[str, np.ndarray] = {}
    for fold in np.unique(folds).tolist():
        train, test = rows[folds != fold], rows[folds == fold]
        draw = Draw(len(train), fold, study.seed, len(train), ((train, test),))
        result = score(study, material, name, replace(method, models=method.models or small_data()), [draw])
        overlap = counts(material, test, train, method.pretraining)
        found.append(result.rows.assign(part="official", split="official folds", **overlap))
        arrays |= {f"{array}_{fold}": values for array, values in result.arrays.items()}
    return Result(pd.concat(found, ignore_index=True), arrays)


def _counted(study: Study, dataset: str, split: SplitBy) -> Result:
    material = study.material(dataset)
    donor = study.material(material.donor)
    parts = material.parts(split, study.seed)
    seen = donor.parts(split if donor is material else study.split, study.seed)
    overlap = counts(material, parts.test, parts.train, (donor, seen.structures))
    row = {"part": "leakage", "dataset": dataset, "split": split, "pool": len(parts.train), **overlap}
    return Result(pd.DataFrame([row]))
