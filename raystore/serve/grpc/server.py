"""The gRPC face of a replica: the same orchestrator, door and limits as HTTP, on a port of its own.

Several replicas of a node listen on one port (SO_REUSEPORT); the kernel spreads connections over them. Runs in the replica's event
loop; what blocks runs in its threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import grpc

from raystore.errors import AddressInUse
from raystore.serve.answer.deadline import run_within
from raystore.serve.door.admission import Admission, limits_of
from raystore.serve.door.auth import Door, check_evidence
from raystore.serve.door.certificate import Pair
from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.grpc.calls import Call, Calls
from raystore.serve.grpc.health import health_handlers
from raystore.serve.grpc.messages import log_answer, log_rows, parse, predict_answer, predict_request
from raystore.serve.grpc.stream import Streams
from raystore.serve.http.common import Provider, fields_named, ready
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.door import Tls
from raystore.serve.watch.finished import Teller

SERVICE = "raystore.v1.Orchestrator"
# The routes of HTTP whose verbs the methods ask for.
PREDICT, STREAM, LOG = "/v1/predict/grpc", "/v1/predict/grpc/stream", "/v1/collections/grpc/log"


def make_grpc_server(
    provider: Provider,
    spec: AppSpec,
    door: Door,
    admission: Admission,
    *,
    threads: Executor,
    tellers: Sequence[Teller] = (),
    port: int | None = None,
) -> grpc.aio.Server:
    """The server, bound and not started: `await server.start()`, and at the end `await server.stop(seconds)`, which takes no new
    calls, and gives those under way so long. To be made in the event loop that runs it.

    Args:
        provider: the orchestrator, or None while it is not ready (then calls end UNAVAILABLE).
        spec: host, grpc, limits and tls.
        door, admission: who may do what, and how many at once; those of HTTP, where there is HTTP too.
        threads: where blocking calls run.
        tellers: who is told of every call that was answered.
        port: instead of the spec's.

    Raises:
        AddressInUse: something that is not a replica of this service listens there.
        InvalidArguments: the TLS files cannot be read, or are no pair.
    """
    wanted = port if port is not None else spec.grpc.port if spec.grpc is not None else 0
    options: list[tuple[str, Any]] = [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", spec.limits.max_body_bytes),
        ("grpc.max_metadata_size", 16_384),
    ]
    server = grpc.aio.server(options=options)
    server.add_generic_rpc_handlers(
        (
            _handlers(provider, spec, admission, Calls(door, admission, tellers), threads),
            health_handlers(frozenset({SERVICE}), lambda: provider() is not None),
        )
    )
    address = f"[{spec.host}]:{wanted}" if ":" in spec.host else f"{spec.host}:{wanted}"
    failed = False
    try:
        bound = server.add_secure_port(address, _credentials(spec.tls)) if spec.tls else server.add_insecure_port(address)
    except RuntimeError:
        failed = True
    if failed or bound == 0:
        raise AddressInUse(host=spec.host, port=wanted)
    return server


def _handlers(provider: Provider, spec: AppSpec, admission: Admission, calls: Calls, threads: Executor) -> Any:
    async def predict(call: Call, data: bytes) -> bytes:
        found = ready(provider)
        sent = parse(pb.PredictRequest, data)
        call.deployment = found.deployment(sent.deployment).record.name
        options, asked, paths = predict_request(sent, call.request_id, limits_of(call.principal, spec.limits))
        call.items = len(asked)
        check_evidence(call.principal, options.evidence)
        with fields_named(paths):
            told = await found.predict(
                call.deployment,
                asked,
                fingerprint=options.fingerprint,
                top=options.top,
                evidence=options.evidence,
                who=call.principal.who,
                request_id=call.request_id,
                until=call.until,
                timer=call.timer,
            )
        answer: bytes = predict_answer(told).SerializeToString()
        return answer

    async def log(call: Call, data: bytes) -> bytes:
        found = ready(provider)
        sent = parse(pb.LogRequest, data)
        rows, fingerprint = log_rows(sent, limits_of(call.principal, spec.limits))
        call.items = len(rows)
        write = partial(
            found.collections.log,
            sent.collection,
            rows,
            fingerprint=fingerprint,
            request_id=call.request_id,
            timer=call.timer,
        )
        told = await run_within(threads, write, call.until)
        answer: bytes = log_answer(told).SerializeToString()
        return answer

    return grpc.method_handlers_generic_handler(
        SERVICE,
        {
            "Predict": calls.unary(f"/{SERVICE}/Predict", PREDICT, predict),
            "PredictStream": calls.stream(f"/{SERVICE}/PredictStream", STREAM, Streams(provider, spec.limits, admission)),
            "Log": calls.unary(f"/{SERVICE}/Log", LOG, log),
        },
    )


def _credentials(tls: Tls) -> Any:
    """Of the files as they are whenever a connection is made."""
    pair = Pair(tls.certificate, tls.key)
    used = pair.read()

    def renewed() -> Any:
        nonlocal used
        found = pair.newest()
        if found is None or found == used:
            return None
        used = found
        return _configuration(found)

    return grpc.dynamic_ssl_server_credentials(_configuration(used), renewed)


def _configuration(pair: tuple[bytes, ...]) -> Any:
    certificate, key = pair
    return grpc.ssl_server_certificate_configuration([(key, certificate)])
