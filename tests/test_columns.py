"""Numbers of every crystal that are made once and kept on disk."""

import json

import numpy as np
import pytest
from joblib import parallel_config

from crystalmax.storage import columns
from crystalmax.storage.columns import standardised
from crystalmax.storage.dataset import CrystalDataset
from crystalmax.storage.writing import checksum
from crystals import rock_salt


def numbers(crystals):
    return np.array([[crystal.volume / 100, len(crystal.kinds), 3.0] for crystal in crystals])


def many(count):
    return CrystalDataset.from_crystals([rock_salt(a=5 + 0.01 * n, key=str(n)) for n in range(count)])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_numbers_are_those_of_the_crystals_in_deviations_of_a_sample(n_jobs, tmp_path, monkeypatch):
    for name, value in {"_CHUNK": 3, "_BLOCK": 5, "SAMPLE": 8}.items():
        monkeypatch.setattr(columns, name, value)
    data, rows = many(23), np.setdiff1d(np.arange(23), [0, 7, 22])
    with parallel_config(backend="threading", n_jobs=n_jobs):
        found = standardised(data, rows, numbers, 3, tmp_path / "made.f4")[:]
    assert found.dtype == np.float32
    assert np.flatnonzero(np.isnan(found).any(axis=1)).tolist() == [0, 7, 22]
    exact = numbers([data[row] for row in rows])
    sample = exact[np.sort(np.random.default_rng(0).choice(20, 8, replace=False))]
    np.testing.assert_allclose(found[rows, 0], (exact[:, 0] - sample[:, 0].mean()) / sample[:, 0].std(), rtol=1e-6)
    assert not found[rows, 1:].any()  # the same for all
    assert {path.name for path in tmp_path.iterdir()} <= {"made.f4", "made.json", "made.lock"}


def test_numbers_that_are_there_are_not_made_again(tmp_path):
    def fails(crystals):
        raise AssertionError

    data, path = many(5), tmp_path / "made.f4"
    first = standardised(data, np.arange(5), numbers, 3, path)[:]
    np.testing.assert_array_equal(standardised(data, np.arange(5), fails, 3, path)[:], first)
    path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="has 7 bytes where 60 are expected; remove it, and it is made anew"):
        standardised(data, np.arange(5), fails, 3, path)


def test_what_was_kept_meanwhile_goes_also_after_a_kill_at_the_end(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    data, path = many(5), tmp_path / "made.f4"
    with monkeypatch.context() as patch:
        patch.setattr(columns, "checksum", killed)
        with pytest.raises(KeyboardInterrupt):
            standardised(data, np.arange(5), numbers, 3, path)
    assert path.with_suffix(".f8").exists()
    standardised(data, np.arange(5), numbers, 3, path)
    assert json.loads(path.with_suffix(".json").read_bytes()) == checksum(path)
    assert not path.with_suffix(".f8").exists()


@pytest.mark.parametrize("n_kept", [0, 6, 8])
def test_numbers_that_are_made_before_an_interruption_are_not_made_again(n_kept, tmp_path, monkeypatch, caplog):
    for name, value in {"_CHUNK": 2, "_SECONDS_BETWEEN_LINES": -1.0}.items():
        monkeypatch.setattr(columns, name, value)
    data, rows, path, made, settled = many(11), np.arange(1, 11), tmp_path / "made.f4", [], []
    monkeypatch.setattr(columns, "settle", lambda raw: settled.append(raw.stat().st_size))

    def interrupted(crystals):
        if len(made) == n_kept:
            raise KeyboardInterrupt
        made.extend(crystal.key for crystal in crystals)
        return numbers(crystals)

    with pytest.raises(KeyboardInterrupt):
        standardised(data, rows, interrupted, 3, path)
    assert {each.name for each in tmp_path.iterdir()} <= {"made.f8", "made.lock"}
    assert settled == [48 * number for number in range(1, n_kept // 2 + 1)]  # bytes of two rows each
    with path.with_suffix(".f8").open("ab") as file:
        file.write(b"half" * 3)  # of a row, as a kill would leave it

    def goes_on(crystals):
        made.extend(crystal.key for crystal in crystals)
        return numbers(crystals)

    with caplog.at_level("INFO"):
        found = standardised(data, rows, goes_on, 3, path)[:]
    assert made == [data[row].key for row in rows]  # each once
    np.testing.assert_array_equal(found, standardised(data, rows, numbers, 3, tmp_path / "whole.f4")[:])
    assert f"of each of {10 - n_kept} crystals" in caplog.text
    assert "made those of 10 of 10 crystals" in caplog.text
    assert not path.with_suffix(".f8").exists()


@pytest.mark.parametrize("lost", [0.0, np.nan])
def test_rows_that_a_crash_of_the_machine_lost_are_made_again(lost, tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "_BLOCK", 4)
    data, rows, path = many(11), np.arange(11), tmp_path / "made.f4"
    kept = numbers(list(data))[:9]
    kept[6:] = lost
    kept.tofile(path.with_suffix(".f8"))
    again = []

    def goes_on(crystals):
        again.extend(crystal.key for crystal in crystals)
        return numbers(crystals)

    found = standardised(data, rows, goes_on, 3, path)[:]
    assert again == [data[row].key for row in rows[6:]]
    np.testing.assert_array_equal(found, standardised(data, rows, numbers, 3, tmp_path / "whole.f4")[:])
