"""A small store behind a real HTTP server, with canaries where SQL must not come."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import uvicorn

from raystore.catalog import Catalog, open_root
from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array, vector_field
from raystore.data.tables.table import register_table
from raystore.serve.answer.loading import Rooms
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.read import parse_spec

CANARY = "CANARY-51c9-uncanny"
N = 1_000
LIMITS: dict[str, int] = {"timeout_s": 3, "memory_mb": 256, "max_rows": 500, "max_bytes": 200_000, "at_once": 3}


def make_sql_store(root: Path) -> None:
    """Collections `tickets` (served) and `private`; tables `outcomes` (served) and `salaries`."""
    layout, _ = open_root(root, create=True)
    catalog = Catalog(layout)
    for name, note in (("tickets", "plain"), ("private", CANARY)):
        fill(CollectionTable.create(layout, name, {"f" * 64: 8}, {"product": "string", "amount": "float64"}), note)
    register_table(catalog, "outcomes", pa.table({"id": ["r1", "r2"], "label": ["good", "bad"]}), id="id")
    register_table(catalog, "outcomes", pa.table({"id": ["r1", "r2"], "label": ["good", "good"]}), id="id")
    register_table(catalog, "salaries", pa.table({"id": ["r1"], "salary": [CANARY]}), id="id")


def fill(table: CollectionTable, note: str) -> None:
    times = [datetime.fromtimestamp(1_700_000_000 + i, UTC) for i in range(N)]
    rows = {
        "id": pa.array([f"r{i}" for i in range(N)]),
        "subject": pa.array([f"c-{i % 10}" for i in range(N)]),
        "tenant": pa.nulls(N, pa.string()),
        "time": pa.array(times, pa.timestamp("us", "UTC")),
        "product": pa.array([note if i % 2 else "card" for i in range(N)]),
        "amount": pa.array(np.arange(N) / 2),
        "_payload": pa.array([CANARY.encode().ljust(32)] * N, pa.binary(32)),
        vector_field("f" * 64, 8).name: vector_array(np.full((N, 8), 0.353553, np.float32)),
    }
    table.rows.commit([pa.table(rows)], refuse_differing=False)


class SqlService:
    """The server's address and its store."""

    def __init__(self, root: Path, client: httpx.Client, orchestrator: Orchestrator) -> None:
        self.root = root
        self.client = client
        self.orchestrator = orchestrator

    def post(self, sql: str, params: dict[str, Any] | None = None, *, accept: str = "*/*", **more: Any) -> httpx.Response:
        """The answer; a query that finds all places taken is asked again."""
        while True:
            body = {"sql": sql, "params": params or {}, **more}
            headers = {"accept": accept, "content-type": "application/json"}
            answer = self.client.post("/v1/sql", content=json.dumps(body), headers=headers)
            if answer.status_code != 503:
                return answer
            time.sleep(0.05)

    def rows(self, sql: str, params: dict[str, Any] | None = None, **more: Any) -> list[list[Any]]:
        answer = self.post(sql, params, **more)
        assert answer.status_code == 200, answer.text
        found: list[list[Any]] = answer.json()["rows"]
        return found


@contextmanager
def serving(root: Path, **settings: Any) -> Iterator[SqlService]:
    """The store at `root` behind uvicorn on a free port of loopback."""
    spec: AppSpec = parse_spec({"collections": ["tickets"], "tables": ["outcomes"], "sql": LIMITS, **settings}, "a test")
    orchestrator = Rooms(root).orchestrator(spec, threads=1)
    server = uvicorn.Server(
        uvicorn.Config(make_app(lambda: orchestrator, spec), host="127.0.0.1", port=0, log_level="error")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False) as client:
            yield SqlService(root, client, orchestrator)
    finally:
        server.should_exit = True
        thread.join()
        orchestrator.close()
