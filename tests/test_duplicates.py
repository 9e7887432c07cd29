"""Structures that occur again: left out once, named, and never in silence."""

import csv
import logging
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from crystalmax.cells import canonical
from crystalmax.cli import app
from crystalmax.fingerprint import Fingerprint, are_close, fingerprint_of
from crystalmax.reading import sources
from crystalmax.reading.duplicates import without_duplicates
from crystalmax.reading.ingest import canonical_records
from crystalmax.storage.dataset import CrystalDataset
from crystals import conventional_rock_salt, metal, mixed, perovskite, quartz, rock_salt, some_crystals
from labelled import table_of


def records_of(*crystals, **how):
    return list(without_duplicates(canonical_records(list(crystals), **how)))


def test_the_first_of_several_equal_structures_stays_whatever_their_cells(caplog):
    with caplog.at_level(logging.INFO):
        found = records_of(
            rock_salt(key="first"),
            quartz(),
            replace(conventional_rock_salt(), key="again"),
            rock_salt(a=5.7, key="relaxed"),
            rock_salt(kinds=("K", "Cl"), key="other"),
        )
    assert [record.key for record in found if record.crystal is not None] == ["first", quartz().key, "other"]
    assert [record.refusal.reason for record in found if record.refusal] == ["it is a duplicate of 'first'"] * 2
    assert caplog.messages == ["2 duplicates were left out"]


def test_of_several_that_are_close_the_first_is_named():
    (record,) = canonical_records([rock_salt()])
    marks = {"a": 1.0, "b": 1.1, "c": 2.0, "between a and b": 1.05}
    *_, last = without_duplicates(
        replace(record, key=key, mark=Fingerprint("", np.full(8, distance))) for key, distance in marks.items()
    )
    assert last.refusal.reason == "it is a duplicate of 'a'"


def test_order_and_disorder_of_one_formula_are_two_structures():
    """And fingerprints of as many species as they have, so of other lengths."""
    disordered = metal(mixed(Na=0.5, Cl=0.5), key="disordered")
    for crystals in ([rock_salt(), disordered], [disordered, rock_salt()]):
        found = records_of(*crystals, *(replace(one, key="again") for one in crystals))
        reasons = [record.refusal and record.refusal.reason for record in found]
        assert reasons == [None, None, *(f"it is a duplicate of {one.key!r}" for one in crystals)]


@pytest.mark.parametrize(
    ("kept", "dropped", "told"),
    [
        ({"gap": 5.0}, {"gap": 5.0}, ""),
        ({"gap": 5.0}, {}, ""),
        ({"gap": 5.0}, {"gap": float("nan")}, ""),
        ({"gap": 5.0}, {"gap": 4.5}, ", and their labels differ: gap is 4.5 here and 5 there"),
        ({"gap": float("nan")}, {"gap": 4.5}, ", and their labels differ: gap is 4.5 here and unknown there"),
        (
            {"gap": 5.0, "k": 1.0},
            {"k": 2.0, "gap": 1.0},
            ", and their labels differ: k is 2 here and 1 there, gap is 1 here and 5 there",
        ),
    ],
)
def test_labels_that_are_lost_are_told(kept, dropped, told):
    _, second = records_of(replace(rock_salt(key="a"), targets=kept), replace(rock_salt(key="b"), targets=dropped))
    assert second.refusal.reason == f"it is a duplicate of 'a'{told}"


def test_marks_of_the_records_count_and_others_are_made():
    crystals = [*some_crystals(), rock_salt(key="again")]
    made, marked = records_of(*crystals), records_of(*crystals, mark=fingerprint_of)
    assert [str(one.refusal) for one in made] == [str(one.refusal) for one in marked]
    assert all(isinstance(one.mark, Fingerprint) for one in marked)


def test_hundredths_tell_what_distances_tell():
    first, rng = Fingerprint.of(canonical(rock_salt())), np.random.default_rng(0)
    for scale in (0.01, 0.05, 0.09, 0.2):
        other = replace(
            first, distances=np.clip(first.distances + rng.uniform(-scale, scale, len(first.distances)), 0, 2.5)
        )
        apart = np.abs(first.distances - other.distances).max()
        if abs(apart - 0.06) > 0.011:  # rounding to hundredths decides nearer to the tolerance
            assert are_close(first.hundredths[None], other.hundredths).item() == first.equals(other) == (apart < 0.06)


def test_one_distance_that_differs_is_enough():
    other = np.full(72, 100, dtype=np.uint8)
    assert are_close(other + 6 * np.eye(72, dtype=np.uint8), other).all()
    assert not are_close(other + 7 * np.eye(72, dtype=np.uint8), other).any()


def test_of_many_structures_few_are_compared_in_all_numbers():
    def seconds(compare):
        began = time.thread_time()
        for _ in range(5):
            compare()
        return time.thread_time() - began

    these = np.random.default_rng(0).integers(50, 251, (100_000, 72), dtype=np.uint8)
    other = these[7] + np.uint8(3)
    assert np.flatnonzero(are_close(these, other)).tolist() == [7]

    def all_numbers():
        return np.abs(these.astype(np.int16) - other.astype(np.int16)).max(axis=1)

    few, all_of_them = (min(seconds(way) for _ in range(5)) for way in (partial(are_close, these, other), all_numbers))
    assert few < all_of_them / 4


def test_ingest_leaves_duplicates_out_if_asked_to_and_lists_them(tmp_path):
    crystals = [rock_salt(key="a"), perovskite(key="b"), rock_salt(a=5.65, key="c"), rock_salt(key="a")]
    table_of(crystals, gap=[5.0, 3.0, 5.5, 5.0]).to_csv(tmp_path / "table.csv", index=False)
    for name, options, expected in (("all", (), 4), ("unique", ("--unique",), 2)):
        out = tmp_path / name
        app(
            ["ingest", str(tmp_path / "table.csv"), "--out", str(out), "--jobs", "1", *options],
            result_action="return_value",
        )
        assert len(CrystalDataset.open(out)) == expected
    with open(tmp_path / "unique" / "skipped.csv", newline="") as file:
        rows = {row["key"]: row for row in csv.DictReader(file)}
    assert rows["c"]["reason"] == "it is a duplicate of 'a', and their labels differ: gap is 5.5 here and 5 there"
    assert rows["a#2"]["reason"] == "it is a duplicate of 'a'"
    assert rows["c"]["remedy"] == "leave out --unique to keep both"


def test_a_refused_record_passes_unchanged():
    refused = next(iter(sources.read(["_nothing\n"])))
    assert list(without_duplicates([refused])) == [refused]
