"""Fine-tuning: every start gets the same labels, test rows and chance, and begins where it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from crystalmax.study import transfer
from crystalmax.study.settings import Budget
from crystalmax.study.transfer import STARTS, cells, fine_tunings, starting_point


class Deaf:
    """Learns a number made of everything that it is given, but for the network that it starts from."""

    def __init__(self, encoder, *, geometry, epochs, folds, seed, accelerator):
        self.geometry, self.epochs, self.seed = geometry, epochs, seed

    def fit_crystals(self, crystals, target):
        self.objective_ = self.seed + sum(place * crystal.targets[target] for place, crystal in enumerate(crystals, 1))
        return self


def answers_of_the_deaf(objective, geometry, data):
    assert data.target_names == ()  # test crystals come without their values
    return objective + np.arange(len(data)) * data.n_sites


def test_all_starts_get_the_same_labels_and_test_rows(study, monkeypatch):
    monkeypatch.setattr(transfer, "CrystalRegressor", Deaf)
    monkeypatch.setattr(transfer, "predict", answers_of_the_deaf)
    study = replace(study, budget=replace(study.budget, transfer_seeds=2))
    found = {cell.name: cell.work() for cell in cells(study)}
    assert len(found) == 2 * 3 * 2 * 2  # properties, starts, numbers of labels, trials
    trials = {}
    for name, result in found.items():
        _, _, target, start, labels, trial = name.split("/")
        trials.setdefault((target, labels, trial), {})[start] = result
    for starts in trials.values():
        assert set(starts) == set(STARTS)
        assert len({result.rows.mae[0] for result in starts.values()}) == 1
        for column in ("labelled", "tested", "measured"):
            np.testing.assert_array_equal(*(starts[start].arrays[column] for start in ("random", "supervised")))
            np.testing.assert_array_equal(*(starts[start].arrays[column] for start in ("random", "pretrained")))
    # Two trials differ, or the test above would not have noticed that one start got the labels of another trial.
    assert len({starts["random"].rows.mae[0] for starts in trials.values()}) == len(trials)


def test_labels_and_test_rows_are_those_of_all_other_parts(study):
    work = next(cell.work for cell in cells(study) if cell.name == "transfer/salts/order/random/8/00")
    result, salts = work(), study.material("salts")
    np.testing.assert_array_equal(result.arrays["labelled"], study.labelled(salts, "order", 8, 0))
    np.testing.assert_array_equal(result.arrays["tested"], study.tested(salts, "order"))
    errors = np.abs(result.arrays["predictions"][0] - result.arrays["measured"])
    assert result.rows.mae[0] == pytest.approx(errors.mean(), rel=1e-5)
    assert not set(result.arrays["labelled"]) & set(result.arrays["tested"])
    again = work()
    assert again.rows.equals(result.rows)
    np.testing.assert_array_equal(again.arrays["predictions"], result.arrays["predictions"])


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.encoder.parameters()])


def test_a_trial_begins_where_it_says(study):
    salts = study.material("salts")
    begin = {(start, trial): starting_point(study, salts, "edge", start, trial) for start in STARTS for trial in (0, 1)}
    same = {start: torch.equal(*(weights(begin[start, trial][0]) for trial in (0, 1))) for start in STARTS}
    assert same == {"random": False, "pretrained": True, "supervised": True}
    assert begin["random", 0][1] is None
    assert torch.equal(weights(begin["pretrained", 0][0]), weights(study.network(salts)))


def test_a_supervised_start_knows_the_other_property_and_no_test_row(study):
    salts = study.material("salts")
    for target, other in (("edge", "order"), ("order", "edge")):
        model, (_, rows) = starting_point(study, salts, target, "supervised", 0)
        assert model.objective.target == other
        assert not set(rows) & set(study.tested(salts, target))
        assert not set(rows) & set(study.parts(salts).valid)
        values = salts.values(other)[rows]
        assert (model.objective.mean, model.objective.deviation) == pytest.approx((values.mean(), values.std()))


def test_only_numbers_of_labels_that_there_are_and_starts_that_make_sense(study):
    budget = Budget("odd", 20, None, (8, 10_000), (1, 1), 1)
    study = replace(study, budget=budget)
    assert {cell.name.split("/")[4] for cell in cells(study)} == {"8"}
    others = study.material("others")
    alone = replace(study, materials=(replace(others, donor="others"),))
    assert {cell.name.split("/")[3] for cell in cells(alone)} == {"random", "pretrained"}
    assert cells(replace(study, materials=(others,))) == []
    assert [cell.name for cell in fine_tunings(study, others, ["random"], part="shift")] == [
        "shift/others/volume/random/8/00"
    ]
