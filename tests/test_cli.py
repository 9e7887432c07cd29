"""The command line: the whole job on thirty small crystals, and one clear line for whatever goes wrong."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

from crystalmax import CrystalFeaturizer, CrystalRegressor, __version__
from crystalmax.__main__ import main
from crystalmax.checkpoint import load, read_spec
from crystalmax.judging import assessment, evaluation
from crystalmax.judging.assessment import small_data
from crystalmax.learning.pretraining import pretrain
from crystalmax.prediction import beside_median, finetune, predict, write
from crystalmax.reading.ingest import canonical_records, ingest
from crystalmax.shipped import SHIPPED
from crystalmax.storage.dataset import CrystalDataset
from studies import few_trees

ROOT = Path(__file__).parents[1]

CATIONS = {"Na": 1.0, "K": 1.4, "Rb": 1.5, "Mg": 0.7, "Ca": 1.0}
ANIONS = {"F": 1.3, "Cl": 1.8, "O": 1.4}
PROTOTYPES = {"rocksalt": ("F m -3 m", 2.0), "cesium": ("P m -3 m", 2 / 3**0.5)}

RECIPE = """
[geometry]
use = "AllPairs"
max_sites = 12

[objective]
use = "DeepInfoMax"
encoder = { use = "SiteNet", site_width = 4, crystal_width = 6, hidden = 8 }
critic = { use = "ProjectedDot", hidden = 8, common = 8, later = true }

[training]
epochs = 1
sites_per_batch = 30
"""

BROKEN = {
    "empty": b"",
    "noise": bytes(range(256)),
    "prose": b"This is a letter to the editor.\n",
    "cut": b"data_cut\n_cell_length_a 4\n_cell_length_b 4\nloop_\n_atom_site_label\n_atom_site_fract_x\nNa 0",
}


def cif(cation, anion, prototype):
    group, edges = PROTOTYPES[prototype]
    edge = edges * (CATIONS[cation] + ANIONS[anion])
    lines = [f"data_{cation}{anion}", *(f"_cell_length_{axis} {edge:.4f}" for axis in "abc")]
    lines += [
        *(f"_cell_angle_{angle} 90" for angle in ("alpha", "beta", "gamma")),
        f"_space_group_name_H-M_alt '{group}'",
    ]
    lines += ["loop_", "_atom_site_label", *(f"_atom_site_fract_{axis}" for axis in "xyz")]
    lines += [f"{cation} 0 0 0", f"{anion} 0.5 0.5 0.5", ""]
    return "\n".join(lines)


def crystalmax(*arguments):
    """One call of the command, in this process: exit code, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", ["crystalmax", *map(str, arguments)]),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    if isinstance(code, str):  # what the interpreter does with a message
        err.write(f"{code}\n")
        code = 1
    return SimpleNamespace(code=code, out=out.getvalue(), err=err.getvalue())


def refusal(*arguments):
    """The one line with which a call fails."""
    done = crystalmax(*arguments)
    assert done.code == 1
    lines = done.err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("crystalmax: ")
    return lines[0].removeprefix("crystalmax: ")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Thirty CIF files, labels for most of them, a recipe; ingested, pre-trained on and fine-tuned."""
    home = tmp_path_factory.mktemp("cli")
    (home / "cifs").mkdir()
    rows = []
    for cation, anion, prototype in product(CATIONS, ANIONS, PROTOTYPES):
        name = f"{cation}{anion}-{prototype}"
        (home / "cifs" / f"{name}.cif").write_text(cif(cation, anion, prototype), encoding="utf-8")
        rows.append({"file": f"{name}.cif", "band_gap": 10 - 3 * ANIONS[anion] - CATIONS[cation], "mass": 1.0})
    pd.DataFrame(rows[:26]).to_csv(home / "labels.csv", index=False)
    (home / "tiny.toml").write_text(RECIPE, encoding="utf-8")
    labelled = (home / "cifs", "--labels", home / "labels.csv", "--jobs", 1)
    steps = [
        ("ingest", *labelled, "--out", home / "data"),
        ("pretrain", home / "data", "--out", home / "run", "--recipe", home / "tiny.toml"),
        (
            "finetune",
            *labelled,
            "--target",
            "band_gap",
            "--model",
            home / "run",
            "--out",
            home / "model",
            "--epochs",
            2,
        ),
    ]
    said = []
    for step in steps:
        done = crystalmax(*step)
        assert done.code == 0, done.err
        said.append(done.out)
    return SimpleNamespace(path=home, cifs=home / "cifs", labelled=labelled, said=said)


@pytest.fixture
def good_and_broken(home, tmp_path):
    """A folder with three good files and several that are none."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("NaCl-rocksalt", "MgO-rocksalt", "CaO-cesium"):
        (folder / f"{name}.cif").write_bytes((home.cifs / f"{name}.cif").read_bytes())
    for name, content in BROKEN.items():
        (folder / f"{name}.cif").write_bytes(content)
    return folder


def test_every_step_says_what_it_did(home):
    ingested, pretrained, finetuned = home.said
    assert "30 crystals with 60 sites" in ingested
    assert "0 refused" in ingested
    assert "trained encoder in" in pretrained
    assert "model for band_gap from 26 labels" in finetuned
    assert "; of always answering the median " in finetuned
    assert (home.path / "run" / "losses.svg").stat().st_size > 1000


@pytest.mark.parametrize("statistics", [False, True])
def test_vectors_are_those_of_the_estimator(home, tmp_path, statistics):
    out, run = tmp_path / "deep" / "vectors.parquet", home.path / "run"
    more = ["--statistics"] * statistics
    assert crystalmax("represent", home.cifs, "--model", run, "--out", out, "--jobs", 1, *more).code == 0
    table = pd.read_parquet(out)
    files = sorted(home.cifs.iterdir())
    assert table.key.tolist() == [file.stem for file in files]
    assert (table.refusal == "").all()
    direct = CrystalFeaturizer.from_pretrained(run, statistics=statistics).transform(files)
    np.testing.assert_allclose(table.iloc[:, 1:-2].to_numpy(), direct, atol=1e-5)
    assert np.ptp(direct, axis=0).max() > 0


def test_predictions_are_close_to_labels_in_scale_and_damaged_files_have_a_reason(home, good_and_broken, tmp_path):
    out = tmp_path / "predictions.csv"
    done = crystalmax("predict", good_and_broken, "--model", home.path / "model", "--out", out, "--jobs", 1)
    assert done.code == 0, done.err
    assert "3 rows" in done.out
    assert "4 more without a result" in done.out
    table = pd.read_csv(out, keep_default_na=False, na_values={"prediction": [""]}).set_index("key")
    assert set(table.index[table.prediction.isna()]) == set(BROKEN)
    assert table.refusal[list(BROKEN)].str.len().min() > 20
    assert table.refusal[table.prediction.notna()].eq("").all()
    assert table.prediction.dropna().between(0, 10).all()


@pytest.mark.parametrize("vectors", [False, True])
def test_a_fit_predicts_with_intervals(home, good_and_broken, tmp_path, vectors):
    asked = ("--vectors",) if vectors else ("--no-vectors",)
    done = crystalmax("fit", *home.labelled, "--target", "band_gap", *asked, "--out", tmp_path / "fit")
    assert done.code == 0, done.err
    assert "model for band_gap from 26 labels" in done.out
    assert "0 refused" in done.out
    assert "4 crystals have no value of the property" in done.out
    out = tmp_path / "predictions.CSV"
    asked = ("--model", tmp_path / "fit", "--coverage", 0.8, "--out", out, "--jobs", 1)
    assert crystalmax("predict", good_and_broken, *asked).code == 0
    table = pd.read_csv(out, keep_default_na=False, na_values={name: [""] for name in ("prediction", "low", "high")})
    table = table.set_index("key")
    assert set(table.index[table.prediction.isna()]) == set(BROKEN)
    found = table[table.refusal == ""]
    assert found.prediction.between(found.low, found.high).all()
    assert found.prediction["MgO-rocksalt"] > found.prediction["NaCl-rocksalt"] - 5
    assert (tmp_path / "fit" / "encoder").exists() == vectors


def test_statistics_are_taken_by_as_many_processes_as_asked_for(home, tmp_path, monkeypatch):
    asked = []

    def here(work, items, n_jobs):
        asked.append(n_jobs)
        return map(work, items)

    monkeypatch.setattr("crystalmax.reading.sources.in_order", here)
    monkeypatch.setattr("crystalmax.featurizer.in_order", here)
    labelled = (home.cifs, "--labels", home.path / "labels.csv", "--target", "band_gap")
    model = ("--model", home.path / "run", "--jobs", 3)
    for command, *options in (
        ("fit", *labelled, *model, "--out", tmp_path / "fit"),
        ("predict", home.cifs, "--model", tmp_path / "fit", "--out", tmp_path / "p.csv", "--jobs", 3),
    ):
        asked.clear()
        assert crystalmax(command, *options).code == 0
        assert asked.count(3) == 2, asked  # to read, and for statistics


def test_a_fit_with_networks_predicts_with_intervals(home, tmp_path, monkeypatch):
    monkeypatch.setattr("crystalmax.fitted.CrystalRegressor", partial(CrystalRegressor, epochs=2, folds=2))
    options = (*home.labelled, "--target", "band_gap", "--out", tmp_path / "fit")
    assert "networks start from the one that makes the vectors" in refusal(
        "fit", *options, "--networks", "--no-vectors"
    )
    done = crystalmax("fit", *options, "--model", home.path / "run", "--networks")
    assert done.code == 0, done.err
    assert (tmp_path / "fit" / "networks" / "spec.json").exists()
    out = tmp_path / "predictions.csv"
    assert crystalmax("predict", home.cifs, "--model", tmp_path / "fit", "--out", out, "--jobs", 1).code == 0
    table = pd.read_csv(out)
    assert table.prediction.between(table.low, table.high).all()


def test_damaged_files_are_listed_and_the_good_ones_come_out(good_and_broken, tmp_path):
    done = crystalmax("ingest", good_and_broken, "--out", tmp_path / "data", "--jobs", 1)
    assert done.code == 0
    assert "3 crystals" in done.out
    skipped = pd.read_csv(tmp_path / "data" / "skipped.csv")
    assert set(skipped.key) == set(BROKEN)
    assert skipped[["source", "reason", "remedy"]].notna().all(axis=None)


def noted(home, folder, name="NaCl-rocksalt"):
    """One of the files, whose space group nobody knows, so that it is read as P1."""
    folder.mkdir()
    text = (home.cifs / f"{name}.cif").read_text(encoding="utf-8")
    (folder / f"{name}.cif").write_text(text.replace("F m -3 m", "F m -3 q"), encoding="utf-8")
    return folder / f"{name}.cif", "space group 'F m -3 q' is not known: read as P1"


def test_what_was_reinterpreted_stands_beside_each_result(home, tmp_path):
    file, note = noted(home, tmp_path / "cifs")
    for command, model in (("represent", "run"), ("predict", "model")):
        out = tmp_path / f"{command}.csv"
        options = ("--model", home.path / model, "--out", out, "--jobs", 1)
        assert "; 1 with a note" in crystalmax(command, file, home.cifs / "MgO-rocksalt.cif", *options).out
        assert pd.read_csv(out, keep_default_na=False).note.tolist() == [note, ""]


@pytest.mark.parametrize("command", ["fit", "finetune", "evaluate"])
def test_what_was_reinterpreted_of_labelled_crystals_is_counted_and_listed(home, quick, tmp_path, command):
    file, note = noted(home, tmp_path / "cifs")
    others = [each for each in sorted(home.cifs.iterdir()) if each.name != file.name]
    options = ("--target", "band_gap", "--model", home.path / "run", "--out", tmp_path / "out")
    options += ("--epochs", 1) if command == "finetune" else ()
    done = crystalmax(command, file, *others, *home.labelled[1:], *options)
    assert f"; 1 read with a note, see {tmp_path / 'out' / 'notes.csv'}" in done.out
    (row,) = pd.read_csv(tmp_path / "out" / "notes.csv").itertuples(index=False)
    assert row == (file.stem, str(file), note)


@pytest.fixture
def quick(monkeypatch):
    """Evaluation with few draws and one model; one test below has the regressor for small data, which takes longest."""
    monkeypatch.setattr(evaluation, "plan_for", lambda n_labels, seed=0: evaluation.RepeatedFolds(3, 3, seed))
    monkeypatch.setattr(evaluation, "default_models", lambda: {"ridge": Ridge()})
    monkeypatch.setattr(assessment, "small_data", lambda widths=(): {})


def test_evaluation_answers_in_words_and_files(home, good_and_broken, quick, tmp_path, monkeypatch):
    monkeypatch.setattr(assessment, "small_data", small_data)
    few_trees(monkeypatch)
    monkeypatch.setattr(evaluation, "plan_for", lambda n_labels, seed=0: evaluation.RepeatedFolds(2, 2, seed))
    out = tmp_path / "report"
    sources = (home.cifs, good_and_broken / "prose.cif", *home.labelled[1:])
    options = ("--target", "band_gap", "--unit", "eV", "--model", home.path / "run", "--out", out)
    done = crystalmax("evaluate", *sources, *options)
    assert done.code == 0, done.err
    assert done.out.startswith("Pre-training ")
    assert "1 refused" in done.out
    assert "crystals were among the structures that the vectors were learnt from" in done.out
    table = pd.read_parquet(out / "results.parquet")
    assert set(table.kind) == {"pretrained", "untrained", "baseline", "joint", "trivial"}
    assert table.features[table.kind == "untrained"].nunique() == 3
    known = {assessment.COMPOSITION, "all statistics", "vectors and all statistics"}
    assert set(table.features[table.model == assessment.SMALL_DATA]) == known
    assert pd.read_csv(out / "skipped.csv").key.tolist() == ["prose"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Few-label prediction of band_gap" in page
    assert {"ranking.csv", "comparison.csv", "figure_1.svg", "figure_1.png"} <= {file.name for file in out.iterdir()}


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_networks_that_know_the_labels_are_not_judged_by_them(home, quick, tmp_path, caplog, command):
    asked = (*home.labelled, "--target", "band_gap", "--out", tmp_path / "out")
    said = "model was fine-tuned: it has learnt with labels of 'band_gap'"
    assert said in refusal(command, *asked, "--model", home.path / "model")
    supervised = RECIPE.replace("DeepInfoMax", "Regression").replace("critic = ", 'target = "band_gap"\n# ')
    (tmp_path / "supervised.toml").write_text(supervised, encoding="utf-8")
    run = tmp_path / "run"
    assert crystalmax("pretrain", home.path / "data", "--out", run, "--recipe", tmp_path / "supervised.toml").code == 0
    said = "run has learnt with labels of 'band_gap', and 26 of the 26 crystals, such as '"
    assert said in refusal(command, *asked, "--model", run)
    (run / "seen.npz").unlink()
    done = crystalmax(command, *asked, "--model", run)
    assert done.code == 0, done.err
    told = "The vectors were learnt with labels of 'band_gap', of which crystals is not known: if of these,"
    if command == "evaluate":
        assert done.out.startswith(told)
        assert told in (tmp_path / "out" / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    else:
        assert told in caplog.text
    done = crystalmax("represent", home.cifs, "--model", home.path / "model", "--out", tmp_path / "v.csv")
    assert done.code == 0, done.err


def test_a_data_set_is_a_source_with_its_names_and_labels(home, quick, tmp_path):
    run, data = home.path / "run", home.path / "data"
    for source in (data, home.cifs):
        out = tmp_path / f"{source.name}.parquet"
        assert crystalmax("represent", source, "--model", run, "--out", out, "--jobs", 1).code == 0
    stored, read = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("data", "cifs"))
    assert stored.key.tolist() == read.key.tolist()
    np.testing.assert_allclose(stored.iloc[:, 1:-2].to_numpy(), read.iloc[:, 1:-2].to_numpy(), atol=1e-4)
    options = ("--target", "band_gap", "--model", run, "--jobs", 1, "--out")
    for command in ("fit", "evaluate"):
        done = crystalmax(command, data, *options, tmp_path / command)
        assert done.code == 0, done.err
        assert "4 crystals have no value of the property" in done.out
    out = tmp_path / "predictions.csv"
    assert crystalmax("predict", data, "--model", tmp_path / "fit", "--out", out, "--jobs", 1).code == 0
    assert len(pd.read_csv(out).prediction.dropna()) == 30


def test_a_run_goes_on_for_more_epochs(home, tmp_path):
    data, run, recipe = home.path / "data", tmp_path / "run", home.path / "tiny.toml"
    assert crystalmax("pretrain", data, "--out", run, "--recipe", recipe).code == 0
    assert crystalmax("pretrain", data, "--out", run, "--resume", "--epochs", 2).code == 0
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in history if row["split"] == "train"] == [1, 2]
    assert crystalmax("pretrain", data, "--out", tmp_path / "once", "--recipe", recipe, "--epochs", 2).code == 0
    weights = [(folder / "weights.safetensors").read_bytes() for folder in (run, tmp_path / "once")]
    assert weights[0] == weights[1]


def test_a_run_can_go_on_from_the_weights_that_ship(home, tmp_path):
    call = ("pretrain", home.path / "data", "--start", "shipped", "--epochs", 1, "--out")
    assert crystalmax(*call, tmp_path / "run").code == 0
    assert load(tmp_path / "run").extra["start"] == read_spec(SHIPPED)["content_hash"]
    assert "is not that of" in refusal(*call, tmp_path / "other", "--recipe", "cgcnn")


def test_in_python_paths_may_be_text(home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = list(canonical_records(str(home.cifs), labels=str(home.path / "labels.csv")))
    assert ingest(records, "data", made_from=["cifs"]).n_skipped == 0
    data = CrystalDataset.open("data")
    pretrain(data, "run", start="shipped", epochs=1)
    assert load("run").extra["start"] == read_spec(SHIPPED)["content_hash"]
    crystals = [record.crystal for record in records if "band_gap" in record.targets]
    finetune(crystals, "band_gap", CrystalRegressor.from_pretrained("run", epochs=1, folds=2), "model")
    assert "30 rows" in write(predict(records, load("model")), "deep/predictions.csv")


def test_what_exists_is_not_overwritten(home):
    assert "data exists already" in refusal("ingest", home.cifs, "--out", home.path / "data")
    assert "go on with it by --resume" in refusal("pretrain", home.path / "data", "--out", home.path / "run")
    options = ("--target", "band_gap", "--model", home.path / "run", "--out", home.path / "model")
    assert "model exists already" in refusal("finetune", *home.labelled, *options)
    assert "model exists already" in refusal("fit", *home.labelled, *options)


def test_what_a_fit_leaves_out_is_counted_and_listed(home, good_and_broken, tmp_path):
    labels = ("--labels", home.path / "labels.csv", "--target", "band_gap")
    done = crystalmax("fit", good_and_broken, *labels, "--no-vectors", "--out", tmp_path / "fit")
    assert done.code == 0, done.err
    skipped = pd.read_csv(tmp_path / "fit" / "skipped.csv")
    assert f"{len(skipped)} refused, see {tmp_path / 'fit' / 'skipped.csv'}" in done.out
    assert set(BROKEN) < set(skipped.key)
    assert (skipped.source == "labels").sum() == len(skipped) - len(BROKEN)
    assert crystalmax("verify", tmp_path / "fit").code == 0


def test_too_few_labels_leave_no_folder_behind(home, tmp_path):
    (tmp_path / "one.csv").write_text("file,gap\nNaCl-rocksalt,5.0\n")
    options = ("--labels", tmp_path / "one.csv", "--target", "gap", "--no-vectors", "--out", tmp_path / "fit")
    assert "two crystals are needed, and only 'NaCl-rocksalt'" in refusal("fit", home.cifs, *options)
    assert not (tmp_path / "fit").exists()


def test_labels_that_fit_no_structure_are_shown_beside_names_of_structures(home, tmp_path):
    (tmp_path / "labels.csv").write_text("file,gap\nsalt-1.cif,5.0\n")
    options = ("--labels", tmp_path / "labels.csv", "--target", "gap", "--out", tmp_path / "fit")
    line = refusal("fit", home.cifs, *options)
    assert "crystals have names such as 'CaCl-cesium'" in line
    assert "1 refused, first salt-1.cif: it has labels but no structure" in line


def test_networks_alone_give_no_intervals_and_say_so(home, tmp_path):
    options = ("--model", home.path / "model", "--out", tmp_path / "p.csv", "--coverage", 0.5)
    assert "gives no intervals" in refusal("predict", home.cifs, *options)


def test_no_result_at_all_is_a_failure(home, tmp_path):
    options = ("--model", home.path / "model", "--out", tmp_path / "p.csv", "--jobs", 1)
    (tmp_path / "empty.cif").write_text("")
    assert "it is empty" in refusal("predict", tmp_path / "empty.cif", *options)


def test_a_source_that_is_named_and_missing_is_a_failure(home, tmp_path):
    missing, out = tmp_path / "nowhere", tmp_path / "data"
    assert f"{missing}: there is no such file or folder" in refusal("ingest", home.cifs, missing, "--out", out)
    assert not out.exists()


def test_a_source_that_is_given_twice_is_a_failure(home, tmp_path):
    out = tmp_path / "data"
    assert f"{home.cifs} is given twice" in refusal("ingest", home.cifs, home.cifs / ".." / "cifs", "--out", out)
    assert not out.exists()


def test_what_cannot_be_written_is_known_before_anything_is_read(home, tmp_path, monkeypatch):
    monkeypatch.setattr("crystalmax.reading.ingest.records_of_files", lambda *_, **__: pytest.fail("it was read"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.csv").mkdir()
    said = f"cannot be written: '{tmp_path / 'file'}' is no folder; choose another place"
    for command, *model in (("represent",), ("predict", "--model", home.path / "model")):
        assert said in refusal(command, home.cifs, *model, "--out", tmp_path / "file" / "deeper" / "v.csv")
        assert "folder.csv is a folder" in refusal(command, home.cifs, *model, "--out", tmp_path / "folder.csv")
    for command in ("fit", "finetune"):
        options = ("--target", "band_gap", "--out")
        assert "model exists already" in refusal(command, *home.labelled, *options, home.path / "model")
        assert said in refusal(command, *home.labelled, *options, tmp_path / "file" / "model")
    assert said in refusal("evaluate", *home.labelled, "--target", "band_gap", "--out", tmp_path / "file")
    monkeypatch.setattr("os.access", lambda *_: False)
    options = ("--target", "band_gap", "--out", tmp_path / "model")
    assert f"model cannot be written: '{tmp_path}' may not be" in refusal("finetune", *home.labelled, *options)


def test_a_data_set_that_cannot_be_written_is_named(home, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    assert f"data cannot be written: '{tmp_path}' may not be" in refusal(
        "ingest", home.cifs, "--out", tmp_path / "data"
    )
    assert list(tmp_path.iterdir()) == []


def test_control_c_is_told_and_leaves_no_folder_behind(home, tmp_path, monkeypatch):
    monkeypatch.setattr("crystalmax.judging.assessment.feature_sets", mock.Mock(side_effect=KeyboardInterrupt))
    done = crystalmax("evaluate", *home.labelled, "--target", "band_gap", "--out", tmp_path / "out")
    assert (done.code, done.err) == (130, "crystalmax: interrupted\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("error", "is_worth"), [(0.4, True), (0.5, False), (0.6, False)])
def test_an_error_that_is_not_below_that_of_the_median_is_told_as_such(error, is_worth):
    told = beside_median(error, 0.5, 10)
    assert f"labels left out in turn {error}; of always answering the median 0.5" in told
    assert is_worth != told.endswith("no worse: what was learnt tells nothing of other crystals")
    assert beside_median(error, 0.5, 2) == f"{told}; of 2 labels both come out too low"


SLOW = """
import os, signal, sys
from time import sleep
from unittest import mock

from joblib import Parallel, delayed

from crystalmax.__main__ import main

def work():
    waiting = Parallel(2, return_as="generator_unordered")(delayed(sleep)(seconds) for seconds in (0, 600, 600))
    next(waiting)  # workers are there
    os.kill(os.getpid(), signal.SIGTERM)
    next(waiting)

sys.argv[1:] = ["demo"]
with mock.patch("crystalmax.demo.run", lambda *_, **__: work()):
    main()
"""


def test_sigterm_ends_workers_too_and_says_so_by_its_code():
    # Workers hold the pipes: one that stayed would keep this waiting.
    done = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr


@pytest.mark.parametrize("command", ["evaluate", "finetune"])
def test_a_misspelt_target_is_answered_with_the_known_ones(home, command, tmp_path):
    options = ("--target", "band_gip", "--model", home.path / "run", "--out", tmp_path / "out")
    line = refusal(command, *home.labelled, *options)
    assert "'band_gip'" in line
    assert "band_gap, mass" in line


def blocks(language):
    """The code blocks of the README in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_lines_of_the_readme_work(home, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cifs", "new_cifs", "structures"):
        shutil.copytree(home.cifs, name)
    shutil.copy(home.path / "labels.csv", "labels.csv")
    lines = [line for block in blocks("console") for line in block.splitlines() if "crystalmax" in line]
    assert len(lines) == 6
    for line in lines:
        prompt, command, *arguments = shlex.split(line, comments=True)
        assert (prompt, command) == ("$", "crystalmax")
        shorter = ["--epochs", 2] if arguments[0] in {"pretrain", "finetune"} else []
        shorter += ["--jobs", 1] if arguments[0] != "pretrain" else []
        assert crystalmax(*arguments, *shorter).code == 0, line
    assert len(pd.read_csv("predictions.csv")) == len(pd.read_parquet("vectors.parquet")) == 30

    (python,) = blocks("python")
    shorter = python.replace("Regressor.from_pretrained()", "Regressor.from_pretrained(epochs=1, folds=2)")
    files = sorted(home.cifs.iterdir())
    names = {"structures": files[:20], "values": list(range(20)), "others": files[20:]}
    with redirect_stdout(io.StringIO()) as out:
        exec(shorter, names)
    assert names["vectors"].shape == (20, 64)
    assert "epochs" in shorter
    assert len(out.getvalue().split()) >= 20


def test_the_walk_through_works_from_top_to_bottom(home, quick, tmp_path, monkeypatch):
    """The commands of the page, which it shows with what they print, and its Python, which goes on from them."""
    monkeypatch.chdir(tmp_path)
    for name in ("cifs", "new_cifs"):
        shutil.copytree(home.cifs, name)
    shutil.copy(home.path / "labels.csv", "labels.csv")
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    files = sorted(home.cifs.iterdir())
    names = {"structures": files[:20], "values": list(range(20)), "others": files[20:]}
    shorter = {"epochs=5": "epochs=1", 'from_pretrained("run").fit': 'from_pretrained("run", epochs=1, folds=2).fit'}
    called = []
    for language, block in re.findall(r"```(console|python)\n(.*?)```", page, flags=re.DOTALL):
        if language == "python":
            for old, new in shorter.items():
                block = block.replace(old, new)
            with redirect_stdout(io.StringIO()):
                exec(block, names)
        for line in re.findall(r"^\$ crystalmax (.*)", block, flags=re.MULTILINE):
            called.append(shlex.split(line, comments=True))
            quicker = ["--epochs", 1] if called[-1][0] in {"pretrain", "finetune"} else []
            quicker += ["--jobs", 1]  # processes of another test would look for the files in its folder
            done = crystalmax(*called[-1], *quicker)
            assert done.code == 0, (line, done.err)
    assert [arguments[0] for arguments in called].count("predict") == 2
    assert names["tuned"].objective_.labels == 20
    assert len(names["found"].scores.tested) == 26
    page = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    assert crystalmax("verify", "data", "run").out == page.split("$ crystalmax verify data run\n")[1].split("```")[0]


def test_wrong_inputs_are_answered_in_one_line(home, tmp_path):
    data, run, out = home.path / "data", home.path / "run", tmp_path / "out"
    assert "there is no such file" in refusal("ingest", tmp_path / "nowhere.cif", "--out", out, "--jobs", 1)
    assert not out.exists()
    assert "no shipped recipe is called papre; did you mean 'paper'" in refusal(
        "pretrain", data, "--out", out, "--recipe", "papre"
    )
    assert "manifest" in refusal("pretrain", home.cifs, "--out", out)
    assert "holds no run to resume" in refusal("pretrain", data, "--out", out, "--resume")
    assert "holds no trained model" in refusal("represent", home.cifs, "--model", data, "--out", tmp_path / "v.csv")
    assert f"{run} predicts nothing yet" in refusal("predict", home.cifs, "--model", run, "--out", tmp_path / "p.csv")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SiteNet", "SiteNett", "at encoder: crystalmax has no part 'SiteNett'; did you mean 'SiteNet'?"),
        ("hidden = 8 }", "hiden = 8 }", "SiteNet has no argument 'hiden'; did you mean 'hidden'?"),
        ("AllPairs", "os.system", "refusing to import 'os.system'"),
        ("[training]", "[trainig]", "unknown parts: trainig"),
        ("[training]\n", '[training]\nuse = "mine.Training"\n', "a table without `use`"),
        ("sites_per_batch", "sites_a_batch", "has no argument 'sites_a_batch'; did you mean 'sites_per_batch'?"),
        ("[objective]", "[objectiv]", "no [objective]"),
    ],
)
def test_mistakes_in_a_recipe_are_named(home, tmp_path, old, new, message):
    (tmp_path / "wrong.toml").write_text(RECIPE.replace(old, new), encoding="utf-8")
    line = refusal("pretrain", home.path / "data", "--out", tmp_path / "run", "--recipe", tmp_path / "wrong.toml")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_recipe_may_use_parts_of_a_package_that_is_trusted(home, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    call = ("pretrain", home.path / "data", "--recipe", ROOT / "examples" / "my_recipe.toml", "--epochs", 1, "--out")
    assert "refusing to import 'my_lab.PlainMeans'" in refusal(*call, tmp_path / "refused")
    assert crystalmax(*call, tmp_path / "run", "--trust", "my_lab").code == 0
    model = load(tmp_path / "run", trusted=("my_lab",))
    assert type(model.encoder).__name__ == "PlainMeans"
    vectors = CrystalFeaturizer(model.encoder, geometry=model.geometry, statistics=False).transform(
        sorted(home.cifs.iterdir())
    )
    assert vectors.shape == (30, 32)
    assert np.isfinite(vectors).all()


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest", "cifs"),
        ("ingest", "cifs", "--out", "d", "--no-such-option"),
        ("pretrain", "data", "--out", "run", "--epochs", "many"),
        ("pretrain", "data", "--out", "run", "--epochs", "1.5"),
        ("fit", "cifs", "--target", "gap", "--out", "d", "--jobs", "2.5"),
        ("pretrain", "data", "--out", "run", "--accelerator", "abacus"),
        ("represent", "cifs", "--model", "run", "--out", "vectors.xls"),
        ("pretrain", "data", "--out", "run", "--seed", "-1"),
        *((command, "cifs", "--target", "gap", "--out", "d", "--seed", "-1") for command in ("evaluate", "fit")),
        ("finetune", "cifs", "--target", "gap", "--out", "d", "--seed", "5000000000"),
        ("study", "paper", "--data", "cifs", "--out", "d", "--seed", "-1"),
        ("pretain",),
    ],
)
def test_wrong_usage_exits_with_two(arguments):
    done = crystalmax(*arguments)
    assert done.code == 2
    assert "Traceback" not in done.err


def test_help_is_quick_because_it_imports_nothing_heavy():
    script = (
        "import sys, time\nfrom crystalmax.__main__ import main\nsys.argv = ['crystalmax', 'pretrain', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'sklearn'} & set(sys.modules)), time.process_time())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True) for _ in range(2)
    ]
    assert "--resume" in runs[0].stdout
    endings = [run.stdout.splitlines()[-1].rsplit(maxsplit=1) for run in runs]
    assert {imported for imported, _ in endings} == {"[]"}
    assert min(float(seconds) for _, seconds in endings) < 1  # about half, on a busy machine


def test_python_runs_the_package_as_the_command():
    command = [sys.executable, "-m", "crystalmax", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == __version__


@pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell closes the stream")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_goes_on_where_nobody_listens(tmp_path, closed):
    for metal in ("Na", "K"):
        (tmp_path / f"{metal}.cif").write_text(cif(metal, "Cl", "rocksalt"), encoding="utf-8")
    command = shlex.join([sys.executable, "-m", "crystalmax", "ingest", ".", "--out", "data", "--jobs", "2"])
    subprocess.run(f"{command} {closed}", shell=True, cwd=tmp_path, check=True)
    assert len(CrystalDataset.open(tmp_path / "data")) == 2


def test_what_is_done_has_not_failed_where_its_name_cannot_be_printed(tmp_path):
    (tmp_path / "salt.cif").write_text(cif("Na", "Cl", "rocksalt"), encoding="utf-8")
    command = [sys.executable, "-m", "crystalmax", "ingest", "salt.cif", "--out", "é Δ", "--jobs", "1"]
    poor = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True, env=poor)
    assert "1 crystals with 2 sites in \\xe9 \\u0394\n" in done.stdout
    assert len(CrystalDataset.open(tmp_path / "é Δ")) == 1


def test_a_failing_process_prints_one_line_and_exits_with_one(tmp_path):
    command = [sys.executable, "-m", "crystalmax", "ingest", "nowhere.cif", "--out", "d"]
    done = subprocess.run([*command, "--jobs", "1"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "there is no such file" in done.stderr
