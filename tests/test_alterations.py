"""Pairs of altered crystals are those of the crystals they have become, and sites know what they were."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given

from crystalmax.encoding import Encoding
from crystalmax.geometry import AllPairs
from crystalmax.samples.alterations import Altered, Rebuilt
from crystalmax.samples.augmentations import Supercell, ThermalDisplacement
from crystalmax.samples.corruptions import Interstitial, Strain, Vacancy
from crystalmax.samples.negatives import Corrupted
from crystalmax.samples.transforms import Transform
from crystalmax.spec import build, describe
from test_negatives import network
from test_transforms import batches, generators, same_geometry

GEOMETRY = AllPairs(max_sites=8)


@dataclass(frozen=True)
class Nothing:
    def altered(self, batch, rng):
        return Altered(replace(batch, pairs=None), torch.arange(batch.n_sites))


@given(batch=batches, rng=generators)
def test_without_a_change_the_pairs_are_those_that_were(batch, rng):
    assert same_geometry(Rebuilt((Nothing(),), GEOMETRY)(batch, rng), batch)
    assert same_geometry(Rebuilt((), GEOMETRY)(batch, rng), batch)


@given(batch=batches)
def test_alterations_follow_one_another(batch):
    parts = (Vacancy(rate=0.4), Interstitial(tries=2), Strain(), Supercell())
    rebuilt, origin = Rebuilt(parts, GEOMETRY).traced(batch, torch.Generator().manual_seed(5))
    rng, by_hand, before = torch.Generator().manual_seed(5), batch, list(range(batch.n_sites))
    for part in parts:
        by_hand, step = part.altered(by_hand, rng)
        before = [-1 if site < 0 else before[site] for site in step.tolist()]
    assert origin.tolist() == before
    assert same_geometry(rebuilt, GEOMETRY(by_hand))
    old = origin >= 0
    assert torch.equal(rebuilt.crystal_of_site[old], batch.crystal_of_site[origin[old]])
    assert torch.equal(rebuilt.species[old], batch.species[origin[old]])


@pytest.mark.parametrize("part", [Vacancy(rate=0.5), Interstitial(tries=2), Supercell()], ids=repr)
def test_surroundings_are_held_against_the_site_that_it_was(part, batch):
    net, transform = network(), Rebuilt((part,), GEOMETRY)
    altered, origin = transform.traced(batch, torch.Generator().manual_seed(1))
    expected, truth = net(altered, greedy=True), net(batch, greedy=True)
    sampler = Corrupted(transform)
    false = sampler.draw(truth, batch, lambda other: net(other, greedy=True), torch.Generator().manual_seed(1))
    assert (false["site"].owner.diff() >= 0).all()
    seen, all_seen = false["site"], expected["site"].constituents
    for site in range(batch.n_sites):
        mine = seen.values[seen.row[seen.owner == site]]
        parts = [all_seen.values[all_seen.row[all_seen.owner == now]] for now in (origin == site).nonzero()[:, 0]]
        assert torch.equal(mine, torch.cat(parts) if parts else mine[:0])
    n_new = sum(int((all_seen.owner == now).sum()) for now in (origin < 0).nonzero()[:, 0])
    assert len(seen.owner) == len(all_seen.owner) - n_new
    for column in ("values", "row", "owner", "weight"):
        assert torch.equal(getattr(false["crystal"], column), getattr(expected["crystal"].constituents, column))


def test_sets_of_pairs_cannot_be_held_against_those_of_other_pairs(batch, rng):
    truth = network()(batch, greedy=True)
    other = Encoding((replace(truth["site"], name="bond"), truth["crystal"]))
    with pytest.raises(ValueError, match="other sets at the level 'bond'"):
        Corrupted(Rebuilt((Strain(),)), levels=("bond",)).draw(other, batch, lambda _: other, rng)


def test_it_is_a_transform_and_survives_a_description():
    rebuilt = Rebuilt((ThermalDisplacement(amplitude=0.1), Strain(smallest=0.0, largest=0.02)), GEOMETRY)
    assert isinstance(rebuilt, Transform)
    assert build(describe(rebuilt)) == rebuilt
    assert build(describe(Corrupted(rebuilt))) == Corrupted(rebuilt)
