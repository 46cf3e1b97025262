"""embed and log: what brings rows into a collection."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raystore.cli.options import CollectionName
from raystore.cli.state import STATE
from raystore.data.collection import discard_empty
from raystore.errors import InvalidArguments

if TYPE_CHECKING:
    from raystore.collection import JobArguments
    from raystore.data.dry_run import DryRun
    from raystore.store import Store

PoolSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|N-M",
        help="0 works in this process, more on so many Ray workers, 1-8 on a pool that grows and shrinks; "
        "by default chosen by size.",
    ),
]


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
        list[str],
        typer.Option(
            help="The encoder, where the collection is made, or one of several that it holds; may be repeated. "
            "By default all that it holds."
        ),
    ] = [],  # noqa: B006
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
        "id_prefix": id_prefix, "check": check, "encoder": encoder or None, "workers": pool_size("workers", workers),
        "gpu_workers": pool_size("gpu-workers", gpu_workers), "gpus_per_worker": gpus_per_worker,
    }  # fmt: skip
    if dry_run:
        is_new = bool(encoder) and name not in store.collections
        tried = (
            _try_new(store, name, paths, encoder, job)
            if is_new
            else store.collection(name).embed(paths, dry_run=True, **job)
        )
        STATE.out.emit(asdict(tried), lambda: _draw_trial(tried))
        return
    is_new = bool(encoder) and name not in store.collections
    if encoder:
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


def _try_new(store: Store, name: str, paths: list[str], encoders: list[str], job: JobArguments) -> DryRun:
    """The trial of a job into a collection that the job would make."""
    from raystore.data.dry_run import dry_run_new
    from raystore.data.manifest import SourceColumns

    columns = SourceColumns(
        job["text"], job["image"], job["id"], job["subject"], job["tenant"], job["time"], tuple(job["keep"])
    )
    chosen = list(dict.fromkeys(map(store.encoder, encoders)))
    prefix, check = job["id_prefix"], job["check"]
    return dry_run_new(store.layout, name, chosen, store.key, paths, columns, id_prefix=prefix, check=check)


def _draw_trial(tried: DryRun) -> None:
    STATE.out.say(str(tried))
    if tried.reasons:
        STATE.out.table([{"reason": r, "rows of the sample": n} for r, n in tried.reasons.items()])


def log(
    name: CollectionName,
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


def pool_size(name: str, given: str | None) -> int | tuple[int, int] | None:
    """4 or 1-8, as the library takes them."""
    if given is None:
        return None
    least, dash, most = given.partition("-")
    if least.isdecimal() and (most.isdecimal() if dash else True):
        return (int(least), int(most)) if dash else int(least)
    raise InvalidArguments(call="embed", problems=[f"--{name} is '{given}', expected a number like 4, or two like 1-8"])
