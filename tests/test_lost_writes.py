"""Writes that were reported as done and are lost in part: files cut short anywhere, or full of zeros at their end."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

import test_training as training
from crystalmax.seen import FILE, Seen
from crystalmax.study import runner
from crystalmax.study.cell import Cell, Result
from crystals import some_crystals

FRACTIONS = (0.0, 0.01, 0.5, 0.9, 0.97)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    training.run(folder)
    return (folder / "last.ckpt").read_bytes()


def lose(path, fraction, *, zeros):
    """What a crash may leave of a file: its beginning, alone or followed by zeros."""
    content = path.read_bytes()
    kept = int(fraction * len(content))
    path.write_bytes(content[:kept] + (b"\0" * (len(content) - kept) if zeros else b""))
    assert path.read_bytes() != content


def result(calls):
    calls.append(1)
    return Result(pd.DataFrame({"part": ["toy"], "mae": [0.5]}), {"numbers": np.arange(300.0)})


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("ending", ["parquet", "npz", "json"])
def test_a_cell_of_a_study_is_run_again(ending, zeros, tmp_path):
    calls = []
    cells = [Cell("toy/one", partial(result, calls))]
    runner.run(cells, tmp_path)
    runner.run(cells, tmp_path)
    assert len(calls) == 1
    whole = {path: path.read_bytes() for path in tmp_path.glob("toy/*") if path.suffix != ".json"}
    for number, fraction in enumerate(FRACTIONS, start=2):
        lose(tmp_path / "toy" / f"one.{ending}", fraction, zeros=zeros)
        (outcome,) = runner.run(cells, tmp_path)
        assert outcome.error == ""
        assert len(calls) == number
        assert {path: path.read_bytes() for path in whole} == whole


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_checkpoint_is_refused(fraction, zeros, tmp_path, checkpoint):
    (tmp_path / "last.ckpt").write_bytes(checkpoint)
    lose(tmp_path / "last.ckpt", fraction, zeros=zeros)
    with pytest.raises(ValueError, match=r"last.ckpt was cut short or damaged, .* remove it to begin anew"):
        training.run(tmp_path)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_list_of_structures_is_refused(fraction, zeros, tmp_path):
    Seen.of(some_crystals()).save(tmp_path)
    lose(tmp_path / FILE, fraction, zeros=zeros)
    with pytest.raises(ValueError, match="is no list of structures"):
        Seen.load(tmp_path)
