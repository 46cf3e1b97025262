"""The application for those who start Ray and Serve themselves: `serve deploy config.yaml`, and KubeRay's RayService.

Serve calls `build` in a process of the cluster, once for each configuration with other arguments. Whatever `deploy.py` sets when it
starts Ray and Serve has to stand in the cluster's own configuration, so it is checked here, before anything is recorded.
Cost: reading the file and the store's records; no encoder is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raystore.access import is_loopback
from raystore.errors import InvalidArguments
from raystore.serve.answer.loading import Rooms
from raystore.serve.operate.check import refuse_misfits
from raystore.serve.run.graph import application
from raystore.serve.run.haproxy_door import CERTIFICATE, MOST_ENV, certificate_of, most_of
from raystore.serve.run.present import alone, balanced
from raystore.serve.run.proxy import REPLICA_ENV
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.base import Strict
from raystore.serve.spec.read import load_spec, parse_spec
from raystore.session import inline_problem

HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
_DRAIN = (
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"  # several nodes hear of a leaving replica later than one: Serve's own
)


class Arguments(Strict):
    """`args:` of the application in Serve's configuration."""

    file: str | None = None
    spec: dict[str, Any] | None = None
    store: str | None = None  # in place of the file's
    revision: str | int | None = None  # Serve builds again where an argument changed: another one has a changed file read


@dataclass(frozen=True)
class Cluster:
    """What others set up, as far as the application depends on it.

    `certificate` and its key are those of Serve's own proxy. `system` is what its head was started with.
    `balanced` is whether Serve answers by HAProxy (None: no proxy is up yet), `replicas_balanced` whether replicas would be told so,
    `narrowed` whether something else is started in HAProxy's place, which has to be haproxy_door.py, `paired` whether that finds
    certificate and key, and `most` how many requests it lets a replica have at once.
    """

    host: str
    port: int
    certificate: tuple[str | None, str | None]
    nodes: frozenset[str]
    system: Mapping[str, Any]
    balanced: bool | None
    replicas_balanced: bool
    narrowed: bool
    paired: bool
    most: int | None


def build(args: dict[str, Any]) -> Any:
    """The bound application of a deployment file, whose deployments are recorded.

    Args:
        args: `file`, an absolute path that every node sees, or `spec`, what would stand in it; `store`, where the file names none;
            `revision`, anything, to have a changed file read again.

    Raises:
        InvalidArguments: the arguments, the file, or a cluster that is set up otherwise than the file says; names everything.
        HeadNotFound, CollectionNotFound, PassportMismatch, KeyRequired: as `deploy`.
    """
    asked = read_arguments(args)
    spec = load_spec(asked.file) if asked.file is not None else parse_spec(asked.spec, "build")
    store = asked.store or spec.store
    if store is None or not Path(store).is_absolute():
        problem = (
            "store: expected the absolute path of the store, in the arguments or in the file: nodes share no working folder"
        )
        raise InvalidArguments(call="build", problems=[problem])
    import ray

    if not ray.is_initialized():
        problem = "Serve calls this in a cluster; on a machine of your own run 'raystore serve FILE'"
        raise InvalidArguments(call="build", problems=[problem])
    found = _found(ray)
    problems = list(misfits(spec, found))
    if problems:
        raise InvalidArguments(call="build", problems=problems)
    rooms = Rooms(store)
    refuse_misfits(spec, rooms)
    return application(
        rooms.layout.root,
        spec,
        rooms.records(spec),
        threads=_threads(ray, spec),
        colocate=spec.colocate if spec.colocate is not None else alone(ray),
        env={name: value for name, value in REPLICA_ENV.items() if name != _DRAIN} if found.replicas_balanced else {},
    )


def read_arguments(args: Mapping[str, Any]) -> Arguments:
    """The arguments, checked. InvalidArguments names every mistake."""
    try:
        asked = Arguments.model_validate(args)
    except ValidationError as error:
        known = ", ".join(Arguments.model_fields)
        where = [".".join(str(part) for part in each["loc"]) for each in error.errors(include_input=False)]
        problems = [f"args.{name} is not as expected: known are {known}" for name in where]
        raise InvalidArguments(call="build", problems=problems) from None
    if (asked.file is None) == (asked.spec is None):
        raise InvalidArguments(call="build", problems=["args: expected one of file and spec"])
    if asked.file is not None and not Path(asked.file).is_absolute():
        raise InvalidArguments(
            call="build", problems=["args.file: expected an absolute path: nodes share no working folder"]
        )
    return asked


def misfits(spec: AppSpec, found: Cluster) -> Iterator[str]:
    """What of the cluster's configuration does not go with the file."""
    if (found.host, found.port) != (spec.host, spec.port):
        yield (
            f"Serve answers at {found.host}:{found.port}, and the file says {spec.host}:{spec.port}: "
            f"write http_options: {{host: {spec.host}, port: {spec.port}}} into Serve's configuration, and start Serve anew"
        )
    if is_loopback(spec.host) and len(found.nodes) > 1:
        yield f"host is {spec.host}, where nodes cannot reach each other's replicas: write host: 0.0.0.0"
    inline = inline_problem(found.system, "its head")
    if inline is not None:
        yield inline
    if found.balanced is not None and found.balanced != found.replicas_balanced:
        with_it, without = ("Serve's controller", "here") if found.balanced else ("here", "Serve's controller")
        yield f"{HAPROXY}=1 is set for {with_it} and not for {without}: set it where every node is started, before 'ray start'"
    if found.replicas_balanced and not found.narrowed:
        yield (
            "HAProxy would show its statistics to every network: set RAY_SERVE_HAPROXY_BINARY_PATH where every node is started, to a "
            "script as in cluster/Dockerfile"
        )
    if found.replicas_balanced and found.most != spec.limits.max_requests:
        says = "was not told" if found.most is None else f"was told {found.most}"
        yield (
            f"limits.max_requests is {spec.limits.max_requests}, and HAProxy, which refuses what is more, {says}: "
            f"set {MOST_ENV}={spec.limits.max_requests} where every node is started, before 'ray start'"
        )
    yield from _tls_misfits(spec, found)


def _tls_misfits(spec: AppSpec, found: Cluster) -> Iterator[str]:
    if found.replicas_balanced:
        if spec.tls and not found.paired:
            yield f"tls: HAProxy finds no {CERTIFICATE}, certificate and key in one file, in the folder of its configuration"
        elif found.paired and not spec.tls:
            yield f"HAProxy finds {CERTIFICATE} and answers by TLS alone, and the file has no tls:"
        return
    wanted = (str(spec.tls.certificate), str(spec.tls.key)) if spec.tls else (None, None)
    if found.certificate != wanted:
        yield "tls: the file and http_options (ssl_certfile, ssl_keyfile) of Serve's configuration name different files"


def _found(ray: Any) -> Cluster:
    from ray._private.state import state
    from ray.serve.context import _get_global_client

    client = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        raise InvalidArguments(call="build", problems=["Serve does not run on this Ray"])
    http = client.http_config
    haproxy = Path(os.environ.get("RAY_SERVE_HAPROXY_CONFIG_FILE_LOC", "/")).parent
    return Cluster(
        host=http.host,
        port=http.port,
        certificate=(http.ssl_certfile, http.ssl_keyfile),
        nodes=frozenset(node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]),
        system=state.get_system_config(),
        balanced=balanced(),
        replicas_balanced=os.environ.get(HAPROXY) == "1",
        narrowed=bool(os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH")),
        paired=certificate_of(haproxy) is not None,
        most=most_of(haproxy),
    )


def _threads(ray: Any, spec: AppSpec) -> int:
    """Of encoders inside a replica: by the cores that Ray has on the largest node; a container has fewer than its machine."""
    cores = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    return max(1, int(cores) // spec.replicas.least)
