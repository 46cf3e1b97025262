"""What changed from one snapshot to another: rows in, out, relabelled, moved between sides, reweighted, and with other
features; by class.

One outer join of the two on the id, in DuckDB over Arrow. Knows nothing of vectors and of the collection's rows.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from raystore.data.snapshots.plan import COLUMNS
from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.data.snapshots.work import quoted
from raystore.data.tabular import html_table, text_table
from raystore.errors import InvalidArguments

KINDS = ("in", "out", "relabelled", "moved", "reweighted", "features")
_SHOWN_CLASSES = 30

# A row of `changes` is an id whose row differs; `a` and `b` say in which of the two it stands. Weights and numbers are
# compared as DuckDB compares them, where NaN equals itself; the labels of a multi-label row have no order.
_CHANGES = """
CREATE TEMP TABLE changes AS
SELECT coalesce(x.id, y.id) AS id, x.id IS NOT NULL AS a, y.id IS NOT NULL AS b,
       x.label AS label_a, y.label AS label_b, x.split AS split_a, y.split AS split_b,
       x.id IS NULL AS is_in, y.id IS NULL AS is_out,
       a AND b AND {label_a} IS DISTINCT FROM {label_b} AS is_relabelled,
       a AND b AND x.split <> y.split AS is_moved,
       a AND b AND x.weight IS DISTINCT FROM y.weight AS is_reweighted,
       a AND b AND ({features}) AS is_features{each_feature}
FROM x FULL JOIN y ON x.id = y.id
WHERE is_in OR is_out OR is_relabelled OR is_moved OR is_reweighted OR is_features
"""


@dataclass(frozen=True)
class SnapshotDiff:
    """What makes snapshot `b` of snapshot `a`.

    Attributes:
        a, b: the snapshots, as "name@number"; `rows` how many each has; `same_hash` whether their content is one.
        counts: by kind (in, out, relabelled, moved, reweighted, features) how many ids; an id may be relabelled and moved at once.
        ids: by kind the first ids in byte order, at most `limit` of them.
        by_class: by label {"before", "after", "in", "out", "gained", "lost", "moved", "reweighted"}; gained and lost are rows
            relabelled to and from it. Empty where labels are numbers.
        relabelled: (label before, label after, rows), most rows first; empty where labels are not classes.
        moved: (side before, side after, rows), most rows first.
        features: by feature of either of them how many ids have another value; one that a snapshot has not is null there.
    """

    a: str
    b: str
    rows: tuple[int, int]
    same_hash: bool
    limit: int
    counts: dict[str, int]
    ids: dict[str, list[str]]
    by_class: dict[str, dict[str, int]]
    relabelled: list[tuple[str, str, int]]
    moved: list[tuple[str, str, int]]
    features: dict[str, int]

    def __bool__(self) -> bool:
        """Whether any row changed."""
        return any(self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {
            "a": self.a,
            "b": self.b,
            "rows": list(self.rows),
            "same_hash": self.same_hash,
            "counts": dict(self.counts),
            "ids": {kind: list(ids) for kind, ids in self.ids.items()},
            "by_class": {label: dict(row) for label, row in self.by_class.items()},
            "relabelled": [list(row) for row in self.relabelled],
            "moved": [list(row) for row in self.moved],
            "features": dict(self.features),
        }

    def __str__(self) -> str:
        parts = [self._title(), text_table(*self._counts_table())]
        parts += [text_table(*table) for _, table in self._tables()]
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        tables = [html_table(*table, caption=caption) for caption, table in self._tables()]
        return f"<p>{html.escape(self._title())}</p>{html_table(*self._counts_table())}{''.join(tables)}"

    def _title(self) -> str:
        same = (
            "the same content"
            if self.same_hash
            else "no change of rows"
            if not self
            else f"{sum(self.counts.values()):,} changes"
        )
        return f"{self.a} ({self.rows[0]:,} rows) -> {self.b} ({self.rows[1]:,} rows): {same}"

    def _counts_table(self) -> tuple[list[str], list[list[Any]]]:
        rows = [[kind, self.counts[kind], ", ".join(self.ids[kind][:3])] for kind in KINDS]
        return ["change", "rows", "first ids"], rows

    def _tables(self) -> list[tuple[str, tuple[list[str], list[list[Any]]]]]:
        """The parts that say something, with their captions."""
        columns = ["before", "after", "in", "out", "gained", "lost", "moved", "reweighted"]
        touched = {label: row for label, row in self.by_class.items() if any(row[c] for c in columns[2:])}
        largest = sorted(touched, key=lambda label: (-sum(touched[label][c] for c in columns[2:]), label))[:_SHOWN_CLASSES]
        found = [
            ("by class", (["class", *columns], [[label, *(touched[label][c] for c in columns)] for label in largest])),
            ("relabelled", (["from", "to", "rows"], [list(row) for row in self.relabelled[:_SHOWN_CLASSES]])),
            ("moved between sides", (["from side", "to side", "rows"], [list(row) for row in self.moved])),
            ("features", (["feature", "rows"], [[name, n] for name, n in self.features.items() if n])),
        ]
        return [(caption, table) for caption, table in found if table[1]]


def diff(a: SnapshotRecord, b: SnapshotRecord, *, limit: int = 100) -> SnapshotDiff:
    """What makes `b` of `a`, two snapshots of one collection and one task.

    Args:
        limit: how many ids of each kind are listed; all are counted.

    Raises:
        InvalidArguments: they are of different collections or tasks, or `limit` is below 0.

    Cost: both snapshots' rows in memory, and one join: some 2 s at 1,000,000 rows on 2 cores.
    """
    _check(a, b, limit)
    before, after = a.rows().drop_columns("entity"), b.rows().drop_columns("entity")
    differing = _features(before.schema, after.schema)
    with duckdb.connect() as connection:
        connection.register("x", before)
        connection.register("y", after)
        label = "list_sort({}.label)" if a.task == "labels" else "{}.label"
        made = _CHANGES.format(
            label_a=label.format("x"),
            label_b=label.format("y"),
            features=" OR ".join(differing.values()) or "false",
            each_feature="".join(f", a AND b AND {sql} AS f{i}" for i, sql in enumerate(differing.values())),
        )
        connection.execute(made)
        return SnapshotDiff(
            a=a.label,
            b=b.label,
            rows=(len(before), len(after)),
            same_hash=a.hash == b.hash,
            limit=limit,
            counts={kind: _one(connection, f"SELECT count(*) FROM changes WHERE is_{kind}") for kind in KINDS},  # noqa: S608
            ids={kind: _ids(connection, kind, limit) for kind in KINDS},
            by_class=_by_class(connection, a.task),
            relabelled=_pairs(connection, "label") if a.task == "classes" else [],
            moved=_pairs(connection, "split"),
            features={
                name: _one(connection, f"SELECT count(*) FROM changes WHERE f{i}")  # noqa: S608  a number
                for i, name in enumerate(differing)
            },
        )


def _check(a: SnapshotRecord, b: SnapshotRecord, limit: int) -> None:
    problems = []
    if a.collection != b.collection:
        problems.append(f"{a.label} is of collection '{a.collection}' and {b.label} of '{b.collection}'")
    if a.task != b.task:
        problems.append(f"the labels of {a.label} are {a.task} and those of {b.label} {b.task}")
    if limit < 0:
        problems.append(f"limit is {limit}, expected 0 or more")
    if problems:
        raise InvalidArguments(call=f"diff of {a.label} and {b.label}", problems=problems)


def _features(a: pa.Schema, b: pa.Schema) -> dict[str, str]:
    """By feature of either, in the order they stand, the SQL for whether x and y differ in it."""
    found = {}
    for name in dict.fromkeys(n for n in [*a.names, *b.names] if n not in COLUMNS):
        x, y = (f"{side}.{quoted(name)}" if name in schema.names else "NULL" for side, schema in (("x", a), ("y", b)))
        if "NULL" not in (x, y) and a.field(name).type != b.field(name).type:
            x, y = f"CAST({x} AS VARCHAR)", f"CAST({y} AS VARCHAR)"
        found[name] = f"({x} IS DISTINCT FROM {y})"
    return found


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    return int(row[0]) if row else 0


def _ids(connection: duckdb.DuckDBPyConnection, kind: str, limit: int) -> list[str]:
    sql = f"SELECT id FROM changes WHERE is_{kind} ORDER BY id LIMIT {limit}"  # noqa: S608  a name of KINDS, an integer
    return [str(id_) for (id_,) in connection.execute(sql).fetchall()]


def _pairs(connection: duckdb.DuckDBPyConnection, column: str) -> list[tuple[str, str, int]]:
    changed = "is_relabelled" if column == "label" else "is_moved"
    sql = f"""SELECT {column}_a, {column}_b, count(*) AS n FROM changes WHERE {changed}
              GROUP BY ALL ORDER BY n DESC, 1, 2"""  # noqa: S608  one of two names
    return [(str(one), str(other), int(n)) for one, other, n in connection.execute(sql).fetchall()]


def _by_class(connection: duckdb.DuckDBPyConnection, task: str) -> dict[str, dict[str, int]]:
    """By label what happened to its rows; a multi-label row counts for each of its labels."""
    if task == "number":
        return {}
    each = "unnest(list_distinct({}))" if task == "labels" else "{}"
    has = "list_contains({0}, label)" if task == "labels" else "{0} = label"
    old, new = has.format("label_a"), has.format("label_b")
    sql = f"""
        WITH before AS (SELECT {each.format("label")} AS label FROM x), after AS (SELECT {each.format("label")} AS label FROM y),
        sizes AS (
            SELECT label, sum(old)::BIGINT AS before, sum(new)::BIGINT AS after
            FROM (SELECT label, 1 AS old, 0 AS new FROM before UNION ALL SELECT label, 0, 1 FROM after) GROUP BY label),
        touched AS (
            SELECT DISTINCT ON (id, label) *
            FROM (SELECT *, {each.format("label_a")} AS label FROM changes WHERE a
                  UNION ALL SELECT *, {each.format("label_b")} AS label FROM changes WHERE b)),
        counted AS (
            SELECT label, count_if(is_in) AS "in", count_if(is_out) AS "out",
                   count_if(is_relabelled AND {new} AND NOT {old}) AS gained,
                   count_if(is_relabelled AND {old} AND NOT {new}) AS lost,
                   count_if(is_moved) AS moved, count_if(is_reweighted) AS reweighted
            FROM touched GROUP BY label)
        SELECT label, before, after, coalesce("in", 0), coalesce("out", 0), coalesce(gained, 0), coalesce(lost, 0),
               coalesce(moved, 0), coalesce(reweighted, 0)
        FROM sizes LEFT JOIN counted USING (label) ORDER BY label"""  # noqa: S608  the expressions above
    names = ("before", "after", "in", "out", "gained", "lost", "moved", "reweighted")
    return {
        str(label): dict(zip(names, map(int, counts), strict=True)) for label, *counts in connection.execute(sql).fetchall()
    }
