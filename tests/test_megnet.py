"""MEGNet against plain loops, and what must not matter to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.checkpoint import load
from crystalmax.crystal import CrystalBatch
from crystalmax.dataset import CrystalDataset
from crystalmax.encoders import GaussianBasis, MEGNet
from crystalmax.encoding import Encoder
from crystalmax.neighbors import Neighbors
from crystalmax.pretraining import pretrain
from crystalmax.segments import weighted_sum
from crystalmax.spec import build, describe, read_recipe
from crystalmax.testing import toy_crystals
from crystals import random_crystals, rock_salt, some_crystals
from encoders import check_against_loops, check_invariance, check_learning, check_species, in_double, made
from reference import message_passing

GEOMETRY = Neighbors(3.5, merge=False)


def network(seed=0, **options):
    return made(MEGNet, seed, **{"site_width": 4, "crystal_width": 6, "hidden": 8, "blocks": 2, **options})


@settings(max_examples=5)
@given(st.lists(random_crystals(max_sites=3), min_size=1, max_size=2))
def test_every_vector_equals_loops_over_sites_and_pairs(crystals):
    net = network(distance=GaussianBasis(width=6, start=0.0, stop=5.0))
    check_against_loops(net, GEOMETRY(CrystalBatch.collate([*crystals, rock_salt()])), message_passing.megnet)


def test_neither_cell_nor_rotation_nor_order_nor_company_matters():
    check_invariance(network(), GEOMETRY, some_crystals())


@settings(max_examples=5)
@given(st.lists(random_crystals(max_sites=4), min_size=2, max_size=3))
def test_nor_do_they_for_crystals_without_symmetry(crystals):
    check_invariance(network(), GEOMETRY, crystals)


def test_a_mixture_is_neither_of_its_elements_and_a_vacancy_counts():
    check_species(network(), GEOMETRY)


def test_the_cut_stops_every_gradient_and_changes_no_number(batch):
    net = network()
    batch = GEOMETRY(batch)
    cut, whole = net(batch, greedy=True), net(batch)
    below = set()
    for one, other in zip(cut.levels, whole.levels, strict=True):
        assert torch.equal(one.summaries, other.summaries)
        own = {name for name, gradient in gradients(net, one.summaries.sum()) if gradient is not None}
        assert own
        assert not own & below
        assert not one.constituents.values.requires_grad
        below |= own
        assert below <= {
            name for name, gradient in gradients(net, other.summaries.square().sum()) if gradient is not None
        }
    assert below == {name for name, _ in net.named_parameters()}


def gradients(net, number):
    found = torch.autograd.grad(number, list(net.parameters()), allow_unused=True, retain_graph=True)
    return [(name, gradient) for (name, _), gradient in zip(net.named_parameters(), found, strict=True)]


def test_deep_infomax_learns_on_it(rng):
    check_learning(network(hidden=16), GEOMETRY, rng)


def test_it_is_an_encoder_that_a_description_gives_again(batch):
    net = network(seed=3, distance=GaussianBasis(width=5))
    assert isinstance(net, Encoder)
    twin = build(describe(net))
    assert describe(twin) == describe(net)
    twin.load_state_dict(net.state_dict())
    batch = GEOMETRY(batch)
    assert torch.equal(twin(batch).crystals, net(batch).crystals)
    for level in net(batch).levels:
        assert (level.constituents.values.shape[1], level.summaries.shape[1]) == tuple(net.widths[level.name])


def test_without_pairs_it_says_what_to_do(crystals):
    with pytest.raises(ValueError, match="has no pairs; apply a geometry such as Neighbors"):
        network()(CrystalBatch.collate(crystals))


def test_its_recipe_trains_every_level(tmp_path):
    recipe = read_recipe("megnet")
    covered = {
        name for negative in recipe["objective"]["negatives"] for name in negative.get("levels", ("site", "crystal"))
    }
    history = pretrain(CrystalDataset.from_crystals(toy_crystals(24)), tmp_path / "run", recipe="megnet", epochs=1)
    encoder = load(tmp_path / "run").encoder
    assert isinstance(encoder, MEGNet)
    assert covered == set(encoder.widths)
    assert all(0 < row[level] < 3 for row in history for level in encoder.widths)


def test_merged_pairs_give_what_single_pairs_give(crystals):
    batch = CrystalBatch.collate(crystals)
    merged, single = in_double(Neighbors(3.5)(batch)), in_double(GEOMETRY(batch))
    assert len(merged.pairs.center) < len(single.pairs.center)
    net = network().double()
    for one, other in zip(net(merged).levels, net(single).levels, strict=True):
        torch.testing.assert_close(one.summaries, other.summaries, atol=1e-5, rtol=0)
        members = (level.constituents for level in (one, other))
        sums = [weighted_sum(m.values, m.row, m.weight, m.owner, len(one.summaries)) for m in members]
        torch.testing.assert_close(*sums, atol=1e-4, rtol=0)


def test_sites_must_hear_of_each_other():
    with pytest.raises(ValueError, match="blocks is 0; sites need at least 1"):
        MEGNet(blocks=0)
