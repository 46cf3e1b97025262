"""Verbs on rows: collection, embed, log, table, sql, snapshot."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raystore.cli.state import STATE
from raystore.data.collection import discard_empty
from raystore.errors import InvalidArguments

if TYPE_CHECKING:
    from raystore.collection import JobArguments
    from raystore.data.dry_run import DryRun
    from raystore.store import Store

Workers = Annotated[
    int | None, typer.Option(help="0 works in this process, more on so many Ray workers; by default chosen by size.")
]

collection = typer.Typer(help="Collections: rows with vectors.", no_args_is_help=True, rich_markup_mode=None)
table = typer.Typer(help="Source tables: labels and other events.", no_args_is_help=True, rich_markup_mode=None)
PoolSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|N-M",
        help="0 works in this process, more on so many Ray workers, 1-8 on a pool that grows and shrinks; "
        "by default chosen by size.",
    ),
]

snapshot = typer.Typer(help="Snapshots: frozen training sets.", no_args_is_help=True, rich_markup_mode=None)


def _pairs(options: list[str], call: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping; every bad one is named."""
    bad = [o for o in options if "=" not in o]
    if bad:
        raise InvalidArguments(call=call, problems=[f"'{o}' is not NAME=VALUE" for o in bad])
    return {name: value for name, _, value in (o.partition("=") for o in options)}


def _pool_size(name: str, given: str | None) -> int | tuple[int, int] | None:
    """4 or 1-8, as the library takes them."""
    if given is None:
        return None
    least, dash, most = given.partition("-")
    if least.isdecimal() and (most.isdecimal() if dash else True):
        return (int(least), int(most)) if dash else int(least)
    raise InvalidArguments(call="embed", problems=[f"--{name} is '{given}', expected a number like 4, or two like 1-8"])


@collection.command("create")
def collection_create(
    name: Annotated[str, typer.Argument(help="Small letters, digits and '_'.")],
    encoder: Annotated[str, typer.Option(help="The encoder whose vectors it will hold.")],
    column: Annotated[list[str], typer.Option(help="A kept column, NAME=TYPE; may be repeated.")] = [],  # noqa: B006
    keep_source: Annotated[
        bool, typer.Option("--keep-source", help="Keep the raw texts and images too, in plain; chosen for good.")
    ] = False,
) -> None:
    """Make an empty collection."""
    made = STATE.open(create=True).create_collection(
        name, encoder=encoder, columns=_pairs(column, "collection create"), keep_source=keep_source
    )
    about = {
        "collection": made.name,
        "columns": made.columns,
        "encoders": [e.label for e in made.encoders],
        "keeps_source": made.keeps_source,
    }
    STATE.out.emit(about, lambda: STATE.out.say(repr(made)))


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


@collection.command("add-encoder")
def collection_add_encoder(
    name: Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name.")],
    encoder: Annotated[str, typer.Argument(help="The encoder whose vectors it gets too.")],
    workers: PoolSize = None,
    gpu_workers: Annotated[
        str | None, typer.Option(metavar="N|N-M", help="Ray workers with a GPU each, beside the others; 0-4 is up to 4.")
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(help="The share of a GPU that one of them gets.")] = 1.0,
) -> None:
    """Embed with one more encoder, from the files of earlier jobs; only rows that lack its vector. Run it again at any time."""
    target = STATE.open().collection(name)
    with STATE.out.progress(f"embedding {name} with {encoder}") as progress:
        report = target.add_encoder(
            encoder,
            workers=_pool_size("workers", workers),
            gpu_workers=_pool_size("gpu-workers", gpu_workers),
            gpus_per_worker=gpus_per_worker,
            progress=progress,
        )

    def draw() -> None:
        STATE.out.say(str(report))
        for path in report.gone:
            STATE.out.say(f"gone: {path}")
        if report.reasons:
            STATE.out.table([{"reason": r, "rows": n} for r, n in report.reasons.items()])
            STATE.out.say(f"Which rows: raystore collection set-aside {name}")

    STATE.out.emit({**asdict(report), "rows_per_s": report.rows_per_s}, draw)


@collection.command("jobs")
def collection_jobs(name: Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name.")]) -> None:
    """What was embedded from where; a job without an end was killed, or still runs."""
    jobs = STATE.open().collection(name).jobs()
    rows = [
        {
            "job": job["number"],
            "kind": job["kind"],
            "started": job["started"],
            "ended": job["ended"] or "",
            "encoder": job["encoder"],
            "files": len(job["files"]),
            "rows": sum(file["rows"] for file in job["files"]),
            "embedded": job["counts"].get("added", 0) + job["counts"].get("filled", 0),
            "set aside": job["counts"].get("set_aside", 0),
            "failed": job["failed"] or "",
        }
        for job in jobs
    ]
    STATE.out.emit(jobs, lambda: STATE.out.table(rows))


@collection.command("set-aside")
def collection_set_aside(name: Annotated[str, typer.Argument(metavar="COLLECTION", help="Its name.")]) -> None:
    """Rows that could not be embedded: id, source, row number, reason."""
    rows = STATE.open().collection(name).set_aside().to_pylist()
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["id", "source", "row", "reason"]))


def embed(
    name: Annotated[str, typer.Argument(metavar="COLLECTION", help="Made with --encoder if it is not there.")],
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...",
            help="Parquet, CSV, TSV, JSONL, Arrow, Lance, folders and tars of images; patterns, folders and URLs.",
        ),
    ],
    text: Annotated[str | None, typer.Option(help="The column to embed; it is never kept.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Or the column of images to embed; folders and tars of images need neither.")
    ] = None,
    id: Annotated[str | None, typer.Option(help="The id column; without it, file name and row number.")] = None,
    subject: Annotated[str | None, typer.Option(help="Whose row it is: split and erase go by it.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant column.")] = None,
    time: Annotated[str | None, typer.Option(help="The time column.")] = None,
    keep: Annotated[list[str], typer.Option(help="A column to keep; may be repeated.")] = [],  # noqa: B006
    encoder: Annotated[
        str | None, typer.Option(help="The encoder, where the collection is made, or one of several that it holds.")
    ] = None,
    id_prefix: Annotated[str, typer.Option(help="Put before every id.")] = "",
    check: Annotated[bool, typer.Option(help="Read known rows too and set changed ones aside.")] = False,
    workers: PoolSize = None,
    gpu_workers: Annotated[
        str | None, typer.Option(metavar="N|N-M", help="Ray workers with a GPU each, beside the others; 0-4 is up to 4.")
    ] = None,
    gpus_per_worker: Annotated[float, typer.Option(help="The share of a GPU that one of them gets.")] = 1.0,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Try some 256 rows and write nothing, nor make a collection: pace, time left, bytes, problems.",
        ),
    ] = False,
) -> None:
    """Embed files into a collection. Run it again after any interruption: it goes on."""
    store = STATE.open(create=not dry_run)
    job: JobArguments = {
        "text": text, "image": image, "id": id, "subject": subject, "tenant": tenant, "time": time, "keep": keep,
        "id_prefix": id_prefix, "check": check, "encoder": encoder, "workers": _pool_size("workers", workers),
        "gpu_workers": _pool_size("gpu-workers", gpu_workers), "gpus_per_worker": gpus_per_worker,
    }  # fmt: skip
    if dry_run:
        is_new = encoder is not None and name not in store.collections
        tried = _try_new(store, name, paths, job) if is_new else store.collection(name).embed(paths, dry_run=True, **job)
        STATE.out.emit(asdict(tried), lambda: _draw_trial(tried))
        return
    is_new = encoder is not None and name not in store.collections
    if encoder is not None:
        store.create_collection(name, encoder=encoder, exist_ok=True)
    target = store.collection(name)
    try:
        with STATE.out.progress(f"embedding into {name}") as progress:
            job["progress"] = progress
            report = target.embed(paths, **job)
    except InvalidArguments:  # nothing was written: a mistake in the call must not leave a collection of that name behind
        if is_new:
            discard_empty(store.layout, name)
        raise

    def draw() -> None:
        STATE.out.say(str(report))
        if report.reasons:
            STATE.out.table([{"reason": r, "rows": n} for r, n in report.reasons.items()])
            STATE.out.say(f"Which rows: raystore collection set-aside {name}")

    STATE.out.emit({**asdict(report), "rows_per_s": report.rows_per_s}, draw)


def _try_new(store: Store, name: str, paths: list[str], job: JobArguments) -> DryRun:
    """The trial of a job into a collection that the job would make."""
    from raystore.data.dry_run import dry_run_new
    from raystore.data.manifest import SourceColumns

    columns = SourceColumns(
        job["text"], job["image"], job["id"], job["subject"], job["tenant"], job["time"], tuple(job["keep"])
    )
    encoder = store.encoder(str(job["encoder"]))
    prefix, check = job["id_prefix"], job["check"]
    return dry_run_new(store.layout, name, encoder, store.key, paths, columns, id_prefix=prefix, check=check)


def _draw_trial(tried: DryRun) -> None:
    STATE.out.say(str(tried))
    if tried.reasons:
        STATE.out.table([{"reason": r, "rows of the sample": n} for r, n in tried.reasons.items()])


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
