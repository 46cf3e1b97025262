"""A lane: what is put in is worked off or given up, exactly once, and whoever puts something in never waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import Overloaded
from raystore.serve.lane import Lane
from tests.serve.serving import CANARY
from tests.waiting import soon


class Work:
    """Remembers the batches it was given and what was given up; waits where it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.dropped: list[tuple[int, str]] = []
        self.begun = threading.Event()
        self.go = threading.Event()
        self.go.set()
        self.fails: set[int] = set()
        self.error: Exception = Overloaded(limit=1)

    def __call__(self, batch: list[int]) -> None:
        self.begun.set()
        assert self.go.wait(60)
        self.batches.append(batch)
        if self.fails & set(batch):
            raise self.error

    def give_up(self, things: Sequence[int], reason: str) -> None:
        self.dropped += [(thing, reason) for thing in things]

    @property
    def done(self) -> list[int]:
        return [thing for batch in self.batches for thing in batch]


def lane_of(work: Work, *, most: int = 100, batch: int = 1, sized: bool = False) -> Lane[int]:
    if sized:
        return Lane("a-lane", work, most=most, dropped=work.give_up, batch=batch, size=lambda n: n)
    return Lane("a-lane", work, most=most, dropped=work.give_up, batch=batch)


@settings(max_examples=60, deadline=None)
@given(
    things=st.lists(st.integers(1, 9), max_size=40),
    most=st.integers(1, 60),
    batch=st.integers(1, 20),
    waits=st.booleans(),
)
def test_everything_is_worked_off_in_order_or_given_up_once_and_no_bound_is_passed(
    things: list[int], most: int, batch: int, waits: bool
) -> None:
    work = Work()
    if waits:  # until all is put in
        work.go.clear()
    lane = lane_of(work, most=most, batch=batch, sized=True)
    for thing in things:
        lane.put(thing)
        assert len(lane) <= max([most, *things])
    work.go.set()
    assert lane.drain(60)
    lane.close()
    refused = [thing for thing, _ in work.dropped]
    assert sorted(work.done + refused) == sorted(things)
    assert {reason for _, reason in work.dropped} <= {"full"}
    left = list(things)
    for thing in work.done:  # in the order in which they came: a subsequence
        del left[: left.index(thing) + 1]
    assert all(len(each) == 1 or sum(each) <= batch for each in work.batches)
    assert all(work.batches)


def test_nobody_waits_and_what_does_not_fit_is_given_up_at_once() -> None:
    work = Work()
    work.go.clear()
    lane = lane_of(work, most=2)
    lane.put(1)
    assert work.begun.wait(60)
    lane.put(2, 3, 4, 5)
    assert work.dropped == [(4, "full"), (5, "full")]
    assert len(lane) == 2
    assert not lane.drain(0)
    work.go.set()
    assert lane.drain(60)
    assert work.done == [1, 2, 3]


def test_a_thing_larger_than_the_bound_is_taken_where_nothing_waits_and_given_up_otherwise() -> None:
    work = Work()
    work.go.clear()
    lane = lane_of(work, most=5, sized=True)
    lane.put(1)
    assert work.begun.wait(60)
    lane.put(9)
    lane.put(1, 9)
    assert work.dropped == [(1, "full"), (9, "full")]
    assert len(lane) == 9
    work.go.set()
    assert lane.drain(60)
    assert work.done == [1, 9]


def test_closing_gives_up_what_waits_and_takes_nothing_more() -> None:
    work = Work()
    work.go.clear()
    lane = lane_of(work)
    lane.put(1)
    assert work.begun.wait(60)
    lane.put(2, 3)
    lane.close()
    lane.put(4)
    assert work.dropped == [(2, "closed"), (3, "closed"), (4, "closed")]
    work.go.set()
    assert lane.drain(60)
    assert work.done == [1], "what it was at goes on"


def test_closing_with_time_works_off_everything_that_was_put_in() -> None:
    work = Work()
    work.go.clear()
    lane = lane_of(work, batch=2)
    lane.put(1, 2, 3)
    assert work.begun.wait(60)
    closing = threading.Thread(target=lane.close, args=(60,))
    closing.start()
    work.go.set()
    closing.join(60)
    assert not closing.is_alive()
    assert (work.done, work.dropped) == ([1, 2, 3], [])


def test_images_fill_a_lane_that_has_room_for_many_more_texts_and_a_batch_too() -> None:
    """A thing's bytes are ten times its number here: 9 is a large one."""
    work = Work()
    work.go.clear()
    lane = Lane(
        "a-lane", work, most=100, dropped=work.give_up, batch=50, bytes_of=lambda n: 10 * n, most_bytes=200, batch_bytes=100
    )
    lane.put(1)
    assert work.begun.wait(60)
    lane.put(9, 1, 1, 8, 3, 1)
    assert work.dropped == [(3, "full")]
    assert len(lane) == 5, "the others are counted by number"
    work.go.set()
    assert lane.drain(60)
    assert work.batches == [[1], [9, 1], [1, 8, 1]]
    work.go.clear()
    work.begun.clear()
    lane.put(2)
    assert work.begun.wait(60)
    lane.put(30)
    lane.put(1)
    assert work.dropped == [(3, "full"), (1, "full")], "one that is larger by itself waits alone"
    work.go.set()
    assert lane.drain(60)
    assert work.batches[3:] == [[2], [30]]


def test_bytes_end_a_pause_as_numbers_do() -> None:
    work = Work()
    lane = Lane("a-lane", work, most=100, dropped=work.give_up, batch=10, pause_s=3600, bytes_of=lambda n: n, batch_bytes=5)
    lane.put(1)
    soon(lambda: work.batches == [[1]])
    lane.put(2, 3)
    soon(lambda: work.batches == [[1], [2, 3]])


@pytest.mark.parametrize(("error", "said"), [(Overloaded(limit=7), "7 requests"), (ValueError(CANARY), "ValueError")])
def test_a_batch_that_fails_is_given_up_and_the_next_one_is_not(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work()
    work.fails, work.error = {2}, error
    lane = lane_of(work)
    with caplog.at_level(logging.WARNING):
        lane.put(1, 2, 3)
        assert lane.drain(60)
    assert work.done == [1, 2, 3]
    assert work.dropped == [(2, type(error).__name__)]
    assert f"a-lane failed: {said}" in caplog.text
    assert CANARY not in caplog.text, "the sentence of an unknown error may hold content"


def test_a_pause_between_two_batches_gathers_what_comes_meanwhile() -> None:
    work = Work()
    lane = Lane("a-lane", work, most=100, dropped=work.give_up, batch=10, pause_s=3600)
    lane.put(1)
    soon(lambda: work.batches == [[1]])
    for thing in range(2, 11):
        lane.put(thing)
    assert work.batches == [[1]], "less than a batch waits for the pause to end"
    lane.put(11)
    soon(lambda: work.batches == [[1], list(range(2, 12))])
    lane.put(12)
    assert lane.drain(60)
    assert work.batches[2:] == [[12]], "nobody who waits for it waits for the pause"
    lane.put(13)
    lane.close(60)
    assert work.batches[3:] == [[13]], "nor does closing"


def test_a_rest_is_kept_however_much_waits_and_goes_by_the_clock_that_was_given() -> None:
    work, spent, rests = Work(), iter([0.0, 0.25] * 9), threading.Event()

    def rest(worked_s: float) -> float:
        assert worked_s == 0.25
        rests.set()
        return 3600.0

    lane = Lane("a-lane", work, most=100, dropped=work.give_up, rest=rest, clock=lambda: next(spent))
    lane.put(1, 2, 3)
    assert rests.wait(60)
    soon(lambda: not lane._busy)
    assert (work.batches, len(lane)) == ([[1]], 2)
    assert lane.drain(60), "who waits for it waits for no rest"
    assert work.batches == [[1], [2], [3]]
