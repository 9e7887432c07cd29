"""Tables and figures in one self-contained HTML page: no network, no scripts, no other files."""

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from crystalmax.judging.verdict import Verdict
from crystalmax.plots import INK, svg
from crystalmax.storage.writing import at_once

Table = tuple[str, pd.DataFrame]
"""The caption of a table, and the table; its index is not shown."""

Drawing = tuple[str, Figure]
"""The caption of a figure, and the figure."""


class Section(NamedTuple):
    """A part of a longer report: a heading, figures, and the tables below them."""

    title: str
    figures: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


def write_report(
    path: str | Path,
    title: str,
    verdict: Verdict | None,
    *,
    answers: Sequence[tuple[str, Verdict]] = (),
    tables: Sequence[Table] = (),
    figures: Sequence[Drawing] = (),
    sections: Sequence[Section] = (),
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Write a report and return its path.

    Args:
        path: The HTML file to write; its folder is made if missing.
        title: Heading of the page.
        verdict: The two sentences at the top; None for a report without a verdict.
        answers: Further verdicts, each with its heading, for a report on several questions.
        tables: Tables, in the order of the page.
        figures: Figures, in the order of the page; they come before the tables.
        sections: Further parts of a longer report.
        facts: Data, counts, versions, seeds and the like, by name.
    """
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"shown": _shown, "cells": _cells, "drawing": _drawing}
    source = files("crystalmax").joinpath("templates/report.html").read_text(encoding="utf-8")
    text = page.from_string(source).render(
        title=title, verdict=verdict, answers=answers, tables=tables, figures=figures, sections=sections, facts=facts
    )
    (path := Path(path)).parent.mkdir(parents=True, exist_ok=True)
    with at_once(path) as file:
        file.write(text.encode())
    return path


def ranking_table(verdict: Verdict, *, unit: str = "") -> Table:
    """Median and quartiles of the error, a row for each method, a column for each number of labels."""
    ranking = verdict.ranking
    quartiles = ranking[["q1", "median", "q3"]].map(_shown)
    ranking = ranking.assign(shown=quartiles["median"] + " [" + quartiles.q1 + " to " + quartiles.q3 + "]")
    keys = ["features", "model"]
    wide = ranking.pivot(index=keys, columns="labels", values="shown").rename(columns="{:,} labels".format)
    order = ranking.groupby(keys)["median"].prod().sort_values(kind="stable").index
    caption = (
        f"Mean absolute error{unit and ' in '}{unit}: median over draws and the middle half of them, best method first."
    )
    return caption, wide.loc[order].reset_index()


def comparison_table(verdict: Verdict) -> Table:
    """Pre-trained against untrained vectors: differences and their uncertainty."""
    rows = verdict.comparison
    low, high = ((100 * rows[name]).map("{:+.0f}".format) for name in ("low", "high"))
    frame = pd.DataFrame(
        {
            "labels": rows.labels,
            "model": rows.model.replace("all", "all models"),
            "pre-trained": rows.error,
            "untrained": rows.error_untrained,
            "difference, %": (100 * rows.relative).map("{:+.1f}".format),
            "95 % interval": low + " to " + high,
            "p": rows.p.map("{:.3f}".format).replace("0.000", "< 0.001"),
            "draws won / tied / lost": [f"{row.wins} / {row.ties} / {row.losses}" for row in rows.itertuples()],
        }
    )
    caption = (
        "Pre-trained vectors against the mean of their untrained twins, paired by draw. Errors are medians over draws; "
        "the difference is a mean over them, in which every model counts the same. Interval and p allow for the draw "
        "of labels, the choice of test rows and the seed of the network, and hold for all numbers of labels together; "
        "a draw won is one with the lower error."
    )
    return caption, frame


def _shown(value: object) -> str:
    """Numbers with three significant digits and separators; anything else unchanged."""
    if isinstance(value, float):
        digits = f"{value:.3g}"
        return f"{value:,.0f}" if "e+" in digits or abs(value) >= 1000 else digits
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _cells(table: pd.DataFrame) -> list[list[tuple[str, str]]]:
    """Text and CSS class of each cell, row by row, with the names of the columns first."""
    columns = []
    for name in table:
        texts = table[name].map(_shown).astype(str)
        kind = "number" if texts.str.match(r"(< )?[-+]?\d").all() else "text"
        columns.append([(text, kind) for text in (str(name), *texts)])
    return [list(row) for row in zip(*columns, strict=True)]


def _drawing(figure: Figure, name: str) -> Markup:
    """The figure as SVG, with `INK` replaced by the text colour of the page."""
    drawn = svg(figure, name)
    drawn = re.sub(r"<metadata>.*?</metadata>\s*", "", drawn[drawn.index("<svg") :], flags=re.DOTALL)
    return Markup(drawn.replace(INK, "currentColor"))
