"""CGCNN against plain loops, and its own parts; what every encoder has to do is in test_encoders.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.crystal import CrystalBatch
from crystalmax.encoders import CGCNN, GaussianBasis
from crystalmax.neighbors import Neighbors
from crystals import random_crystals, rock_salt
from encoders import check_against_loops, check_merging, made
from reference import message_passing

GEOMETRY = Neighbors(4.0, max_neighbors=6, merge=False)


def network(seed=0, **options):
    return made(CGCNN, seed, **{"site_width": 4, "crystal_width": 6, "hidden": 8, "convolutions": 2, **options})


@settings(max_examples=5)
@given(st.lists(random_crystals(max_sites=3), min_size=1, max_size=2))
def test_every_vector_equals_loops_over_sites_and_pairs(crystals):
    net = network(distance=GaussianBasis(width=6, start=0.0, stop=5.0))
    check_against_loops(net, GEOMETRY(CrystalBatch.collate([*crystals, rock_salt()])), message_passing.cgcnn)


def test_merged_pairs_give_what_single_pairs_give(crystals):
    check_merging(network(), CrystalBatch.collate(crystals), Neighbors(4.0, max_neighbors=6), GEOMETRY)


def test_sites_must_hear_of_each_other():
    with pytest.raises(ValueError, match="convolutions is 0; give at least 1"):
        CGCNN(convolutions=0)
