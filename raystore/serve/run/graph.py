"""The application as Serve deployments: the ingress, and beside it encoders and heads of their own and the recording process.

What is served and the limits travel as `user_config`, so they change in place; another root, version of raystore or placement
replaces replicas, one after the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystore import __version__
from raystore.catalog import Catalog, open_root
from raystore.encoders import Encoders
from raystore.serve.run.encoder import EncoderReplica
from raystore.serve.run.ingress import Ingress
from raystore.serve.run.replicas import HeadReplica, RecordingReplica
from raystore.serve.spec.apart import tell_apart
from raystore.serve.spec.app import AppSpec, EncoderSpec
from raystore.serve.spec.base import Placed, Scaling
from raystore.serve.spec.records import DeploymentRecord

INGRESS = "orchestrator"
RECORDING = "recording"
_LOGGING = {"enable_access_log": False, "log_level": "WARNING"}
# Requests beyond those a replica takes, which it answers 503 itself: Serve's own 503 is not in our shape.
_SPARE = 1_024
# Of the ingress's replicas: one more than wanted while they are replaced, so that an old one answers until a new one does. Those of
# encoders and heads hold cores and GPUs, and where none is left for one more the change would never end.
_SURGE_PERCENT = 1
# Of encoders and heads of their own: calls that a replica takes, and that wait in each ingress replica when all are taken; beyond, 503.
_ONGOING = 64
_QUEUED = 64
# Serve finds a replica that died by this, and starts another. By default it looks every 10 s, and one alone answers meanwhile.
_HEALTH_S = 1.0
# What a replica's end takes beyond what is under way: to leave a balancer, for which Serve takes 30 s by default, and to write down
# what waits.
_WRITE_S = 20.0
_LEAVE_S = 30.0


def application(
    root: str | Path,
    spec: AppSpec,
    records: Mapping[str, DeploymentRecord],
    *,
    threads: int,
    colocate: bool,
    env: Mapping[str, str],
) -> Any:
    """The bound application.

    Args:
        threads: of encoders inside the ingress.
        colocate: whether encoders stand there that the spec does not place.
        env: of the ingress's replicas.
    """
    from ray import serve

    layout, _ = open_root(root, create=False)
    own = placed_encoders(Encoders(Catalog(layout)), spec, records, colocate=colocate)
    tell_apart(Catalog(layout), None if colocate else own)  # a promotion looks at it
    where = str(layout.root)
    env = {**env, "OMP_NUM_THREADS": str(threads)}
    told = {
        "root": where,
        "spec": spec.model_dump(mode="json", by_alias=True),
        "records": {name: record.model_dump(mode="json", by_alias=True) for name, record in records.items()},
    }

    # Serve kills a replica that has not ended by then; by default after 20 s, which is less than a request may take.
    patience = patience_s(spec)

    def made(cls: type, name: str, where_: Placed, config: Any, *facts: object, **options: Any) -> Any:
        deployment = serve.deployment(
            name=name,
            user_config=config,
            ray_actor_options={"num_cpus": where_.cpus, "num_gpus": where_.gpu},
            logging_config=_LOGGING,
            graceful_shutdown_timeout_s=patience,
            **_replicas(where_.replicas),
        )(cls).options(**options)
        code = hashlib.sha256(f"{__version__} {where} {where_.cpus} {where_.gpu} {facts}".encode()).hexdigest()
        return deployment.options(version=code, _internal=True)  # else every deploy would replace the replicas

    bounded = {"max_ongoing_requests": _ONGOING, "max_queued_requests": _QUEUED, "health_check_period_s": _HEALTH_S}
    logs = {"json_logs": spec.watch.json_logs}
    golden = {"golden_every_s": spec.watch.golden_every_s, **logs}
    encoders = {
        fingerprint: made(
            EncoderReplica, f"encoder-{name}", placed, golden, fingerprint, (placed.batch or spec.batch), **bounded
        ).bind(where, fingerprint, max(1, int(placed.cpus)), (placed.batch or spec.batch).model_dump())
        for fingerprint, (name, placed) in own.items()
    }  # fmt: skip
    heads = {
        name: made(HeadReplica, f"head-{name}", record.own, logs, name, **bounded).bind(where)
        for name, record in records.items()
        if record.own is not None
    }
    recording = None
    if records_anything(spec, records):
        nothing = Placed.model_construct(replicas=Scaling(), gpu=0, cpus=0)
        config = {"records": told["records"], "watch": spec.watch.model_dump(), "cpus": spec.recording.cpus}
        recording = made(
            RecordingReplica, RECORDING, nothing, config, spec.recording.memory_mb, max_ongoing_requests=32
        ).bind(where, spec.recording.memory_mb)
    at = Placed.model_construct(replicas=spec.replicas, gpu=0, cpus=0)
    stands_on = threads, colocate, sorted(encoders), sorted(heads), recording is not None, sorted(env.items())
    ingress = made(
        serve.ingress()(Ingress), INGRESS, at, told, *stands_on,
        max_ongoing_requests=spec.limits.max_requests + _SPARE,
        max_surge_percent=_SURGE_PERCENT,
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": env}},
    )  # fmt: skip
    return ingress.bind(where, threads, encoders, heads, recording, colocate=colocate)


def patience_s(spec: AppSpec) -> float:
    """How long a replica may take to end: for requests under way, over HTTP and then over gRPC, and what it does before and after."""
    return _LEAVE_S + spec.limits.deadline_s * (2 if spec.grpc else 1) + _WRITE_S


def _replicas(scaling: Scaling) -> dict[str, Any]:
    if scaling.fixed:
        return {"num_replicas": scaling.least}
    return {
        "autoscaling_config": {
            "min_replicas": scaling.least,
            "max_replicas": scaling.most,
            "target_ongoing_requests": scaling.ongoing,
        }
    }


def records_anything(spec: AppSpec, records: Mapping[str, DeploymentRecord]) -> bool:
    """Whether there is a recording process: where it is told of requests, or metrics of several processes become one."""
    return spec.replicas.most > 1 or any(record.is_told(spec.watch) for record in records.values())


def placed_encoders(
    encoders: Encoders, spec: AppSpec, records: Mapping[str, DeploymentRecord], *, colocate: bool
) -> dict[str, tuple[str, EncoderSpec]]:
    """The encoders that run in deployments of their own: name and placement, by fingerprint.

    EncoderNotFound where the spec places one that is not there.
    """
    found = {encoders.resolve(name).fingerprint: (name, placed) for name, placed in spec.encoders.items()}
    if not colocate:
        for record in records.values():
            found.setdefault(record.reads, (encoders.get(record.reads).name, EncoderSpec()))
    return found
