"""ALIGNN against plain loops, and its own parts; what every encoder has to do is in test_encoders.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import ALIGNN, GaussianBasis
from crystalmax.encoders.alignn import angles_of
from crystalmax.neighbors import Neighbors
from crystalmax.segments import gather
from crystals import perovskite, random_crystals, rock_salt
from encoders import check_against_loops, made
from reference import message_passing

GEOMETRY = Neighbors(4.0, max_neighbors=6, merge=False)


def network(seed=0, **options):
    return made(ALIGNN, seed, **{"site_width": 4, "crystal_width": 6, "hidden": 8, "convolutions": (2, 2), **options})


@settings(max_examples=5)
@given(st.lists(random_crystals(max_sites=3), min_size=1, max_size=2))
def test_every_vector_equals_loops_over_sites_and_pairs(crystals):
    net = network(distance=GaussianBasis(width=6, start=0.0, stop=5.0))
    check_against_loops(net, GEOMETRY(CrystalBatch.collate([*crystals, rock_salt()])), message_passing.alignn)


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
