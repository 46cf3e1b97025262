from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import binomtest, bootstrap

from raystore.train.report.bootstrap import interval, p_value, resample, share_interval


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[:, :1] / sums[:, 1:]


def rows_of(right: np.ndarray) -> np.ndarray:
    return np.stack([right, np.ones(len(right))], axis=1).astype(float)


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    numbers = np.random.default_rng(1).gamma(2, 3, 400)
    drawn = resample(rows_of(numbers), None, mean, draws=4000)
    theirs = bootstrap((numbers,), np.mean, n_resamples=4000, method="percentile", random_state=2).confidence_interval
    np.testing.assert_allclose(interval(drawn[:, 0], numbers.mean()), theirs, rtol=0.01)


def test_equal_rows_are_drawn_together_and_give_the_same_interval_as_one_by_one() -> None:
    right = np.random.default_rng(0).random(500) < 0.8
    together = interval(resample(rows_of(right), None, mean, draws=4000)[:, 0], right.mean())
    theirs = bootstrap((right,), np.mean, n_resamples=4000, method="percentile", random_state=0).confidence_interval
    np.testing.assert_allclose(together, theirs, atol=0.006)


def test_rows_of_one_entity_are_drawn_as_one_so_the_interval_is_that_of_fewer_rows() -> None:
    right = np.random.default_rng(0).random(300) < 0.7
    alone = resample(rows_of(right), None, mean, draws=2000)
    tenfold = resample(rows_of(np.repeat(right, 10)), np.repeat(np.arange(300), 10), mean, draws=2000)
    loose = resample(rows_of(np.repeat(right, 10)), None, mean, draws=2000)
    assert tenfold.std() == pytest.approx(alone.std(), rel=0.1)
    assert loose.std() == pytest.approx(alone.std() / np.sqrt(10), rel=0.1)


def test_draws_depend_on_the_seed_alone() -> None:
    rows = rows_of(np.arange(50) % 3 == 0)
    assert np.array_equal(resample(rows, None, mean), resample(sparse.csr_array(rows), None, mean))
    assert not np.array_equal(resample(rows, None, mean), resample(rows, None, mean, seed=1))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(0, 1))
def test_an_interval_holds_its_point(drawn: list[float], point: float) -> None:
    low, high = interval(np.array([*drawn, np.nan]), point)
    assert low <= point <= high


@given(st.integers(1, 60), st.integers(0, 60))
@settings(deadline=None)
def test_all_right_or_all_wrong_takes_the_exact_binomial_bound(n: int, right: int) -> None:
    point = min(right, n) / n
    low, high = share_interval(np.full(10, point), point, n)
    exact = binomtest(min(right, n), n).proportion_ci(0.95, "exact")
    if point in (0, 1):
        assert (low, high) == pytest.approx((exact.low, exact.high))
    else:
        assert low == high == point


def test_p_is_one_where_nothing_differs_and_small_where_all_draws_agree() -> None:
    assert p_value(np.zeros(1000)) == 1.0
    assert p_value(np.ones(999)) == p_value(-np.ones(999)) == 2 / 1000


def test_nothing_drawn_leaves_the_point() -> None:
    assert interval(np.full(3, np.nan), 0.4) == (0.4, 0.4)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(300):
        right = np.repeat(rng.random(120) < 0.8, rng.integers(1, 4, 120))
        entities = np.arange(len(right))  # each row its own: the interval of a plain share
        low, high = interval(resample(rows_of(right), entities, mean, draws=400)[:, 0], right.mean())
        held += low <= 0.8 <= high
    loose = held / 300
    held = 0
    for _ in range(300):
        sizes = rng.integers(1, 4, 120)
        right, entities = np.repeat(rng.random(120) < 0.8, sizes), np.repeat(np.arange(120), sizes)
        low, high = interval(resample(rows_of(right), entities, mean, draws=400)[:, 0], right.mean())
        held += low <= 0.8 <= high
    assert held / 300 > 0.91 > loose  # drawing rows that hang together one by one promises too much
