"""The kernel over blocks against a naive loop, its gradient against differences, and the search for its scales."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import approx_fprime
from scipy.spatial.distance import cdist
from sklearn.base import clone
from sklearn.gaussian_process.kernels import Matern, WhiteKernel

from crystalmax.few_labels import kernels
from crystalmax.few_labels.kernels import PRIORS, BlockMatern, most_likely

WIDTHS = (2, 3, 1)


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, sum(WIDTHS)))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_it_is_a_matern_kernel_of_the_scaled_distance(seed):
    rng = np.random.default_rng(seed)
    scales, X, Y = rng.uniform(0.3, 3, size=3), rows(4, seed), rows(5, seed + 1)
    found = BlockMatern(WIDTHS, scales)(X, Y)
    for x, row in zip(X, found, strict=True):
        for y, value in zip(Y, row, strict=True):
            square, begin = 0.0, 0
            for width, scale in zip(WIDTHS, scales, strict=True):
                square += sum((x[i] - y[i]) ** 2 for i in range(begin, begin + width)) / width / scale**2
                begin += width
            distance = (3 * square) ** 0.5
            np.testing.assert_allclose(value, (1 + distance) * np.exp(-distance))


def test_one_block_is_the_kernel_of_scikit_learn():
    X = rows(7)
    found, gradient = BlockMatern((6,), np.array([0.8]), 1.7, 0.1)(X, eval_gradient=True)
    expected, other = (1.7 * Matern(0.8 * 6**0.5, nu=1.5) + WhiteKernel(0.1))(X, eval_gradient=True)
    np.testing.assert_allclose(found, expected)
    np.testing.assert_allclose(gradient, other, atol=1e-12)


def test_its_gradient_is_that_of_differences():
    X, kernel = rows(6), BlockMatern(WIDTHS, np.array([0.5, 1.0, 2.0]), constant=1.3, noise=0.2)
    _, gradient = kernel(X, eval_gradient=True)
    numeric = approx_fprime(kernel.theta, lambda theta: kernel.clone_with_theta(theta)(X).ravel(), 1e-7)
    np.testing.assert_allclose(gradient.reshape(36, -1), numeric, atol=1e-5)


def test_its_hyperparameters_are_what_a_search_moves():
    kernel = BlockMatern(WIDTHS, np.array([0.5, 1.0, 2.0]), constant=1.3, noise=0.2)
    np.testing.assert_allclose(kernel.theta, np.log([1.3, 0.5, 1, 2, 0.2]))
    assert [each.name for each in kernel.hyperparameters] == ["constant", "length_scale", "noise"]
    assert kernel.bounds.shape == (5, 2)
    moved = kernel.clone_with_theta(np.log([0.7, 3.0, 2.0, 1.0, 0.4]))
    np.testing.assert_allclose([moved.constant, *moved.length_scale, moved.noise], [0.7, 3, 2, 1, 0.4])
    np.testing.assert_allclose(clone(moved)(rows(3)), moved(rows(3)))
    np.testing.assert_allclose(moved.diag(rows(3)), np.diag(moved(rows(3))))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("steepness", [0.0, 1.0, 100.0])
def test_scales_are_what_was_likely_unless_labels_say_otherwise(steepness, prior):
    start, wanted = np.zeros(3), np.array([4.0, 4.0, 4.0])
    likely, doubt = np.log(prior[0]), prior[1]

    def negative_log_likelihood(theta):
        return steepness * ((theta - wanted) ** 2).sum() / 2 + 0.5, steepness * (theta - wanted)

    bounds = np.array([[-9.0, 9.0]] * 3)
    found, value = most_likely(negative_log_likelihood, start, bounds, scales=slice(1, 2), prior=prior)
    share = steepness * doubt**2 / (1 + steepness * doubt**2)
    between = share * 4 + (1 - share) * likely
    np.testing.assert_allclose(found, [4, between, 4] if steepness else [0, likely, 0], atol=1e-4)
    expected = steepness * (between - 4) ** 2 / 2 + (between - likely) ** 2 / doubt**2 / 2 + 0.5
    np.testing.assert_allclose(value, expected, atol=1e-4)


def test_distances_are_taken_once_in_a_search_and_anew_for_other_rows(monkeypatch):
    rng, asked = np.random.default_rng(0), []
    monkeypatch.setattr(kernels, "cdist", lambda a, b, metric: asked.append(len(a)) or cdist(a, b, metric))
    X, other = rng.normal(size=(2, 6, 5))
    kernel = BlockMatern((2, 3), np.ones(2), noise=1.0)
    kernel(X, eval_gradient=True)
    kernel.theta = np.log([1.0, 0.5, 2.0, 1.0])
    values, gradient = kernel(X, eval_gradient=True)
    assert len(asked) == 2
    fresh = BlockMatern((2, 3), np.array([0.5, 2.0]), noise=1.0)
    np.testing.assert_array_equal(values, fresh(X))
    np.testing.assert_array_equal(gradient, fresh(X, eval_gradient=True)[1])
    np.testing.assert_array_equal(kernel(other, eval_gradient=True)[0], fresh(other))
    np.testing.assert_array_equal(kernel(X, other), fresh(X, other))


def test_blocks_are_in_memory_one_after_another():
    X = np.random.default_rng(0).normal(size=(500, 24))
    kernel = BlockMatern((2,) * 12, np.ones(12))
    tracemalloc.start()
    kernel(X)
    peak = tracemalloc.get_traced_memory()[1] / (8 * 500**2)
    tracemalloc.stop()
    assert peak < 6  # of matrices between all rows; with all blocks at once, 37


def test_a_search_stays_within_its_bounds():
    def negative_log_likelihood(theta):
        return ((theta - 4) ** 2).sum(), 2 * (theta - 4)

    bounds = np.array([[-9.0, 1.0], [-9.0, 2.0], [-9.0, 9.0]])
    found, _ = most_likely(negative_log_likelihood, np.zeros(3), bounds, scales=slice(1, 2), prior=PRIORS[0])
    np.testing.assert_allclose(found, [1, 2, 4], atol=1e-4)
