"""One exchange with a service: what is sent when, how long is waited, and how it ends. Pure: no socket, no clock of its own.

`exchange` is a generator that yields what is to be done (Send, Wait) and is handed what came of it (Reply, Broken), so one
piece of logic drives a blocking and an asynchronous client. Every attempt carries the same x-request-id, by which the service
knows a repetition, and in x-raystore-deadline-ms nearly all the time that is left.

Source of the waits: "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015), full jitter.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Generic, TypeVar

from raystore import errors
from raystore.errors import (
    InvalidArguments,
    RaystoreError,
    ServiceBusy,
    ServiceDenied,
    ServiceError,
    ServiceRefused,
    ServiceUnreachable,
)
from raystore.serve.wire.common import REQUEST_ID

T = TypeVar("T")

FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 10.0
_WAY_BACK_S = 0.25
# A proxy answers 502 for a replica that died under the request; with the same request id it is safe to ask again.
_AGAIN = frozenset((429, 502, 503))
_BUSY = frozenset((429, 503, 504))


@dataclass(frozen=True, repr=False)
class Call(Generic[T]):
    """A request whose answer `read` makes a T of; `read` raises ValueError on what it cannot read."""

    method: str
    path: str
    read: Callable[[bytes], T]
    body: bytes | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    def __repr__(self) -> str:  # the body is somebody's content
        return f"Call({self.method} {self.path})"


@dataclass(frozen=True)
class Send:
    headers: Mapping[str, str]
    timeout_s: float


@dataclass(frozen=True)
class Wait:
    seconds: float


@dataclass(frozen=True, repr=False)
class Reply:
    status: int
    headers: Mapping[str, str]  # names in small letters
    body: bytes


@dataclass(frozen=True)
class Broken:
    """No answer; `found` says why and holds nothing that was sent."""

    found: str


Flow = Generator[Send | Wait, Reply | Broken | None, T]


@dataclass(frozen=True)
class Patience:
    """How often and how long. `clock` and `draw` are the machine's, unless somebody computes instead of waiting."""

    deadline_s: float
    retries: int
    clock: Callable[[], float] = time.monotonic
    draw: Callable[[float, float], float] = random.uniform

    def __post_init__(self) -> None:
        problems = []
        if isinstance(self.deadline_s, bool) or not 0 < self.deadline_s <= 86_400:
            problems.append("the deadline is more than 0 and at most 86,400 seconds")
        if isinstance(self.retries, bool) or not isinstance(self.retries, int) or not 0 <= self.retries <= 100:
            problems.append("retries= is 0 to 100")
        if problems:
            raise InvalidArguments(call="ask a service", problems=problems)

    def wait_s(self, attempt: int, retry_after_s: float) -> float:
        """Before the attempt after number `attempt` (from 1): what the service asked for, and between 0 and a bound that doubles."""
        return retry_after_s + self.draw(0.0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1)))


def new_request_id(given: str | None) -> str:
    """The given id, or a new one. InvalidArguments where it would not fit into a header."""
    if given is None:
        return uuid.uuid4().hex
    if not isinstance(given, str) or not REQUEST_ID.fullmatch(given):
        problem = "request_id= is 1 to 64 letters, digits, '.', '_' or '-'"
        raise InvalidArguments(call="ask a service", problems=[problem])
    return given


def part_id(request_id: str, i: int) -> str:
    """The id of a stream's i-th request: the stream's and its number, or of a long one the beginning of its digest."""
    whole = f"{request_id}-{i}"
    return whole if REQUEST_ID.fullmatch(whole) else f"{hashlib.sha256(request_id.encode('ascii')).hexdigest()[:40]}-{i}"


def exchange(call: Call[T], patience: Patience, request_id: str, url: str) -> Flow[T]:
    """What the service answered, read.

    Raises:
        ServiceRefused, ServiceDenied, ServiceBusy, ServiceError: what it answered, after the repetitions that fitted in.
        ServiceUnreachable: there was no answer.
    """
    ends = patience.clock() + patience.deadline_s
    attempt = 0
    said: ServiceError | None = None
    while True:
        attempt += 1
        left = ends - patience.clock()
        told = left - min(_WAY_BACK_S, left / 10)  # or the time would be up here before the service can say that it was
        headers = {"x-request-id": request_id, "x-raystore-deadline-ms": str(max(1, int(told * 1000)))}
        came = yield Send(headers, max(left, 0.001))
        assert came is not None, "a Send is answered"
        if isinstance(came, Reply) and 200 <= came.status < 300:
            return read_reply(call, came, request_id)
        failed = (
            ServiceUnreachable(url=url, found=came.found, attempts=attempt, request_id=request_id)
            if isinstance(came, Broken)
            else error_of(came, request_id)
        )
        said = failed if isinstance(failed, ServiceError) else said
        repeatable = isinstance(came, Broken) or came.status in _AGAIN
        asked_s = failed.retry_after_s if isinstance(failed, ServiceError) else 0.0
        wait_s = patience.wait_s(attempt, asked_s)
        if not repeatable or attempt > patience.retries or patience.clock() + wait_s >= ends:
            raise said or failed  # what the service said last tells more than that the time was up
        yield Wait(wait_s)


def read_reply(call: Call[T], reply: Reply, request_id: str) -> T:
    unreadable = False
    try:
        found = call.read(reply.body)
    except (ValueError, KeyError, TypeError):  # pydantic's error quotes what it was given
        unreadable = True
    if unreadable:
        raise _unreadable(reply, request_id)
    return found


def error_of(reply: Reply, request_id: str) -> ServiceError:
    """The error in an answer that is none of success."""
    told = _told(reply.body)
    if told is None:
        return _unreadable(reply, request_id)
    return _said(reply.status, told, request_id, retry_after_s(reply.headers.get("retry-after"), datetime.now(UTC)))


def ending_of(told: Mapping[str, Any]) -> ServiceError:
    """The error in the last line of a stream that the service ended; its status is the one that its class has."""
    kind = getattr(errors, str(told["type"]), None)
    status = kind.status if isinstance(kind, type) and issubclass(kind, RaystoreError) else 500
    return _said(status, told, "", float(told.get("retry_after_s", 0)))


def _said(status: int, told: Mapping[str, Any], request_id: str, wait_s: float) -> ServiceError:
    details = {name: fact for name, fact in told.items() if name not in ("type", "message", "request_id")}
    return _class_of(status, str(told["type"]))(
        status_code=status,
        type=str(told["type"]),
        message=str(told["message"]),
        request_id=str(told.get("request_id") or request_id),
        retry_after_s=wait_s,
        details=details,
    )


def _unreadable(reply: Reply, request_id: str) -> ServiceError:
    """Of an answer that is not this service's: a proxy's page, another version's shape. What it says is not passed on."""
    phrase = HTTPStatus(reply.status).phrase if reply.status in HTTPStatus._value2member_map_ else "an unknown status"
    return _class_of(reply.status)(
        status_code=reply.status,
        type="UnreadableAnswer",
        message=f"the answer ({phrase}) is not one of raystore's. Check the address and the versions of both sides.",
        request_id=request_id,
        retry_after_s=retry_after_s(reply.headers.get("retry-after"), datetime.now(UTC)),
    )


def _class_of(status: int, type_: str = "") -> type[ServiceError]:
    if status in _BUSY:
        return ServiceBusy
    if status in (401, 403) and type_ != "RuleRefused":  # which is about the request, not about who sent it
        return ServiceDenied
    return ServiceRefused if 400 <= status < 500 else ServiceError


def _told(body: bytes) -> dict[str, Any] | None:
    """What stands under `error` in an answer of the one shape, else None."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    told = value.get("error") if isinstance(value, dict) else None
    return told if isinstance(told, dict) and {"type", "message"} <= told.keys() else None


def retry_after_s(header: str | None, now: datetime) -> float:
    """Seconds in a Retry-After header, which holds seconds or a date; 0 without one, or where it makes no sense."""
    if header is None:
        return 0.0
    if header.strip().isascii() and header.strip().isdigit():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return 0.0
    return max(0.0, ((until if until.tzinfo else until.replace(tzinfo=UTC)) - now).total_seconds())
