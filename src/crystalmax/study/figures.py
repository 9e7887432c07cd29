"""The study's figures: rows of a part, or arrays of its cells, as a caption and a figure in the style of `plots`."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, product
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crystalmax.judging.report import Drawing
from crystalmax.plots import BLUE, GREEN, GREYS, INK, LOOKS, ORANGE, PURPLE, STYLE, draw_errors, tick_errors
from crystalmax.study.chemistry import CLASSES
from crystalmax.study.transfer import STARTS

_styled = style.context(STYLE)

_CLASS_COLORS = (GREYS[-1], BLUE, ORANGE, GREEN, PURPLE)
_START_COLORS = dict(zip((name for name, _ in STARTS.values()), (GREYS[0], BLUE, ORANGE), strict=True))
_SHIFT_LOOKS: dict[str, dict[str, Any]] = {
    "paper recipe": {"color": "#56b4e9", "linewidth": 1.6},
    "without shared structures": {"color": ORANGE, "linewidth": 1.6},
    "without shared formulas": {"color": GREEN, "linewidth": 1.6},
}


@_styled
def curves(rows: pd.DataFrame) -> Drawing:
    """Losses of each recipe on one data set, a panel for each level, and the price of noise where there is any."""
    rows = rows[rows.crystals == "valid"]
    recipes, levels = sorted(rows.method.unique()), list(rows.level.unique()[::-1])
    figure = Figure(figsize=(0.6 + 2.5 * len(levels) * 2, 0.5 + 2.2 * len(recipes)), layout="constrained")
    panels = figure.subplots(len(recipes), 2 * len(levels), squeeze=False)
    for row, recipe in zip(panels, recipes, strict=True):
        for panel, (quantity, level) in zip(row, product(("loss", "penalty"), levels), strict=True):
            shown = rows[(rows.method == recipe) & (rows.level == level)].sort_values("epoch")
            if quantity == "penalty" and not shown.penalty.any():
                panel.set_visible(False)
                continue
            panel.plot(shown.epoch, shown[quantity], "o-", color=BLUE, markersize=3)
            if quantity == "loss" and shown.chance.notna().all():
                panel.axhline(shown.chance.iloc[0], color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
                panel.annotate("chance", (1, shown.chance.iloc[0]), (2, 2), textcoords="offset points", fontsize=8)
            words = "loss" if quantity == "loss" else "price of noise"
            panel.set_title(f"{level} level, {words}")
            panel.xaxis.get_major_locator().set_params(integer=True)
        row[0].set_ylabel(recipe)
    for panel in panels[-1]:
        panel.set_xlabel("epoch")
    return (
        "Losses while pre-training, on crystals that hold no label; lower is better. Dashed: the loss of a critic that "
        "always says 0, where the estimator has one.",
        figure,
    )


@_styled
def transfer(rows: pd.DataFrame, units: Mapping[str, str]) -> Drawing:
    """Fine-tuning on one data set: every trial and their median for each start; below, its change against random.

    A panel for each of the properties, whose units are given.
    """
    properties = [name for name in units if name in set(rows.property)]
    labels = sorted(rows.labels.unique().tolist())
    figure = Figure(figsize=(0.9 + 3.4 * len(properties), 5.2), layout="constrained")
    panels = figure.subplots(2, len(properties), squeeze=False, sharex=True, height_ratios=(3, 2))
    for column, name in zip(panels.T, properties, strict=True):
        errors = rows[rows.property == name].pivot(index=["labels", "draw"], columns="method", values="mae")
        random = errors.get(STARTS["random"][0], np.nan)  # its cells may have failed
        against = 100 * (errors.div(random, axis=0) - 1).drop(columns=STARTS["random"][0], errors="ignore")
        _trials(column[0], errors, labels)
        _trials(column[1], against, labels)
        column[0].set_title(_words(name))
        column[0].set_ylabel(f"error{_in(units[name])}")
        column[1].axhline(0, color=INK, linewidth=1)
        column[1].set(xlabel="labels", ylabel="change of error, %")
    shown = [start for start in _START_COLORS if start in set(rows.method)]
    marks = [Line2D([], [], color=_START_COLORS[start], marker="o", linestyle="", label=start) for start in shown]
    figure.legend(handles=marks, loc="outside upper left", ncols=len(marks))
    return (
        "Fine-tuning from three starts: mean absolute error on the test crystals, a dot for each trial and a bar for "
        "their median; below, the change against random weights in the same trial, that is with the same labels.",
        figure,
    )


def _trials(panel: Axes, errors: pd.DataFrame, labels: Sequence[int]) -> None:
    """Dots for the trials of each column, side by side at each number of labels."""
    width = 0.8 / len(errors.columns)
    for place, start in enumerate(start for start in _START_COLORS if start in errors):
        for x, budget in enumerate(labels):
            if budget not in errors.index.get_level_values("labels"):
                continue
            values = errors[start].xs(budget, level="labels").to_numpy()
            middle = x - 0.4 + (place + 0.5) * width
            dots = middle + np.linspace(-0.25, 0.25, len(values)) * width
            panel.plot(dots, values, "o", color=_START_COLORS[start], markersize=4, markeredgewidth=0, alpha=0.6)
            ends = middle - 0.42 * width, middle + 0.42 * width
            panel.hlines(np.median(values), *ends, color=_START_COLORS[start], linewidth=2.2)
    panel.set_xticks(range(len(labels)), [f"{n:,}" for n in labels])
    panel.grid(axis="x", visible=False)


@_styled
def ablation(rows: pd.DataFrame, recipe: str) -> Drawing:
    """What each change of a recipe does to the error on one data set: a panel for each property and model."""
    base = f"{recipe} recipe"
    rows = rows.assign(variant=rows.method.str.removeprefix(f"{base}, ")).astype({"variant": object})
    twins = (rows.kind == "untrained") & ~rows.method.str.contains("local")
    rows.loc[twins, "variant"] = "untrained"
    rows = rows[rows.method.str.startswith(base) | twins]
    variants = [name for name in dict.fromkeys(rows.variant) if name != base][::-1]
    figure = _changes(rows, dict.fromkeys(variants, base))
    return (
        f"The {base} with one part changed, and without training: change of the error of frozen vectors against the "
        "recipe as it is, with the same labels; median and middle half of the draws. To the right of zero, what was "
        "left out had helped.",
        figure,
    )


@_styled
def blocks(rows: pd.DataFrame, base: str) -> Drawing:
    """What each block of statistics is worth on one data set: a panel for each property."""
    variants = [name for name in dict.fromkeys(rows.method) if name != base][::-1]
    words = rows.assign(variant=rows.method.str.removeprefix(f"{base}, "))
    return (
        f"One block of numbers left out: change of the error against {base}, with the same labels; median and middle "
        "half of the draws. To the right of zero, the block had helped.",
        _changes(words, {name.removeprefix(f"{base}, "): base for name in variants}),
    )


@_styled
def encoders(rows: pd.DataFrame) -> Drawing:
    """What training does to the error of each encoder on one data set: a panel for each property and model."""
    rows = rows.assign(variant=rows.method.str.split(", seed").str[0], base=rows.family + " untrained")
    trained = rows[rows.kind == "pretrained"].drop_duplicates("variant")[::-1]
    return (
        "Each encoder, trained without labels: change of the error of frozen vectors against the mean of its own "
        "untrained networks, with the same labels; median and middle half of the draws. To the left of zero, training "
        "helped.",
        _changes(rows, dict(zip(trained.variant, trained.base, strict=True))),
    )


def _changes(rows: pd.DataFrame, bases: Mapping[str, str]) -> Figure:
    """Change of the error of each variant against its base, by draw: a panel for each property and model."""
    variants = list(bases)
    columns = list(product(dict.fromkeys(rows.property), sorted(rows.model.unique(), reverse=True)))
    labels = sorted(rows.labels.unique().tolist())
    figure = Figure(figsize=(2.2 + 2.3 * len(columns), 1.0 + 0.42 * len(variants)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, sharex=True, squeeze=False)[0]
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, len(labels)))
    for panel, (name, model) in zip(panels, columns, strict=True):
        shown = rows[(rows.property == name) & (rows.model == model)]
        errors = shown.groupby(["labels", "draw", "variant"]).mae.mean().unstack("variant")
        errors = errors.reindex(columns=sorted({*bases, *bases.values()}))  # not all may be done yet
        change = pd.DataFrame({each: 100 * (errors[each] / errors[bases[each]] - 1) for each in variants})
        middle = [change.groupby("labels").quantile(q).reindex(labels) for q in (0.25, 0.5, 0.75)]
        for place, (budget, color) in enumerate(zip(labels, shades, strict=True)):
            low, median, high = (of_all.loc[budget].to_numpy() for of_all in middle)
            heights = np.arange(len(variants)) + 0.3 - 0.6 * (place + 0.5) / len(labels)
            panel.hlines(heights, low, high, color=color, linewidth=2, alpha=0.5)
            panel.plot(median, heights, "o", color=color, markersize=4, label=f"{budget:,} labels")
        panel.axvline(0, color=INK, linewidth=1)
        panel.set(title=f"{_words(name)}\n{model}", xlabel="change of error, %")
    panels[0].set_yticks(range(len(variants)), variants)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(labels))
    return figure


@_styled
def maps(arrays: Mapping[str, Mapping[str, np.ndarray]], properties: Mapping[str, str], projection: str) -> Drawing:
    """Maps of the same crystals by several networks: a row for each, coloured by classes and by properties.

    Args:
        arrays: What the cells of `maps` found, by what the row shall be called.
        properties: Units of the properties by name.
        projection: What laid the vectors out.
    """
    columns = [*CLASSES, *properties]
    figure = Figure(figsize=(0.4 + 2.7 * len(columns), 0.5 + 2.5 * len(arrays)), layout="constrained")
    panels = figure.subplots(len(arrays), len(columns), squeeze=False)
    for row, (name, found) in zip(panels, arrays.items(), strict=True):
        last = found is list(arrays.values())[-1]
        row[0].set_ylabel(name)
        for panel, column in zip(row, columns, strict=True):
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
            points = found[projection]
            if column in CLASSES:
                _classes(panel, points, found[column], CLASSES[column][1] if last else ())
            else:
                _values(panel, points, found[column], properties[column] if last else None)
    for panel, column in zip(panels[0], columns, strict=True):
        panel.set_title(_words(column))
    return (
        f"{projection} of the vectors of test crystals, which no training has seen; one dot a crystal. A crystal is of "
        "the last class of metals listed that one of its elements belongs to.",
        figure,
    )


def _classes(
    panel: Axes, points: Float[np.ndarray, "crystals 2"], of: Int[np.ndarray, " crystals"], names: Sequence[str]
) -> None:
    colors = np.array(_CLASS_COLORS)
    panel.scatter(points[:, 0], points[:, 1], c=colors[of], s=_size(points), linewidths=0, alpha=0.7)
    marks = [Line2D([], [], color=c, marker="o", linestyle="", label=n) for n, c in zip(names, colors, strict=False)]
    if marks:
        panel.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0), fontsize=7, ncols=2, columnspacing=0.6)


def _values(
    panel: Axes, points: Float[np.ndarray, "crystals 2"], of: Float[np.ndarray, " crystals"], unit: str | None
) -> None:
    low, high = np.nanquantile(of, [0.02, 0.98])
    colors = colormaps["viridis"].with_extremes(bad=GREYS[-1])
    look = {"s": _size(points), "linewidths": 0, "cmap": colors, "vmin": low, "vmax": high, "plotnonfinite": True}
    dots = panel.scatter(points[:, 0], points[:, 1], c=of, **look)
    if unit is not None and panel.figure is not None:
        bar = panel.figure.colorbar(dots, ax=panel, location="bottom", extend="both", shrink=0.8, aspect=24, label=unit)
        bar.outline.set_visible(False)


def _size(points: Float[np.ndarray, "crystals 2"]) -> float:
    """Area of a dot in square points: smaller where there are many."""
    return float(np.clip(4000 / len(points), 3, 14))


@_styled
def shift(rows: pd.DataFrame, unit: str) -> Drawing:
    """Labels of a data set under vectors of another: a panel for each model, and one for fine-tuning."""
    rows = rows.assign(method=rows.method.mask((rows.kind == "untrained") & (rows.model != "fine-tuned"), "untrained"))
    trivial = rows[rows.kind == "trivial"]
    models = sorted(set(rows.model) - set(trivial.model), key=lambda model: (model == "fine-tuned", model))
    labels = sorted(rows.labels.unique().tolist())
    figure = Figure(figsize=(0.8 + 2.7 * len(models), 3.6), layout="constrained")
    panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
    for panel, model in zip(panels, models, strict=True):
        for name, look, shown in _lines(pd.concat([rows[rows.model == model], trivial])):
            of_draws = shown.groupby(["labels", "draw"], as_index=False)[["mae"]].mean()
            draw_errors(panel, of_draws, {**look, "label": name}, shade=0.12)
        panel.set(title=model, xlabel="labels", xscale="log", yscale="log")
    panels[0].set_ylabel(f"error{_in(unit)}")
    tick_errors(panels, labels)
    marks = {name: line for panel in panels for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=3, fontsize=8)
    return (
        "Networks pre-trained on the structures of another data set; median and middle half of the draws. The test "
        "crystals of these labels may have been among those structures; without shared structures, or formulas, no "
        "crystal of this data set, nor one of its composition, was.",
        figure,
    )


def _lines(rows: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Name, look and rows of each line that is drawn."""
    greys = cycle(GREYS)
    for name, shown in rows.groupby("method", sort=True):
        kind = shown.kind.iloc[0]
        look = next((look for words, look in _SHIFT_LOOKS.items() if str(name).endswith(words)), None)
        if kind == "baseline":
            look = {"color": next(greys), "linewidth": 1.2}
        if look is not None or kind in ("pretrained", "untrained", "trivial"):
            yield str(name), look or LOOKS[kind], shown


def _words(name: str) -> str:
    return name.replace("_", " ").removesuffix(" eV per atom").removesuffix(" eV")


def _in(unit: str) -> str:
    return f", {unit}" if unit else ""
