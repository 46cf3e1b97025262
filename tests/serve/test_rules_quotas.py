from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.serve.rules.quotas import Windows


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def windows(requests: int, window_s: float, *, share: float = 1.0, most: int = 50_000) -> tuple[Windows, Clock]:
    clock = Clock()
    return Windows(requests, window_s, share=share, clock=clock, most=most), clock


@settings(deadline=None)
@given(st.integers(1, 5), st.floats(0.5, 20), st.lists(st.floats(0, 3), max_size=60))
def test_in_no_window_do_more_pass_than_the_quota_says(requests: int, window_s: float, pauses: list[float]) -> None:
    counts, clock = windows(requests, window_s)
    passed = []
    for pause in pauses:
        clock.now += pause
        if counts.take("a") == 0:
            passed.append(clock.now)
    for start in passed:
        assert sum(start <= at < start + window_s * (1 - 1e-9) for at in passed) <= requests


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_who_waits_as_long_as_told_passes(requests: int, pauses: list[float]) -> None:
    counts, clock = windows(requests, 8.0)
    for pause in pauses:
        clock.now += pause
        wait_s = counts.take("a")
        if wait_s:
            assert wait_s <= 9.0  # a window and an eighth
            clock.now += wait_s + 1e-6
            assert counts.take("a") == 0


def test_values_are_counted_apart_also_where_they_read_alike() -> None:
    counts, _ = windows(1, 60)
    for value in ("1", 1, 1.5, True, None, "", "None", "ä", "\ud800"):
        assert counts.take(value) == 0
        assert counts.take(value) > 0


@pytest.mark.parametrize(("requests", "replicas", "each"), [(100, 4, 25), (10, 3, 3), (49, 49, 1), (98, 49, 2), (3, 3, 1)])
def test_replicas_share_a_quota(requests: int, replicas: int, each: int) -> None:
    counts, _ = windows(requests, 60, share=1 / replicas)
    assert sum(counts.take("a") == 0 for _ in range(requests)) == each


def test_a_share_of_less_than_one_request_is_one_in_a_longer_window() -> None:
    counts, clock = windows(1, 60, share=1 / 4)
    assert counts.take("a") == 0
    clock.now = 239.0
    assert counts.take("a") > 0
    clock.now = 270.0
    assert counts.take("a") == 0


def test_memory_is_bounded_and_the_value_that_asked_longest_ago_is_forgotten() -> None:
    counts, _ = windows(1, 60, most=3)
    for value in "abc":
        counts.take(value)
    counts.take("a")
    counts.take("d")
    assert len(counts._counts) == 3
    assert counts.take("a") > 0
    assert counts.take("b") == 0


def test_values_are_kept_as_digests_alone() -> None:
    counts, _ = windows(1, 60)
    counts.take("ada@example.org")
    assert "ada" not in repr(vars(counts))
    other, _ = windows(1, 60)
    other.take("ada@example.org")
    assert counts._counts.keys() != other._counts.keys()  # the key is the process's own


def test_what_is_given_back_can_be_taken_again() -> None:
    counts, clock = windows(2, 8)
    assert counts.take("a") == counts.take("a") == 0
    clock.now = 3.0
    counts.give_back("a")
    counts.give_back("never seen")
    assert counts.take("a") == 0
    assert counts.take("a") > 0
    for _ in range(5):
        counts.give_back("a")
    assert [counts.take("a") == 0 for _ in range(3)] == [True, True, False]


def test_many_threads_take_no_more_than_there_is() -> None:
    counts, _ = windows(500, 60)
    taken: list[float] = []

    def take() -> None:
        taken.extend(counts.take("a") for _ in range(200))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken.count(0.0) == 500
