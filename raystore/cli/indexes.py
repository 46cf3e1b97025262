"""Verbs on indexes, and the search that uses them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from raystore.cli.options import CollectionName, EncoderOption, Workers
from raystore.cli.state import STATE
from raystore.index.kinds import KINDS
from raystore.index.manifest import FOLD_AFTER_S, FOLD_ROWS
from raystore.index.metric import METRICS, Metric
from raystore.index.search.asked import LIMIT

if TYPE_CHECKING:
    from raystore.index.manifest import IndexManifest
    from raystore.index.search.result import SearchResult

index = typer.Typer(help="Indexes: sharded FAISS over a collection.", no_args_is_help=True, rich_markup_mode=None)


@index.command("build")
def index_build(
    collection: CollectionName,
    shards: Annotated[int | None, typer.Option(help="Parts it is cut into; by default as many as --memory needs.")] = None,
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}; 'index tune' measures which is best.")] = "exact",
    memory: Annotated[str | None, typer.Option(help="What one shard may hold in memory: 1GiB.")] = None,
    metric: Annotated[str, typer.Option(help=f"What a score is: {', '.join(METRICS)}.")] = "cosine",
    recall: Annotated[float, typer.Option(help="Of the 10 nearest, to be found; probes are chosen for it.")] = 0.95,
    served: Annotated[str, typer.Option(help="inline (in the searching process) or actors (of Ray).")] = "inline",
    replicas: Annotated[int, typer.Option(help="Actors a shard, on different nodes.")] = 1,
    fold_rows: Annotated[int, typer.Option(help="So many rows beside the index are folded into it.")] = FOLD_ROWS,
    fold_after: Annotated[float, typer.Option(metavar="SECONDS", help="So old a row beside it is.")] = FOLD_AFTER_S,
    home: Annotated[str | None, typer.Option(help="Of kind disk: s3://bucket/indexes, where the big files lie.")] = None,
    cache: Annotated[str, typer.Option(help="Of what is read from --home, kept in memory.")] = "256MB",
    encoder: EncoderOption = None,
    workers: Workers = None,
) -> None:
    """Build the index that searches use from now on.

    A build that was stopped goes on where it was when it is called again with the same arguments.
    """
    with STATE.out.progress(f"indexing {collection}") as progress:
        made = STATE.open().collection(collection).build_index(
            kind=kind, shards=shards, memory=memory, metric=cast(Metric, metric), recall=recall, workers=workers,
            served=served, replicas=replicas, fold_rows=fold_rows, fold_after_s=fold_after,
            home=home, cache=cache, encoder=encoder, progress=progress,
        )  # fmt: skip
    facts = made.model_dump(mode="json")
    STATE.out.emit(
        facts, lambda: STATE.out.say(f"{made.rows:,} rows in {len(made.shards)} shards ({made.kind}), {made.build_s:.1f} s")
    )


@index.command("show")
def index_show(collection: CollectionName, encoder: EncoderOption = None) -> None:
    """The index in use."""
    found = STATE.open().collection(collection).index(encoder)
    STATE.out.emit(found.model_dump(mode="json") if found else None, lambda: _show_index(found))


@index.command("list")
def index_list(collection: CollectionName, encoder: EncoderOption = None) -> None:
    """The indexes that are kept, the one in use first."""
    found = [facts.to_dict() for facts in STATE.open().collection(collection).indexes(encoder)]
    columns = [
        "number",
        "kind",
        "rows",
        "shards",
        "version",
        "recall",
        "memory_bytes",
        "disk_bytes",
        "made_by",
        "made_from",
    ]
    STATE.out.emit(found, lambda: STATE.out.table(found, columns))


@index.command("use")
def index_use(
    collection: CollectionName,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Of an index that 'index list' shows.")],
    encoder: EncoderOption = None,
) -> None:
    """Go back to an older index; the rows since are searched beside it."""
    found = STATE.open().collection(collection).use_index(number, encoder=encoder)
    STATE.out.emit(found.model_dump(mode="json"), lambda: _show_index(found))


@index.command("fold")
def index_fold(
    collection: CollectionName,
    drop_gone: Annotated[
        bool, typer.Option("--drop-gone", help="Write anew every shard with an erased row, and remove older indexes.")
    ] = False,
    encoder: EncoderOption = None,
) -> None:
    """Fold the rows that stand beside the index into it now; searches do so by themselves in the background."""
    found = STATE.open().collection(collection).fold_index(drop_gone=drop_gone, encoder=encoder)
    if found is None:
        STATE.out.emit(None, lambda: STATE.out.say("Nothing to fold."))
        return
    STATE.out.emit(found.model_dump(mode="json"), lambda: _show_index(found))


def _show_index(found: IndexManifest | None) -> None:
    if found is None:
        STATE.out.say("No index: searches read the collection.")
        return
    facts = found.model_dump(mode="json", exclude={"shards"}) | {"rows": found.rows}
    STATE.out.table([{"field": name, "value": "none" if value is None else str(value)} for name, value in facts.items()])
    shards = [shard.model_dump(mode="json", exclude={"files"}) for shard in found.shards]
    columns = ["number", "rows", "since", "as_of", "nlist", "nprobe", "refine", "recall", "memory_bytes", "disk_bytes"]
    STATE.out.table(shards, columns, title="Shards")


def search(
    collection: CollectionName,
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    item: Annotated[str | None, typer.Option(help="Look for neighbours of this id instead.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for neighbours of this image file instead.")] = None,
    like: Annotated[list[str], typer.Option(help="An id to find more of; may be repeated, with a text or without.")] = [],  # noqa: B006
    unlike: Annotated[list[str], typer.Option(help="An id to keep away from; may be repeated.")] = [],  # noqa: B006
    encoder: EncoderOption = None,
    k: Annotated[int | None, typer.Option("-k", help="How many: 10, or with --min-score all.")] = None,
    where: Annotated[str | None, typer.Option(help="Only rows this predicate selects: \"product = 'card'\".")] = None,
    column: Annotated[list[str], typer.Option(help="A kept column to show; may be repeated.")] = [],  # noqa: B006
    min_score: Annotated[float | None, typer.Option(help="Only rows that score at least so much.")] = None,
    limit: Annotated[int, typer.Option(help="Rows to look at where more than -k are needed to answer.")] = LIMIT,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="The next page: what the page before said.")] = None,
    distinct: Annotated[str | None, typer.Option(metavar="COLUMN", help="One row for each value of this column.")] = None,
    diversity: Annotated[float | None, typer.Option(help="0 to 1: how much the rows are to differ.")] = None,
    probes: Annotated[int | None, typer.Option(help="Lists of the index to visit.")] = None,
    refine: Annotated[int | None, typer.Option(help="Rows to nominate for each one that is answered.")] = None,
) -> None:
    """The rows nearest to a text, an image or an item."""
    found = STATE.open().collection(collection)
    result = found.search(
        text, image=image, item=item, like=like, unlike=unlike, k=k, where=where, columns=column, min_score=min_score,
        limit=limit, after=after, distinct=distinct, diversity=diversity, probes=probes, refine=refine, encoder=encoder,
    )  # fmt: skip
    _emit_hits(result, column, limit)


def recommend(
    collection: CollectionName,
    item: Annotated[list[str], typer.Option(help="An id of the profile; may be repeated.")] = [],  # noqa: B006
    subject: Annotated[str | None, typer.Option(help="Whose rows are the profile.")] = None,
    half_life: Annotated[
        float | None, typer.Option("--half-life-days", help="A row counts half as much as one so many days younger.")
    ] = None,
    encoder: EncoderOption = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    where: Annotated[str | None, typer.Option(help="Only rows this predicate selects: \"product = 'card'\".")] = None,
    column: Annotated[list[str], typer.Option(help="A kept column to show; may be repeated.")] = [],  # noqa: B006
    distinct: Annotated[str | None, typer.Option(metavar="COLUMN", help="One row for each value of this column.")] = None,
    diversity: Annotated[float | None, typer.Option(help="0 to 1: how much the rows are to differ.")] = None,
) -> None:
    """The rows nearest to a profile: the mean of many items, or of all rows of a subject."""
    result = STATE.open().collection(collection).recommend(
        item or None, subject=subject, half_life=None if half_life is None else timedelta(days=half_life), k=k,
        where=where, columns=column, distinct=distinct, diversity=diversity, encoder=encoder,
    )  # fmt: skip
    _emit_hits(result, column, LIMIT)


def _emit_hits(result: SearchResult, column: Sequence[str], limit: int) -> None:
    hits = [{key: v for key, v in hit.items() if key != "query"} for hit in result.to_dicts()]
    facts = {
        "hits": hits,
        "cursor": result.cursor,
        "truncated": result.truncated,
        "fingerprint": result.fingerprint,
        "metric": result.metric,
        "index_version": result.index_version,
        "collection_version": result.collection_version,
        "coverage": result.coverage,
        "missing": result.missing,
        "exact": result.exact,
    }

    def draw() -> None:
        STATE.out.table(hits, ["rank", "score", "id", *column])
        for line in _notes(result, limit):
            STATE.out.say(line)

    STATE.out.emit(facts, draw)


def _notes(result: SearchResult, limit: int) -> list[str]:
    """What is to be known of an answer beside its rows."""
    notes = []
    if result.missing:
        notes.append(f"{result.coverage:.1%} of the rows were searched: shards {result.missing} did not answer")
    if result.truncated:
        notes.append(f"there may be more: {limit:,} rows were looked at (--limit)")
    if result.cursor:
        notes.append(f"next page: --after {result.cursor}")
    return notes
