"""What scores mean: did pre-training help on these labels, and which method should the user take?

The draws of one evaluation share test rows, and large draws share labels, so they are no independent repeats and a
plain paired test over draws claims too much. A difference counts only if it stands against both of these:

* Other labels and other test rows. Draws that each take the share s of one pool vary by 1 - s of what fresh labels
  would, and have the share s in common; hence a variance of V (s + (1 - s) / draws) with V = variance between draws
  / (1 - s). This is the correction of Nadeau and Bengio (DOI 10.1023/A:1024068626366) with the overlap of the labels as
  correlation, and the delete-d jackknife. V is not allowed to grow with the number of labels: where s is near 1, the
  variance between draws is the noise of the model rather than of the labels. To this the variance between test rows
  is added, divided by their number, where rows of one group, such as polymorphs, count together since they err alike;
  degrees of freedom after Welch and Satterthwaite, budgets after Bonferroni.
* Other seeds. The variance between the untrained twins times (1 + 1 / twins), as the pre-trained network had one seed
  too. Seeds favour a network at all budgets or at none, so that budgets need no correction here. With a single twin
  this cannot be tested. Two pre-trained networks may differ by twice the variance between the untrained ones.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import stats

from crystalmax.judging.evaluation import TRIVIAL, Scores

Outcome = Literal["helped", "no difference", "hurt", "mixed"]

LEVEL = 0.05
"""Probability of a false claim, over all budgets together."""

TIE = 1e-9
"""Relative differences smaller than this are ties."""

_RESAMPLES = 1000


class Method(NamedTuple):
    """A model on a feature set."""

    features: str
    model: str

    def __str__(self) -> str:
        return f"{self.features} with {self.model}"


@dataclass(frozen=True)
class Verdict:
    """The answer as a word, in a sentence and as advice which method to take; the tables of `compare` and `rank`."""

    outcome: Outcome
    sentence: str
    advice: str
    comparison: pd.DataFrame
    ranking: pd.DataFrame


def rank(scores: Scores) -> pd.DataFrame:
    """Median and quartiles of the error of each method at each budget, best first within a budget."""
    by_method = scores.table.groupby(["labels", "features", "kind", "model"]).mae
    quartiles = by_method.quantile(np.array([0.25, 0.5, 0.75])).unstack().set_axis(["q1", "median", "q3"], axis=1)
    return quartiles.reset_index().sort_values(["labels", "median", "features", "model"], ignore_index=True)


def compare(scores: Scores, pretrained: str) -> pd.DataFrame:
    """Pre-trained vectors of this name against the mean over their untrained twins, draw by draw.

    One row for each budget and model, and one for each budget with the models together, which the verdict rests on.
    `relative` to `p` allow for every source of chance named at the top of this module. `ratio_low` and `ratio_high`
    come from resampled draws and groups of test rows, and `p_wilcoxon` takes draws as independent: both hold for these
    vectors only, not for other seeds.

    Raises:
        ValueError: No feature set of this name is pre-trained, none is untrained, or only one formula is tested.
    """
    names, kinds = scores.table.features, scores.table.kind
    if pretrained not in set(names[kinds == "pretrained"]):
        raise ValueError(f"{pretrained!r} is no feature set of kind 'pretrained'; score it, or name another")
    twins = sorted(names[kinds == "untrained"].unique())
    if not twins:
        raise ValueError("no feature set of kind 'untrained'; score the untrained network too, best with several seeds")
    models = scores.table.model[names == pretrained].unique().tolist()
    groups = {model: [model] for model in models} | ({"all": models} if len(models) > 1 else {})
    parts = {
        name: _differences(scores, [[Method(features, model) for model in group] for features in (pretrained, *twins)])
        for name, group in groups.items()
    }
    table: pd.DataFrame = pd.concat(parts, names=["model", None]).reset_index("model")
    return table.sort_values("labels", kind="stable", ignore_index=True)


def against(scores: Scores, pretrained: str, others: Sequence[str]) -> str:
    """A sentence that compares vectors with other pre-trained ones; p values are corrected for their number, too."""
    models = scores.table.model[scores.table.features == pretrained].unique()
    twins = sorted(scores.table.features[scores.table.kind == "untrained"].unique())
    said = []
    for other in others:
        ours, theirs, *seeds = ([Method(name, model) for model in models] for name in (pretrained, other, *twins))
        found = _differences(scores, [ours, theirs], seeds)
        claims = _outcome(found.assign(p=len(others) * found.p))[1]
        said.append(f"{f'the error is {_claimed(claims)}' if len(claims) else 'no difference shows'} beside {other}")
    return f"Of vectors that are pre-trained, too: {'; '.join(said)}." if said else ""


def _differences(
    scores: Scores, contenders: Sequence[list[Method]], twins: Sequence[list[Method]] = ()
) -> pd.DataFrame:
    """The first contender against the mean of the others; the spread over twins, or the others, is that of seeds."""
    compared, end = (*contenders, *twins), len(contenders)
    rows = []
    between_labels = np.inf
    groups = np.unique(scores.tested if scores.groups is None else scores.groups, return_inverse=True)[1]
    if not groups.any():
        raise ValueError("all that is tested has one formula, so nothing can be told from chance; give more formulas")
    budgets = sorted(scores.table.labels.unique().tolist())
    for labels in budgets:
        errors = np.array([[scores.errors(*method, labels) for method in methods] for methods in compared])
        of_draws = errors[:end].mean(axis=(1, 3))
        # In units of what the others make on average, so that every method of a contender counts the same.
        relative = (errors / errors[1:end].mean(axis=(0, 2, 3), keepdims=True)).mean(axis=1)
        relative, seeds = relative[:end], relative[end if twins else 1 :]
        paired = relative[0] - relative[1:].mean(axis=0)
        differences = paired.mean(axis=1)
        differences[np.abs(differences) < TIE] = 0
        share = labels / float(scores.table.pool[scores.table.labels == labels].iloc[0])
        between_labels = min(between_labels, differences.var(ddof=1) / (1 - share))
        row = {
            "labels": labels,
            "error": np.median(of_draws[0]),
            "error_untrained": np.median(of_draws[1:].mean(axis=0)),
            **_against_chance(relative, seeds, groups, between_labels, share, len(budgets)),
            "p_wilcoxon": stats.wilcoxon(differences).pvalue if differences.any() else 1.0,
            "wins": (differences < 0).sum(),
            "ties": (differences == 0).sum(),
            "losses": (differences > 0).sum(),
        }
        row["ratio_low"], row["ratio_high"] = _resampled(_sums(relative, groups))
        rows.append(row)
    return pd.DataFrame(rows)


def _against_chance(
    relative: Float[np.ndarray, "contenders draws tested"],
    seeds: Float[np.ndarray, "seeds draws tested"],
    groups: Int[np.ndarray, " tested"],
    between_labels: float,
    share: float,
    n_budgets: int,
) -> dict[str, float]:
    """Relative difference, negative where the first errs less, its interval and p value; see the top of this module."""
    paired, of_seeds = relative[0] - relative[1:].mean(axis=0), seeds.mean(axis=(1, 2))
    n_draws, n_tested = paired.shape
    mean = float(paired.mean())
    of_labels = between_labels * (share + (1 - share) / n_draws)
    apart = _sums(paired.mean(axis=0) - mean, groups)
    of_rows = float(apart @ apart) / n_tested**2 * len(apart) / (len(apart) - 1)
    tests = [_t_test(mean, [(of_labels, n_draws - 1), (of_rows, len(apart) - 1)], n_budgets)]
    if len(seeds) > 1:
        tests.append(_t_test(mean, [(of_seeds.var(ddof=1) * (1 + 1 / len(relative[1:])), len(seeds) - 1)], 1))
    reach, p = (max(values) for values in zip(*tests, strict=True))
    return {"relative": mean, "low": max(mean - reach, -1.0), "high": mean + reach, "p": p}


def _sums(
    values: Float[np.ndarray, "*of tested"], groups: Int[np.ndarray, " tested"]
) -> Float[np.ndarray, "*of groups"]:
    """Sums over the tested rows of each group."""
    sums = np.zeros((*values.shape[:-1], int(groups.max()) + 1))
    np.add.at(sums.T, groups, values.T)
    return sums


def _t_test(mean: float, chance: Sequence[tuple[float, int]], n_tests: int) -> tuple[float, float]:
    """Half the width of the interval, and p, of a mean with these independent variances and degrees of freedom."""
    variance = float(sum(part for part, _ in chance))
    if variance < TIE**2:
        return 0.0, float(abs(mean) < TIE)
    degrees = variance**2 / sum(part**2 / freedom for part, freedom in chance)
    reach = float(stats.t.ppf(1 - LEVEL / n_tests / 2, degrees)) * variance**0.5
    return reach, min(n_tests * float(2 * stats.t.sf(abs(mean) / variance**0.5, degrees)), 1.0)


def _resampled(relative: Float[np.ndarray, "contenders draws groups"]) -> tuple[float, float]:
    """95 % interval of the ratio of errors when draws and groups of test rows are drawn again, with replacement."""
    rng = np.random.default_rng(0)
    draws, tested = (rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES) for n in relative.shape[1:])
    ours, theirs = (((draws @ errors) * tested).sum(axis=1) for errors in (relative[0], relative[1:].mean(axis=0)))
    low, high = np.quantile(np.maximum(ours, TIE) / np.maximum(theirs, TIE), [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def verdict(scores: Scores, pretrained: str, *, unit: str = "", composition: Collection[str] = ()) -> Verdict:
    """Judge pre-training by the models together, and name the method to take.

    A budget counts as helped or hurt where its difference stands against chance; see the top of this module. Feature
    sets named in `composition` know nothing of structure; with them, the advice says whether structure helps.

    Raises:
        ValueError: There is one draw only, or what `compare` needs is missing.
    """
    if scores.table.draw.nunique() < 2:
        raise ValueError("one draw cannot tell a difference from chance; give a plan with more")
    comparison, ranking = compare(scores, pretrained), rank(scores)
    together = comparison.groupby("labels", as_index=False).last()
    outcome, claims = _outcome(together)
    return Verdict(
        outcome, _sentence(outcome, claims, together), _advice(scores, ranking, unit, composition), comparison, ranking
    )


def _outcome(differences: pd.DataFrame) -> tuple[Outcome, pd.DataFrame]:
    """The outcome over all budgets, and the budgets whose difference is significant."""
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


def _advice(scores: Scores, ranking: pd.DataFrame, unit: str, composition: Collection[str]) -> str:
    """Which method to use: the best, or the best without vectors if vectors are not significantly better."""
    best, median = _best(ranking, "pretrained", "joint", "baseline", "untrained"), Method(TRIVIAL, "median")
    if _outcome(_differences(scores, [[best], [median]]))[0] != "helped":
        return (
            "No method is better by more than chance than always answering the median of the labels "
            f"({_errors(ranking, median, unit)}): these data do not support a prediction of this property yet "
            f"(the best of the methods: {best}, {_errors(ranking, best, unit)})."
        )
    vectors = _best(ranking, "pretrained", "joint")
    advice = f"Use {vectors} ({_errors(ranking, vectors, unit)})"
    if (ranking.kind == "baseline").any():
        rival, remark = _plain(scores, ranking, unit, composition)
        outcome, claims = _outcome(_differences(scores, [[vectors], [rival]]))
        if outcome == "helped":
            advice += f": compared with the best without vectors, {rival}, the error is {_claimed(claims)}"
        else:
            gain, verb = ("help", "worse") if outcome == "hurt" else ("clearly help", "no better by more than chance")
            advice = (
                f"Use {rival} ({_errors(ranking, rival, unit)}): the vectors do not {gain} here; the best method "
                f"with them, {vectors}, is {verb} ({_errors(ranking, vectors, unit)}){remark}"
            )
    if best == _best(ranking, "untrained"):
        advice += (
            f". The lowest error of all is that of a network without training, {best} ({_errors(ranking, best, unit)})"
        )
    return f"{advice}."


def _plain(scores: Scores, ranking: pd.DataFrame, unit: str, composition: Collection[str]) -> tuple[Method, str]:
    """The best method without vectors, and in words whether it is clearly better than composition alone."""
    best, alone = _best(ranking, "baseline"), ranking[ranking.features.isin(composition)]
    if alone.empty:
        return best, ""
    simple = _best(alone, "baseline")
    if simple == best:
        return best, ". Structure does not help here: no method without vectors that knows it is better"
    if _outcome(_differences(scores, [[best], [simple]]))[0] == "helped":
        return best, ""
    return best, (
        f". Structure does not clearly help here: composition alone, {simple}, is worse by no more than chance "
        f"({_errors(ranking, simple, unit)})"
    )


def _best(ranking: pd.DataFrame, *kinds: str) -> Method:
    """The method of these kinds whose median error is lowest in geometric mean over the budgets."""
    of_kinds = ranking[ranking.kind.isin(kinds)].set_index(["features", "model"])["median"]
    return Method(*np.log(of_kinds).groupby(level=[0, 1]).mean().idxmin())


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
