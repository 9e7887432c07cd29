"""Part 2: frozen vectors, untrained twins and plain statistics with simple models on few labels (Fig. 8)."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int
from sklearn.base import BaseEstimator

from crystalmax.encoding import width_of
from crystalmax.judging.assessment import small_data
from crystalmax.judging.evaluation import TRIVIAL, Draw, FeatureSet, Kind, evaluate
from crystalmax.statistics import baselines
from crystalmax.storage.dataset import Rows
from crystalmax.study.cell import Cell, Result
from crystalmax.study.material import Material
from crystalmax.study.models import downstream_models
from crystalmax.study.networks import Features, Recipe
from crystalmax.study.overlap import counts
from crystalmax.study.settings import Study
from crystalmax.study.vectors import read_vectors

RECIPES = ("infomax", "paper")
"""Recipes of Deep InfoMax, our own and as published, which the study is about."""

OURS = "intrinsic"
"""The recipe of the weights that ship, which is compared with them."""

ALL_STATISTICS, JOINED = "all statistics", f"{OURS} recipe and all statistics"
"""Names of the features that we recommend, without and with vectors."""

BASELINES: Mapping[str, baselines.Maker] = {
    "element fractions": baselines.element_fractions,
    "composition statistics": baselines.composition_statistics,
    "structure statistics": baselines.structure_statistics,
}
"""Plain statistics to compare with; the last two are also used together."""

_PLAIN = {**BASELINES, ALL_STATISTICS: baselines.statistics}


@dataclass(frozen=True)
class Method:
    """Features of the crystals of a data set, as one method in a comparison.

    Attributes:
        name: Its name in tables.
        kind: Its role.
        features: Function that makes the features, a row for each crystal of the data set.
        family: A name that vectors share with their untrained twins; empty if there are no twins.
        pretraining: Data set and rows that its network has learnt from.
        models: Further downstream models for these features alone, by name.
    """

    name: str
    kind: Kind
    features: Callable[[], Features]
    family: str = ""
    pretraining: tuple[Material, Rows] | None = None
    models: Mapping[str, BaseEstimator] = field(default_factory=dict)


Methods = Callable[[Study, Material], Sequence[Method]]
"""Makes the methods that a part of the study compares on a data set."""

Work = Callable[[Study, Material, str, Method], Result]
"""What a part does with a method, for a property of a data set."""


@dataclass(frozen=True)
class GivenDraws:
    """A plan with draws that were made before."""

    given: tuple[Draw, ...]

    def draws(self, groups: Int[np.ndarray, " rows"]) -> tuple[Draw, ...]:
        """The given draws, whose split was made by the same groups."""
        return self.given


def cells(study: Study) -> list[Cell]:
    """Networks first, then each method at each number of labels, for data sets that are pre-trained on themselves."""
    return [network_cell(study, material, recipe) for material in study.own for recipe in compared(study)] + [
        Cell(
            f"representation/{material.name}/{each.name}/{labels}/{method.name}",
            partial(_scored, study, material.name, each.name, labels, draws, method.name),
            cost=draws * (20 + labels) * (0.05 if method.kind == "trivial" else 1),
        )
        for material in study.own
        for each in material.properties
        for method in sorted(methods(study, material), key=lambda method: method.kind in ("pretrained", "joint"))
        for labels, draws in study.budgets(material, each.name)
    ]


def compared(study: Study) -> tuple[str, ...]:
    """Names of all recipes whose vectors are scored: the paper's, ours, and those that were given to the study."""
    return (*RECIPES, OURS, *study.recipes)


def network_cell(study: Study, material: Material, recipe: str) -> Cell:
    """A cell without results, which trains a network that other cells need."""
    cost = len(material.data) * float(material.data.n_sites.mean())
    return Cell(f"networks/{material.name}/{recipe}", partial(_trained, study, material.name, recipe), cost)


def methods(study: Study, material: Material) -> list[Method]:
    """All methods for a data set; networks are those of its donor."""
    ours = [*_networks(study, material), *_elsewhere(study, material)]
    statistics = partial(_statistics, study, material)
    joint = [
        Method(f"{one.name} and statistics", "joint", partial(_together, one.features, statistics), "", one.pretraining)
        for one in ours
        if one.kind == "pretrained"
    ]
    return [
        Method(TRIVIAL, "trivial", partial(np.empty, (len(material.data), 0))),
        *(Method(name, "baseline", partial(_baseline, study, material, name)) for name in BASELINES),
        Method("composition and structure statistics", "baseline", statistics),
        *ours,
        *joint,
        *_best(study, material),
    ]


def _best(study: Study, material: Material) -> Iterator[Method]:
    """All statistics, without and with vectors, with the regressor that we recommend."""
    statistics, widths = partial(all_statistics, study, material), baselines.statistics_widths()
    yield Method(ALL_STATISTICS, "baseline", statistics, models=small_data(widths))
    together = partial(_together, partial(network_vectors, study, material, OURS), statistics)
    models = small_data((width_of(study.untrained(OURS, 0).encoder), *widths))
    yield Method(JOINED, "joint", together, pretraining=study.pretraining(material), models=models)


def method_of(study: Study, material: Material, name: str, makers: Methods = methods) -> Method:
    """A method by its name, among those of this part or of another."""
    return next(method for method in makers(study, material) if method.name == name)


def score(
    study: Study,
    material: Material,
    name: str,
    method: Method,
    draws: Sequence[Draw],
    *,
    models: Mapping[str, BaseEstimator] | None = None,
) -> Result:
    """Scores of every model on the features of a method, for draws of rows of the data set.

    The arrays are `predictions`, a row for each row of the table, `tested` and `measured`.
    """
    values, numbers = material.values(name), method.features()
    used = np.unique(np.concatenate([rows for draw in draws for part in draw.parts for rows in part]))
    place = np.zeros(len(values), dtype=np.int64)
    place[used] = np.arange(len(used))
    moved = [draw._replace(parts=tuple((place[train], place[test]) for train, test in draw.parts)) for draw in draws]
    features = {} if method.kind == "trivial" else {method.name: FeatureSet(numbers[used], method.kind, method.models)}
    models = downstream_models(study.budget.trees) if models is None else models
    groups = [material.formulas[row] for row in used]
    scores = evaluate(features, values[used], models=models, plan=GivenDraws(tuple(moved)), groups=groups)
    own = (scores.table.kind == method.kind).to_numpy()
    rows = scores.table[own].rename(columns={"features": "method"})
    rows = rows.assign(dataset=material.name, property=name, split=study.split, family=method.family)
    arrays = {"predictions": scores.predictions[own].astype(np.float32), "measured": scores.measured}
    return Result(rows, {**arrays, "tested": used[scores.tested]})


def scored(
    study: Study,
    material: Material,
    name: str,
    method: Method,
    draws: Sequence[Draw],
    part: str,
    *,
    models: Collection[str] | None = None,
    **columns: int,
) -> Result:
    """Results of `score` (with these models only, if given) as rows of a part, with the overlap with pre-training."""
    found = score(study, material, name, method, draws, models=downstream_models(study.budget.trees, models))
    overlap = counts(material, study.tested(material, name), study.pool(material, name), method.pretraining)
    return Result(found.rows.assign(part=part, **columns, **overlap), found.arrays)


def method_cells(
    study: Study,
    materials: Sequence[Material],
    part: str,
    methods: Methods,
    work: Work,
    cost: Callable[[Material], float] = lambda _: 1.0,
    *,
    needs_draws: bool = True,
) -> list[Cell]:
    """A cell for each property and method of these data sets, which calls `work` with data set, property and method."""
    return [
        Cell(
            f"{part}/{material.name}/{each.name}/{method.name}",
            partial(_worked, study, material.name, each.name, methods, method.name, work),
            cost(material),
        )
        for material in materials
        for each in material.properties
        if study.budgets(material, each.name) or not needs_draws
        for method in methods(study, material)
    ]


def _worked(study: Study, dataset: str, name: str, methods: Methods, method_name: str, work: Work) -> Result:
    """The work of a cell; data set and method are sent to other processes by name, since they may be large."""
    material = study.material(dataset)
    return work(study, material, name, method_of(study, material, method_name, methods))


def all_drawn(study: Study, material: Material, name: str, most_labels: int | None = None) -> list[Draw]:
    """The draws of the study at each number of labels, up to the most that are wanted."""
    budgets = study.budgets(material, name)
    wanted = [budget for budget in budgets if most_labels is None or budget[0] <= most_labels]
    return [draw for budget in wanted for draw in drawn(study, material, name, *budget)]


def drawn(study: Study, material: Material, name: str, labels: int, n_draws: int) -> list[Draw]:
    """The draws of the study at one number of labels, as `score` takes them."""
    tested, n_pool = study.tested(material, name), len(study.pool(material, name))
    return [
        Draw(labels, number, study.seed, n_pool, ((study.labelled(material, name, labels, number), tested),))
        for number in range(n_draws)
    ]


def _scored(study: Study, dataset: str, name: str, labels: int, n_draws: int, method_name: str) -> Result:
    material = study.material(dataset)
    method = method_of(study, material, method_name)
    return scored(study, material, name, method, drawn(study, material, name, labels, n_draws), "representation")


def _trained(study: Study, dataset: str, recipe: str) -> Result:
    study.network_folder(study.material(dataset), recipe)
    return Result(pd.DataFrame())


def _networks(study: Study, material: Material) -> Iterator[Method]:
    """Vectors of each recipe, and of untrained networks for each architecture."""
    seen = study.pretraining(material)
    recipes = compared(study)
    for recipe in recipes:
        family = next(other for other in recipes if _network_of(study, other) == _network_of(study, recipe))
        yield Method(f"{recipe} recipe", "pretrained", partial(network_vectors, study, material, recipe), family, seen)
        if family == recipe:
            for seed in study.twin_seeds:
                name = f"untrained, seed {seed}" if recipe == RECIPES[0] else f"untrained {recipe}, seed {seed}"
                yield Method(name, "untrained", partial(_twin, study, material, recipe, seed), family)


def _elsewhere(study: Study, material: Material) -> Iterator[Method]:
    """Vectors from elsewhere, and their untrained twins; without twins, they count as plain statistics."""
    for name, tables, untrained in study.vectors:
        twins = [path for path in untrained if read_vectors([path], material.keys) is not None]
        if read_vectors(tables, material.keys) is not None:
            kind: Kind = "pretrained" if twins else "baseline"
            yield Method(name, kind, partial(_read, tables, material), name)
        for number, path in enumerate(twins, 1):
            yield Method(f"{name}, untrained {number}", "untrained", partial(_read, [path], material), name)


def _network_of(study: Study, recipe: str) -> tuple[object, object]:
    content = study.recipe(recipe)
    objective = content["objective"]
    assert isinstance(objective, dict)  # or nothing could be trained
    return objective.get("encoder"), content["geometry"]


def network_vectors(study: Study, material: Material, recipe: Recipe, rows: Rows | None = None) -> Features:
    """Vectors of a network that learnt from the donor of a data set, as `Study.network` trains it."""
    return study.encoded(study.network(study.material(material.donor), recipe, rows), material)


def _twin(study: Study, material: Material, recipe: str, seed: int) -> Features:
    return study.encoded(study.untrained(recipe, seed), material)


def _read(tables: Sequence[Path], material: Material) -> Features:
    values = read_vectors(tables, material.keys)
    assert values is not None  # or there would be no such method
    return values


def all_statistics(study: Study, material: Material) -> Features:
    """Every block of statistics, side by side."""
    return _baseline(study, material, ALL_STATISTICS)


def _baseline(study: Study, material: Material, name: str) -> Features:
    return study.kept(material, name, lambda: _PLAIN[name](material.crystals)[0])


def _statistics(study: Study, material: Material) -> Features:
    return np.concatenate([_baseline(study, material, name) for name in list(BASELINES)[1:]], axis=1)


def _together(*makers: Callable[[], Features]) -> Features:
    return np.concatenate([make() for make in makers], axis=1)
