"""What is kept of predictions: one row for each item and each head that saw it, live, canary and shadow alike.

They are a collection without encoders, `predictions_<deployment>`: SQL reads them, a snapshot joins them, an erase by subject
reaches them, and a row is written once, by the id `<item>:<head>`. A row holds what a head said and the columns that the
deployment keeps, never content.

Cost: an append is one commit, and a look-up of its ids: beside 100,000 rows 50 take some 30 ms and 2,000 some 75, beside 1,000,000
some 55 and 190 (medians, on 2 cores that had other work). Knows no head, no report and no HTTP.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.columns import TYPES, column_problem
from raystore.data.keyed import PAYLOAD
from raystore.data.rows import kept_value
from raystore.errors import AlreadyExists, InvalidArguments
from raystore.layout import check_name
from raystore.serve.spec.records import DeploymentRecord

log = logging.getLogger("raystore")

Role = Literal["live", "canary", "shadow"]

# In the order in which SQL shows them, behind id, subject, tenant and time.
COLUMNS = {
    "request": "string",
    "request_id": "string",
    "number": "int64",
    "role": "string",
    "head": "string",
    "label": "string",
    "labels": "string",
    "value": "float64",
    "confidence": "float64",
    "margin": "float64",
    "second": "string",
    "abstained": "bool",
    "answered": "string",
    "rules": "string",
    "review": "bool",
    "latency_ms": "float64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionRow:
    """What one head said of one item.

    Args:
        request: the item's id, which the row of the deployment's log has too.
        request_id: of the request that brought the item, alone or with others.
        time: when it was predicted; not the item's own time, of which a report of the last hour would know nothing.
        number: of the deployment.
        head: 'refunds@3'.
        label, labels, value: what it said, by its task: one class, a set of labels, or a number. The head's own words, before
            any rule, so that heads are compared with heads.
        margin: how much likelier the label is than `second`.
        abstained: whether the head itself held the label for a guess.
        answered: the label that was answered in its place, where a rule put one there.
        rules: the names of those that fired, in order.
        review: whether people are to look at it.
        latency_ms: of the head alone; of items that were answered together, of all of them. None of a shadow on most requests.
        kept: columns of the request; only those that the deployment keeps are written.
    """

    request: str
    request_id: str
    time: datetime
    number: int
    role: Role
    head: str
    label: str | None = None
    labels: Sequence[str] | None = None
    value: float | None = None
    confidence: float | None = None
    margin: float | None = None
    second: str | None = None
    abstained: bool = False
    answered: str | None = None
    rules: Sequence[str] = ()
    review: bool = False
    latency_ms: float | None = None
    subject: str | None = None
    tenant: str | None = None
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.request}:{self.head}"


def predictions_name(deployment: str) -> str:
    """The collection of a deployment's predictions. InvalidName where the deployment's name is too long for one."""
    return check_name("a collection", f"predictions_{deployment.replace('-', '_')}")


def keep_problems(keep: Iterable[str]) -> list[str]:
    """Why columns cannot be kept beside predictions, a sentence each."""
    names, problems = list(keep), []
    for name in names:
        twin = next((c for c in COLUMNS if c == name.lower()), None)
        reason = f"is a column that predictions have ({twin})" if twin else column_problem(name, names)
        if reason:
            problems.append(f"'{str(name)[:80]}' {reason}")
    return problems


def write_labels(labels: Iterable[str]) -> str:
    """A set of labels as text: a JSON list in the order of the alphabet, so that equal sets are equal texts.

    In SQL: `list_contains(from_json(labels, '["VARCHAR"]'), 'fraud')`.
    """
    return json.dumps(sorted(set(labels)), ensure_ascii=False, separators=(",", ":"))


def read_labels(text: str) -> tuple[str, ...]:
    return tuple(json.loads(text))


class Predictions:
    """The kept predictions of one deployment. Safe in many threads and processes."""

    def __init__(self, table: CollectionTable, keep: Sequence[str], types: Mapping[str, str] | None = None) -> None:
        self.table = table
        self.keep = tuple(dict.fromkeys(keep))
        self._types = types or {}
        self._misfits: set[str] = set()  # columns of which it was said once that a value does not fit

    @classmethod
    def of(cls, catalog: Catalog, record: DeploymentRecord) -> Predictions:
        """Those of a deployment as its record says; a kept column has the type that the log's collection gives it."""
        types = CollectionTable.open(catalog.layout, record.log.collection).columns if record.log is not None else {}
        return cls.open_or_create(catalog, record.name, record.keep, types)

    @classmethod
    def open_or_create(
        cls, catalog: Catalog, deployment: str, keep: Sequence[str] = (), types: Mapping[str, str] | None = None
    ) -> Predictions:
        """
        Args:
            keep: columns of a request that are kept.
            types: of those whose type is known, as of a column of the log's collection. Another is added with its first value:
                text, truth values, or numbers, which are float64 as in JSON.

        Raises:
            InvalidName: the deployment's name is too long.
            InvalidArguments: columns that cannot be kept; all are named.
            AlreadyExists: the name is taken by what is no record of predictions.
        """
        name = predictions_name(deployment)
        if problems := keep_problems(keep):
            raise InvalidArguments(call=f"keep of deployment '{deployment}'", problems=problems)
        if not catalog.layout.rows(name).exists():
            known = {column: kind for column, kind in (types or {}).items() if column in keep}
            try:
                CollectionTable.create(catalog.layout, name, {}, {**COLUMNS, **known})
            except AlreadyExists as error:  # by another process just now; or a source table has the name
                if error.noun != "collection":
                    raise
        return cls._checked(CollectionTable.open(catalog.layout, name), deployment, keep, types)

    @classmethod
    def open(cls, catalog: Catalog, deployment: str) -> Predictions:
        """Those that are there, with every column that was kept. CollectionNotFound where none are."""
        table = CollectionTable.open(catalog.layout, predictions_name(deployment))
        return cls._checked(table, deployment, [column for column in table.columns if column not in COLUMNS])

    @classmethod
    def _checked(
        cls, table: CollectionTable, deployment: str, keep: Sequence[str], types: Mapping[str, str] | None = None
    ) -> Predictions:
        if any(table.columns.get(column) != kind for column, kind in COLUMNS.items()):
            advice = f"Deployment '{deployment}' keeps its predictions under this name: rename the deployment."
            raise AlreadyExists(noun="collection", name=table.name, advice=advice)
        return cls(table, keep, types)

    def __len__(self) -> int:
        return self.table.count()

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def version(self) -> int:
        return self.table.version

    def append(self, rows: Sequence[PredictionRow]) -> int:
        """How many rows were added, durably; a row whose item and head are known already changes nothing.

        A kept value that is not of its column's type is kept as null: the prediction counts.

        Raises:
            DiskFull, WriterBlocked: nothing was written; repeat the call.
        """
        first: dict[str, PredictionRow] = {}
        for row in rows:
            first.setdefault(row.id, row)
        if not first:
            return 0
        fresh = list(first.values())
        kept = self._kept(fresh)
        columns = {
            "id": pa.array(first, pa.string()),
            "subject": pa.array([row.subject for row in fresh], pa.string()),
            "tenant": pa.array([row.tenant for row in fresh], pa.string()),
            "time": pa.array([row.time for row in fresh], TYPES["timestamp"]),
            PAYLOAD: pa.nulls(len(fresh), pa.binary(32)),  # nothing is embedded, so nothing is to be compared
            **{name: pa.array([_said(row, name) for row in fresh], TYPES[kind]) for name, kind in COLUMNS.items()},
            **kept,
        }
        [outcome] = self.table.rows.commit([pa.table(columns)], refuse_differing=False)
        return outcome.added

    def read(
        self,
        since: datetime | None = None,
        until: datetime | None = None,
        heads: Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """The rows predicted from `since` until before `until`, of these heads or of all; in the order of their time.

        Times without a zone are UTC. Cost: one pass over the columns.
        """
        clauses = [pc.field("time") >= _utc(since)] if since is not None else []
        clauses += [pc.field("time") < _utc(until)] if until is not None else []
        clauses += [pc.field("head").isin(pa.array(list(heads), pa.string()))] if heads is not None else []
        condition = None
        for clause in clauses:
            condition = clause if condition is None else condition & clause
        wanted = list(columns) if columns is not None else self.table.visible
        found = self.table.rows.dataset().to_table(columns=[*dict.fromkeys([*wanted, "time", "id"])], filter=condition)
        rows: pa.Table = found.sort_by([("time", "ascending"), ("id", "ascending")]).select(wanted)
        return rows

    def _kept(self, rows: Sequence[PredictionRow]) -> dict[str, pa.Array]:
        values = {name: [row.kept.get(name) for row in rows] for name in self.keep}
        types = self.table.columns
        new = {
            name: kind
            for name, given in values.items()
            if name not in types and (kind := self._types.get(name) or _kind_of(given))
        }
        if new:
            self.table.rows.add_columns([pa.field(name, TYPES[kind]) for name, kind in new.items()])
            types = self.table.columns  # another process may have added one of them with another type
        return {
            name: pa.array([self._fitting(value, types[name], name) for value in given], TYPES[types[name]])
            for name, given in values.items()
            if name in types
        }

    def _fitting(self, value: Any, kind: str, name: str) -> Any:
        try:
            return kept_value(value, kind)
        except ValueError as error:
            if name not in self._misfits:
                self._misfits.add(name)
                log.warning("a value of the kept column '%s' of '%s' %s; of such ones null is kept", name, self.name, error)
            return None


def _said(row: PredictionRow, column: str) -> Any:
    if column == "labels":
        return None if row.labels is None else write_labels(row.labels)
    return ",".join(row.rules) if column == "rules" else getattr(row, column)


def _kind_of(values: Iterable[Any]) -> str | None:
    """The type of the first value that has one; None where all are null."""
    value = next((v for v in values if isinstance(v, (str, bool, int, float))), None)
    if value is None:
        return None
    return "string" if isinstance(value, str) else "bool" if isinstance(value, bool) else "float64"


def _utc(moment: datetime) -> pa.Scalar:
    zoned = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return pa.scalar(zoned, TYPES["timestamp"])
