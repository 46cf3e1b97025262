"""The real HAProxy before a small real server, without Ray: what it refuses by itself, how that is counted, how it lets finish."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from raystore.serve.run import haproxy_door
from raystore.serve.run.balancer import Balancer
from raystore.serve.run.haproxy_door import narrowed
from raystore.serve.run.proxy import free_port, haproxy_binary
from raystore.serve.wire.common import ErrorAnswer

BINARY = haproxy_binary()
pytestmark = pytest.mark.skipif(BINARY is None, reason="no HAProxy for this platform")

CONFIG = """global
    stats socket {folder}/admin.sock mode 600 level admin
    nbthread 2
defaults
    mode http
    timeout connect 5s
    timeout check 10s
    timeout client 60s
    timeout server 60s
    option redispatch 1
    errorfile 503 {folder}/500.http
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend http-raystore
backend http-raystore
    http-reuse always
    option httpchk GET /-/healthz
    http-check expect status 200
    default-server fastinter 50ms downinter 50ms fall 1 rise 1 inter 50ms check
    server a 127.0.0.1:{behind} check
"""


class Behind(ThreadingHTTPServer):
    """Answers at once, and below /v1/slow when it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        super().__init__(("127.0.0.1", 0), Answering)

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # HAProxy's health checks leave as soon as they know


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/v1/slow"):
            assert isinstance(self.server, Behind)
            self.server.go.wait(60)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Front:
    client: httpx.Client
    behind: Behind
    balancer: Balancer
    folder: Path
    statuses: list[int] = field(default_factory=list)
    asking: list[threading.Thread] = field(default_factory=list)

    def replica(self) -> str:
        """What HAProxy says of the server behind it."""
        [row] = [row for row in self.balancer._rows() if row["svname"] == "a"]
        return row["status"]

    def ask_slowly(self, n: int) -> None:
        """`n` requests that are under way when this returns."""
        url = str(self.client.base_url.join("/v1/slow"))

        def ask() -> None:
            try:
                self.statuses.append(httpx.get(url, timeout=60).status_code)
            except httpx.TransportError:
                self.statuses.append(0)

        for _ in range(n):
            self.asking.append(threading.Thread(target=ask))
            self.asking[-1].start()
        soon(lambda: self.balancer._under_way() == n)

    def let_go(self) -> list[int]:
        """The statuses of those requests."""
        self.behind.go.set()
        for each in self.asking:
            each.join()
        return self.statuses


def soon(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def front() -> Iterator[Front]:
    behind = Behind()
    serving = threading.Thread(target=behind.serve_forever)
    serving.start()
    with (
        tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as name,
        httpx.Client(timeout=30) as client,
    ):  # short: a socket's path
        folder, port = Path(name), free_port()
        config = CONFIG.format(folder=folder, port=port, behind=behind.server_port)
        (folder / haproxy_door._UNREACHED).write_text(haproxy_door._unreached(tls=False), newline="")
        (folder / "haproxy.cfg").write_text(narrowed(config, name, most=2))
        client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        process = subprocess.Popen([str(BINARY), "-db", "-q", "-f", str(folder / "haproxy.cfg")])
        try:
            soon((folder / "admin.sock").exists)
            front = Front(client, behind, Balancer(folder / "admin.sock"), folder)
            soon(lambda: front.replica() == "UP")
            yield front
            front.let_go()
        finally:
            process.terminate()
            process.wait()
            behind.shutdown()
            behind.server_close()
            serving.join()


def shed(answer: httpx.Response, type_: str, message: str) -> str:
    """The request id of an answer that HAProxy gave by itself."""
    error = ErrorAnswer.model_validate(answer.json()).error
    assert (answer.status_code, error.type, error.message, answer.json()["error"]["retry_after_s"]) == (
        503,
        type_,
        message,
        1,
    )
    for header, value in haproxy_door._HEADERS.items():
        assert answer.headers[header] == value
    assert answer.headers["x-request-id"] == error.request_id
    return error.request_id


BUSY = "Overloaded", "This service is at its limit of requests under way. Ask again later."
NOBODY = "Unavailable", "No replica of this service could be reached. Ask again later."


def test_what_is_more_than_a_replica_takes_is_refused_in_the_one_shape_and_then_taken_again(front: Front) -> None:
    front.ask_slowly(2)
    assert shed(front.client.get("/v1/predict/triage", headers={"x-request-id": "mine-1"}), *BUSY) == "mine-1"
    for sent in ({"x-request-id": 'no"id'}, [("x-request-id", "one"), ("x-request-id", "two")], {}):
        made = shed(front.client.get("/v1/predict/triage", headers=sent), *BUSY)
        assert len(made) == 36
    assert front.let_go() == [200, 200]
    assert front.client.get("/v1/predict/triage").status_code == 200


def test_without_anybody_behind_it_is_not_said_that_there_is_much_to_do(front: Front) -> None:
    front.behind.shutdown()
    front.behind.server_close()
    soon(lambda: front.replica() == "DOWN")
    for path in ("/v1/predict/triage", "/readyz"):
        assert shed(front.client.get(path, headers={"x-request-id": "mine-2"}), *NOBODY) == "mine-2"


def test_refusals_are_counted_by_path_once_for_all_replicas_of_a_node(front: Front) -> None:
    other = Balancer(front.folder / "admin.sock")
    assert front.balancer.shed() == {}  # from now on
    front.ask_slowly(2)
    for path in ("/v1/predict/triage", "/v1/predict/triage/stream?a=b", "/v1/sql"):
        assert front.client.get(path).status_code == 503
    assert other.shed() == {}
    assert front.balancer.shed() == {"predict/triage": 2, "sql": 1}
    assert front.balancer.shed() == {}
    assert front.client.get("/v1/predict/triage").status_code == 503
    assert front.balancer.shed() == {"predict/triage": 1}


def test_another_limit_holds_at_once_and_after_a_restart(front: Front) -> None:
    front.ask_slowly(2)
    assert front.client.get("/v1/sql").status_code == 503
    front.balancer.limit(3)
    assert front.client.get("/v1/sql").status_code == 200
    assert haproxy_door.most_of(front.folder) == 3


def test_what_is_under_way_is_answered_before_the_end_and_nothing_new_is_begun(front: Front) -> None:
    front.ask_slowly(1)
    ending = threading.Thread(target=front.balancer.finish, args=(60,))
    ending.start()
    soon(lambda: front.client.get("/v1/sql").status_code == 503)
    assert ending.is_alive()
    assert front.let_go() == [200]
    ending.join()


def test_what_is_not_answered_in_time_is_cut_off(front: Front) -> None:
    front.ask_slowly(1)
    front.balancer.finish(0)
    front.asking[0].join()
    assert front.statuses != [200]
    assert not front.behind.go.is_set()


def test_a_haproxy_that_does_not_run_refused_nothing_and_is_told_when_it_starts(tmp_path: Path) -> None:
    node = tmp_path / "node"
    absent = Balancer(node / "admin.sock")
    assert absent.shed() == {}
    absent.limit(9)
    absent.finish(1)
    assert (absent.shed(), haproxy_door.most_of(node)) == ({}, 9)
