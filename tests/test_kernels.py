"""The kernel with a length scale for each column against a naive loop, and the search for its hyperparameters."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import cho_factor
from sklearn.gaussian_process import GaussianProcessRegressor

from crystalmax.few_labels import kernels
from crystalmax.few_labels.kernels import APART, BOUNDS, JITTER, PRIORS, VARIANCES, Likely

WIDTHS = (2, 3, 1)
BLOCK = np.repeat(np.arange(3), WIDTHS)


def rows(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, sum(WIDTHS)))


def labels(X, noise=0.3, seed=0):
    """Told by the third column alone, so its block is of use, and one column of it more than the others."""
    y = np.sin(2 * X[:, 2]) + noise * np.random.default_rng(seed).normal(size=len(X))
    return (y - y.mean()) / y.std()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_it_is_a_matern_kernel_of_the_scaled_distance(seed):
    rng = np.random.default_rng(seed)
    constant, noise, *scales = rng.uniform(0.3, 3, size=2 + 3 + 6)
    of_block, of_column, X = scales[:3], scales[3:], rows(5, seed)
    found = Likely(WIDTHS, PRIORS[0], np.log([constant, noise, *scales])).kernel(X)
    for i, x in enumerate(X):
        for j, y in enumerate(X):
            square = sum(
                (x[k] - y[k]) ** 2 / WIDTHS[BLOCK[k]] / (of_block[BLOCK[k]] * of_column[k]) ** 2 for k in range(6)
            )
            distance = (3 * square) ** 0.5
            np.testing.assert_allclose(found[i, j], constant * (1 + distance) * np.exp(-distance) + noise * (i == j))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("apart", [False, True])
def test_a_search_ends_where_labels_pull_as_much_as_priors(prior, apart):
    X = rows(80)
    y = labels(X)
    likely = replace(Likely.before(WIDTHS, prior), apart=apart).search(X, y)
    process = GaussianProcessRegressor(likely.kernel, alpha=JITTER, optimizer=None).fit(X, y)
    constant, *scales, noise = process.log_marginal_likelihood(process.kernel_.theta, eval_gradient=True)[1]
    of_block, of_column = np.split(likely.theta[2:], [3])
    pull = (of_block - np.log(prior[0] * 3**0.5)) / prior[1] ** 2
    np.testing.assert_allclose([constant, noise], 0, atol=0.05)
    np.testing.assert_allclose(np.bincount(BLOCK, scales), pull, atol=0.05)
    if apart:
        np.testing.assert_allclose(scales, of_column / APART**2, atol=0.05)
        assert of_column[2] == of_column.min() < -0.1
    else:
        assert (of_column == 0).all()
        assert np.abs(scales - np.bincount(BLOCK, scales)[BLOCK] / np.array(WIDTHS)[BLOCK]).max() > 0.1


def test_a_search_begins_with_distance_one_and_goes_on_from_where_it_is():
    begun, X = Likely.before(WIDTHS, PRIORS[1]), rows(40)
    constant, *scales, noise = np.exp(begun.kernel.theta)
    np.testing.assert_allclose([constant, noise], [1, 0.1])
    np.testing.assert_allclose((1 / np.square(scales)).sum(), 1)
    found = begun.search(X, labels(X))
    assert np.abs(found.theta - begun.theta).max() > 0.5
    assert np.abs(found.search(X, labels(X)).theta - found.theta).max() < 0.05
    assert (found.widths, found.prior, found.apart) == (begun.widths, begun.prior, begun.apart)


def test_a_search_stays_within_its_bounds():
    X = 3 * rows(60)
    for y in (X[:, 2] * 1e3, X[:, 2] * 1e-6):
        theta = replace(Likely.before(WIDTHS, (1.0, np.inf)), apart=True).search(X, y).theta
        assert np.log(VARIANCES[0]) <= theta[:2].min() <= theta[:2].max() <= np.log(VARIANCES[1])
        assert np.log(BOUNDS[0]) <= theta[2:].min() <= theta[2:].max() <= np.log(BOUNDS[1])


def test_a_search_goes_round_what_rounding_makes_singular(monkeypatch):
    X, calls = rows(40), []
    plain = Likely.before(WIDTHS, PRIORS[0]).search(X, labels(X)).theta

    def fails(matrix, **options):
        calls.append(1)
        if len(calls) == 2:
            raise np.linalg.LinAlgError
        return cho_factor(matrix, **options)

    monkeypatch.setattr(kernels, "cho_factor", fails)
    np.testing.assert_allclose(Likely.before(WIDTHS, PRIORS[0]).search(X, labels(X)).theta, plain, atol=0.1)
    assert len(calls) > 3


def test_many_rows_take_memory_for_a_few_matrices():
    X = np.random.default_rng(0).normal(size=(500, 24))
    kernel = Likely.before((2,) * 12, PRIORS[0]).kernel
    tracemalloc.start()
    kernel(X)
    peak = tracemalloc.get_traced_memory()[1] / (8 * 500**2)
    tracemalloc.stop()
    assert peak < 6  # of matrices between all rows; with all blocks at once, 37
