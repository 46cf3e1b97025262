"""Starts, refreshes and stops the store's one Serve application.

What it consists of is `graph.py`. Cost: 5 to 9 s to start on a running Ray, a second to refresh.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raystore.errors import InvalidArguments, JobFailed
from raystore.layout import Layout
from raystore.markup import facts_html
from raystore.serve.answer.loading import Rooms
from raystore.serve.operate.check import Node, refuse_misfits, refuse_unplaceable
from raystore.serve.run.balancer import Balancer
from raystore.serve.run.graph import application, patience_s
from raystore.serve.run.present import APPLICATION, Wanted, alone, balanced, present_app
from raystore.serve.run.proxy import REPLICA_ENV, ProxyFolder, check_port_free, haproxy_binary
from raystore.serve.run.ready import NotRunningError, wait_ready
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.records import DeploymentRecord
from raystore.session import has_ray, inline_problem, start_ray, thread_count

_READY_S = 180.0
# Of Serve's proxy; by default Serve gives it 5 s and starts another, which two busy cores do not reach.
_PROXY_READY_S = 60
_started = False  # Serve, by this process: then it ends it, and otherwise only its application
_began = False  # that application, by this process: what another one began, only that one ends
_folder: ProxyFolder | None = None  # of the proxy of that Serve


class Running:
    """A deployed application. `elsewhere`: another process began it, and this one changed it in place."""

    def __init__(self, url: str, spec: AppSpec, *, owns_serve: bool, owns_app: bool) -> None:
        self.url = url
        self.elsewhere = not (owns_serve or owns_app)
        self._spec = spec
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
        """End the application, when requests under way are answered; the Serve that deploying started ends too, and its proxy with it.
        What another process began goes on: that one ends it.

        For `limits.deadline_s` at most, and what is in a replica's queues is written down after it. An interrupt ends it at once.
        """
        global _began
        import ray

        self._stopped.set()
        if self.elsewhere or not ray.is_initialized():
            return
        _began = False
        from ray import serve
        from ray.serve.context import _get_global_client

        if _get_global_client(raise_if_no_controller_running=False) is None:
            return
        try:
            if self._owns_serve and _folder is not None:
                # Serve ends all deployments of an application together, and a request may still need an encoder of its own.
                for admin in _folder.path.glob("*/admin.sock"):
                    Balancer(admin).finish(self._spec.limits.deadline_s)
            _delete(serve, patience_s(self._spec))
        finally:
            if self._owns_serve:
                _end_serve(serve)


def deploy(
    root: str | Path,
    spec: AppSpec,
    *,
    served: Iterable[str] | None = None,
    threads: int | None = None,
    ready_s: float = _READY_S,
) -> Running:
    """The store's application, ready: started on the joined or a local Ray, or brought up to date in place.

    Args:
        root: the store.
        spec: address, limits, and what is served; without deployments, every deployment of the store.
        served: serve these as they are recorded, whatever the spec names.
        threads: the encoder's, in each replica; None shares the cores among the replicas.
        ready_s: how long to wait for /readyz.

    Raises:
        KeyRequired: another address than loopback, and the store has no key.
        AddressInUse: something else listens there.
        HeadNotFound, CollectionNotFound, PassportMismatch: the spec names what is not there or does not fit.
        InvalidArguments: this Ray would keep request bodies in its object store, serves at another address already, or has no node
            that is large enough for a replica.
        JobFailed: the replicas did not become ready; says why. What ran before goes on, as it was placed before.
    """
    global _began
    rooms = Rooms(root)
    refuse_misfits(spec, rooms)
    if not has_ray():  # nothing of ours can listen there, and starting a Ray to find that out takes half a minute
        check_port_free(spec.host, spec.port)
    ray = _join_ray()
    refuse_unplaceable(spec, rooms, nodes_of(ray))
    started = _start_serve(ray, spec)
    from ray import serve

    present = present_app()
    try:
        records = rooms.records(spec) if served is None else rooms.recorded(served)
        wanted = Wanted(spec, threads or thread_count(spec.replicas.least), _replica_env(present))
        _run(rooms, wanted, records)
        running = Running(_url(spec), spec, owns_serve=_started, owns_app=_began or present is None)
        wait_ready(serve, APPLICATION, running.url, records, ready_s)
    except BaseException as error:
        if present is not None:
            _run(rooms, present, rooms.recorded(present.served))
        elif started:
            _end_serve(serve)
        else:
            _delete(serve, patience_s(spec))
        if isinstance(error, (NotRunningError, TimeoutError)):
            reason = str(error) if isinstance(error, NotRunningError) else "Serve's proxy did not come up in time"
            advice = f"Check the store with 'raystore doctor'; the replicas' logs are in {_log_folder()}."
            raise JobFailed(job="deploy", reason=reason, advice=advice) from None
        raise
    _began = not running.elsewhere
    return running


def as_it_runs(layout: Layout, **given: Any) -> tuple[AppSpec, frozenset[str] | None]:
    """The spec of this store's application and the deployments it serves; a spec of its own and None where it does not run.

    Args:
        given: top-level keys of the file that are to be otherwise; None: as it runs, or by default.
    """
    changes = {key: value for key, value in given.items() if value is not None}
    asked = AppSpec.model_validate(changes)
    if not has_ray():
        return asked, None
    _join_ray()
    now = present_app()
    if now is None or Path(now.root) != layout.root:
        return asked, None
    kept = {key: getattr(asked, key) for key in changes}
    return now.spec.model_copy(update={**kept, "deployments": {}}), now.served


def _run(rooms: Rooms, wanted: Wanted, records: Mapping[str, DeploymentRecord]) -> None:
    """Hand the application to Serve, and wait for nothing but its proxy."""
    import ray
    from ray import serve

    spec = wanted.spec
    colocate = spec.colocate if spec.colocate is not None else alone(ray)
    bound = application(rooms.layout.root, spec, records, threads=wanted.threads, colocate=colocate, env=wanted.env)
    target = serve.RunTarget(target=bound, name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)


def _replica_env(present: Wanted | None) -> Mapping[str, str]:
    """What a replica needs to know of the proxy, which another process may have started: as those of now."""
    if present is not None:
        return present.env
    if _folder is not None:
        return _folder.replica_env
    return REPLICA_ENV if balanced() else {}


def _delete(serve: Any, within_s: float) -> None:
    """End the application; its replicas answer what they have begun with."""
    serve.delete(APPLICATION, _blocking=False)
    deadline = time.monotonic() + within_s
    while APPLICATION in serve.status().applications and time.monotonic() < deadline:
        time.sleep(0.1)


def _end_serve(serve: Any) -> None:
    global _folder, _started
    serve.shutdown()
    _started = False
    if _folder is not None:
        _folder.remove()
        _folder = None


def _join_ray() -> Any:
    """The ray module, joined or started."""
    if "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ and haproxy_binary() is not None:
        os.environ.update(REPLICA_ENV)  # read when ray.serve is imported, here and in every process Ray starts
    return start_ray("ray.serve")


def _start_serve(ray: Any, spec: AppSpec) -> bool:
    """Start Serve where none runs. True where this call did."""
    global _folder, _started
    from ray import serve
    from ray.serve.context import _get_global_client

    _check_inline_limits()
    logging.getLogger("ray.serve").setLevel(logging.ERROR)  # it tells each step on the terminal
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        at = client.http_config
        if (at.host, at.port) != (spec.host, spec.port):
            problem = f"this Ray serves at {at.host}:{at.port} already, and one Ray serves at one address"
            raise InvalidArguments(call="deploy", problems=[f"{problem}: stop that first, or use it (host=, port=)"])
        return False
    check_port_free(spec.host, spec.port)
    binary = haproxy_binary() if alone(ray) else None
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
        # A proxy was slow to come up, and its controller starts another; `wait_ready` waits for that one.
        serve.start(**options)
    _started = True
    return True


def _tls(spec: AppSpec, binary: str | None) -> dict[str, str]:
    """The certificate for Serve's own proxy; HAProxy has it in its folder, and its replicas stay behind it."""
    if spec.tls is None or binary is not None:
        return {}
    return {"ssl_certfile": str(spec.tls.certificate), "ssl_keyfile": str(spec.tls.key)}


def nodes_of(ray: Any) -> list[Node]:
    """What each node has to give to replicas."""
    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [Node(cpus=has.get("CPU", 0), gpus=has.get("GPU", 0)) for has in alive]


def nodes_joined() -> list[Node] | None:
    """The same of the Ray that this process would join; None where it would start one."""
    return nodes_of(start_ray()) if has_ray() else None


def _check_inline_limits() -> None:
    """Of a Ray that somebody else started. Behind HAProxy too: it hands requests to Serve's proxy while no replica is up."""
    from ray._private.state import state

    if (problem := inline_problem(state.get_system_config())) is not None:
        raise InvalidArguments(call="deploy", problems=[problem])


def _url(spec: AppSpec) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(spec.host, spec.host)  # noqa: S104 - asked of, not bound to
    scheme = "https" if spec.tls else "http"
    return f"{scheme}://[{host}]:{spec.port}" if ":" in host else f"{scheme}://{host}:{spec.port}"


def _log_folder() -> str:
    from ray._private.worker import _global_node

    return (
        f"{_global_node.get_session_dir_path()}/logs/serve" if _global_node is not None else "the Ray session's logs/serve"
    )
