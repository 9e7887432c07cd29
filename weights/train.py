"""Trains the weights that ship with the package, on one core within the hour.

    python weights/train.py --data DIR --out weights/run

`DIR` holds the tables of `LEARNT_FROM` and `EVALUATED`. No formula of the latter is learnt from, nor is every tenth
formula of the former (`reserved`), so that the vectors can be judged on crystals that they do not know.
The run folder, but for its logs, is copied to `src/crystalmax/weights`.
"""

import argparse
import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
from joblib import parallel_config

from crystalmax.checkpoint import SPEC, WEIGHTS
from crystalmax.crystal import Crystal, formula
from crystalmax.learning.pretraining import pretrain
from crystalmax.reading.ingest import canonical_records
from crystalmax.seen import FILE as SEEN
from crystalmax.shipped import SHIPPED
from crystalmax.storage.dataset import CrystalDataset

LEARNT_FROM = ("mp_cgcnn", "mp_flla", "amcsd", "perov_5", "carbon_24")
EVALUATED = ("matbench_phonons", "mp_dielectric", "expt_gap_mp", "mp_3dsc", "gems")
MAX_SITES = 50
RECIPE = "shipped"
KEPT = (SPEC, WEIGHTS, SEEN, "run.json", "history.jsonl", "losses.svg")


def reserved(name: str) -> bool:
    """Whether a formula, as `baselines.formula` writes it, is kept for judging."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") % 10 == 0


def crystals_of(path: Path, n_jobs: int) -> Iterator[Crystal]:
    """Canonical crystals of a table without their labels, named by table and row."""
    table = pd.read_parquet(path)
    table = table[table.n_sites <= MAX_SITES]
    for record in canonical_records(table, n_jobs=n_jobs):
        if record.crystal is not None:
            yield replace(record.crystal, key=f"{path.stem}: {record.crystal.key}", targets={})


def learnt_from(tables: Path, n_jobs: int = 1) -> list[Crystal]:
    """Crystals of `LEARNT_FROM` whose formulas are neither evaluated nor reserved."""
    kept_out = {formula(each) for name in EVALUATED for each in crystals_of(tables / f"{name}.parquet", n_jobs)}
    learnt = []
    for name in LEARNT_FROM:
        for crystal in crystals_of(tables / f"{name}.parquet", n_jobs):
            composition = formula(crystal)
            # Carbon has one formula only.
            if composition not in kept_out and not (reserved(composition) and name != "carbon_24"):
                learnt.append(crystal)
    return learnt


def main() -> None:
    """Read, leave out, train, copy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, help="instead of those of the recipe")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    learnt = learnt_from(options.data, options.jobs)
    print(Counter(crystal.key.partition(":")[0] for crystal in learnt))
    data = CrystalDataset.from_crystals(learnt)
    with parallel_config(n_jobs=options.jobs):
        pretrain(data, options.out, recipe=RECIPE, epochs=options.epochs, resume=options.out.exists())
    SHIPPED.mkdir(exist_ok=True)
    for name in KEPT:
        shutil.copyfile(options.out / name, SHIPPED / name)


if __name__ == "__main__":
    main()
