"""A service over a store, in this process: the real application and orchestrator, asked through a test client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.testclient import TestClient

from raystore.encoders.items import Encoded, Item
from raystore.serve.answer.batching import ServedEncoder
from raystore.serve.answer.loading import Rooms
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.http.app import make_app
from raystore.serve.operate.operator import Operator
from raystore.serve.recording.seen import Seen
from raystore.serve.spec.app import AppSpec
from raystore.serve.watch.finished import Finished
from raystore.serve.watch.merging import merge, series_of
from raystore.serve.watch.metrics import Metrics
from raystore.serve.watch.table import Metric
from tests.serve.conftest import recorded

LOOPBACK = "http://127.0.0.1:8000"
CANARY = "CANARY-7f3a-uncanny"


@dataclass(frozen=True, repr=False)
class Service:
    client: TestClient
    orchestrator: Orchestrator
    metrics: Metrics
    finished: list[Finished]

    def ask(self, deployment: str, body: object, **options: Any) -> Any:
        """The answer's body, which must be one."""
        answer = self.client.post(f"/v1/predict/{deployment}", json=body, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, deployment: str, body: object, **options: Any) -> tuple[int, str, str]:
        """Status, type and message of the error."""
        answer = self.client.post(f"/v1/predict/{deployment}", json=body, **options)
        error = answer.json()["error"]
        return answer.status_code, error["type"], error["message"]

    def count(self, metric: Metric, *labels: str) -> float:
        found = series_of(self.metrics.snapshot()).get(metric.name, {}).get(labels, 0.0)
        assert not isinstance(found, list)
        return found


class Serving:
    """Services over one store that share what is in memory, for loading an encoder takes seconds."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self._base = rooms.orchestrator(AppSpec(), threads=1)

    def serve(
        self,
        deployments: Mapping[str, Mapping[str, Any]],
        *,
        limits: Mapping[str, Any] | None = None,
        tell: Callable[[Seen], None] | None = None,
        away: Callable[[str], ServedEncoder | None] | None = None,
        operating: bool = False,
    ) -> Service:
        """A service of these deployments, as the file has them; with `away` its encoders are its own."""
        rooms, metrics = self.rooms, Metrics("ingress")
        spec = AppSpec.model_validate({"limits": limits or {}})
        orchestrator = rooms.orchestrator(spec, metrics=metrics, threads=1, tell=tell, away=away or (lambda _: None))
        if away is None:
            orchestrator._encoders = self._base._encoders  # one dictionary for all: what one loads, all have
        facts = {name: dict(each) for name, each in deployments.items()}
        records = {name: recorded(rooms, name, each.pop("head"), **each) for name, each in facts.items()}
        orchestrator.update(rooms.live(records, metrics=metrics))
        operator = Operator(rooms, lambda: merge([series_of(metrics.snapshot())])) if operating else None
        finished: list[Finished] = []
        app = make_app(lambda: orchestrator, spec, None, metrics, [finished.append], operator)
        return Service(TestClient(app, base_url=LOOPBACK), orchestrator, metrics, finished)


class Held:
    """A real encoder that encodes when it is let go: a busy one, without a clock."""

    def __init__(self, inner: ServedEncoder) -> None:
        self.passport = inner.passport
        self.fingerprint = inner.fingerprint
        self.label = inner.label
        self.dim = inner.dim
        self.max_chars = inner.max_chars
        self.count_tokens = inner.count_tokens
        self.begun = threading.Event()
        self.go = threading.Event()
        self._inner = inner

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        self.begun.set()
        self.go.wait(60)
        return self._inner.encode_each(items)
