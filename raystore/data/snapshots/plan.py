"""What a snapshot is to be: the arguments of `freeze`, checked, resolved and pinned. What stands in its spec, and back.

Knows the catalog and the shape of the SQL, no row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlglot import exp

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.query.rewrite import parse_query, relations, unknown_names
from raystore.data.snapshots.label_rule import LabelRule, parse_rule, resolve_rule
from raystore.data.snapshots.repeatable import unrepeatable
from raystore.data.snapshots.split import SplitRule, iso, moment, parse_split
from raystore.data.tables.table import open_table, table_at, table_names
from raystore.errors import InvalidArguments, SnapshotRefused, TableNotFound, listed

TASKS = ("classes", "labels", "number")
COLUMNS = ("id", "entity", "label", "split", "weight")


@dataclass(frozen=True)
class Events:
    """An event table or collection as rules and features read it: its key joins the items' `joins` (subject or id)."""

    name: str
    key: str
    time: str
    joins: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Everything a snapshot's rows hang on, but for the rows of the store.

    `names` are the names the SQL knows the collection by. `as_of` is the moment; where it was not given it is that of the call,
    and the SQL sees all there was then, rows without a time too. `complete_to` is until when all events of the label rule are
    known.
    """

    name: str
    collection: str
    names: frozenset[str]
    sql: str
    params: Mapping[str, Any]
    versions: Mapping[str, int]
    as_of: datetime
    as_of_given: bool
    task: str
    label: LabelRule
    complete_to: datetime | None
    split: SplitRule
    features: Mapping[str, str]
    cap: int | None
    minimum: int | None
    weights: str | None

    @property
    def query_params(self) -> dict[str, Any]:
        """The parameters, with $as_of where the SQL asks for it and it was not given."""
        return {"as_of": self.as_of, **self.params} if _asks(self.sql, "as_of") else dict(self.params)

    def record(self) -> dict[str, Any]:
        label: dict[str, Any] = {"rule": self.label.text}
        if self.label.named:
            label["named"] = self.label.named
        if self.complete_to:
            label["complete_to"] = iso(self.complete_to)
        return {
            "collection": self.collection,
            "sql": self.sql,
            "params": dict(self.params),
            "versions": dict(self.versions),
            "as_of": iso(self.as_of),
            "as_of_given": self.as_of_given,
            "task": self.task,
            "label": label,
            "split": self.split.record(),
            "features": dict(self.features),
            "cap": self.cap,
            "minimum": self.minimum,
            "weights": self.weights,
        }

    @classmethod
    def of_spec(cls, name: str, spec: Mapping[str, Any]) -> Plan:
        """The plan that a snapshot was made by: nothing is looked up anew."""
        rule = LabelRule(None) if spec["label"]["rule"] is None else parse_rule(spec["label"]["rule"])[0]
        complete_to = spec["label"].get("complete_to")
        found = relations(parse_query(spec["sql"]), {spec["collection"]}.__contains__)
        return cls(
            name=name,
            collection=spec["collection"],
            names=frozenset(node.alias_or_name.lower() for nodes in found.values() for node in nodes),
            sql=spec["sql"],
            params=spec["params"],
            versions=spec["versions"],
            as_of=moment(spec["as_of"]),
            as_of_given=spec["as_of_given"],
            task=spec["task"],
            label=replace(rule, named=spec["label"].get("named")),
            complete_to=moment(complete_to) if complete_to else None,
            split=SplitRule.of_record(spec["split"]),
            features=spec["features"],
            cap=spec["cap"],
            minimum=spec["minimum"],
            weights=spec["weights"],
        )


def make_plan(
    catalog: Catalog,
    name: str,
    sql: str,
    *,
    params: Mapping[str, Any] | None,
    label: str | None,
    task: str,
    split: Mapping[str, Any] | str | None,
    features: Mapping[str, str] | None,
    cap: int | None,
    minimum: int | None,
    weights: str | None,
    as_of: str | datetime | None,
) -> Plan:
    """The plan; versions are pinned as of now or `as_of`.

    Raises:
        InvalidArguments: every argument that cannot be. SnapshotRefused: the SQL reads no collection, or more than one, or could
            not be run again. SqlRefused, TableNotFound.
    """
    now = datetime.now(UTC)
    at, problems = _moment(as_of, now)
    rule, found = resolve_rule(catalog, label)
    problems += found
    splitting, found = parse_split(split)
    problems += found + _param_problems(params or {}) + _task_problems(task, rule, cap, minimum, weights)
    problems += _feature_problems(features or {})
    if problems:
        raise InvalidArguments(call=f"snapshot('{name}')", problems=problems)
    collection, names, versions = _sampled(catalog, name, sql, task, None if as_of is None else at)
    for table in [*([rule.event.events] if rule.event else []), *(f.partition(".")[0] for f in (features or {}).values())]:
        if table not in versions:
            versions[table] = _version(catalog, name, table, None if as_of is None else at)
    complete_to = None
    if rule.event:
        complete_to = min(at, _known_until(catalog, name, rule.event.events, versions))
    return Plan(
        name=name,
        collection=collection,
        names=names,
        sql=sql,
        params=dict(params or {}),
        versions=versions,
        as_of=at,
        as_of_given=as_of is not None,
        task=task,
        label=rule,
        complete_to=complete_to,
        split=splitting,
        features=dict(features or {}),
        cap=cap,
        minimum=minimum,
        weights=weights,
    )


def open_events(catalog: Catalog, plan: Plan, name: str) -> Events:
    """Events as of the plan's version.

    Raises:
        SnapshotRefused: a source table without a time, or without a key.
    """
    if name in collection_names(catalog.layout):
        visible = CollectionTable.open(catalog.layout, name).visible
        return Events(name, "subject", "time", "subject", tuple(visible))
    table = open_table(catalog, name, plan.versions[name])
    key = table.subject or table.id
    problems = []
    if table.time is None:
        problems.append(f"table '{name}' has no time; register it with time=, the column that says when a row happened")
    if key is None:
        problems.append(f"table '{name}' has no key; register it with subject= or id=")
    if problems:
        raise SnapshotRefused(name=plan.name, problems=problems)
    return Events(name, str(key), str(table.time), "subject" if table.subject else "id", tuple(table.columns))


def _moment(as_of: object, now: datetime) -> tuple[datetime, list[str]]:
    if as_of is None:
        return now, []
    expected = "expected a moment like '2026-03-01' or '2026-03-01T12:00:00Z'"
    if not isinstance(as_of, (str, datetime)):
        return now, [f"as_of= is a {type(as_of).__name__}, {expected}"]
    try:
        at = moment(as_of)
    except ValueError:
        return now, [f"as_of='{str(as_of)[:40]}' is no moment, {expected}"]
    return at, [f"as_of={iso(at)} lies in the future, of which nothing is known"] if at > now else []


def _param_problems(params: Any) -> list[str]:
    """Parameters stand in spec.json, from which the SQL is run again."""
    if not isinstance(params, Mapping):
        return [f"params= is a {type(params).__name__}, expected a mapping: $name in the SQL, {{'name': value}} here"]
    problems = [
        f"parameter '{name}' is {type(value).__name__}, expected a string, a number or a boolean (CAST it in the SQL)"
        for name, value in params.items()
        if not (value is None or isinstance(value, (str, int, float, bool)))
    ]
    return problems + [
        f"parameter '{name}' is {value}, which the spec cannot keep"
        for name, value in params.items()
        if isinstance(value, float) and not math.isfinite(value)
    ]


def _task_problems(task: str, rule: LabelRule, cap: int | None, minimum: int | None, weights: str | None) -> list[str]:
    if task not in TASKS:
        return [f"task='{str(task)[:40]}' is none, expected {', '.join(TASKS)}"]
    problems = []
    if task != "classes":
        given = [n for n, v in (("cap", cap), ("minimum", minimum), ("weights", weights)) if v is not None]
        problems += [f"{name}= is about classes, task='{task}' has none of its own" for name in given]
        if rule.kind in ("majority", "any", "value", "event"):
            problems.append(f"label='{rule.text}' makes classes, expected first, last or 'sql: ...' with task='{task}'")
    for name, value in (("cap", cap), ("minimum", minimum)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            problems.append(f"{name}={value!r} is no number of rows from 1 on")
    if weights not in (None, "balanced"):
        problems.append(f"weights={weights!r}, expected 'balanced' or None (the SQL's column weight is used in any case)")
    return problems


def _feature_problems(features: Any) -> list[str]:
    problems = []
    if not isinstance(features, Mapping):
        return [f"features= is a {type(features).__name__}, expected a mapping like {{'plan': 'accounts.plan'}}"]
    seen: set[str] = set()
    for name, source in features.items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith(("_", "vec_")) or name in COLUMNS:
            problems.append(
                f"'{str(name)[:40]}' is no name for a feature: letters, digits and '_', and none of {', '.join(COLUMNS)}"
            )
        elif name.lower() in seen:
            problems.append(f"the feature '{name}' differs from another in case only, which SQL does not tell apart")
        seen.add(str(name).lower())
        table, _, column = source.partition(".") if isinstance(source, str) else ("", "", "")
        if not (table and column):
            problems.append(f"feature '{str(name)[:40]}' is of {str(source)[:40]!r}, expected 'table.column'")
    return problems


def _asks(sql: str, parameter: str) -> bool:
    return any(node.name == parameter for node in parse_query(sql).find_all(exp.Placeholder))


def _sampled(
    catalog: Catalog, name: str, sql: str, task: str, as_of: datetime | None
) -> tuple[str, frozenset[str], dict[str, int]]:
    """The collection the SQL samples, the names it gives it, and the version of everything it reads."""
    collections, tables = collection_names(catalog.layout), table_names(catalog)
    query, known = parse_query(sql), {*collections, *tables}
    if unknown := unknown_names(query, known.__contains__):
        raise TableNotFound(name=unknown[0], where=f"store '{catalog.layout.root}'", existing=sorted(known))
    places = relations(query, known.__contains__)
    found = {r.name for r in places}
    sampled = sorted(found & set(collections))
    if len(sampled) > 1:  # what holds no vector (the predictions a deployment keeps) stands beside it, as a table does
        sampled = [c for c in sampled if CollectionTable.open(catalog.layout, c).fingerprints] or sampled
    problems = [f"its SQL {problem}" for problem in unrepeatable(query, sets=task == "labels")]
    if len(sampled) != 1:
        problems.append(f"its SQL reads {len(sampled)} collections ({listed(sampled)}), expected exactly one")
    if problems:
        raise SnapshotRefused(name=name, problems=problems)
    names = frozenset(n.alias_or_name.lower() for r, nodes in places.items() if r.name == sampled[0] for n in nodes)
    versions = {}
    for table in [sampled[0], *sorted(found - {sampled[0]})]:
        said = {r for r in places if r.name == table}
        only = said.pop() if len(said) == 1 else None
        if only is not None and only.version is not None:
            versions[table] = only.version
        else:
            versions[table] = _version(catalog, name, table, as_of if only is None else only.time or as_of)
    return sampled[0], names, versions


def _version(catalog: Catalog, name: str, table: str, as_of: datetime | None) -> int:
    """The newest version, or the one that was the newest then.

    A collection has one stream of rows, each with its time; so has a table of events, which is read at its newest version.
    """
    if table in collection_names(catalog.layout):
        return CollectionTable.open(catalog.layout, table).version
    if as_of is None:
        return open_table(catalog, table).version
    try:
        return table_at(catalog, table, as_of).version
    except TableNotFound:
        open_table(catalog, table)  # raises where it is not there at all
        problem = (
            f"table '{table}' was not there on {iso(as_of)}, and its rows have no time; "
            "register it with time=, or take a later as_of"
        )
        raise SnapshotRefused(name=name, problems=[problem]) from None


def _known_until(catalog: Catalog, name: str, table: str, versions: Mapping[str, int]) -> datetime:
    """When the events of that version were last read: a source table registered or found the same, a collection written to."""
    if table not in collection_names(catalog.layout):
        return moment(open_table(catalog, table, versions[table]).known_until)
    commits = CollectionTable.open(catalog.layout, table).rows.dataset().versions()
    times: list[datetime] = [c["timestamp"] for c in commits if c["version"] == versions[table]]
    if not times:
        problem = f"when version {versions[table]} of collection '{table}' was written is no longer known"
        raise SnapshotRefused(name=name, problems=[problem])
    return times[0].astimezone(UTC)  # Lance gives the local time, without its zone
