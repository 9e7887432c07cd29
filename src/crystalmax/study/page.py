"""The report of a study: verdicts, figures, and tables that also show the overlap with pre-training."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from crystalmax import __version__, plots
from crystalmax.judging.assessment import SMALL_DATA
from crystalmax.judging.report import Section, Table, comparison_table, write_report
from crystalmax.storage.writing import at_once
from crystalmax.study import encoders, figures, runner
from crystalmax.study.matbench import FOLDS, LEADERBOARD
from crystalmax.study.material import Material, Property
from crystalmax.study.representation import ALL_STATISTICS, JOINED, OURS, RECIPES
from crystalmax.study.settings import Study
from crystalmax.study.summary import Finding, differences, findings
from crystalmax.study.transfer import STARTS

SEEN = {"structures_in_pretraining": "structures seen", "formulas_in_pretraining": "formulas seen"}
"""Columns of overlap in tables of errors, and their names there."""

SHOWN = (
    *(f"{recipe} recipe" for recipe in (*RECIPES, OURS)),
    f"{RECIPES[0]} recipe and statistics",
    JOINED,
    "element fractions",
    ALL_STATISTICS,
)
"""Methods in the figures of frozen vectors, beside untrained networks; tables have all."""

ANSWERING = (f"{OURS} recipe", f"{RECIPES[0]} recipe", STARTS["pretrained"][0])
"""Methods with verdicts at the top of the report, besides those that were given to the study."""

CURVES, PAIRS, BOXES = (
    ("ridge", "extra trees", SMALL_DATA),
    ("ridge", "extra trees", "hidden layer"),
    ("least squares", "hidden layer"),
)
"""Models of the figures of frozen vectors: lines, paired differences, and boxes as in the paper."""

COSTS = (
    "All mixtures stand here; none was chosen by these errors. Each row has the recipe that ships for its encoder. "
    "Seconds: of 1,000 crystals, on the machine that did the study, as busy as it was."
)
"""Addition to the caption of the table of encoders."""


class Written(NamedTuple):
    """The report that `write` made, and the sentences of its findings."""

    path: Path
    sentences: tuple[str, ...]


def write(study: Study) -> Written:
    """Write `report.html`, `comparison.csv` and the figures, from whatever cells of the study are done.

    Every figure is also in the folder `figures`, as SVG and as PNG.
    """
    rows = runner.rows_of(study.folder / "cells")
    found = findings(study)
    with at_once(study.folder / "comparison.csv") as file:
        differences(rows).to_csv(file, index=False)
    sections = [section for section in _sections(study, rows, found) if section.figures or section.tables]
    for section in sections:
        _save(section, study.folder / "figures")
    given = (*(f"{name} recipe" for name in study.recipes), *(vectors.name for vectors in study.vectors))
    names = ", ".join(material.name for material in study.materials)
    path = write_report(
        study.folder / "report.html",
        f"Few labels and pre-training: {names}",
        None,
        answers=[(_heading(each), each.verdict) for each in found if each.method in (*ANSWERING, *given)],
        sections=sections,
        facts=_facts(study, rows),
    )
    return Written(path, tuple(each.sentence for each in found))


def _plain(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that are not empty, with counts as plain integers."""
    known = table.dropna(axis=1, how="all")
    whole = [name for name in known.select_dtypes("Int64") if known[name].notna().all()]
    return known.astype(dict.fromkeys(whole, "int64"))


def _heading(each: Finding) -> str:
    return f"{each.dataset}, {_words(each.target)}: {each.method}, {each.part}"


def _sections(study: Study, rows: pd.DataFrame, found: Sequence[Finding]) -> Iterator[Section]:
    """The parts in the order of the paper, as far as there are rows."""
    parts = {str(part): _plain(table) for part, table in rows.groupby("part")} if len(rows) else {}

    def of(part: str) -> Iterator[tuple[Material, pd.DataFrame]]:
        if part in parts:
            tables = dict(iter(parts[part].groupby("dataset")))
            yield from ((material, tables[material.name]) for material in study.materials if material.name in tables)

    def by_property(part: str) -> Iterator[tuple[Material, Property, pd.DataFrame, list[Finding]]]:
        for material, table in of(part):
            for each, chosen in _of_properties(material, table):
                about = (part, material.name, each.name)
                yield material, each, chosen, [one for one in found if (one.part, one.dataset, one.target) == about]

    if "leakage" in parts:
        yield _leakage(parts["leakage"])
    yield Section("Learning curves", figures=[figures.curves(table) for _, table in of("curves")])
    yield from (_representation(*each) for each in by_property("representation"))
    yield from (_official(*each) for each in of("official"))
    yield from (_transfer(*each, found) for each in of("transfer"))
    yield from (_ablation(*each) for each in of("ablation"))
    yield from (_encoders(study, *each) for each in of("encoders"))
    yield from (_blocks(*each) for each in of("blocks"))
    yield from (_maps(study, *each) for each in of("maps"))
    yield from (_shift(*each) for each in by_property("shift"))


def _of_properties(material: Material, rows: pd.DataFrame) -> Iterator[tuple[Property, pd.DataFrame]]:
    """Each property that has rows, with its rows."""
    for each in material.properties:
        if len(chosen := rows[rows.property == each.name]):
            yield each, chosen


def _leakage(rows: pd.DataFrame) -> Section:
    columns = {"dataset": "data", "split": "split by", "pool": "pool of labels", "tested": "tested", **SEEN}
    columns |= {"structures_in_labels": "structures in pool", "formulas_in_labels": "formulas in pool"}
    table = rows.reindex(columns=list(columns)).rename(columns=columns)
    caption = (
        "How many of the tested crystals were seen in pre-training, or are in the pool that labels come from: by "
        "structure, whatever the cell and up to small relaxations, and by formula."
    )
    return Section("What was seen before", tables=[(caption, _counted(table))])


def _representation(material: Material, each: Property, rows: pd.DataFrame, found: Sequence[Finding]) -> Section:
    error = f"error{each.unit and ', '}{each.unit}"
    scores = rows.rename(columns={"method": "features"})
    ours = scores.features.isin(SHOWN) | scores.kind.eq("trivial") | _of_recipes(rows)
    lines = scores[ours & scores.model.isin([*CURVES, "median"])]
    networks = scores[_of_recipes(rows) & scores.model.isin(BOXES)]
    curves = "Error on test crystals against the number of labels; median and middle half."
    boxes = "One hidden layer (filled) and least squares on frozen vectors, trained and untrained; every draw."
    drawn = [(curves, plots.learning_curves(lines, error=error)), (boxes, plots.boxes(networks, error=error))]
    tables = [_ranking(rows, each.unit)]
    for finding in found:
        caption = f"{finding.method} against its untrained twins, draw by draw; below zero, training helped."
        drawn.append((caption, plots.paired_differences(_of_family(scores, finding.method), finding.method)))
        tables.append(_comparison(finding))
    return Section(f"Frozen vectors: {material.name}, {_words(each.name)}", figures=drawn, tables=tables)


def _official(material: Material, rows: pd.DataFrame) -> Section:
    columns = ["method", "model"]
    means = rows.groupby(columns, as_index=False).agg({"mae": "mean", **dict.fromkeys(SEEN, "sum"), "tested": "sum"})
    best = means.sort_values("mae").drop_duplicates("method")
    known = LEADERBOARD.get(material.name.removeprefix("matbench_"), {}) if material.folds == FOLDS else {}
    listed = pd.DataFrame(known.items(), columns=["method", "mae"]).assign(model="leaderboard")
    table = pd.concat([best, listed]).sort_values("mae", kind="stable")[[*columns, "mae", *SEEN, "tested"]]
    caption = (
        "All labels of the other folds, the best model of each method: mean absolute error, a mean over the folds. "
        f"{'Leaderboard: Matbench v0.1. ' if known else ''}The model was chosen by these very errors, so small leads "
        "mean little."
    )
    table = _counted(table.rename(columns={**SEEN, "mae": "error"}))
    return Section(f"Official folds: {material.name}", tables=[(caption, table)])


def _transfer(material: Material, rows: pd.DataFrame, found: Sequence[Finding]) -> Section:
    units = {each.name: each.unit for each in material.properties}
    tables = [_comparison(each) for each in found if (each.part, each.dataset) == ("transfer", material.name)]
    return Section(f"Fine-tuning: {material.name}", figures=[figures.transfer(rows, units)], tables=tables)


def _ablation(material: Material, rows: pd.DataFrame) -> Section:
    drawn = [figures.ablation(rows, recipe) for recipe in RECIPES]
    return Section(f"What each part of the objective is worth: {material.name}", figures=drawn)


def _encoders(study: Study, material: Material, rows: pd.DataFrame) -> Section:
    tables = []
    for each, chosen in _of_properties(material, rows):
        costs = encoders.costs(study.folder / "cells", chosen)
        together = chosen.assign(method=chosen.method.str.split(", seed").str[0])  # the untrained of an encoder are one
        caption, table = _ranking(together, each.unit)
        table = table.join(costs, on="method").sort_values("parameters", kind="stable")  # encoder by encoder
        tables.append((f"{_words(each.name)}. {caption} {COSTS}", table))
    return Section(f"Encoders and objectives: {material.name}", figures=[figures.encoders(rows)], tables=tables)


def _blocks(material: Material, rows: pd.DataFrame) -> Section:
    ranked = [(each.name, *_ranking(chosen, each.unit)) for each, chosen in _of_properties(material, rows)]
    tables = [(f"{_words(name)}. {caption}", table) for name, caption, table in ranked]
    drawn = [figures.blocks(rows, ALL_STATISTICS)]
    return Section(f"What each block of statistics is worth: {material.name}", figures=drawn, tables=tables)


def _maps(study: Study, material: Material, rows: pd.DataFrame) -> Section:
    cells = study.folder / "cells"
    trained, twins = (sorted(rows.method[rows.kind == kind].unique()) for kind in ("pretrained", "untrained"))
    shown = [*trained, *twins[:1]]
    arrays = {name: runner.arrays_in(cells, f"maps/{material.name}/{name}") for name in shown}
    units = {each.name: each.unit for each in material.properties}
    spaces = [space for space in rows.space.unique() if space != "vectors"]
    quantity = rows.quantity + rows.get("property", pd.Series("", rows.index)).fillna("").map(
        lambda name: name and f", {_words(name)}"
    )
    table = rows.assign(quantity=quantity, method=rows.method.mask(rows.kind == "untrained", "untrained"))
    wide = table.pivot_table(index=["space", "quantity", "chance"], columns="method", values="value", sort=False)
    caption = (
        "What the maps show, as numbers, in the space of the vectors and on each map; untrained is a mean over seeds."
    )
    return Section(
        f"Maps: {material.name}",
        figures=[figures.maps(arrays, units, space) for space in spaces],
        tables=[(caption, wide.reset_index().rename_axis(columns=None))],
    )


def _shift(material: Material, each: Property, rows: pd.DataFrame, found: Sequence[Finding]) -> Section:
    title = f"Vectors of {material.donor} for {material.name}, {_words(each.name)}"
    frozen = rows[rows.model != "fine-tuned"]
    ours = rows[_of_recipes(rows) | rows.kind.isin(["baseline", "trivial"])]
    tables = [_ranking(frozen, each.unit), *map(_comparison, found)]
    return Section(title, figures=[figures.shift(ours, each.unit)], tables=tables)


def _ranking(rows: pd.DataFrame, unit: str) -> Table:
    """The best model of each method, with its median error and the middle half at each number of labels."""
    quartiles = rows.groupby(["method", "model", "labels"]).mae.quantile(np.array([0.25, 0.5, 0.75])).unstack()
    shown = quartiles.map("{:.3g}".format)
    wide = (shown[0.5] + " [" + shown[0.25] + " to " + shown[0.75] + "]").unstack("labels")
    wide = wide.rename(columns=lambda labels: f"{labels:,.0f} labels")
    order = quartiles[0.5].unstack("labels").prod(axis=1).sort_values(kind="stable").index
    best = wide.loc[order].reset_index().drop_duplicates("method")
    overlap = rows.drop_duplicates("method").set_index("method")[[*SEEN, "tested"]].rename(columns=SEEN)
    caption = (
        f"Mean absolute error{unit and ' in '}{unit}, the best model of each method: median over draws and the middle "
        "half of them; of the tested crystals, how many were seen in pre-training."
    )
    return caption, _counted(best.join(overlap, on="method").rename_axis(columns=None))


def _of_recipes(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are of networks of recipes, or of their untrained twins, not of vectors from elsewhere."""
    return rows.family.isin(rows.family[rows.method.str.endswith(" recipe")])


def _comparison(each: Finding) -> Table:
    caption, table = comparison_table(each.verdict)
    if "all models" in set(table.model):
        table = table[table.model == "all models"].drop(columns="model")
    return f"{each.method}, {each.part}. {caption}", table


def _of_family(scores: pd.DataFrame, method: str) -> pd.DataFrame:
    """A trained network and its untrained twins, under the models of our figures."""
    family = scores.family[scores.features == method].iloc[0]
    related = (scores.features == method) | ((scores.kind == "untrained") & (scores.family == family))
    shown: pd.DataFrame = scores[related & scores.model.isin(PAIRS)]
    return shown


def _counted(table: pd.DataFrame) -> pd.DataFrame:
    """Counts without decimals, and empty cells where there is none."""
    counts = [str(name) for name in table if name in {*SEEN.values(), "tested"} or "pool" in str(name)]
    words = {name: table[name].map(lambda count: "" if pd.isna(count) else f"{count:,.0f}") for name in counts}
    return table.assign(**words)


def _facts(study: Study, rows: pd.DataFrame) -> dict[str, object]:
    times = runner.times_in(study.folder / "cells")
    return {
        "crystalmax": __version__,
        "commit": ", ".join(sorted(rows.commit.unique())) if len(rows) else "none",
        "budget": study.budget.name,
        "split by": study.split,
        "seed": study.seed,
        **{material.name: f"{len(material.data):,} crystals" for material in study.materials},
        "cells": f"{len(times):,}, {times.seconds.sum() / 60:,.0f} minutes together",
    }


def _save(section: Section, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (_, figure) in enumerate(section.figures, 1):
        name = "".join(letter if letter.isalnum() else "_" for letter in f"{section.title} {number}")
        with at_once(folder / f"{name}.svg") as file:
            file.write(plots.svg(figure, name).encode())
        with at_once(folder / f"{name}.png") as file:
            figure.savefig(file, format="png", dpi=150, facecolor="white")


def _words(name: str) -> str:
    return name.replace("_", " ")
