"""Claim: fine-tuning from the weights that ship errs less than fine-tuning the same network from random weights.

    OMP_NUM_THREADS=1 python benchmarks/fine_tuning.py --data DIR --jobs 2

On crystals with at most 20 sites whose formulas the weights have not seen (see `vectors.py`). A fifth of the formulas
is tested, at most 500 crystals, or with `--anew` another fifth in each trial; the nth trial has the same labels for
both starts, and another random start each time. Beside both stands the median of these labels. The file keeps the error
of each trial, and the commits that they are of; it is written after each number of labels. `--go-on` takes the trials
that it has from there, and `--starts shipped` those from random weights, which is honest where nothing has changed
since that they depend on. Twenty trials of a property take ten minutes of one core with 50 or 100 labels, forty with
1,000.
"""

import logging

import numpy as np
import torch
from joblib import Parallel, delayed
from machine import about, publish, store
from properties import earlier, families, parser_of_properties, unseen, wanted

from crystalmax import CrystalRegressor
from crystalmax.crystal import Crystal
from crystalmax.featurizer import untrained
from crystalmax.regressor import predict
from crystalmax.storage.dataset import CrystalDataset

TARGETS = (
    *("last_phdos_peak_cm1", "formation_energy_eV_per_atom", "band_gap_expt_eV", "band_gap_eV"),
    *("refractive_index", "tc_K", "seebeck_p_uV_per_K", "fermi_energy_eV"),
)
MAX_SITES, MAX_TESTED = 20, 500
STARTS = ("random", "shipped")


def main() -> None:
    """Measure, print, write JSON."""
    parser = parser_of_properties(__doc__, TARGETS)
    parser.add_argument("--labels", type=int, nargs="*", default=[50, 100, 250, 1000])
    parser.add_argument("--trials", type=int, nargs="*", default=[20, 20, 20, 20], help="at each number of labels")
    parser.add_argument("--go-on", action="store_true", help="keep the trials in the file, and make what is missing")
    parser.add_argument("--starts", nargs="*", default=STARTS, choices=STARTS, help="others stay as they are")
    parser.add_argument("--anew", action="store_true", help="test other crystals in each trial")
    options = parser.parse_args()
    result = earlier(options.out, anew=options.anew)
    found, commits = result["properties"], result["commits"]
    for table, target, keep in wanted(options.targets):
        crystals = unseen(options.data / f"{table}.parquet", target, keep, options.crystals)
        crystals = [crystal for crystal in crystals if crystal.n_sites <= MAX_SITES]
        rows, of_target = found.setdefault(f"{table}, {target}", {}), commits.setdefault(target, {})
        for labels, trials in zip(options.labels, options.trials, strict=True):
            known = rows.get(str(labels), {}).get("errors", {})
            errors = {
                start: known.get(start, []) if options.go_on or start not in options.starts else [] for start in STARTS
            }
            parts = {
                trial: plan_of(crystals, labels, trial, anew=options.anew)
                for trial in range(max(trials, *map(len, errors.values())))
            }
            plan = [(start, trial) for start in STARTS for trial in range(len(errors[start]), len(parts))]
            kept, trained = {start for start in STARTS if errors[start]}, {start for start, _ in plan}
            found_anew = Parallel(options.jobs)(
                delayed(error)(*parts[trial], target, trial, start) for start, trial in plan
            )
            for (start, _), one in zip(plan, found_anew, strict=True):
                errors[start].append(one)
            commit, before = about()["commit"], of_target.setdefault(str(labels), {})
            before |= {start: sorted({commit, *(before[start] if start in kept else ())}) for start in trained}
            random, shipped = (np.array(errors[start]) for start in STARTS)
            guessed = [error_of_median(*part, target) for part in parts.values()]
            rows[str(labels)] = {
                "median": round(float(np.median(guessed)), 4),
                "random": round(float(np.median(random)), 4),
                "shipped": round(float(np.median(shipped)), 4),
                "ratio": round(float(np.median(shipped) / np.median(random)), 3),
                "paired": round(float(np.exp(np.log(shipped / random).mean())), 3),
                "won": int((shipped < random).sum()),
                "trials": len(random),
                "errors": {"random": random.round(5).tolist(), "shipped": shipped.round(5).tolist()},
            }
            print(target, labels, rows[str(labels)], flush=True)
            store({**result, **about()}, options.out)
    publish({**result, **about()}, options.out)


def error(drawn: list[Crystal], tested: list[Crystal], target: str, trial: int, start: str) -> float:
    """Mean absolute error on the tested crystals after fine-tuning from one start."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    regressor = CrystalRegressor.from_pretrained(seed=trial)
    if start == "random":
        regressor.set_params(encoder=untrained(regressor.encoder, 1001 + trial))
    regressor.fit_crystals(drawn, target)
    told = predict(regressor.objective_, regressor.geometry, CrystalDataset.from_crystals(tested))
    return float(np.abs(told - values(tested, target)).mean())


def error_of_median(drawn: list[Crystal], tested: list[Crystal], target: str) -> float:
    """The same of one number for all crystals, the median of the labels."""
    return float(np.abs(np.median(values(drawn, target)) - values(tested, target)).mean())


def plan_of(
    crystals: list[Crystal], labels: int, trial: int, *, anew: bool = False
) -> tuple[list[Crystal], list[Crystal]]:
    """Crystals whose labels a trial may see, and those that are tested: the same in all, unless others anew."""
    formulas = np.array(families(crystals))
    names = np.unique(formulas)
    order = np.random.default_rng([5, trial] if anew else 5).permutation(names)
    held = np.isin(formulas, order[: len(names) // 5])
    drawn = np.random.default_rng([9, trial]).permutation(np.flatnonzero(~held))[:labels]
    return [crystals[row] for row in drawn], [crystals[row] for row in np.flatnonzero(held)[:MAX_TESTED]]


def values(crystals: list[Crystal], target: str) -> np.ndarray:
    """What was measured."""
    return np.array([crystal.targets[target] for crystal in crystals])


if __name__ == "__main__":
    main()
