"""What a deployment file would run, and what in it does not fit: everything at once, before anything is started.

Reads the store's records and heads; loads no encoder, publishes nothing, starts nothing.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raystore.data.collection import CollectionTable, collection_names
from raystore.data.tables.table import open_table, table_names
from raystore.errors import InvalidArguments, RaystoreError
from raystore.serve.answer.loading import Rooms
from raystore.serve.kept.predictions import keep_problems, predictions_name
from raystore.serve.operate.drawing import drawn
from raystore.serve.operate.fitting import head_there, heads_there, labels_given, misfits
from raystore.serve.review.labels import no_review_table
from raystore.serve.rules.check import problems as rule_problems
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import DeploymentRecord, deployment_history, deployment_records
from raystore.serve.spec.rules import RulesSpec
from raystore.serve.watch.traces import span_exporter
from raystore.train.heads import HeadRecord

log = logging.getLogger("raystore.serve")


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
        return "\n".join(drawn(self.spec, self.records))


def refuse_misfits(spec: AppSpec, rooms: Rooms) -> None:
    """Return where everything fits; a table that is not there yet may be a mistake, and is logged.

    Raises:
        HeadNotFound, CollectionNotFound, EncoderNotFound, PassportMismatch: the first thing that is not there or does not fit.
        KeyRequired: other machines reach the address, and nobody could come in.
        InvalidArguments: all other problems at once.
    """
    rooms.door(spec)
    for name, wanted in spec.deployments.items():
        rooms.resolved(name, wanted)
    if not spec.deployments:
        return
    found = check(spec, rooms)
    if found.problems:
        raise InvalidArguments(call="deploy", problems=found.problems)
    for warning in _awaited(spec, found.records, rooms):  # not what this machine is too small for: a cluster may not be
        log.warning("%s", warning)


def refuse_unplaceable(spec: AppSpec, rooms: Rooms, nodes: Sequence[Node]) -> None:
    """Return where every replica finds a node that is large enough, were it free. InvalidArguments names those that do not."""
    problems = tuple(_unplaceable(spec, check(spec, rooms).records, nodes))
    if problems:
        raise InvalidArguments(call="deploy", problems=problems)


def check(spec: AppSpec, rooms: Rooms, nodes: Sequence[Node] | None = None) -> Check:
    """What would run, and every problem that can be told beforehand.

    Args:
        nodes: of the Ray that would run it. Without, what this machine's cores do not suffice for is a warning. So is a table that is
            not there yet.
    """
    problems: list[str] = []
    records: dict[str, DeploymentRecord] = {}
    if not spec.deployments:
        records = deployment_records(rooms.catalog)
        if not records:
            problems.append("the file names no deployments, and the store has none")
    known = {name: each.rules for name, each in spec.deployments.items()} or {n: r.rules for n, r in records.items()}
    for name, wanted in spec.deployments.items():
        wrong = misfits(name, wanted, rooms)
        if not wrong:
            records[name] = rooms.resolved(name, wanted)
        wrong += _own_problems(name, wanted, records.get(name), known, rooms)
        problems += [f"deployments.{name}.{each}" for each in wrong]
    problems += [*_twins(spec, records), *_app_problems(spec, rooms)]
    awaited = tuple(_awaited(spec, records, rooms))
    if nodes is not None:
        return Check(spec, records, (*problems, *_unplaceable(spec, records, nodes)), awaited)
    here = [Node(cpus=os.cpu_count() or 1, gpus=math.inf)]  # which GPUs Ray would find is Ray's to say
    placing = (
        f"{each}; a Ray that is started on this machine could not place it" for each in _unplaceable(spec, records, here)
    )
    return Check(spec, records, tuple(problems), (*awaited, *placing))


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


def brought_back(found: Check, rooms: Rooms) -> list[str]:
    """A sentence for each deployment whose file names a head that a promotion or a roll-back put another in place of."""

    def told(name: str, record: DeploymentRecord) -> Iterator[str]:
        *before, now = deployment_history(rooms.catalog, name) or [record]
        if now.why and now.head != record.head and record.head in {each.head for each in before}:
            yield f"deployments.{name}: {now.head} answers now ({now.why}); deploying this file brings {record.head} back"

    return [each for name in found.spec.deployments if name in found.records for each in told(name, found.records[name])]


def _unplaceable(spec: AppSpec, records: Mapping[str, DeploymentRecord], nodes: Sequence[Node]) -> Iterator[str]:
    """Replicas for which no node is large enough, even if nothing else ran there."""
    own = {f"encoders.{name}": placed for name, placed in spec.encoders.items()}
    recorded = {name: record.own for name, record in records.items() if record.own is not None}
    named = {name: wanted.head for name, wanted in spec.deployments.items() if wanted.head.own}  # though it may not fit yet
    heads = {f"deployments.{name}.head": placed for name, placed in (recorded | named).items()}
    for name, placed in (own | heads).items():
        if not any(placed.cpus <= node.cpus and placed.gpu <= node.gpus for node in nodes):
            largest = "; ".join(sorted({_counted_out(*node) for node in nodes}))
            yield f"{name}: a replica asks for {_counted_out(placed.cpus, placed.gpu)}, which no node has ({largest})"


def _counted_out(cpus: float, gpus: float) -> str:
    cores = f"{cpus:g} core{'' if cpus == 1 else 's'}"
    return f"{cores} and {gpus:g} GPU{'' if gpus == 1 else 's'}" if 0 < gpus < math.inf else cores


def _own_problems(
    name: str, wanted: DeploymentSpec, record: DeploymentRecord | None, rules: Mapping[str, RulesSpec], rooms: Rooms
) -> Iterator[str]:
    """What is wrong with a deployment besides what its parts name.

    Args:
        record: what would be recorded; None where a part does not fit.
        rules: those of all deployments, for routes.
    """
    live, labels = head_there(wanted.head.name, rooms), labels_given(name, wanted, rooms)
    found = rule_problems(wanted.rules, rules, name, task=None if live is None else live.task, labels=labels)
    yield from (f"rules: {problem}" for problem in found)
    yield from (f"keep: {problem}" for problem in keep_problems(wanted.keep))
    if _keeps(wanted, record):
        try:
            predictions_name(name)
        except RaystoreError as error:
            yield f"keep: {error}"
    tasks = {head.task for head in heads_there(wanted, rooms)}
    if len(tasks) > 1:
        yield f"shadow: heads that predict different things ({', '.join(sorted(tasks))}) cannot be compared"
    if wanted.review is None and any(rule.review for rule in wanted.rules.after):
        yield "rules: a rule sends to review, and there is no review queue: name its table in review:"
    if wanted.review is not None and (problem := _review_problem(wanted.review.table, live, rooms)) is not None:
        yield f"review: {problem}"


def _review_problem(table: str, live: HeadRecord | None, rooms: Rooms) -> str | None:
    """Why the labels of a review cannot land there."""
    if table in collection_names(rooms.layout):
        return f"'{table}' is a collection: name a table of its own"
    if live is None or table not in table_names(rooms.catalog):
        return None
    return no_review_table(open_table(rooms.catalog, table), live.task)


def _keeps(wanted: DeploymentSpec | None, record: DeploymentRecord | None) -> bool:
    """Whether its predictions are kept; of one that does not fit yet, by what its file says."""
    if record is not None or wanted is None:
        return record is not None and record.keeps_predictions
    return bool(wanted.shadow or wanted.canary or wanted.review or wanted.keep or wanted.rules.shadow)


def _twins(spec: AppSpec, records: Mapping[str, DeploymentRecord]) -> Iterator[str]:
    """Deployments whose predictions would land in one collection."""
    names = spec.deployments or records
    keeping = [name for name in names if _keeps(spec.deployments.get(name), records.get(name))]
    for name in keeping:
        twin = name.replace("-", "_")
        if twin != name and twin in keeping:
            yield f"deployments.{name}: its predictions and those of '{twin}' would be one collection: rename one of them"


def _awaited(spec: AppSpec, records: Mapping[str, DeploymentRecord], rooms: Rooms) -> Iterator[str]:
    """Tables that are not there: outcomes may come later, and are served then."""
    # Made with the first label; of a deployment that does not fit yet the file names it all the same.
    reviewed = {each.review.table for each in records.values() if each.review}
    reviewed |= {each.review.table for each in spec.deployments.values() if each.review}
    for name in spec.tables if spec.tables != "all" else ():
        if name not in reviewed.union(table_names(rooms.catalog)):
            yield f"tables: there is no table '{name}' yet"


def _app_problems(spec: AppSpec, rooms: Rooms) -> Iterator[str]:
    for name in spec.encoders:
        try:
            rooms.encoders.get(name)
        except RaystoreError as error:
            yield f"encoders.{name}: {error}"
    for name in spec.collections if spec.collections != "all" else ():
        if name not in collection_names(rooms.layout):
            yield f"collections: there is no collection '{name}'"
    for name in spec.models if spec.models != "all" else ():
        try:
            rooms.encoders.resolve(name)
        except RaystoreError as error:
            yield f"models: {error}"
    for file in (spec.tls.certificate, spec.tls.key) if spec.tls else ():
        if not file.is_file():
            yield f"tls: there is no file '{file}'"
    if spec.grpc is not None and spec.grpc.port == spec.port:
        yield f"grpc.port is {spec.grpc.port}, which HTTP listens on"
    if spec.watch.traces is not None:
        try:
            span_exporter()
        except RaystoreError as error:
            yield f"watch.traces: {error}"
    try:
        rooms.door(spec)
    except RaystoreError as error:
        yield f"host: {error}"
