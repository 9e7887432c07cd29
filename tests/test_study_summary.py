"""Differences are paired by draw; verdicts say what was planted, and only where draws are complete."""

import html
import re
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from crystalmax import plots
from crystalmax.judging.evaluation import default_models
from crystalmax.judging.report import Section, write_report
from crystalmax.study import page, runner, summary
from crystalmax.study.cell import Cell, Result
from crystalmax.study.matbench import FOLDS
from crystalmax.study.material import Material, Property
from crystalmax.study.representation import Method, drawn, score
from crystalmax.study.summary import _contenders, differences, findings
from crystalmax.study.vectors import Vectors
from studies import tiny

MODELS = {"ridge": default_models()["ridge"]}


def table(errors, *, part="representation", labels=50, model="ridge", family="ours"):
    """Rows of one cell of the study: errors of each draw, by the kind and name of methods."""
    return pd.DataFrame(
        {
            "part": part,
            "dataset": "salts",
            "property": "edge",
            "split": "formula",
            "method": method,
            "kind": kind,
            "model": model,
            "labels": labels,
            "draw": draw,
            "family": family if kind in ("pretrained", "untrained") else "",
            "mae": mae,
        }
        for (kind, method), of_draws in errors.items()
        for draw, mae in enumerate(of_draws)
    )


def test_a_changed_recipe_stands_beside_the_recipe_as_it_is():
    found = differences(
        table(
            {
                ("pretrained", "ours"): [1.0, 2.0],
                ("pretrained", "ours, without noise"): [1.5, 3.0],
                ("untrained", "seed 1"): [3.0, 2.0],
            }
        )
    ).set_index(["method", "rival"])
    assert found.loc[("ours, without noise", "ours")].relative == pytest.approx(0.5)
    assert [rival for method, rival in found.index if method == "ours"] == ["untrained"]


def test_recipes_as_they_are_stand_beside_each_other():
    errors = {"mine recipe": [1.0, 2.0], "infomax recipe": [2.0, 4.0], "infomax recipe, without noise": [9.0, 9.0]}
    found = differences(table({("pretrained", name): of_draws for name, of_draws in errors.items()}))
    assert dict(zip(zip(found.method, found.rival, strict=True), found.relative, strict=True)) == {
        ("mine recipe", "infomax recipe"): -0.5,
        ("infomax recipe", "mine recipe"): 1.0,
        ("infomax recipe, without noise", "infomax recipe"): 2.0,
    }


def test_differences_are_paired_by_draw():
    found = differences(
        table(
            {
                ("pretrained", "ours"): [1.0, 2.0, 3.0, 4.0],
                ("untrained", "seed 1"): [3.0, 2.0, 2.0, 5.0],
                ("untrained", "seed 2"): [3.0, 2.0, 2.0, 7.0],
                ("baseline", "fractions"): [2.0, 4.0, 6.0, 8.0],
                ("trivial", "nothing"): [9.0, 9.0, 9.0, 9.0],
            }
        )
    ).set_index("rival")
    twins, plain = found.loc["untrained"], found.loc["fractions"]
    assert list(found.index) == ["untrained", "fractions"]
    assert (twins.wins, twins.ties, twins.losses, twins.draws) == (2, 1, 1, 4)
    assert (twins.error, twins.error_of_rival) == (2.5, 3.25)
    assert twins.difference == -0.75
    assert twins.relative == pytest.approx(-0.75 / 3.25)
    assert plain.relative == plain.relative_low == plain.relative_high == -0.5
    assert twins.relative_low < twins.relative < twins.relative_high
    assert plain.p_wilcoxon == pytest.approx(0.125)  # four signs alike: 2 / 2 ** 4


def test_an_interval_holds_95_percent_of_the_draws_drawn_again():
    ours = 1 + np.random.default_rng(0).random(400)
    found = differences(table({("pretrained", "ours"): ours, ("untrained", "twin"): np.ones(400)})).iloc[0]
    assert found.relative_high - found.relative_low == pytest.approx(2 * 1.96 * ours.std() / 20, rel=0.06)


def test_networks_are_held_against_twins_of_their_own_kind():
    ours = table({("pretrained", "ours"): [1.0, 1.0], ("untrained", "our twin"): [2.0, 2.0]})
    peers = table({("pretrained", "peer"): [1.0, 1.0], ("untrained", "peer's twin"): [4.0, 4.0]}, family="peer")
    found = differences(pd.concat([ours, peers])).set_index("method")
    assert found.loc["ours"].relative == -0.5
    assert found.loc["peer"].relative == -0.75


def test_cells_are_kept_apart_and_nothing_is_no_error():
    errors = {("pretrained", "ours"): [1.0, 1.0], ("untrained", "twin"): [2.0, 2.0]}
    found = differences(pd.concat([table(errors, model="trees"), table(errors, labels=100), table(errors)]))
    assert list(zip(found.model, found.labels, strict=True)) == [("ridge", 50), ("ridge", 100), ("trees", 50)]
    assert differences(pd.DataFrame({"part": ["curves"], "loss": [1.0]})).empty


@pytest.fixture
def study(tmp_path):
    """Ten draws, so that a difference can stand against chance."""
    begun = tiny(tmp_path)
    return replace(begun, budget=replace(begun.budget, labels=(16,), draws=(10,)))


def planted(study, kinds, part="representation", n_draws=10):
    """Cells as a part of the study leaves them, from numbers that stand in for vectors."""
    salts = study.material("salts")
    cells = []
    for (kind, name), noise in kinds.items():
        rng = np.random.default_rng(sum(map(ord, name)))
        edges = salts.values("edge")[:, None]
        values = np.hstack([edges + noise * rng.normal(size=edges.shape), rng.normal(size=(len(edges), 2))])
        method = Method(name, kind, lambda values=values: values, "ours" if kind != "baseline" else "")
        scored = partial(score, study, salts, "edge", method, drawn(study, salts, "edge", 16, n_draws), models=MODELS)

        def work(scored=scored):
            found = scored()
            return Result(
                found.rows.assign(part=part, commit="", tested=11, **dict.fromkeys(page.SEEN, 0)), found.arrays
            )

        cells.append(Cell(f"{part}/salts/edge/16/{name}", work))
    assert not any(outcome.error for outcome in runner.run(cells, study.folder / "cells"))


TWINS = {("untrained", f"twin {number}"): 2.0 for number in range(4)}


def test_a_planted_advantage_is_a_verdict(study):
    planted(study, {("pretrained", "ours"): 0.01, ("baseline", "plain"): 1.0, **TWINS})
    (found,) = findings(study)
    assert found.verdict.outcome == "helped"
    assert found.sentence.startswith("salts, edge, ours (representation): Pre-training helped: ")
    assert found.verdict.advice.startswith("Use ours with ridge")


def test_what_was_given_is_answered_in_the_report_and_recipes_are_held_against_each_other(study, monkeypatch):
    monkeypatch.setattr("test_study_summary.MODELS", {**MODELS, "hidden layer": Ridge()})
    noise = {"mine recipe": 0.01, "infomax recipe": 2.0, "paper recipe": 1.0, "lab": 0.5}
    planted(study, {**{("pretrained", name): much for name, much in noise.items()}, **TWINS})
    before = {each.method: each.verdict for each in findings(study)}
    joined = replace(study, recipes={"mine": {}}, vectors=(Vectors("lab", ()),))
    after = {each.method: each.verdict for each in findings(joined)}
    assert [name for name in after if after[name].advice != before[name].advice] == ["mine recipe"]
    assert {name: each.sentence for name, each in after.items()} == {
        name: each.sentence for name, each in before.items()
    }
    said = after["mine recipe"].advice
    assert "Of vectors that are pre-trained, too: the error is 9" in said
    assert re.search(r"lower at 16 labels beside infomax recipe; .* lower at 16 labels beside paper recipe\.$", said)
    text = page.write(joined).path.read_text(encoding="utf-8")
    headings = re.findall(r"<h3>salts, edge: (.*), representation</h3>", text)
    assert headings == ["infomax recipe", "lab", "mine recipe"]
    assert said in html.unescape(text)


def test_a_network_that_is_like_its_twins_made_no_difference(study):
    planted(study, {("pretrained", "ours"): 2.0, **TWINS})
    (found,) = findings(study)
    assert found.verdict.outcome == "no difference"


def test_without_twins_or_with_draws_missing_there_is_no_verdict(study):
    planted(study, {("pretrained", "ours"): 0.01, ("baseline", "plain"): 1.0})
    assert findings(study) == []
    planted(study, {("untrained", "twin 0"): 2.0}, n_draws=4)
    assert findings(study) == []


def test_of_one_tested_formula_there_is_no_verdict_and_the_report_is_written(study, monkeypatch):
    monkeypatch.setattr("test_study_summary.MODELS", {**MODELS, "hidden layer": Ridge()})
    planted(study, {("pretrained", "infomax recipe"): 0.01, **TWINS})
    monkeypatch.setattr(type(study.materials[0]), "formulas", property(lambda material: ("C",) * len(material.data)))
    by_row = replace(study, split="row")
    assert findings(by_row) == []
    assert page.write(by_row).path.exists()


def test_fine_tuning_does_not_judge_frozen_vectors(study):
    """Both stand in the part on shift; each is held against its own kind."""
    planted(study, {("pretrained", "ours"): 0.01, **TWINS}, part="shift")
    row = {"part": "shift", "kind": "untrained", "method": "from random weights", "model": "fine-tuned", "labels": 16}
    rows = pd.DataFrame([{**row, "draw": 0, "seed": 0, "mae": 9.0, "family": "ours"}])
    tested = len(study.tested(study.material("salts"), "edge"))
    cell = Cell("shift/salts/edge/random/16/00", lambda: Result(rows, {"predictions": np.zeros((1, tested))}))
    runner.run([cell], study.folder / "cells")
    (found,) = findings(study)
    assert (found.method, found.verdict.outcome) == ("ours", "helped")


def test_boxes_show_every_feature_set_and_model():
    rng = np.random.default_rng(0)
    kinds = {"ours": "pretrained", "other": "pretrained", "twin 1": "untrained", "twin 2": "untrained"}
    scores = pd.DataFrame(
        {"features": name, "kind": kind, "model": model, "labels": labels, "draw": draw, "mae": rng.uniform(1, 2)}
        for name, kind in kinds.items()
        for model in ("least squares", "hidden layer")
        for labels in (50, 100)
        for draw in range(5)
    )
    figure = plots.boxes(scores, error="error, eV")
    (panel,) = figure.axes
    assert len(panel.patches) == 3 * 2 * 2  # twins count as one
    assert [text.get_text() for text in panel.get_xticklabels()] == ["50", "100"]
    (legend,) = figure.legends
    names = {text.get_text() for text in legend.get_texts()}
    assert names == {f"{name}, {model}" for name in ("ours", "other", "untrained") for model in scores.model.unique()}
    faces = {tuple(patch.get_facecolor()[:3]) for patch in panel.patches if patch.get_facecolor()[3] > 0}
    assert len(faces) == 3


def test_a_report_of_several_parts_has_a_heading_for_each(tmp_path):
    figure = plots.boxes(
        pd.DataFrame(
            {
                "features": "ours",
                "kind": "pretrained",
                "model": "ridge",
                "labels": 50,
                "draw": range(3),
                "mae": [1, 2, 3.0],
            }
        )
    )
    sections = [
        Section("First part", [("What is seen.", figure)], [("A table.", pd.DataFrame({"n": [1]}))]),
        Section("Second part", figures=[("Seen again.", figure)]),
    ]
    text = write_report(tmp_path / "report.html", "Title", None, sections=sections).read_text(encoding="utf-8")
    places = [text.index(words) for words in ("First part", "What is seen.", "A table.", "Second part")]
    assert places == sorted(places)
    # Identifiers in SVG must not repeat within a page, or one figure would borrow parts of another.
    identifiers = [part.split('"')[0] for part in text.split('id="')[1:] if part.startswith(("m", "p"))]
    assert len([name for name in identifiers if len(name) == 11]) == len({n for n in identifiers if len(n) == 11})


def test_a_verdict_speaks_of_the_best_plain_rival_alone():
    rows = table(
        {
            ("pretrained", "ours"): [1.0, 1.0],
            ("untrained", "twin"): [2.0, 2.0],
            ("joint", "ours and statistics"): [1.0, 1.0],
            ("baseline", "poor"): [3.0, 3.0],
            ("baseline", "good"): [1.5, 1.5],
            ("baseline", "worst"): [9.0, 9.0],
        }
    )
    assert _contenders(rows, "ours") == {"ours", "twin", "good", "ours and statistics"}


def test_a_verdict_knows_the_pool_and_does_not_hear_least_squares(study, monkeypatch):
    heard = []
    monkeypatch.setattr("test_study_summary.MODELS", {"ridge": Ridge(), "least squares": LinearRegression()})
    planted(study, {("pretrained", "ours"): 0.01, **TWINS})
    judge = summary.verdict
    monkeypatch.setattr(
        summary, "verdict", lambda scores, *of, **told: heard.append(scores.table) or judge(scores, *of, **told)
    )
    findings(study)
    assert set(heard[0].model) == {"ridge", "median"}
    assert set(heard[0].pool) == {len(study.pool(study.material("salts"), "edge"))}


def test_a_rival_counts_by_its_best_model():
    def under(model, good, steady):
        return table(
            {("pretrained", "ours"): [1.0], ("baseline", "good"): [good], ("baseline", "steady"): [steady]}, model=model
        )

    rows = pd.concat([under("ridge", 1.0, 2.0), under("trees", 9.0, 2.0)])
    assert _contenders(rows, "ours") == {"ours", "good", "ours and statistics"}


@pytest.mark.parametrize(
    ("name", "folds", "is_listed"),
    [("matbench_phonons", FOLDS, True), ("phonons", FOLDS, True), ("phonons", "fold", False), ("mp_gap", FOLDS, False)],
)
def test_the_leaderboard_stands_beside_its_own_data_only(name, folds, is_listed, tmp_path):
    row = {"method": "ours", "model": "ridge", "mae": 30.0, "tested": 5} | dict.fromkeys(page.SEEN, 0)
    material = Material(name, tmp_path, (Property("peak"),), name, folds)
    caption, table = page._official(material, pd.DataFrame([row])).tables[0]
    assert ("Leaderboard: Matbench v0.1." in caption) == ("CGCNN" in set(table.method)) == is_listed
    assert "ours" in set(table.method)
