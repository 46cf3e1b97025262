"""Asking replicas of encoders and heads of their own: who is late is not waited for, who is lost is replaced, within one deadline."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from raystore.encoders.passport import Passport
from raystore.errors import DeadlineMissed, ItemsUnusable, Overloaded
from raystore.serve.answer.deadline import waited_until
from raystore.serve.answer.loading import Rooms
from raystore.serve.run.away import AwayEncoder, Patience, Terms, asked

LATE: Future[Any] = Future()  # of a replica that was killed, and of which Ray has not heard yet


class Answer:
    """Of a handle's call what `asked` looks at: a result that is waited for, like Serve's."""

    def __init__(self, future: Future[Any]) -> None:
        self._future = future

    def result(self, *, timeout_s: float) -> Any:
        return self._future.result(timeout_s)


class Calls:
    """Calls whose outcomes are these, one after the other."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.made = 0

    def __call__(self) -> Answer:
        outcome = self.outcomes[min(self.made, len(self.outcomes) - 1)]
        self.made += 1
        if isinstance(outcome, Future):
            return Answer(outcome)
        future: Future[Any] = Future()
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return Answer(future)


def used_to(seconds: float) -> Patience:
    patience = Patience()
    for _ in range(100):
        patience.took(seconds, size=0)
    return patience


def test_who_is_late_is_not_waited_for_where_there_are_others() -> None:
    calls = Calls(LATE, LATE, "the third's")
    assert asked(calls, 30, used_to(0.001)) == "the third's"
    assert calls.made == 3


def test_the_first_answer_counts_though_another_was_asked_meanwhile() -> None:
    first: Future[Any] = Future()

    class Slow(Calls):
        def __call__(self) -> Answer:
            answer = super().__call__()
            if self.made == 2:
                threading.Timer(0.05, first.set_result, ["the first's"]).start()
            return answer

    assert asked(Slow(first, LATE), 30, used_to(0.001)) == "the first's"


def test_one_replica_alone_is_asked_once_however_late_it_is() -> None:
    late: Future[Any] = Future()
    threading.Timer(0.5, late.set_result, ["late"]).start()
    calls = Calls(late, "never asked for")
    assert asked(calls, 30) == "late"
    assert calls.made == 1


def test_a_call_whose_replica_died_is_made_again() -> None:
    calls = Calls(ActorDiedError(), ActorDiedError(), "another's")
    assert asked(calls, 30) == "another's"
    assert calls.made == 3


def test_no_more_than_four_calls_are_under_way_and_the_deadline_holds_over_all() -> None:
    calls = Calls(LATE)
    with pytest.raises(DeadlineMissed) as raised:
        asked(calls, 1.5, used_to(0.001))
    assert str(raised.value) == (
        "the request was given 1.5 s, and they ran out while another process was asked. Nothing was answered."
    )
    assert calls.made == 4


def test_what_a_replica_raised_is_raised_here_and_not_asked_again() -> None:
    unusable = ItemsUnusable(call="encode", n_items=1, problems=[(0, "is no image")])
    calls = Calls(RayTaskError("encode", "", unusable))
    with pytest.raises(ItemsUnusable) as raised:
        asked(calls, 30)
    assert raised.value is unusable
    with pytest.raises(RuntimeError, match=r"^a replica raised ValueError$"):
        asked(Calls(RayTaskError("encode", "", ValueError("may quote what was sent"))), 30)
    assert calls.made == 1


def test_a_full_queue_is_said_as_every_overload_is() -> None:
    with pytest.raises(Overloaded) as raised:
        asked(Calls(BackPressureError(64, 64)), 30)
    assert str(raised.value) == "64 requests are under way here, and no more are taken. Try again in a moment."
    assert asked(Calls(LATE, BackPressureError(64, 64), "x"), 30, used_to(0.001)) == "x", (
        "one that is under way may still answer"
    )


def test_patience_goes_by_what_calls_of_that_size_needed() -> None:
    assert Patience().seconds(0) == pytest.approx(3.15)
    patience = used_to(0.02)
    assert patience.seconds(0) == pytest.approx(0.21)
    assert patience.seconds(9) == pytest.approx(0.75)
    patience.took(5, size=99)
    assert patience.seconds(0) == pytest.approx(0.21), "one of a hundred changes nothing"


def test_an_encoder_away_goes_by_the_terms_of_the_moment(served: Any) -> None:
    rooms = Rooms(served.root)
    passport: Passport = rooms.encoders.get("tiny").passport
    terms = [Terms(30, replicas=2)]
    told: list[float] = []
    calls = Calls(LATE, (np.zeros((1, passport.dim), np.float32), [0], {}))

    class Handle:
        """Serve's, as far as one method of it goes."""

        class encode:
            @staticmethod
            def remote(_: bytes, left_s: float) -> Answer:
                told.append(left_s)
                return calls()

    encoder = AwayEncoder(Handle(), rooms.seal, passport, "tiny", lambda: terms[-1])  # type: ignore[arg-type]
    encoder._encoding = used_to(0.001)
    assert encoder.encode_each(["a card"]).places.tolist() == [0]
    assert calls.made == 2
    terms.append(Terms(0.2, replicas=1))
    calls.outcomes = [LATE]
    with pytest.raises(DeadlineMissed, match=r"^the request was given 0.2 s"):
        encoder.encode_each(["a card"])
    assert calls.made == 3
    assert 0 < told[1] < told[0] < 30, "each call says what is left"
    assert told[2] < 0.2
    terms.append(Terms(30, replicas=1))
    with waited_until(time.monotonic() + 0.1):
        with pytest.raises(DeadlineMissed, match=r"^the request was given 0.1 s"):
            encoder.encode_each(["a card"])
        assert 0 < told[3] < 0.1, "and not what the file allows"
        calls.outcomes = [7]
        with pytest.raises(DeadlineMissed, match=r"^the request was given 0 s"):
            encoder.count_tokens(["a card"])
