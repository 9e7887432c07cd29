"""Numbers of every crystal that are made once and kept on disk."""

import numpy as np
import pytest
from joblib import parallel_config

from crystalmax import columns
from crystalmax.columns import standardised
from crystalmax.dataset import CrystalDataset
from crystals import rock_salt


def numbers(crystals):
    return np.array([[crystal.volume, len(crystal.kinds), 3.0] for crystal in crystals])


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
    assert {path.name for path in tmp_path.iterdir()} <= {"made.f4", "made.lock"}


def test_numbers_that_are_there_are_not_made_again(tmp_path):
    def fails(crystals):
        raise AssertionError

    data, path = many(5), tmp_path / "made.f4"
    first = standardised(data, np.arange(5), numbers, 3, path)[:]
    np.testing.assert_array_equal(standardised(data, np.arange(5), fails, 3, path)[:], first)
    path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="has 7 bytes where 60 are expected; remove it, and it is made anew"):
        standardised(data, np.arange(5), fails, 3, path)


def test_numbers_that_cannot_be_made_leave_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        standardised(many(5), np.arange(5), lambda crystals: 1 // 0, 3, tmp_path / "made.f4")
    assert {path.name for path in tmp_path.iterdir()} <= {"made.lock"}
