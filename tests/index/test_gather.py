"""Who is asked and when, on a clock of the test's own: no Ray, no processes, no waiting."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.index.live.gather import FIRST_HEDGE_S, LEAST_HEDGE_S, PAUSE_S, Course, Replicas, ShardAnswers, Waits
from raystore.index.shards.shard import Found


def found(exact: bool = True) -> Found:
    return Found(np.zeros((1, 1), np.int64), np.zeros((1, 1), np.float32), exact)


def course(shards: int = 1, replicas: int = 2, hedge_s: float = 0.1) -> tuple[Course, Replicas]:
    turns = Replicas(range(shards), replicas)
    return Course(turns, range(shards), hedge_s, 0.0), turns


def test_one_replica_of_every_shard_is_asked_first() -> None:
    plan, _ = course(shards=3, replicas=2)
    assert [shard for shard, _ in plan.due(0.0)] == [0, 1, 2]
    assert (plan.due(0.05), plan.wake_at()) == ([], 0.1)


def test_replicas_take_turns() -> None:
    turns = Replicas([0], 3)
    asked = []
    for _ in range(6):
        replica = turns.ask(0)
        asked.append(replica)
        turns.ended(0, replica, serves=True)
    assert asked == [0, 1, 2, 0, 1, 2]


def test_the_replica_with_the_fewest_open_calls_is_asked() -> None:
    turns = Replicas([0], 2)
    assert [turns.ask(0) for _ in range(4)] == [0, 1, 0, 1]
    turns.ended(0, 1, serves=True)
    assert turns.ask(0) == 1


def test_another_replica_is_asked_after_the_hedge_and_only_once() -> None:
    plan, turns = course()
    assert plan.due(0.0) == [(0, 0)]
    assert plan.due(0.1) == [(0, 1)]
    assert (plan.wake_at(), plan.due(9.0), turns.left_out) == (inf, [], {(0, 0)})


def test_a_replica_that_was_late_is_asked_again_once_it_answered() -> None:
    plan, turns = course()
    plan.due(0.0)
    plan.due(0.1)
    assert plan.answered(0, 1, 0.15) == pytest.approx(0.05)
    turns.ended(0, 1, serves=True)
    assert [turns.ask(0), turns.ask(0)] == [1, 1]
    turns.ended(0, 0, serves=True)
    assert (turns.ask(0), turns.left_out) == (0, set())


def test_a_failure_sends_the_query_to_another_replica_at_once() -> None:
    plan, turns = course()
    plan.due(0.0)
    turns.ended(0, 0, serves=False)
    plan.failed(0, 0, 0.01)
    assert plan.due(0.01) == [(0, 1)]
    assert turns.left_out == {(0, 0)}


def test_where_every_replica_failed_they_are_asked_again_after_a_pause() -> None:
    plan, turns = course()
    plan.due(0.0)
    for replica, now in ((0, 0.01), (1, 0.02)):
        turns.ended(0, replica, serves=False)
        plan.failed(0, replica, now)
        plan.due(now)
    assert (plan.due(0.02), plan.wake_at()) == ([], 0.02 + PAUSE_S)
    assert len(plan.due(0.02 + PAUSE_S)) == 1


def test_a_single_replica_is_never_hedged_and_is_asked_again_when_it_failed() -> None:
    plan, turns = course(replicas=1)
    assert (plan.due(0.0), plan.wake_at(), plan.hurried) == ([(0, 0)], inf, False)
    turns.ended(0, 0, serves=False)
    plan.failed(0, 0, 1.0)
    assert (plan.due(1.0), plan.due(1.0 + PAUSE_S)) == ([], [(0, 0)])


def test_replicas_that_are_left_out_are_asked_where_no_other_is_left() -> None:
    turns = Replicas([0], 3)
    turns.late(0, 0)
    turns.late(0, 1)
    assert set(turns.idle()) == {(0, 0), (0, 1)}
    assert [turns.ask(0), turns.ask(0)] == [2, 2]
    assert turns.ask(0, {2}) in (0, 1)
    assert turns.ask(0, {0, 1, 2}) is None


def test_the_hedge_follows_what_answers_took_lately() -> None:
    waits = Waits()
    assert (waits.hedge_s(1), waits.hedge_s(80)) == (FIRST_HEDGE_S, 10 * FIRST_HEDGE_S)
    for _ in range(10):
        waits.took(1, 0.001)
    assert waits.hedge_s(1) == LEAST_HEDGE_S
    for _ in range(100):
        waits.took(1, 0.05)
    assert waits.hedge_s(1) == pytest.approx(0.15)


def test_a_larger_batch_is_given_more_time_before_anything_is_known_of_it() -> None:
    waits = Waits()
    for _ in range(10):
        waits.took(1, 0.01)
    assert waits.hedge_s(1024) == pytest.approx(0.03 * 1024)
    for _ in range(10):
        waits.took(1024, 0.2)
    assert waits.hedge_s(1024) == pytest.approx(0.6)
    assert waits.hedge_s(1) == pytest.approx(0.03)


def test_an_answer_is_exact_only_if_every_shard_gave_one_and_it_was() -> None:
    assert ShardAnswers({0: found(), 1: found()}).exact
    assert not ShardAnswers({0: found(), 1: found(exact=False)}).exact
    assert not ShardAnswers({0: found()}, missing=[1]).exact


# What a replica does when asked at a time: answers after a while, fails after a while, or never ends.
BEHAVIOUR = st.tuples(st.sampled_from(["answers", "fails", "hangs"]), st.floats(0.001, 0.5))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(BEHAVIOUR, min_size=2, max_size=2), min_size=1, max_size=4),
    st.floats(0.01, 0.2),
)
def test_a_shard_is_missing_only_if_none_of_its_replicas_answers(
    shards: list[list[tuple[str, float]]], hedge_s: float
) -> None:
    missing, asked = simulated(lambda shard, replica: shards[shard][replica], len(shards), 2, hedge_s, until=5.0)
    for shard, replicas in enumerate(shards):
        assert (shard in missing) == all(does != "answers" for does, _ in replicas)
        hangs = [r for r, (does, _) in enumerate(replicas) if does == "hangs"]
        assert all(asked.count((shard, r)) <= 1 for r in hangs), "a replica that has not answered is not asked again"


def test_a_replica_that_hangs_costs_the_first_query_its_hedge_and_later_ones_nothing() -> None:
    turns = Replicas([0], 2)
    behaviour = {0: ("hangs", 0.0), 1: ("answers", 0.01)}
    took = [answered_at(turns, lambda _, replica: behaviour[replica], 0.1) for _ in range(4)]
    assert took == pytest.approx([0.11, 0.01, 0.01, 0.01])


def answered_at(turns: Replicas, behaves: Callable[[int, int], tuple[str, float]], hedge_s: float) -> float:
    plan = Course(turns, [0], hedge_s, 0.0)
    events: list[tuple[float, int]] = []
    now = 0.0
    while True:
        for shard, replica in plan.due(now):
            does, after = behaves(shard, replica)
            if does == "answers":
                events.append((now + after, replica))
        now = min([plan.wake_at(), *(at for at, _ in events)])
        for at, replica in events:
            if at <= now:
                turns.ended(0, replica, serves=True)
                plan.answered(0, replica, now)
                return now


def simulated(
    behaves: Callable[[int, int], tuple[str, float]], shards: int, replicas: int, hedge_s: float, until: float
) -> tuple[list[int], list[tuple[int, int]]]:
    """The missing shards of one query at time `until`, and every call that was made."""
    plan, turns = course(shards, replicas, hedge_s)
    events: list[tuple[float, str, int, int]] = []
    asked = []
    now = 0.0
    while plan.missing and now < until:
        for shard, replica in plan.due(now):
            asked.append((shard, replica))
            does, after = behaves(shard, replica)
            if does != "hangs":
                events.append((now + after, does, shard, replica))
        now = min([until, plan.wake_at(), *(event[0] for event in events)])
        for event in sorted(event for event in events if event[0] <= now):
            events.remove(event)
            _, does, shard, replica = event
            turns.ended(shard, replica, serves=does == "answers")
            if shard not in plan.missing:
                continue
            if does == "answers":
                plan.answered(shard, replica, now)
            else:
                plan.failed(shard, replica, now)
    return plan.missing, asked
