"""Source tables: labels and other events registered beside collections, in numbered versions.

A version holds the rows that were added since some version: since itself where it replaced the data, since an earlier one
where it was appended. So every version, at any time, is a filter on one Lance table whose rows never change. A version is
announced by its record in the catalog, written last. Knows no collection and no encoder.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import lance
import pyarrow as pa

from raystore.catalog import Catalog, Record
from raystore.data.fence import Fence
from raystore.data.tables.columns import Keys, kept_rows
from raystore.data.tables.reading import open_rows
from raystore.data.tables.record import is_same, next_record, same_keys
from raystore.data.tables.writing import ADDED, Stored, commit_rows, drop_rows, known_types, merge_fragments, write_rows
from raystore.errors import AlreadyExists, InvalidArguments, TableNotFound
from raystore.layout import check_name, disk_full_is_said

KIND = "table"
# Where a version's data was registered from since, and when it was last found the same, which makes no new version.
SOURCE = "table_source"

Mode = Literal["replace", "append"]


@dataclass(frozen=True)
class SourceTable:
    """One version of a source table, by name and number.

    `time` is its event-time column, or None; `source` where it can be read again from; `published_at` ISO 8601 in UTC. It holds
    the rows that versions `since` to `version` added. `known_until`, ISO 8601 in UTC, is when its data was last read: when it
    was published, or when a later call found the same.
    """

    catalog: Catalog
    name: str
    version: int
    n_rows: int
    columns: dict[str, str]
    id: str | None
    subject: str | None
    time: str | None
    source: dict[str, Any] | None
    published_at: str
    since: int
    known_until: str

    def dataset(self) -> lance.LanceDataset:
        return lance.dataset(str(self.catalog.layout.table(self.name)))

    def filter(self) -> str:
        """What selects this version's rows, in the SQL of Lance and of DuckDB alike."""
        return f"{ADDED} >= {self.since} AND {ADDED} <= {self.version}"

    def to_arrow(self) -> pa.Table:
        """The rows in the order they were registered."""
        table: pa.Table = self.dataset().to_table(columns=list(self.columns), filter=self.filter())
        return table

    def to_pandas(self) -> Any:
        return self.to_arrow().to_pandas()

    def versions(self) -> list[dict[str, Any]]:
        """All versions of this table, the first one first; see `table_versions`."""
        return table_versions(self.catalog, self.name)

    def __repr__(self) -> str:
        return f"<table {self.name} version {self.version}: {self.n_rows:,} rows, {', '.join(self.columns)}>"

    def _repr_html_(self) -> str:
        marks = {
            name: ", ".join(key for key in ("id", "subject", "time") if getattr(self, key) == name) for name in self.columns
        }
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{html.escape(kind)}</td><td>{marks[name]}</td></tr>"
            for name, kind in self.columns.items()
        )
        return (
            f"<p><b>{html.escape(self.name)}</b> version {self.version}: {self.n_rows:,} rows, "
            f"published {self.published_at[:19].replace('T', ' ')} UTC</p>"
            f"<table><thead><tr><th>column</th><th>type</th><th>key</th></tr></thead><tbody>{rows}</tbody></table>"
        )


def table_names(catalog: Catalog) -> list[str]:
    return catalog.alias_names(KIND)


def open_table(catalog: Catalog, name: str, version: int | None = None, as_of: datetime | None = None) -> SourceTable:
    """A table's newest version, the one asked for, or the newest that was published at or before `as_of`.

    Args:
        as_of: without a zone it is UTC.

    Raises:
        TableNotFound: names the tables or versions there are; for a time before the first version, when that was published.
        InvalidArguments: both a version and a time.
    """
    folder = catalog.layout.aliases(KIND, name)
    latest = catalog.latest(folder)
    where = f"store '{catalog.layout.root}'"
    if latest is None:
        raise TableNotFound(name=name, where=where, existing=table_names(catalog))
    if version is not None and as_of is not None:
        problem = f"table '{name}' is read at a version or as of a time, not both"
        raise InvalidArguments(call=f"table('{name}')", problems=[problem])
    if as_of is not None:
        return _as_of(catalog, name, latest[0], as_of)
    number = latest[0] if version is None else version
    record = catalog.record(folder, number)
    if record is None:
        existing = [f"{name} version {n}" for n in range(1, latest[0] + 1)]
        raise TableNotFound(name=f"{name} version {number}", where=where, existing=existing)
    return _opened(catalog, name, number, record)


def table_at(catalog: Catalog, name: str, moment: datetime) -> SourceTable:
    """The version that tells what was so at a moment: of a table of events the newest, whose rows later than the moment the
    reader leaves out, since what happened is often registered only afterwards; of another one the version published then.

    Raises as `open_table`.
    """
    newest = open_table(catalog, name)
    return newest if newest.time is not None else open_table(catalog, name, as_of=moment)


def table_versions(catalog: Catalog, name: str) -> list[dict[str, Any]]:
    """A table's versions, the first one first.

    Returns:
        One dict each: `version`, `mode` (replace or append), `rows` it holds, `added` by it, `published_at` (ISO 8601, UTC),
        `columns` (name -> type).

    Raises:
        TableNotFound: names the tables there are.

    Cost: a small file read for each version.
    """
    newest = open_table(catalog, name).version
    folder = catalog.layout.aliases(KIND, name)
    records = [(number, catalog.record(folder, number)) for number in range(1, newest + 1)]
    return [
        {
            "version": number,
            "mode": record["mode"],
            "rows": record["rows"],
            "added": record["added"],
            "published_at": record["published_at"],
            "columns": dict(record["columns"]),
        }
        for number, record in records
        if record is not None
    ]


def register_table(
    catalog: Catalog,
    name: str,
    data: Any,
    *,
    id: str | None = None,
    subject: str | None = None,
    time: str | None = None,
    columns: Sequence[str] | None = None,
    query: str | None = None,
    mode: Mode = "replace",
) -> SourceTable:
    """The table's new version; the same data again makes none. What `data` holds is streamed, in memory that does not follow
    its size (what is in memory already, a database driver that fetches all rows at once, and a row of many megabytes aside).

    Args:
        data: Parquet, CSV, TSV or JSONL path(s), patterns, folders or URLs; a DuckDB or SQLite file, or an ADBC, DBAPI or DuckDB
            connection, with `query`; an Arrow table, reader or dataset, a pandas or Polars frame (lazy ones too), a DuckDB
            relation, or a list of dicts.
        id, subject: the key columns; they are kept as strings, so that they join a collection's ids.
        time: the column that says when an event happened; it is kept as microseconds in UTC. Timestamps, dates (their first
            moment) and strings in ISO 8601 are times; what has no zone is UTC.
        columns: keep these beside the key columns; None keeps all. Name them where the data also holds protected text.
        query: a SELECT, or a table's name. The order of its rows counts for "the same data": say ORDER BY.
        mode: "replace": the version holds exactly `data`. "append": it holds the rows of the version before and these; the keys
            and chosen columns are those of the table, and the same rows as in the append just before make no version.

    Raises:
        InvalidArguments: unreadable data, missing key columns, times that are none, columns that changed their type or cannot be
            kept. Nothing was written.
        LeaseLost, WriterBlocked, DiskFull: no version was made; repeat the call.
    """
    call = f"register_table('{name}')"
    if mode not in ("replace", "append"):
        also = _problems(catalog, name, data, Keys(id, subject, time), columns, query, call)
        raise InvalidArguments(call=call, problems=["mode is 'replace' or 'append'", *also])
    return _register(catalog, name, data, Keys(id, subject, time), columns, query, mode, call)


def refresh_table(catalog: Catalog, name: str, *, connection: Any = None) -> SourceTable:
    """The table read again from where it was registered from, with the same keys and columns: its new version, or the newest one
    where the data is the same.

    Args:
        connection: where it was registered from a query over one, which no record can keep.

    Raises:
        InvalidArguments: it was registered from memory or appended to, a connection is missing or not needed; and as
            `register_table`.
    """
    call = f"refresh_table('{name}')"
    table = open_table(catalog, name)
    source = table.source or {"kind": "memory", "type": "memory"}
    kind = source["kind"]
    problems = []
    if table.since < table.version:
        problems.append(
            f"version {table.version} holds the rows of several calls, so there is no one place to read it again from: "
            "append what is new (mode='append'), or register all of it anew"
        )
    elif kind == "memory":
        problems.append(f"it was registered from memory ({source['type']}): hand the data to register_table")
    elif kind == "connection" and connection is None:
        problems.append(
            f"it was registered from a query over a connection ({source['driver']}), which no record keeps: hand one in as connection="
        )
    if kind != "connection" and connection is not None:
        problems.append(f"connection= is for a table that was registered from one; it was registered from {kind}")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    data = {"files": source.get("paths"), "database": source.get("path"), "connection": connection}[kind]
    record = catalog.alias(KIND, name) or {}
    keys = Keys(table.id, table.subject, table.time)
    return _register(catalog, name, data, keys, record["chosen"], source.get("query"), "replace", call)


def _problems(
    catalog: Catalog, name: str, data: Any, keys: Keys, columns: Sequence[str] | None, query: str | None, call: str
) -> Sequence[str]:
    """What else is wrong with a call that is refused anyway; no row is read."""
    check_name("a table", name)
    try:
        with open_rows(data, query, {}, catalog.layout.tmp, call) as rows:
            kept_rows(rows, keys, columns, {}, call)
    except InvalidArguments as error:
        return error.problems
    return []


def _register(
    catalog: Catalog,
    name: str,
    data: Any,
    keys: Keys,
    columns: Sequence[str] | None,
    query: str | None,
    mode: Mode,
    call: str,
) -> SourceTable:
    check_name("a table", name)
    begun = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    layout = catalog.layout
    if layout.rows(name).exists():
        raise AlreadyExists(noun="collection", name=name, advice="Collections and tables share one SQL namespace.")
    known = catalog.alias(KIND, name)
    if mode == "append" and known is not None:
        keys = same_keys(known, keys, call)
    types = known_types(layout.table(name), known["stored"] if known else ())
    texts = dict.fromkeys(keys.texts(), pa.string())
    with (
        disk_full_is_said(layout.tables, f"registering table '{name}'"),
        open_rows(data, query, types | texts, layout.tmp, call) as rows,
    ):
        chosen = columns
        if columns is None and mode == "append" and known is not None and known["chosen"] is not None:
            chosen = [c for c in known["chosen"] if c in rows.names]
        stream = kept_rows(rows, keys, chosen, types, call)
        with Fence(layout.table_fence(name)).hold() as lease:
            latest = catalog.latest(layout.aliases(KIND, name))
            number, before = latest if latest else (0, None)
            stored = Stored(number, before["commit"], before["stored"]) if before else Stored()
            written = write_rows(layout.table(name), layout.tmp, stream, stored, lease, call)
            record = next_record(before, number, keys, columns, mode, stream.schema, written.added, written.digest)
            if before is not None and is_same(before, number, record):
                drop_rows(layout.table(name), written)
                catalog.set_alias(SOURCE, name, {"version": number, "source": rows.source, "known_until": begun})
                return open_table(catalog, name)
            commit = commit_rows(layout.table(name), written, lease)
            with lease.committing(number + 1):  # whoever took over has cleared these rows: they must not be announced
                catalog.set_alias(KIND, name, {**record, "commit": commit, "source": rows.source})
            merge_fragments(layout.table(name), lease)
    return open_table(catalog, name)


def _opened(catalog: Catalog, name: str, number: int, record: Record) -> SourceTable:
    later = catalog.alias(SOURCE, name)
    again = later if later and later["version"] == number else None
    published = record["published_at"]
    return SourceTable(
        catalog,
        name,
        number,
        record["rows"],
        dict(record["columns"]),
        record["id"],
        record["subject"],
        record["time"],
        (again or record)["source"],
        published,
        record["since"],
        max(published, again["known_until"], key=datetime.fromisoformat) if again else published,
    )


def _as_of(catalog: Catalog, name: str, newest: int, as_of: datetime) -> SourceTable:
    moment = as_of.replace(tzinfo=UTC) if as_of.tzinfo is None else as_of.astimezone(UTC)
    folder = catalog.layout.aliases(KIND, name)
    first = ""
    for number in range(newest, 0, -1):
        record = catalog.record(folder, number)
        if record is None:
            continue
        if datetime.fromisoformat(record["published_at"]) <= moment:
            return _opened(catalog, name, number, record)
        first = f"{name} version {number}, published {record['published_at']}"
    where = f"store '{catalog.layout.root}'"
    raise TableNotFound(name=f"{name} as of {moment.isoformat()}", where=where, existing=[first])
