from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.client.flow import Broken, Call, Patience, Reply, Send, Wait, exchange, retry_after_s
from raystore.errors import (
    InvalidArguments,
    RaystoreError,
    ServiceBusy,
    ServiceDenied,
    ServiceError,
    ServiceRefused,
    ServiceUnreachable,
)

CALL: Call[dict[str, Any]] = Call("POST", "/v1/predict/triage", json.loads, b"{}")
GOOD = Reply(200, {}, b'{"ok": 1}')


def refusal(status: int, kind: str = "X", headers: dict[str, str] | None = None, **facts: Any) -> Reply:
    told = {"type": kind, "message": "no.", "request_id": "r", **facts}
    return Reply(status, headers or {}, json.dumps({"error": told}).encode())


class Driven:
    """An exchange with what comes of each attempt, on a clock that waits and attempts move."""

    def __init__(
        self, *came: Reply | Broken, deadline_s: float = 30, retries: int = 3, attempt_s: float = 0.0, draw: Any = None
    ) -> None:
        self.now = 0.0
        self.sends: list[Send] = []
        self.waits: list[float] = []
        patience = Patience(deadline_s, retries, clock=lambda: self.now, draw=draw or (lambda low, high: high))
        flow = exchange(CALL, patience, "req-1", "http://there")
        answers = iter(came)
        handed: Reply | Broken | None = None
        self.found: Any = None
        self.error: Exception | None = None
        try:
            while True:
                step = flow.send(handed)
                if isinstance(step, Wait):
                    self.waits.append(step.seconds)
                    self.now += step.seconds
                    handed = None
                else:
                    self.sends.append(step)
                    self.now += attempt_s
                    handed = next(answers)
        except StopIteration as stop:
            self.found = stop.value
        except RaystoreError as error:
            self.error = error


def test_a_good_answer_is_read_and_nothing_is_repeated() -> None:
    driven = Driven(GOOD)
    assert (driven.found, len(driven.sends), driven.waits) == ({"ok": 1}, 1, [])


def test_each_attempt_has_the_same_request_id_and_nearly_all_the_time_that_is_left() -> None:
    driven = Driven(Broken("x"), refusal(503), GOOD, deadline_s=10, attempt_s=1)
    assert driven.found == {"ok": 1}
    assert [send.headers["x-request-id"] for send in driven.sends] == ["req-1"] * 3
    # Attempts take 1 s each; between them are waits of 0.1 and 0.2 s.
    assert [send.headers["x-raystore-deadline-ms"] for send in driven.sends] == ["9750", "8650", "7449"]
    assert [send.timeout_s for send in driven.sends] == pytest.approx([10, 8.9, 7.7])


def test_the_bound_of_a_wait_doubles_and_stays_within_ten_seconds() -> None:
    driven = Driven(*[Broken("x")] * 11, retries=10, deadline_s=3600)
    assert driven.waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10])
    assert isinstance(driven.error, ServiceUnreachable)
    assert driven.error.attempts == 11


def test_retry_after_is_waited_out_before_the_jitter() -> None:
    driven = Driven(refusal(429, headers={"retry-after": "2"}), GOOD)
    assert driven.waits == pytest.approx([2.1])


def test_nothing_is_repeated_that_would_not_fit_into_the_deadline() -> None:
    driven = Driven(refusal(503, "NotReady", headers={"retry-after": "5"}), GOOD, deadline_s=3)
    assert (len(driven.sends), driven.waits) == (1, [])
    assert isinstance(driven.error, ServiceBusy)
    assert (driven.error.retry_after_s, driven.error.type, driven.error.status_code) == (5.0, "NotReady", 503)


def test_a_rule_that_refuses_is_about_the_request_and_not_about_the_key() -> None:
    assert type(Driven(refusal(403, "RuleRefused")).error) is ServiceRefused
    assert type(Driven(refusal(403, "VerbDenied")).error) is ServiceDenied


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, ServiceRefused), (401, ServiceDenied), (403, ServiceDenied), (404, ServiceRefused), (409, ServiceRefused),
     (413, ServiceRefused), (422, ServiceRefused), (500, ServiceError), (504, ServiceBusy), (507, ServiceError)],
)  # fmt: skip
def test_what_would_be_answered_the_same_again_is_not_repeated(status: int, kind: type[ServiceError]) -> None:
    driven = Driven(refusal(status, existing=["a"]), GOOD)
    assert type(driven.error) is kind
    assert len(driven.sends) == 1
    assert driven.error.details == {"existing": ["a"]}
    assert str(driven.error) == f"the service answered {status} X to request r: no."


@pytest.mark.parametrize("status", [429, 502, 503])
def test_what_passes_is_repeated_as_often_as_was_asked(status: int) -> None:
    assert Driven(*[refusal(status)] * 3, GOOD).found == {"ok": 1}
    driven = Driven(*[refusal(status)] * 4, GOOD)
    assert len(driven.sends) == 4
    assert isinstance(driven.error, ServiceError)


@pytest.mark.parametrize(
    "body", [b"<html>secret</html>", b"[]", b'{"error": "secret"}', b'{"error": {"type": "X"}}', b"\xff"]
)
def test_an_answer_that_is_not_raystores_is_not_quoted(body: bytes) -> None:
    error = Driven(Reply(404, {}, body)).error
    assert isinstance(error, ServiceRefused)
    assert str(error) == (
        "the service answered 404 UnreadableAnswer to request req-1: the answer (Not Found) is not one of raystore's. "
        "Check the address and the versions of both sides."
    )


def test_a_good_status_with_an_unreadable_body_is_an_error_that_quotes_nothing() -> None:
    error = Driven(Reply(200, {}, b"secret")).error
    assert isinstance(error, ServiceError)
    assert error.type == "UnreadableAnswer"
    assert (error.__cause__, error.__context__) == (None, None)


def test_what_the_service_said_last_is_told_rather_than_that_the_time_was_up() -> None:
    error = Driven(refusal(503, "NotReady"), Broken("the time was up (ReadTimeout)"), retries=1).error
    assert isinstance(error, ServiceBusy)
    assert error.type == "NotReady"


def test_no_answer_at_all_says_so_with_how_often_it_was_tried() -> None:
    error = Driven(Broken("the connection could not be made (ConnectError)"), retries=0).error
    assert str(error) == (
        "no answer from http://there to request req-1: the connection could not be made (ConnectError), tried once. "
        "Check that the service runs, or give it more time (timeout_s=, deadline_s=)."
    )


@given(
    retries=st.integers(0, 6),
    deadline_s=st.floats(0.01, 20),
    attempt_s=st.floats(0, 3),
    asked=st.lists(st.sampled_from(["0", "1", "7", None]), min_size=7, max_size=7),
    draws=st.floats(0, 1),
)
def test_an_exchange_never_begins_an_attempt_after_its_deadline(
    retries: int, deadline_s: float, attempt_s: float, asked: list[str | None], draws: float
) -> None:
    replies = [refusal(503, headers={"retry-after": a} if a else {}) for a in asked]
    attempt = min(attempt_s, deadline_s)
    driven = Driven(
        *replies,
        deadline_s=deadline_s,
        retries=retries,
        attempt_s=attempt,
        draw=lambda low, high: low + draws * (high - low),
    )
    assert isinstance(driven.error, ServiceBusy)
    assert 1 <= len(driven.sends) <= retries + 1
    assert sum(driven.waits) + attempt * (len(driven.sends) - 1) < deadline_s
    assert all(wait >= float(a or 0) for wait, a in zip(driven.waits, asked, strict=False))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0.0), ("3", 3.0), (" 3 ", 3.0), ("-3", 0.0), ("soon", 0.0), ("", 0.0), ("²", 0.0),
     ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0), ("Sat, 21 Nov 2026 11:00:00 GMT", 0.0)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float) -> None:
    assert retry_after_s(header, datetime(2026, 11, 21, 12, tzinfo=UTC)) == seconds


def test_patience_without_sense_is_refused_at_once() -> None:
    with pytest.raises(InvalidArguments) as caught:
        Patience(0, -1)
    assert str(caught.value) == (
        "ask a service: the deadline is more than 0 and at most 86,400 seconds; retries= is 0 to 100."
    )
