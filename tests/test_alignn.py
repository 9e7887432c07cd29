"""ALIGNN against plain loops, and what must not matter to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.checkpoint import load
from crystalmax.crystal import CrystalBatch
from crystalmax.dataset import CrystalDataset
from crystalmax.encoders import ALIGNN, GaussianBasis
from crystalmax.encoders.alignn import angles_of
from crystalmax.encoding import Encoder
from crystalmax.neighbors import Neighbors
from crystalmax.pretraining import pretrain
from crystalmax.segments import gather
from crystalmax.spec import build, describe, read_recipe
from crystalmax.testing import toy_crystals
from crystals import perovskite, random_crystals, rock_salt, some_crystals
from encoders import check_against_loops, check_invariance, check_learning, check_species, made
from reference import message_passing

GEOMETRY = Neighbors(4.0, max_neighbors=6, merge=False)


def network(seed=0, **options):
    return made(ALIGNN, seed, **{"site_width": 4, "crystal_width": 6, "hidden": 8, "convolutions": (2, 2), **options})


@settings(max_examples=5)
@given(st.lists(random_crystals(max_sites=3), min_size=1, max_size=2))
def test_every_vector_equals_loops_over_sites_and_pairs(crystals):
    net = network(distance=GaussianBasis(width=6, start=0.0, stop=5.0))
    check_against_loops(net, GEOMETRY(CrystalBatch.collate([*crystals, rock_salt()])), message_passing.alignn)


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
    recipe = read_recipe("alignn")
    covered = {
        name for negative in recipe["objective"]["negatives"] for name in negative.get("levels", ("site", "crystal"))
    }
    history = pretrain(CrystalDataset.from_crystals(toy_crystals(24)), tmp_path / "run", recipe="alignn", epochs=1)
    encoder = load(tmp_path / "run").encoder
    assert isinstance(encoder, ALIGNN)
    assert covered == set(encoder.widths)
    assert all(0 < row[level] < 3 for row in history for level in encoder.widths)


def test_angles_are_those_of_an_octahedron():
    """Titanium of a perovskite sees six oxygens: each of them itself, four at right angles, one opposite."""
    batch = Neighbors(2.0, merge=False)(CrystalBatch.collate([perovskite()]))
    pairs = batch.pairs
    angles = angles_of(pairs, torch.zeros_like(pairs.center), batch.n_sites)
    of_titanium = gather(pairs.center, angles.pair) == 1
    assert torch.equal(gather(pairs.center, angles.pair), gather(pairs.center, angles.other))
    cosines = gather(angles.cosine_of_view, angles.view)[of_titanium]
    found, count = cosines.round(decimals=5).abs_().unique(return_counts=True)
    assert found.tolist() == [0.0, 1.0]
    assert count.tolist() == [6 * 4, 6 * 2]
    assert cosines.sum() == pytest.approx(0, abs=1e-5)


def test_merged_pairs_have_no_angles(crystals):
    with pytest.raises(ValueError, match=r"these pairs are merged.* merge=False"):
        network()(Neighbors(4.0)(CrystalBatch.collate(crystals)))


@pytest.mark.parametrize("convolutions", [(0, 1), (1, 0), (1, 1, 1)])
def test_pairs_and_sites_must_hear_of_each_other(convolutions):
    with pytest.raises(ValueError, match="give two numbers of at least 1, for pairs and for sites"):
        network(convolutions=convolutions)
