"""Recall, intervals and pace of anything that answers queries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.index.tune.measure import BATCH, interval, pace_of, recall_of, steps

INF = float("inf")


def scores(*lines: list[float]) -> np.ndarray:
    return np.array(lines, dtype=np.float32)


def test_recall_is_the_share_of_the_true_neighbours_that_were_found() -> None:
    truth = scores([0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6])
    found = scores([0.9, 0.8, 0.7, 0.6], [0.9, 0.7, 0.5, -INF])
    assert recall_of(found, truth).tolist() == [1.0, 0.5]


def test_one_of_two_duplicates_is_as_right_as_the_other() -> None:
    # Three rows score 0.8 and two of them belong to the answer: whichever were found, they count.
    assert recall_of(scores([0.9, 0.8, 0.8]), scores([0.9, 0.8, 0.8])).tolist() == [1.0]


def test_fewer_rows_than_asked_are_all_there_is_to_find() -> None:
    truth = scores([0.9, -INF, -INF], [-INF, -INF, -INF])
    assert recall_of(truth, truth).tolist() == [1.0, 1.0]
    assert recall_of(scores([-INF, -INF, -INF], [-INF, -INF, -INF]), truth).tolist() == [0.0, 1.0]


@given(st.integers(1, 40), st.integers(1, 10), st.integers(0, 1_000))
def test_recall_of_a_part_of_the_truth_is_that_part(m: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = -np.sort(-rng.permutation(m * k).reshape(m, k).astype(np.float32), axis=1)
    kept = rng.random((m, k)) < 0.6
    found = np.where(kept, truth, -np.inf).astype(np.float32)
    assert recall_of(found, truth).tolist() == (kept.sum(axis=1) / k).tolist()


@given(st.lists(st.integers(0, 10), min_size=1, max_size=200))
def test_the_interval_holds_the_mean_unless_all_are_found(counts: list[int]) -> None:
    shares = np.array(counts) / 10
    low, high = interval(shares)
    assert 0 <= low <= shares.mean() + 1e-9
    assert shares.mean() - 1e-9 <= high <= 1


def test_the_interval_is_about_two_standard_errors_wide() -> None:
    shares = np.random.default_rng(0).binomial(10, 0.95, 2_000) / 10
    low, high = interval(shares)
    assert (high - low) / 2 == pytest.approx(1.96 * shares.std() / 2_000**0.5, rel=0.1)


def test_ten_of_ten_is_not_certain() -> None:
    assert interval(np.ones(10))[0] == pytest.approx(0.6915, abs=1e-4)  # Clopper and Pearson's bound
    assert interval(np.ones(10))[1] == 1


def test_pace_asks_one_at_a_time_and_in_batches() -> None:
    asked: list[int] = []

    def ask(queries: np.ndarray) -> np.ndarray:
        asked.append(len(queries))
        return np.zeros((len(queries), 3), np.float32)

    pace = pace_of(ask, np.zeros((7, 4), np.float32), seconds=0.0)
    assert asked == [1] * 53 + [BATCH] * 3
    assert 0 < pace.p50_ms <= pace.p95_ms
    assert pace.queries_per_s > 0


@given(st.integers(1, 200_000))
def test_steps_rise_from_few_lists_to_all_of_them(lists: int) -> None:
    found = steps(lists)
    assert found == sorted(set(found))
    assert found[0] == max(1, lists // 256)
    assert found[-1] == lists
    assert len(found) <= 24
