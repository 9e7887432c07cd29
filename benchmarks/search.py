"""Searches the recipe of the weights that ship: networks, rates and batches, judged on development splits.

    pip install optuna
    OMP_NUM_THREADS=1 python benchmarks/search.py --data DIR --folder search --trials 50 --out search.json

Every trial learns from the same structures, a sample of those that `weights/train.py` learns from, and is judged by
ridge regression on its vectors. The labelled crystals are those of `vectors.py` without the ones that it tests, cut
once more by formula. The score is the mean over properties and numbers of labels of the logarithm of the error, less
that of the recipe as it ships, which is the first trial. The folder keeps the study: called again, it goes on.
About a minute a trial on one core.
"""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from judged import errors, kept
from machine import about, parser_of, publish
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.geometry import AllPairs
from crystalmax.learning.training import Split, Training, train
from crystalmax.spec import build, describe, seeded_weights
from crystalmax.statistics.intrinsic import Statistics
from crystalmax.storage.dataset import Dataset

SHIPPED: dict[str, Any] = {
    "learning_rate": 8.12e-4,
    "schedule": "constant",
    "weight_decay": 1e-4,
    "sites_per_batch": 1200,
    "site_width": 32,
    "crystal_width": 64,
    "hidden": 64,
    "distance": "ScaledDistance",
}
EPOCHS = 6
MAX_SITES = 50


def main() -> None:
    """Search, print, write JSON."""
    parser = parser_of(__doc__, crystals=4000)
    parser.add_argument("--folder", type=Path, required=True, help="what is kept between calls")
    parser.add_argument("--structures", type=int, default=8000, help="to learn from")
    parser.add_argument("--trials", type=int, default=50, help="how many there are to be in the end")
    options = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    options.folder.mkdir(parents=True, exist_ok=True)
    data, labelled = kept(options.folder, options.data, options.structures, options.crystals)
    learnt = np.arange(len(data))
    prepared = Statistics().prepared(data, learnt, options.folder)

    def score(trial: optuna.Trial) -> float:
        chosen = suggested(trial)
        began = time.process_time()
        featurizer = trained(prepared, learnt, chosen)
        trial.set_user_attr("cpu_seconds", round(time.process_time() - began, 1))
        found = errors(featurizer.numbers, labelled)
        trial.set_user_attr("errors", found)
        first = trial.study.trials[0]
        start = first.user_attrs["errors"] if trial.number else found
        return float(np.mean([np.log(found[cell] / start[cell]) for cell in found]))

    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(options.folder / "study.log"))),
        study_name="recipe",
        sampler=optuna.samplers.TPESampler(seed=0, multivariate=True, n_startup_trials=12),
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial(SHIPPED)
    finished = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    study.optimize(score, n_trials=max(options.trials - len(finished), 0))
    finished = study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    rows = [
        {"trial": one.number, "score": round(one.value or 0.0, 4), **one.params, **one.user_attrs}
        for one in sorted(finished, key=lambda one: one.value or 0.0)
    ]
    weight = optuna.importance.get_param_importances(study)
    found = {"structures": len(data), "epochs": EPOCHS, "importance": {k: round(v, 3) for k, v in weight.items()}}
    publish({**found, "trials": rows, **about()}, options.out)


def suggested(trial: optuna.Trial) -> dict[str, Any]:
    """The space that is searched."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 3e-4, 1e-2, log=True),
        "schedule": trial.suggest_categorical("schedule", ["constant", "cosine"]),
        "weight_decay": trial.suggest_float("weight_decay", 1e-6, 1e-1, log=True),
        "sites_per_batch": trial.suggest_categorical("sites_per_batch", [600, 1200, 2400]),
        "site_width": trial.suggest_categorical("site_width", [32, 64, 96]),
        "crystal_width": trial.suggest_categorical("crystal_width", [64, 96, 128]),
        "hidden": trial.suggest_categorical("hidden", [64, 96, 128]),
        "distance": trial.suggest_categorical("distance", ["ScaledDistance", "GaussianBasis"]),
    }


def trained(
    data: Dataset,
    rows: np.ndarray,
    chosen: dict[str, Any],
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    told: Statistics = Statistics(),  # noqa: B008  # frozen
) -> CrystalFeaturizer:
    """What a recipe with these choices learns."""
    widths = {name: chosen[name] for name in ("site_width", "crystal_width", "hidden")}
    encoder = {"use": "SiteNet", **widths, "distance": {"use": chosen["distance"]}}
    names = ("learning_rate", "schedule", "weight_decay", "sites_per_batch")
    how = Training(epochs=epochs, seed=seed, **{name: chosen[name] for name in names})
    geometry = AllPairs(max_sites=MAX_SITES)
    with seeded_weights(how.seed):
        statistics = describe(told)
        objective = build({"use": "Reconstruction", "hidden": 0, "encoder": encoder, "intrinsics": [statistics]})
    train(objective, data, Split(rows, rows[:0]), how, geometry=geometry)
    return CrystalFeaturizer(objective.encoder.eval(), geometry=geometry, statistics=False)


if __name__ == "__main__":
    main()
