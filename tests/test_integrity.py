"""Every byte counts: whatever is cut, flipped, removed or added is named; what carries no checksum is said to."""

import json
import shutil
from contextlib import suppress
from functools import partial

import numpy as np
import pandas as pd
import pytest

from crystalmax.checkpoint import Model, save
from crystalmax.encoders import SiteNet
from crystalmax.geometry import AllPairs
from crystalmax.integrity import verify
from crystalmax.judging.report import write_report
from crystalmax.learning.training import Split, Training, train
from crystalmax.objectives import DeepInfoMax
from crystalmax.prediction import write
from crystalmax.spec import seeded_weights
from crystalmax.storage.columns import standardised
from crystalmax.storage.dataset import CrystalDataset, DatasetWriter
from crystalmax.storage.manifest import CONTENT
from crystalmax.storage.writing import at_once, checksum, checksums, folder_at_once, hash_of, write_json
from crystalmax.study import runner
from crystalmax.study.cell import Cell, Result
from crystals import some_crystals
from disks import full_disk
from test_cli import crystalmax


def write_dataset(path):
    with DatasetWriter(path, provenance={}) as writer:
        for one in some_crystals():
            writer.add(one)
        (writer.folder / "skipped.csv").write_text("key,source,reason,remedy\n")
    return path


def objective():
    with seeded_weights(0):
        return DeepInfoMax(SiteNet(site_width=4, crystal_width=6, hidden=8))


def write_model(path):
    save(Model(objective(), AllPairs(max_sites=12), {}), path)
    return path


def found(name):
    return Result(pd.DataFrame({"part": [name], "mae": [0.5]}), {"numbers": np.arange(30.0)})


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A data set, a model, a run that was trained, and a study with all of these."""
    home = tmp_path_factory.mktemp("kept")
    data = write_dataset(home / "data")
    write_model(home / "model")

    made = objective()
    rows = np.arange(6)
    how = Training(epochs=1, sites_per_batch=14)
    geometry = AllPairs(max_sites=12)
    train(made, CrystalDataset.open(data), Split(rows, rows[:0]), how, geometry=geometry, folder=home / "run")
    save(Model(made, geometry, {}), home / "run")
    study = home / "study"
    shutil.copytree(data, study / "data" / "salts")
    shutil.copytree(home / "run", study / "networks" / "abc")
    runner.run([Cell(f"toy/{name}", partial(found, name)) for name in "ab"], study / "cells")
    np.save(study / "networks" / "vectors.npy", np.arange(12.0))
    write_json(study / "study.json", {"seed": 0})
    return home


@pytest.fixture
def copies(kept, tmp_path):
    shutil.copytree(kept, tmp_path / "kept")
    return tmp_path / "kept"


@pytest.mark.parametrize(
    ("kind", "n_compared", "n_read"), [("data", 8, 0), ("model", 1, 0), ("run", 1, 5), ("study", 9, 13)]
)
def test_what_was_written_is_sound(kind, n_compared, n_read, kept):
    result = verify(kept / kind)
    assert result.faults == ()
    assert result.notes == ()
    assert (result.n_compared, result.n_read) == (n_compared, n_read)


def files_of(kind):
    arrays = ["lattice.f8", "site_end.i8", "position.f4", "species.i4", "key.u1", "key_end.i8", "skipped.csv"]
    cell = ["cells/toy/a.parquet", "cells/toy/a.npz", "cells/toy/b.json"]
    return {
        "data": [*arrays, "manifest.json"],
        "model": ["weights.safetensors", "spec.json"],
        "run": ["weights.safetensors", "spec.json", "last.ckpt", "history.jsonl"],
        "study": [*cell, "networks/vectors.npy", "networks/abc/weights.safetensors", "data/salts/lattice.f8"],
    }[kind]


EVERY = [(kind, name) for kind in ("data", "model", "run", "study") for name in files_of(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_a_file_that_was_cut_short_is_named(kind, name, copies):
    file = copies / kind / name
    file.write_bytes(file.read_bytes()[:-3])
    (fault, *_) = verify(copies / kind).faults
    assert name.rpartition("/")[2] in fault or str(file.parent) in fault
    assert fault.endswith(".")


LISTED = [each for each in EVERY if each[1].endswith((".safetensors", "8", "4", "1", ".csv"))]


@pytest.mark.parametrize(("kind", "name"), LISTED)
def test_one_bit_is_enough(kind, name, copies):
    file = copies / kind / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (fault,) = verify(copies / kind).faults
    assert fault == f"{file} is damaged: its bytes are not those that were written; make it again, or get another copy."


def test_one_bit_is_enough_in_numbers_that_were_made_for_training(copies):
    def volumes(crystals):
        return np.array([[crystal.volume] for crystal in crystals])

    file = copies / "run" / "statistics-1.f4"
    standardised(CrystalDataset.open(copies / "data"), np.arange(6), volumes, 1, file)
    assert verify(copies / "run").faults == ()
    file.write_bytes(bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:])
    (fault,) = verify(copies / "run").faults
    assert fault.startswith(f"{file} is damaged (its bytes are not those of which statistics-1.json has the checksum)")


def test_what_lies_beside_a_damaged_spec_is_looked_at_too(copies):
    for name in ("spec.json", "last.ckpt"):
        (copies / "run" / name).write_bytes(b"{")
    spec, checkpoint = verify(copies / "run").faults
    assert str(copies / "run") in spec
    assert checkpoint.startswith(f"{copies / 'run' / 'last.ckpt'} is damaged")


def test_a_plan_that_was_changed_by_hand_is_named(copies):
    file = copies / "run" / "run.json"
    write_json(file, {"seed": 1, "content_hash": hash_of({"seed": 0})})
    assert verify(copies / "run").faults == (
        f"{file} is damaged (it is not as it was written); make it again, or get another copy.",
    )


def test_the_model_that_a_run_started_from_is_looked_at(copies):
    shutil.copytree(copies / "model", copies / "run" / "start")
    assert verify(copies / "run").n_compared == 2
    (copies / "run" / "start" / "weights.safetensors").write_bytes(b"")
    (fault,) = verify(copies / "run").faults
    assert fault.startswith(f"{copies / 'run' / 'start' / 'weights.safetensors'} has 0 bytes")


def test_a_file_in_a_folder_within_a_data_set_is_one_too_many(copies):
    (copies / "data" / "sub").mkdir()
    (copies / "data" / "sub" / "lattice.f8").write_bytes(b"")
    (fault,) = verify(copies / "data").faults
    assert fault.startswith(f"{copies / 'data' / 'sub' / 'lattice.f8'} is not in the manifest")


@pytest.mark.parametrize(("kind", "name"), LISTED)
def test_a_file_that_is_missing_is_named(kind, name, copies):
    (copies / kind / name).unlink()
    (fault,) = verify(copies / kind).faults
    assert fault.startswith(f"{copies / kind / name} is missing")


def test_a_file_too_many_is_named(copies):
    (copies / "data" / "more.f8").write_bytes(b"")
    assert verify(copies / "data").faults == (
        f"{copies / 'data' / 'more.f8'} is not in the manifest of the data set; remove it.",
    )
    left_over = copies / "study" / "cells" / "toy" / "c.parquet.partial"
    left_over.write_bytes(b"PAR1")
    assert verify(copies / "study").faults == (f"{left_over} is left over from a write that was cut off; remove it.",)


def forget(path, *entries):
    plain = json.loads(path.read_text())
    path.write_text(json.dumps({name: plain[name] for name in plain if name not in entries}))


@pytest.mark.parametrize(
    ("folder", "name", "entry", "said"),
    [
        ("data", "manifest.json", "beside", "it is incomplete (KeyError: 'beside')"),
        ("data", "manifest.json", "sha256", "it is incomplete (KeyError: 'sha256')"),
        ("data", "manifest.json", "content_hash", "it is incomplete (KeyError: 'content_hash')"),
        ("model", "spec.json", "files", "lists files in a way that weights.safetensors cannot be compared with"),
        ("model", "spec.json", "content_hash", "is not as it was saved"),
    ],
)
def test_checksums_cannot_be_left_out(folder, name, entry, said, copies):
    forget(copies / folder / name, entry)
    (fault,) = verify(copies / folder).faults
    assert said in fault


def test_a_run_that_has_not_ended_is_no_fault(copies):
    run = copies / "run"
    (run / "spec.json").unlink()
    (run / "weights.safetensors").unlink()
    write_json(run / "run.json", {})
    result = verify(run)
    assert result.faults == ()
    assert "go on with it by --resume" in result.notes[0]


def rewrite(folder, name, array):
    """What a stranger can do, who knows how to compute a checksum."""
    array.tofile(folder / name)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"][name] = checksum(folder / name)["sha256"]
    manifest["content_hash"] = hash_of({each: manifest[each] for each in CONTENT})
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "row", "value", "said"),
    [
        ("site_end.i8", 1, -4, "does not rise from crystal to crystal"),
        ("site_end.i8", 1, 2, "does not rise from crystal to crystal"),
        ("site_end.i8", 1, 2**50, "does not rise from crystal to crystal"),
        ("key_end.i8", 2, 0, "does not rise from crystal to crystal"),
        ("species.i4", 3, 99, "names species beyond the 12 of the manifest"),
        ("species.i4", 3, -1, "names species beyond the 12 of the manifest"),
        ("lattice.f8", 3, np.nan, "holds numbers that are not finite"),
        ("position.f4", 3, np.inf, "holds numbers that are not finite"),
    ],
)
def test_arrays_that_cannot_be_are_named_whatever_their_checksums_say(name, row, value, said, copies):
    array = np.fromfile(copies / "data" / name, f"<{name[-2:]}")
    array[row] = value
    rewrite(copies / "data", name, array)
    (fault,) = verify(copies / "data").faults
    assert fault.startswith(f"{copies / 'data' / name} {said}")


def test_the_command_names_faults_and_ends_with_1(copies):
    done = crystalmax("verify", copies / "data", copies / "model")
    assert done.code == 0
    assert f"{copies / 'data'}: 8 files are as they were written; 0 more" in done.out
    (copies / "data" / "key.u1").unlink()
    done = crystalmax("verify", copies / "data", copies / "model")
    assert done.code == 1
    assert f"{copies / 'data' / 'key.u1'} is missing; make it again, or get another copy." in done.out
    assert done.err == "crystalmax: faults found: 1; they are named above\n"


@pytest.mark.parametrize(("name", "said"), [("", "no data set, run, model or study"), ("x", "a file, not a folder")])
def test_what_is_none_of_these_is_refused(name, said, tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match=f"{said}; give a folder"):
        verify(tmp_path / name)


def test_paths_may_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (write_dataset("data"), write_model("model")):
        assert not verify(folder).faults
    assert write_report("reports/page.html", "of nothing", None).is_file()


def test_a_file_appears_at_once_or_not_at_all(tmp_path):
    path = tmp_path / "x"
    with at_once(path) as file:
        file.write(b"old")
        assert not path.exists()
    with suppress(KeyboardInterrupt), at_once(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    with full_disk(1), pytest.raises(OSError, match="No space left"):
        write_json(path, {})
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"x": b"old"}
    assert checksums([path])["x"]["bytes"] == 3


def test_of_two_writers_of_one_file_neither_spoils_what_the_other_writes(tmp_path):
    path = tmp_path / "x"
    with at_once(path) as first:
        first.write(b"first")
        with at_once(path) as second:
            second.write(b"sec")
            second.flush()
            first.flush()
            assert not path.exists()
        assert path.read_bytes() == b"sec"
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"x": b"first"}


def test_a_folder_has_one_writer_at_a_time(tmp_path):
    with folder_at_once(tmp_path / "x") as folder:
        (folder / "file").write_text("first")
        with pytest.raises(BlockingIOError, match="another job is writing"), folder_at_once(tmp_path / "x"):
            pass
    assert [path.name for path in tmp_path.rglob("*")] == ["x", "file"]


def test_a_table_of_results_appears_at_once_or_not_at_all(tmp_path):
    table = pd.DataFrame({"id": ["a"] * 300, "prediction": 1.0, "refusal": "", "note": ""})
    for name in ("x.csv", "x.parquet"):
        write(table, tmp_path / name)
        before = (tmp_path / name).read_bytes()
        with full_disk(1), pytest.raises(OSError, match="No space left"):
            write(table.assign(prediction=2.0), tmp_path / name)
        assert (tmp_path / name).read_bytes() == before


def test_names_of_files_command_no_terminal(tmp_path):
    (write_dataset(tmp_path / "data") / "a\x1b[2J").write_text("")
    done = crystalmax("verify", tmp_path / "data")
    assert done.code == 1
    assert "a?[2J is not in the manifest" in done.out
