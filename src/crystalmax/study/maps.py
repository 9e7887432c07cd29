"""Part 5: maps of vectors, trained and untrained, and numbers for what they show (Figs. 9 and 10)."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.manifold import TSNE, trustworthiness
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from crystalmax.study.cell import Cell, Result
from crystalmax.study.chemistry import CLASSES
from crystalmax.study.material import Material
from crystalmax.study.representation import RECIPES, method_of, methods
from crystalmax.study.settings import Study

log = logging.getLogger(__name__)

Points = Float[np.ndarray, "crystals axes"]
Plane = Float[np.ndarray, "crystals 2"]

MOST = 4000
"""Most crystals on a map; of more, a random sample is taken."""

PERPLEXITY = 100
"""Of t-SNE, as in the paper; or 5 % of the crystals where that is less."""

NEIGHBOURS = 10
"""Number of nearest neighbours that a crystal is compared with."""


def cells(study: Study) -> list[Cell]:
    """A cell for each trained and untrained network of a data set that is pre-trained on itself."""
    if find_spec("umap") is None:
        log.info("umap-learn is not installed: maps are drawn by t-SNE alone")
    return [
        Cell(f"maps/{material.name}/{method.name}", partial(_map, study, material.name, method.name))
        for material in study.own
        for method in methods(study, material)
        if method.family in RECIPES
    ]


def projections(seed: int) -> Mapping[str, Callable[[Points], Plane]]:
    """Methods of projection to a plane, by name; UMAP only if it is installed."""
    found: dict[str, Callable[[Points], Plane]] = {"t-SNE": partial(_tsne, seed=seed)}
    return found if find_spec("umap") is None else found | {"UMAP": partial(_umap, seed=seed)}


def _map(study: Study, dataset: str, method_name: str) -> Result:
    """Maps of the test split, and how well classes and properties cluster on them and among the vectors."""
    material = study.material(dataset)
    method = method_of(study, material, method_name)
    rows = mapped(study, material)
    crystals = [material.data[row] for row in rows]
    classes = {name: np.array([number(crystal) for crystal in crystals]) for name, (number, _) in CLASSES.items()}
    values = {each.name: material.values(each.name)[rows] for each in material.properties}
    vectors = StandardScaler().fit_transform(method.features()[rows].astype(np.float64))
    maps = {name: project(vectors) for name, project in projections(study.seed).items()}
    spaces = {"vectors": vectors, **maps}
    found = [{"space": name, **row} for name, points in spaces.items() for row in numbers(points, classes, values)]
    for name, points in maps.items():
        kept = trustworthiness(vectors, points, n_neighbors=_neighbours(len(points)))
        found.append({"space": name, "quantity": "trustworthiness", "value": kept, "chance": 0.5})
    table = pd.DataFrame(found).assign(
        part="maps", dataset=dataset, split=study.split, method=method.name, kind=method.kind, seed=study.seed
    )
    return Result(table, {**maps, **classes, **values, "rows": rows})


def mapped(study: Study, material: Material) -> Int[np.ndarray, " mapped"]:
    """Rows on the map, from the test split, the same for all methods."""
    tested = study.parts(material).test
    return np.sort(np.random.default_rng(study.seed).permutation(tested)[:MOST])


def numbers(
    points: Points,
    classes: Mapping[str, Int[np.ndarray, " crystals"]],
    values: Mapping[str, Float[np.ndarray, " crystals"]],
) -> Iterator[dict[str, object]]:
    """How points of one class, or of similar values, cluster: a row for each number, with its value by chance."""
    near = _nearest(points)
    for name, of in classes.items():
        shares = np.bincount(of) / len(of)
        yield {"quantity": f"{name} purity", "value": (of[near] == of[:, None]).mean(), "chance": (shares**2).sum()}
        if (shares > 0).sum() > 1:
            yield {"quantity": f"{name} silhouette", "value": float(silhouette_score(points, of)), "chance": 0.0}
    for name, of in values.items():
        known = np.isfinite(of)
        if known.sum() < 3:  # a neighbour, and a choice of it
            continue
        of = of[known]
        off = np.abs(of - of[_nearest(points[known])].mean(axis=1)).mean()
        chance = np.abs(of - of.mean()).mean()
        yield {"quantity": "error of neighbours", "property": name, "value": off, "chance": chance}


def _nearest(points: Points) -> Int[np.ndarray, "crystals neighbours"]:
    near = NearestNeighbors(n_neighbors=_neighbours(len(points))).fit(points)
    found: Int[np.ndarray, "crystals neighbours"] = near.kneighbors(return_distance=False)
    return found


def _neighbours(n_points: int) -> int:
    """Fewer where there are not many points: trustworthiness wants less than half of them."""
    return min(NEIGHBOURS, (n_points - 1) // 2)


def _tsne(vectors: Points, *, seed: int) -> Plane:
    perplexity = min(PERPLEXITY, max(len(vectors) / 20, 2))
    found: Plane = TSNE(perplexity=perplexity, random_state=seed, n_jobs=1).fit_transform(vectors).astype(np.float64)
    return found


def _umap(vectors: Points, *, seed: int) -> Plane:
    # Numba, below it, sets the number of threads of PyTorch too; other sums would then have other last digits.
    with threadpool_limits():
        reducer = import_module("umap").UMAP(random_state=seed, n_jobs=1)
        found: Plane = reducer.fit_transform(vectors).astype(np.float64)
    return found
