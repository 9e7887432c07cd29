"""Blocks of statistics: each is left out in turn, whole and alone, and the report says what that costs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from crystalmax.statistics import baselines
from crystalmax.statistics.baselines import BLOCKS
from crystalmax.study import page, paper
from crystalmax.study.blocks import cells, sets
from crystalmax.study.summary import differences
from studies import few_trees, tiny


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        few_trees(patch)
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """One property of the salts, and at most eight labels."""
    study = tiny(tmp_path_factory.mktemp("study"))
    salts, others = study.materials
    budget = replace(study.budget, labels=(8,), draws=(3,))
    return replace(study, materials=(replace(salts, properties=salts.properties[:1]), others), budget=budget)


def test_every_block_is_left_out_once_and_nothing_else_is(study):
    salts = study.materials[0]
    names = baselines.statistics([])[1]
    everything, *without = sets(study, salts)
    numbers = everything.features()
    np.testing.assert_array_equal(numbers, baselines.statistics(salts.crystals)[0])
    assert [method.name for method in without] == [f"all statistics, without {block}" for block in BLOCKS]
    for method, (block, make) in zip(without, BLOCKS.items(), strict=True):
        left_out = np.isin(names, make([])[1])
        np.testing.assert_array_equal(method.features(), numbers[:, ~left_out])
        (regressor,) = method.models.values()
        widths = dict(zip(BLOCKS, baselines.statistics_widths(), strict=True))
        assert list(regressor.blocks) == [width for name, width in widths.items() if name != block]


def test_there_is_a_cell_for_each_set_and_property_and_none_of_many_labels(study):
    assert len(cells(study)) == 2 * (1 + len(BLOCKS))
    many = replace(study, budget=replace(study.budget, labels=(8, 12), draws=(1, 1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crystalmax.study.blocks.MOST_LABELS", 8)
        found = cells(replace(many, materials=many.materials[1:]))[0].work()
    assert found.rows.labels.unique().tolist() == [8]


def test_each_set_is_held_against_all_of_them_and_the_report_shows_it(study):
    outcomes = paper.go_on(replace(study, materials=study.materials[:1]), ["blocks"])
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    rows = pd.read_parquet(study.folder / "results.parquet")
    assert len(rows) == (1 + len(BLOCKS)) * 3
    assert set(rows.model) == {"forest and Gaussian processes"}
    pairs = differences(rows)
    assert pairs[pairs.rival == "all statistics"].method.tolist() == sorted(
        f"all statistics, without {block}" for block in BLOCKS
    )
    text = page.write(replace(study, materials=study.materials[:1])).path.read_text(encoding="utf-8")
    assert "What each block of statistics is worth: salts" in text
    assert "without springs" in text
