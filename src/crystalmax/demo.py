"""The demonstration: real minerals, measured properties of gems, and whether pre-training helped to predict them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from crystalmax import __version__, plots
from crystalmax.crystal import Crystal
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.judging.assessment import VECTORS, Assessment, assess, feature_sets, figures, tables
from crystalmax.judging.report import Drawing, write_report
from crystalmax.learning.pretraining import losses, pretrain
from crystalmax.minerals import gems, join, minerals
from crystalmax.reading.ingest import canonical_records, ingest
from crystalmax.reading.records import Record
from crystalmax.storage.dataset import CrystalDataset

PROPERTIES = ("refractive_index", "mohs_hardness")
"""Measured properties that are predicted; both are plain numbers."""

TARGETS = (*PROPERTIES, "specific_gravity", "density")


def run(out: Path, *, epochs: int | None, n_jobs: int, progress: bool, say: Callable[[str], None]) -> None:
    """Run all steps that are not done yet, and write `report.html` to the folder."""
    data, folder = _data(out / "minerals", say), out / "run"
    resume = (folder / "run.json").exists()
    history = pretrain(data, folder, epochs=epochs, resume=resume, progress=progress)
    crystals, mismatches = _labelled(data)
    features = feature_sets(crystals, CrystalFeaturizer.from_pretrained(folder))
    found = [assess(crystals, name, features, n_jobs=n_jobs, progress=progress) for name in PROPERTIES]
    outcomes = {each.verdict.outcome for each in found}
    answer = replace(
        found[0].verdict,
        outcome=outcomes.pop() if len(outcomes) == 1 else "mixed",
        sentence=overall(found),
        advice=" ".join(f"{each.title}: {each.verdict.advice}" for each in found),
    )
    left_out = ("Gems left out because no structure of that name agrees with them.", mismatches)
    path = write_report(
        out / "report.html",
        "Few-label prediction of gem properties",
        answer,
        tables=[*(table for each in found for table in tables(each)), left_out],
        figures=[
            *(figure for each in found for figure in figures(each)),
            *_background(crystals, history, np.asarray(features[VECTORS].values)),
        ],
        facts={
            "minerals": f"{len(data):,}, American Mineralogist Crystal Structure Database (Downs, Hall-Wallace 2003)",
            "gems": f"{len(crystals)} with a structure, gemmology-mineral-database",
            "pre-training": f"{history[-1]['epoch']} epochs; it has seen the structures of the gems, and no property",
            "crystalmax": __version__,
        },
    )
    for each in found:
        best = each.verdict.ranking[["features", "model", "median"]].drop_duplicates("features")
        say(f"\n{each.title}, {len(each.scores.tested)} labels, mean absolute error")
        say(best.to_string(index=False, float_format="{:.3f}".format))
        say(f"{each.verdict.sentence}\n{each.verdict.advice}")
    say(f"\n{overall(found)}\nreport: {path}")


def overall(found: Sequence[Assessment]) -> str:
    """One sentence for all properties: did pre-training help?"""
    if all(each.verdict.outcome == "no difference" for each in found):
        return "Did pre-training help? Not that these few labels can show, for any property."
    return f"Did pre-training help? {'; '.join(f'{each.title}: {each.verdict.outcome}' for each in found)}."


def _data(path: Path, say: Callable[[str], None]) -> CrystalDataset:
    if not path.exists():
        result = ingest(_records(), path, made_from=["American Mineralogist Crystal Structure Database, by larixite"])
        say(f"{len(result.data):,} minerals read, {result.n_skipped:,} refused; see {path / 'skipped.csv'}")
    return CrystalDataset.open(path)


def _records() -> Iterator[Record]:
    for entry in minerals():
        for record in canonical_records(entry.cif):
            yield replace(record.renamed(entry.key), source="AMCSD")


def _labelled(data: CrystalDataset) -> tuple[list[Crystal], pd.DataFrame]:
    """Crystals of gems with their measured properties, and gems whose structures contradict them."""
    by_key = {crystal.key: crystal for crystal in data}
    joined = join(by_key.values(), minerals(), gems())
    crystals = [
        replace(by_key[str(key)], targets={name: float(row[name]) for name in TARGETS})
        for key, row in joined.labels.to_dict("index").items()
    ]
    return crystals, joined.mismatches


def _background(
    crystals: Sequence[Crystal], history: Sequence[Mapping[str, object]], vectors: Float[np.ndarray, "crystals width"]
) -> Iterator[Drawing]:
    """Figures about the data, the training and the vectors."""
    of = {name: np.array([crystal.targets[name] for crystal in crystals]) for name in TARGETS}
    yield (
        "A check of the data: density computed from the structure against the specific gravity listed for the gem. "
        "Gems that disagree by more than 7 % were left out.",
        plots.predicted_and_measured(of["specific_gravity"], of["density"], quantity="density in g/cm3"),
    )
    yield (
        "Losses of pre-training; lower says that a critic tells true from false better.",
        plots.training_curves(losses(history)),
    )
    yield (
        "Vectors of the labelled gems, coloured by refractive index.",
        plots.map_of_vectors(vectors, of["refractive_index"], quantity="refractive index"),
    )
