"""MEGNet against plain loops, and its own parts; what every encoder has to do is in test_encoders.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import GaussianBasis, MEGNet
from crystalmax.neighbors import Neighbors
from crystals import perovskite, random_crystals, rock_salt, supercell
from encoders import check_against_loops, check_merging, made
from reference import message_passing

GEOMETRY = Neighbors(3.5, merge=False)


def network(seed=0, **options):
    return made(MEGNet, seed, **{"site_width": 4, "crystal_width": 6, "hidden": 8, "blocks": 2, **options})


@settings(max_examples=5)
@given(st.lists(random_crystals(max_sites=3), min_size=1, max_size=2))
def test_every_vector_equals_loops_over_sites_and_pairs(crystals):
    net = network(distance=GaussianBasis(width=6, start=0.0, stop=5.0))
    check_against_loops(net, GEOMETRY(CrystalBatch.collate([*crystals, rock_salt()])), message_passing.megnet)


def test_merged_pairs_give_what_single_pairs_give(crystals):
    check_merging(network(), CrystalBatch.collate(crystals), Neighbors(3.5), GEOMETRY)


def test_thousands_of_pairs_lose_no_digit():
    crystals = [perovskite(), supercell(perovskite(), (4, 4, 4))]
    vectors = made(MEGNet)(Neighbors(4.0)(CrystalBatch.collate(crystals))).crystals
    torch.testing.assert_close(*vectors, atol=1e-5, rtol=0)


def test_sites_must_hear_of_each_other():
    with pytest.raises(ValueError, match="blocks is 0; give at least 1"):
        MEGNet(blocks=0)
