"""Verbs on source tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raystore.cli.options import AsOf
from raystore.cli.state import STATE

if TYPE_CHECKING:
    from raystore.data.tables.table import SourceTable

TableName = Annotated[str, typer.Argument(metavar="TABLE", help="Its name.")]

table = typer.Typer(help="Source tables: labels and other events.", no_args_is_help=True, rich_markup_mode=None)


@table.command("register")
def table_register(
    name: Annotated[str, typer.Argument(help="Small letters, digits and '_'; what SQL calls it.")],
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...",
            help="Parquet, CSV, TSV or JSONL; patterns, folders and URLs. Or one DuckDB or SQLite file, with --query.",
        ),
    ],
    id: Annotated[str | None, typer.Option(help="Its key column that joins a collection's id.")] = None,
    subject: Annotated[str | None, typer.Option(help="Its column that joins a collection's subject.")] = None,
    time: Annotated[str | None, typer.Option(help="Its column that says when an event happened.")] = None,
    column: Annotated[
        list[str],
        typer.Option(help="Keep this column beside the keys; may be repeated. Without it, all: protected text too."),
    ] = [],  # noqa: B006
    query: Annotated[str | None, typer.Option(help="What to read of a database: a SELECT, or a table's name.")] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add the rows to those of the version before, instead of replacing them.")
    ] = False,
) -> None:
    """Register files as a source table; the same data again makes no new version."""
    store = STATE.open(create=True)
    before = store.table(name).version if name in store.tables else 0
    STATE.out.step(f"reading into {name}")
    found = store.register_table(
        name, paths[0] if len(paths) == 1 else paths, id=id, subject=subject, time=time, columns=column or None,
        query=query, mode="append" if append else "replace",
    )  # fmt: skip
    _emit_version(found, before)


@table.command("refresh")
def table_refresh(name: TableName) -> None:
    """Read a table again from where it was registered from; a new version only where the data changed."""
    store = STATE.open()
    before = store.table(name).version
    STATE.out.step(f"reading {name} again")
    _emit_version(store.refresh_table(name), before)


@table.command("list")
def table_list() -> None:
    """Source tables with version and rows."""
    store = STATE.open()
    rows = [
        {"table": t.name, "version": t.version, "rows": t.n_rows, "keys": _keys(t), "columns": ", ".join(t.columns)}
        for t in map(store.table, store.tables)
    ]
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["table", "version", "rows", "keys", "columns"]))


@table.command("show")
def table_show(
    name: TableName,
    version: Annotated[int | None, typer.Option(help="A numbered version; by default the newest.")] = None,
    as_of: AsOf = None,
) -> None:
    """A table's columns, their types, its keys, and where it was read from."""
    found = STATE.open().table(name, version, as_of=as_of)
    source = found.source or {}
    facts = {
        **_version_facts(found),
        "keys": {key: getattr(found, key) for key in ("id", "subject", "time")},
        "source": source,
    }

    def draw() -> None:
        STATE.out.say(f"{found.name} version {found.version}: {found.n_rows:,} rows, {found.published_at[:19]}Z")
        STATE.out.say(f"from {_source_words(source)}")
        STATE.out.say()
        keys = {column: key for key in ("id", "subject", "time") if (column := getattr(found, key))}
        STATE.out.table([{"column": c, "type": kind, "key": keys.get(c, "")} for c, kind in found.columns.items()])

    STATE.out.emit(facts, draw)


@table.command("versions")
def table_versions(name: TableName) -> None:
    """A table's versions, the newest first: SQL reads one with FROM name AT (VERSION => 3)."""
    versions = STATE.open().table(name).versions()[::-1]
    rows = [{**v, "published_at": f"{v['published_at'][:19]}Z", "columns": ", ".join(v["columns"])} for v in versions]
    STATE.out.emit(versions, lambda: STATE.out.table(rows))


def _emit_version(found: SourceTable, before: int) -> None:
    """A new version, or the one there was."""
    unchanged = "" if found.version != before else "; the data is what it was, so there is no new version"
    STATE.out.emit(
        {**_version_facts(found), "new": found.version != before}, lambda: STATE.out.say(f"{found!r}{unchanged}")
    )


def _version_facts(found: SourceTable) -> dict[str, Any]:
    return {
        "table": found.name,
        "version": found.version,
        "rows": found.n_rows,
        "columns": found.columns,
        "published_at": found.published_at,
    }


def _keys(found: SourceTable) -> str:
    return ", ".join(f"{key} {column}" for key in ("id", "subject", "time") if (column := getattr(found, key)))


def _source_words(source: dict[str, Any]) -> str:
    """Where it was read from, in a line."""
    kind = source.get("kind")
    if kind == "files":
        return ", ".join(source["paths"])
    if kind == "database":
        return f"{source['path']}, by {' '.join(source['query'].split())}"
    if kind == "connection":
        return f"a query over a connection ({source['driver']}): {' '.join(source['query'].split())}"
    return "memory"
