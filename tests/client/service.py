"""A small service on a real socket that answers as a test tells it, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import Response

FINGERPRINT = "5f3c" + "0" * 60
PREDICTION = {
    "id": "r-1", "by": "refunds@2", "label": "card", "confidence": 0.9, "abstained": False,
    "probabilities": [{"label": "card", "probability": 0.9}],
}  # fmt: skip
PREDICTED = {
    "predictions": [PREDICTION],
    "lineage": {
        "deployment": "triage", "number": 1, "head": "refunds@2", "encoder": "minilm@5f3c00000000", "fingerprint": FINGERPRINT,
        "snapshot": {"name": "refunds", "number": 1, "hash": "ab" * 32},
    },
    "fingerprint": FINGERPRINT,
    "request_id": "r-1",
    "timings_ms": {"total": 1.0},
}  # fmt: skip
LOGGED = {
    "added": 1,
    "known": 0,
    "version": 7,
    "fingerprint": FINGERPRINT,
    "request_id": "r-1",
    "timings_ms": {"total": 1.0},
}


def failure(status: int, kind: str, *, headers: dict[str, str] | None = None, **facts: Any) -> Response:
    body = {"error": {"type": kind, "message": f"it is {kind}.", "request_id": "r-1", **facts}}
    return Response(json.dumps(body), status, headers, media_type="application/json")


def success(body: Any, status: int = 200) -> Response:
    return Response(json.dumps(body), status, media_type="application/json")


@dataclass
class Sent:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Service:
    """`answers` are given one after the other, the last one for ever; one that can be called is handed what was sent."""

    url: str = ""
    answers: Sequence[Response | Callable[[Sent], Response]] = ()
    sent: list[Sent] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        body = await request.body()
        sent = Sent(request.method, scope["raw_path"].decode(), dict(request.query_params), dict(request.headers), body)
        answer = self.answers[min(len(self.sent), len(self.answers) - 1)]
        self.sent.append(sent)
        await (answer(sent) if not isinstance(answer, Response) else answer)(scope, receive, send)


@contextmanager
def running(app: Any, host: str = "127.0.0.1", port: int = 0, **options: Any) -> Iterator[str]:
    """The ASGI application under uvicorn in a thread of this process; its address."""
    server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, log_level="critical", lifespan="off", **options))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "uvicorn did not start"
        time.sleep(0.01)
    try:
        yield f"http://{host}:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)
