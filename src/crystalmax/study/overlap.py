"""How many test crystals also occur in pre-training, or among the crystals that labels are drawn from."""

import numpy as np
from jaxtyping import Bool

from crystalmax.fingerprint import occur_in
from crystalmax.storage.dataset import Rows
from crystalmax.study.material import Material


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
    """Columns for every table of the study: how many test crystals occur elsewhere, by structure and by formula.

    Args:
        material: The data set.
        tested: Test crystals.
        pool: Crystals that labels are drawn from.
        pretraining: Data set and rows that the network learnt from, if it is trained.
    """
    donor, seen = pretraining or (material, np.empty(0, dtype=np.int64))
    return {
        "tested": len(tested),
        "structures_in_labels": int(same_structure(material, tested, material, pool).sum()),
        "formulas_in_labels": int(same_formula(material, tested, material, pool).sum()),
        "structures_in_pretraining": int(same_structure(material, tested, donor, seen).sum()),
        "formulas_in_pretraining": int(same_formula(material, tested, donor, seen).sum()),
    }
