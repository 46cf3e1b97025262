"""A service over a store, in this process: the real application and orchestrator, asked through a test client."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
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
from raystore.serve.watch.merger import Merger, Told
from raystore.serve.watch.merging import series_of
from raystore.serve.watch.metrics import Metrics
from raystore.serve.watch.table import Metric
from tests.serve.conftest import recorded

LOOPBACK = "http://127.0.0.1:8000"
CANARY = "CANARY-7f3a-uncanny"
_MAKING = ("__init__", "initialize_and_get_metadata")  # what Ray puts behind a replica's name meanwhile


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


def told(merger: Merger, metrics: Metrics) -> Told:
    """What the one process there is tells."""
    merger.put("ingress", metrics.snapshot())
    return merger.told()


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
        watch: Mapping[str, Any] | None = None,
        shown: Mapping[str, Any] | None = None,
        operating: bool = False,
    ) -> Service:
        """A service of these deployments, as the file has them; with `away` its encoders are its own. `shown` are its collections and
        tables."""
        rooms, metrics = self.rooms, Metrics("ingress")
        spec = AppSpec.model_validate({"limits": limits or {}, "watch": watch or {}, **(shown or {})})
        orchestrator = rooms.orchestrator(spec, metrics=metrics, threads=1, tell=tell, away=away or (lambda _: None))
        if away is None:
            orchestrator._encoders = self._base._encoders  # one dictionary for all: what one loads, all have
        facts = {name: dict(each) for name, each in deployments.items()}
        records = {name: recorded(rooms, name, each.pop("head"), **each) for name, each in facts.items()}
        orchestrator.update(rooms.live(records, metrics=metrics))
        operator = Operator(rooms, partial(told, Merger(), metrics)) if operating else None
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
        self.at_once = 1
        self.count_tokens = inner.count_tokens
        self.begun = threading.Event()
        self.go = threading.Event()
        self._inner = inner

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        self.begun.set()
        self.go.wait(60)
        return self._inner.encode_each(items)


class running:
    """A real uvicorn, on a free port, in a thread."""

    def __init__(self, app: object) -> None:
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off"))  # type: ignore[arg-type]
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


def pids_of(deployment: str, *, ready: bool = False) -> list[int]:
    """The replicas of this Ray: other services may run on the machine. With `ready` without those that are being made."""
    import ray

    raylet = ray._private.worker._global_node.all_processes["raylet"][0].process.pid
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"PPid:\t{raylet}\n" in (process / "status").read_text()
            title = (process / "cmdline").read_bytes().rstrip(b"\0 ").decode(errors="replace")
        except OSError:
            continue
        if mine and f"ServeReplica:raystore:{deployment}" in title and not (ready and title.endswith(_MAKING)):
            found.append(int(process.name))
    return sorted(found)


def files_holding(folder: Path, needle: bytes) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and needle in path.read_bytes():
            found.append(str(path))
    return found


def object_store_counts(needles: list[bytes]) -> list[int]:
    """How often each needle stands in this Ray's object store: its pages, read through the process that holds them."""
    counts = [0] * len(needles)
    for line in Path("/proc/self/maps").read_text().splitlines():  # the driver maps the store it is connected to
        if "/dev/shm/plasma" not in line:
            continue
        low, high = (int(edge, 16) for edge in line.split()[0].split("-"))
        with Path("/proc/self/mem").open("rb", buffering=0) as memory:
            memory.seek(low)
            while (left := high - memory.tell()) > 0:
                block = memory.read(min(left, 2**24))
                counts = [count + block.count(needle) for count, needle in zip(counts, needles, strict=True)]
    return counts
