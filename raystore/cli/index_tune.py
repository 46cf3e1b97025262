"""`index tune` and `index check`: what each kind of index would reach here, and whether the one in use still does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from raystore.cli.encoders import ImageColumn, TextColumn
from raystore.cli.indexes import built_line
from raystore.cli.options import CollectionName, EncoderOption
from raystore.cli.samples import read_sample
from raystore.cli.state import STATE
from raystore.errors import InvalidArguments

if TYPE_CHECKING:
    from raystore.collection import Collection
    from raystore.vectors import Vectors

_QUERIES = 2_000

Queries = Annotated[
    list[str], typer.Option(help="Files with queries as your users ask them; by default rows of the collection are asked.")
]

tuning = typer.Typer()


@tuning.command("tune")
def index_tune(
    collection: CollectionName,
    recall: Annotated[float, typer.Option(help="Share of the k nearest to be found.")] = 0.95,
    memory: Annotated[
        str | None, typer.Option(help="That the index may hold in memory, all shards together: 1GiB.")
    ] = None,
    p95_ms: Annotated[float | None, typer.Option(help="Within which 95 of 100 single queries are answered.")] = None,
    k: Annotated[int, typer.Option("-k", help="Neighbours.")] = 10,
    kind: Annotated[list[str], typer.Option(help="Try only this kind, beside exact; may be repeated.")] = [],  # noqa: B006
    queries: Queries = [],  # noqa: B006
    text: TextColumn = None,
    image: ImageColumn = None,
    sample_rows: Annotated[int, typer.Option(help="Of a larger collection, rows that are tried.")] = 200_000,
    build: Annotated[bool, typer.Option("--build", help="Build what is chosen.")] = False,
    encoder: EncoderOption = None,
) -> None:
    """Measure every kind of index on the collection's own vectors, and choose one.

    Each is compared with exact search; what is chosen keeps the budget, and it is said why.

    Exit code 1 where none keeps the budget; the nearest is said.
    """
    found = STATE.open().collection(collection)
    asked = _encoded(found, queries, text, image, encoder, "index tune")
    with STATE.out.progress(f"measuring {collection}", "kinds", kept=False) as progress:
        report = found.tune_index(
            recall=recall, memory=memory, p95_ms=p95_ms, k=k, kinds=kind or None, queries=asked, sample_rows=sample_rows,
            encoder=encoder, progress=progress,
        )  # fmt: skip
    chosen = report.choice
    built = None
    if build and chosen is not None:
        with STATE.out.progress(f"indexing {collection}") as progress:
            built = found.build_index(kind=chosen.kind, recall=recall, encoder=encoder, progress=progress)

    def draw() -> None:
        STATE.out.table(report.shown, title=report.about)
        for line in report.says:
            STATE.out.say(f"\n{line}")
        if built is not None:
            STATE.out.say(f"\nbuilt: {built_line(built)}")
        elif chosen is not None:
            STATE.out.say(f"\nraystore index build {collection} --kind {chosen.kind} --recall {recall:g}")

    STATE.out.emit({**report.facts, "built": None if built is None else built.model_dump(mode="json")}, draw)
    if chosen is None:
        raise typer.Exit(1)


@tuning.command("check")
def index_check(
    collection: CollectionName,
    k: Annotated[int, typer.Option("-k", help="Neighbours.")] = 10,
    sample: Annotated[int, typer.Option(help="Rows of the collection to ask with.")] = 200,
    queries: Queries = [],  # noqa: B006
    text: TextColumn = None,
    image: ImageColumn = None,
    encoder: EncoderOption = None,
) -> None:
    """Measure the index in use against an exact scan: recall, pace, coverage, rows beside it.

    Exit code 1 where its recall is below what it was built for, or shards did not answer.
    """
    found = STATE.open().collection(collection)
    asked = _encoded(found, queries, text, image, encoder, "index check")
    with STATE.out.progress(f"checking {collection}", kept=False) as progress:
        report = found.check_index(k=k, sample=sample, queries=asked, encoder=encoder, progress=progress)
    STATE.out.emit(report.facts, lambda: STATE.out.say(str(report)))
    if report.verdict in ("below", "incomplete"):
        raise typer.Exit(1)


def _encoded(
    collection: Collection, files: list[str], text: str | None, image: str | None, encoder: str | None, call: str
) -> Vectors | None:
    """The files' texts or images as vectors of the encoder; None where no files were named."""
    if not files:
        return None
    if (text is None) == (image is None):
        raise InvalidArguments(call=call, problems=["--queries needs one of --text and --image, its column"])
    items = read_sample(files, content=text or image or "", label=None, limit=_QUERIES, call=call).items or []
    return collection.encoder(encoder).encode(items)
