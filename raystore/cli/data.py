"""Verbs on rows: collection, embed, log, table, sql, snapshot."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from raystore.cli.state import STATE
from raystore.errors import InvalidArguments

Workers = Annotated[
    int | None, typer.Option(help="0 works in this process, more on so many Ray workers; by default chosen by size.")
]

collection = typer.Typer(help="Collections: rows with vectors.", no_args_is_help=True, rich_markup_mode=None)
table = typer.Typer(help="Source tables: labels and other events.", no_args_is_help=True, rich_markup_mode=None)
snapshot = typer.Typer(help="Snapshots: frozen training sets.", no_args_is_help=True, rich_markup_mode=None)


def _pairs(options: list[str], call: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping; every bad one is named."""
    bad = [o for o in options if "=" not in o]
    if bad:
        raise InvalidArguments(call=call, problems=[f"'{o}' is not NAME=VALUE" for o in bad])
    return {name: value for name, _, value in (o.partition("=") for o in options)}


@collection.command("create")
def collection_create(
    name: Annotated[str, typer.Argument(help="Small letters, digits and '_'.")],
    encoder: Annotated[str, typer.Option(help="The encoder whose vectors it will hold.")],
    column: Annotated[list[str], typer.Option(help="A kept column, NAME=TYPE; may be repeated.")] = [],  # noqa: B006
) -> None:
    """Make an empty collection."""
    made = STATE.open(create=True).create_collection(name, encoder=encoder, columns=_pairs(column, "collection create"))
    STATE.out.emit(
        {"collection": made.name, "columns": made.columns, "encoders": [e.label for e in made.encoders]},
        lambda: STATE.out.say(repr(made)),
    )


@collection.command("list")
def collection_list() -> None:
    """Collections with rows, version and encoder."""
    store = STATE.open()
    rows = [
        {
            "collection": c.name,
            "rows": len(c),
            "version": c.version,
            "encoders": ", ".join(e.label for e in c.encoders),
            "columns": ", ".join(c.columns),
        }
        for c in map(store.collection, store.collections)
    ]
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["collection", "rows", "version", "encoders", "columns"]))


@collection.command("set-aside")
def collection_set_aside(name: Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name.")]) -> None:
    """Rows that could not be embedded: id, source, row number, reason."""
    rows = STATE.open().collection(name).set_aside().to_pylist()
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["id", "source", "row", "reason"]))


def embed(
    name: Annotated[str, typer.Argument(metavar="COLLECTION", help="Made with --encoder if it is not there.")],
    paths: Annotated[
        list[str], typer.Argument(metavar="FILES...", help="Parquet, CSV, TSV or JSONL; patterns and folders.")
    ],
    text: Annotated[str, typer.Option(help="The column to embed; it is never kept.")],
    id: Annotated[str | None, typer.Option(help="The id column; without it, file name and row number.")] = None,
    subject: Annotated[str | None, typer.Option(help="Whose row it is: split and erase go by it.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant column.")] = None,
    time: Annotated[str | None, typer.Option(help="The time column.")] = None,
    keep: Annotated[list[str], typer.Option(help="A column to keep; may be repeated.")] = [],  # noqa: B006
    encoder: Annotated[str | None, typer.Option(help="The encoder, where the collection is made.")] = None,
    id_prefix: Annotated[str, typer.Option(help="Put before every id.")] = "",
    check: Annotated[bool, typer.Option(help="Read known rows too and set changed ones aside.")] = False,
    workers: Workers = None,
) -> None:
    """Embed files into a collection. Run it again after any interruption: it goes on."""
    store = STATE.open(create=True)
    if encoder is not None:
        store.create_collection(name, encoder=encoder, exist_ok=True)
    target = store.collection(name)
    with STATE.out.progress(f"embedding into {name}") as progress:
        report = target.embed(
            paths, text=text, id=id, subject=subject, tenant=tenant, time=time, keep=keep,
            id_prefix=id_prefix, check=check, workers=workers, progress=progress,
        )  # fmt: skip

    def draw() -> None:
        STATE.out.say(str(report))
        if report.reasons:
            STATE.out.table([{"reason": r, "rows": n} for r, n in report.reasons.items()])
            STATE.out.say(f"Which rows: raystore collection set-aside {name}")

    STATE.out.emit({**asdict(report), "rows_per_s": report.rows_per_s}, draw)


def log(
    name: Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name.")],
    file: Annotated[str, typer.Argument(help="JSONL with id, text and kept columns; '-' reads standard input.")] = "-",
    add_columns: Annotated[bool, typer.Option("--add-columns", help="Add kept columns that are not there yet.")] = False,
) -> None:
    """Log rows; committed when the command ends. A misspelt field is refused, not kept."""
    result = STATE.open().collection(name).log(_json_lines(file), add_columns=add_columns)
    STATE.out.emit(
        asdict(result),
        lambda: STATE.out.say(f"{result.added:,} added, {result.known:,} known already; version {result.version}"),
    )


def _json_lines(file: str) -> list[Any]:
    try:
        lines = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidArguments(call="log", problems=[f"'{file}' cannot be read ({error.strerror})"]) from None
    except UnicodeDecodeError:
        raise InvalidArguments(call="log", problems=[f"'{file}' is not UTF-8"]) from None
    rows: list[Any] = []
    for number, line in enumerate(lines.split("\n"), 1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except ValueError:  # whose own words quote the line
            raise InvalidArguments(call="log", problems=[f"line {number} is no JSON object"]) from None
    return rows


@table.command("register")
def table_register(
    name: Annotated[str, typer.Argument(help="Small letters, digits and '_'; what SQL calls it.")],
    paths: Annotated[
        list[str], typer.Argument(metavar="FILES...", help="Parquet, CSV, TSV or JSONL; patterns and folders.")
    ],
    id: Annotated[str | None, typer.Option(help="Its key column that joins a collection's id.")] = None,
    subject: Annotated[str | None, typer.Option(help="Its column that joins a collection's subject.")] = None,
    column: Annotated[
        list[str],
        typer.Option(help="Keep this column beside the keys; may be repeated. Without it, all: protected text too."),
    ] = [],  # noqa: B006
) -> None:
    """Register files as a source table; the same data again makes no new version."""
    found = STATE.open(create=True).register_table(name, paths, id=id, subject=subject, columns=column or None)
    facts = {"table": found.name, "version": found.version, "rows": found.n_rows, "columns": found.columns}
    STATE.out.emit(facts, lambda: STATE.out.say(repr(found)))


@table.command("list")
def table_list() -> None:
    """Source tables with version and rows."""
    store = STATE.open()
    rows = [
        {"table": t.name, "version": t.version, "rows": t.n_rows, "columns": ", ".join(t.columns)}
        for t in map(store.table, store.tables)
    ]
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["table", "version", "rows", "columns"]))


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; '-' reads standard input.")],
    param: Annotated[list[str], typer.Option(help="NAME=VALUE for $NAME; may be repeated.")] = [],  # noqa: B006
    limit: Annotated[int, typer.Option(help="Rows to show (all, with --json).")] = 50,
) -> None:
    """Ask the store in SQL; similarity(encoder, 'text') ranks a collection."""
    text = sys.stdin.read() if query == "-" else query
    result = STATE.open().sql(text, _pairs(param, "sql") or None)

    def draw() -> None:
        STATE.out.table(result.to_arrow().slice(0, limit).to_pylist(), result.columns)
        if len(result) > limit:
            STATE.out.say(f"... {len(result) - limit:,} more rows (--limit)")

    STATE.out.emit(result.to_dicts() if STATE.out.as_json else None, draw)


@snapshot.command("create")
def snapshot_create(
    name: Annotated[str, typer.Argument(help="Small letters, digits and '_'.")],
    sql: Annotated[
        str, typer.Option(help="Gives id and label, optionally entity, weight and split; '-' reads standard input.")
    ],
    split: Annotated[str, typer.Option(help="Fractions of train, val and test.")] = ".8,.1,.1",
    param: Annotated[list[str], typer.Option(help="NAME=VALUE for $NAME; may be repeated.")] = [],  # noqa: B006
) -> None:
    """Freeze a training set."""
    try:
        fractions = dict(zip(("train", "val", "test"), (float(f) for f in split.split(",")), strict=False))
    except ValueError:
        problem = f"split is '{split}', expected fractions like .8,.1,.1"
        raise InvalidArguments(call="snapshot create", problems=[problem]) from None
    text = sys.stdin.read() if sql == "-" else sql
    made = STATE.open().snapshot(name, text, params=_pairs(param, "snapshot create") or None, split=fractions)
    STATE.out.emit(_snapshot_facts(made), lambda: STATE.out.say(repr(made)))


@snapshot.command("list")
def snapshot_list() -> None:
    """Snapshots with their newest number."""
    store = STATE.open()
    rows = [
        {
            "snapshot": f"{s.name}@{s.number}",
            "collection": s.collection,
            **s.spec["counts"],
            "classes": len(s.classes),
            "hash": s.hash[:12],
        }
        for s in (store.snapshots[n] for n in store.snapshots)
    ]
    STATE.out.emit(
        rows, lambda: STATE.out.table(rows, ["snapshot", "collection", "train", "val", "test", "classes", "hash"])
    )


@snapshot.command("show")
def snapshot_show(reference: Annotated[str, typer.Argument(help="NAME or NAME@NUMBER")]) -> None:
    """A snapshot's SQL, versions, split and classes."""
    STATE.out.emit(_snapshot_facts(STATE.open().snapshots[reference]), None)


@snapshot.command("rebuild")
def snapshot_rebuild(reference: Annotated[str, typer.Argument(help="NAME or NAME@NUMBER")]) -> None:
    """Run its SQL again as of its versions and compare the hash; exit code 1 when it differs."""
    rebuilt = STATE.open().snapshots.rebuild(reference)
    says = "the same rows" if rebuilt.same else "other rows than were frozen"
    STATE.out.emit({"same": rebuilt.same, "hash": rebuilt.hash}, lambda: STATE.out.say(f"{says}; hash {rebuilt.hash}"))
    if not rebuilt.same:
        raise typer.Exit(1)


def _snapshot_facts(record: Any) -> dict[str, Any]:
    return {"snapshot": f"{record.name}@{record.number}", **record.spec}
