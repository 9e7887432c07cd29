"""Two small data sets of a study: salts that networks are trained on, and one that borrows these and shares salts."""

from functools import partial
from itertools import product

import numpy as np
import pandas as pd

from crystalmax import SmallDataRegressor
from crystalmax.cells import canonical
from crystalmax.few_labels import small_data
from crystalmax.fingerprint import Fingerprint
from crystalmax.judging import assessment
from crystalmax.storage.dataset import DatasetWriter
from crystalmax.study.material import FINGERPRINTS, Material, Property
from crystalmax.study.settings import BUDGETS, Study
from crystals import crystal, perovskite, pure, rock_salt

CATIONS = ("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba", "Ti", "Fe", "La")
ANIONS = ("F", "Cl", "Br", "O", "S")


def salts():
    """Rock salts of many elements, no two of one formula."""
    rng = np.random.default_rng(0)
    for cation, anion in product(CATIONS, ANIONS):
        edge = rng.uniform(4.2, 6.6)
        targets = {"edge": edge, "order": CATIONS.index(cation) + rng.normal()}
        yield rock_salt(edge, (cation, anion), key=f"{cation}{anion}"), targets


def borrower():
    """Twelve of the salts, slightly larger; six more of their formulas, in another structure; and other crystals."""
    of_salts = list(salts())
    for salt, _ in of_salts[:12]:
        yield rock_salt(salt.lattice.max() * 2.01, tuple(_symbols(salt)), key=f"same {salt.key}")
    for salt, _ in of_salts[12:18]:
        edge = salt.lattice.max() * 1.3
        yield crystal(
            f"other {salt.key}", edge * np.eye(3), [[0, 0, 0], [0.5, 0.5, 0.5]], [0, 1], pure(*_symbols(salt))
        )
    for a, b in product(("Ca", "Sr", "Ba", "Pb"), ("Ti", "Zr", "Hf", "Sn", "V")):
        yield perovskite(4.0, pure(a, b, "O"), key=f"{a}{b}O3")


def _symbols(salt):
    return next((c, a) for c, a in product(CATIONS, ANIONS) if salt.key == f"{c}{a}")


def store(folder, crystals_and_targets):
    with DatasetWriter(folder, provenance={}) as writer:
        fingerprints = []
        for one, targets in crystals_and_targets:
            one = canonical(one)
            writer.add(type(one)(**{**vars(one), "targets": targets}))
            fingerprints.append(vars(Fingerprint.of(one)))
        pd.DataFrame(fingerprints).to_parquet(writer.folder / FINGERPRINTS)


def few_trees(patch):
    """The regressor for small data with 4 trees, and one search of hyperparameters: nothing else differs."""
    patch.setattr(assessment, "SmallDataRegressor", partial(SmallDataRegressor, 4))
    patch.setattr(small_data, "ANEW", 0)


def tiny(folder, **options):
    """A study of both data sets that takes seconds."""
    store(folder / "salts", salts())
    rng = np.random.default_rng(1)
    store(folder / "others", ((one, {"volume": one.volume + rng.normal()}) for one in borrower()))
    materials = (
        Material("salts", folder / "salts", (Property("edge", "A"), Property("order")), "salts"),
        Material("others", folder / "others", (Property("volume", "A3"),), "salts"),
    )
    return Study(folder, materials, BUDGETS["tiny"], **options)
