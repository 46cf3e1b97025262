"""The way of a request through the deployments of a file, drawn for a terminal. Reads nothing; knows what would be recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from raystore.serve.spec.app import AppSpec, EncoderSpec
from raystore.serve.spec.base import Placed
from raystore.serve.spec.records import DeploymentRecord


def drawn(spec: AppSpec, records: Mapping[str, DeploymentRecord]) -> Iterator[str]:
    """Its lines."""
    scheme = "https" if spec.tls else "http"
    yield f"{scheme}://{spec.host}:{spec.port} ─▶ orchestrator × {_times(spec.replicas.least, spec.replicas.most)}"
    if spec.grpc:
        yield f"grpc://{spec.host}:{spec.grpc.port} ─┘"
    for i, (name, record) in enumerate(records.items()):
        last = i == len(records) - 1
        yield f"{'└' if last else '├'}─ {name}"
        bar = "   " if last else "│  "
        lines = _lines(spec, record)
        for k, line in enumerate(lines):
            yield f"{bar}{'└' if k == len(lines) - 1 else '├'}─ {line}"


def _lines(spec: AppSpec, record: DeploymentRecord) -> list[str]:
    reads = record.through.encoder if record.through else record.encoder
    own = spec.encoders.get(reads.partition("@")[0]) or (EncoderSpec() if spec.colocate is False else None)
    place = _placed(own) if own else "in the orchestrator"
    if own is None and spec.colocate is None:
        place += "; on several nodes a deployment of its own"
    lines = [_counted("rules before", [r.name for r in record.rules.before])] if record.rules.before else []
    lines.append(f"encoder {reads} ({place})")
    if record.through:
        lines.append(f"bridge {record.through.encoder}")
    lines.append(f"head {record.head}" + (f" ({_placed(record.own)})" if record.own else ""))
    if record.canary:
        lines.append(f"canary {record.canary.head}: {record.canary.percent:g}% by {record.canary.by}")
    if record.rules.after:
        lines.append(_counted("rules after", [r.name for r in record.rules.after]))
    if record.log:
        when = "before the answer" if record.log.required else "behind the answer"
        part = f", {record.log.sample:.0%} of them" if record.log.sample < 1 else ""
        lines.append(f"log ─▶ collection {record.log.collection}, {when}{part}")
    for shadow in record.shadow:
        other = "" if shadow.fingerprint == record.fingerprint else f", encodes with {shadow.encoder}"
        if other and spec.colocate is False and shadow.encoder.partition("@")[0] not in spec.encoders:
            other += " (promoted only once encoders: names it)"
        lines.append(f"shadow {shadow.head}, {shadow.sample:.0%} of requests{other}")
    if record.review:
        lines.append(f"review ─▶ table {record.review.table}")
    return lines


def _placed(placed: Placed) -> str:
    gpu = f", {placed.gpu:g} GPU" if placed.gpu else ""
    return f"a deployment of its own × {_times(placed.replicas.least, placed.replicas.most)}, {placed.cpus:g} cores{gpu}"


def _times(least: int, most: int) -> str:
    return str(least) if least == most else f"{least} to {most}"


def _counted(what: str, names: Sequence[str]) -> str:
    return f"{what}: {', '.join(names)}"
