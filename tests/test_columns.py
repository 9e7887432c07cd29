"""Arrays on disk: what is made once, mapped, and forgotten between two looks."""

import re
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config

from crystalmax import columns
from crystalmax.columns import standardised
from crystalmax.dataset import CrystalDataset, DatasetWriter
from crystalmax.mapping import forget, mapped
from crystals import rock_salt, some_crystals


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
        found = standardised(data, rows, numbers, 3, tmp_path / "made.f4")
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
    first = standardised(data, np.arange(5), numbers, 3, path)
    np.testing.assert_array_equal(standardised(data, np.arange(5), fails, 3, path), first)
    path.write_bytes(b"cut off")
    with pytest.raises(ValueError, match="has 7 bytes where 60 are expected; remove it, and it is made anew"):
        standardised(data, np.arange(5), fails, 3, path)


def test_numbers_that_cannot_be_made_leave_no_file(tmp_path):
    with pytest.raises(ZeroDivisionError):
        standardised(many(5), np.arange(5), lambda crystals: 1 // 0, 3, tmp_path / "made.f4")
    assert {path.name for path in tmp_path.iterdir()} <= {"made.lock"}


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells what is resident")
def test_what_was_read_of_a_map_does_not_stay(tmp_path):
    def resident():
        (entry,) = re.findall(
            rf"{re.escape(str(path))}\n.*?Rss:\s+(\d+) kB", Path("/proc/self/smaps").read_text(), re.S
        )
        return int(entry)

    path = tmp_path / "numbers.f8"
    np.arange(2.0**20).tofile(path)
    array = mapped(path, 2**23, "again")
    view = array.reshape(-1, 2)
    assert view[::256].sum() > 0
    assert resident() > 4000
    forget(view)
    assert resident() == 0
    assert view[-1, -1] == 2**20 - 1


def test_only_maps_that_cannot_be_written_to_are_forgotten(tmp_path):
    path = tmp_path / "numbers.f8"
    np.zeros(1000).tofile(path)
    array = np.memmap(path, dtype="<f8", mode="c")
    array[:] = 1
    forget(array)
    assert array.sum() == 1000
    forget(np.ones(3))


def test_batches_of_a_mapped_data_set_do_not_stay_in_memory(tmp_path, monkeypatch):
    forgotten = []
    monkeypatch.setattr("crystalmax.dataset.forget", lambda array: forgotten.append(array))
    with DatasetWriter(tmp_path / "data", provenance={}) as writer:
        for crystal in some_crystals():
            writer.add(crystal)
    values = np.ones((6, 2), dtype=np.float32)
    data = CrystalDataset.open(tmp_path / "data").with_targets(("x", "y"), values)
    for _ in range(4):
        assert not forgotten
        batch = data.batch(np.array([1, 2]))
    assert batch.targets["y"].tolist() == [1.0, 1.0]
    for name in ("lattice", "site_end", "position", "species", "target", "key", "key_end"):
        assert sum(array is getattr(data, name) for array in forgotten) == 1
    assert sum(array is values for array in forgotten) == 1
