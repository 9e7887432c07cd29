"""Learning curves: what was logged while training, on crystals without labels, with the loss of knowing nothing."""

import json
import math

import numpy as np
import pytest

from crystalmax.study import runner
from crystalmax.study.curves import cells


@pytest.fixture(scope="module")
def rows(study):
    outcomes = runner.run(cells(study), study.folder / "cells")
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return runner.rows_of(study.folder / "cells", prefix="curves")


def test_there_is_a_row_for_each_recipe_epoch_level_and_half(rows, study):
    assert len(rows) == len(rows.groupby(["dataset", "method", "epoch", "level", "crystals"])) == 2 * 2 * 2
    assert set(rows.dataset) == {"salts"}  # the other data set borrows its networks


def test_losses_are_those_that_training_logged(rows, study):
    history = study.network_folder(study.material("salts"), "paper") / "history.jsonl"
    logged = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    for line in logged:
        of_line = rows[
            (rows.method == "paper recipe") & (rows.crystals == line["split"]) & (rows.epoch == line["epoch"])
        ]
        for level in ("site", "crystal"):
            (found,) = of_line[of_line.level == level].to_dict("records")
            assert (found["loss"], found["penalty"]) == (line[level], line[f"{level}_penalty"])


def test_only_an_estimator_with_such_a_loss_has_a_line_for_knowing_nothing(rows):
    chance = rows.groupby("method").chance
    assert chance.first()["paper recipe"] == pytest.approx(2 * math.log(2))
    assert chance.count()["infomax recipe"] == 0


def test_losses_are_watched_where_no_label_is(study):
    salts = study.material("salts")
    parts = study.parts(salts)
    watched = set(parts.valid)
    assert watched
    for name in ("edge", "order"):
        drawn = np.concatenate([study.labelled(salts, name, 16, draw) for draw in range(5)])
        assert not watched & set(drawn)
        assert not watched & set(study.tested(salts, name))
