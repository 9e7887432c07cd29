"""The weights that come with the package are whole, small, and tell what they were taught."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crystalmax import CrystalFeaturizer, CrystalRegressor
from crystalmax.checkpoint import load, read_spec
from crystalmax.crystal import Occupant
from crystalmax.integrity import verify
from crystalmax.seen import Seen
from crystalmax.shipped import SHIPPED
from crystalmax.statistics import baselines
from crystalmax.storage.dataset import CrystalDataset
from crystals import perovskite, pure, rock_salt, some_crystals


@pytest.fixture(scope="module")
def featurizer():
    return CrystalFeaturizer.from_pretrained()


def test_they_are_whole_and_take_less_than_five_megabytes():
    assert verify(SHIPPED).faults == ()
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 5e6
    assert {file.name for file in SHIPPED.iterdir()} == {
        *("spec.json", "weights.safetensors", "seen.npz", "run.json", "history.jsonl", "losses.svg")
    }


def test_their_list_has_every_structure_that_they_learnt_from():
    assert len(Seen.load(SHIPPED)) == load(SHIPPED).extra["crystals"] == read_spec(str(SHIPPED))["extra"]["crystals"]


def test_their_list_is_of_fingerprints_as_they_are_made_now():
    """Another unit or number of neighbours, or another way to write a formula, and it would know nothing any more."""
    learnt = [perovskite(4.0, pure(*kinds)) for kinds in (("Sr", "Mo", "O"), ("Na", "W", "O"), ("La", "Ti", "N"))]
    judged_by = [rock_salt(), perovskite()]
    structures, formulas = Seen.load(SHIPPED).knows([*learnt, *judged_by])
    assert structures.tolist() == formulas.tolist() == [True] * 3 + [False] * 2


def test_vectors_tell_statistics_of_crystals_by_linear_maps(featurizer):
    crystals = [*some_crystals(), *(rock_salt(a, ("K", "Cl")) for a in (5.6, 6.3, 7.0))]
    vectors = featurizer.numbers(CrystalDataset.from_crystals(crystals))
    assert vectors.shape == (len(crystals), 64)
    (head,) = load(SHIPPED).objective.heads
    predicted = vectors @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    values, names = baselines.statistics(crystals)
    for name in (
        "density",
        "volume per atom",
        "valence electrons by volume",
        "mean electronegativity step",
        "mean coordination",
        "mean frequency",
    ):
        column = names.index(name)
        assert np.corrcoef(predicted[:, column], values[:, column])[0, 1] > 0.8, name


def test_vectors_are_those_of_the_crystal_and_not_of_its_cell(featurizer):
    salt = rock_salt()
    moved = replace(salt, positions=salt.positions + np.array([0.1, 0.2, 0.3]))
    one, other = featurizer.numbers(CrystalDataset.from_crystals([salt, moved]))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_vectors_pass_over_oxidation_states_as_no_structure_that_was_learnt_from_states_any(featurizer):
    stated = replace(rock_salt(), kinds=((Occupant(11, 1.0, 1.0),), (Occupant(17, 1.0, -1.0),)))
    plain, other = featurizer.transform([rock_salt(), stated])
    np.testing.assert_allclose(plain, other, atol=1e-6)


def test_fine_tuning_starts_from_them():
    regressor = CrystalRegressor.from_pretrained(epochs=1, folds=0)
    weights = load(SHIPPED).encoder.state_dict()
    assert all((regressor.encoder.state_dict()[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize("run", ["shipped", Path("shipped")])
def test_the_weights_that_ship_go_by_their_name_wherever_a_run_is_asked_for(run):
    assert load(run).folder == SHIPPED
    assert CrystalFeaturizer.from_pretrained(run).model_.folder == SHIPPED
    assert CrystalRegressor.from_pretrained(run).encoder is not None
