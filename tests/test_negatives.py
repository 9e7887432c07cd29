"""False constituents: from which crystals, how often, and held against what."""

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import SiteNet
from crystalmax.encoding import Constituents, Encoding, Level
from crystalmax.geometry import AllPairs
from crystalmax.objectives import DeepInfoMax
from crystalmax.objectives.estimators import NWJ, DonskerVaradhan, InfoNCE, JensenShannon, Smile
from crystalmax.samples.negatives import Corrupted, NegativeSampler, OtherCrystals, WithoutCollisions, collisions
from crystalmax.samples.transforms import FalseComposition, FalsePermutation, FalsePolymorph
from crystalmax.spec import build, describe
from crystals import metal, perovskite, pure, quartz, random_crystals
from test_transforms import evenly

SAMPLERS = (
    OtherCrystals(),
    Corrupted(FalsePolymorph()),
    Corrupted(FalsePermutation(), levels=("crystal",)),
    WithoutCollisions(Corrupted(FalseComposition()), mask=False),
)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SiteNet(site_width=3, crystal_width=4, hidden=4)


def labelled(weights):
    """A level whose constituents carry their own number, for crystals with parts of these weights, two sets each."""
    owner = torch.tensor([2 * crystal + part % 2 for crystal, own in enumerate(weights) for part in range(len(own))])
    flat = torch.tensor([weight for own in weights for weight in own], dtype=torch.float32)
    order = torch.argsort(owner, stable=True)
    n = len(flat)
    parts = Constituents(torch.arange(n).float()[:, None], torch.arange(n), owner[order], flat[order])
    crystal = torch.arange(len(weights)).repeat_interleave(2)
    return Level("site", parts, torch.zeros(2 * len(weights), 1), crystal)


def drawn_from(level, n_crystals, rng):
    batch = CrystalBatch(
        torch.zeros(n_crystals, 3, 3),
        torch.zeros(0, 3),
        torch.zeros(0).long(),
        torch.zeros(0, 105),
        torch.zeros(0).long(),
    )
    return OtherCrystals().draw(Encoding((level,)), batch, lambda other: None, rng)["site"]


def seen(parts):
    return parts.values[parts.row]


weights_of_crystals = st.lists(st.lists(st.integers(1, 30), min_size=2, max_size=5), min_size=2, max_size=4)


@given(weights=weights_of_crystals, seed=st.integers(0, 2**32 - 1))
def test_other_crystals_never_gives_a_constituent_of_the_own_crystal(weights, seed):
    level = labelled(weights)
    false = drawn_from(level, len(weights), torch.Generator().manual_seed(seed))
    of_part = level.crystal[level.constituents.owner]
    assert (of_part[false.row] != of_part).all()
    assert torch.equal(false.owner, level.constituents.owner)
    assert torch.equal(false.weight, level.constituents.weight)
    assert false.values is level.constituents.values


def test_other_crystals_gives_every_other_constituent_in_proportion_to_its_weight(rng):
    weights = [[1, 4], [2, 3, 1], [6, 2]]
    level = labelled(weights)
    weight, of_part = level.constituents.weight, level.crystal[level.constituents.owner]
    counts = torch.zeros(7, 7)
    for _ in range(1500):
        counts[torch.arange(7), drawn_from(level, 3, rng).row] += 1
    for part in range(7):
        others = of_part != of_part[part]
        assert (counts[part][~others] == 0).all()
        expected = 1500 * weight[others] / weight[others].sum()
        assert evenly(counts[part][others].tolist(), expected.tolist())
    # Uniform draws of rows would not do.
    uniform = torch.full((5,), 300.0)
    assert not evenly(counts[0][of_part != 0].tolist(), uniform.tolist())


@given(crystals=st.lists(random_crystals(), min_size=2, max_size=4), seed=st.integers(0, 2**32 - 1))
def test_other_crystals_draws_at_both_levels_of_an_encoding(crystals, seed):
    batch = AllPairs(max_sites=8)(CrystalBatch.collate(crystals))
    truth = network()(batch, greedy=True)
    false = OtherCrystals().draw(truth, batch, lambda other: None, torch.Generator().manual_seed(seed))
    assert set(false) == {"site", "crystal"}
    sites = false["crystal"].row
    assert (batch.crystal_of_site[sites] != batch.crystal_of_site).all()
    assert false["crystal"].values is truth["crystal"].constituents.values
    # At the level of sites many pairs share a row, so what is drawn must occur in another crystal.
    parts = truth["site"].constituents
    crystal = batch.crystal_of_site[parts.owner]
    for row, own in zip(false["site"].row.tolist(), crystal.tolist(), strict=True):
        assert ((parts.row == row) & (crystal != own)).any()


@dataclass(frozen=True)
class OtherTable:
    """Each species with other elements: the table changes, the rows of the sites stay."""

    def __call__(self, batch, rng):
        return replace(batch, kinds=batch.kinds.roll(1, 0))


@pytest.mark.parametrize("transform", [FalseComposition(), OtherTable()])
@pytest.mark.parametrize("levels", [("site", "crystal"), ("crystal",)])
def test_corrupted_gives_the_constituents_of_the_corrupted_batch(levels, transform, batch):
    net = network()
    truth = net(batch, greedy=True)
    sampler = Corrupted(transform, levels=levels)
    false = sampler.draw(truth, batch, lambda other: net(other, greedy=True), torch.Generator().manual_seed(1))
    expected = net(transform(batch, torch.Generator().manual_seed(1)), greedy=True)
    assert tuple(false) == levels
    for name in levels:
        for column in ("values", "row", "owner", "weight"):
            assert torch.equal(getattr(false[name], column), getattr(expected[name].constituents, column))
        assert false[name].owner.max() < len(truth[name].summaries)
        assert not torch.equal(seen(false[name]), seen(truth[name].constituents))


vectors_of_sets = st.lists(
    st.tuples(st.lists(st.integers(0, 5), max_size=4), st.lists(st.integers(0, 5), max_size=4)), min_size=1, max_size=5
)


def constituents(sets, table, noise):
    """Constituents that share rows, and rows that are equal but for noise."""
    owner = torch.tensor([number for number, own in enumerate(sets) for _ in own], dtype=torch.int64)
    row = torch.tensor([each for own in sets for each in own], dtype=torch.int64)
    values = torch.cat([table, table + noise])
    moved = row + len(table) * (torch.arange(len(row)) % 2)
    return Constituents(values, moved, owner, torch.ones(len(row)))


@given(sets=vectors_of_sets, seed=st.integers(0, 2**32 - 1))
def test_a_collision_is_a_false_constituent_that_its_own_set_truly_has(sets, seed):
    rng = torch.Generator().manual_seed(seed)
    table = torch.randn(6, 5, generator=rng)
    noise = 1e-6 * torch.randn(6, 5, generator=rng)
    own, others = zip(*sets, strict=True)
    expected = [each in mine for mine, other in zip(own, others, strict=True) for each in other]
    found = collisions(constituents(own, table, noise), constituents(others, table, -noise))
    assert found.tolist() == expected


def test_vectors_further_apart_than_the_tolerance_do_not_collide():
    table = torch.ones(1, 4)
    true, false = (constituents([[0]], table + off, torch.zeros(1, 4)) for off in (0.0, 0.01))
    assert not collisions(true, false, 0.005).any()
    assert collisions(true, false, 0.02).all()


def test_the_same_metal_collides_in_every_composition_and_polymorph_is_told(rng):
    batch = AllPairs(max_sites=8)(CrystalBatch.collate([metal(*pure("Fe")), metal(*pure("Fe"), a=3.2)]))
    net = network()
    truth = net(batch, greedy=True)

    def drawn(transform, mask):
        sampler = WithoutCollisions(Corrupted(transform), mask=mask)
        return sampler, sampler.draw(truth, batch, lambda other: net(other, greedy=True), rng)

    sampler, false = drawn(FalseComposition(), True)
    assert sampler.rates == {"site": 1.0, "crystal": 1.0}
    assert all(len(parts.owner) == len(parts.row) == len(parts.weight) == 0 for parts in false.values())
    sampler, false = drawn(FalseComposition(), False)
    assert sampler.rates == {"site": 1.0, "crystal": 1.0}
    assert all(len(false[level.name].row) == len(level.constituents.row) for level in truth.levels)
    sampler, false = drawn(FalsePolymorph(), True)
    assert sampler.rates == {"site": 0.0, "crystal": 0.0}
    assert all(len(false[level.name].row) == len(level.constituents.row) for level in truth.levels)


def test_collisions_are_counted_by_weight_and_the_others_stay(batch, rng):
    net = network()
    truth = net(batch, greedy=True)

    def encode(other):
        return net(other, greedy=True)

    plain, sampler = Corrupted(FalsePermutation()), WithoutCollisions(Corrupted(FalsePermutation()))
    found = {"site": [0.0, 0.0], "crystal": [0.0, 0.0]}
    for seed in range(3):
        whole, masked = (
            each.draw(truth, batch, encode, torch.Generator().manual_seed(seed)) for each in (plain, sampler)
        )
        for name, parts in whole.items():
            hit = collisions(truth[name].constituents, parts)
            found[name][0] += parts.weight[hit].sum().item()
            found[name][1] += parts.weight.sum().item()
            for column in ("row", "owner", "weight"):
                assert torch.equal(getattr(masked[name], column), getattr(parts, column)[~hit])
    assert sampler.counts == {name: tuple(pair) for name, pair in found.items()}
    assert sampler.rates == {name: hits / total for name, (hits, total) in found.items()}
    assert 0 < sampler.rates["crystal"] < 1


@pytest.mark.parametrize("estimator", [JensenShannon(), InfoNCE(), NWJ(), DonskerVaradhan(), Smile()], ids=repr)
@pytest.mark.parametrize("constituents", [None, 3])
def test_deep_infomax_learns_nothing_from_sets_without_false_constituents(estimator, constituents, rng):
    crystals = [metal(*pure("Fe")), metal(*pure("Fe"), a=3.2), perovskite()]
    sampler = WithoutCollisions(Corrupted(FalsePermutation()))
    objective = DeepInfoMax(network(), negatives=[sampler], estimator=estimator, constituents=constituents)
    batch = AllPairs(max_sites=8)(CrystalBatch.collate(crystals))
    terms = objective(batch, rng)
    sum(terms.values()).backward()
    assert sampler.rates["crystal"] > 0
    for parameter in objective.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
    metals = objective(AllPairs(max_sites=8)(CrystalBatch.collate(crystals[:2])), rng)
    assert metals["site"].item() == metals["crystal"].item() == 0


def test_one_crystal_alone_has_no_other(rng):
    alone = AllPairs()(CrystalBatch.collate([quartz()]))
    with pytest.raises(ValueError, match="another crystal to come from, but this batch has 1"):
        OtherCrystals().draw(network()(alone), alone, lambda other: None, rng)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_they_are_samplers_and_survive_a_description(sampler):
    assert isinstance(sampler, NegativeSampler)
    assert build(describe(sampler)) == sampler


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_a_tolerance_is_in_units_of_the_root_mean_square_and_holds_for_each_number(scale):
    off = torch.tensor([0.01, 0.0, 0.0, 0.0])
    true, false = (constituents([[0]], scale * (torch.ones(1, 4) + by), torch.zeros(1, 4)) for by in (0 * off, off))
    assert collisions(true, false, 0.011).all()
    assert not collisions(true, false, 0.009).any()


def test_a_sampler_without_collisions_has_the_tolerance_it_was_given(rng):
    batch = AllPairs(max_sites=8)(CrystalBatch.collate([metal(*pure("Fe")), metal(*pure("Fe"), a=3.2)]))
    net = network()
    truth = net(batch, greedy=True)
    for tolerance, rate in ((1e-4, 0.0), (100.0, 1.0)):
        sampler = WithoutCollisions(Corrupted(FalsePolymorph()), tolerance=tolerance)
        sampler.draw(truth, batch, lambda other: net(other, greedy=True), rng)
        assert sampler.rates["crystal"] == rate


def test_a_level_that_there_is_not_cannot_be_corrupted(rng):
    batch, net = AllPairs(max_sites=6)(CrystalBatch.collate([quartz(), metal(*pure("Fe"))])), network()
    with pytest.raises(ValueError, match="the encoder has no level 'atom' to corrupt; it has site, crystal"):
        Corrupted(FalsePolymorph(), levels=("atom",)).draw(net(batch), batch, net, rng)
