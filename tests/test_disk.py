"""Arrays on disk: whatever rows are asked for, they are those of the file, however the system gives them."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.storage import disk
from crystalmax.storage.disk import DiskArray

NUMBERS = np.arange(40 * 3 * 2, dtype="<f4").reshape(40, 3, 2)


@pytest.fixture
def path(tmp_path):
    NUMBERS.tofile(tmp_path / "numbers.f4")
    return tmp_path / "numbers.f4"


def opened(path, shape=NUMBERS.shape):
    return DiskArray(path, shape, "make it again")


def read_in_parts(monkeypatch):
    """As a system that never gives more than five bytes at once."""
    whole = os.preadv
    monkeypatch.setattr(disk.os, "preadv", lambda file, views, begin: whole(file, [views[0][:5]], begin))


def read_without_places(monkeypatch):
    """As a system that can only read on from where a file stands."""
    monkeypatch.delattr(disk.os, "preadv")


@pytest.fixture(params=[None, read_in_parts, read_without_places])
def system(request, monkeypatch):
    if request.param:
        request.param(monkeypatch)


@given(data=st.data())
def test_any_rows_are_those_of_the_file(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / "numbers.f4"
    NUMBERS.tofile(path)
    rows = np.array(data.draw(st.lists(st.integers(0, 39))), dtype=np.int64)
    stretch = slice(*data.draw(st.tuples(*[st.none() | st.integers(-50, 50)] * 2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "SMALL", data.draw(st.sampled_from([0, 2**24])))
        np.testing.assert_array_equal(opened(path)[rows], NUMBERS[rows])
    np.testing.assert_array_equal(opened(path)[stretch], NUMBERS[stretch])


@pytest.mark.parametrize("small", [0, 2**24])
def test_every_system_gives_the_same_rows(small, path, system, monkeypatch):
    monkeypatch.setattr(disk, "SMALL", small)
    rows = np.array([3, 4, 5, 39, 0, 0, 7, 6])
    array = opened(path)
    np.testing.assert_array_equal(array[rows], NUMBERS[rows])
    np.testing.assert_array_equal(array[:], NUMBERS)
    assert len(array) == 40


def test_threads_may_share_one(path, system, monkeypatch):
    monkeypatch.setattr(disk, "SMALL", 0)
    array, rng = opened(path), np.random.default_rng(0)
    wanted = [rng.integers(0, 40, 20) for _ in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for rows, found in zip(wanted, pool.map(array.__getitem__, wanted), strict=True):
            np.testing.assert_array_equal(found, NUMBERS[rows])


def test_rows_without_numbers_and_no_rows_are_read(path, tmp_path):
    (tmp_path / "empty.f8").touch()
    assert opened(tmp_path / "empty.f8", (7, 0))[np.array([2, 6])].shape == (2, 0)
    assert opened(tmp_path / "empty.f8", (0, 3))[:].shape == (0, 3)
    assert opened(path)[np.array([], dtype=np.int64)].shape == (0, 3, 2)


@pytest.mark.parametrize("row", [-1, 40])
def test_rows_that_are_not_there_are_refused(row, path):
    with pytest.raises(IndexError, match=r"numbers.f4 has 40 rows; rows .* were asked for"):
        opened(path)[np.array([3, row])]


def test_gaps_are_refused(path):
    with pytest.raises(IndexError, match=r"is read without gaps; take steps of 2 through what `\[:\]` gives"):
        opened(path)[::2]


def test_another_size_is_refused(path):
    with pytest.raises(ValueError, match=r"numbers.f4 has 960 bytes where 984 are expected; make it again"):
        opened(path, (41, 3, 2))
    with pytest.raises(ValueError, match=r"gone.f4 is missing; "):
        opened(path.with_name("gone.f4"))


def test_a_file_that_is_cut_short_while_in_use_is_noticed(path, system, monkeypatch):
    monkeypatch.setattr(disk, "SMALL", 0)
    array = opened(path)
    os.truncate(path, 500)
    np.testing.assert_array_equal(array[:20], NUMBERS[:20])
    with pytest.raises(ValueError, match="ends at byte 500: it was cut short while in use; make it again"):
        array[np.array([3, 20])]


def test_another_process_reads_the_file_itself(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    text = pickle.dumps(opened(path.relative_to(path.parent)))
    monkeypatch.chdir("/")
    assert len(text) < 1000
    np.testing.assert_array_equal(pickle.loads(text)[:], NUMBERS)


def test_a_file_is_closed_with_its_array(path):
    array = opened(path)
    file = array._file
    del array
    assert file.closed


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what is resident")
def test_what_was_read_does_not_stay_in_memory(tmp_path):
    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    path, n_bytes = tmp_path / "numbers.f4", 2**27
    with path.open("wb") as file:
        file.truncate(n_bytes)
    numbers, before = opened(path, (2**14, 2**11)), resident()
    for rows in np.split(np.random.default_rng(0).permutation(2**14), 2**8):
        assert not numbers[rows].any()
    assert resident() - before < n_bytes / 8


def test_only_small_arrays_stay_in_memory_once_rows_were_asked_for(path, monkeypatch):
    rows = np.array([3, 39])
    small = opened(path)
    np.testing.assert_array_equal(small[rows], NUMBERS[rows])
    monkeypatch.setattr(disk, "SMALL", NUMBERS.nbytes - 1)
    large = opened(path)
    np.testing.assert_array_equal(large[rows], NUMBERS[rows])
    os.truncate(path, 500)
    with pytest.raises(ValueError, match="was cut short"):
        large[rows]
    monkeypatch.undo()
    np.testing.assert_array_equal(small[rows], NUMBERS[rows])


resource = pytest.importorskip("resource")


def limited(monkeypatch, soft, hard):
    """As a process with these limits, of which the first is changed in here only."""
    limits = [soft, hard]
    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.__setitem__(slice(None), new))
    return limits


def test_more_files_are_allowed_where_many_are_open(path, monkeypatch):
    limits = limited(monkeypatch, 20, 1000)
    opened(path)
    assert limits == [40, 1000]
    opened(path)
    assert limits[1] == 1000


def test_a_system_that_allows_no_more_files_is_named_with_the_remedy(path, monkeypatch):
    limited(monkeypatch, 20, 20)
    with pytest.raises(OSError, match=r"allows a process 20; allow more by `ulimit -n`"):
        opened(path)
