"""What a deployment file would run, and what in it does not fit: everything at once, before anything is started.

Reads the store's records and heads; loads no encoder, publishes nothing, starts nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raystore.data.collection import CollectionTable, collection_names
from raystore.data.tables.table import table_names
from raystore.errors import InvalidArguments, RaystoreError
from raystore.serve.answer.loading import Rooms
from raystore.serve.kept.predictions import keep_problems, predictions_name
from raystore.serve.rules.check import problems as rule_problems
from raystore.serve.spec.app import AppSpec, EncoderSpec
from raystore.serve.spec.base import Placed
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import DeploymentRecord, deployment_records


class Node(NamedTuple):
    """What a machine has to give to replicas."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Check:
    """`problems` and `warnings` are sentences; `records` what would be recorded of the deployments that fit."""

    spec: AppSpec
    records: dict[str, DeploymentRecord]
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        return not self.problems

    def graph(self) -> str:
        """The way of a request, drawn: for a terminal."""
        return "\n".join(_drawn(self.spec, self.records))


def refuse_misfits(spec: AppSpec, rooms: Rooms) -> None:
    """Return where everything fits.

    Raises:
        HeadNotFound, CollectionNotFound, EncoderNotFound, PassportMismatch: the first thing that is not there or does not fit.
        KeyRequired: other machines reach the address, and nobody could come in.
        InvalidArguments: all other problems at once.
    """
    rooms.door(spec)
    for name, wanted in spec.deployments.items():
        rooms.resolved(name, wanted)
    problems = check(spec, rooms).problems if spec.deployments else ()
    if problems:
        raise InvalidArguments(call="deploy", problems=problems)


def refuse_unplaceable(spec: AppSpec, rooms: Rooms, nodes: Sequence[Node]) -> None:
    """Return where every replica finds a node that is large enough, were it free. InvalidArguments names those that do not."""
    problems = tuple(_unplaceable(spec, check(spec, rooms).records, nodes))
    if problems:
        raise InvalidArguments(call="deploy", problems=problems)


def check(spec: AppSpec, rooms: Rooms, nodes: Sequence[Node] | None = None) -> Check:
    """What would run, and every problem that can be told beforehand.

    Args:
        nodes: of the Ray that would run it. Without, what this machine's cores do not suffice for is a warning.
    """
    problems: list[str] = []
    records: dict[str, DeploymentRecord] = {}
    if not spec.deployments:
        records = deployment_records(rooms.catalog)
        if not records:
            problems.append("the file names no deployments, and the store has none")
    known = {name: each.rules for name, each in spec.deployments.items()} or {n: r.rules for n, r in records.items()}
    for name, wanted in spec.deployments.items():
        try:
            records[name] = rooms.resolved(name, wanted)
        except RaystoreError as error:
            problems.append(f"deployments.{name}: {error}")
            continue
        task = rooms.heads.get(wanted.head.name).task
        problems += [f"deployments.{name}.rules: {each}" for each in rule_problems(wanted.rules, known, name, task=task)]
        problems += [f"deployments.{name}.{each}" for each in _own_problems(name, wanted, records[name], rooms)]
    problems += [*_twins(records), *_app_problems(spec, records, rooms)]
    if nodes is not None:
        return Check(spec, records, (*problems, *_unplaceable(spec, records, nodes)))
    here = [Node(cpus=os.cpu_count() or 1, gpus=math.inf)]  # which GPUs Ray would find is Ray's to say
    warnings = (
        f"{each}; a Ray that is started on this machine could not place it" for each in _unplaceable(spec, records, here)
    )
    return Check(spec, records, tuple(problems), tuple(warnings))


def content_kept(found: Check, rooms: Rooms) -> list[str]:
    """A sentence for each deployment whose log keeps raw content, and for each served collection that does: its owner chose that
    (`keep_source`), and who sends requests may not know. Opens the store's collections; one that is damaged is left out."""

    def keeps(collection: str) -> bool:
        try:
            return CollectionTable.open(rooms.layout, collection).keeps_source
        except (RaystoreError, OSError, ValueError):  # as Lance says of files that are gone or damaged
            return False

    kept = {name for name in collection_names(rooms.layout) if keeps(name)}
    logs = {name: record.log.collection for name, record in found.records.items() if record.log is not None}
    choice = "keeps raw content (keep_source): the texts and images that are"
    predicted = [
        f"deployments.{name}.log: collection '{collection}' {choice} predicted are stored there, in plain"
        for name, collection in logs.items()
        if collection in kept
    ]
    served = [name for name in sorted(kept) if found.spec.serves(name)]
    return predicted + [f"collections: '{name}' {choice} logged to it are stored there, in plain" for name in served]


def _unplaceable(spec: AppSpec, records: Mapping[str, DeploymentRecord], nodes: Sequence[Node]) -> Iterator[str]:
    """Replicas for which no node is large enough, even if nothing else ran there."""
    own = {f"encoders.{name}": placed for name, placed in spec.encoders.items()}
    heads = {f"deployments.{name}.head": record.own for name, record in records.items() if record.own is not None}
    for name, placed in (own | heads).items():
        if not any(placed.cpus <= node.cpus and placed.gpu <= node.gpus for node in nodes):
            largest = "; ".join(sorted({_counted_out(*node) for node in nodes}))
            yield f"{name}: a replica asks for {_counted_out(placed.cpus, placed.gpu)}, which no node has ({largest})"


def _counted_out(cpus: float, gpus: float) -> str:
    cores = f"{cpus:g} core{'' if cpus == 1 else 's'}"
    return f"{cores} and {gpus:g} GPU{'' if gpus == 1 else 's'}" if 0 < gpus < math.inf else cores


def _own_problems(name: str, wanted: DeploymentSpec, record: DeploymentRecord, rooms: Rooms) -> Iterator[str]:
    yield from (f"keep: {problem}" for problem in keep_problems(wanted.keep))
    if record.keeps_predictions:
        try:
            predictions_name(name)
        except RaystoreError as error:
            yield f"keep: {error}"
    tasks = {rooms.heads.get(each.head).task for each in record.heads}
    if len(tasks) > 1:
        yield f"shadow: heads that predict different things ({', '.join(sorted(tasks))}) cannot be compared"
    if wanted.review is None and any(rule.review for rule in wanted.rules.after):
        yield "rules: a rule sends to review, and there is no review queue: name its table in review:"
    if wanted.review is not None and wanted.review.table in collection_names(rooms.layout):
        yield f"review: '{wanted.review.table}' is a collection: name a table of its own"


def _twins(records: dict[str, DeploymentRecord]) -> Iterator[str]:
    """Deployments whose predictions would land in one collection."""
    keeping = [name for name, record in records.items() if record.keeps_predictions]
    for name in keeping:
        twin = name.replace("-", "_")
        if twin != name and twin in keeping:
            yield f"deployments.{name}: its predictions and those of '{twin}' would be one collection: rename one of them"


def _app_problems(spec: AppSpec, records: Mapping[str, DeploymentRecord], rooms: Rooms) -> Iterator[str]:
    for name in spec.encoders:
        try:
            rooms.encoders.get(name)
        except RaystoreError as error:
            yield f"encoders.{name}: {error}"
    for name in spec.collections if spec.collections != "all" else ():
        if name not in collection_names(rooms.layout):
            yield f"collections: there is no collection '{name}'"
    reviewed = {record.review.table for record in records.values() if record.review}  # made with the first label
    for name in spec.tables if spec.tables != "all" else ():
        if name not in reviewed.union(table_names(rooms.catalog)):
            yield f"tables: there is no table '{name}'"
    for file in (spec.tls.certificate, spec.tls.key) if spec.tls else ():
        if not file.is_file():
            yield f"tls: there is no file '{file}'"
    if spec.grpc is not None and spec.grpc.port == spec.port:
        yield f"grpc.port is {spec.grpc.port}, which HTTP listens on"
    try:
        rooms.door(spec)
    except RaystoreError as error:
        yield f"host: {error}"


def _drawn(spec: AppSpec, records: dict[str, DeploymentRecord]) -> Iterator[str]:
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
