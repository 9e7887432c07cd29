"""Did pre-training help on these labels? Vectors, their untrained twins and plain rivals, scored alike and reported."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from crystalmax import __version__, baselines, plots
from crystalmax.crystal import Crystal
from crystalmax.dataset import CrystalDataset
from crystalmax.elements import SYMBOLS
from crystalmax.evaluation import FeatureSet, Plan, Scores, evaluate
from crystalmax.featurizer import CrystalFeaturizer, encode
from crystalmax.report import ReportFigure, ReportTable, comparison_table, ranking_table, write_report
from crystalmax.verdict import Verdict, verdict

log = logging.getLogger(__name__)

VECTORS = "pre-trained vectors"
TWIN_SEEDS = (1001, 1002, 1003)
"""Seeds of the untrained twins; far from those that runs are usually trained with."""


@dataclass(frozen=True)
class Assessment:
    """What was scored and what it says.

    Attributes:
        target: Name of the property.
        scores: Everything that was predicted.
        verdict: What it means.
    """

    target: str
    scores: Scores
    verdict: Verdict


def feature_sets(crystals: Sequence[Crystal], featurizer: CrystalFeaturizer) -> dict[str, FeatureSet]:
    """What an assessment compares: our vectors, three untrained twins, plain statistics, and both together."""
    data = CrystalDataset.from_crystals(crystals)
    fractions, _ = baselines.element_fractions(crystals)
    composition, _ = baselines.composition_statistics(crystals)
    structure, _ = baselines.structure_statistics(crystals)
    statistics = np.concatenate([composition, structure], axis=1)
    vectors = encode(featurizer.encoder, featurizer.geometry, data)
    twins = [featurizer.untrained_twin(seed) for seed in TWIN_SEEDS]
    return {
        VECTORS: FeatureSet(vectors, "pretrained"),
        **{
            f"untrained, seed {seed}": FeatureSet(encode(twin.encoder, twin.geometry, data), "untrained")
            for seed, twin in zip(TWIN_SEEDS, twins, strict=True)
        },
        "element fractions": FeatureSet(fractions, "baseline"),
        "composition statistics": FeatureSet(composition, "baseline"),
        "structure statistics": FeatureSet(structure, "baseline"),
        "composition and structure statistics": FeatureSet(statistics, "baseline"),
        "vectors and statistics": FeatureSet(np.concatenate([vectors, statistics], axis=1), "joint"),
    }


def assess(
    crystals: Sequence[Crystal],
    target: str,
    features: Mapping[str, FeatureSet],
    *,
    unit: str = "",
    plan: Plan | None = None,
    by_formula: bool = True,
    n_jobs: int = 1,
) -> Assessment:
    """Score every feature set on the crystals that have a value of the target.

    Args:
        crystals: Canonical crystals; rows of the feature sets.
        target: Name of the property.
        features: See `feature_sets`.
        unit: Of the property, for sentences.
        plan: Which labels each draw may see; see `evaluation.plan_for`.
        by_formula: Whether crystals of one formula stay on one side of every split.
        n_jobs: Processes.
    """
    values = np.array([crystal.targets.get(target, np.nan) for crystal in crystals])
    known = np.flatnonzero(np.isfinite(values)).tolist()
    labelled = {name: FeatureSet(each.values[known], each.kind) for name, each in features.items()}
    groups = [formula(crystals[row]) for row in known] if by_formula else None
    log.info("%s: scoring %d feature sets on %d labels", target, len(features), len(known))
    scores = evaluate(labelled, values[known], plan=plan, groups=groups, n_jobs=n_jobs)
    return Assessment(target, scores, verdict(scores, VECTORS, unit=unit))


def formula(crystal: Crystal) -> str:
    """Composition per atom, in a form that is the same for all cells and polymorphs."""
    atoms = crystal.composition()
    total = sum(atoms.values())
    return " ".join(f"{SYMBOLS[z - 1]}{atoms[z] / total:.4f}" for z in sorted(atoms))


def figures(assessment: Assessment, unit: str = "") -> list[ReportFigure]:
    """The figures of an assessment, captioned."""
    scores, target = assessment.scores, assessment.target
    error = f"mean absolute error{unit and f' in {unit}'}"
    labels = sorted(scores.table.labels.unique().tolist())
    found = []
    if len(labels) > 1:
        found.append(
            ReportFigure(
                f"{target}: error on test crystals against the number of labels; median and middle half of the draws.",
                plots.learning_curves(scores.table, error=error),
            )
        )
    found += [
        ReportFigure(
            f"{target}: every method at {labels[-1]:,} labels; each draw, their median and middle half.",
            plots.errors_of_methods(scores.table, labels=labels[-1], error=error),
        ),
        ReportFigure(
            f"{target}: pre-trained vectors against their untrained twins, draw by draw; below zero, it helped.",
            plots.paired_differences(scores.table, VECTORS),
        ),
        ReportFigure(
            f"{target}: predictions of the best method, {_best_method(assessment)}, at {labels[-1]:,} labels, against "
            "measurements; a mean over draws.",
            plots.predicted_and_measured(scores.measured, _best_predictions(assessment, labels[-1]), quantity=unit),
        ),
    ]
    return found


def report_assessment(
    assessment: Assessment, out: Path, *, unit: str = "", facts: Mapping[str, object] | None = None
) -> Path:
    """Write `report.html`, `results.parquet`, `ranking.csv`, `comparison.csv` and the figures to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    drawn = figures(assessment, unit)
    assessment.scores.table.to_parquet(out / "results.parquet")
    assessment.verdict.ranking.to_csv(out / "ranking.csv", index=False)
    assessment.verdict.comparison.to_csv(out / "comparison.csv", index=False)
    for number, each in enumerate(drawn, 1):
        for suffix in ("svg", "png"):
            each.figure.savefig(out / f"figure_{number}.{suffix}", dpi=150)
    tables: list[ReportTable] = [ranking_table(assessment.verdict, unit=unit), comparison_table(assessment.verdict)]
    return write_report(
        out / "report.html",
        f"Few-label prediction of {assessment.target}",
        assessment.verdict,
        tables=tables,
        figures=drawn,
        facts={"crystalmax": __version__, **(facts or {})},
    )


def _best_method(assessment: Assessment) -> str:
    best = _best_row(assessment, int(assessment.verdict.ranking.labels.max()))
    return f"{best.features} with {best.model}"


def _best_predictions(assessment: Assessment, labels: int) -> Float[np.ndarray, " tested"]:
    best, table = _best_row(assessment, labels), assessment.scores.table
    chosen = (table.features == best.features) & (table.model == best.model) & (table.labels == labels)
    mean: Float[np.ndarray, " tested"] = assessment.scores.predictions[chosen.to_numpy()].mean(axis=0)
    return mean


def _best_row(assessment: Assessment, labels: int) -> pd.Series:
    ranking = assessment.verdict.ranking
    return ranking[ranking.labels == labels].iloc[0]
