"""MEGNet against plain loops, and its own parts; what every encoder has to do is in test_encoders.py."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import GaussianBasis, MEGNet
from crystalmax.neighbors import Neighbors
from crystalmax.segments import weighted_sum
from crystals import perovskite, random_crystals, rock_salt, supercell
from encoders import check_against_loops, in_double, made
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
    batch = CrystalBatch.collate(crystals)
    merged, single = in_double(Neighbors(3.5)(batch)), in_double(GEOMETRY(batch))
    assert len(merged.pairs.center) < len(single.pairs.center)
    net = network().double()
    for one, other in zip(net(merged).levels, net(single).levels, strict=True):
        torch.testing.assert_close(one.summaries, other.summaries, atol=1e-5, rtol=0)
        members = (level.constituents for level in (one, other))
        sums = [weighted_sum(m.values, m.row, m.weight, m.owner, len(one.summaries)) for m in members]
        torch.testing.assert_close(*sums, atol=1e-4, rtol=0)


def test_thousands_of_pairs_lose_no_digit():
    crystals = [perovskite(), supercell(perovskite(), (4, 4, 4))]
    vectors = made(MEGNet)(Neighbors(4.0)(CrystalBatch.collate(crystals))).crystals
    torch.testing.assert_close(*vectors, atol=1e-5, rtol=0)


def test_sites_must_hear_of_each_other():
    with pytest.raises(ValueError, match="blocks is 0; sites need at least 1"):
        MEGNet(blocks=0)
