"""Token buckets under a clock that stands until it is moved."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.access import LOCAL, Principal, Rates
from raystore.errors import RateExceeded
from raystore.serve.door.rates import MAX_ACCOUNTS, Buckets

ANNA = Principal("anna", frozenset())
BERT = Principal("bert", frozenset())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admitted(buckets: Buckets, principal: Principal = ANNA) -> bool:
    try:
        buckets.take(principal)
    except RateExceeded:
        return False
    return True


def test_a_burst_is_let_in_and_then_one_for_each_that_came_back() -> None:
    clock = Clock()
    buckets = Buckets(Rates(requests_per_s=2, burst=3), clock=clock)
    assert [admitted(buckets) for _ in range(5)] == [True, True, True, False, False]
    clock.now += 0.5
    assert [admitted(buckets) for _ in range(2)] == [True, False]
    clock.now += 60
    assert sum(admitted(buckets) for _ in range(10)) == 3


def test_without_a_burst_two_seconds_worth_come_at_once_and_one_at_least() -> None:
    assert sum(admitted(buckets) for buckets in [Buckets(Rates(requests_per_s=5), clock=Clock())] * 20) == 10
    assert sum(admitted(buckets) for buckets in [Buckets(Rates(requests_per_s=0.1), clock=Clock())] * 20) == 1


def test_who_is_over_is_told_what_and_how_long() -> None:
    clock = Clock()
    buckets = Buckets(Rates(requests_per_s=4, burst=1), clock=clock)
    buckets.take(ANNA)
    with pytest.raises(RateExceeded) as refused:
        buckets.take(ANNA)
    assert str(refused.value) == "the limit of 4 requests a second is reached. Try again in 0.25 s."
    assert refused.value.facts == {"limit": 4, "unit": "requests", "retry_after_s": pytest.approx(0.25)}
    clock.now += refused.value.retry_after_s
    buckets.take(ANNA)


def test_bytes_are_let_in_whole_and_what_is_owed_is_waited_for() -> None:
    clock = Clock()
    buckets = Buckets(Rates(bytes_per_s=1000), clock=clock)
    buckets.take(ANNA)
    buckets.debit(ANNA, 2_000)
    buckets.take(ANNA)  # nothing is owed
    buckets.debit(ANNA, 10_000)
    with pytest.raises(RateExceeded) as refused:
        buckets.take(ANNA)
    assert str(refused.value) == "the limit of 1000 bytes a second is reached. Try again in 10.00 s."
    clock.now += refused.value.retry_after_s
    buckets.take(ANNA)


def test_what_is_refused_is_not_counted() -> None:
    clock = Clock()
    buckets = Buckets(Rates(requests_per_s=1, burst=1, bytes_per_s=10), clock=clock)
    buckets.take(ANNA)
    buckets.debit(ANNA, 30)
    assert not any(admitted(buckets) for _ in range(100))
    clock.now += 1
    assert [admitted(buckets), admitted(buckets)] == [True, False]


def test_each_has_an_account_of_their_own_and_a_token_is_no_key_of_the_same_name() -> None:
    buckets = Buckets(Rates(requests_per_s=1, burst=1), clock=Clock())
    assert admitted(buckets, ANNA)
    assert not admitted(buckets, Principal("anna", frozenset()))
    assert admitted(buckets, BERT)
    assert admitted(buckets, Principal("anna", frozenset(), kind="token"))
    assert admitted(buckets, LOCAL)


def test_a_key_with_rates_of_its_own_has_those_and_none_of_the_service() -> None:
    own = Principal("own", frozenset(), rates=Rates(requests_per_s=3, burst=4))
    buckets = Buckets(Rates(requests_per_s=1, burst=1, bytes_per_s=1), clock=Clock())
    buckets.debit(own, 10**9)
    assert sum(admitted(buckets, own) for _ in range(10)) == 4


def test_without_limits_nothing_is_counted_or_kept() -> None:
    buckets = Buckets(clock=Clock())
    assert all(admitted(buckets) for _ in range(1000))
    buckets.debit(ANNA, 10**12)
    assert admitted(buckets)
    assert len(buckets) == 0


def test_replicas_share_a_limit_and_each_lets_one_in_at_least() -> None:
    clock = Clock()
    replicas = [Buckets(Rates(requests_per_s=8, burst=8), share=1 / 4, clock=clock) for _ in range(4)]
    assert [sum(admitted(buckets) for _ in range(20)) for buckets in replicas] == [2] * 4
    clock.now += 0.5
    assert [sum(admitted(buckets) for _ in range(20)) for buckets in replicas] == [1] * 4
    assert admitted(Buckets(Rates(requests_per_s=1, burst=1), share=1 / 100, clock=clock))


def test_a_change_of_the_limits_keeps_what_was_counted_under_those_that_stay() -> None:
    own = Principal("own", frozenset(), rates=Rates(requests_per_s=1, burst=2))
    buckets = Buckets(Rates(requests_per_s=1, burst=2), clock=Clock())
    assert [admitted(buckets, who) for who in (ANNA, ANNA, own, own)] == [True] * 4
    buckets.change(Rates(requests_per_s=1, burst=2), 1.0)
    assert not admitted(buckets, ANNA)
    buckets.change(Rates(requests_per_s=1, burst=3), 1.0)
    assert not admitted(buckets, own)
    assert sum(admitted(buckets, ANNA) for _ in range(10)) == 3
    buckets.change(Rates(requests_per_s=1, burst=2), 0.5)
    assert [admitted(buckets, who) for who in (own, own)] == [True, False]
    buckets.change(Rates(), 0.5)
    assert all(admitted(buckets, ANNA) for _ in range(10))


def test_who_has_everything_back_is_forgotten() -> None:
    clock = Clock()
    buckets = Buckets(Rates(requests_per_s=1, burst=2), clock=clock)
    for i in range(100):
        buckets.take(Principal(f"p{i}", frozenset()))
    assert len(buckets) == 100
    clock.now += 2
    for _ in range(60):
        clock.now += 1
        buckets.take(ANNA)
    assert len(buckets) == 1


def test_no_more_accounts_are_kept_than_the_most() -> None:
    buckets = Buckets(Rates(requests_per_s=1, burst=2), clock=Clock())
    for i in range(MAX_ACCOUNTS + 50):
        buckets.take(Principal(f"p{i}", frozenset()))
    assert len(buckets) == MAX_ACCOUNTS


def test_threads_together_get_no_more_than_one_would() -> None:
    buckets = Buckets(Rates(requests_per_s=1, burst=500), clock=Clock())
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(sum(admitted(buckets) for _ in range(300)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == 500


def test_a_clock_that_stands_or_steps_back_gives_nothing() -> None:
    clock = Clock()
    buckets = Buckets(Rates(requests_per_s=10, burst=1), clock=clock)
    assert admitted(buckets)
    clock.now -= 5
    assert not admitted(buckets)
    clock.now += 5
    assert not admitted(buckets)


steps = st.lists(st.sampled_from([0.0, 0.001, 0.05, 0.1, 0.3, 1.0, 7.0]) | st.floats(0, 20), min_size=1, max_size=60)


@given(
    rate=st.sampled_from([0.1, 1.0, 3.0, 7.5, 100.0]),
    burst=st.integers(1, 20),
    share=st.sampled_from([1.0, 0.5, 1 / 3]),
    steps=steps,
)
def test_in_any_window_at_most_the_burst_and_what_the_rate_gives_is_let_in(
    rate: float, burst: int, share: float, steps: list[float]
) -> None:
    clock = Clock()
    buckets = Buckets(Rates(requests_per_s=rate, burst=burst), share=share, clock=clock)
    times = []
    for step in steps:
        clock.now += step
        times += [clock.now for _ in range(4) if admitted(buckets)]
    most = max(1.0, burst * share)
    for first in range(len(times)):
        for last in range(first, len(times)):
            assert last - first + 1 <= most + rate * share * (times[last] - times[first]) + 1e-6


@given(
    rate=st.sampled_from([1.0, 3.0, 1000.0]), steps=steps, sizes=st.lists(st.integers(0, 5_000), min_size=60, max_size=60)
)
def test_bytes_let_in_are_what_the_rate_gave_and_one_body_at_most_beyond(
    rate: float, steps: list[float], sizes: list[int]
) -> None:
    clock = Clock()
    buckets = Buckets(Rates(bytes_per_s=rate), clock=clock)
    sent = 0
    for step, size in zip(steps, sizes, strict=False):
        clock.now += step
        if admitted(buckets):
            assert sent <= 2 * rate + rate * (clock.now - 1000) + 1e-6
            buckets.debit(ANNA, size)
            sent += size


@given(rate=st.floats(0.01, 1000), burst=st.integers(1, 5))
def test_who_waits_as_long_as_was_said_is_let_in(rate: float, burst: int) -> None:
    clock = Clock()
    buckets = Buckets(Rates(requests_per_s=rate, burst=burst), clock=clock)
    for _ in range(20):
        try:
            buckets.take(ANNA)
        except RateExceeded as error:
            clock.now += error.retry_after_s
            assert admitted(buckets)
