from collections import defaultdict
from dataclasses import replace
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import parallel_config
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crystalmax.few_labels.powers import unit_of
from crystalmax.few_labels.small_data import SmallDataRegressor
from crystalmax.judging.evaluation import (
    TRIVIAL,
    FeatureSet,
    LabelBudgets,
    Plan,
    RepeatedFolds,
    Scores,
    default_models,
    evaluate,
    plan_for,
)
from crystalmax.judging.verdict import (
    Method,
    _amount,
    _best,
    _differences,
    _outcome,
    _sentence,
    against,
    compare,
    rank,
    verdict,
)

RIDGE = {"ridge": Ridge(1.0)}
BUDGETS = LabelBudgets((25, 100), n_draws=8)


def planted(seed, *, pretrained=1.0, untrained=1.0, n_rows=200):
    """Networks that see a hidden truth through noise: the less noise, the better the vectors. All else is alike."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n_rows, 4))
    y = truth @ rng.normal(size=4) + 0.2 * rng.normal(size=n_rows)

    def network(noise):
        return truth @ rng.normal(size=(4, 64)) + 6 * noise * rng.normal(size=(n_rows, 64))

    features = {f"untrained {i}": FeatureSet(network(untrained), "untrained") for i in range(3)}
    return {**features, "vectors": FeatureSet(network(pretrained), "pretrained")}, y


class Recorder(RegressorMixin, BaseEstimator):
    """A regressor that remembers what it was given."""

    seen: ClassVar = defaultdict(list)

    def __init__(self, name="a"):
        self.name = name

    def fit(self, X, y):
        self.seen[self.name].append((X.copy(), y.copy()))
        self.fitted_ = True
        return self

    def predict(self, X):
        return np.zeros(len(X))


@pytest.mark.parametrize("plan", [BUDGETS, RepeatedFolds(4, n_draws=3)])
def test_every_method_gets_the_same_labels_and_test_rows_never_reach_the_scaling(plan):
    Recorder.seen.clear()
    y = np.random.default_rng(0).permutation(150).astype(float)
    values = np.stack([np.arange(150.0), 3 * np.arange(150.0) + 5], axis=1)
    features = {"one": FeatureSet(values, "baseline"), "other": FeatureSet(values[:, :1], "baseline")}
    evaluate(features, y, models={"a": Recorder("a"), "b": Recorder("b")}, plan=plan)
    parts = [part for draw in reversed(plan.draws(np.arange(150))) for part in draw.parts]
    expected = [train for train, _ in parts for _ in features]
    for name in "ab":
        assert len(Recorder.seen[name]) == len(expected)
        for (train_values, labels), train in zip(Recorder.seen[name], expected, strict=True):
            np.testing.assert_array_equal(labels, y[train])
            # Mean 0 and deviation 1 over the labelled rows alone: a test row in the fit would move both.
            np.testing.assert_allclose(train_values.mean(axis=0), 0, atol=1e-9)
            np.testing.assert_allclose(train_values.std(axis=0), 1)


@settings(max_examples=30, deadline=None)
@given(n_rows=st.integers(80, 300), n_groups=st.integers(40, 80), seed=st.integers(0, 999))
def test_groups_and_rows_stay_on_one_side(n_rows, n_groups, seed):
    groups = np.unique(np.random.default_rng(seed).integers(0, n_groups, n_rows), return_inverse=True)[1]
    for plan in (LabelBudgets((10, 30), n_draws=3, seed=seed), RepeatedFolds(5, n_draws=2, seed=seed)):
        draws = plan.draws(groups)
        tested = [np.sort(np.concatenate([test for _, test in draw.parts])) for draw in draws]
        assert all(np.array_equal(tested[0], rows) for rows in tested)
        for draw in draws:
            for train, test in draw.parts:
                assert not set(groups[train]) & set(groups[test])
                assert min(len(train), len(test)) > 0


def test_budgets_are_nested_paired_and_dropped_when_labels_run_out():
    draws = LabelBudgets((10, 40, 79, 80, 500), n_draws=3).draws(np.arange(100))
    assert sorted({draw.labels for draw in draws}) == [10, 40, 79]
    labels = {(draw.labels, draw.number): draw.parts[0][0] for draw in draws}
    assert all(len(rows) == budget == len(set(rows)) for (budget, _), rows in labels.items())
    assert set(labels[10, 1]) < set(labels[40, 1])
    assert set(labels[40, 0]) != set(labels[40, 1])
    assert len(draws[0].parts[0][1]) == 20


def test_plans_follow_the_number_of_labels():
    assert isinstance(plan_for(46), RepeatedFolds)
    assert isinstance(plan_for(1000, seed=3), LabelBudgets)
    assert isinstance(plan_for(46), Plan)


def test_scores_are_the_same_with_any_number_of_workers():
    features, y = planted(0, n_rows=50)
    models = {"ridge": default_models()["ridge"], "trees": ExtraTreesRegressor(3)}
    with parallel_config("threading"):  # threads start at once; the tests of the command line take processes
        first, second, other = (
            evaluate(features, y, models=models, plan=RepeatedFolds(2, n_draws=3, seed=seed), n_jobs=n_jobs).table
            for seed, n_jobs in [(0, 1), (0, 3), (1, 1)]
        )
    assert first.to_csv(index=False) == second.to_csv(index=False)
    assert (first.mae != other.mae).any()


def test_the_table_is_tidy_and_agrees_with_the_predictions():
    features, y = planted(1)
    scores = evaluate(features, y, models=RIDGE, plan=BUDGETS)
    assert len(scores.table) == (4 + 1) * 2 * 8 == len(scores.predictions)
    assert not scores.table.duplicated(["features", "model", "labels", "draw"]).any()
    np.testing.assert_allclose(scores.table.mae, np.abs(scores.predictions - y[scores.tested]).mean(axis=1))
    of_method = scores.table.query("features == 'vectors' and labels == 100").mae
    np.testing.assert_allclose(scores.errors("vectors", "ridge", 100).mean(axis=1), of_method)
    draw = next(d for d in BUDGETS.draws(np.arange(200)) if d.labels == 100 and d.number == 5)
    trivial = scores.table.query(f"features == '{TRIVIAL}' and labels == 100 and draw == 5").mae.item()
    train, test = draw.parts[0]
    assert trivial == pytest.approx(np.abs(y[test] - np.median(y[train])).mean())


def test_ranking_holds_medians_and_quartiles():
    features, y = planted(2)
    scores = evaluate(features, y, models=RIDGE, plan=BUDGETS)
    ranking = rank(scores)
    row = ranking.query("features == 'vectors' and labels == 25").iloc[0]
    expected = scores.table.query("features == 'vectors' and labels == 25").mae.quantile([0.25, 0.5, 0.75])
    np.testing.assert_allclose([row.q1, row["median"], row.q3], expected)
    assert all(of_budget["median"].is_monotonic_increasing for _, of_budget in ranking.groupby("labels"))


@pytest.mark.parametrize(("ours", "theirs", "outcome"), [(0.1, 1.0, "helped"), (1.0, 0.1, "hurt")])
@pytest.mark.parametrize("plan", [BUDGETS, RepeatedFolds(3, n_draws=6)])
def test_a_planted_difference_is_found(plan, ours, theirs, outcome):
    features, y = planted(3, pretrained=ours, untrained=theirs)
    found = verdict(evaluate(features, y, models=RIDGE, plan=plan), "vectors")
    assert found.outcome == outcome
    assert f"Pre-training {outcome}:" in found.sentence
    assert ("lower" if outcome == "helped" else "higher") in found.sentence


def test_help_with_few_labels_and_harm_with_many_is_called_both():
    features, y = planted(4)
    scores = evaluate(features, y, models=RIDGE, plan=BUDGETS)
    ours = (scores.table.features == "vectors").to_numpy()
    few = (scores.table.labels == 25).to_numpy()
    predictions = scores.predictions.copy()
    measured = scores.measured
    predictions[ours & few] = measured + 0.1 * (predictions[ours & few] - measured)
    predictions[ours & ~few] = measured + 10 * (predictions[ours & ~few] - measured)
    found = verdict(Scores(scores.table, predictions, scores.tested, measured), "vectors")
    assert found.outcome == "mixed"
    assert "Pre-training helped with some numbers of labels and hurt with others: " in found.sentence
    assert "lower at 25 labels and" in found.sentence


def test_identical_vectors_make_no_difference():
    features, y = planted(5)
    same = {name: FeatureSet(features["vectors"].values, s.kind) for name, s in features.items()}
    found = verdict(evaluate(same, y, models=RIDGE, plan=BUDGETS), "vectors")
    assert found.outcome == "no difference"
    assert (found.comparison.ties == 8).all()
    assert (found.comparison[["p", "p_wilcoxon"]] == 1).all(axis=None)
    np.testing.assert_allclose(found.comparison.relative, 0, atol=1e-12)


def drawn_scores(seed, *, effect=1.0, seed_spread=0.03):
    """Errors of four networks that differ by their seed only, and of which the first may have a true advantage."""
    rng = np.random.default_rng(seed)
    names = ["vectors", *(f"untrained {i}" for i in range(3))]
    budgets, n_draws, n_tested, pool = (20, 40, 60), 8, 40, 80
    columns = {"model": "ridge", "pool": pool, "seed": 0, "test": n_tested}
    rows, errors = [], []
    hardness = rng.gamma(2, size=n_tested)
    for name in names:
        of_network = (effect if name == "vectors" else 1) * np.exp(rng.normal(scale=seed_spread))
        of_rows = np.exp(rng.normal(scale=0.3, size=n_tested))
        of_labels = rng.normal(scale=0.3, size=pool)
        for labels in budgets:
            for draw in range(n_draws):
                taken = np.random.default_rng([seed, draw]).permutation(pool)[:labels]
                kind = "pretrained" if name == "vectors" else "untrained"
                rows.append({"features": name, "kind": kind, "labels": labels, "draw": draw, **columns})
                errors.append(of_network * hardness * of_rows * np.exp(of_labels[taken].mean()))
    errors = np.array(errors)
    table = pd.DataFrame(rows).assign(mae=errors.mean(axis=1))
    return Scores(table, errors, np.arange(n_tested), np.zeros(n_tested))


def test_a_network_like_its_twins_is_seldom_said_to_differ():
    comparisons = [compare(drawn_scores(seed), "vectors") for seed in range(20)]
    assert sum((found.p < 0.05).any() for found in comparisons) <= 2
    # The test that takes draws for independent repeats is fooled far more often, which is why it decides nothing.
    assert sum((found.p_wilcoxon < 0.05).any() for found in comparisons) > 10


def test_crystals_of_one_formula_that_err_alike_count_once():
    scores = drawn_scores(3, effect=0.8, seed_spread=0.0)
    thrice, n_tested = np.repeat(scores.predictions, 3, axis=1), 3 * len(scores.tested)
    formulas = np.repeat(scores.tested, 3)
    again = Scores(scores.table, thrice, np.arange(n_tested), np.zeros(n_tested), formulas)
    pd.testing.assert_frame_equal(compare(again, "vectors"), compare(scores, "vectors"))
    apart = replace(again, groups=None)
    assert (compare(apart, "vectors").p < compare(scores, "vectors").p).any(), "this would claim too much"


def test_one_formula_tells_nothing():
    scores = drawn_scores(3)
    alone = replace(scores, groups=np.zeros(len(scores.tested), dtype=int))
    with pytest.raises(ValueError, match="all that is tested has one formula"):
        compare(alone, "vectors")


def test_scores_know_the_groups_of_what_was_tested():
    features, y = planted(6)
    names = [f"{row // 4}" for row in range(len(y))]
    scores = evaluate(features, y, models=RIDGE, plan=BUDGETS, groups=names)
    pairs = set(zip(np.array(names)[scores.tested], scores.groups, strict=True))
    assert len(pairs) == len(set(scores.groups)) < len(scores.tested)


def test_a_true_advantage_is_mostly_found():
    comparisons = [compare(drawn_scores(seed, effect=0.5), "vectors") for seed in range(10)]
    assert sum((found.p < 0.05).any() and (found.relative < 0).all() for found in comparisons) > 5


def test_comparison_is_paired_by_draw():
    features, y = planted(6, pretrained=0.1)
    scores = evaluate(features, y, models={**RIDGE, "stiff": Ridge(100.0)}, plan=BUDGETS)
    table = scores.table.query("model == 'ridge' and labels == 25").pivot(
        index="draw", columns="features", values="mae"
    )
    twins = table[[f"untrained {i}" for i in range(3)]].mean(axis=1)
    row = compare(scores, "vectors").query("model == 'ridge' and labels == 25").iloc[0]
    assert row.wins == (table.vectors < twins).sum()
    assert row.relative == pytest.approx(table.vectors.mean() / twins.mean() - 1)
    assert row.ratio_low < 1 + row.relative < row.ratio_high
    assert row.low < row.relative < row.high
    assert compare(scores, "vectors").model.tolist() == ["ridge", "stiff", "all"] * 2


def test_advice_names_the_plain_rival_that_wins():
    features, y = planted(7, pretrained=0.5)
    rival = FeatureSet(y[:, None] + 0.05 * np.random.default_rng(0).normal(size=(200, 1)), "baseline")
    found = verdict(evaluate({**features, "plain": rival}, y, models=RIDGE, plan=BUDGETS), "vectors", unit="eV")
    assert found.advice.startswith("Use plain with ridge (mean absolute error ")
    assert "eV at 25 / 100 labels" in found.advice
    assert "the vectors do not help here" in found.advice


@pytest.mark.parametrize(
    ("noise", "start", "words"),
    [
        (0.05, "Use structure with ridge", "the vectors do not help here"),
        (0.28, "Use structure with ridge", "Structure does not clearly help here: composition alone, composition with"),
        (0.9, "Use composition with ridge", "Structure does not help here: no method without vectors"),
    ],
)
def test_advice_says_whether_structure_helps(noise, start, words):
    features, y = planted(7, pretrained=1.0)
    rng = np.random.default_rng(0)
    known, other = rng.normal(size=(2, 200, 1))
    composition, structure = y[:, None] + 0.3 * known, y[:, None] + noise * other
    features |= {"composition": FeatureSet(composition, "baseline"), "structure": FeatureSet(structure, "baseline")}
    scores = evaluate(features, y, models=RIDGE, plan=BUDGETS)
    found = verdict(scores, "vectors", unit="eV", composition=("composition",))
    assert found.advice.startswith(start)
    assert words in found.advice
    assert "tructure does not" not in verdict(scores, "vectors", unit="eV").advice


def test_advice_names_the_vectors_that_win():
    features, y = planted(8, pretrained=0.1)
    rival = FeatureSet(np.random.default_rng(0).normal(size=(200, 3)), "baseline")
    found = verdict(evaluate({**features, "plain": rival}, y, models=RIDGE, plan=BUDGETS), "vectors")
    assert found.advice.startswith("Use vectors with ridge")
    assert "compared with the best without vectors, plain with ridge, the error is" in found.advice


def test_advice_says_so_when_an_untrained_network_is_best():
    features, y = planted(8, pretrained=0.5, untrained=0.1)
    rival = FeatureSet(np.random.default_rng(0).normal(size=(200, 3)), "baseline")
    found = verdict(evaluate({**features, "plain": rival}, y, models=RIDGE, plan=BUDGETS), "vectors")
    assert found.advice.startswith("Use vectors with ridge")
    assert "The lowest error of all is that of a network without training, untrained " in found.advice


@pytest.mark.parametrize("scale", [2.0**-70, 2.0**500, 2.0**1000])
def test_errors_of_very_small_or_large_labels_are_those_in_another_unit(scale):
    features, y = planted(6, pretrained=0.1)
    y = y / np.abs(y).max()
    few = {"vectors": features["vectors"]}
    usual, other = (evaluate(few, unit * y, plan=LabelBudgets((25,), n_draws=2)) for unit in (1, scale))
    np.testing.assert_array_equal(other.table.mae, usual.table.mae * scale)


def test_advice_admits_when_nothing_predicts():
    features, _ = planted(9)
    y = np.random.default_rng(1).normal(size=200)
    scores = evaluate(features, y, models=RIDGE, plan=BUDGETS)
    found, errors = verdict(scores, "vectors", unit="eV").advice, scores.table.query("kind == 'trivial'")
    few, more = (errors.mae[errors.labels == labels].median() for labels in (25, 100))
    told = f"the median of the labels (mean absolute error {few:.3g} / {more:.3g} eV at 25 / 100 labels): these data"
    assert f"No method is better by more than chance than always answering {told} do not" in found
    assert "(the best of the methods: " in found


def test_refusals_say_what_to_do():
    features, y = planted(10)
    with pytest.raises(ValueError, match="1 of 200 labels are missing or infinite; leave their rows out first"):
        evaluate(features, np.where(np.arange(200) == 3, np.nan, y))
    with pytest.raises(ValueError, match="'short' has 9 rows for 200 labels"):
        evaluate({"short": FeatureSet(np.zeros((9, 2)), "baseline")}, y)
    holey = np.zeros((200, 2))
    holey[7, 1] = np.nan
    with pytest.raises(ValueError, match="missing or infinite values in 1 rows, first in row 7"):
        evaluate({"holey": FeatureSet(holey, "baseline")}, y)
    for groups, said in ((["a"] * 9, "200 labels but 9 groups"), ([None, *"ab" * 100][:200], "label 0 has no group")):
        with pytest.raises(ValueError, match=said):
            evaluate(features, y, groups=groups)
    with pytest.raises(ValueError, match="give another name"):
        evaluate({TRIVIAL: features["vectors"]}, y)
    with pytest.raises(ValueError, match="24 labels remain beside the test split"):
        LabelBudgets().draws(np.arange(30))
    with pytest.raises(ValueError, match="5 distinct rows or groups leave no two to test"):
        LabelBudgets().draws(np.arange(200) % 5)
    with pytest.raises(ValueError, match="use fewer folds"):
        RepeatedFolds().draws(np.repeat([0, 1], 15))
    for plan in (LabelBudgets((25,), n_draws=0), RepeatedFolds(n_draws=0)):
        with pytest.raises(ValueError, match=r"n_draws=0.* has no draws; give a plan with one at least"):
            evaluate(features, y, models=RIDGE, plan=plan)
    for budgets in ((), (0, 25), (-3,)):
        with pytest.raises(ValueError, match=r"the budgets are \(.*\); give numbers of labels, each 1 at least"):
            LabelBudgets(budgets).draws(np.arange(200))
    for n_folds in (0, 1):
        with pytest.raises(ValueError, match=f"cannot be cut into {n_folds} folds; use fewer folds, but 2 at least"):
            RepeatedFolds(n_folds).draws(np.arange(200))
    lone = evaluate({"vectors": features["vectors"]}, y, models=RIDGE, plan=BUDGETS)
    with pytest.raises(ValueError, match="no feature set of kind 'untrained'"):
        compare(lone, "vectors")
    with pytest.raises(ValueError, match="'vector' is no feature set of kind 'pretrained'"):
        compare(lone, "vector")
    with pytest.raises(ValueError, match="one draw cannot tell a difference from chance"):
        verdict(evaluate(features, y, models=RIDGE, plan=RepeatedFolds(n_draws=1)), "vectors")


def test_scores_of_a_folded_plan_cover_every_row():
    features, y = planted(11, n_rows=46)
    scores = evaluate(features, y, models=RIDGE, plan=RepeatedFolds(n_draws=2))
    np.testing.assert_array_equal(scores.tested, np.arange(46))
    assert np.isfinite(scores.predictions).all()
    assert isinstance(scores.table, pd.DataFrame)
    assert scores.table.labels.unique().tolist() == [37]


@pytest.mark.parametrize("seed_spread", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(6))
def test_interval_and_p_are_those_of_the_equations(seed, seed_spread):
    scores, between = drawn_scores(seed, effect=0.8, seed_spread=seed_spread), np.inf
    noisy = (scores.table.labels == 60).to_numpy()  # of models, not of labels
    scores.predictions[noisy] *= np.random.default_rng(seed).uniform(0.2, 1.8, (noisy.sum(), 1))
    for row in compare(scores, "vectors").itertuples():
        errors = np.array([scores.errors(n, "ridge", row.labels) for n in scores.table.features.unique()])
        relative, share = errors / errors[1:].mean(), row.labels / 80
        paired = relative[0] - relative[1:].mean(axis=0)
        between = min(between, paired.mean(axis=1).var(ddof=1) / (1 - share))
        parts = np.array([between * (share + (1 - share) / 8), paired.mean(axis=0).var(ddof=1) / 40])
        seeds = relative[1:].mean(axis=(1, 2)).var(ddof=1) * (1 + 1 / 3)
        tests = [(parts.sum(), parts.sum() ** 2 / (parts**2 / [7, 39]).sum(), 3), (seeds, 2, 1)]
        p = max(min(n * 2 * stats.t.sf(abs(paired.mean()) / v**0.5, f), 1) for v, f, n in tests)
        reach = max(stats.t.ppf(1 - 0.05 / n / 2, f) * v**0.5 for v, f, n in tests)
        assert (row.p, row.low, row.high) == pytest.approx((p, max(paired.mean() - reach, -1), paired.mean() + reach))


@pytest.mark.parametrize("seed_spread", [0.0, 0.3])
def test_two_pretrained_networks_differ_by_twice_the_variance_of_seeds(seed_spread):
    scores = drawn_scores(1, effect=0.8, seed_spread=seed_spread)
    scores.table.loc[scores.table.features == "untrained 0", ["features", "kind"]] = ["rival", "pretrained"]
    names = ["vectors", "rival", "untrained 1", "untrained 2"]
    methods = [[Method(name, "ridge")] for name in names]
    for row in _differences(scores, methods[:2], methods[2:]).itertuples():
        errors = np.array([scores.errors(name, "ridge", row.labels) for name in names])
        relative = errors / errors[1].mean()
        seeds, mean = relative[2:].mean(axis=(1, 2)).var(ddof=1) * 2, (relative[0] - relative[1]).mean()
        alone = _differences(scores, methods[:2]).set_index("labels").p[row.labels]
        assert row.relative == pytest.approx(mean)
        assert row.p == pytest.approx(max(alone, 2 * stats.t.sf(abs(mean) / seeds**0.5, 1)))


def test_a_sentence_says_beside_whom_vectors_err_less_and_many_rivals_share_the_chance():
    scores = drawn_scores(2, effect=0.5, seed_spread=0.0)
    scores.table.loc[scores.table.features == "untrained 0", ["features", "kind"]] = ["rival", "pretrained"]
    said = against(scores, "vectors", ["rival"])
    assert said.startswith("Of vectors that are pre-trained, too: the error is 5"), said
    assert said.endswith(" lower at 60 labels beside rival."), said
    assert against(scores, "rival", ["rival"]).endswith("too: no difference shows beside rival.")
    assert against(scores, "vectors", []) == ""
    assert against(scores, "vectors", ["rival"] * 3).count("no difference shows beside rival") == 3


def test_models_count_alike_and_together_they_decide():
    features, y = planted(6, pretrained=0.5)
    scores = evaluate(features, y, models={"ridge": Ridge(1.0), "stiff": Ridge(1e6)}, plan=BUDGETS)
    ours = ((scores.table.features == "vectors") & (scores.table.model == "stiff")).to_numpy()
    scores.predictions[ours] = scores.measured + 3 * (scores.predictions[ours] - scores.measured)
    found = verdict(scores, "vectors")
    for _, of_budget in found.comparison.groupby("labels"):
        relative = of_budget.set_index("model").relative
        assert relative["ridge"] < 0 < relative["all"] == pytest.approx((relative["ridge"] + relative["stiff"]) / 2)
    assert found.outcome == "hurt"


def test_errors_are_medians_over_draws_of_ours_and_of_the_mean_of_twins():
    scores = drawn_scores(5, seed_spread=0.0)
    row = compare(scores, "vectors").query("labels == 40").iloc[0]
    mae = scores.table.query("labels == 40").pivot(index="draw", columns="features", values="mae")
    twins = mae.drop(columns="vectors").mean(axis=1)
    assert (row.error, row.error_untrained) == pytest.approx((mae.vectors.median(), twins.median()))
    assert (row.wins, row.losses) == ((mae.vectors < twins).sum(), (mae.vectors > twins).sum())
    assert 0 < row.wins < 8


def test_resampling_takes_test_rows_as_well_as_draws():
    rng = np.random.default_rng(0)
    ours = 1 + 0.5 * rng.random(400)
    table = pd.DataFrame(
        [
            {"features": f, "kind": k, "model": "m", "labels": 10, "draw": d, "pool": 80, "mae": 0.0}
            for f, k in (("vectors", "pretrained"), ("twin", "untrained"))
            for d in range(3)
        ]
    )
    errors = np.stack([ours] * 3 + [np.ones(400)] * 3)  # draws do not differ, test rows do
    row = compare(Scores(table, errors, np.arange(400), np.zeros(400)), "vectors").iloc[0]
    assert row.ratio_high - row.ratio_low == pytest.approx(2 * 1.96 * ours.std() / 20, rel=0.1)


@pytest.mark.filterwarnings("error")
def test_twins_that_err_on_one_row_alone_leave_ratios_finite():
    """As of the gaps of a few metals: most resamples do not hold that row."""
    features = {"vectors": ("pretrained", 0.5), "twin": ("untrained", 1.0)}
    same = {"model": "m", "labels": 10, "pool": 80, "mae": 0.0}
    table = pd.DataFrame(
        [{"features": name, "kind": kind, "draw": d, **same} for name, (kind, _) in features.items() for d in range(3)]
    )
    errors = np.array([[error, *[0.0] * 9] for _, error in features.values() for _ in range(3)])
    row = compare(Scores(table, errors, np.arange(10), np.zeros(10)), "vectors").iloc[0]
    assert (row.ratio_low, row.ratio_high) == (0.5, 1.0)


def test_a_difference_that_is_the_same_everywhere_is_no_chance():
    same = {"model": "m", "labels": 10, "pool": 80, "mae": 0.0}
    kinds = {"vectors": "pretrained", "twin": "untrained"}
    table = pd.DataFrame([{"features": n, "kind": k, "draw": d, **same} for n, k in kinds.items() for d in range(3)])
    errors = np.repeat([[0.5], [1.0]], 3, axis=0) * np.ones(10)
    row = compare(Scores(table, errors, np.arange(10), np.zeros(10)), "vectors").iloc[0]
    assert (row.relative, row.low, row.high, row.p) == (-0.5, -0.5, -0.5, 0.0)


def test_a_sentence_names_budgets_that_tell_something_and_those_that_do_not():
    together = pd.DataFrame({"labels": [20, 1000], "relative": [-0.0312, 0.004], "p": [0.049, 0.051]})
    told = _sentence(*_outcome(together), together)
    assert told.endswith("the error is 3 % lower at 20 labels; at 1,000 labels no difference shows.")
    assert [_amount(each) for each in (0.01, -0.0096, 0.123)] == ["1 % higher", "1.0 % lower", "12 % higher"]


def test_a_model_of_one_feature_set_comes_before_that_of_all_with_its_name():
    y = np.arange(60.0)
    sets = {
        "own": FeatureSet(y[:, None], "baseline", {"ridge": Ridge(1e9)}),
        "usual": FeatureSet(y[:, None], "baseline"),
    }
    mae = evaluate(sets, y, models=RIDGE, plan=LabelBudgets((20,), n_draws=2)).table.groupby("features").mae.mean()
    assert mae.usual < 1 < mae.own


def test_the_best_method_is_the_one_of_lowest_geometric_mean():
    errors = {"a": (10.0, 1.0), "b": (4.0, 4.0)}
    rows = [
        (labels, name, "baseline", "m", e)
        for name, both in errors.items()
        for labels, e in zip((20, 40), both, strict=True)
    ]
    ranking = pd.DataFrame(rows, columns=["labels", "features", "kind", "model", "median"])
    assert _best(ranking, "baseline") == ("a", "m")


def test_vectors_beside_statistics_may_be_what_is_advised():
    features, y = planted(8, pretrained=0.5)
    both = np.concatenate([features["vectors"].values, y[:, None]], axis=1)
    rival = FeatureSet(np.random.default_rng(0).normal(size=(200, 3)), "baseline")
    features |= {"both": FeatureSet(both, "joint"), "plain": rival}
    found = verdict(evaluate(features, y, models=RIDGE, plan=BUDGETS), "vectors")
    assert found.advice.startswith("Use both with ridge")


def test_another_seed_cuts_other_folds_and_test_rows_and_the_plan_passes_it_on():
    for n_rows in (100, 400):
        one, same, other = (plan_for(n_rows, seed=seed).draws(np.arange(n_rows)) for seed in (3, 3, 4))
        for (train, test), (again, _), (_, tested) in zip(one[0].parts, same[0].parts, other[0].parts, strict=True):
            np.testing.assert_array_equal(train, again)
            assert set(test) != set(tested)


def test_a_draw_says_how_many_rows_its_labels_came_from_and_its_share_of_the_test_rows():
    for fraction in (0.2, 0.5):
        (draw,) = LabelBudgets((10,), n_draws=1, test_fraction=fraction).draws(np.arange(100))
        assert draw.pool == 100 * (1 - fraction)
        assert len(draw.parts[0][1]) == 100 * fraction
    assert RepeatedFolds(n_draws=1).draws(np.arange(50))[0][::3] == (40, 50)


def test_plans_change_at_150_labels():
    assert [type(plan_for(n)) for n in (149, 150)] == [RepeatedFolds, LabelBudgets]


def test_each_draw_has_a_seed_of_its_own_for_the_models():
    seen = []

    class Seeded(Ridge):
        def fit(self, X, y):
            seen.append(self.random_state)
            return super().fit(X, y)

    for seed in (0, 1):
        y = np.arange(60.0)
        evaluate(
            {"x": FeatureSet(y[:, None], "baseline")}, y, models={"m": Seeded()}, plan=LabelBudgets((10,), 3, seed=seed)
        )
    assert len(set(seen)) == 6


def test_every_step_of_a_pipeline_gets_the_seed_of_the_draw():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.normal(size=60)
    trees = ExtraTreesRegressor(5)
    nested = make_pipeline(PCA(2, svd_solver="randomized"), make_pipeline(StandardScaler(), trees))
    first, again = (
        evaluate({"x": FeatureSet(X, "baseline")}, y, models={"m": nested}, plan=LabelBudgets((20,), n_draws=2))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.predictions, again.predictions)
    assert trees.random_state is None


def test_labels_and_features_come_as_lists_and_from_pandas_too():
    features, y = planted(0)
    table = pd.DataFrame(features["vectors"].values, index=np.arange(200)[::-1])
    table.insert(0, "whole", np.arange(200))
    table.insert(1, "answer", np.arange(200) % 3 == 0)
    plain = evaluate({"x": FeatureSet(table.to_numpy(float), "baseline")}, y, models=RIDGE, plan=BUDGETS)
    for labels in (y.tolist(), pd.Series(y, index=table.index)):
        found = evaluate({"x": FeatureSet(table, "baseline")}, labels, models=RIDGE, plan=BUDGETS)
        pd.testing.assert_frame_equal(found.table, plain.table)
    with pytest.raises(ValueError, match=r"y should be a 1d array, got an array of shape \(200, 66\)"):
        evaluate(features, table, models=RIDGE, plan=BUDGETS)
    with pytest.raises(ValueError, match="could not convert string to float: 'NaCl'"):
        evaluate({"x": FeatureSet(table.assign(whole="NaCl"), "baseline")}, y, models=RIDGE, plan=BUDGETS)


class Told(Recorder):
    """A regressor that leaves groups out together, as `SmallDataRegressor` does."""

    def fit(self, X, y, groups=None):
        self.seen["told"].append(groups)
        return super().fit(X, y)


@pytest.mark.parametrize("plan", [LabelBudgets((10, 40), n_draws=3), RepeatedFolds(3, n_draws=2)])
def test_a_model_that_takes_groups_is_told_those_of_its_labels(plan):
    y = np.arange(60.0)
    names = [f"formula {row // 3}" for row in range(60)]
    features = {"x": FeatureSet(y[:, None], "baseline")}
    Recorder.seen.clear()
    evaluate(features, y, models={"a": Told("a"), "b": Recorder("b")}, plan=plan, groups=names)
    for groups, (_, labels) in zip(Recorder.seen["told"], Recorder.seen["a"], strict=True):
        formulas = np.array(names)[labels.round().astype(int)]
        np.testing.assert_array_equal(groups[:, None] == groups, formulas[:, None] == formulas)
    alone = list(Recorder.seen["told"])
    Recorder.seen.clear()
    piped = make_pipeline(StandardScaler(), Told("a"))
    evaluate(features, y, models={"a": piped}, plan=plan, groups=names)
    np.testing.assert_equal(Recorder.seen["told"], alone)
    Recorder.seen.clear()
    evaluate(features, y, models={"a": Told("a")}, plan=plan)
    assert set(Recorder.seen["told"]) == {None}


def test_a_model_is_told_of_no_group_where_all_labels_are_of_one():
    y, names = np.arange(40.0), ["C", "Si"] * 20
    Recorder.seen.clear()
    plan = RepeatedFolds(2, n_draws=1)
    evaluate({"x": FeatureSet(y[:, None], "baseline")}, y, models={"a": Told("a")}, plan=plan, groups=names)
    assert Recorder.seen["told"] == [None, None]


def test_the_regressor_for_small_data_is_fitted_as_crystalmax_fit_does():
    rng = np.random.default_rng(0)
    groups, draws = np.repeat(np.arange(20), 3), LabelBudgets((30,), n_draws=1)
    # Polymorphs are alike, so that a leak between folds of the labels would show.
    X = rng.normal(size=(20, 5))[groups] + 0.01 * rng.normal(size=(60, 5))
    y = X[:, 0] + rng.normal(size=20)[groups]
    models = {"ours": SmallDataRegressor(5)}
    names = [f"{group:02}" for group in groups]
    scores = evaluate({"x": FeatureSet(X, "baseline")}, y, models=models, plan=draws, groups=names)
    (draw,) = draws.draws(groups)
    ((train, test),) = draw.parts
    seed = int(np.random.SeedSequence([draw.seed, draw.number]).generate_state(1)[0])
    scaler, unit = StandardScaler().fit(X[train]), unit_of(y)
    fit = partial(SmallDataRegressor(5, random_state=seed).fit, scaler.transform(X[train]), y[train] / unit)
    told, alone = (unit * fit(groups=each).predict(scaler.transform(X[test])) for each in (groups[train], None))
    np.testing.assert_allclose(scores.predictions[0], told, rtol=1e-12)
    assert np.abs(scores.predictions[0] - alone).max() > 1e-3


def test_no_difference_names_the_widest_of_all_budgets():
    features, y = planted(5)
    found = verdict(evaluate(features, y, models=RIDGE, plan=BUDGETS), "vectors")
    low, high = found.comparison.low.min(), found.comparison.high.max()
    assert found.outcome == "no difference"
    assert f"{abs(low) * 100:.0f} % lower to {high * 100:.0f} % higher error would fit" in found.sentence


def test_the_models_together_stand_last_of_a_budget_however_many_rows_there_are():
    """The verdict takes the last row of each; of more than 16 rows only a stable order keeps it there."""
    scores, models = drawn_scores(0), "abcdef"
    table = pd.concat([scores.table.assign(model=name) for name in models], ignore_index=True)
    many = replace(scores, table=table, predictions=np.tile(scores.predictions, (len(models), 1)))
    assert compare(many, "vectors").model.tolist() == [*models, "all"] * 3


def test_the_order_of_budgets_changes_nothing():
    features, y = planted(6, pretrained=0.5)
    up, down = (
        verdict(evaluate(features, y, models=RIDGE, plan=LabelBudgets(budgets, n_draws=4)), "vectors")
        for budgets in ((25, 50, 100), (100, 50, 25))
    )
    pd.testing.assert_frame_equal(down.comparison, up.comparison)
    assert (down.sentence, down.advice) == (up.sentence, up.advice)


def test_six_groups_leave_two_to_test():
    ((_, test),) = LabelBudgets((3,), n_draws=1).draws(np.arange(60) % 6)[0].parts
    assert len(set(test % 6)) == 2


def test_as_many_groups_as_folds_are_enough():
    (draw,) = RepeatedFolds(3, n_draws=1).draws(np.array([0, 0, 1, 2, 2]))
    assert sorted(test.tolist() for _, test in draw.parts) == [[0, 1], [2], [3, 4]]


def test_plans_and_models_are_those_of_the_pages_unless_others_are_given():
    assert LabelBudgets() == LabelBudgets((50, 100, 250, 1000), n_draws=20, test_fraction=0.2, seed=0)
    assert RepeatedFolds() == RepeatedFolds(5, n_draws=20, seed=0)
    models = default_models()
    assert list(models) == ["ridge", "extra trees"]
    trees = models["extra trees"].get_params()
    assert (trees["n_estimators"], trees["max_features"], trees["bootstrap"]) == (100, 1 / 3, False)
