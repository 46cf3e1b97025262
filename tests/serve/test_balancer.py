"""The real HAProxy before a small real server, without Ray: what it refuses by itself, how that is counted, how it lets finish."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from raystore.serve.run import balancer, haproxy_door
from raystore.serve.run.balancer import Balancer
from raystore.serve.run.haproxy_door import narrowed
from raystore.serve.run.proxy import ProxyFolder, free_port, haproxy_binary
from raystore.serve.spec.door import Tls
from raystore.serve.wire.common import ErrorAnswer
from tests.serve.certificates import made, self_signed, shown_serial
from tests.waiting import soon

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

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", "1")))
        self.do_GET()

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
                self.statuses.append(httpx.get(url, timeout=60, verify=False).status_code)
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


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits a second for headers, and two for the next request."""
    monkeypatch.setattr(haproxy_door, "_HEADERS_S", 1)
    monkeypatch.setattr(haproxy_door, "_IDLE_S", 2)


@contextmanager
def fronted(folder: Path) -> Iterator[Front]:
    """HAProxy as it is started for this folder, with a certificate where one lies there."""
    behind = Behind()
    serving = threading.Thread(target=behind.serve_forever)
    serving.start()
    certificate, port = haproxy_door.certificate_of(folder), free_port()
    config = CONFIG.format(folder=folder, port=port, behind=behind.server_port)
    for file, content in haproxy_door.error_files(tls=certificate is not None).items():
        (folder / file).write_text(content, newline="")
    (folder / "haproxy.cfg").write_text(narrowed(config, str(folder), certificate, most=2))
    url = f"{'https' if certificate else 'http'}://127.0.0.1:{port}"
    process = subprocess.Popen([str(BINARY), "-db", "-q", "-f", str(folder / "haproxy.cfg")])
    try:
        with httpx.Client(base_url=url, timeout=30, verify=False) as client:
            soon((folder / "admin.sock").exists)
            front = Front(client, behind, Balancer(folder / "admin.sock"), folder)
            soon(lambda: front.replica() == "UP")
            yield front
            front.let_go()
    finally:
        process.terminate()
        process.wait()
        (folder / "admin.sock").unlink(missing_ok=True)
        behind.shutdown()
        behind.server_close()
        serving.join()


@pytest.fixture
def front() -> Iterator[Front]:
    with (
        tempfile.TemporaryDirectory(prefix="rs-", dir="/tmp") as name,  # short: a socket's path
        fronted(Path(name)) as front,
    ):
        yield front


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


# --- a certificate that is renewed --------------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """A node's folder, in that of a proxy with a certificate of the test's folder."""
    certificate, key = self_signed(tmp_path)
    proxy = ProxyFolder(str(BINARY), Tls(certificate=certificate, key=key))
    node = proxy.path / "node"
    node.mkdir()
    yield node
    proxy.remove()


def port_of(front: Front) -> int:
    return front.client.base_url.port or 0


def test_a_renewed_certificate_is_shown_to_new_connections_and_those_before_go_on(
    node: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = made(2)
    with fronted(node) as front, opened(front) as plain, trusting().wrap_socket(plain) as before:
        front.ask_slowly(1)
        assert shown_serial(port_of(front)) == 1
        (tmp_path / "cert.pem").write_bytes(certificate)  # its key comes later
        front.balancer.renew()
        front.balancer.renew()
        assert shown_serial(port_of(front)) == 1
        (tmp_path / "key.pem").write_bytes(key)
        front.balancer.renew()
        Balancer(front.folder / "admin.sock").renew()  # of another replica
        assert shown_serial(port_of(front)) == 2
        before.sendall(b"GET /v1/sql HTTP/1.1\r\nhost: a\r\n\r\n")
        assert before.recv(65_536).startswith(b"HTTP/1.1 200 ")
        assert front.let_go() == [200]
    assert caplog.messages == [
        f"serve over TLS: '{tmp_path / 'cert.pem'}' and '{tmp_path / 'key.pem'}' are no certificate and its key "
        "(key values mismatch). The certificate from before stays"
    ]
    copy = node.parent / haproxy_door.CERTIFICATE
    assert (copy.read_bytes(), copy.stat().st_mode & 0o777) == (certificate + key, 0o600)
    assert sorted(node.parent.glob(f"{copy.name}*")) == [copy]
    with fronted(node) as again:  # as Serve starts one
        assert shown_serial(port_of(again)) == 2


def test_a_pair_that_a_nodes_operator_replaces_is_shown_too(node: Path) -> None:
    for link in haproxy_door.COPIED_FROM:
        (node.parent / link).unlink()
    theirs = node.parent / haproxy_door.CERTIFICATE
    with fronted(node) as front:
        theirs.write_bytes(b"".join(made(3)))
        front.balancer.renew()
        assert shown_serial(port_of(front)) == 3
        theirs.write_bytes(made(4)[0] + made(5)[1])
        front.balancer.renew()
        assert shown_serial(port_of(front)) == 3


def test_the_files_are_looked_at_for_as_long_as_the_process_runs_whether_a_haproxy_does_or_not(
    node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balancer, "_RENEW_S", 0.02)
    Balancer(node / "admin.sock").keep_renewed()
    soon((node / "counted").exists)  # it looked, and none runs
    with fronted(node) as front:
        for serial in (2, 3):
            for file, content in zip(("cert.pem", "key.pem"), made(serial), strict=True):
                (tmp_path / file).write_bytes(content)
            assert soon(lambda: shown_serial(port_of(front)) == serial)  # noqa: B023 - asked at once


def test_a_certificate_that_haproxy_does_not_take_is_said_once(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    late = front.folder / haproxy_door.CERTIFICATE
    late.write_bytes(b"".join(made(1)))  # this one runs without
    front.balancer.renew()
    front.balancer.renew()
    assert caplog.messages == [
        "HAProxy does not take the certificate that was renewed: Can't replace a certificate which is not referenced by the "
        f"configuration! Can't update {late}!"
    ]


def trusting() -> ssl.SSLContext:
    """Whatever certificate is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# --- what no replica sees -----------------------------------------------------------------------------------------------


def opened(front: Front) -> socket.socket:
    return socket.create_connection((front.client.base_url.host, front.client.base_url.port or 0), timeout=30)


def rest_of(connection: socket.socket) -> bytes:
    """What comes until the connection is ended."""
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def refused(raw: bytes, status: int) -> None:
    """It is one whole answer of HAProxy's own, in the one shape of errors and with the headers of every answer."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("ascii").splitlines()
    phrase, type_, message = haproxy_door._OWN[status]
    assert first == f"HTTP/1.0 {status} {phrase}"
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    assert headers.pop("content-type") == "application/json"
    assert headers.pop("connection", "close") == "close"
    assert int(headers.pop("content-length", len(body))) == len(body)
    assert headers == {name: value for name, value in haproxy_door._HEADERS.items() if name != "retry-after"}
    error = ErrorAnswer.model_validate(json.loads(body)).error
    assert (error.type, error.message, error.request_id) == (type_, message, "")


def test_a_body_that_is_not_what_its_headers_say_is_refused_in_the_one_shape_too(front: Front) -> None:
    with opened(front) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        soon(lambda: front.balancer._under_way() == 1)
        connection.sendall(b"no size\r\n")
        refused(rest_of(connection), 400)


NO_REQUESTS = {
    "a line that is no header": b"GET / HTTP/1.1\r\nhost: a\r\nno header\r\n\r\n",
    "headers of 40 kB": b"GET / HTTP/1.1\r\nhost: a\r\nx-long: " + b"a" * 40_000 + b"\r\n\r\n",
    "a length that is no number": b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: abc\r\n\r\n",
}


@pytest.mark.parametrize("what", NO_REQUESTS)
def test_what_is_no_request_is_refused_without_a_word_of_what_was_sent(front: Front, what: str) -> None:
    with opened(front) as connection:
        connection.sendall(NO_REQUESTS[what])
        assert rest_of(connection) == (
            b"HTTP/1.1 400 Bad request\r\nContent-length: 90\r\nCache-Control: no-cache\r\nConnection: close\r\n"
            b"Content-Type: text/html\r\n\r\n<html><body><h1>400 Bad request</h1>\nYour browser sent an invalid request.\n"
            b"</body></html>\n"
        )


@pytest.mark.usefixtures("hurried")
def test_headers_that_do_not_come_end_the_connection(front: Front) -> None:
    with opened(front) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\nx-half")
        assert rest_of(connection).startswith(b"HTTP/1.1 408 Request Time-out\r\n")


@pytest.mark.usefixtures("hurried")
def test_headers_that_come_byte_by_byte_are_no_sooner_whole(front: Front) -> None:
    begun = time.monotonic()
    with opened(front) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx-slow: ")
        with pytest.raises(OSError):  # noqa: PT012 - reset or broken, at whichever byte
            while time.monotonic() < begun + 20:
                connection.sendall(b"a")
                time.sleep(0.1)
    assert time.monotonic() < begun + 10


@pytest.mark.usefixtures("hurried")
def test_a_connection_on_which_nothing_came_ends_without_an_answer(front: Front) -> None:
    with opened(front) as connection:
        assert rest_of(connection) == b""


@pytest.mark.usefixtures("hurried")
def test_a_body_may_come_more_slowly_than_headers(front: Front) -> None:
    with opened(front) as connection:
        connection.sendall(b"POST /v1/log HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 6\r\n\r\n")
        for _ in range(6):
            time.sleep(0.4)
            connection.sendall(b"a")
        assert rest_of(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.usefixtures("hurried")
def test_an_answer_may_take_longer_than_headers(front: Front) -> None:
    front.ask_slowly(1)
    time.sleep(2.5)
    assert front.let_go() == [200]


@pytest.mark.usefixtures("hurried")
def test_a_connection_rests_between_requests_for_longer_than_headers_take_and_not_for_ever(front: Front) -> None:
    asks = b"GET /v1/sql HTTP/1.1\r\nhost: a\r\n\r\n"
    with opened(front) as connection:
        for _ in range(2):
            connection.sendall(asks)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")
            time.sleep(1.4)
        assert rest_of(connection) == b""
