from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest

from raystore.errors import AddressInUse
from raystore.serve.run import haproxy_door
from raystore.serve.run.haproxy_door import narrowed
from raystore.serve.run.process import keep_calls_on_loopback
from raystore.serve.run.proxy import ProxyFolder, check_port_free, free_port
from raystore.serve.wire.common import ErrorAnswer

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
    http-request set-header x-request-disconnect-disabled ?1
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
    assert lines[5].startswith("    http-request return status 503 content-type application/json hdr retry-after 1 ")
    assert lines[5].endswith(" if { path_beg /v1/ } { be_conn_free le 0 }")
    assert narrowed(SERVED, "/tmp/rs-x/n").count("maxconn") == 0


def test_what_haproxy_answers_by_itself_has_the_one_shape_of_errors() -> None:
    said = {name: json.loads(text) for name, text in (("busy", haproxy_door._BUSY), ("nobody", haproxy_door._NOBODY))}
    for each in said.values():
        assert ErrorAnswer.model_validate(each).error.message.endswith("Ask again later.")
    head, _, body = haproxy_door._NOBODY_SAID.partition("\r\n\r\n")
    assert (head.splitlines()[0], json.loads(body)) == ("HTTP/1.0 503 Service Unavailable", said["nobody"])


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
