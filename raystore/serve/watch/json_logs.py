"""A JSON line for each request on standard error, and for what any process of the service says besides. Never content, never a header's
value.

All loggers of raystore's are below one, which has the handler: encoders, collections and tables warn too. Requests are logged as
information; of the others come warnings and errors, as without it.

The fields of a line are those of `Finished`; there is no door for more. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO

from raystore.serve.watch.finished import Finished, Teller

_all = logging.getLogger("raystore")
_serving = logging.getLogger("raystore.serve")
_requests = logging.getLogger("raystore.serve.requests")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON. Of an exception only its type: its text and its frames may quote a request."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"ts": _iso(record.created), "level": record.levelname.lower()}
        request = getattr(record, "request", None)
        if isinstance(request, Finished):
            line |= _fields(request)
        else:
            line |= {"logger": record.name, "message": record.getMessage()}
            if record.exc_info and record.exc_info[0] is not None:
                line["error"] = record.exc_info[0].__name__
        return json.dumps(line, ensure_ascii=True, separators=(",", ":"))


def start_json_logs(stream: TextIO | None = None) -> None:
    """Write what this process logs as JSON lines to `stream` (standard error), and nowhere else; again changes nothing."""
    if any(isinstance(present.formatter, JsonFormatter) for present in _all.handlers):
        return
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    _all.addHandler(handler)
    _all.propagate = False
    _serving.setLevel(logging.INFO)


def stop_json_logs() -> None:
    """Take back what `start_json_logs` did, where it did."""
    for present in [handler for handler in _all.handlers if isinstance(handler.formatter, JsonFormatter)]:
        _all.removeHandler(present)
        _all.propagate = True
        _serving.setLevel(logging.NOTSET)


def write_json_logs(on: bool) -> None:
    """As the file says it now."""
    if on:
        start_json_logs()
    else:
        stop_json_logs()


def tell_log() -> Teller:
    """Logs each request: as an error from 500 on, but 503, as a warning with 503 and 429, else as information."""

    def tell(request: Finished) -> None:
        level = logging.INFO
        if request.status in (429, 503):
            level = logging.WARNING
        elif request.status >= 500:
            level = logging.ERROR
        _requests.log(level, "", extra={"request": request})

    return tell


def _fields(request: Finished) -> dict[str, Any]:
    return {
        "request_id": request.request_id,
        "method": request.known_method,
        "route": request.route,
        "deployment": request.deployment or None,
        "status": request.status,
        "ms": round(1e3 * request.seconds, 3),
        "stages": {name: round(1e3 * seconds, 3) for name, seconds in request.by_stage().items()},
        "items": request.items,
        "key": request.key,
        "error": request.error,
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
