"""Part 8: paired differences between methods, and a sentence for each property whether pre-training helped."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from crystalmax.judging.evaluation import TRIVIAL, Scores
from crystalmax.judging.verdict import Verdict, against, verdict
from crystalmax.study import runner
from crystalmax.study.material import Material, Property
from crystalmax.study.settings import Study

CELL = ["part", "dataset", "property", "split", "model", "labels"]
"""Columns that two methods must share to be compared."""

UNTRAINED = "untrained"
"""Common name of the untrained networks of a family, whose mean error is used."""

JUDGED = ("representation", "shift", "transfer")
"""Parts in which all draws of a comparison have the same test rows, as a verdict needs."""

NO_JUDGE = "least squares"
"""A model that verdicts ignore: with about as many labels as columns, its errors are huge and outweigh all others."""

Predictions = Float[np.ndarray, "_ tested"]

_RESAMPLES = 2000


class Finding(NamedTuple):
    """What a part of the study says about pre-training for one property."""

    part: str
    dataset: str
    target: str
    method: str
    verdict: Verdict

    @property
    def sentence(self) -> str:
        """The answer, preceded by data set, property and method."""
        quantity = self.target.replace("_", " ")
        return f"{self.dataset}, {quantity}, {self.method} ({self.part}): {self.verdict.sentence}"


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Methods that learnt something against those that did not, paired by draw, for each cell of the study.

    A row for each cell, method and rival: the untrained networks of the same family, a plain one, where a method is a
    recipe, each other recipe, and where it is a changed one ("infomax recipe, without noise"), that as it is. Mean
    errors, mean `difference`, the same `relative` to the rival with a 95 % bootstrap interval over draws, the p value
    of Wilcoxon's signed-rank test, and how many draws were won, tied and lost. Draws share labels and test rows, so
    interval and p speak of this split and these networks only; `verdict` allows for more.
    """
    if "mae" not in rows:
        return pd.DataFrame()
    found = [
        {**dict(zip(CELL, cell, strict=True)), **row}
        for cell, table in rows[rows.mae.notna()].groupby(CELL, sort=True)
        for row in _pairs(table)
    ]
    return pd.DataFrame(found)


def _pairs(table: pd.DataFrame) -> Iterator[dict[str, object]]:
    """A row for each comparison among the methods of one cell."""
    kinds = table.drop_duplicates("method").set_index("method").kind
    families = table.get("family", pd.Series("", table.index)).fillna("")
    errors = table.pivot_table(index="draw", columns="method", values="mae")
    for method in sorted(kinds.index[~kinds.isin(["untrained", "baseline", "trivial"])]):
        family = families[table.method == method].iloc[0]
        twins = table[(table.kind == "untrained") & (families == family)].method.unique()
        rivals = {UNTRAINED: errors[twins].mean(axis=1)} if len(twins) else {}
        unchanged = str(method).partition(", ")[0]
        if unchanged != method and unchanged in kinds.index:
            rivals[unchanged] = errors[unchanged]
        rivals |= {name: errors[name] for name in _other_recipes(kinds.index, method)}
        rivals |= {name: errors[name] for name in sorted(kinds.index[kinds == "baseline"])}
        for rival, of_rival in rivals.items():
            pair = pd.concat([errors[method], of_rival], axis=1).dropna().to_numpy()
            if len(pair):
                yield {"method": method, "rival": rival, **_paired(pair[:, 0], pair[:, 1])}


def _other_recipes(methods: Iterable[str], method: str) -> list[str]:
    """All other unchanged recipes, if the method is one."""
    return sorted({name for name in methods if name.endswith(" recipe") and method.endswith(" recipe")} - {method})


def _paired(ours: np.ndarray, theirs: np.ndarray) -> dict[str, float]:
    """Statistics of paired errors."""
    difference = ours - theirs
    drawn = np.random.default_rng(0).integers(len(ours), size=(_RESAMPLES, len(ours)))
    low, high = np.quantile(difference[drawn].sum(axis=1) / theirs[drawn].sum(axis=1), [0.025, 0.975])
    return {
        "draws": len(ours),
        "error": ours.mean(),
        "error_of_rival": theirs.mean(),
        "difference": difference.mean(),
        "relative": difference.sum() / theirs.sum(),
        "relative_low": low,
        "relative_high": high,
        "p_wilcoxon": float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0,
        "wins": int((difference < 0).sum()),
        "ties": int((difference == 0).sum()),
        "losses": int((difference > 0).sum()),
    }


def findings(study: Study) -> list[Finding]:
    """A verdict for each part, property and kind of pre-trained vectors that has untrained twins."""
    return [
        Finding(part, material.name, each.name, method, found)
        for part in JUDGED
        for material in study.materials
        for each in material.properties
        for method, found in _judged(study, part, material, each)
    ]


def _judged(study: Study, part: str, material: Material, each: Property) -> Iterator[tuple[str, Verdict]]:
    cells = study.folder / "cells"
    names = runner.names_in(cells, f"{part}/{material.name}/{each.name}/")
    rows = {name: runner.rows_in(cells, name) for name in names}
    together = pd.concat([pd.DataFrame(columns=["method", "kind", "family"]), *rows.values()])
    for method in sorted(together.method[together.kind == "pretrained"].unique()):
        others = _other_recipes(together.method, method) if method.removesuffix(" recipe") in study.recipes else []
        wanted = _contenders(together, method) | {*others}
        heard = {name: table.method.isin(wanted) & (table.model != NO_JUDGE) for name, table in rows.items()}
        of_cells = [
            (table[heard[name]], runner.arrays_in(cells, name)["predictions"][heard[name]])
            for name, table in rows.items()
            if heard[name].any()
        ]
        if (scores := _scores(study, material, each.name, of_cells)) is not None:
            found = verdict(scores, method, unit=each.unit)
            yield method, replace(found, advice=f"{found.advice} {against(scores, method, others)}".rstrip())


def _contenders(table: pd.DataFrame, method: str) -> set[str]:
    """What a verdict compares: a method, its untrained twins, the method with statistics, and the best plain rival."""
    table = table[table.model.isin(table.model[table.method == method])]  # fine-tuning is another matter
    family = table.family[table.method == method].fillna("").iloc[0]
    twins = table.method[(table.kind == "untrained") & (table.family.fillna("") == family)]
    plain = table[table.kind == "baseline"]
    medians = plain.groupby(["method", "model", "labels"]).mae.median()
    # By geometric mean over the numbers of labels; errors of exactly nothing would make it nothing.
    score = np.log(medians.clip(lower=1e-12)).groupby(level=[0, 1]).mean()
    best = score.groupby(level=0).min().sort_values(kind="stable").index[:1]
    return {method, *twins, *best, f"{method} and statistics"}


def _scores(
    study: Study, material: Material, name: str, of_cells: Sequence[tuple[pd.DataFrame, Predictions]]
) -> Scores | None:
    """Scores for `verdict`, where all methods have the same draws; None if a verdict is impossible."""
    values, tested = material.values(name), study.tested(material, name)
    table = pd.concat([rows for rows, _ in of_cells], ignore_index=True).rename(columns={"method": "features"})
    keys = ["features", "kind", "model", "labels", "draw", "seed", "mae"]
    trivial = table.drop_duplicates(["labels", "draw"]).assign(features=TRIVIAL, kind="trivial", model="median")
    medians = [
        np.median(values[study.labelled(material, name, labels, draw)])
        for labels, draw in zip(trivial.labels, trivial.draw, strict=True)
    ]
    trivial["mae"] = [np.abs(values[tested] - median).mean() for median in medians]
    table = pd.concat([table[keys], trivial[keys]], ignore_index=True)
    constant = np.repeat(np.array(medians)[:, None], len(tested), axis=1)
    predictions = np.concatenate([*(found for _, found in of_cells), constant]).astype(np.float64)
    draws = table.groupby(["labels", "features", "model"]).draw.nunique().unstack("labels")
    whole = draws.columns[(draws == draws.max()).all() & (draws.max() > 1)]
    order = table[table.labels.isin(whole)].sort_values(["features", "model", "labels", "draw"]).index
    groups = np.unique(np.array(material.formulas)[tested], return_inverse=True)[1]
    if not len(order) or not (table.kind == "untrained").any() or not groups.any():
        return None
    table = table.loc[order].assign(pool=len(study.pool(material, name))).reset_index(drop=True)
    return Scores(table, predictions[order], tested, values[tested], groups)
