"""`crystalmax study`: settings in, a folder with every cell, one table and one report out."""

import hashlib
import inspect
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd

from crystalmax.checkpoint import MAX_SPEC_BYTES
from crystalmax.judging.evaluation import TRIVIAL
from crystalmax.learning.pretraining import parts_of
from crystalmax.spec import build, parts_in
from crystalmax.storage.writing import at_once, read_json, write_json
from crystalmax.study import networks, runner
from crystalmax.study.cell import Cell
from crystalmax.study.material import SplitBy
from crystalmax.study.preparation import MATBENCH, Source, matbench_source, prepare, sources_of
from crystalmax.study.representation import OURS, RECIPES
from crystalmax.study.runner import Forecast, Outcome
from crystalmax.study.settings import BUDGETS, Study
from crystalmax.study.vectors import Vectors, read_vectors

log = logging.getLogger(__name__)

PARTS = ("leakage", "curves", "representation", "transfer", "ablation", "encoders", "maps", "shift", "blocks")
"""Parts of the study in the order in which they run; each is a module of this package with a function `cells`."""

USUAL = tuple(part for part in PARTS if part not in ("encoders", "blocks"))
"""The parts that run by default, those of the paper. Other encoders would add a third to the time."""

Files = Mapping[str, Sequence[Path]]
"""Files by a name for what made them."""


def begin(
    settings: str,
    data: str,
    out: Path,
    budget: str = "small",
    split: SplitBy | None = None,
    *,
    vectors: Files | None = None,
    untrained: Files | None = None,
    recipes: Files | None = None,
    trusted: tuple[str, ...] = (),
    seed: int = 0,
    accelerator: str = "cpu",
    n_jobs: int = 1,
) -> Study:
    """The study in a folder, which is begun if there is none yet.

    Data and vectors are copied into the folder, so it can go on on another machine with the same settings and code.

    Args:
        settings: `paper`, or a TOML file.
        data: The folder that holds the data sets, or `matbench:` and the name of one of Matbench.
        out: The folder of the study.
        budget: One of `settings.BUDGETS`.
        split: How data are split; by formula unless given, or by test fold 0 for data of Matbench.
        vectors: Tables of vectors from elsewhere, by name, as `crystalmax represent` writes them.
        untrained: Tables of vectors of the same networks before training, by the same names.
        recipes: Recipes to compare with those that ship, one for each name.
        trusted: Packages, besides crystalmax, that these may take parts from.
        seed: Seed of the split, the draws and the networks.
        accelerator: Device for training, as Lightning names it.
        n_jobs: Processes that read structures.

    Raises:
        ValueError: The folder holds a study with other settings, or settings are wrong.
    """
    if budget not in BUDGETS:
        raise ValueError(f"there is no budget {budget!r}; choose one of {', '.join(BUDGETS)}")
    vectors, untrained = vectors or {}, untrained or {}
    for files in (vectors, untrained):
        _check_vectors(files)
    contents = _read_recipes(recipes or {}, trusted)
    own = data.startswith(MATBENCH)
    asked: dict[str, Any] = {
        "data": data if own else [asdict(source) for source in sources_of(settings)],
        "budget": budget,
        "split": split or ("fold" if own else "formula"),
        "seed": seed,
        "vectors": {"trained": _hashes(vectors), "untrained": _hashes(untrained)},
        "recipes": contents,
        "code": _code(contents, trusted),
    }
    path = out / "study.json"
    if path.exists():
        sources = _sources_begun(path, asked)
    else:
        out.mkdir(parents=True, exist_ok=True)
        sources = matbench_source(data) if own else sources_of(settings)
        _copy(vectors, out / "given")
        _copy(untrained, out / "given-untrained")
        write_json(path, {**asked, "sources": [asdict(source) for source in sources]})
    materials = prepare(sources, data, out / "data", BUDGETS[budget], seed=seed, n_jobs=n_jobs)
    names = {material.name for material in materials}
    write_json(path, {**asked, "sources": [asdict(source) for source in sources if source.name in names]})
    tables = _given(out)
    study = Study(out, materials, BUDGETS[budget], asked["split"], tables, seed, accelerator, contents, trusted)
    _tell_of_left_out(study)
    return study


def cells_of(study: Study, parts: Sequence[str]) -> list[Cell]:
    """The cells of these parts, in the order in which they run.

    Raises:
        ValueError: There is no such part.
    """
    for part in parts:
        if part not in PARTS:
            raise ValueError(f"there is no part {part!r}; choose among {', '.join(PARTS)}")
    cells = [cell for part in parts for cell in import_module(f"crystalmax.study.{part}").cells(study)]
    # Networks that many cells need come first: each is trained by one process while others train the next.
    return sorted(cells, key=lambda cell: not cell.name.startswith("networks/"))


def go_on(
    study: Study, parts: Sequence[str] = USUAL, *, n_jobs: int = 1, report: Callable[[Forecast], None] = lambda _: None
) -> list[Outcome]:
    """Run the cells of these parts that are not done yet, and write the tables of all results.

    These are, in the folder of the study: `results.parquet`, a row for each draw, the same bytes from the same
    settings; `times.parquet`, the seconds that each cell took; `failed.csv`, cells that ended with an error.
    """
    cells = study.folder / "cells"
    outcomes = runner.run(cells_of(study, parts), cells, n_jobs=n_jobs, report=report)
    failed = [(outcome.name, outcome.error) for outcome in outcomes if outcome.error]
    with at_once(study.folder / "failed.csv") as file:
        pd.DataFrame(failed, columns=["cell", "error"]).to_csv(file, index=False)
    for name, table in (("results.parquet", runner.rows_of(cells)), ("times.parquet", runner.times_in(cells))):
        with at_once(study.folder / name) as file:
            table.to_parquet(file, index=False)
    return outcomes


def _check_vectors(files: Files) -> None:
    """Raise a ValueError for names that no folder or method can have, and for files without vectors."""
    for name, paths in files.items():
        if name == TRIVIAL or not re.fullmatch(r"\w[\w.+-]*", name):
            found = f"vectors cannot be called {name!r} here"
            raise ValueError(f"{found}; give a name of letters, digits and any of _ . + -, other than {TRIVIAL}")
        for path in paths:
            read_vectors([path], ())


def _read_recipes(files: Files, trusted: tuple[str, ...]) -> dict[str, dict[str, object]]:
    known, found = (*RECIPES, OURS), {}
    for name, paths in files.items():
        # Tables put a change behind a comma, and names of cells are paths.
        if name in known or not name.replace("_", "").isalnum():
            raise ValueError(
                f"a recipe cannot be called {name!r} here; give it a name of letters, digits and underscores, other "
                f"than {', '.join(known)}, which every study has"
            )
        if len(paths) > 1:
            raise ValueError(f"two recipes are called {name!r}; give each a name of its own")
        found[name] = parts = parts_of(paths[0])
        # This and the last refuse what could not be trained.
        if labels := ", ".join(map(repr, networks.untrained(parts, 0, trusted).labels_of)):
            raise ValueError(
                f"the recipe {name!r} learns labels of {labels}, more of them than a draw may see; give one that "
                "learns from structures alone"
            )
        build({"use": "crystalmax.learning.training.Training", **parts["training"]})
    return found


def _code(recipes: Mapping[str, object], trusted: tuple[str, ...]) -> dict[str, str]:
    """A hash of the file that defines each part from other packages; files that it imports do not count."""
    files = {}
    for part in sorted(parts_in(recipes)):
        module, _, name = part.rpartition(".")
        if any(f"{module}.".startswith(f"{package}.") for package in trusted):
            files[part] = inspect.getfile(getattr(import_module(module), name))
    return {part: hashlib.sha256(Path(file).read_bytes()).hexdigest() for part, file in files.items()}


def _sources_begun(path: Path, asked: Mapping[str, Any]) -> tuple[Source, ...]:
    """The data sets of the study in this file, if it has the settings that are asked for."""
    try:
        begun = read_json(path, MAX_SPEC_BYTES)
        if not isinstance(begun, dict) or "sources" not in begun:
            raise ValueError("it holds no settings")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); get another copy of it, or choose another folder") from None
    # Files of earlier versions have no recipes, or no hashes of code.
    begun = {"recipes": {}, "code": asked["code"], **begun}
    if other := [name for name in asked if json.loads(json.dumps(asked[name])) != begun.get(name)]:
        found, given = (json.dumps(each.get(other[0]))[:100] for each in (begun, asked))
        raise ValueError(
            f"{path.parent} holds a study with another {other[0]} ({found}, not {given}); go on with the settings that "
            "it has, or choose another folder"
        )
    return tuple(Source(**source) for source in begun["sources"])


def _hashes(files: Files) -> dict[str, list[str]]:
    return {name: [hashlib.sha256(path.read_bytes()).hexdigest() for path in files[name]] for name in sorted(files)}


def _copy(files: Files, folder: Path) -> None:
    for name, paths in files.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, path in enumerate(paths):
            shutil.copyfile(path, folder / name / f"{number}{path.suffix}")


def _tell_of_left_out(study: Study) -> None:
    """Warn about tables of vectors that fit no data set, and about properties with too few labels."""
    for path in (path for each in study.vectors for path in (*each.tables, *each.untrained)):
        if all(read_vectors([path], material.keys) is None for material in study.materials):
            log.warning("%s is left out: its column 'key' names less than half of the crystals of any data set", path)
    for one, name in [(material, each.name) for material in study.materials for each in material.properties]:
        if not study.budgets(one, name):
            few = f"{len(study.pool(one, name))} labels to draw from and {len(study.tested(one, name))} to test"
            log.warning("%s, %s: %s are too few for this budget; draws of it are left out", one.name, name, few)


def _given(out: Path) -> tuple[Vectors, ...]:
    """The vectors that were copied into the folder of the study."""
    names = sorted({path.name for folder in ("given", "given-untrained") for path in (out / folder).glob("*")})
    files = [[tuple(sorted((out / part / name).glob("*"))) for part in ("given", "given-untrained")] for name in names]
    return tuple(Vectors(name, *tables) for name, tables in zip(names, files, strict=True))
