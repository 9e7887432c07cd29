"""Result tables as figures: what was learnt, what that was worth, and to whom the vectors look alike.

Every function returns a free-standing matplotlib figure; no global state is touched. The palette is that of Okabe and
Ito, which colour-blind readers can tell apart: pre-trained is blue and solid, untrained blue and dashed, vectors joined
with plain numbers are orange, plain numbers grey.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from itertools import cycle
from math import log
from typing import Any, Literal, ParamSpec

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

INK = "#1b1b1f"
"""Colour of text and axes; a page may exchange it for its own."""

BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"
GREYS = ("#5f5f5f", "#7b7b7b", "#939393", "#a8a8a8")
DASHES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))

STYLE: dict[str, Any] = {
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}

CHANCE = 2 * log(2)
"""Jensen-Shannon loss of a critic that has learnt nothing and answers 0 to everything."""

_Parameters = ParamSpec("_Parameters")


def _styled(draw: Callable[_Parameters, Figure]) -> Callable[_Parameters, Figure]:
    """Draw in our style whatever the reader's own settings are, and leave those alone."""

    @wraps(draw)
    def styled(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> Figure:
        with style.context(STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def learning_curves(table: pd.DataFrame, *, error: str = "mean absolute error") -> Figure:
    """Error against number of labels, a panel for each model: median over draws and the middle half of them.

    Untrained twins are averaged draw by draw and shown as one.

    Args:
        table: Scores, as `evaluation.Scores.table`.
        error: Name and unit of the error.
    """
    models = [model for model in table.model.unique() if model != "median"]
    figure = Figure(figsize=(4.3 * len(models), 3.9), layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    ends = []
    for panel, model in zip(panels, models, strict=True):
        of_model = table[(table.model == model) | (table.kind == "trivial")]
        ends.append(_curves(panel, _twins_as_one(of_model)))
        panel.set(title=model, xlabel="labels")
    panels[0].set_ylabel(error)
    _round_ticks(panels[0])
    for panel, of_panel in zip(panels, ends, strict=True):  # only now is the scale, which the panels share, final
        _label_ends(panel, float(table.labels.max()), of_panel)
    return figure


def _curves(panel: Axes, table: pd.DataFrame) -> list[tuple[float, str, str]]:
    """Draw the curves of one model; where each ends, its name and its colour."""
    panel.set(xscale="log", yscale="log")
    greys = cycle(zip(GREYS, DASHES, strict=True))
    ends: list[tuple[float, str, str]] = []
    for kind, name in (
        table[["kind", "features"]].drop_duplicates().sort_values(["kind", "features"]).to_numpy().tolist()
    ):
        rows = table[table.features == name]
        by_budget = rows.groupby("labels").mae
        low, median, high = (by_budget.quantile(q) for q in (0.25, 0.5, 0.75))
        color, dash, width = _look(kind, greys)
        panel.fill_between(median.index, low, high, color=color, alpha=0.15, linewidth=0)
        panel.plot(median.index, median, color=color, linestyle=dash, linewidth=width, marker="o", markersize=3)
        ends.append((float(median.iloc[-1]), name, color))
    labels = sorted(table.labels.unique())
    panel.set_xticks(labels, [f"{n:,}" for n in labels])
    panel.xaxis.set_minor_locator(NullLocator())
    return ends


def _look(kind: str, greys: Iterator[tuple[str, Any]]) -> tuple[str, Any, float]:
    """Colour, dashes and line width of a feature set."""
    fixed = {"pretrained": (BLUE, "-", 2.4), "untrained": (BLUE, (0, (3, 1.5)), 1.6), "joint": (ORANGE, "-", 2.0)}
    if kind in fixed:
        return fixed[kind]
    return (INK, (0, (1, 2)), 1.0) if kind == "trivial" else (*next(greys), 1.4)


def _label_ends(panel: Axes, x: float, ends: list[tuple[float, str, str]]) -> None:
    """Names at the right ends of the curves, moved apart where they would overlap."""
    bottom, top = np.log(panel.get_ylim())
    gap = (top - bottom) * 0.05
    wanted = sorted((float(np.log(y)), name, color) for y, name, color in ends)
    places = np.array([y for y, _, _ in wanted])
    for _ in range(200):
        closeness = np.clip(gap - np.diff(places), 0, None) / 2
        places[:-1] -= closeness
        places[1:] += closeness
    for place, (y, name, color) in zip(places, wanted, strict=True):
        panel.annotate(
            name,
            xy=(x, np.exp(y)),
            xytext=(x * 1.18, np.exp(place)),
            color=color,
            va="center",
            fontsize=8,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.5, "alpha": 0.6, "shrinkA": 0, "shrinkB": 3},
        )


def _round_ticks(panel: Axes) -> None:
    low, high = panel.get_ylim()
    steps = [m * 10.0**e for e in range(-6, 7) for m in (1, 2, 3, 5, 7)]
    ticks = [tick for tick in steps if low <= tick <= high]
    panel.set_yticks(ticks if len(ticks) > 1 else [low, high])
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_minor_locator(NullLocator())


def _twins_as_one(table: pd.DataFrame) -> pd.DataFrame:
    """The table with each draw's untrained twins replaced by their mean."""
    twins = table[table.kind == "untrained"].assign(features="untrained")
    mean = twins.groupby(["features", "kind", "model", "labels", "draw"], as_index=False)[["mae"]].mean()
    others: pd.DataFrame = table[table.kind != "untrained"]
    return pd.concat([others, mean], ignore_index=True)


@_styled
def errors_of_methods(table: pd.DataFrame, *, labels: int, error: str = "mean absolute error") -> Figure:
    """Every method at one number of labels, best on top: each draw, their median and middle half."""
    rows = _twins_as_one(table[table.labels == labels])
    rows = rows.assign(
        method=np.where(rows.kind == "trivial", "median of the labels", rows.features + ", " + rows.model)
    )
    order = rows.groupby("method").mae.median().sort_values(ascending=False).index
    figure = Figure(figsize=(7.2, 0.8 + 0.27 * len(order)), layout="constrained")
    panel = figure.subplots()
    for height, method in enumerate(order):
        of_method = rows[rows.method == method]
        color, _, _ = _look(of_method.kind.iloc[0], cycle([(GREYS[0], "-")]))
        untrained = of_method.kind.iloc[0] == "untrained"
        low, median, high = of_method.mae.quantile([0.25, 0.5, 0.75])
        panel.plot(of_method.mae, np.full(len(of_method), height), "|", color=color, alpha=0.35, markersize=7)
        panel.plot([low, high], [height, height], color=color, linewidth=4, alpha=0.5, solid_capstyle="butt")
        panel.plot(median, height, "o", color=color, markersize=6, markerfacecolor="none" if untrained else color)
    panel.set_yticks(range(len(order)), order)
    panel.set_xlabel(f"{error}, {labels:,} labels")
    panel.grid(axis="y", visible=False)
    return figure


@_styled
def paired_differences(table: pd.DataFrame, pretrained: str) -> Figure:
    """Pre-trained minus the mean of its untrained twins, one dot a draw, in percent of the latter.

    Below zero, pre-training helped that draw.
    """
    rows = _twins_as_one(table[(table.features == pretrained) | (table.kind == "untrained")])
    pairs = rows.pivot_table(index=["model", "labels", "draw"], columns="kind", values="mae")
    percent = 100 * (pairs["pretrained"] / pairs["untrained"] - 1)
    models, labels = list(dict.fromkeys(rows.model)), sorted(rows.labels.unique())
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    panel = figure.subplots()
    spread = 0.7 / len(models)
    for place, model in enumerate(models):
        for column, budget in enumerate(labels):
            values = percent.loc[model, budget].to_numpy()
            middle = column + (place - (len(models) - 1) / 2) * spread
            jitter = np.linspace(-0.3, 0.3, len(values)) * spread
            color = (BLUE, GREEN, ORANGE)[place % 3]
            panel.plot(middle + jitter, values, "o", color=color, alpha=0.55, markersize=4, markeredgewidth=0)
            panel.hlines(np.median(values), middle - 0.4 * spread, middle + 0.4 * spread, color=color, linewidth=2.2)
            if column == 0:
                panel.plot([], [], "o", color=color, label=model)
    panel.axhline(0, color=INK, linewidth=1)
    panel.set_xticks(range(len(labels)), [f"{n:,}" for n in labels])
    panel.set(xlabel="labels", ylabel="change of error, %")
    panel.grid(axis="x", visible=False)
    panel.legend(ncols=len(models), loc="lower left", bbox_to_anchor=(0, 1), borderpad=0, handletextpad=0.2)
    return figure


@_styled
def predicted_and_measured(
    measured: Float[np.ndarray, " rows"], predicted: Float[np.ndarray, " rows"], *, quantity: str = ""
) -> Figure:
    """Predictions against measurements; the closer to the diagonal, the better."""
    figure = Figure(figsize=(3.9, 3.7), layout="constrained")
    panel = figure.subplots()
    ends = [float(min(measured.min(), predicted.min())), float(max(measured.max(), predicted.max()))]
    panel.plot(ends, ends, color=INK, linewidth=0.8, alpha=0.6)
    alpha = float(np.clip(30 / len(measured) ** 0.5, 0.15, 0.8))
    panel.plot(measured, predicted, "o", color=BLUE, alpha=alpha, markersize=4, markeredgewidth=0)
    panel.set(xlabel=f"measured {quantity}".strip(), ylabel=f"predicted {quantity}".strip(), aspect="equal")
    panel.set_title(f"mean absolute error {np.abs(measured - predicted).mean():.3g}", fontweight="normal")
    return figure


@_styled
def map_of_vectors(
    vectors: Float[np.ndarray, "crystals width"],
    values: Float[np.ndarray, " crystals"],
    *,
    quantity: str = "",
    method: Literal["tsne", "pca"] = "tsne",
    seed: int = 0,
) -> Figure:
    """Crystals placed so that similar vectors lie together, coloured by a property; unknown values are grey.

    Distances between far clusters mean nothing in a t-SNE map. Use at most a few thousand crystals.
    """
    scaled = StandardScaler().fit_transform(vectors)
    if method == "tsne":
        perplexity = min(30.0, (len(vectors) - 1) / 3)
        places = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(scaled)
    else:
        places = PCA(2, random_state=seed).fit_transform(scaled)
    figure = Figure(figsize=(4.9, 3.9), layout="constrained")
    panel = figure.subplots()
    known = np.isfinite(values)
    size = float(np.clip(4000 / len(vectors), 4, 26))
    x, y = places.T
    panel.scatter(x[~known], y[~known], s=size, color=GREYS[-1], linewidths=0, alpha=0.5)
    low, high = np.quantile(values[known], [0.02, 0.98]) if known.any() else (0, 1)
    dots = panel.scatter(
        x[known], y[known], c=values[known], s=size, cmap="viridis", vmin=low, vmax=high, linewidths=0, alpha=0.9
    )
    bar = figure.colorbar(dots, ax=panel, extend="both", shrink=0.85, aspect=28)
    bar.outline.set_visible(False)
    bar.set_label(quantity)
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    return figure


@_styled
def training_curves(history: pd.DataFrame) -> Figure:
    """Loss of each level against epoch, beside the loss of a critic that knows nothing, 2 ln 2.

    Args:
        history: Columns `epoch`, `split` and one of losses for each level.
    """
    levels = [column for column in history.columns if column not in ("epoch", "split")]
    figure = Figure(figsize=(3.6 * len(levels), 3.0), layout="constrained")
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    splits = list(dict.fromkeys(history.split))
    for panel, level in zip(panels, levels, strict=True):
        panel.axhline(CHANCE, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        for split, dash, color in zip(splits, cycle(DASHES), cycle((BLUE, ORANGE, GREEN)), strict=False):
            rows = history[history.split == split].dropna(subset=[level])
            marker = "o" if len(rows) < 30 else None
            panel.plot(rows.epoch, rows[level], color=color, linestyle=dash, label=split, marker=marker, markersize=3)
        panel.set(title=f"{level} level", xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[0].set_ylabel("loss")
    panels[0].annotate(
        "2 ln 2: nothing learnt",
        (1, CHANCE),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="bottom",
        fontsize=8,
    )
    panels[-1].legend()
    return figure
