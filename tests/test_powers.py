import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystalmax.powers import Powers


def skewed(seed, n=200):
    return np.exp(2 * np.random.default_rng(seed).normal(size=n)) - 1


@given(st.integers(0, 2**31), st.integers(10, 60), st.floats(0.3, 3), st.floats(-2, 2))
def test_labels_come_back(seed, n, width, away):
    y = away + np.exp(width * np.random.default_rng(seed).normal(size=n))
    powers = Powers.of(y)
    np.testing.assert_allclose(powers.back(powers.there(y)), y, rtol=1e-4, atol=1e-4 * np.ptp(y))


def test_skewed_labels_become_normal():
    scaled = Powers.of(skewed(0)).there(skewed(0))
    assert scaled.mean() == pytest.approx(0, abs=1e-9)
    assert scaled.std() == pytest.approx(1)
    assert abs((scaled**3).mean()) < 0.5 < (((skewed(0) - skewed(0).mean()) / skewed(0).std()) ** 3).mean()


def test_nothing_comes_back_from_beyond_the_labels():
    y = skewed(1)
    found = Powers.of(y).back(np.array([[-1e6, -9.0], [9.0, 1e6]]))
    np.testing.assert_allclose(found, [[y.min()] * 2, [y.max()] * 2])


def test_the_scale_keeps_order_and_shape():
    y = skewed(2)
    scaled = Powers.of(y).there(y.reshape(20, 10))
    assert scaled.shape == (20, 10)
    assert np.argsort(scaled.ravel()).tolist() == np.argsort(y).tolist()
