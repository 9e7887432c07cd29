"""Data of any kind become the data sets of a study: filtered, sampled, in their order."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from crystalmax.storage.dataset import DatasetWriter
from crystalmax.study.matbench import FOLDS, folds
from crystalmax.study.preparation import Source, matbench_source, prepare, sources_of
from crystalmax.study.settings import Budget
from crystals import conventional_rock_salt, perovskite, pure, quartz, rock_salt
from labelled import cif_of, table_of

ROOMY = Budget("roomy", 20, None, (4,), (2,), 1)
ELEMENTS = ("Li", "Na", "K", "Rb", "Cs", "Mg", "Ca", "Sr")
PLAIN = Source("salts", {"edge": "A"})


def salt(number):
    """A rock salt with two sites in its primitive cell, given in one of eight."""
    one = conventional_rock_salt(5 + number / 10)
    return replace(one, kinds=pure(ELEMENTS[number], "F"), key=f"salt-{number:02}")


@pytest.fixture(scope="module")
def table():
    numbers = range(len(ELEMENTS))
    return table_of(
        [salt(number) for number in numbers],
        edge=[5 + number / 10 if number != 3 else None for number in numbers],
        sound=pd.array([number != 2 if number != 4 else None for number in numbers], dtype="boolean"),
        words="nothing",
    )


@pytest.fixture
def data(table, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    table.to_parquet(folder / "salts.parquet")
    return folder


def only(materials):
    (material,) = materials
    return material


def test_crystals_keep_order_names_and_numbers(data, tmp_path):
    material = only(prepare([PLAIN], str(data), tmp_path / "out", ROOMY))
    assert material.keys == tuple(f"salt-{number:02}" for number in (0, 1, 2, 4, 5, 6, 7))
    np.testing.assert_allclose(material.values("edge"), [5, 5.1, 5.2, 5.4, 5.5, 5.6, 5.7])
    assert set(material.data.target_names) == {"edge", "sound"}
    assert material.data.n_sites.tolist() == [2] * 7
    assert len(material.fingerprints) == 7
    assert material.donor == "salts"


def test_of_several_structures_in_a_row_the_first_counts(table, tmp_path):
    twice = table.assign(
        cif=[text if row != 1 else text + text.replace("data_", "data_b") for row, text in enumerate(table.cif)]
    )
    for name, given in (("once", table), ("twice", twice)):
        (tmp_path / name).mkdir()
        given.to_parquet(tmp_path / name / "salts.parquet")
    once, many = (
        only(prepare([PLAIN], str(tmp_path / name), tmp_path / f"{name}-out", ROOMY)) for name in ("once", "twice")
    )
    assert many.keys == once.keys


def test_rows_that_are_not_to_be_kept_are_left_out(data, tmp_path):
    source = Source("salts", {"edge": "A"}, keep="sound")
    assert only(prepare([source], str(data), tmp_path / "out", ROOMY)).keys == tuple(
        f"salt-{number:02}" for number in (0, 1, 5, 6, 7)
    )


def test_a_column_to_keep_may_have_empty_cells(table, tmp_path):
    table.to_csv(tmp_path / "salts.csv", index=False)
    table.astype({"sound": object}).to_parquet(tmp_path / "objects.parquet")
    for name in ("salts", "objects"):
        material = only(prepare([Source(name, {"edge": "A"}, keep="sound")], str(tmp_path), tmp_path / "out", ROOMY))
        assert material.keys == tuple(f"salt-{number:02}" for number in (0, 1, 5, 6, 7))


def test_large_cells_and_what_cannot_be_read_are_left_out(table, tmp_path):
    cells = table.cif.tolist()
    cells[1], cells[5] = "no structure", cif_of(quartz())
    table.assign(cif=cells).to_csv(tmp_path / "salts.csv", index=False)
    small = Budget("small", 2, None, (4,), (2,), 1)
    material = only(prepare([PLAIN], str(tmp_path), tmp_path / "out", small))
    assert material.keys == tuple(f"salt-{number:02}" for number in (0, 2, 4, 6, 7))
    assert pd.read_csv(tmp_path / "out" / "salts" / "skipped.csv").key.tolist() == ["salt-01"]
    whole = Source("salts", {"edge": "A"}, whole=True)
    assert "salt-05" in only(prepare([whole], str(tmp_path), tmp_path / "whole", small)).keys


def test_a_sample_is_random_and_repeats(data, tmp_path):
    three = Budget("three", 20, 3, (4,), (2,), 1)
    keys = [only(prepare([PLAIN], str(data), tmp_path / name, three)).keys for name in ("a", "b")]
    assert keys[0] == keys[1] == tuple(sorted(keys[0]))
    other = only(prepare([PLAIN], str(data), tmp_path / "c", three, seed=1)).keys
    assert len(keys[0]) == len(other) == 3
    assert other != keys[0]
    whole = Source("salts", {"edge": "A"}, whole=True)
    assert len(only(prepare([whole], str(data), tmp_path / "d", three)).keys) == 7


def test_a_data_set_of_ingest_will_do(tmp_path):
    with DatasetWriter(tmp_path / "mine", provenance={}) as writer:
        for one, edge in ((rock_salt(), 5.64), (perovskite(), 3.905), (rock_salt(6.0, key="unknown"), np.nan)):
            writer.add(type(one)(**{**vars(one), "targets": {"edge": edge}}))
    material = only(prepare([Source("mine", {"edge": "A"})], str(tmp_path), tmp_path / "out", ROOMY))
    assert material.keys == ("rock salt", "perovskite")
    assert material.values("edge").tolist() == [5.64, 3.905]


def test_what_is_there_is_not_made_again(data, tmp_path):
    first = only(prepare([PLAIN], str(data), tmp_path / "out", ROOMY))
    again = only(prepare([PLAIN], "a folder that is gone", tmp_path / "out", ROOMY))
    assert again.keys == first.keys


def test_other_data_than_a_study_began_with_are_refused(table, data, tmp_path):
    prepare([PLAIN], str(data), tmp_path / "out", ROOMY)
    prepare([PLAIN], str(tmp_path / "nowhere"), tmp_path / "out", ROOMY)  # they are not needed any more
    table.assign(edge=100.0).to_parquet(data / "salts.parquet")
    with pytest.raises(ValueError, match=r"salts.parquet is not what .*salts was made from; give it as it was, or"):
        prepare([PLAIN], str(data), tmp_path / "out", ROOMY)


def test_missing_data_are_an_error_unless_they_are_optional(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no others\.parquet"):
        prepare([Source("others", {"edge": "A"})], str(data), tmp_path / "out", ROOMY)
    optional = Source("others", {"edge": "A"}, optional=True)
    assert [found.name for found in prepare([PLAIN, optional], str(data), tmp_path / "out", ROOMY)] == ["salts"]


def test_missing_columns_are_named(data, tmp_path):
    with pytest.raises(ValueError, match="salts has no column 'egde' of numbers; there are edge, sound"):
        prepare([Source("salts", {"egde": "A"})], str(data), tmp_path / "out", ROOMY)
    with pytest.raises(ValueError, match=r"no crystal of salts .* at most 1 sites; give .*; 0 of 7 are refused$"):
        prepare([PLAIN], str(data), tmp_path / "out", Budget("none", 1, None, (4,), (2,), 1))


def test_tables_without_a_structure_say_so(table, tmp_path):
    table.assign(cif="no structure").to_parquet(tmp_path / "salts.parquet")
    with pytest.raises(ValueError, match=r"no crystal of salts .*; 7 of 7 are refused, such as salt-00: neither"):
        prepare([PLAIN], str(tmp_path), tmp_path / "out", ROOMY)
    table.drop(columns="cif").to_parquet(tmp_path / "salts.parquet")
    with pytest.raises(ValueError, match=r"salts has no column 'cif' among .*edge, sound, words; add it"):
        prepare([PLAIN], str(tmp_path), tmp_path / "out", ROOMY)


@pytest.mark.parametrize("wrong", [None, 0.5, -1])
def test_every_row_needs_the_number_of_its_fold(table, tmp_path, wrong):
    folds = pd.Series([wrong, 0, 1, None, 1, 0, 1, 0], dtype=float)  # the fourth has no value of the property
    table.assign(fold=folds).to_parquet(tmp_path / "salts.parquet")
    with pytest.raises(
        ValueError, match=r"salts has (nan|0\.5|-1) in 'fold'; give each row the number of its test fold"
    ):
        prepare([Source("salts", {"edge": "A"}, folds="fold")], str(tmp_path), tmp_path / "out", ROOMY)


def test_settings_of_the_paper_name_both_its_properties():
    first, second, *_ = sources_of("paper")
    assert list(first.properties) == ["formation_energy_eV_per_atom", "band_gap_eV"]
    assert (first.keep, second.donor, second.folds) == ("labels_agree", "mp_cgcnn", "matbench_test_fold")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine = = 3", r"mine\.toml is not valid TOML: .*line 1"),
        ("[mine]\nkeep = 'sound'", "mine needs properties"),
        ("[mine]\nproperties = { edge = 'A' }\ndonors = 'x'", "Source has no argument .donors.; did you mean .donor."),
        ("[mine]\nproperties = { edge = 'A' }\nwhole = 'no'", "whole of Source is 'no'; give bool"),
        ("", r"mine\.toml names no data set"),
        ("[mine]\nproperties = { edge = 'A' }\ndonor = 'x'", "donor 'x' of .mine. is no data set"),
    ],
)
def test_mistakes_in_settings_are_named(text, message, tmp_path):
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        sources_of(str(tmp_path / "mine.toml"))


def test_settings_that_are_not_there_are_an_error():
    with pytest.raises(FileNotFoundError, match="no file is called papper"):
        sources_of("papper")


def test_official_folds_are_those_of_the_published_predictions():
    found = folds(1265)
    assert found[:20].tolist() == [4, 0, 0, 3, 1, 4, 0, 3, 1, 0, 3, 1, 1, 2, 4, 4, 1, 0, 0, 2]
    assert np.bincount(found).tolist() == [253] * 5


def test_data_of_matbench_come_from_matminer(monkeypatch, tmp_path):
    asked = []

    def load_dataset(name):
        asked.append(name)
        return pd.DataFrame({"structure": [salt(number) for number in range(8)], "gap pbe": np.arange(8.0)})

    module = ModuleType("matminer.datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "matminer", SimpleNamespace(datasets=module))
    monkeypatch.setitem(sys.modules, "matminer.datasets", module)
    material = only(prepare(matbench_source("matbench:mp_gap"), "matbench:mp_gap", tmp_path, ROOMY))
    assert set(asked) == {"matbench_mp_gap"}
    assert material.properties[0].name == "gap pbe"
    assert material.keys[:2] == ("mb-mp-gap-1", "mb-mp-gap-2")
    assert material.values("gap pbe").tolist() == list(range(8))
    parts = material.parts("fold")
    assert parts.test.tolist() == np.flatnonzero(material.values(FOLDS) == 0).tolist()
    assert sorted([*parts.train, *parts.valid, *parts.test]) == list(range(8))


def test_without_matminer_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "matminer", None)
    monkeypatch.setitem(sys.modules, "matminer.datasets", None)
    with pytest.raises(ImportError, match="pip install matminer"):
        matbench_source("matbench:mp_gap")
