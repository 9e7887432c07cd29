"""The demonstration: real minerals, measured properties of gems, and whether pre-training helped to predict them."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from crystalmax import __version__, plots
from crystalmax.assessment import Assessment, assess, feature_sets, figures
from crystalmax.crystal import Crystal
from crystalmax.dataset import CrystalDataset
from crystalmax.featurizer import CrystalFeaturizer, encode
from crystalmax.ingest import canonical_records, ingest
from crystalmax.minerals import gems, join, minerals
from crystalmax.pretraining import losses, pretrain
from crystalmax.report import ReportFigure, ReportTable, comparison_table, ranking_table, write_report
from crystalmax.sources import Record

log = logging.getLogger(__name__)

PROPERTIES = {"refractive_index": "", "mohs_hardness": ""}
"""Measured properties that are predicted, with their units."""
EPOCHS = 8


def run(out: Path, *, epochs: int | None, n_jobs: int, progress: bool, say: Callable[[str], None]) -> None:
    """Do everything, or what is not done yet, and write `report.html` to the folder."""
    out.mkdir(parents=True, exist_ok=True)
    data = _data(out / "minerals", say)
    run_folder = out / "run"
    history = pretrain(
        data, run_folder, epochs=epochs or EPOCHS, resume=(run_folder / "run.json").exists(), progress=progress
    )
    crystals, mismatches = _labelled(data)
    featurizer = CrystalFeaturizer.from_pretrained(run_folder)
    features = feature_sets(crystals, featurizer)
    found = [assess(crystals, name, features, unit=unit, n_jobs=n_jobs) for name, unit in PROPERTIES.items()]
    path = _report(out, data, history, crystals, mismatches, featurizer, found)
    for each in found:
        say(f"\n{each.target}, {len(each.scores.tested)} labels\n{_short(each)}")
        say(each.verdict.sentence)
        say(each.verdict.advice)
    say(f"\n{overall(found)}\nreport: {path}")


def overall(found: list[Assessment]) -> str:
    """One sentence over all properties: did pre-training help?"""
    outcomes = {each.target: each.verdict.outcome for each in found}
    if all(outcome == "no difference" for outcome in outcomes.values()):
        return "Did pre-training help? Not that these few labels can show, for any property."
    parts = [f"{name.replace('_', ' ')}: {outcome}" for name, outcome in outcomes.items()]
    return f"Did pre-training help? {'; '.join(parts)}."


def _data(path: Path, say: Callable[[str], None]) -> CrystalDataset:
    if not path.exists():
        result = ingest(_records(), path, made_from=["American Mineralogist Crystal Structure Database, by larixite"])
        say(f"{len(result.data):,} minerals read, {result.n_skipped:,} refused; see {path / 'skipped.csv'}")
    return CrystalDataset.open(path)


def _records() -> Iterator[Record]:
    for entry in minerals():
        for record in canonical_records(entry.cif):
            crystal = record.crystal and replace(record.crystal, key=entry.key)
            yield replace(record, key=entry.key, source="AMCSD", crystal=crystal)


def _labelled(data: CrystalDataset) -> tuple[list[Crystal], pd.DataFrame]:
    """Crystals of gems with their measured properties, and gems whose structures contradict them."""
    by_key = {crystal.key: crystal for crystal in data}
    joined = join(by_key.values(), minerals(), gems())
    crystals = [
        replace(
            by_key[str(key)],
            targets={name: float(row[name]) for name in (*PROPERTIES, "specific_gravity", "density")},
        )
        for key, row in joined.labels.to_dict("index").items()
    ]
    return crystals, joined.mismatches


def _report(
    out: Path,
    data: CrystalDataset,
    history: list[dict[str, object]],
    crystals: list[Crystal],
    mismatches: pd.DataFrame,
    featurizer: CrystalFeaturizer,
    found: list[Assessment],
) -> Path:
    drawn = [figure for each, unit in zip(found, PROPERTIES.values(), strict=True) for figure in figures(each, unit)]
    tables = [table for each in found for table in _tables(each)]
    density, gravity = (np.array([c.targets[name] for c in crystals]) for name in ("density", "specific_gravity"))
    drawn += [
        ReportFigure(
            "A check of the data: density computed from the structure against the specific gravity listed for the gem. "
            "Gems that disagree by more than 7 % were left out.",
            plots.predicted_and_measured(gravity, density, quantity="density in g/cm3"),
        ),
        ReportFigure(
            "Losses of pre-training; lower says that a critic tells true from false better.",
            plots.training_curves(losses(history)),
        ),
        ReportFigure(
            "Vectors of the labelled gems in two dimensions, coloured by refractive index.",
            plots.map_of_vectors(
                encode(featurizer.encoder, featurizer.geometry, CrystalDataset.from_crystals(crystals)),
                np.array([crystal.targets["refractive_index"] for crystal in crystals]),
                quantity="refractive index",
                method="pca",
            ),
        ),
    ]
    if len(mismatches):
        tables.append(ReportTable("Gems left out because no structure of that name agrees with them.", mismatches))
    facts = {
        "minerals": f"{len(data):,}, American Mineralogist Crystal Structure Database (Downs and Hall-Wallace 2003)",
        "gems": f"{len(crystals)} with a structure, gemmology-mineral-database",
        "pre-training": f"{history[-1]['epoch']} epochs; it has seen the structures of the gems, and no property",
        "crystalmax": __version__,
    }
    first = found[0].verdict
    summary = replace(
        first,
        sentence=overall(found),
        advice=" ".join(f"{each.target.replace('_', ' ').capitalize()}: {each.verdict.advice}" for each in found),
    )
    return write_report(
        out / "report.html",
        "Few-label prediction of gem properties",
        summary,
        tables=tables,
        figures=drawn,
        facts=facts,
    )


def _tables(each: Assessment) -> list[ReportTable]:
    name = each.target.replace("_", " ")
    return [
        replace(table, caption=f"{name.capitalize()}. {table.caption}")
        for table in (ranking_table(each.verdict), comparison_table(each.verdict))
    ]


def _short(each: Assessment) -> str:
    """The ranking as a short table for a terminal, best method of each feature set."""
    ranking = each.verdict.ranking
    best = ranking.sort_values("median").drop_duplicates("features")[["features", "model", "median"]]
    return best.rename(columns={"median": "mean absolute error"}).to_string(index=False, float_format="{:.3f}".format)
