"""What is each lever of pre-training worth? Recipes with one thing changed, judged on development splits.

    OMP_NUM_THREADS=1 python benchmarks/levers.py --data DIR --folder levers --out levers.json --figure told.svg

Every network learns for six epochs from the same 5,000 of the structures that `weights/train.py` learns from, unless
the lever says otherwise, and is judged as in `search.py`: ridge regression on its vectors, eight properties, 100 and
400 labels, eight draws. Two seeds each, four of a recipe as it is, and untrained networks of the same seeds. Called
again, it goes on with what is missing from the file. Beside the errors stands what linear maps of the vectors tell of
plain statistics, without a label (`crystalmax.learning.probe`). One to three minutes a lever and seed on one core. At
the length of the weights that ship: `--structures 40000 --epochs 20 --recipes intrinsic` and another folder; eight
minutes.

But for those that begin with `data`, levers are lines of a recipe: `crystalmax study --recipes NAME=FILE --trust lab`
asks the same of other data.
"""

import copy
import logging
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import entries
import numpy as np
import pandas as pd
from entries import AS_IT_IS
from joblib import Parallel, delayed
from judged import Labelled, errors, kept
from machine import about, go_on, parser_of, store
from matplotlib import style
from matplotlib.figure import Figure

from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.learning.pretraining import parts_of, untrained
from crystalmax.learning.probe import told
from crystalmax.learning.training import Split, Training, train
from crystalmax.plots import BLUE, GREEN, INK, STYLE, svg
from crystalmax.statistics.intrinsic import Statistics
from crystalmax.storage.dataset import CrystalDataset, Dataset

Lines = Mapping[str, Any]
"""What a lever changes: values by their place in a recipe; `beside`, an objective and its weight in a mixture;
`instead`, another objective; `data`: how many times the structures and epochs, which structures, how many networks."""

EPOCHS, STRUCTURES = 6, 5000
"""Unless told otherwise; a lever may ask for four times as much."""

TRUSTED = ("crystalmax", "lab")
_NEGATIVES = parts_of("infomax")["objective"]["negatives"]
_CONTRAST = {
    "use": "Contrastive",
    "views": {"use": "Rebuilt", "alterations": [{"use": "ThermalDisplacement"}], "geometry": {"use": "AllPairs"}},
}
_NOISE = {"objective.regularizer.use": "GaussianNoise"}
_FALLING = {"objective.regularizer.use": "lab.FallingPrice", "objective.regularizer.steps": 300}
_ALIKE: Mapping[str, Lines] = {
    AS_IT_IS: {},
    "site vectors of 16": {"objective.encoder.site_width": 16},
    "site vectors of 96": {"objective.encoder.site_width": 96},
    "crystal vectors of 32": {"objective.encoder.crystal_width": 32},
    "crystal vectors of 128": {"objective.encoder.crystal_width": 128},
    "layers of 128": {"objective.encoder.hidden": 128},
    "basis of Gaussians": {"objective.encoder.distance.use": "GaussianBasis"},
    "elements learnt beside tables": {"objective.encoder.use": "lab.LearntElements"},
    "elements learnt, no tables": {"objective.encoder.use": "lab.LearntElements", "objective.encoder.tabulated": False},
    "deviations pooled beside means": {"objective.encoder.use": "lab.Moments"},
    "supercells of 100 sites": {"geometry.max_sites": 100},
    "twelve nearest neighbors": {"geometry": {"use": "Neighbors", "cutoff": 8.0, "max_neighbors": 12}},
    "mean of the weights": {"training.averaging": 0.99},
    "three times the epochs": {"data.epochs": 3},
    "a quarter of the structures": {"data.structures": 1 / 4},
    "a quarter, for as many steps": {"data.structures": 1 / 4, "data.epochs": 4},
    "four times the structures": {"data.structures": 4},
    "the Materials Project alone": {"data.of": "mp_"},
    "two networks side by side": {"data.networks": 2},
    "two blocks of attention": {"objective.encoder.blocks": 2},
}
LEVERS: Mapping[str, Mapping[str, Lines]] = {
    "infomax": {
        **_ALIKE,
        "Jensen-Shannon": {"objective.estimator.use": "JensenShannon"},
        "NWJ": {"objective.estimator.use": "NWJ"},
        "Smile": {"objective.estimator.use": "Smile"},
        "cosines, temperature 0.1": {"objective.critic.use": "lab.Cosine"},
        "cosines, temperature 0.5": {"objective.critic.use": "lab.Cosine", "objective.critic.temperature": 0.5},
        "half the batch, fewer false samples": {"training.sites_per_batch": 600},
        "twice the batch, more false samples": {"training.sites_per_batch": 2400},
        "four constituents, one family a step": {"objective.constituents": 4, "objective.families": 1},
        "other crystals alone": {"objective.negatives": _NEGATIVES[:1]},
        "without false polymorphs": {"objective.negatives": [*_NEGATIVES[:1], *_NEGATIVES[2:]]},
        "false compositions twice": {"objective.negatives": [*_NEGATIVES, _NEGATIVES[2]]},
        "noise, price 0.1": {**_NOISE, "objective.beta": 0.1},
        "noise, price 0.01": {**_NOISE, "objective.beta": 0.01},
        "noise, price falling from 0.1": {**_FALLING, "objective.beta": 0.1},
        "contrast of thermal views instead": {"instead": _CONTRAST},
        "contrast of thermal views beside": {"beside": (_CONTRAST, 0.3)},
    },
    "intrinsic": {
        **_ALIKE,
        "Deep InfoMax beside": {"beside": (parts_of("infomax")["objective"], 0.1)},
        "contrast of thermal views beside": {"beside": (_CONTRAST, 0.1)},
    },
}


def main() -> None:
    """Measure what is missing, write JSON after each, draw."""
    parser = parser_of(__doc__, crystals=1500)
    parser.add_argument("--folder", type=Path, required=True, help="what is kept between calls")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--structures", type=int, default=STRUCTURES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--recipes", nargs="*", default=[*LEVERS])
    parser.add_argument("--levers", nargs="*", help="some of them, by name")
    parser.add_argument("--seeds", type=int, default=2, help="of each lever; twice as many of a recipe as it is")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    task = Task(options.folder, options.data, options.crystals, options.structures, options.epochs)
    read(task)
    result = go_on(options.out, {"levers": {recipe: {} for recipe in options.recipes}})
    missing = [
        (base, lever, seed)
        for seed in range(2 * options.seeds)
        for base in options.recipes
        for lever in LEVERS[base]
        if lever in (options.levers or LEVERS[base])
        if seed < (2 * options.seeds if lever == AS_IT_IS else options.seeds)
        if str(seed) not in result["levers"][base].get(lever, {})
    ]
    work = (delayed(measured)(task, *one) for one in missing)
    for (base, lever, seed), found in zip(missing, Parallel(options.jobs, return_as="generator")(work), strict=True):
        result["levers"][base].setdefault(lever, {})[str(seed)] = found
        print(base, lever, seed, round(float(np.mean(np.log(list(found["errors"].values())))), 4), flush=True)
        store({**result, **about()}, options.out)
    if options.figure:
        probed = entries.probed(result["levers"])
        trained = probed[probed.recipe != "untrained"].assign(recipe="trained")
        by_recipe = pd.concat([probed, trained]).groupby("recipe")
        print(by_recipe.apply(lambda own: own.told.corr(own.error, method="spearman"), include_groups=False))
        options.figure.write_text(svg(draw(probed), "told"))


def draw(probed: pd.DataFrame) -> Figure:
    """Error against what linear maps tell of plain statistics, a point for each network."""
    looks = {"untrained": (INK, "none"), "infomax": (BLUE, BLUE), "intrinsic": (GREEN, GREEN)}
    with style.context(STYLE):
        figure = Figure(figsize=(5.2, 3.4), layout="constrained", facecolor="white")
        panel = figure.subplots()
        for recipe, (edge, face) in looks.items():
            own = probed[probed.recipe == recipe]
            name = recipe if recipe == "untrained" else f"{recipe}, as it is or with a lever"
            panel.scatter(own.told, own.error, s=22, edgecolors=edge, facecolors=face, alpha=0.75, label=name)
        panel.set(xlabel="share of plain statistics that linear maps tell", ylabel="error, of untrained networks'")
        panel.legend(fontsize=8)
    return figure


class Task(NamedTuple):
    """What is kept where, and made of what; how many structures teach, for how many epochs."""

    folder: Path
    tables: Path
    crystals: int
    structures: int
    epochs: int


def measured(task: Task, base: str, lever: str, seed: int) -> dict[str, Any]:
    """Errors of the vectors that a lever teaches, and of those of its untrained networks."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    data, labelled = read(task)
    lines = LEVERS[base][lever]
    parts, rows = changed(base, lines, task.epochs), rows_of(data, lines, task.structures)
    seeds = [seed + 100 * number for number in range(lines.get("data.networks", 1))]
    began = time.process_time()
    encoders = [vectors_of(parts, one, data, rows) for one in seeds]
    seconds = time.process_time() - began
    twins = [vectors_of(parts, 1001 + one, data, rows[:0]) for one in seeds]
    (unlabelled,) = (each.data for each in labelled if each.name == "formation_energy_eV_per_atom")
    crystals = unlabelled.crystals(np.arange(len(unlabelled)))
    return {
        "errors": errors(lambda data: together(encoders, data), labelled),
        "untrained": errors(lambda data: together(twins, data), labelled),
        "told": [round(told(together(some, unlabelled), crystals), 4) for some in (encoders, twins)],
        "cpu_seconds": round(seconds, 1),
    }


@cache
def read(task: Task) -> tuple[Dataset, list[Labelled]]:
    """Structures to learn from, with the statistics that they can be asked for, and labelled crystals to judge by."""
    data, labelled = kept(task.folder, task.tables, 4 * task.structures, task.crystals)
    return Statistics().prepared(data, np.arange(len(data)), task.folder), labelled


def changed(base: str, lines: Lines, epochs: int) -> dict[str, Any]:
    """The parts of a recipe, with these lines."""
    parts: dict[str, Any] = copy.deepcopy(parts_of(base))
    parts["training"]["epochs"] = epochs * lines.get("data.epochs", 1)
    for path, value in lines.items():
        objective = parts["objective"]
        if path == "instead":
            parts["objective"] = {**value, "encoder": objective["encoder"]}
        elif path == "beside":
            other, weight = value
            both = [{k: v for k, v in {**one, "later": True}.items() if k != "encoder"} for one in (objective, other)]
            mixed = {"use": "Mixture", "encoder": objective["encoder"], "parts": both, "weights": [1.0, weight]}
            parts["objective"] = mixed
        elif not path.startswith("data."):
            *tables, last = path.split(".")
            table = parts
            for name in tables:
                table = table[name]
            table[last] = value
    return parts


def rows_of(data: Dataset, lines: Lines, structures: int) -> np.ndarray:
    """What a lever learns from: the first so many of one random order."""
    rows = np.random.default_rng(0).permutation(len(data))
    rows = rows[np.char.startswith(np.array(data.batch(rows).keys), lines.get("data.of", ""))]
    return np.sort(rows[: int(structures * lines.get("data.structures", 1))])


def vectors_of(parts: dict[str, Any], seed: int, data: Dataset, rows: np.ndarray) -> CrystalFeaturizer:
    """What a recipe learns from these rows; without any, its network as it begins."""
    objective, geometry = untrained(parts, seed, trusted=TRUSTED)
    if len(rows):
        how = Training(**{**parts["training"], "seed": seed})
        train(objective, data, Split(rows, rows[:0]), how, geometry=geometry)
    return CrystalFeaturizer(objective.encoder.eval(), geometry=geometry, statistics=False)


def together(featurizers: list[CrystalFeaturizer], data: CrystalDataset) -> np.ndarray:
    """The vectors of several networks side by side."""
    return np.concatenate([featurizer.numbers(data) for featurizer in featurizers], axis=1)


if __name__ == "__main__":
    main()
