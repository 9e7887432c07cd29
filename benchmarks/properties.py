"""Which properties of which crystals the benchmarks of few labels look at."""

import sys
from argparse import ArgumentParser
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from machine import go_on, parser_of

from crystalmax.crystal import Crystal, formula
from crystalmax.judging.evaluation import Draw, LabelBudgets
from crystalmax.reading.ingest import canonical_records
from crystalmax.seen import Seen
from crystalmax.shipped import SHIPPED

sys.path.append(str(Path(__file__).parent.parent / "weights"))
from train import LEARNT_FROM, reserved

PROPERTIES = (
    ("matbench_phonons", "last_phdos_peak_cm1", ""),
    ("mp_dielectric", "refractive_index", ""),
    ("expt_gap_mp", "band_gap_expt_eV", ""),
    ("mp_3dsc", "tc_K", ""),
    ("mp_cgcnn", "formation_energy_eV_per_atom", "labels_agree"),
    ("mp_cgcnn", "band_gap_eV", "labels_agree"),
    ("mp_cgcnn", "seebeck_p_uV_per_K", "labels_agree"),
    ("mp_cgcnn", "fermi_energy_eV", "labels_agree"),
)
"""Table, column, and a column that must be true. The third and the fourth were measured, the others computed."""
BLIND = (
    ("mp_flla", "e_above_hull_eV_per_atom", ""),
    ("mp_dielectric", "poly_total", ""),
    ("perov_5", "heat_of_formation_all_eV", ""),
    ("carbon_24", "energy_eV_per_atom", ""),
    ("mp_cgcnn", "total_magnetization_muB_per_cell", "labels_agree"),
    ("mp_cgcnn", "power_factor_n_uW_per_m_K2", "labels_agree"),
)
"""The same of properties that no recipe, column or member of a regressor was chosen on.

Rows that `TESTED` does not test had a say in five later changes, which docs/research/blind.md names.
"""
TENSORS = (
    ("elastic_tensor", "bulk_modulus_GPa", ""),
    ("elastic_tensor", "shear_modulus_GPa", ""),
    ("elastic_tensor", "poisson_ratio", ""),
    ("piezoelectric_tensor", "piezoelectric_modulus_C_per_m2", ""),
)
"""Of tables that `tensors.py` makes. Nothing was chosen on these before their springs, of which rows that `TESTED` does
not test had a say."""
LATER = (
    ("mp_dielectric", "poly_electronic", ""),
    ("perov_5", "band_gap_direct_eV", ""),
    ("mp_cgcnn", "seebeck_n_uV_per_K", "labels_agree"),
)
"""First looked at when all that is said of the others had been chosen and measured; nothing was changed since."""
TESTED = LabelBudgets(seed=1)
"""The plan of `vectors.py` and `few_labels.py`, whose tested rows nothing is chosen on."""


def plans_of(n_draws: int, *, anew: bool, labels: Sequence[int] = TESTED.budgets) -> list[LabelBudgets]:
    """`TESTED`, or where another fifth of the formulas is tested in each draw, a plan for each."""
    budgets = tuple(labels)
    if not anew:
        return [replace(TESTED, n_draws=n_draws, budgets=budgets)]
    return [LabelBudgets(budgets, n_draws=1, seed=100 + number) for number in range(n_draws)]


def draws_of(plans: Sequence[LabelBudgets], families: Sequence[str]) -> list[Draw]:
    """All draws of these plans, those that take longest first; crystals of one family are tested together."""
    groups = np.unique(families, return_inverse=True)[1]
    return sorted((draw for plan in plans for draw in plan.draws(groups)), key=lambda draw: -draw.labels)


def parser_of_properties(description: str | None, targets: Collection[str] = ()) -> ArgumentParser:
    """The options of a benchmark that can measure some properties and leave others as they are in its file."""
    parser = parser_of(description, crystals=4000)
    every = targets or [target for _, target, _ in PROPERTIES]
    parser.add_argument("--targets", nargs="*", default=every, help="others are kept as they are in the file")
    parser.add_argument("--jobs", type=int, default=1)
    return parser


def wanted(targets: Collection[str]) -> list[tuple[str, str, str]]:
    """Those of all sets of properties that are to be measured."""
    return [one for one in (*PROPERTIES, *BLIND, *TENSORS, *LATER) if one[1] in targets]


def earlier(out: Path | None, *, anew: bool = False) -> dict[str, Any]:
    """A file of results, if it is there; with its `properties`, and the `commits` that they were measured at.

    Raises:
        ValueError: The file has errors on the same crystals in all draws and others are wanted, or the other way round.
    """
    known = go_on(out, {"properties": {}, "anew": anew})
    if known.get("anew", False) != anew:
        raise ValueError(f"{out} has results {'without' if anew else 'with'} --anew, which must not be mixed")
    everywhere = {name.partition(", ")[2]: known["commit"] for name in known["properties"]}
    return {**known, "commits": everywhere | known.get("commits", {})}


def labelled(path: Path, target: str, keep: str) -> pd.DataFrame:
    """Crystals with at most 50 sites that have a value of the property."""
    table = pd.read_parquet(path)
    return table[(table.n_sites <= 50) & table[target].notna() & (table[keep] == True if keep else True)]  # noqa: E712


def unseen(path: Path, target: str, keep: str, most: int) -> list[Crystal]:
    """Crystals that have a value of the property, and whose formulas the weights have not seen."""
    records = canonical_records(labelled(path, target, keep))
    read = [record.crystal for record in records if record.crystal is not None]
    if path.stem in LEARNT_FROM:
        chosen = [crystal for crystal in read if path.stem == "carbon_24" or reserved(formula(crystal))]
    else:
        learnt = Seen.load(SHIPPED)
        assert learnt is not None, f"{SHIPPED} does not say what it has learnt from"
        chosen = [crystal for crystal, seen in zip(read, learnt.knows(read)[1], strict=True) if not seen]
    rows = np.random.default_rng(2).permutation(len(chosen))[:most]
    return [chosen[row] for row in sorted(rows.tolist())]


def families(crystals: list[Crystal]) -> list[str]:
    """A name for each crystal; those of one name are tested together. Its formula, or its key where all have one."""
    formulas = list(map(formula, crystals))
    return formulas if len(set(formulas)) > 1 else [crystal.key for crystal in crystals]


def development(crystals: list[Crystal]) -> list[Crystal]:
    """Those that the benchmarks do not test."""
    ((_, tested),) = draws_of([TESTED], families(crystals))[0].parts
    return [crystals[row] for row in np.setdiff1d(np.arange(len(crystals)), tested).tolist()]
