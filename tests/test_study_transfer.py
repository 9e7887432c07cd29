"""Fine-tuning: every start gets the same labels, test rows and chance, and what it starts from is what it says."""

import numpy as np
import pytest
import torch

from crystalmax.study import transfer
from crystalmax.study.transfer import STARTS, cells, starting_point, supervised
from studies import tiny


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("study"))


class Deaf:
    """Answers with a number made of everything that it was given, but for where it started."""

    def __init__(self, encoder, *, geometry, max_epochs, folds, seed):
        self.geometry, self.epochs_, self.seed = geometry, max_epochs, seed

    def fit_crystals(self, crystals, target):
        order = sum(place * crystal.targets[target] for place, crystal in enumerate(crystals, 1))
        self.objective_ = order + len(crystals[0].key) + self.seed
        return self


def heard(objective, geometry, data):
    assert not data.target_names  # nothing to copy from
    return objective + np.arange(len(data)) * data.n_sites


def test_all_starts_get_the_same_labels_and_test_rows(study, monkeypatch):
    monkeypatch.setattr(transfer, "CrystalRegressor", Deaf)
    monkeypatch.setattr(transfer, "predict", heard)
    found = {cell.name: cell.work() for cell in cells(study)}
    names = {name.split("/")[3] for name in found}
    assert names == set(STARTS)
    for name, result in found.items():
        random = found[name.replace("/pretrained/", "/random/").replace("/supervised/", "/random/")]
        assert result.rows.mae[0] == random.rows.mae[0], name
        for column in ("labelled", "tested", "measured"):
            np.testing.assert_array_equal(result.arrays[column], random.arrays[column])
