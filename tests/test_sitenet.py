"""Site-Net against plain loops, and how it saves work; what every encoder has to do is in test_encoders.py."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import GaussianBasis, SiteNet
from crystalmax.encoders.pair_network import distinct_triples
from crystalmax.geometry import AllPairs
from crystalmax.spec import build, read_recipe
from crystals import random_crystals, some_crystals
from encoders import in_double, made
from reference import site_net

GRID = 1e-5
DEPTHS = pytest.mark.parametrize("depth", [{}, {"heads": 4}, {"blocks": 2}, {"blocks": 3, "heads": 2}], ids=str)


def network(seed=0, **options):
    return made(SiteNet, seed, **{"site_width": 4, "crystal_width": 6, "hidden": 8, **options})


def paired(crystals, **options):
    return AllPairs(**{"max_sites": 12, **options})(CrystalBatch.collate(crystals))


@pytest.mark.parametrize(("grid", "tolerance"), [(GRID, 1e-7), (None, 1e-5)])
@DEPTHS
def test_every_vector_equals_a_loop_over_pairs(crystals, depth, grid, tolerance):
    net = network(**depth).double()
    batch = in_double(paired(crystals, merge=False))
    naive = site_net.encode(net, batch, grid)
    encoding = net(batch)
    np.testing.assert_allclose(encoding["site"].summaries.detach(), np.array(naive.sites), atol=tolerance)
    np.testing.assert_allclose(encoding.crystals.detach(), np.array(naive.crystals), atol=tolerance)


def test_constituents_of_a_site_are_the_features_of_its_neighbors_and_their_distances(crystals):
    net = network().double()
    batch = in_double(paired(crystals))
    parts = net(batch)["site"].constituents
    naive = site_net.encode(net, batch, GRID).pairs_of_site
    found = [[] for _ in range(batch.n_sites)]
    for row, owner, weight in zip(parts.row.tolist(), parts.owner.tolist(), parts.weight.tolist(), strict=True):
        found[owner] += [parts.values[row].tolist()] * int(weight)
    for of_site, expected in zip(found, naive, strict=True):
        np.testing.assert_allclose(of_site, np.array(expected), atol=1e-10)


@DEPTHS
def test_merged_pairs_give_what_single_pairs_give(crystals, depth):
    net = network(**depth).double()
    merged, single = in_double(paired(crystals)), in_double(paired(crystals, merge=False))
    assert len(merged.pairs.center) < len(single.pairs.center)
    for a, b in zip(net(merged).levels, net(single).levels, strict=True):
        # Distances that differ by less than a step of the grid are merged before they are rounded.
        torch.testing.assert_close(a.summaries, b.summaries, atol=1e-5, rtol=0)


def test_distances_may_enter_through_another_basis(batch):
    net = network(distance=GaussianBasis(width=5))
    assert net.widths["site"].constituent == 9 + 5
    assert net(batch)["site"].constituents.values.shape[1] == 9 + 5
    assert not torch.allclose(net(batch).crystals, network()(batch).crystals)


class Inverse(torch.nn.Module):
    """A basis without a value at 0, as Bessel functions in it have none."""

    width, step = 2, 0.01

    def forward(self, distance):
        return torch.stack([distance.sin() / distance, distance.log()], dim=1)


@DEPTHS
def test_a_basis_without_a_value_at_zero_is_learnt_with(batch, depth):
    net = network(distance=Inverse(), **depth)
    net(batch).crystals.square().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize(
    ("depth", "message"),
    [
        ({"blocks": 0}, "blocks is 0; give at least 1"),
        ({"heads": 0}, "heads is 0; they share 8 columns evenly, so give a divisor of 8"),
        ({"heads": 3}, "heads is 3; they share 8 columns"),
    ],
)
def test_blocks_and_heads_must_be_possible(depth, message):
    with pytest.raises(ValueError, match=message):
        network(**depth)


def test_a_recipe_names_blocks_and_heads(tmp_path):
    text = files("crystalmax").joinpath("recipes/infomax.toml").read_text()
    recipe = tmp_path / "deep.toml"
    recipe.write_text(text.replace('use = "SiteNet"', 'use = "SiteNet", blocks = 2, heads = 4'))
    encoder = build(read_recipe(recipe)["objective"]).encoder
    assert (encoder.blocks, encoder.heads) == (2, 4)
    assert [block.heads for block in encoder.pair.blocks] == [4, 4]
    assert build(read_recipe("infomax")["objective"]).encoder.pair.width == encoder.pair.width == 64


@given(crystals=st.lists(random_crystals(), min_size=1, max_size=3))
def test_triples_are_distinct_and_stand_for_their_pairs(crystals):
    batch = paired(crystals)
    pairs, species = batch.pairs, batch.species
    triples = distinct_triples(species, len(batch.kinds), pairs)
    end = triples.end[triples.of_pair]
    assert torch.equal(triples.center[triples.of_pair], species[pairs.center])
    assert torch.equal(triples.end_species[end], species[pairs.neighbor])
    torch.testing.assert_close(triples.end_distance[end], pairs.distance.double(), atol=0.6 * GRID, rtol=1e-6)
    assert len({*zip(triples.center.tolist(), triples.end.tolist(), strict=True)}) == len(triples.center)
    ends = zip(triples.end_species.tolist(), (triples.end_distance / GRID).round().tolist(), strict=True)
    assert len({*ends}) == len(triples.end_species)


def test_equal_pairs_are_evaluated_once():
    batch = paired(some_crystals() * 3, merge=False)
    triples = distinct_triples(batch.species, len(batch.kinds), batch.pairs)
    assert len(triples.center) * 3 < len(batch.pairs.center)
