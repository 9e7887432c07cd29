"""Site-Net against its description, and its invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import GaussianBasis, SiteNet
from crystalmax.encoders.pair_network import distinct_triples
from crystalmax.encoding import Encoder
from crystalmax.geometry import AllPairs
from crystalmax.spec import build, describe
from crystalmax.training import seeded_weights
from crystals import metal, mixed, pure, random_crystals, some_crystals
from encoders import in_double
from reference import site_net

GRID = 1e-5


def network(seed=0, **options):
    with seeded_weights(seed):
        return SiteNet(**{"site_width": 4, "crystal_width": 6, "hidden": 8, **options})


def paired(crystals, **options):
    return AllPairs(**{"max_sites": 12, **options})(CrystalBatch.collate(crystals))


@pytest.mark.parametrize(("grid", "tolerance"), [(GRID, 1e-7), (None, 1e-5)])
def test_every_vector_equals_a_loop_over_pairs(crystals, grid, tolerance):
    net = network().double()
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


def test_merged_pairs_give_what_single_pairs_give(crystals):
    net = network().double()
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


def test_levels_have_the_promised_names_and_widths(batch):
    net = network()
    assert isinstance(net, Encoder)
    encoding = net(batch)
    assert [level.name for level in encoding.levels] == list(net.widths) == ["site", "crystal"]
    for level in encoding.levels:
        found = (level.constituents.values.shape[1], level.summaries.shape[1])
        assert found == tuple(net.widths[level.name])
    assert encoding.crystals.shape == (batch.n_crystals, 6)
    with pytest.raises(KeyError, match="no level 'bond'; this encoding has site, crystal"):
        encoding["bond"]


def test_without_pairs_it_says_what_to_do(crystals):
    with pytest.raises(ValueError, match="has no pairs; apply a geometry"):
        network()(CrystalBatch.collate(crystals))


@given(crystals=st.lists(random_crystals(), min_size=1, max_size=4))
def test_a_crystal_does_not_notice_its_company(crystals):
    net = network()
    together = net(paired(crystals)).crystals
    alone = torch.cat([net(paired([crystal])).crystals for crystal in crystals])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_mixture_is_neither_of_its_elements_and_a_vacancy_counts():
    kinds = [*pure("Fe", "Ni"), mixed(Fe=0.5, Ni=0.5), *pure("O"), mixed(O=0.8)]
    vectors = network()(paired([metal(kind) for kind in kinds])).crystals
    distances = torch.cdist(vectors, vectors) + torch.eye(len(kinds))
    assert distances.min() > 1e-3


def test_the_cut_stops_the_gradient_and_changes_no_number(batch):
    net = network()
    local = [p for name, p in net.named_parameters() if not name.startswith(("before_mean", "to_crystal"))]
    cut, whole = net(batch, greedy=True).crystals, net(batch).crystals
    assert torch.equal(cut, whole)
    assert all(g is None for g in torch.autograd.grad(cut.sum(), local, allow_unused=True))
    assert all(g is not None for g in torch.autograd.grad(whole.square().sum(), local))


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


@pytest.mark.parametrize("distance", [None, GaussianBasis(width=3)])
def test_a_description_gives_the_same_network(distance, batch):
    with seeded_weights(3):
        net = network(seed=3, distance=distance)
    twin = build(describe(net))
    assert describe(twin) == describe(net)
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(batch).crystals, net(batch).crystals)
