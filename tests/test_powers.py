import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crystalmax.few_labels.powers import Powers, unit_of


def skewed(seed, n=200):
    return np.exp(2 * np.random.default_rng(seed).normal(size=n)) - 1


@given(st.integers(0, 2**31), st.integers(10, 60), st.floats(0.3, 3), st.floats(-2, 2))
def test_labels_come_back(seed, n, width, away):
    y = away + np.exp(width * np.random.default_rng(seed).normal(size=n))
    powers = Powers.of(y)
    np.testing.assert_allclose(powers.back(powers.there(y)), y, rtol=1e-4, atol=1e-4 * np.ptp(y))


@given(
    st.integers(0, 2**31),
    st.integers(2, 60),
    st.floats(0.3, 3),
    st.floats(-1e4, 1e4),
    st.sampled_from([1e-21, 1, 1e12]),
)
@example(seed=0, n=50, width=1, away=-154 / 0.13, unit=0.13)  # total energies: far from 0, and nearly the same
@example(seed=0, n=50, width=3, away=0, unit=1e-21)  # joules
@example(seed=0, n=12, width=0.625, away=1518, unit=1)  # some digits are lost, most are not
def test_labels_in_any_unit_and_far_from_zero_become_normal_and_come_back(seed, n, width, away, unit):
    y = unit * (away + np.exp(width * np.random.default_rng(seed).normal(size=n)))
    powers = Powers.of(y)
    scaled = powers.there(y)
    assert scaled.mean() == pytest.approx(0, abs=0.01)
    assert scaled.std() == pytest.approx(1, rel=0.01)
    np.testing.assert_allclose(powers.back(scaled), y, rtol=0, atol=2e-4 * np.ptp(y))
    assert np.isfinite(powers.back(np.array([-1e9, -3.0, 3.0, 1e9]))).all()


def test_equal_labels_come_back():
    y = np.full(5, 1e-21)
    assert Powers.of(y).back(np.array([-3.0, 0.0, 3.0])).tolist() == [1e-21] * 3


def test_skewed_labels_become_normal():
    scaled = Powers.of(skewed(0)).there(skewed(0))
    assert scaled.mean() == pytest.approx(0, abs=1e-9)
    assert scaled.std() == pytest.approx(1)
    assert abs((scaled**3).mean()) < 0.5 < (((skewed(0) - skewed(0).mean()) / skewed(0).std()) ** 3).mean()


def test_skewed_labels_become_normal_also_where_they_are_tiny():
    scaled = Powers.of(1e-21 * skewed(0)).there(1e-21 * skewed(0))
    assert abs((scaled**3).mean()) < 1 < (((skewed(0) - skewed(0).mean()) / skewed(0).std()) ** 3).mean()


def test_nothing_comes_back_from_beyond_the_labels():
    y = skewed(1)
    found = Powers.of(y).back(np.array([[-1e6, -9.0], [9.0, 1e6]]))
    np.testing.assert_allclose(found, [[y.min()] * 2, [y.max()] * 2])


def test_the_scale_keeps_order_and_shape():
    y = skewed(2)
    scaled = Powers.of(y).there(y.reshape(20, 10))
    assert scaled.shape == (20, 10)
    assert np.argsort(scaled.ravel()).tolist() == np.argsort(y).tolist()


@pytest.mark.parametrize(
    ("labels", "unit"),
    [
        ([1e-7, 9e-7], 2.0**-21),
        ([1e-7, -9e-7], 2.0**-21),
        ([2.0**-30, 0.0], 2.0**-30),
        ([1e-6, 1e-9], 1.0),
        ([-3.0, 1e-9], 1.0),
        ([0.0, 0.0], 1.0),
        ([1e100, 1.0], 1.0),
        ([2.0**600, 1.0], 2.0**600),
        ([1.0, -(2.0**600)], 2.0**600),
    ],
)
def test_only_labels_that_are_very_small_or_very_large_have_a_unit_of_their_own(labels, unit):
    assert unit_of(np.array(labels)) == unit


@pytest.mark.filterwarnings("error")
def test_labels_that_are_nearly_all_one_value_are_no_matter_for_warnings():
    for n, few in ((79, [5.8]), (57, [0.7, 3.7]), (54, [0.5])):
        y = np.append(np.zeros(n), few)
        powers = Powers.of(y)
        np.testing.assert_allclose(powers.back(powers.there(y)), y, rtol=0, atol=1e-3)
