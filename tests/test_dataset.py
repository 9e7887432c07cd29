"""Crystals end to end, in memory and on disk; and how they are cut into batches."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.storage import disk
from crystalmax.storage.dataset import CrystalDataset, DatasetWriter, batches_of_sites
from crystalmax.storage.disk import DiskArray
from crystalmax.storage.manifest import CONTENT, FORMAT
from crystalmax.storage.writing import hash_of
from crystals import random_crystals, rock_salt, some_crystals
from disks import full_disk


@pytest.fixture(autouse=True, scope="module")
def nothing_is_small():
    """Or all that is on disk here would be read whole."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk, "SMALL", 0)
        yield


def write_dataset(path, crystals, *, provenance):
    with DatasetWriter(path, provenance=provenance) as writer:
        for crystal in crystals:
            writer.add(crystal)
    return CrystalDataset.open(path)


def labelled():
    """Six crystals with non-ASCII names; properties are known for some."""
    targets = [{"gap": 8.5}, {"gap": 3.2, "hardness": 5.5}, {}, {"hardness": 7.0}, {"gap": float("nan")}, {}]
    named = zip(some_crystals(), targets, strict=True)
    return [replace(one, targets=known, key=f"{one.key} é{i}") for i, (one, known) in enumerate(named)]


def assert_same(found, expected, names=()):
    np.testing.assert_array_equal(found.lattice, expected.lattice)
    np.testing.assert_allclose(found.positions, expected.positions, atol=1e-7)
    species = [[one.kinds[kind] for kind in one.species] for one in (found, expected)]
    assert species[0] == species[1]
    assert found.key == expected.key
    assert set(found.targets) == {*names, *expected.targets}
    for name, value in found.targets.items():
        assert value == pytest.approx(expected.targets.get(name, np.nan), nan_ok=True)


@pytest.mark.parametrize("kept", ["in memory", "on disk"])
def test_every_crystal_comes_back_as_it_was(kept, tmp_path):
    crystals = labelled()
    data = CrystalDataset.from_crystals(crystals)
    if kept == "on disk":
        data = write_dataset(tmp_path / "data", iter(crystals), provenance={"from": "hand"})
        assert data.provenance == {"from": "hand"}
    assert len(data) == len(crystals)
    assert data.target_names == ("gap", "hardness")
    for found, expected in zip(data, crystals, strict=True):
        assert_same(found, expected, data.target_names)
    assert_same(data[-1], crystals[-1], data.target_names)
    assert_same(data[-6], crystals[0], data.target_names)
    assert data.n_sites.tolist() == [one.n_sites for one in crystals]
    for row in (6, -7):
        with pytest.raises(IndexError, match=f"has 6 crystals; there is no crystal {row}"):
            data[row]


def test_properties_that_appear_late_are_unknown_before(tmp_path, monkeypatch):
    monkeypatch.setattr("crystalmax.storage.dataset._CHUNK", 2)
    crystals = labelled() * 2
    data = write_dataset(tmp_path / "data", [*crystals, replace(rock_salt(), targets={"age": 1.0})], provenance={})
    expected = CrystalDataset.from_crystals([*crystals, replace(rock_salt(), targets={"age": 1.0})])
    assert data.target_names == expected.target_names == ("gap", "hardness", "age")
    np.testing.assert_array_equal(data.target[:], expected.target)


@given(crystals=st.lists(random_crystals(), max_size=5))
def test_any_crystals_come_back(crystals, tmp_path_factory):
    data = write_dataset(tmp_path_factory.mktemp("any") / "data", crystals, provenance={})
    assert len(data) == len(crystals)
    for found, expected in zip(data, crystals, strict=True):
        assert_same(found, expected)


@pytest.mark.parametrize("kept", ["in memory", "on disk"])
def test_a_batch_equals_the_collated_crystals(kept, tmp_path):
    data = CrystalDataset.from_crystals(labelled())
    if kept == "on disk":
        data = write_dataset(tmp_path / "data", labelled(), provenance={})
    rows = np.array([4, 0, 2, 2])
    batch, expected = data.batch(rows), CrystalBatch.collate([data[row] for row in rows])
    for name in ("lattice", "positions", "crystal_of_site"):
        assert torch.equal(getattr(batch, name), getattr(expected, name))
    # The order of the species table is free; it holds what occurs, once.
    assert torch.equal(batch.kinds[batch.species], expected.kinds[expected.species])
    assert len(batch.kinds) == len(expected.kinds)
    assert batch.keys == expected.keys
    for name, values in expected.targets.items():
        torch.testing.assert_close(batch.targets[name], values, equal_nan=True)
    assert set(batch.targets) == set(expected.targets)
    batch.lattice.mul_(2)  # a batch is a copy, not a window on the data set
    assert torch.equal(data.batch(rows).lattice, expected.lattice)


def test_a_notebook_shows_it_in_a_line():
    crystals = [rock_salt(), rock_salt(), rock_salt()]
    n_sites = sum(crystal.n_sites for crystal in crystals)
    assert repr(CrystalDataset.from_crystals(crystals)) == f"<CrystalDataset: 3 crystals with {n_sites} sites>"


def test_an_empty_data_set_is_one(tmp_path):
    for data in (CrystalDataset.from_crystals([]), write_dataset(tmp_path / "empty", [], provenance={})):
        assert len(data) == 0
        assert list(data) == []


def test_large_arrays_are_read_as_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "SMALL", 40_000)
    write_dataset(tmp_path / "data", [rock_salt()] * 4_000, provenance={})
    began = time.process_time()
    data = CrystalDataset.open(tmp_path / "data")
    assert time.process_time() - began < 0.1
    for array in (data.lattice, data.position, data.key):
        assert isinstance(array, DiskArray)
        assert "_whole" not in vars(array)
    assert_same(data[3_210], rock_salt())
    assert ["_whole" in vars(array) for array in (data.lattice, data.position, data.key)] == [False, False, True]


def test_names_and_properties_are_told(tmp_path):
    for data in (CrystalDataset.from_crystals(labelled()), write_dataset(tmp_path / "data", labelled(), provenance={})):
        assert data.keys(np.array([4, 0])) == tuple(labelled()[row].key for row in (4, 0))
        np.testing.assert_array_equal(data.values("gap"), [each.targets.get("gap", np.nan) for each in labelled()])
        with pytest.raises(ValueError, match="has no property 'colour'; its properties: gap, hardness"):
            data.values("colour")


def test_the_hash_is_of_the_content(tmp_path):
    first = write_dataset(tmp_path / "first", labelled(), provenance={"when": "now"})
    again = write_dataset(tmp_path / "again", labelled(), provenance={"when": "later"})
    other = write_dataset(tmp_path / "other", labelled()[::-1], provenance={"when": "now"})
    assert first.content_hash == again.content_hash != other.content_hash
    assert len(first.content_hash) == 64
    assert CrystalDataset.from_crystals(labelled()).content_hash == first.content_hash
    assert (
        CrystalDataset.from_crystals([]).content_hash == write_dataset(tmp_path / "no", [], provenance={}).content_hash
    )


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted():
        yield rock_salt()
        raise RuntimeError("the power went out")

    with pytest.raises(RuntimeError, match="the power"):
        write_dataset(tmp_path / "data", interrupted(), provenance={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("nth", range(1, 12))
def test_a_full_disk_leaves_nothing(nth, tmp_path):
    with full_disk(nth) as disk, pytest.raises(OSError, match="No space left"):
        write_dataset(tmp_path / "data", labelled() * 200, provenance={})
    assert disk.full
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_is_cleared_away_by_the_next(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from crystalmax.storage.dataset import DatasetWriter; "
        "writer = DatasetWriter(Path(sys.argv[1]), provenance={}).__enter__(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "data")], check=False)
    assert {path.name for path in tmp_path.iterdir()} == {".data.partial", ".data.lock"}
    data = write_dataset(tmp_path / "data", labelled(), provenance={})
    assert len(data) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_nothing_is_written_over(tmp_path):
    write_dataset(tmp_path / "data", labelled(), provenance={})
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("data", "link"):
        with pytest.raises(FileExistsError, match=f"{name} exists already; remove it or choose another name"):
            write_dataset(tmp_path / name, labelled(), provenance={})


def truncate(folder):
    path = folder / "position.f4"
    path.write_bytes(path.read_bytes()[:-4])


def lengthen(folder):
    with open(folder / "species.i4", "ab") as file:
        file.write(b"\0\0\0\0")


def change(**entries):
    """What a stranger can do, who knows how to compute the hash."""

    def changed(folder):
        manifest = {**json.loads((folder / "manifest.json").read_text()), **entries}
        manifest["content_hash"] = hash_of({name: manifest[name] for name in CONTENT})
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return changed


def edit_by_hand(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace("hardness", "softness"))


def move_the_last_end(folder):
    ends = np.fromfile(folder / "site_end.i8", "<i8")
    ends[-1] += 1
    ends.tofile(folder / "site_end.i8")


DAMAGES = {
    "an array is cut short": (truncate, r"position.f4 has 308 bytes where 312 are expected; ingest"),
    "an array is too long": (lengthen, r"species.i4 has 108 bytes where 104 are expected; ingest"),
    "an array is gone": (lambda folder: (folder / "key.u1").unlink(), r"key.u1 is missing; ingest"),
    "names that were edited": (edit_by_hand, "contradicts itself: its content_hash is not that of its content"),
    "another number of crystals": (change(n_crystals=7), "lattice.f8 should have 504 bytes, not 432"),
    "a number that is none": (change(n_sites="many"), "n_sites is 'many', no int"),
    "an impossible element": (change(kinds=[[[200, 1.0, None]]]), "a species has atomic number 200 and occupancy 1.0"),
    "an impossible charge": (change(kinds=[[[20, 1.0, "x"]]]), "contradicts itself: it is incomplete"),
    "a species of nothing": (change(kinds=[[]]), "a species has no elements"),
    "sizes of other files": (change(bytes={"a": 1}), "it should have the sizes of lattice.f8, site_end.i8"),
    "checksums that are none": (change(sha256=3), "sha256 is 3, no dict"),
    "checksums of other files": (change(sha256={"a": "b"}), "its checksums are no texts by name"),
    "an infinite charge": (change(kinds=[[[20, 1.0, float("inf")]]]), "a species has the charge inf"),
    "a file beside that is elsewhere": (
        change(beside={"../x": {"bytes": 1, "sha256": ""}}),
        "the list of files beside the arrays is none",
    ),
    "an end that is no end": (move_the_last_end, r"site_end.i8 ends with 27, not with 26; ingest the source again"),
    "a newer format": (change(format=99), f"has format 99, but this version reads format {FORMAT}; ingest"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), "not a crystalmax data set .*No such file"),
    "a broken manifest": (lambda folder: (folder / "manifest.json").write_text('{"fo'), "not a crystalmax data set"),
    "a strange manifest": (lambda folder: (folder / "manifest.json").write_text("[1]"), "has format None"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_a_sentence(damage, tmp_path):
    write_dataset(tmp_path / "data", labelled(), provenance={})
    spoil, sentence = DAMAGES[damage]
    spoil(tmp_path / "data")
    with pytest.raises(ValueError, match=sentence):
        CrystalDataset.open(tmp_path / "data")


def spoil_an_array(folder, name, value, row=1):
    array = np.fromfile(folder / name, f"<{name[-2:]}")
    array[row] = value
    array.tofile(folder / name)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("site_end.i8", 2**60, r"site_end.i8 points outside the 26 sites"),
        ("site_end.i8", -5, r"site_end.i8 points outside the 26 sites"),
        ("site_end.i8", 1, r"site_end.i8 points outside the 26 sites"),
        ("site_end.i8", 2, r"site_end.i8 gives a crystal no sites; ingest the source again"),
        ("key_end.i8", 2**60, r"key_end.i8 points outside the \d+ letters"),
        ("key_end.i8", -5, r"key_end.i8 points outside the \d+ letters"),
        ("key.u1", 0xFF, r"key.u1 has names that are no text; ingest the source again"),
        *(("lattice.f8", edge, r"lattice.f8 has cell vectors that no crystal has") for edge in (1e4, np.inf, np.nan)),
        *(("position.f4", place, r"position.f4 has a site that is not within 1000 cells") for place in (1e6, np.nan)),
        ("species.i4", 10**6, r"species.i4 points outside the 12 species"),
        ("species.i4", -1, r"species.i4 points outside the 12 species"),
    ],
)
def test_arrays_that_point_nowhere_are_refused_when_they_are_used(name, value, said, tmp_path):
    data = write_dataset(tmp_path / "data", labelled(), provenance={})
    assert (len(data.species), len(data.kinds)) == (26, 12)
    spoil_an_array(tmp_path / "data", name, value)
    data = CrystalDataset.open(tmp_path / "data")
    with pytest.raises(ValueError, match=f"data/{said}"):
        list(data)
    with pytest.raises(ValueError, match=f"data/{said}"):
        data.batch(np.arange(6))


@pytest.mark.parametrize("smaller", [0.0, 1e-200, 1e-3])
def test_a_cell_that_has_no_volume_ends_no_process(smaller, tmp_path):
    write_dataset(tmp_path / "data", labelled(), provenance={})
    cells = np.fromfile(tmp_path / "data" / "lattice.f8", "<f8")
    spoil_an_array(tmp_path / "data", "lattice.f8", smaller * cells[9:18], slice(9, 18))
    data = CrystalDataset.open(tmp_path / "data")
    assert data.batch(np.array([0, 2])).n_crystals == 2
    with pytest.raises(ValueError, match=r"data/lattice.f8 has cell vectors that no crystal has; ingest the source"):
        data.batch(np.array([0, 1]))


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere is not a crystalmax data set .*crystalmax ingest"):
        CrystalDataset.open(tmp_path / "nowhere")


@given(
    n_sites=st.lists(st.integers(1, 60), min_size=2, max_size=40),
    budget=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_batches_cover_the_order_with_at_least_two_crystals_each_near_the_budget(n_sites, budget, seed):
    sizes = np.array(n_sites)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sizes))[: rng.integers(2, len(sizes) + 1)]
    batches = batches_of_sites(sizes, budget, order)
    np.testing.assert_array_equal(np.concatenate(batches), order)
    largest = sizes.max()
    for batch in batches:
        assert len(batch) >= 2
        # Two crystals are in a batch whatever their size; a last remainder below half a budget may come on top.
        assert sizes[batch].sum() <= max(budget + largest, 2 * largest) + max(budget / 2, largest)
    if sizes[order].sum() >= 3 * (budget + 3 * largest):
        assert np.mean([sizes[batch].sum() for batch in batches]) >= budget / 2


def test_batches_of_equal_crystals_are_filled_exactly():
    batches = batches_of_sites(np.full(100, 5), 50, np.arange(100))
    assert [len(batch) for batch in batches] == [10] * 10
    assert batches_of_sites(np.array([5]), 50, np.array([0]))[0].tolist() == [0]
    assert batches_of_sites(np.array([], dtype=int), 50, np.array([], dtype=int)) == []
