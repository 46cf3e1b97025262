from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from raystore.errors import AddressInUse
from raystore.serve.door import middleware
from raystore.serve.run import haproxy_door
from raystore.serve.run.haproxy_door import MOST, MOST_ENV, most_of, narrowed
from raystore.serve.run.process import keep_calls_on_loopback
from raystore.serve.run.proxy import ProxyFolder, check_port_free, free_port
from raystore.serve.wire.common import REQUEST_ID, ErrorAnswer

# ruff: noqa: E501 - HAProxy's lines
CONFIG = """defaults
    mode http
frontend prometheus
    bind :9101
    mode http
frontend http_frontend
    bind 127.0.0.1:8000
listen stats
  bind *:8404
  stats enable
"""


def test_the_wide_listeners_move_into_the_folder_and_the_front_stays() -> None:
    assert narrowed(CONFIG, "/tmp/rs-x/n") == (
        """defaults
    mode http
frontend prometheus
    bind unix@/tmp/rs-x/n/prometheus.sock mode 600
    mode http
frontend http_frontend
    bind 127.0.0.1:8000
    timeout http-request 10s
    timeout http-keep-alive 90s
    option http-ignore-probes
    errorfile 400 /tmp/rs-x/n/own-400.http
    errorfile 408 /tmp/rs-x/n/own-408.http
    errorfile 500 /tmp/rs-x/n/own-500.http
    http-request set-header x-request-disconnect-disabled ?1
    http-request del-header x-request-id unless { req.fhdr_cnt(x-request-id) eq 1 } { req.fhdr(x-request-id) -m reg ^[A-Za-z0-9._-]{1,64}$ }
    http-response set-header x-request-id %[res.fhdr(x-request-id)] if { res.fhdr_cnt(x-request-id) gt 1 }
listen stats
  bind unix@/tmp/rs-x/n/stats.sock mode 600
  stats enable
"""
    )


def test_the_template_of_this_ray_has_the_listeners_that_are_moved() -> None:
    templates = pytest.importorskip("ray.serve._private.haproxy_templates").HAPROXY_CONFIG_TEMPLATE
    config = templates.replace("{{ config.metrics_port }}", "9101").replace("{{ config.stats_port }}", "8404")
    assert narrowed(config, "/x").count("bind unix@/x/") == 2
    rendered = re.sub(r"\{%-.*%\}\n", "", config).replace("{{ hc.default_server_directive }}", "default-server check")
    assert narrowed(rendered, "/x", most=9).count(" maxconn 9\n") == 1


SERVED = """    errorfile 503 /tmp/rs-x/n/500.http
backend http-raystore
    option httpchk GET /-/healthz
    http-check expect status 200
    default-server fastinter 250ms check
    server a 127.0.0.1:30000 check
"""


def test_a_replica_gets_no_more_requests_than_it_takes_and_an_unreached_one_is_503() -> None:
    lines = narrowed(SERVED, "/tmp/rs-x/n", most=7).splitlines()
    assert lines[0] == "    errorfile 503 /tmp/rs-x/n/503.http"
    assert lines[4] == "    default-server fastinter 250ms check maxconn 7"
    rules = [line.split()[1] for line in lines[5:-3]]
    assert rules == ["set-var(txn.raystore_why)"] * 2 + ["set-var(txn.raystore_id)"] * 2 + [
        "track-sc1", "sc-inc-gpc0(1)", "return", "return",
    ]  # fmt: skip
    assert lines[-3:] == [
        "    server a 127.0.0.1:30000 check",
        "backend raystore_shed",
        "    stick-table type string len 128 size 1k store gpc0",
    ]
    unbounded = narrowed(SERVED, "/tmp/rs-x/n")
    assert ("maxconn" in unbounded, "be_conn_free" in unbounded, "nbsrv eq 0" in unbounded) == (False, False, True)


def test_a_replica_that_could_not_be_reached_is_told_in_the_one_shape_of_errors() -> None:
    head, _, body = haproxy_door.error_files(tls=True)["503.http"].partition("\r\n\r\n")
    assert head.splitlines()[0] == "HTTP/1.0 503 Service Unavailable"
    error = ErrorAnswer.model_validate(json.loads(body)).error
    assert (error.type, error.message) == (
        "Unavailable", "No replica of this service could be reached. Ask again later.",
    )  # fmt: skip
    assert "strict-transport-security: max-age=31536000" in head.splitlines()


def of_the_application(*, tls: bool) -> dict[str, str]:
    """The headers that the application puts on its answers, but for the request's id."""
    headers = [*middleware.LastResort(None, tls=tls).headers, middleware._NOTHING]  # type: ignore[arg-type]
    return {name.decode(): value.decode() for name, value in headers}


def test_what_haproxy_finds_wrong_in_a_body_is_told_in_the_one_shape_of_errors() -> None:
    assert [name for name in haproxy_door.error_files(tls=False) if name != "503.http"] == [
        f"own-{status}.http" for status in (400, 408, 500)
    ]
    for status, (phrase, type_, message) in haproxy_door._OWN.items():
        head, _, body = haproxy_door.error_files(tls=True)[f"own-{status}.http"].partition("\r\n\r\n")
        first, *headers = head.splitlines()
        assert first == f"HTTP/1.0 {status} {phrase}"
        assert json.loads(body) == {"error": {"type": type_, "message": message, "request_id": ""}}
        told = dict(line.split(": ", 1) for line in headers)
        assert told.pop("content-type") == "application/json"
        assert told.pop("connection") == "close"
        assert told == of_the_application(tls=True)


def test_haproxy_puts_on_its_answers_what_the_application_does() -> None:
    for tls in (False, True):
        mine = of_the_application(tls=tls) | {"retry-after": "1"}
        assert mine == {**haproxy_door._HEADERS, **(haproxy_door._TLS_HEADERS if tls else {})}
    [pattern] = {found for line in haproxy_door._refusals(True, False) for found in re.findall(r"-m reg (\S+)", line)}
    assert pattern == f"^{REQUEST_ID.pattern}$"


def test_how_much_a_replica_takes_is_said_by_the_node_then_by_all_nodes_then_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "node"
    node.mkdir()
    monkeypatch.delenv(MOST_ENV, raising=False)
    assert most_of(node) is None
    monkeypatch.setenv(MOST_ENV, "5")
    assert most_of(node) == 5
    (tmp_path / MOST).write_text("6")
    assert most_of(node) == 6
    (node / MOST).write_text("7")
    assert most_of(node) == 7


def test_the_proxys_folder_is_private_and_short_enough_for_sockets() -> None:
    folder = ProxyFolder("/bin/true")
    try:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert (folder.path / "haproxy").stat().st_mode & 0o777 == 0o700
        node_id, temporary = "0" * 56, ".1234567.tmp"
        assert len(f"{folder.path}/{node_id}/prometheus.sock{temporary}") < 108
    finally:
        folder.remove()
    assert not folder.path.exists()


def test_a_port_in_use_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressInUse) as raised:
            check_port_free("127.0.0.1", port)
    expected = f"127.0.0.1:{port} is in use. Stop what listens there, or choose another port (port=, --port)."
    assert str(raised.value) == expected
    check_port_free("127.0.0.1", free_port())


def test_the_door_is_no_module_that_needs_the_package() -> None:
    source = Path(haproxy_door.__file__).read_text(encoding="utf-8")
    assert "import raystore" not in source
    assert "from raystore" not in source


def test_a_ray_that_opens_replicas_servers_elsewhere_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray
    from ray.serve._private import replica

    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    opened: list[str] = []
    monkeypatch.setattr(replica, "add_port_to_grpc_server", lambda _, address: opened.append(address))  # this Ray has it
    keep_calls_on_loopback()
    replica.add_port_to_grpc_server(None, "[::]:0")
    assert opened == ["127.0.0.1:0"]
    assert not caplog.messages
    monkeypatch.delattr(replica, "add_port_to_grpc_server")
    keep_calls_on_loopback()
    assert caplog.messages == [
        f"Ray {ray.__version__} opens this replica's server for calls elsewhere than it did: it may listen on every network. "
        "Keep the machine's ports closed, and run raystore with the Ray it was tested with"
    ]
