"""What linear maps of vectors tell, and what the end of pre-training says of it."""

import logging
from itertools import product

import numpy as np
import pytest
from sklearn import config_context
from sklearn.linear_model import RidgeCV

from crystalmax.checkpoint import load
from crystalmax.learning import probe
from crystalmax.learning.pretraining import pretrain
from crystalmax.statistics import baselines
from crystalmax.storage.dataset import CrystalDataset
from crystals import rock_salt


@pytest.fixture(scope="module")
def crystals():
    pairs = product(("Li", "Na", "K", "Rb", "Mg", "Ca", "Sr", "Ba"), ("F", "Cl", "Br", "I", "O"))
    return [rock_salt(size, pair, key=f"{size} {pair}") for pair in pairs for size in (4.9, 5.6, 6.7)]


def test_statistics_tell_themselves_and_noise_tells_nothing(crystals):
    numbers = baselines.statistics(crystals)[0]
    scaled = (numbers - numbers.mean(axis=0)) / np.maximum(numbers.std(axis=0), 1e-9)
    noise = np.random.default_rng(0).normal(size=(len(crystals), 8))
    assert probe.told(scaled, crystals) > 0.6
    assert abs(probe.told(noise, crystals)) < 0.1
    assert probe.told(scaled[:, :20], crystals) < probe.told(scaled, crystals)


def test_who_asks_sklearn_for_tables_gets_the_same_share(crystals):
    noise = np.random.default_rng(0).normal(size=(len(crystals), 8))
    usual = probe.told(noise, crystals)
    with config_context(transform_output="pandas"):
        assert probe.told(noise, crystals) == usual


def test_an_outlier_counts_less(crystals, monkeypatch):
    numbers = baselines.statistics(crystals, probe.NUMBERS)[0]
    heavy = numbers.copy()
    heavy[0] += 6 * numbers.std(axis=0)
    monkeypatch.setattr(baselines, "statistics", lambda *_: (heavy, ()))
    near = probe.told(numbers, crystals)
    monkeypatch.setattr(probe, "_FARTHEST", np.inf)
    assert near > probe.told(numbers, crystals) + 0.05


def test_where_there_is_nothing_to_tell_nothing_is_said(crystals, tmp_path, monkeypatch, caplog):
    numbers = baselines.statistics(crystals)[0]
    assert np.isnan(probe.told(numbers[:50], [crystals[0]] * 50))
    numbers[3, 4] = np.inf
    assert np.isnan(probe.told(numbers, crystals))
    monkeypatch.setattr(probe, "FEWEST", 6)
    with caplog.at_level(logging.INFO):
        pretrain(CrystalDataset.from_crystals([crystals[0]] * 120), tmp_path / "run", recipe="intrinsic", epochs=1)
    assert load(tmp_path / "run").extra["told"] is None
    assert "linear maps" not in caplog.text


def test_pretraining_says_what_vectors_tell_where_there_are_crystals_enough(crystals, tmp_path, monkeypatch, caplog):
    data = CrystalDataset.from_crystals(crystals)
    pretrain(data, tmp_path / "few", recipe="intrinsic", epochs=1)
    assert load(tmp_path / "few").extra["told"] is None, "six crystals are watched"
    monkeypatch.setattr(probe, "FEWEST", 6)
    with caplog.at_level(logging.INFO):
        pretrain(data, tmp_path / "run", recipe="intrinsic", epochs=1)
    told = load(tmp_path / "run").extra["told"]
    assert told.keys() == {"vectors", "untrained"}
    shares = (f"{100 * told[name]:.0f} %" for name in ("vectors", "untrained"))
    assert f"tell {next(shares)} of plain statistics of 6 structures" in caplog.text
    assert caplog.text.rstrip().split("\n")[-1].endswith(next(shares))


def test_told_is_told_of_crystals_that_were_not_learnt_from(crystals, monkeypatch):
    seen = []

    class Watching(RidgeCV):
        def fit(self, X, y):
            seen.append(len(X))
            return super().fit(X, y)

    monkeypatch.setattr(probe, "RidgeCV", Watching)
    probe.told(np.random.default_rng(0).normal(size=(len(crystals), 5)), crystals)
    assert seen == [len(crystals) // 2]
