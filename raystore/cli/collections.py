"""Verbs on collections."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from raystore.cli.embed import PoolSize, pool_size
from raystore.cli.options import CollectionName, EncoderOption, FailOnDrift
from raystore.cli.state import STATE
from raystore.cli.words import pairs
from raystore.errors import InvalidArguments

collection = typer.Typer(help="Collections: rows with vectors.", no_args_is_help=True, rich_markup_mode=None)


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
        name, encoder=encoder, columns=pairs(column, "collection create"), keep_source=keep_source
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
            "encoders": ", ".join(c.encoder_labels),
            "columns": ", ".join(c.columns),
        }
        for c in map(store.collection, store.collections)
    ]
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["collection", "rows", "version", "encoders", "columns"]))


@collection.command("add-encoder")
def collection_add_encoder(
    name: CollectionName,
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
            workers=pool_size("workers", workers),
            gpu_workers=pool_size("gpu-workers", gpu_workers),
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
def collection_jobs(name: CollectionName) -> None:
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
def collection_set_aside(name: CollectionName) -> None:
    """Rows that could not be embedded: id, source, row number, reason."""
    rows = STATE.open().collection(name).set_aside().to_pylist()
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["id", "source", "row", "reason"]))


@collection.command("publish")
def collection_publish(
    name: CollectionName,
    uri: Annotated[str, typer.Argument(help="A local folder, or an address that fsspec knows.")],
    column: Annotated[list[str], typer.Option(help="A kept column to copy; may be repeated. Without it, all.")] = [],  # noqa: B006
    labels: Annotated[list[str], typer.Option(help="A source table with an id key; may be repeated.")] = [],  # noqa: B006
    predictions: Annotated[list[str], typer.Option(help="A head, NAME or NAME@ALIAS; may be repeated.")] = [],  # noqa: B006
    vectors: Annotated[bool, typer.Option("--vectors", help="Also the vectors.")] = False,
    encoder: Annotated[str | None, typer.Option(help="Whose vectors; by default the collection's current one.")] = None,
) -> None:
    """Bring a Parquet copy of a collection up to date, for a warehouse. What earlier calls published and this one does not name
    leaves it. Run it again at any time.
    """
    if encoder is not None and not vectors:
        raise InvalidArguments(call="collection publish", problems=["--encoder says whose vectors: give --vectors too"])
    target = STATE.open().collection(name)
    STATE.out.step(f"publishing {name} to {uri}")
    with STATE.out.progress(f"publishing {name}") as progress:
        done = target.publish(
            uri,
            columns=column or None,
            labels=labels,
            predictions=predictions,
            vectors=vectors,
            encoder=encoder,
            progress=progress,
        )
    STATE.out.emit(done.to_dict(), lambda: STATE.out.say(str(done)))


@collection.command("republish")
def collection_republish(name: CollectionName) -> None:
    """Bring every copy that `publish` made of a collection up to date, as it was last asked for; run it after an erase."""
    target = STATE.open().collection(name)
    with STATE.out.progress(f"publishing {name}") as progress:
        done = target.republish(progress=progress)

    def draw() -> None:
        STATE.out.say("\n\n".join(map(str, done)) or f"'{name}' was never published")

    STATE.out.emit([each.to_dict() for each in done], draw)


@collection.command("drift")
def collection_drift(
    name: CollectionName,
    since: Annotated[
        str, typer.Option(metavar="VERSION|TIME", help="The rows added after a version, or with a `time` not before one.")
    ],
    label: Annotated[str | None, typer.Option(help="A kept column whose shares are compared too.")] = None,
    encoder: EncoderOption = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    fail_on_drift: FailOnDrift = False,
) -> None:
    """Whether the newer rows come from where the older ones came from."""
    target = STATE.open().collection(name)
    STATE.out.step(f"comparing the rows of {name} before and since {since}")
    found = target.drift(int(since) if since.isdecimal() else since, label=label, encoder=encoder, seed=seed)
    STATE.out.emit(found.to_dict(), lambda: STATE.out.say(str(found)))
    if fail_on_drift and found.alarm:
        raise typer.Exit(1)
