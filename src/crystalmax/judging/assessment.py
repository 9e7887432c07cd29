"""Did pre-training help on these labels? Scores of vectors, untrained twins and plain statistics, and a report."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.base import clone

from crystalmax import __version__, plots
from crystalmax.crystal import Crystal, formula
from crystalmax.featurizer import CrystalFeaturizer
from crystalmax.few_labels.small_data import SmallDataRegressor
from crystalmax.judging.evaluation import TWIN_SEEDS, FeatureSet, Plan, Scores, evaluate
from crystalmax.judging.report import Drawing, Table, comparison_table, ranking_table, write_report
from crystalmax.judging.verdict import Verdict, verdict
from crystalmax.seen import caution
from crystalmax.statistics import baselines
from crystalmax.storage.dataset import CrystalDataset

log = logging.getLogger(__name__)

VECTORS = "pre-trained vectors"
COMPOSITION = "all composition statistics"
FRACTIONS = "element fractions"
_WITHOUT_STRUCTURE = (FRACTIONS, "composition statistics", COMPOSITION)

SMALL_DATA = "forest and Gaussian processes"
"""Name of `SmallDataRegressor` in tables."""


@dataclass(frozen=True)
class Assessment:
    """Scores of all methods for a property, and the verdict on them."""

    target: str
    scores: Scores
    verdict: Verdict

    @property
    def title(self) -> str:
        """The property in words, with a capital letter."""
        words = self.target.replace("_", " ")
        return words[:1].upper() + words[1:]


def small_data(widths: Sequence[int] = ()) -> Mapping[str, SmallDataRegressor]:
    """The recommended regressor, for blocks of these widths; it is too slow to be tried on all feature sets."""
    return {SMALL_DATA: SmallDataRegressor(blocks=widths)}


def feature_sets(crystals: Sequence[Crystal], featurizer: CrystalFeaturizer) -> dict[str, FeatureSet]:
    """The feature sets of an assessment: vectors, three untrained twins, plain statistics, and vectors with statistics.

    The regressor for small data is tried on statistics of composition, on all statistics, and on these with vectors.

    Raises:
        ValueError: The vectors were learnt from labels of these crystals; see `seen.caution`.
    """
    told = caution(featurizer.model_, crystals)
    data = CrystalDataset.from_crystals(crystals)
    statistics = CrystalFeaturizer(None, n_jobs=featurizer.n_jobs).numbers(data)
    featurizer = clone(featurizer).set_params(statistics=False)
    vectors = featurizer.numbers(data)
    twins = {f"untrained, seed {seed}": featurizer.untrained_twin(seed) for seed in TWIN_SEEDS}
    widths = baselines.statistics_widths()
    blocks = dict(zip(baselines.BLOCKS, np.split(statistics, np.cumsum(widths)[:-1], axis=1), strict=True))
    composition = np.concatenate([blocks[name] for name in baselines.COMPOSITION], axis=1)
    widths_of_composition = [blocks[name].shape[1] for name in baselines.COMPOSITION]
    return {
        VECTORS: FeatureSet(vectors, "pretrained", caution=told),
        **{name: FeatureSet(twin.numbers(data), "untrained") for name, twin in twins.items()},
        FRACTIONS: FeatureSet(blocks["fractions"], "baseline"),
        "composition statistics": FeatureSet(blocks["composition"], "baseline"),
        "structure statistics": FeatureSet(blocks["structure"], "baseline"),
        COMPOSITION: FeatureSet(composition, "baseline", small_data(widths_of_composition)),
        "all statistics": FeatureSet(statistics, "baseline", small_data(widths)),
        "vectors and all statistics": FeatureSet(
            np.concatenate([vectors, statistics], axis=1), "joint", small_data((vectors.shape[1], *widths))
        ),
    }


def assess(
    crystals: Sequence[Crystal],
    target: str,
    features: Mapping[str, FeatureSet],
    *,
    unit: str = "",
    plan: Plan | None = None,
    by_formula: bool = True,
    n_jobs: int | None = None,
    progress: bool = False,
) -> Assessment:
    """Score feature sets, whose rows are the crystals, on those crystals that have a value of the target.

    Args:
        crystals: Canonical crystals with their targets; crystals without this one are left out.
        target: Name of the property.
        features: Feature sets by name, as `feature_sets` makes them, with a row for each crystal.
        unit: Unit of the property, for sentences only.
        plan: Which labels each draw may see; `evaluation.plan_for` unless given.
        by_formula: Whether crystals of one formula stay on one side of every split.
        n_jobs: Processes to spread the draws over.
        progress: Whether a terminal shows how many draws are done.

    Raises:
        ValueError: Labels or formulas are too few, all labels are equal, or a feature set has gaps or other rows.
    """
    values = np.array([crystal.targets.get(target, np.nan) for crystal in crystals])
    known = np.flatnonzero(np.isfinite(values)).tolist()
    if not known:
        raise ValueError(f"no crystal has a value of {target!r}; correct the name, or give labels")
    if len(set(values[known])) == 1:
        raise ValueError(f"all {len(known)} values of {target!r} are {values[known[0]]:g}; give some that differ")
    labelled = {name: replace(each, values=np.asarray(each.values)[known]) for name, each in features.items()}
    groups = [formula(crystals[row]) for row in known] if by_formula else None
    log.info("%s: scoring %d feature sets on %d labels", target, len(features), len(known))
    scores = evaluate(labelled, values[known], plan=plan, groups=groups, n_jobs=n_jobs, progress=progress)
    found = verdict(scores, VECTORS, unit=unit, composition=_WITHOUT_STRUCTURE)
    return Assessment(target, scores, replace(found, sentence=f"{features[VECTORS].caution} {found.sentence}".lstrip()))


def figures(assessment: Assessment, unit: str = "") -> list[Drawing]:
    """The figures of an assessment, captioned."""
    scores = assessment.scores
    error = f"mean absolute error in {unit}" if unit else "mean absolute error"
    most = int(scores.table.labels.max())
    best = assessment.verdict.ranking.query("labels == @most").iloc[0]
    of_best = scores.table[["features", "model", "labels"]].eq([best.features, best.model, most]).all(axis=1).to_numpy()
    found: list[Drawing] = []
    if scores.table.labels.nunique() > 1:
        caption = "error on test crystals against the number of labels; median and middle half of the draws"
        found.append((caption, plots.learning_curves(scores.table, error=error)))
    caption = f"every method at {most:,} labels; each draw, their median and middle half"
    found.append((caption, plots.errors_of_methods(scores.table, labels=most, error=error)))
    caption = "pre-trained vectors against their untrained twins, draw by draw; below zero, it helped"
    found.append((caption, plots.paired_differences(scores.table, VECTORS)))
    method = f"the best method, {best.features} with {best.model}, at {most:,} labels"
    caption = f"predictions of {method}, against measurements; a mean over draws"
    means = scores.predictions[of_best].mean(axis=0)
    found.append((caption, plots.predicted_and_measured(scores.measured, means, quantity=unit)))
    return [(f"{assessment.title}: {caption}.", figure) for caption, figure in found]


def tables(assessment: Assessment, unit: str = "") -> list[Table]:
    """The tables of an assessment, with the name of its property in their captions."""
    found = (ranking_table(assessment.verdict, unit=unit), comparison_table(assessment.verdict))
    return [(f"{assessment.title}. {caption}", table) for caption, table in found]


def report_assessment(
    assessment: Assessment, out: str | Path, *, unit: str = "", facts: Mapping[str, object] | None = None
) -> Path:
    """Write `report.html`, `results.parquet`, `ranking.csv`, `comparison.csv` and the figures to a folder.

    Args:
        assessment: What `assess` found.
        out: The folder; files of an earlier report there are replaced or removed.
        unit: Unit of the property.
        facts: Further entries of the list of facts in the report, by name.

    Returns:
        The path of the page.
    """
    (out := Path(out)).mkdir(parents=True, exist_ok=True)
    assessment.scores.table.to_parquet(out / "results.parquet")
    assessment.verdict.ranking.to_csv(out / "ranking.csv", index=False)
    assessment.verdict.comparison.to_csv(out / "comparison.csv", index=False)
    drawn = figures(assessment, unit)
    for left_over in out.glob("figure_[0-9].*"):  # of a report with more figures
        left_over.unlink()
    for number, (_, figure) in enumerate(drawn, 1):
        (out / f"figure_{number}.svg").write_text(plots.svg(figure, f"figure{number}"), encoding="utf-8")
        figure.savefig(out / f"figure_{number}.png", dpi=150)
    return write_report(
        out / "report.html",
        f"Few-label prediction of {assessment.target}",
        assessment.verdict,
        tables=tables(assessment, unit),
        figures=drawn,
        facts={"crystalmax": __version__, **(facts or {})},
    )
