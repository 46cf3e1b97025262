"""Errors as gRPC has them: a status, a sentence, and in the trailing metadata the JSON that HTTP would have answered.

The sentences and facts are those of `door/problems.py`, so nothing of the input is in them either.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import grpc
from pydantic_core import from_json

from raystore.errors import RaystoreError
from raystore.serve.door.problems import InvalidRequestError, answer, answer_error, answer_invalid, answer_unknown
from raystore.serve.http.common import NotReadyError

ERROR_KEY = "raystore-error-bin"
# Clients take 8 KiB of metadata by default, the sentence among it.
_MAX_JSON, _MAX_SENTENCE = 3_000, 1_500
_CODES: dict[int, grpc.StatusCode] = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    507: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_EXISTS = frozenset(("IdConflict", "AlreadyExists"))


@dataclass(frozen=True)
class Refusal:
    """A failed call: `body` is the object under "error", `status` what HTTP would have answered."""

    status: int
    body: dict[str, Any] = field(repr=False)
    retry_after_s: float | None = None

    @property
    def code(self) -> grpc.StatusCode:
        if self.status == 409 and self.body["type"] in _EXISTS:
            return grpc.StatusCode.ALREADY_EXISTS
        known = grpc.StatusCode.INVALID_ARGUMENT if 400 <= self.status < 500 else grpc.StatusCode.INTERNAL
        return _CODES.get(self.status, known)

    @property
    def sentence(self) -> str:
        said = str(self.body["message"])
        return said if len(said) <= _MAX_SENTENCE else f"{said[:_MAX_SENTENCE]} ..."

    @property
    def json(self) -> str:
        """The whole object, or without its facts where they would not fit into metadata."""
        whole = json.dumps(self.body)
        if len(whole) <= _MAX_JSON:
            return whole
        return json.dumps({"type": self.body["type"], "message": self.sentence, "request_id": self.body["request_id"]})

    @property
    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        found: list[tuple[str, str | bytes]] = [(ERROR_KEY, self.json.encode("utf-8"))]
        if self.retry_after_s is not None:  # what gRPC's own retry policy obeys
            found.append(("grpc-retry-pushback-ms", str(math.ceil(1000 * self.retry_after_s))))
        return tuple(found)


def refusal_of(error: BaseException, request_id: str) -> Refusal:
    """Any exception as a refusal; one that nobody foresaw shows its type alone."""
    if isinstance(error, RaystoreError):
        response = answer_error(error, request_id)
    elif isinstance(error, InvalidRequestError):
        response = answer_invalid(error.problems, request_id)
    elif isinstance(error, NotReadyError):
        response = answer(503, "NotReady", "the service is still loading. Try again.", request_id)
    else:
        response = answer_unknown(error, request_id)
    body: dict[str, Any] = from_json(bytes(response.body))["error"]
    retry = response.headers.get("retry-after")
    return Refusal(response.status_code, body, float(retry) if retry is not None else None)
