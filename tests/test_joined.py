"""Several data sets as one: the same crystals as one data set of all, drawn by weight."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.geometry import AllPairs
from crystalmax.learning.pretraining import pretrain
from crystalmax.learning.training import Training, train
from crystalmax.storage.dataset import CrystalDataset, Dataset
from crystalmax.storage.joined import JoinedDataset, drawn, order
from crystals import some_crystals
from test_training import GEOMETRY, HOW, SPLIT, Counting, objective, without

CRYSTALS = [replace(one, key=f"crystal {i}") for i, one in enumerate(some_crystals() * 2)]
CUTS = ([4], [1, 2, 9], [])


def joined(cuts, crystals=CRYSTALS):
    parts = np.split(np.arange(len(crystals)), cuts)
    return JoinedDataset(tuple(CrystalDataset.from_crystals([crystals[i] for i in part]) for part in parts))


def per_site(batch):
    """What each site is: numbers that depend on no table."""
    rows = torch.cat([batch.kinds[batch.species], batch.positions, batch.lattice[batch.crystal_of_site].flatten(1)], 1)
    return rows, batch.crystal_of_site


@pytest.mark.parametrize("cuts", CUTS, ids=str)
def test_crystals_are_those_of_one_data_set(cuts):
    one, several = CrystalDataset.from_crystals(CRYSTALS), joined(cuts)
    assert isinstance(several, Dataset)
    assert len(several) == len(one)
    np.testing.assert_array_equal(several.n_sites, one.n_sites)
    assert [crystal.key for crystal in several] == [crystal.key for crystal in one]
    for row in (0, 3, 4, 5, -1, -len(one)):
        assert several[row].key == one[row].key
        np.testing.assert_array_equal(several[row].positions, one[row].positions)
    with pytest.raises(IndexError, match="have 12 crystals; there is no crystal 12"):
        several[12]
    for rows in (np.random.default_rng(0).permutation(12), np.array([11, 11, 0, 5]), np.arange(0)):
        assert [crystal.key for crystal in several.crystals(rows)] == [CRYSTALS[row].key for row in rows]


@pytest.mark.parametrize("cuts", CUTS, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_batch_is_that_of_one_data_set_whatever_the_order(cuts, seed):
    rows = np.random.default_rng(seed).permutation(len(CRYSTALS))[: 12 - 4 * seed]
    one, several = (data.batch(rows) for data in (CrystalDataset.from_crystals(CRYSTALS), joined(cuts)))
    assert several.keys == one.keys
    assert torch.equal(several.lattice, one.lattice)
    for found, expected in zip(per_site(several), per_site(one), strict=True):
        assert torch.equal(found, expected)
    assert len(several.kinds) == len(one.kinds)  # equal species share a row
    assert len(several.kinds.unique(dim=0)) == len(several.kinds)
    for found, expected in zip(per_site(AllPairs()(several)), per_site(AllPairs()(one)), strict=True):
        assert torch.equal(found, expected)


def test_a_property_that_one_set_lacks_is_unknown_there():
    first, second = some_crystals()[:2]
    sets = [[replace(first, targets={"gap": 1.0})], [replace(second, targets={"age": 2.0})]]
    data = JoinedDataset(tuple(map(CrystalDataset.from_crystals, sets)))
    targets = data.batch(np.array([1, 0])).targets
    np.testing.assert_array_equal(targets["gap"], [np.nan, 1.0])
    np.testing.assert_array_equal(targets["age"], [2.0, np.nan])
    more = data.with_targets(["mass"], np.array([[5.0], [6.0]]))
    np.testing.assert_array_equal(more.batch(np.array([1, 0])).targets["mass"], [6.0, 5.0])
    np.testing.assert_array_equal(more.batch(np.array([1, 0])).targets["gap"], [np.nan, 1.0])
    both = more.with_targets(["charge"], np.array([[7.0], [8.0]])).batch(np.array([1, 0])).targets
    assert (both["mass"].tolist(), both["charge"].tolist()) == ([6, 5], [8, 7])
    assert data.content_hash
    assert not more.content_hash  # what it was made from is not known any more


GROUPS = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@given(sizes=GROUPS, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 5), data=st.data())
def test_an_epoch_has_each_set_by_its_weight(sizes, seed, epoch, data):
    weights = data.draw(st.lists(st.floats(0.1, 9), min_size=len(sizes), max_size=len(sizes)))
    groups = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    rows = drawn(groups, weights, seed, epoch)
    assert len(rows) == sum(sizes)
    for group, weight in zip(groups, weights, strict=True):
        assert abs(np.isin(rows, group).sum() - len(rows) * weight / sum(weights)) <= 1 + 1e-9
    np.testing.assert_array_equal(rows, drawn(groups, weights, seed, epoch))


@given(sizes=GROUPS, seed=st.integers(0, 2**32 - 1), weight=st.floats(0.2, 5))
def test_no_crystal_comes_again_before_all_of_its_set_have_come(sizes, seed, weight):
    groups = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    weights = [weight] + [1.0] * (len(sizes) - 1)
    counts = np.zeros(sum(sizes), dtype=int)
    for epoch in range(7):
        np.add.at(counts, drawn(groups, weights, seed, epoch), 1)
        assert all(np.ptp(counts[group]) <= 1 for group in groups)


def test_orders_differ_between_epochs_sets_and_seeds():
    groups = [np.arange(50), np.arange(50)]
    orders = [drawn(groups, [1, 1], seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    orders = [half for rows in orders for half in np.split(rows, 2)]
    assert len({tuple(rows) for rows in orders}) == len(orders)


def test_weights_that_do_not_fit_are_refused():
    data = joined([4])
    with pytest.raises(ValueError, match="3 weights were given for 2 data sets"):
        order(data, np.arange(12), (1.0, 1.0, 1.0), 0, 0)
    with pytest.raises(ValueError, match="data set 2 has no crystal to train on"):
        order(data, np.arange(4), (1.0, 1.0), 0, 0)
    with pytest.raises(ValueError, match=r"weights = \(1.0, 0.0\) is impossible; each must be above 0"):
        Training(weights=(1.0, 0.0))
    with pytest.raises(ValueError, match="no data set was given"):
        JoinedDataset(())


def test_one_data_set_by_itself_may_have_a_weight():
    data = CrystalDataset.from_crystals(CRYSTALS)
    assert sorted(order(data, np.arange(2, 9), (3.0,), 0, 0)) == list(range(2, 9))


def test_training_draws_by_weight():
    data = joined([2], CRYSTALS[:10])
    made = Counting(objective())
    how = replace(HOW, epochs=4, weights=(9.0, 1.0))
    train(made, data, replace(SPLIT, train=np.arange(10), valid=np.arange(0)), how, geometry=GEOMETRY)
    seen = [key for keys in made.keys for key in keys]
    assert len(seen) == 40
    assert sum(key in ("crystal 0", "crystal 1") for key in seen) == 36


RECIPE = {
    "objective": {
        "use": "DeepInfoMax",
        "encoder": {"use": "SiteNet", "site_width": 4, "crystal_width": 5, "hidden": 8},
    },
    "training": {"epochs": 2, "sites_per_batch": 20},
}


def test_a_run_over_several_sets_goes_on_with_the_same_sets_and_weights_only(tmp_path):
    first, second = (replace(one, content_hash=name) for one, name in zip(joined([4]).sets, "ab", strict=True))
    data = JoinedDataset((first, second))
    one = pretrain(data, tmp_path / "one", recipe=RECIPE, weights=[3, 1])
    pretrain(data, tmp_path / "two", recipe=RECIPE, weights=[3, 1], epochs=1)
    two = pretrain(data, tmp_path / "two", resume=True, epochs=2)
    assert without(one, "crystals_per_second") == without(two, "crystals_per_second")
    assert one[0]["crystal"] != pretrain(data, tmp_path / "other", recipe=RECIPE)[0]["crystal"]
    for others in ((second, first), (first,), (first, replace(second, content_hash="c"))):
        with pytest.raises(ValueError, match="began with other crystals; give it the same data sets in the same order"):
            pretrain(JoinedDataset(others), tmp_path / "two", resume=True)
    with pytest.raises(
        ValueError, match=r"began with weights = \[3, 1\], not \[1, 1\]; leave it out to go on with that"
    ):
        pretrain(data, tmp_path / "two", resume=True, weights=[1, 1])
    with pytest.raises(ValueError, match="began with batches_per_step = 1, not 2"):
        pretrain(data, tmp_path / "two", resume=True, batches_per_step=2)
    with pytest.raises(ValueError, match="1 weights were given for 2 data sets"):
        pretrain(data, tmp_path / "three", recipe=RECIPE, weights=[1])
    assert not (tmp_path / "three").exists()
