"""Cells run once, in any number of attempts; errors stay with the cell that made them."""

import time
from functools import partial

import numpy as np
import pandas as pd
import pytest

from crystalmax.study import runner
from crystalmax.study.cell import Cell, Result
from crystalmax.study.runner import Forecast


def counted(log, name, draws=1):
    log.append(name)
    rows = pd.DataFrame({"part": "toy", "method": name, "draw": np.arange(draws), "mae": 0.5})
    return Result(rows, {"numbers": np.arange(3.0)})


def failing(log, name):
    log.append(name)
    raise ValueError("this cell cannot work")


@pytest.fixture(autouse=True)
def commit(monkeypatch):
    monkeypatch.setattr(runner, "commit", lambda: "abc")


def test_cells_run_once_and_leave_rows_and_arrays(tmp_path):
    log = []
    cells = [Cell(f"toy/{name}", partial(counted, log, name, 2)) for name in "bac"]
    outcomes = runner.run([*cells, cells[0]], tmp_path)
    assert log == ["b", "a", "c"]
    assert [outcome.error for outcome in outcomes] == [""] * 3
    rows = runner.rows_of(tmp_path)
    assert rows.method.tolist() == list("aabbcc")
    assert rows.draw.tolist() == [0, 1] * 3
    assert set(rows.commit) == {"abc"}
    np.testing.assert_array_equal(runner.arrays_in(tmp_path, "toy/a")["numbers"], np.arange(3.0))
    assert runner.times_in(tmp_path).cell.tolist() == ["toy/a", "toy/b", "toy/c"]
    runner.run(cells, tmp_path)
    assert log == ["b", "a", "c"]


def test_a_cell_that_fails_does_not_stop_the_others_and_is_tried_again(tmp_path, caplog):
    log = []
    cells = [Cell("toy/bad", partial(failing, log, "bad")), Cell("toy/good", partial(counted, log, "good"))]
    outcomes = runner.run(cells, tmp_path)
    assert log == ["bad", "good"]
    assert "ValueError: this cell cannot work" in outcomes[0].error
    assert "toy/bad failed: ValueError: this cell cannot work" in caplog.text
    assert runner.names_in(tmp_path) == ["toy/good"]
    runner.run(cells, tmp_path)
    assert log == ["bad", "good", "bad"]


def test_a_file_that_was_cut_off_is_not_taken_for_a_result(tmp_path):
    log = []
    cell = Cell("toy/one", partial(counted, log, "one"))
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "one.parquet.partial").write_bytes(b"PAR1")
    (tmp_path / "toy" / "one.npz").write_bytes(b"")
    assert len(runner.rows_of(tmp_path)) == 0
    runner.run([cell], tmp_path)
    assert log == ["one"]
    assert len(runner.rows_of(tmp_path)) == 1


def test_whole_numbers_stay_whole_where_a_part_has_none(tmp_path):
    with_counts = Cell("a/one", lambda: Result(pd.DataFrame({"part": ["a"], "labels": [50]})))
    without = Cell("b/one", lambda: Result(pd.DataFrame({"part": ["b"], "loss": [0.5]})))
    runner.run([with_counts, without, Cell("networks/one", lambda: Result(pd.DataFrame()))], tmp_path)
    rows = runner.rows_of(tmp_path)
    assert rows.labels.iloc[0] == 50
    assert pd.api.types.is_integer_dtype(rows.labels.dtype)
    assert len(rows) == 2
    assert list(runner.rows_of(tmp_path, prefix="a/").part) == ["a"]


def test_the_forecast_knows_what_cells_of_a_part_took(tmp_path):
    def slept(seconds):
        time.sleep(seconds)
        return Result(pd.DataFrame())

    cells = [Cell(f"slow/{i}", partial(slept, 0.2), cost=2) for i in range(3)]
    cells += [Cell(f"quick/{i}", partial(slept, 0.0), cost=100) for i in range(3)]
    told = []
    runner.run(cells, tmp_path, report=told.append)
    assert [forecast.done for forecast in told] == list(range(7))
    assert {forecast.total for forecast in told} == {6}
    assert told[0].seconds is None
    assert told[4].seconds < 0.2  # two quick cells, of which one is known by now
    assert told[-1].seconds == 0
    again = []
    runner.run(cells, tmp_path, report=again.append)
    assert [forecast.done for forecast in again] == [6]


@pytest.mark.parametrize(
    ("forecast", "words"),
    [
        (Forecast(0, 5, None, 0), "no forecast yet"),
        (Forecast(1, 5, 42.0, 0), "about 42 s to go"),
        (Forecast(1, 5, 4000.0, 2), "about 66 min to go; 2 failed"),
    ],
)
def test_a_forecast_is_a_sentence(forecast, words):
    assert forecast.sentence == words
