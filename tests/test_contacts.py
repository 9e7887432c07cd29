from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalmax.contacts import close_pairs, plane_spacings


def naive_pairs(lattice, positions, cutoff):
    """The definition: the shortest distance over a generous range of images, for every pair."""
    found = {}
    for i in range(len(positions)):
        for j in range(i + 1, len(positions)):
            shortest = min(
                np.linalg.norm((positions[j] - positions[i] + np.array(image)) @ lattice)
                for image in product(range(-5, 6), repeat=3)
            )
            if shortest < cutoff:
                found[i, j] = shortest
    return found


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 5),
    size=st.sampled_from([0.8, 2.0, 6.0]),
    shear=st.sampled_from([0, 1, -2]),
    cutoff=st.sampled_from([0.5, 1.5]),
)
def test_close_pairs_are_those_of_the_definition(seed, n, size, shear, cutoff):
    rng = np.random.default_rng(seed)
    lattice = size * (np.eye(3) + 0.2 * rng.uniform(-1, 1, (3, 3)))
    lattice[2] += shear * lattice[0]
    positions = rng.uniform(-1, 2, (n, 3))
    pairs, distances = close_pairs(lattice, positions, cutoff)
    expected = naive_pairs(lattice, positions, cutoff)
    assert {tuple(pair) for pair in pairs.tolist()} == set(expected)
    np.testing.assert_allclose(distances, [expected[tuple(pair)] for pair in pairs.tolist()], atol=1e-10)


def test_large_cells_take_another_path_to_the_same_pairs():
    rng = np.random.default_rng(0)
    lattice, positions = 20.0 * np.eye(3), rng.random((300, 3))
    pairs, distances = close_pairs(lattice, positions, 1.5)
    between = positions[:, None] - positions
    between -= np.rint(between)
    all_distances = np.linalg.norm(between @ lattice, axis=2)
    expected = np.argwhere(np.triu(all_distances < 1.5, 1))
    assert len(expected) > 50
    np.testing.assert_array_equal(pairs, expected)
    np.testing.assert_allclose(distances, all_distances[tuple(expected.T)])


def test_a_pair_across_the_border_is_found():
    pairs, distances = close_pairs(4.0 * np.eye(3), np.array([[0.01, 0.5, 0.5], [0.97, 0.5, 0.5]]), 0.5)
    assert pairs.tolist() == [[0, 1]]
    assert distances == pytest.approx([0.16])


def test_plane_spacings_are_volume_over_area():
    lattice = np.array([[3.0, 0, 0], [1.0, 4.0, 0], [0.5, 0.2, 5.0]])
    volume = np.linalg.det(lattice)
    areas = [np.linalg.norm(np.cross(lattice[i - 2], lattice[i - 1])) for i in range(3)]
    np.testing.assert_allclose(plane_spacings(lattice), volume / np.array(areas))
