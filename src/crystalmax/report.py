"""Tables and figures as one HTML page that needs nothing beside itself: no network, no scripts, no other files."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from math import inf
from pathlib import Path

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import style
from matplotlib.figure import Figure

from crystalmax.plots import INK
from crystalmax.verdict import Verdict


@dataclass(frozen=True)
class ReportTable:
    """A table of the report.

    Attributes:
        caption: What the table shows, in a sentence.
        frame: The numbers; the index is not shown.
        bold_lowest: Columns whose lowest value is set in bold.
    """

    caption: str
    frame: pd.DataFrame
    bold_lowest: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReportFigure:
    """A figure of the report and what it shows, in a sentence or two."""

    caption: str
    figure: Figure


@dataclass(frozen=True)
class _Column:
    head: str
    cells: list[str]
    numeric: bool
    best: int | None


def write_report(
    path: Path,
    title: str,
    verdict: Verdict | None,
    *,
    tables: Sequence[ReportTable] = (),
    figures: Sequence[ReportFigure] = (),
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Write a report and return its path.

    Args:
        path: The HTML file to write; its folder is made if missing.
        title: Heading of the page.
        verdict: The two sentences that stand first; none for a report that judges nothing.
        tables: Tables, in the order of the page.
        figures: Figures, in the order of the page; they stand before the tables.
        facts: How the numbers came about: data, counts, versions, seeds.
    """
    source = files("crystalmax").joinpath("templates/report.html").read_text(encoding="utf-8")
    template = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(source)
    page = template.render(
        title=title,
        verdict=verdict,
        tables=[(table.caption, len(table.frame), _columns(table)) for table in tables],
        figures=[(figure.caption, _svg(figure.figure, f"figure{i}")) for i, figure in enumerate(figures, start=1)],
        facts={name: _text(value) for name, value in (facts or {}).items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def ranking_table(verdict: Verdict, *, unit: str = "") -> ReportTable:
    """Median and quartiles of the error, a row for each method, a column for each number of labels."""
    ranking = verdict.ranking.assign(
        shown=[
            f"{_text(m)} [{_text(a)} to {_text(b)}]" for a, m, b in verdict.ranking[["q1", "median", "q3"]].to_numpy()
        ]
    )
    keys = ["features", "model"]
    budgets = [f"{labels:,} labels" for labels in sorted(ranking.labels.unique())]
    wide = ranking.pivot(index=keys, columns="labels", values="shown").set_axis(budgets, axis=1)
    order = ranking.groupby(keys)["median"].prod().sort_values(kind="stable").index
    caption = (
        f"Mean absolute error{unit and ' in '}{unit}: median over draws and the middle half of them, best method first."
    )
    return ReportTable(caption, wide.loc[order].reset_index(), bold_lowest=tuple(budgets))


def comparison_table(verdict: Verdict) -> ReportTable:
    """Pre-trained against untrained: what was seen, and what chance allows for."""
    rows = verdict.comparison
    percent = [f"{100 * value:+.1f}" for value in rows.relative]
    interval = [f"{100 * low:+.0f} to {100 * high:+.0f}" for low, high in zip(rows.low, rows.high, strict=True)]
    frame = pd.DataFrame(
        {
            "labels": rows.labels,
            "model": rows.model.replace("all", "all models"),
            "pre-trained": rows.error,
            "untrained": rows.error_untrained,
            "difference, %": percent,
            "95 % interval, %": interval,
            "p": [f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in rows.p],
            "draws won / tied / lost": [
                f"{won} / {tied} / {lost}" for won, tied, lost in rows[["wins", "ties", "losses"]].to_numpy()
            ],
        }
    )
    caption = (
        "Pre-trained vectors against the mean of their untrained twins, paired by draw. Interval and p allow for the "
        "draw of labels, the choice of test rows and the seed of the network, and hold for all numbers of labels "
        "together; a draw won is one with the lower error."
    )
    return ReportTable(caption, frame)


def _columns(table: ReportTable) -> list[_Column]:
    columns = []
    for name in map(str, table.frame.columns):
        cells = [_text(value) for value in table.frame[name].tolist()]
        numbers = [_leading_number(cell) for cell in cells]
        best = numbers.index(min(numbers)) if name in table.bold_lowest and numbers else None
        columns.append(_Column(name, cells, all(number < inf for number in numbers), best))
    return columns


def _leading_number(text: str) -> float:
    match = re.match(r"(?:< )?([-+]?\d[\d.,]*(?:e[-+]?\d+)?)", text)
    return float(match[1].replace(",", "")) if match else inf


def _text(value: object) -> str:
    """Numbers to three significant digits, with separators; anything else as it is."""
    if isinstance(value, float):
        digits = f"{value:.3g}"
        return f"{value:,.0f}" if "e+" in digits or abs(value) >= 1000 else digits
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as SVG whose ink takes the colour of the page and whose bytes depend on nothing but its content."""
    buffer = StringIO()
    with style.context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>\s*", "", drawing, flags=re.DOTALL)
    return Markup(drawing.replace(INK, "currentColor"))
