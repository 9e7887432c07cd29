"""The whole command on a few salts: one table, the same again, also after a stop and on another machine."""

import json
import re
import shutil
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from io import StringIO
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from crystalmax import plots
from crystalmax.__main__ import main
from crystalmax.study import page, paper, representation, runner, summary
from crystalmax.study.models import HiddenLayer, downstream_models
from crystals import pure, rock_salt
from labelled import table_of
from studies import few_trees

SETTINGS = """
[salts]
folds = "fold"
properties = { edge = "A" }
"""

EXAMPLES = Path(__file__).parent.parent / "examples"

PARTS = ("leakage", "curves", "representation")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A table of salts, settings that name its property, and the vectors of a peer."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(0)
    pairs = list(product(("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba"), ("F", "Cl", "Br", "O", "S")))
    # Two groups: all rows and draws say nearly the same, however few they are.
    edges = rng.choice([5.0, 6.0], len(pairs)) + rng.uniform(-0.05, 0.05, len(pairs))
    salts = [
        replace(rock_salt(edge, key=f"{a}{b}"), kinds=pure(a, b)) for (a, b), edge in zip(pairs, edges, strict=True)
    ]
    (folder / "data").mkdir()
    table_of(salts, edge=edges, fold=np.arange(len(salts)) % 2).to_parquet(folder / "data" / "salts.parquet")
    (folder / "mine.toml").write_text(SETTINGS, encoding="utf-8")
    peer = pd.DataFrame({"key": [salt.key for salt in salts], "a": edges, "b": rng.normal(size=len(salts))})
    peer.to_csv(folder / "peer.csv", index=False)
    peer.assign(a=0.0, b=0.0).to_csv(folder / "peer_untrained.csv", index=False)
    return folder


def quick_models(trees, names=None):
    """Those of the study, as far as seconds allow."""
    quick = {"hidden layer": HiddenLayer(4, max_iter=10)}
    return {name: quick.get(name, model) for name, model in downstream_models(trees, names).items()}


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "commit", lambda: "abc")
        patch.setattr(representation, "downstream_models", quick_models)
        few_trees(patch)
        yield


@pytest.fixture(scope="module")
def done(given, tmp_path_factory):
    """The study as the command line does it."""
    out = tmp_path_factory.mktemp("done") / "out"
    arguments = ["study", given / "mine.toml", "--data", given / "data", "--out", out, "--budget", "tiny", "--jobs", 1]
    arguments += ["--vectors", f"peer={given / 'peer.csv'}", "--untrained", f"peer={given / 'peer_untrained.csv'}"]
    arguments += [word for part in PARTS for word in ("--parts", part)]
    said = StringIO()
    with mock.patch("sys.argv", ["crystalmax", *map(str, arguments)]), redirect_stdout(said):
        main()
    return SimpleNamespace(out=out, said=said.getvalue(), rows=pd.read_parquet(out / "results.parquet"))


def begin(given, out, **options):
    chosen = {"vectors": {"peer": [given / "peer.csv"]}, "untrained": {"peer": [given / "peer_untrained.csv"]}}
    return paper.begin(str(given / "mine.toml"), str(given / "data"), out, budget="tiny", **{**chosen, **options})


def test_the_table_has_a_row_for_each_draw(done):
    rows = done.rows
    assert not rows.duplicated(
        ["part", "method", "model", "labels", "draw", "split", "level", "epoch", "crystals"]
    ).any()
    frozen = rows[rows.part == "representation"]
    # 17 methods and 5 models, one more model on two, with 3 draws of 8 labels and 2 of 16; and always the median.
    assert len(frozen) == (17 * 5 + 2 + 1) * 5
    assert frozen.mae.notna().all()
    assert set(frozen.commit) == {"abc"}
    assert frozen.formulas_in_labels.eq(0).all()
    official = rows[rows.part == "official"]
    assert set(official.labels) == {20}
    assert len(official) == (17 * 6 + 1) * 2
    assert set(rows.part) == {"curves", "leakage", "official", "representation"}


def test_planted_vectors_beat_their_twin_and_the_report_says_so(done):
    """The vectors of the peer hold the very property, those of its twin do not."""
    differences = pd.read_csv(done.out / "comparison.csv")
    against_twin = differences.query("part == 'representation' and method == 'peer' and rival == 'untrained'")
    assert len(against_twin) == 2 * 5
    assert (against_twin.relative < -0.2).all()
    assert against_twin.query("model == 'ridge' and labels == 8").wins.tolist() == [3]
    assert "salts, edge, peer (representation): Pre-training helped" in done.said
    assert "salts, edge, infomax recipe (representation): Pre-training" in done.said


def test_report_and_figures_are_there_and_need_nothing_else(done):
    text = (done.out / "report.html").read_text(encoding="utf-8")
    assert "<h2>Frozen vectors: salts, edge</h2>" in text
    assert "<h2>Official folds: salts</h2>" in text
    assert "Pre-training" in text
    assert not {
        word for word in ("http://", "https://", "<script", "<img") if word in text.replace("http://www.w3.org", "")
    }
    drawn = {path.suffix: path.stat().st_size for path in sorted((done.out / "figures").iterdir())}
    assert set(drawn) == {".svg", ".png"}
    assert len(list((done.out / "figures").glob("*.svg"))) == len(list((done.out / "figures").glob("*.png"))) >= 4
    assert pd.read_csv(done.out / "failed.csv").empty
    assert (pd.read_parquet(done.out / "times.parquet").seconds > 0).all()


def test_a_study_that_was_stopped_goes_on_elsewhere_to_the_same_bytes(given, done, tmp_path):
    class Stopped(Exception):
        pass

    def stop(forecast):
        if forecast.done == 20:
            raise Stopped

    with pytest.raises(Stopped):
        paper.go_on(begin(given, tmp_path / "here"), PARTS, report=stop)
    assert not (tmp_path / "here" / "results.parquet").exists()
    shutil.move(tmp_path / "here", tmp_path / "there")
    told = []
    there = paper.begin(
        str(given / "mine.toml"),
        "data that are not here",
        tmp_path / "there",
        budget="tiny",
        **{"vectors": {"peer": [given / "peer.csv"]}, "untrained": {"peer": [given / "peer_untrained.csv"]}},
    )
    paper.go_on(there, PARTS, report=told.append)
    assert told[0].done == 20
    assert (tmp_path / "there" / "results.parquet").read_bytes() == (done.out / "results.parquet").read_bytes()


def test_other_settings_do_not_go_on_with_a_study(given, done):
    with pytest.raises(ValueError, match=r'another budget \("tiny", not "small"\); go on'):
        paper.begin(str(given / "mine.toml"), str(given / "data"), done.out, budget="small")
    with pytest.raises(ValueError, match=r"another seed \(0, not 1\)"):
        begin(given, done.out, seed=1)
    with pytest.raises(ValueError, match="another vectors"):
        begin(given, done.out, vectors={"peer": [given / "peer_untrained.csv"]})


def test_tables_of_vectors_with_a_fault_are_refused_before_a_study_begins(given, tmp_path):
    pd.read_csv(given / "peer.csv")[["key"]].to_csv(tmp_path / "keys.csv", index=False)
    with pytest.raises(ValueError, match=r"keys\.csv has no numbers beside its column 'key'"):
        begin(given, tmp_path / "out", vectors={"mine": [tmp_path / "keys.csv"]})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["", '{"data": [', "{}", "[1]"])
def test_settings_of_a_study_that_are_damaged_are_named(content, given, tmp_path):
    (tmp_path / "study.json").write_text(content)
    with pytest.raises(ValueError, match=r"study\.json is damaged \(.*\); get another copy of it, or choose another"):
        begin(given, tmp_path)


def test_vectors_of_none_of_the_data_sets_are_told_of(given, tmp_path, caplog):
    pd.read_csv(given / "peer.csv").assign(key=range(40)).to_csv(tmp_path / "mine.csv", index=False)
    begin(given, tmp_path / "out", vectors={"mine": [tmp_path / "mine.csv"], "peer": [given / "peer.csv"]})
    told = [record.message for record in caplog.records if "is left out" in record.message]
    assert len(told) == 1
    assert re.search(r"given.mine.0\.csv is left out: its column 'key' names less than half of the cry", told[0])


def test_names_that_do_not_exist_are_answered(given, done):
    with pytest.raises(ValueError, match="no budget 'huge'; choose one of tiny, small, medium, full"):
        paper.begin("paper", str(given / "data"), done.out, budget="huge")
    for name in ("nothing", "a/b", "element fractions"):
        with pytest.raises(ValueError, match=f"vectors cannot be called '{name}' here; give a name of letters"):
            begin(given, done.out, vectors={name: [given / "peer.csv"]})
    with pytest.raises(ValueError, match="no part 'map'; choose among leakage, curves"):
        paper.cells_of(begin(given, done.out), ["map"])
    with pytest.raises(ValueError, match="no data set 'x'; there are salts"):
        begin(given, done.out).material("x")


def test_a_recipe_of_ones_own_stands_beside_those_that_ship(given, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(plots, "training_curves", lambda *_, **__: Figure())
    mine = {"mine": [EXAMPLES / "my_recipe.toml"]}
    with pytest.raises(ValueError, match=r"refusing to import 'my_lab\.PlainMeans'"):
        begin(given, tmp_path / "refused", recipes=mine)
    study = begin(given, tmp_path / "out", recipes=mine, trusted=("my_lab",))
    wanted = [cell for cell in paper.cells_of(study, ["representation"]) if "/8/" in cell.name and "mine" in cell.name]
    outcomes = runner.run(wanted, study.folder / "cells")
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    rows = runner.rows_of(study.folder / "cells")
    kinds = {name: set(table.kind) for name, table in rows[rows.family == "mine"].groupby("method")}
    assert kinds == {
        "mine recipe": {"pretrained"},
        "untrained mine, seed 1001": {"untrained"},
        "untrained mine, seed 1002": {"untrained"},
    }
    errors = rows[rows.model == "ridge"].groupby("method").mae.median()
    assert errors["mine recipe"] != errors["untrained mine, seed 1001"]
    found = [each for each in summary.findings(study) if each.method == "mine recipe"]
    assert [each.target for each in found] == ["edge"]
    with pytest.raises(ValueError, match="another recipes"):
        begin(given, tmp_path / "out")


def test_a_study_does_not_go_on_with_other_code_of_its_parts(given, tmp_path, monkeypatch):
    shutil.copy(EXAMPLES / "my_lab.py", tmp_path / "their_lab.py")
    mine = (EXAMPLES / "my_recipe.toml").read_text(encoding="utf-8").replace("my_lab", "their_lab")
    (tmp_path / "mine.toml").write_text(mine, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"recipes": {"mine": [tmp_path / "mine.toml"]}, "trusted": ("their_lab",)}
    begin(given, tmp_path / "out", **options)
    begin(given, tmp_path / "out", **options)
    with (tmp_path / "their_lab.py").open("a", encoding="utf-8") as file:
        file.write("# better\n")
    with pytest.raises(ValueError, match=r"another code .*their_lab\.PlainMeans"):
        begin(given, tmp_path / "out", **options)


def test_a_mistake_in_how_a_recipe_trains_is_found_before_anything_is_trained(given, tmp_path):
    objective = '[objective]\nuse = "DeepInfoMax"\nencoder.use = "SiteNet"\n'
    (tmp_path / "mine.toml").write_text(f"{objective}[training]\nepoch = 1", encoding="utf-8")
    with pytest.raises(ValueError, match="no argument 'epoch'; did you mean 'epochs'"):
        begin(given, tmp_path / "out", recipes={"mine": [tmp_path / "mine.toml"]})


def test_a_recipe_that_learns_labels_is_not_compared_with_those_that_learn_from_structures(given, tmp_path):
    objective = '[objective]\nuse = "Regression"\ntarget = "edge"\nencoder.use = "SiteNet"\n'
    (tmp_path / "mine.toml").write_text(f"{objective}[training]\nepochs = 1", encoding="utf-8")
    with pytest.raises(ValueError, match=r"the recipe 'mine' learns labels of 'edge'.* from structures alone"):
        begin(given, tmp_path / "out", recipes={"mine": [tmp_path / "mine.toml"]})


def test_recipes_need_names_of_their_own(given, tmp_path):
    recipe = EXAMPLES / "my_recipe.toml"
    for name in ("paper", "with, a comma", "a/path", ""):
        with pytest.raises(ValueError, match="cannot be called"):
            begin(given, tmp_path / "out", recipes={name: [recipe]})
    with pytest.raises(ValueError, match="two recipes are called 'mine'"):
        begin(given, tmp_path / "out", recipes={"mine": [recipe, recipe]})
    with pytest.raises(FileNotFoundError, match=r"no file and no shipped recipe is called .*here\.toml"):
        begin(given, tmp_path / "out", recipes={"mine": [tmp_path / "here.toml"]})
    assert not (tmp_path / "out").exists()


def test_a_study_of_before_there_were_recipes_goes_on(given, done, tmp_path):
    shutil.copytree(done.out, tmp_path / "out")
    path = tmp_path / "out" / "study.json"
    begun = json.loads(path.read_text(encoding="utf-8"))
    del begun["recipes"], begun["code"]
    path.write_text(json.dumps(begun), encoding="utf-8")
    assert begin(given, tmp_path / "out").recipes == {}


def test_a_cell_that_fails_is_listed(given, done, tmp_path, monkeypatch):
    shutil.copytree(done.out, tmp_path / "out")
    (tmp_path / "out" / "cells" / "leakage" / "salts" / "row.parquet").unlink()
    monkeypatch.setattr("crystalmax.study.leakage.counts", partial(pytest.fail, "no counts today"))
    outcomes = paper.go_on(begin(given, tmp_path / "out"), ["leakage"])
    assert [outcome.name for outcome in outcomes if outcome.error] == ["leakage/salts/row"]
    failed = pd.read_csv(tmp_path / "out" / "failed.csv")
    assert failed.cell.tolist() == ["leakage/salts/row"]
    assert len(pd.read_parquet(tmp_path / "out" / "results.parquet")) == len(done.rows) - 1


def test_a_report_of_nothing_says_nothing(given, tmp_path):
    written = page.write(begin(given, tmp_path / "out"))
    assert written.sentences == ()
    assert "40 crystals" in written.path.read_text(encoding="utf-8")


def test_a_property_that_is_too_rare_for_a_draw_has_no_cells_and_is_told_of(given, tmp_path, caplog):
    table = pd.read_parquet(given / "data" / "salts.parquet")
    (tmp_path / "mine.toml").write_text('[salts]\nproperties = { edge = "A", rare = "A", new = "A" }')
    tested = (
        paper.begin(str(given / "mine.toml"), str(given / "data"), tmp_path / "all", "tiny").materials[0].parts("row")
    )
    table["rare"] = table.edge.where(table.index < 5)
    table["new"] = table.edge.where(~table.index.isin(tested.test))
    table.to_parquet(tmp_path / "salts.parquet")
    study = paper.begin(str(tmp_path / "mine.toml"), str(tmp_path), tmp_path / "out", "tiny", "row")
    told = [message for message in caplog.messages if "too few" in message]
    assert [message.partition(":")[0] for message in told] == ["salts, rare", "salts, new"]
    assert "labels to draw from and 0 to test are too few" in told[1]
    parts = ("representation", "transfer", "ablation", "encoders", "shift", "blocks")
    names = [cell.name for cell in paper.cells_of(study, parts)]
    assert not [name for name in names if "/rare/" in name or "/new/" in name]
    assert {name.partition("/")[0] for name in names if "/edge/" in name} >= {*parts} - {"shift"}


def test_what_cannot_be_split_says_so_before_a_study_begins(given, tmp_path):
    settings = tmp_path / "mine.toml"
    settings.write_text('[salts]\nproperties = { edge = "A" }', encoding="utf-8")
    with pytest.raises(ValueError, match="salts has 0 of 40 crystals in test fold 0; name the right column as `folds`"):
        paper.begin(str(settings), str(given / "data"), tmp_path / "fold", "tiny", "fold")
    pd.read_parquet(given / "data" / "salts.parquet").assign(fold=0).to_parquet(tmp_path / "salts.parquet")
    settings.write_text(SETTINGS, encoding="utf-8")
    with pytest.raises(ValueError, match="salts has 40 of 40 crystals in test fold 0; name the right column"):
        paper.begin(str(settings), str(tmp_path), tmp_path / "one", "tiny", "fold")
    settings.write_text('[salts]\nproperties = { edge = "A" }', encoding="utf-8")
    carbon = [replace(rock_salt(edge, key=f"{edge}"), kinds=pure("C", "C")) for edge in np.linspace(3, 4, 40)]
    table_of(carbon, edge=np.arange(40.0)).to_parquet(tmp_path / "salts.parquet")
    with pytest.raises(ValueError, match="salts has 1 formulas, and a split needs three; give more, or split by row"):
        paper.begin(str(settings), str(tmp_path), tmp_path / "formula", "tiny")
    study = paper.begin(str(settings), str(tmp_path), tmp_path / "row", "tiny", "row")
    assert [cell.name for cell in paper.cells_of(study, ["leakage"])] == ["leakage/salts/row"]
