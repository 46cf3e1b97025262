"""Starts, refreshes and stops the store's one Serve application.

What it consists of is `graph.py`. Cost: 5 to 9 s to start on a running Ray, a second to refresh.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

from raystore.errors import InvalidArguments, JobFailed
from raystore.markup import facts_html
from raystore.serve.answer.loading import Rooms
from raystore.serve.operate.check import refuse_misfits
from raystore.serve.run.graph import application
from raystore.serve.run.proxy import (
    REPLICA_ENV,
    ProxyFolder,
    check_port_free,
    haproxy_binary,
)
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.records import DeploymentRecord
from raystore.session import INLINE_CALL_BYTES, start_ray, thread_count

log = logging.getLogger("raystore")

APPLICATION = "raystore"
_READY_S = 180.0
# Of Serve's proxy; by default Serve gives it 5 s and starts another, which two busy cores do not reach.
_PROXY_READY_S = 60
_started = False  # Serve, by this process: then it ends it, and otherwise only its application
_folder: ProxyFolder | None = None  # of the proxy of that Serve


class Running:
    """A deployed application."""

    def __init__(self, url: str, *, owns_serve: bool) -> None:
        self.url = url
        self._owns_serve = owns_serve
        self._stopped = threading.Event()

    def __repr__(self) -> str:
        return f"Running({self.url!r})"

    def _repr_html_(self) -> str:
        return facts_html("Running", {"url": self.url, "API page": f"{self.url}/docs"})

    def wait(self) -> None:
        """Block until `stop` is called from another thread, or a signal interrupts."""
        while not self._stopped.wait(0.5):
            pass

    def stop(self) -> None:
        """End the application; the Serve that deploying started ends too, and its proxy with it."""
        global _folder, _started
        import ray

        self._stopped.set()
        if not ray.is_initialized():
            return
        from ray import serve

        if self._owns_serve:
            serve.shutdown()
            _started = False
        else:
            serve.delete(APPLICATION)
        if _folder is not None and self._owns_serve:
            _folder.remove()
            _folder = None


def deploy(
    root: str | Path,
    spec: AppSpec,
    *,
    threads: int | None = None,
    ready_s: float = _READY_S,
) -> Running:
    """The store's application, ready: started on the joined or a local Ray, or brought up to date in place.

    Args:
        root: the store.
        spec: address, limits, and what is served; without deployments, every deployment of the store.
        threads: the encoder's, in each replica; None shares the cores among the replicas.
        ready_s: how long to wait for /readyz.

    Raises:
        KeyRequired: another address than loopback, and the store has no key.
        AddressInUse: something else listens there.
        HeadNotFound, CollectionNotFound, PassportMismatch: the spec names what is not there or does not fit.
        InvalidArguments: this Ray would keep request bodies in its object store, or serves at another address already.
        JobFailed: the replicas did not become ready; says why.
    """
    rooms = Rooms(root)
    refuse_misfits(spec, rooms)
    records = rooms.records(spec)
    owns = _start_serve(spec)
    import ray
    from ray import serve

    colocate = spec.colocate if spec.colocate is not None else alone(ray)
    bound = application(
        rooms.layout.root,
        spec,
        records,
        threads=threads or thread_count(spec.replicas.least),
        colocate=colocate,
        env=REPLICA_ENV if _folder is not None else {},
    )
    running = Running(_url(spec), owns_serve=owns)
    try:
        serve.run(bound, name=APPLICATION, route_prefix="/")
        _wait_ready(running.url, records, ready_s)
    except RuntimeError as error:
        reason = _why(serve) or f"no replica became ready ({type(error).__name__})"
        running.stop()
        advice = f"Check the store with 'raystore doctor'; the replicas' logs are in {_log_folder()}."
        raise JobFailed(job="deploy", reason=reason, advice=advice) from None
    except BaseException:
        if owns:
            running.stop()
        raise
    return running


def serve_app(root: str | Path, spec: AppSpec, *, started: Callable[[Running], None] | None = None) -> None:
    """Deploy and block until SIGTERM or SIGINT, then end Serve. `started` is called with the Running. Main thread only."""

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    start_ray("ray.serve")  # Ray puts its own handler on SIGTERM, which would leave the proxy running
    before = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGINT)}
    running: Running | None = None
    try:
        running = deploy(root, spec)
        if started is not None:
            started(running)
        running.wait()
    except KeyboardInterrupt:
        log.info("stopping")
    finally:
        if running is not None:
            running.stop()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _start_serve(spec: AppSpec) -> bool:
    """Join or start Ray, and Serve on it where none runs. True where Serve is this process's to end."""
    global _folder, _started
    if "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ and haproxy_binary() is not None:
        os.environ.update(REPLICA_ENV)  # read when ray.serve is imported, here and in every process Ray starts
    ray: Any = start_ray("ray.serve")
    from ray import serve
    from ray.serve.context import _get_global_client

    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it tells each step on the terminal
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        at = client.http_config
        if (at.host, at.port) != (spec.host, spec.port):
            problem = f"this Ray serves at {at.host}:{at.port} already, and one Ray serves at one address"
            raise InvalidArguments(call="deploy", problems=[f"{problem}: stop that first, or use it (host=, port=)"])
        return _started
    check_port_free(spec.host, spec.port)
    binary = haproxy_binary() if alone(ray) else None
    _check_inline_limit(binary)
    env = {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": str(_PROXY_READY_S)}
    if binary is not None:
        _folder = ProxyFolder(binary, spec.tls, spec.limits.max_requests)
        env |= _folder.env
    options = {
        "http_options": {"host": spec.host, "port": spec.port, **_tls(spec, binary)},
        "logging_config": {"enable_access_log": False, "log_level": "WARNING"},
        "controller_options": {"runtime_env": {"env_vars": env}},
    }
    try:
        serve.start(**options)
    except (TimeoutError, ray.exceptions.RayActorError):
        # A proxy was slow to come up, and its controller starts another; `_wait_ready` waits for that one.
        serve.start(**options)
    _started = True
    return True


def _tls(spec: AppSpec, binary: str | None) -> dict[str, str]:
    """The certificate for Serve's own proxy; HAProxy has it in its folder, and its replicas stay behind it."""
    if spec.tls is None or binary is not None:
        return {}
    return {"ssl_certfile": str(spec.tls.certificate), "ssl_keyfile": str(spec.tls.key)}


def alone(ray: Any) -> bool:
    """True where this machine is the whole cluster: only then can files here tell Serve what to do."""
    alive = [node for node in ray.nodes() if node["Alive"]]
    return len(alive) == 1 and alive[0]["NodeManagerAddress"] == ray.util.get_node_ip_address()


def _check_inline_limit(binary: str | None) -> None:
    from ray._private.state import state

    limit = int(state.get_system_config().get("max_direct_call_object_size", 100 * 2**10))
    if binary is None and limit < INLINE_CALL_BYTES:
        problem = (
            f"this Ray puts what is over {limit} bytes of a call into its object store, where request bodies must not be: "
            f"start it with --system-config='{{\"max_direct_call_object_size\": {INLINE_CALL_BYTES}}}'"
        )
        raise InvalidArguments(call="deploy", problems=[problem])


def _url(spec: AppSpec) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(spec.host, spec.host)  # noqa: S104 - asked of, not bound to
    scheme = "https" if spec.tls else "http"
    return f"{scheme}://[{host}]:{spec.port}" if ":" in host else f"{scheme}://{host}:{spec.port}"


def _wait_ready(url: str, records: Mapping[str, DeploymentRecord], ready_s: float) -> None:
    """Return when /readyz answers 200 and names these deployments."""
    wanted = {name: record.number for name, record in records.items()}
    deadline = time.monotonic() + ready_s
    # Its certificate is for the name that callers know, which is not this address.
    with httpx.Client(timeout=5, trust_env=False, verify=False) as client:  # noqa: S501 - it is asked for no secret
        while time.monotonic() < deadline:
            try:
                answer = client.get(f"{url}/readyz")
                if answer.status_code == 200:
                    found = {name: facts["number"] for name, facts in answer.json()["deployments"].items()}
                    if found == wanted:
                        return
            except (httpx.HTTPError, ValueError, KeyError):
                pass
            time.sleep(0.1)
    raise RuntimeError("not ready")


def _log_folder() -> str:
    from ray._private.worker import _global_node

    return (
        f"{_global_node.get_session_dir_path()}/logs/serve" if _global_node is not None else "the Ray session's logs/serve"
    )


def _why(serve: Any) -> str | None:
    """The sentence of the raystore error that kept a replica from starting. Such sentences hold no content."""
    application = serve.status().applications.get(APPLICATION)
    messages = [d.message for d in application.deployments.values()] if application is not None else []
    for message in messages:
        match = re.search(r"raystore\.errors\.(\w+): (.+)", message or "")
        if match:
            return f"{match[1]}: {match[2]}"
    return None
