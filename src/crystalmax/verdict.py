"""What scores mean: did pre-training help on these labels, and which method should the user take?

The draws of one evaluation share test rows, and large draws share labels, so they are no independent repeats and a
plain paired test over draws claims too much. A difference counts only if it stands against both of these:

* Other labels and other test rows. Draws that each take the share s of one pool vary by 1 - s of what fresh labels
  would, and have the share s in common; hence a variance of V (s + (1 - s) / draws) with V = variance between draws
  / (1 - s). This is the correction of Nadeau and Bengio (DOI 10.1023/A:1024068626366) with the overlap of the labels as
  correlation, and the delete-d jackknife. V is not allowed to grow with the number of labels: where s is near 1, the
  variance between draws is the noise of the model rather than of the labels. To this the variance between test rows
  is added, divided by their number; degrees of freedom after Welch and Satterthwaite, budgets after Bonferroni.
* Other seeds. The variance between the untrained twins times (1 + 1 / twins), as the pre-trained network had one seed
  too. Seeds favour a network at all budgets or at none, so that budgets need no correction here. With a single twin
  this cannot be tested.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from crystalmax.evaluation import TRIVIAL, Scores

Outcome = Literal["helped", "no difference", "hurt", "mixed"]

LEVEL = 0.05
"""Chance of an unfounded claim over all budgets together."""

TIE = 1e-9
"""Relative differences smaller than this are ties."""

_RESAMPLES = 1000


class Method(NamedTuple):
    """A model on a feature set."""

    features: str
    model: str

    def __str__(self) -> str:
        return f"{self.features} with {self.model}"


class Difference(NamedTuple):
    """Relative difference of the mean absolute error, negative where ours is lower, with interval and p value."""

    relative: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Verdict:
    """The answer in two sentences, and the tables behind it.

    Attributes:
        outcome: Whether pre-training helped on these data.
        sentence: The same in words.
        advice: Which method to take.
        comparison: Pre-trained against untrained, a row for each budget and model; see `compare`.
        ranking: Every method at every budget; see `rank`.
    """

    outcome: Outcome
    sentence: str
    advice: str
    comparison: pd.DataFrame
    ranking: pd.DataFrame


def rank(scores: Scores) -> pd.DataFrame:
    """Median and quartiles of the error of each method at each budget, best first within a budget."""
    by_method = scores.table.groupby(["labels", "features", "kind", "model"], sort=True).mae
    quantiles = {"q1": by_method.quantile(0.25), "median": by_method.median(), "q3": by_method.quantile(0.75)}
    table = pd.DataFrame(quantiles).reset_index()
    return table.sort_values(["labels", "median", "features", "model"], ignore_index=True)


def compare(scores: Scores, pretrained: str | None = None) -> pd.DataFrame:
    """Pre-trained vectors against the mean over their untrained twins, draw by draw.

    One row for each budget and model, and one for each budget with the models together, which the verdict rests on.
    `relative` to `p` allow for every source of chance named at the top of this module; `ratio_low` and `ratio_high`
    resample draws and test rows, and `p_wilcoxon` takes draws as independent: both speak of these very vectors only.
    """
    ours = _of_kind(scores, "pretrained", pretrained)
    twins = sorted(scores.table.features[scores.table.kind == "untrained"].unique())
    if not twins:
        raise ValueError("no feature set of kind 'untrained'; score the untrained network too, best with several seeds")
    models = list(dict.fromkeys(scores.table.model[scores.table.features == ours]))
    parts = []
    for group in [[model] for model in models] + ([models] if len(models) > 1 else []):
        contenders = [[Method(features, model) for model in group] for features in (ours, *twins)]
        differences = _differences(scores, contenders)
        by_draw = pd.DataFrame([_by_draw(scores, contenders, labels) for labels in differences.labels])
        parts.append(pd.concat([differences, by_draw], axis=1).assign(model=group[0] if len(group) == 1 else "all"))
    columns = ["labels", "model", "error", "error_untrained"]
    table = pd.concat(parts).sort_values("labels", kind="stable", ignore_index=True)
    return table[columns + [column for column in table if column not in columns]]


def _of_kind(scores: Scores, kind: str, name: str | None) -> str:
    names = sorted(scores.table.features[scores.table.kind == kind].unique())
    if name is not None and name not in names:
        raise ValueError(f"{name!r} is no feature set of kind {kind!r}; there are: {', '.join(names) or 'none'}")
    if name is None and len(names) != 1:
        raise ValueError(
            f"expected one feature set of kind {kind!r}, found {len(names)}: {names}; name the one to judge"
        )
    return name or str(names[0])


def _by_draw(scores: Scores, contenders: Sequence[Sequence[Method]], labels: int) -> dict[str, float]:
    """What is seen draw by draw, without regard to seeds and to what the draws share."""
    relative = _relative_errors(scores, contenders, labels)
    difference = relative[0].mean(axis=1) - relative[1:].mean(axis=(0, 2))
    low, high = _resampled(relative)
    error, *untrained = (
        np.mean([scores.errors(method.features, method.model, labels).mean(axis=1) for method in methods], axis=0)
        for methods in contenders
    )
    return {
        "error": float(np.median(error)),
        "error_untrained": float(np.median(np.mean(untrained, axis=0))),
        "ratio_low": low,
        "ratio_high": high,
        "p_wilcoxon": float(stats.wilcoxon(difference).pvalue) if np.abs(difference).max() > TIE else 1.0,
        "wins": int((difference < -TIE).sum()),
        "ties": int((np.abs(difference) <= TIE).sum()),
        "losses": int((difference > TIE).sum()),
    }


def _relative_errors(
    scores: Scores, contenders: Sequence[Sequence[Method]], labels: int
) -> Float[np.ndarray, "contenders draws tested"]:
    """Errors of each contender over the mean error of all but the first, averaged over the methods of a contender."""
    of_methods = []
    for methods in zip(*contenders, strict=True):
        errors = np.stack([scores.errors(method.features, method.model, labels) for method in methods])
        of_methods.append(errors / errors[1:].mean())
    average: Float[np.ndarray, "contenders draws tested"] = np.mean(of_methods, axis=0)
    return average


def _differences(scores: Scores, contenders: Sequence[Sequence[Method]]) -> pd.DataFrame:
    """The first contender against the mean of the others, with all that chance may have done: a row for each budget."""
    rows = []
    between_labels = np.inf
    budgets = sorted(scores.table.labels.unique().tolist())
    for labels in budgets:
        share = labels / float(scores.table.pool[scores.table.labels == labels].iloc[0])
        relative = _relative_errors(scores, contenders, labels)
        paired, rivals = relative[0] - relative[1:].mean(axis=0), relative[1:].mean(axis=(1, 2))
        n_draws, n_tested = paired.shape
        between_labels = min(between_labels, paired.mean(axis=1).var(ddof=1) / (1 - share))
        labels_and_rows = [
            (between_labels * (share + (1 - share) / n_draws), n_draws - 1),
            (paired.mean(axis=0).var(ddof=1) / n_tested, n_tested - 1),
        ]
        mean = float(paired.mean())
        found = _difference(mean, labels_and_rows, len(budgets))
        if len(rivals) > 1:
            by_seed = _difference(mean, [(rivals.var(ddof=1) * (1 + 1 / len(rivals)), len(rivals) - 1)], 1)
            found = Difference(
                mean, min(found.low, by_seed.low), max(found.high, by_seed.high), max(found.p, by_seed.p)
            )
        rows.append({"labels": labels, **found._asdict()})
    return pd.DataFrame(rows)


def _difference(mean: float, chance: Sequence[tuple[float, int]], n_tests: int) -> Difference:
    """A mean with its interval and p value, given independent variances and the degrees of freedom of each."""
    variance = float(sum(part for part, _ in chance))
    if variance < TIE**2:
        return Difference(mean, mean, mean, 1.0 if abs(mean) < TIE else 0.0)
    degrees = variance**2 / sum(part**2 / freedom for part, freedom in chance)
    reach = float(stats.t.ppf(1 - LEVEL / n_tests / 2, degrees)) * variance**0.5
    p = n_tests * float(2 * stats.t.sf(abs(mean) / variance**0.5, degrees))
    return Difference(mean, max(mean - reach, -1.0), mean + reach, min(p, 1.0))


def _resampled(relative: Float[np.ndarray, "contenders draws tested"]) -> tuple[float, float]:
    """95 % interval of the ratio of errors when draws and test rows are drawn again, with replacement."""
    rng = np.random.default_rng(0)
    _, n_draws, n_tested = relative.shape
    draws = rng.multinomial(n_draws, np.full(n_draws, 1 / n_draws), _RESAMPLES)
    tested = rng.multinomial(n_tested, np.full(n_tested, 1 / n_tested), _RESAMPLES)
    ours, theirs = (((draws @ errors) * tested).sum(axis=1) for errors in (relative[0], relative[1:].mean(axis=0)))
    low, high = np.quantile(ours / theirs, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def verdict(scores: Scores, pretrained: str | None = None, *, unit: str = "") -> Verdict:
    """Judge pre-training by the models together, and name the method to take.

    A budget counts as helped or hurt where its difference stands against chance; see the top of this module.
    """
    comparison, ranking = compare(scores, pretrained), rank(scores)
    together = comparison.groupby("labels", as_index=False).last()
    outcome, claims = _outcome(together)
    return Verdict(outcome, _sentence(outcome, claims, together), _advice(scores, ranking, unit), comparison, ranking)


def _outcome(differences: pd.DataFrame) -> tuple[Outcome, pd.DataFrame]:
    """What the budgets say together, and those whose difference stands against chance."""
    claims = differences[differences.p < LEVEL]
    helped, hurt = bool((claims.relative < 0).any()), bool((claims.relative > 0).any())
    if helped and hurt:
        return "mixed", claims
    return "helped" if helped else "hurt" if hurt else "no difference", claims


def _sentence(outcome: Outcome, claims: pd.DataFrame, together: pd.DataFrame) -> str:
    if outcome == "no difference":
        return (
            "Pre-training made no difference that these labels can show: compared with the same network untrained, "
            f"{_amount(together.low.min())} to {_amount(together.high.max())} error would fit what was seen."
        )
    silent = [f"{labels:,}" for labels in together.labels if labels not in set(claims.labels)]
    rest = f"; at {_listed(silent)} labels no difference shows" if silent else ""
    verb = "helped with some numbers of labels and hurt with others" if outcome == "mixed" else outcome
    return f"Pre-training {verb}: compared with the same network untrained, the error is {_claimed(claims)}{rest}."


def _advice(scores: Scores, ranking: pd.DataFrame, unit: str) -> str:
    """Which method to take: the best, or the best plain one where the best is not better by more than chance."""
    best = _best(ranking[ranking.kind != "trivial"])
    if _outcome(_differences(scores, [[best], [Method(TRIVIAL, "median")]]))[0] != "helped":
        return (
            "No method predicts better than always answering the median of the labels: these data do not support a "
            "prediction of this property yet."
        )
    plain, learnt = ranking[ranking.kind == "baseline"], ranking[~ranking.kind.isin(["baseline", "trivial"])]
    if plain.empty or learnt.empty:
        return f"Use {best} ({_errors(ranking, best, unit)})."
    rival, vectors = _best(plain), _best(learnt)
    outcome, claims = _outcome(_differences(scores, [[vectors], [rival]]))
    if outcome == "helped":
        return (
            f"Use {vectors} ({_errors(ranking, vectors, unit)}): compared with the best without vectors, {rival}, the "
            f"error is {_claimed(claims)}."
        )
    reason = "no better beyond chance" if best == vectors else "worse" if outcome == "hurt" else "no better"
    return (
        f"Use {rival} ({_errors(ranking, rival, unit)}): the vectors do not help here; the best method with them, "
        f"{vectors}, is {reason} ({_errors(ranking, vectors, unit)})."
    )


def _best(ranking: pd.DataFrame) -> Method:
    """The method whose median error is lowest in geometric mean over the budgets."""
    score = np.log(ranking.set_index(["features", "model"])["median"]).groupby(level=[0, 1]).mean()
    return Method(*score.idxmin())


def _errors(ranking: pd.DataFrame, method: Method, unit: str) -> str:
    of_method = ranking[(ranking.features == method.features) & (ranking.model == method.model)]
    errors = " / ".join(f"{error:.3g}" for error in of_method["median"])
    budgets = " / ".join(f"{labels:,}" for labels in of_method.labels)
    return f"mean absolute error {errors}{unit and ' '}{unit} at {budgets} labels"


def _claimed(claims: pd.DataFrame) -> str:
    pairs = zip(claims.relative.tolist(), claims.labels.tolist(), strict=True)
    return _listed([f"{_amount(relative)} at {labels:,} labels" for relative, labels in pairs])


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _amount(relative: float) -> str:
    size = f"{abs(relative) * 100:.0f} %" if abs(relative) >= 0.01 else f"{abs(relative) * 100:.1f} %"
    return f"{size} {'lower' if relative < 0 else 'higher'}"
