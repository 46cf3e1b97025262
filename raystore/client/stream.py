"""The lines of POST /v1/predict/{d}/stream: newline-delimited JSON, an item a line, an answer a line, in order. Pure.

    sent       {"text": "My card never arrived", "columns": {"product": "card"}}
    answered   {"line": 0, "prediction": {...}}   or   {"line": 0, "error": {...}}     and last   {"done": 1, ...}

An endless iterable is sent in windows of so many lines, a request each. HTTP/1.1 clients send a whole body before they read the
answer, so one request for everything would hold everything, and block once the answers fill the socket's buffers.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raystore.client.calls import Given, fields_of, fingerprint_of, segment, to_json
from raystore.client.flow import Call, ending_of
from raystore.errors import InvalidArguments
from raystore.serve.wire.common import ErrorBody
from raystore.serve.wire.predict import LabelsPrediction, NumberPrediction, Prediction

WINDOW = 64
NDJSON = "application/x-ndjson"
Predicted = Prediction | LabelsPrediction | NumberPrediction
_PREDICTED: TypeAdapter[Predicted] = TypeAdapter(Predicted)


@dataclass(frozen=True)
class StreamedLine:
    """What became of one item: `line` counts from 0 over the whole stream; one of `prediction` and `error` is there."""

    line: int
    prediction: Predicted | None = None
    error: ErrorBody | None = None


def windows(items: Iterable[Given], size: int) -> Iterator[list[Given]]:
    """The items in lists of `size`, taken as they are asked for; the last is shorter."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 10_000:
        raise InvalidArguments(call="predict_stream", problems=["window= is 1 to 10,000 lines"])
    rest = iter(items)
    while window := list(itertools.islice(rest, size)):
        yield window


def stream_call(
    deployment: str,
    window: Sequence[Given],
    start: int,
    *,
    fingerprint: str | None = None,
    top: int | None = None,
    evidence: int | None = None,
) -> Call[list[StreamedLine]]:
    """One window; its first line is number `start` of the stream."""
    lines = [to_json(fields_of(item, f"item {start + i}"), "predict_stream") for i, item in enumerate(window)]
    options = {"fingerprint": fingerprint or fingerprint_of(window), "top": top, "evidence": evidence}
    return Call(
        "POST",
        f"/v1/predict/{segment(deployment)}/stream",
        lambda body: read_lines(body, start, len(window)),
        b"".join(line + b"\n" for line in lines),
        params={name: str(value) for name, value in options.items() if value is not None},
        content_type=NDJSON,
    )


def read_lines(body: bytes, start: int, n: int) -> list[StreamedLine]:
    """The n answers of a window. ValueError where one is missing, out of order, or the last line does not close it; ServiceError where
    the service ended the stream."""
    *told, last = [json.loads(line) for line in body.splitlines() if line.strip()] or [{}]
    if "done" in last and "error" in last:
        raise ending_of(last["error"])
    if last.get("done") != n or [each.get("line") for each in told] != list(range(n)):
        raise ValueError("the stream is not whole")
    return [_line(start + i, each) for i, each in enumerate(told)]


def _line(number: int, told: dict[str, Any]) -> StreamedLine:
    try:
        if "error" in told:
            return StreamedLine(number, error=ErrorBody.model_validate(told["error"]))
        return StreamedLine(number, prediction=_PREDICTED.validate_python(told["prediction"], extra="ignore"))
    except ValidationError:
        raise ValueError("a line cannot be read") from None
