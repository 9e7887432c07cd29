"""How recipes are judged while they are developed: ridge regression on rows that no benchmark tests."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from properties import PROPERTIES, development, unseen
from train import learnt_from

from crystalmax.crystal import formula
from crystalmax.judging.evaluation import FeatureSet, LabelBudgets, default_models, evaluate
from crystalmax.storage.dataset import CrystalDataset

DEVELOPMENT = LabelBudgets(budgets=(100, 400), n_draws=8, seed=2)


@dataclass(frozen=True)
class Labelled:
    """Crystals of one property that may be looked at."""

    name: str
    data: CrystalDataset
    values: np.ndarray
    formulas: list[str]


def kept(folder: Path, tables: Path, n_structures: int, most: int) -> tuple[CrystalDataset, list[Labelled]]:
    """Structures to learn from, and labelled crystals to judge by; read once."""
    path = folder / "crystals.pickle"  # written and read by this script alone
    if not path.exists():
        structures = learnt_from(tables)
        rows = np.sort(np.random.default_rng(4).permutation(len(structures))[:n_structures])
        chosen = [structures[row] for row in rows.tolist()]
        found = [
            (target, development(unseen(tables / f"{table}.parquet", target, keep, most)))
            for table, target, keep in PROPERTIES
        ]
        path.write_bytes(pickle.dumps((chosen, found)))
    chosen, found = pickle.loads(path.read_bytes())
    return CrystalDataset.from_crystals(chosen), [
        Labelled(
            target,
            CrystalDataset.from_crystals(crystals),
            np.array([crystal.targets[target] for crystal in crystals]),
            list(map(formula, crystals)),
        )
        for target, crystals in found
    ]


def errors(numbers: Callable[[CrystalDataset], np.ndarray], labelled: list[Labelled]) -> dict[str, float]:
    """Median error of ridge regression on vectors, by property and number of labels."""
    ridge = {"ridge": default_models()["ridge"]}
    found = {}
    for each in labelled:
        features = {"vectors": FeatureSet(numbers(each.data), "pretrained")}
        table = evaluate(features, each.values, models=ridge, plan=DEVELOPMENT, groups=each.formulas).table
        for labels, mae in table[table.model == "ridge"].groupby("labels").mae.median().items():
            found[f"{each.name}, {labels}"] = round(float(mae), 5)
    return found
