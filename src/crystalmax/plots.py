"""Figures of results: training curves, errors, comparisons and maps of vectors.

Every function returns a free-standing matplotlib figure; no global state is touched. The palette is that of Okabe and
Ito, which colour-blind readers can tell apart: pre-trained is blue and solid, untrained blue and dashed, vectors joined
with plain numbers are orange, plain numbers grey.
"""

from collections.abc import Sequence
from io import StringIO
from itertools import cycle, product, repeat
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

INK = "#1b1b1f"
"""Colour of text and axes; a page may replace it by its own."""

BLUE, ORANGE, GREEN, PURPLE, YELLOW = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"
GREYS = ("#5f5f5f", "#7b7b7b", "#939393", "#a8a8a8")
DASHES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

LOOKS: dict[str, dict[str, Any]] = {
    "pretrained": {"color": BLUE, "linewidth": 2.4},
    "untrained": {"color": BLUE, "linewidth": 1.6, "linestyle": (0, (3, 1.5))},
    "joint": {"color": ORANGE, "linewidth": 2.0},
    "trivial": {"color": INK, "linewidth": 1.0, "linestyle": (0, (1, 2))},
}
"""Line styles of feature sets by kind; plain statistics take turns in `GREYS` and `DASHES`."""

STYLE: dict[str, Any] = {
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), "none"),
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
}

_styled = style.context(STYLE)
"""Applies our style while a figure is drawn, and leaves the settings of the user as they are."""


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Scores for figures: the mean over untrained twins for each draw, and a plain name for the trivial predictor."""
    names = table.features.mask(table.kind == "untrained", "untrained")
    table = table.assign(features=names.mask(table.kind == "trivial", "median of the labels"))
    keys = ["features", "kind", "model", "labels", "draw"]
    return table.groupby(keys, as_index=False, sort=False)[["mae"]].mean()


def _looks(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Line style of each feature set, by name."""
    greys = cycle({"color": c, "linewidth": 1.4, "linestyle": d} for c, d in zip(GREYS, DASHES, strict=True))
    kinds = table.drop_duplicates("features").sort_values("features").set_index("features").kind
    # If there are several of a kind, the first has its colour, and the others take turns.
    turns = {
        kind: cycle({"linestyle": dash, "color": color} for dash, color in product(("-", "-.", ":"), colors))
        for kind, colors in (("pretrained", (BLUE, GREEN, PURPLE)), ("joint", (ORANGE, YELLOW)))
    }
    return {
        str(name): LOOKS[kind] | next(turns.get(kind, repeat({}))) if kind in LOOKS else next(greys)
        for name, kind in kinds.items()
    }


@_styled
def learning_curves(table: pd.DataFrame, *, error: str = "mean absolute error") -> Figure:
    """Error against number of labels, a panel for each model: median over draws and the middle half of them.

    Takes scores as `evaluation.Scores.table`. Untrained twins are averaged draw by draw and shown as one.
    """
    table = _shown(table)
    models = [model for model in table.model.unique() if model != "median"]
    figure = Figure(figsize=(1.6 + 4.2 * len(models), 3.9), layout="constrained")
    panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
    labels = sorted(table.labels.unique().tolist())
    ends = []
    for panel, model in zip(panels, models, strict=True):
        panel.set(title=model, xlabel="labels", xscale="log", yscale="log")
        of_model = table[table.model.isin([model, "median"])]
        for name, look in _looks(of_model).items():
            last = draw_errors(panel, of_model[of_model.features == name], look, shade=0.15)
            ends.append((panel, name, last, look["color"]))
    panels[0].set_ylabel(error)
    tick_errors(panels, labels)
    for panel in panels:
        _label_ends(panel, labels[-1], [end for of_panel, *end in ends if of_panel is panel])
    return figure


def draw_errors(panel: Axes, rows: pd.DataFrame, look: dict[str, Any], *, shade: float) -> float:
    """Draw the median over draws and the middle half of them at each number of labels; returns the last median."""
    low, median, high = (rows.groupby("labels").mae.quantile(q) for q in (0.25, 0.5, 0.75))
    panel.fill_between(low.index, low, high, color=look["color"], alpha=shade, linewidth=0)
    panel.plot(median.index, median, marker="o", markersize=3, **look)
    return float(median.iloc[-1])


def tick_errors(panels: np.ndarray, labels: Sequence[int]) -> None:
    """Plain numbers on the shared logarithmic axes of panels; to be called when everything is drawn."""
    panels[0].set_xticks(labels, [f"{n:,}" for n in labels])
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    panels[0].yaxis.set_major_formatter("{x:,.3g}")
    for panel in panels:
        panel.minorticks_off()


def _label_ends(panel: Axes, x: float, ends: list[list[Any]]) -> None:
    """Names at the right ends of curves, moved apart only as far as they would overlap."""
    bottom, top = np.log(panel.get_ylim())
    ends = sorted(ends, key=lambda end: end[1])
    spaced = np.arange(len(ends)) * (top - bottom) * 0.055
    places = isotonic_regression(np.log([y for _, y, _ in ends]) - spaced).x + spaced
    for place, (name, y, color) in zip(places, ends, strict=True):
        line = {"arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3}
        start, end = (x * 1.18, np.exp(place)), (x, y)
        panel.annotate(name, end, start, color=color, va="center", fontsize=8, annotation_clip=False, arrowprops=line)


@_styled
def errors_of_methods(table: pd.DataFrame, *, labels: int, error: str = "mean absolute error") -> Figure:
    """Every method at one number of labels, best on top: each draw, their median and middle half.

    The axis ends at twice the error of always predicting the median; errors beyond are written as numbers.
    """
    rows = _shown(table[table.labels == labels])
    rows["method"] = rows.features + np.where(rows.kind == "trivial", "", ", " + rows.model)
    order = rows.groupby("method").mae.median().sort_values(ascending=False, kind="stable").index
    figure = Figure(figsize=(7.2, 0.8 + 0.27 * len(order)), layout="constrained")
    panel = figure.subplots()
    end = 2 * rows.mae[rows.kind == "trivial"].median()
    looks = _looks(rows)
    for height, method in enumerate(order):
        of_method = rows[rows.method == method]
        color = looks[of_method.features.iloc[0]]["color"]
        low, median, high = of_method.mae.quantile([0.25, 0.5, 0.75])
        fill = "none" if of_method.kind.iloc[0] == "untrained" else color
        panel.plot(of_method.mae, np.full(len(of_method), height), "|", color=color, alpha=0.35, markersize=7)
        panel.plot([low, high], [height, height], color=color, linewidth=4, alpha=0.5, solid_capstyle="butt")
        panel.plot(median, height, "o", color=color, markersize=6, markerfacecolor=fill)
        if of_method.mae.max() > end:
            beyond = f"median {median:.3g}" if median > end else f"up to {of_method.mae.max():.3g}"
            panel.annotate(f"→ {beyond}", (end, height), (3, 0), textcoords="offset points", va="center", fontsize=8)
    panel.set(xlabel=f"{error}, {labels:,} labels", xlim=(0.9 * rows.mae.min(), min(end, 1.05 * rows.mae.max())))
    panel.locator_params(axis="x", nbins=4)  # more would run into each other, where numbers are long
    panel.set_yticks(range(len(order)), order)
    panel.grid(axis="y", visible=False)
    return figure


@_styled
def boxes(table: pd.DataFrame, *, error: str = "mean absolute error") -> Figure:
    """Errors of all draws as boxes, side by side at each number of labels, as in Fig. 8 of DOI 10.1039/d4dd00202d.

    Takes scores as `evaluation.Scores.table`. Colours are features, and filled boxes the first model. The axis ends at
    four times the smallest median.
    """
    table = _shown(table)
    looks, models = _looks(table), table.model.unique().tolist()
    labels = sorted(table.labels.unique().tolist())
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    panel = figure.subplots()
    series = [(model, name) for model in models for name in looks]
    width = 0.8 / len(series)
    marks = []
    for place, (model, name) in enumerate(series):
        of_series = table[(table.model == model) & (table.features == name)]
        errors = [of_series.mae[of_series.labels == budget].to_numpy() for budget in labels]
        color = GREYS[1] if name == "untrained" else looks[name]["color"]
        drawn = panel.boxplot(
            errors,
            positions=np.arange(len(labels)) + (place + 0.5) * width - 0.4,
            widths=0.8 * width,
            patch_artist=True,
            manage_ticks=False,
            flierprops={"marker": ".", "markersize": 3, "markeredgecolor": color, "alpha": 0.5},
            boxprops={"facecolor": color if model == models[0] else "none", "edgecolor": color},
            medianprops={"color": INK, "linewidth": 1.2},
            whiskerprops={"color": color},
            capprops={"color": color},
        )
        for box in drawn["boxes"]:
            box.set_alpha(0.6 if model == models[0] else None)
        marks.append((drawn["boxes"][0], f"{name}, {model}"))
    panel.set_xticks(range(len(labels)), [f"{n:,}" for n in labels])
    panel.set(xlabel="labels", ylabel=error)
    medians = table.groupby(["labels", "features", "model"]).mae.median()
    panel.set_ylim(0, max(min(4 * medians.min(), 1.05 * table.mae.max()), 0.2 * medians.max()))
    panel.grid(axis="x", visible=False)
    figure.legend(*zip(*marks, strict=True), loc="outside lower center", ncols=len(models), fontsize=8)
    return figure


@_styled
def paired_differences(table: pd.DataFrame, pretrained: str) -> Figure:
    """Pre-trained minus the mean of its untrained twins, one dot a draw, in percent of the latter.

    Below zero, pre-training helped that draw.
    """
    rows = _shown(table[(table.features == pretrained) | (table.kind == "untrained")])
    pairs = rows.pivot(index=["model", "labels", "draw"], columns="kind", values="mae")
    percent = (100 * (pairs["pretrained"] / pairs["untrained"] - 1)).unstack("labels")
    models, labels = rows.model.unique().tolist(), percent.columns.tolist()
    figure = Figure(figsize=(1.9 + 0.9 * len(labels), 3.2), layout="constrained")
    panel = figure.subplots()
    width = 0.8 / len(models)
    for place, (model, color) in enumerate(zip(models, cycle((BLUE, GREEN, ORANGE)), strict=False)):
        values = percent.loc[model].to_numpy()
        middle = np.arange(len(labels)) + (place + 0.5) * width - 0.4
        dots = middle + np.linspace(-0.3, 0.3, len(values))[:, None] * width
        panel.plot(dots.flat, values.flat, "o", color=color, alpha=0.55, markersize=4, markeredgewidth=0, label=model)
        ends = middle - 0.4 * width, middle + 0.4 * width
        panel.hlines(np.median(values, axis=0), *ends, color=color, linewidth=2.2)
    panel.axhline(0, color=INK, linewidth=1)
    panel.set_xticks(range(len(labels)), [f"{n:,}" for n in labels])
    panel.set(xlabel="labels", ylabel="change of error, %", xlim=(-0.5, len(labels) - 0.5))
    panel.grid(axis="x", visible=False)
    panel.legend(ncols=len(models), loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, handletextpad=0.2)
    return figure


@_styled
def predicted_and_measured(measured: ArrayLike, predicted: ArrayLike, *, quantity: str = "") -> Figure:
    """Predictions against measurements, one each, in the same order; the closer to the diagonal, the better.

    Rows with a missing value, as of a structure that could not be read, are left out; a ValueError if none is left.
    Axes are logarithmic if all values are positive and span three decades or more.
    """
    # Columns of tables would be subtracted by their indices, whatever their order.
    both = np.array([np.asarray(measured), np.asarray(predicted)], dtype=float)
    x, y = both[:, np.isfinite(both).all(axis=0)]
    if not len(x):
        raise ValueError("there is no row with both a measured and a predicted value; give one or more to be drawn")
    figure = Figure(figsize=(3.9, 3.7), layout="constrained")
    panel = figure.subplots()
    ends = np.quantile([x, y], [0, 1])
    panel.plot(ends, ends, color=INK, linewidth=0.8, alpha=0.6)
    panel.plot(x, y, "o", color=BLUE, alpha=0.6, markersize=4, markeredgewidth=0)
    panel.set(xlabel=f"measured {quantity}".strip(), ylabel=f"predicted {quantity}".strip(), aspect="equal")
    panel.locator_params(axis="x", nbins=4)
    if 0 < 1000 * ends[0] <= ends[1]:
        panel.set(xscale="log", yscale="log")
    panel.set_title(f"mean absolute error {np.abs(x - y).mean():.3g}", fontweight="normal")
    return figure


@_styled
def map_of_vectors(
    vectors: Float[np.ndarray, "crystals width"], values: Float[np.ndarray, " crystals"], *, quantity: str = ""
) -> Figure:
    """Crystals by the first two principal components of their vectors, coloured by a property, grey where unknown.

    Crystals with a missing vector, as of a structure that could not be read, are left out.
    """
    vectors, values = np.asarray(vectors), np.asarray(values, dtype=float)
    known = np.isfinite(vectors).all(axis=1)
    vectors, values = vectors[known], values[known]
    x, y = np.asarray(PCA(2, random_state=0).fit_transform(StandardScaler().fit_transform(vectors))).T
    figure = Figure(figsize=(4.9, 3.9), layout="constrained")
    panel = figure.subplots()
    low, high = np.nanquantile(values, [0.02, 0.98])
    colors = colormaps["viridis"].with_extremes(bad=GREYS[-1])
    dots = panel.scatter(x, y, c=values, s=20, cmap=colors, vmin=low, vmax=high, plotnonfinite=True)
    figure.colorbar(dots, label=quantity, extend="both", shrink=0.85, aspect=28).outline.set_visible(False)
    panel.set(xticks=[], yticks=[], xlabel="first principal component", ylabel="second principal component")
    panel.spines[:].set_visible(False)
    return figure


@_styled
def training_curves(history: pd.DataFrame, *, chance: float | None = None) -> Figure:
    """Loss of each level against epoch, and of a critic that knows nothing (see `estimators.Estimator`) as a line.

    The history has columns `epoch`, `split` and one of losses for each level.
    """
    levels = [column for column in history.columns if column not in ("epoch", "split")]
    figure = Figure(figsize=(0.4 + 2.5 * len(levels), 2.8), layout="constrained")
    panels = figure.subplots(1, len(levels), squeeze=False)[0]
    for panel, level in zip(panels, levels, strict=True):
        for (split, rows), color in zip(history.groupby("split"), cycle((BLUE, ORANGE, GREEN)), strict=False):
            known = rows.dropna(subset=[level])
            panel.plot(known.epoch, known[level], "o-", color=color, label=split, markersize=3)
        if chance is not None:
            panel.axhline(chance, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), label="knowing nothing")
        panel.set(title=f"{level} level", xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("loss")
    panels[-1].legend()
    return figure


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element, always with the same bytes; the name makes its identifiers unique in a page.

    Text stays text, in the fonts of the reader.
    """
    drawn = StringIO()
    with style.context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    return drawn.getvalue()
