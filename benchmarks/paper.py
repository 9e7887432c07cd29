"""What the paper says, and what a study of ours says about the same, as tables of the documentation.

    crystalmax study paper --data DIR --out study --budget medium
    python benchmarks/paper.py study          # keeps the results under benchmarks/results, figures under docs/images
    python benchmarks/table.py                # writes the tables anew

Ratios are of median errors over draws, at 50 / 100 / 250 / 1,000 labels. The paper: DOI 10.1039/d4dd00202d.
"""

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from crystalmax.study import encoders

ROOT = Path(__file__).parent.parent
KEPT = ROOT / "benchmarks" / "results" / "study_medium"
IMAGES = ROOT / "docs" / "images" / "study"

LABELS = (50, 100, 250, 1000)
ENERGY, GAP, PHONONS = "formation_energy_eV_per_atom", "band_gap_eV", "last_phdos_peak_cm1"
WORDS = {ENERGY: "formation energy", GAP: "band gap", PHONONS: "phonons"}
RANDOM, OURS, OTHER = "from random weights", "from Deep InfoMax", "from the other property"
PAPERS_MODELS = ("least squares", "hidden layer")

FIGURE_7 = {
    (ENERGY, RANDOM): (0.508, 0.436, 0.319, 0.191),
    (ENERGY, OURS): (0.472, 0.381, 0.316, 0.210),
    (ENERGY, OTHER): (0.592, 0.501, 0.374, 0.236),
    (GAP, RANDOM): (0.903, 0.880, 0.787, 0.667),
    (GAP, OURS): (0.899, 0.828, 0.789, 0.677),
    (GAP, OTHER): (0.860, 0.773, 0.715, 0.604),
}
"""Medians recovered from the paper's figure: mean absolute error of fine-tuned networks, eV/atom and eV."""


class Claim(NamedTuple):
    """A claim of the paper as a ratio of errors.

    Attributes:
        figure: Of the paper.
        text: The claim.
        expected: At each of `LABELS`: -1 where the ratio shall be below 1, 1 above, 0 where nothing is claimed.
        part: Of the study.
        target: The property.
        model: The downstream model.
        above: Method whose error stands above the line.
        below: Method whose error stands below it; "untrained" for the untrained networks together.
    """

    figure: str
    text: str
    expected: tuple[int, int, int, int]
    part: str
    target: str
    model: str
    above: str
    below: str


def claims(recipe: str) -> Iterator[Claim]:
    """The paper's claims, put to the vectors of a recipe; for fine-tuning the study has but one recipe."""
    ours = f"{recipe} recipe"
    for target, text, expected, above in (
        (ENERGY, "Deep InfoMax start / random start", (-1, -1, -1, 1), OURS),
        (ENERGY, "start from band gap / random start", (1, 1, 1, 1), OTHER),
        (GAP, "Deep InfoMax start / random start", (0, 0, 0, 0), OURS),
        (GAP, "start from formation energy / random start", (-1, -1, -1, -1), OTHER),
    ):
        yield Claim("7", f"{WORDS[target]}: {text}", expected, "transfer", target, "fine-tuned", above, RANDOM)
    for target, expected in ((ENERGY, (-1, -1, -1, -1)), (GAP, (-1, -1, 0, 0))):
        for model in PAPERS_MODELS:
            text = f"{WORDS[target]}, {model}: vectors / untrained"
            yield Claim("8", text, expected, "representation", target, model, ours, "untrained")
        text = f"{WORDS[target]}, hidden layer: vectors / X-ray pattern"
        yield Claim("8", text, expected, "representation", target, "hidden layer", ours, "xrd")
    for target, expected in ((ENERGY, (1, 1, 1, 1)), (GAP, (1, 1, 1, 1))):
        text = f"{WORDS[target]}, linear: without made-up false samples / with"
        alone = f"{ours}, other crystals alone"
        yield Claim("11", text, expected, "ablation", target, "ridge", alone, ours)
    text = "phonons, hidden layer: vectors / untrained"
    yield Claim("13", text, (-1, -1, -1, -1), "shift", PHONONS, "hidden layer", ours, "untrained")
    text = "phonons: Deep InfoMax start / random start"
    yield Claim("13", text, (-1, -1, -1, 1), "shift", PHONONS, "fine-tuned", OURS, RANDOM)


def kept() -> pd.DataFrame:
    """The rows of the study whose results are kept here."""
    return pd.read_parquet(KEPT / "results.parquet")


def kept_costs() -> pd.DataFrame:
    """What the networks of the part `encoders` cost, by their names."""
    return pd.read_csv(KEPT / "encoders.csv", index_col=0, dtype={"seconds per epoch": str}).fillna("")


def figure_7(rows: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Property, start, the paper's errors and ours."""
    tuned = rows[(rows.part == "transfer") & (rows.model == "fine-tuned")]
    for (name, start), theirs in FIGURE_7.items():
        ours = medians(tuned[(tuned.property == name) & (tuned.method == start)])
        yield WORDS[name], start, slashes(theirs), slashes(ours)


def put_to_the_test(rows: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Figure, claim, what the paper says, and the ratio and how many of its signs agree, for both recipes."""
    for claim, other in zip(claims("paper"), claims("infomax"), strict=True):
        both = [ratios(rows, claim), ratios(rows, other)]
        shown = [f"{slashes(found, 2)} ({agreement(claim.expected, found)})" for found in both]
        signs = ("<" if sign < 0 else ">" if sign > 0 else "?" for sign in claim.expected)
        yield claim.figure, claim.text, " / ".join(signs), *(["", shown[1]] if both[0] == both[1] else shown)


def ratios(rows: pd.DataFrame, claim: Claim) -> tuple[float, ...]:
    """Ratio of median errors at each of `LABELS`."""
    found = rows[(rows.part == claim.part) & (rows.property == claim.target) & (rows.model == claim.model)]
    untrained = (found.kind == "untrained") & (found.family == "infomax")
    below = found[untrained] if claim.below == "untrained" else found[found.method == claim.below]
    return tuple(
        above / under for above, under in zip(medians(found[found.method == claim.above]), medians(below), strict=True)
    )


def agreement(expected: Sequence[int], found: Sequence[float]) -> str:
    """How many of the claimed signs are ours too."""
    pairs = [(sign, ratio) for sign, ratio in zip(expected, found, strict=True) if sign and np.isfinite(ratio)]
    return f"{sum(sign * (ratio - 1) > 0 for sign, ratio in pairs)} of {len(pairs)}"


def ranking(rows: pd.DataFrame, name: str) -> Iterator[tuple[str, ...]]:
    """Method, its best model, and its median errors, best method first."""
    part = "shift" if name == PHONONS else "representation"
    found = rows[(rows.part == part) & (rows.property == name) & (rows.model != "fine-tuned")]
    named = twins_together(found)
    table = named.groupby(["method", "model", "labels"]).mae.median().unstack("labels").reindex(columns=list(LABELS))
    order = np.log(table).mean(axis=1).sort_values(kind="stable").index
    for method, model in order.drop_duplicates()[~order.get_level_values("method").duplicated()]:
        yield method, model, slashes(table.loc[(method, model)])


def official(rows: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Method, its best model and its mean error over the official folds, best first."""
    found = rows[rows.part == "official"]
    named = twins_together(found)
    means = named.groupby(["method", "model"]).mae.mean().sort_values(kind="stable")
    for method, model in means.index[~means.index.get_level_values("method").duplicated()]:
        yield method, model, f"{means[method, model]:.1f}"


def grid(rows: pd.DataFrame, recipe: str) -> Iterator[tuple[str, ...]]:
    """Each change of a recipe, and what it does to the error of each property in percent, with a 95 % interval.

    The mean over numbers of labels and models of the logarithm of the ratio of errors; the interval is of a bootstrap
    over draws, each with all its numbers of labels, so it speaks of these networks.
    """
    base = f"{recipe} recipe"
    found = rows[rows.part == "ablation"]
    errors = np.log(found.pivot_table(index=["property", "draw", "labels", "model"], columns="method", values="mae"))
    twins = found.method[(found.kind == "untrained") & (found.family == "infomax")].unique()
    errors["without training"] = errors[twins].mean(axis=1)
    for method in [name for name in errors if name.startswith(f"{base}, ")] + ["without training"]:
        change = errors[method] - errors[base]
        yield method.removeprefix(f"{base}, "), *(percent(change[name].unstack("draw").dropna()) for name in WORDS)


def percent(changes: pd.DataFrame) -> str:
    """Mean logarithm of a ratio as a change in percent, with its interval over the columns."""
    of_draw = changes.mean(axis=0).to_numpy()
    drawn = np.random.default_rng(0).integers(len(of_draw), size=(2000, len(of_draw)))
    low, high = np.quantile(of_draw[drawn].mean(axis=1), [0.025, 0.975])
    middle, low, high = (100 * np.expm1(value) for value in (of_draw.mean(), low, high))
    return f"{middle:+.1f} [{low:+.1f}, {high:+.1f}]"


def spread_of_seeds(rows: pd.DataFrame) -> tuple[str, ...]:
    """How far untrained networks differ by seed alone: deviation of their mean logarithm of the error, in percent."""
    found = rows[(rows.part == "ablation") & (rows.kind == "untrained") & (rows.family == "infomax")]
    of_seed = found.assign(error=np.log(found.mae)).groupby(["property", "method"]).error.mean()
    return tuple(f"{100 * of_seed[name].std():.1f}" for name in WORDS)


def of_encoders(rows: pd.DataFrame, name: str, costs: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """Encoder and objective, its best model, its errors, their ratio to its untrained networks, parameters, seconds."""
    found = rows[(rows.part == "encoders") & (rows.property == name)]
    named = found.assign(method=found.method.str.split(", seed").str[0])
    table = named.groupby(["method", "model", "labels"]).mae.median().unstack("labels").reindex(columns=list(LABELS))
    order = np.log(table).mean(axis=1).sort_values(kind="stable").index
    best = {method: (method, model) for method, model in reversed(order)}
    for method in costs.index:
        twin = f"{method.partition(' ')[0]} untrained"
        ratio = "" if method == twin else slashes(table.loc[best[method]] / table.loc[best[twin]], 2)
        cost = costs.loc[method]
        yield (
            method, best[method][1], slashes(table.loc[best[method]]), ratio,
            f"{cost.parameters:,}", cost["seconds per epoch"],
        )  # fmt: skip


def twins_together(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, with one name for all untrained networks of a kind."""
    family = rows.family.replace("infomax", "Site-Net")
    return rows.assign(method=rows.method.mask(rows.kind == "untrained", "untrained " + family))


def medians(rows: pd.DataFrame) -> tuple[float, ...]:
    """Median error over draws at each of `LABELS`, NaN where there are none."""
    found = rows.groupby("labels").mae.median().reindex(list(LABELS))
    return tuple(found.astype(float).tolist())


def slashes(values: Sequence[float] | pd.Series, digits: int = 3) -> str:
    """Numbers between slashes, with so many significant digits, or decimals where there are two."""
    form = (lambda value: f"{value:.2f}") if digits == 2 else (lambda value: f"{value:.3g}")
    return " / ".join("-" if np.isnan(value) else form(value) for value in values)


def keep(study: Path) -> None:
    """Copy what the documentation shows of a finished study."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for name in ("results.parquet", "times.parquet", "comparison.csv", "study.json"):
        shutil.copyfile(study / name, KEPT / name)
    rows = pd.read_parquet(study / "results.parquet")
    encoders.costs(study / "cells", rows[rows.part == "encoders"]).to_csv(KEPT / "encoders.csv")
    IMAGES.mkdir(parents=True, exist_ok=True)
    for path in sorted((study / "figures").glob("*.png")):
        with Image.open(path) as image:
            image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
                IMAGES / path.name, optimize=True
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a finished study")
    keep(parser.parse_args().study)
