"""Verbs on indexes, and the search that uses them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from raystore.cli.options import CollectionName, EncoderOption, Workers
from raystore.cli.state import STATE
from raystore.encoders.plan import said_bytes
from raystore.index.kinds import KINDS
from raystore.index.manifest import FOLD_AFTER_S, FOLD_ROWS
from raystore.index.metric import METRICS, Metric
from raystore.index.search.asked import LIMIT

if TYPE_CHECKING:
    from raystore.collection import Collection
    from raystore.index.manifest import IndexManifest
    from raystore.index.search.result import SearchResult

_NO_INDEX = "No index: searches read the collection."

index = typer.Typer(help="Indexes: sharded FAISS over a collection.", no_args_is_help=True, rich_markup_mode=None)


@index.command("build")
def index_build(
    collection: CollectionName,
    shards: Annotated[
        int | None, typer.Option(help="Parts it is cut into; by default as many as --memory asks for, else 1.")
    ] = None,
    kind: Annotated[str, typer.Option(help=f"{', '.join(KINDS)}; 'index tune' measures which is best.")] = "exact",
    memory: Annotated[str | None, typer.Option(help="What one shard may hold in memory, such as 1GiB.")] = None,
    metric: Annotated[str, typer.Option(help=f"What a score is: {', '.join(METRICS)}.")] = "cosine",
    recall: Annotated[float, typer.Option(help="Share of the 10 nearest to be found; probes are chosen for it.")] = 0.95,
    served: Annotated[str, typer.Option(help="inline (in the searching process) or actors (of Ray).")] = "inline",
    replicas: Annotated[int, typer.Option(help="Actors a shard, on different nodes.")] = 1,
    fold_rows: Annotated[int, typer.Option(help="Fold rows into it when so many stand beside it.")] = FOLD_ROWS,
    fold_after: Annotated[
        float, typer.Option(metavar="SECONDS", help="Or when one has stood there so long.")
    ] = FOLD_AFTER_S,
    home: Annotated[
        str | None, typer.Option(help="With --kind disk: where the big files lie, such as s3://bucket/indexes.")
    ] = None,
    cache: Annotated[str, typer.Option(help="With --home: how much of what was read is kept in memory.")] = "256MB",
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
    STATE.out.emit(made.model_dump(mode="json"), lambda: STATE.out.say(built_line(made)))


def built_line(made: IndexManifest) -> str:
    """What was built, in a line."""
    shards = "1 shard" if len(made.shards) == 1 else f"{len(made.shards)} shards"
    recall = "" if made.recall is None else f", recall {made.recall:.3f}"
    memory, disk = (sum(getattr(shard, f"{name}_bytes") for shard in made.shards) for name in ("memory", "disk"))
    return (
        f"{made.rows:,} rows in {shards} ({made.kind}){recall}, {said_bytes(memory)} of memory, {said_bytes(disk)} of disk, "
        f"{made.build_s:.1f} s"
    )


@index.command("show")
def index_show(collection: CollectionName, encoder: EncoderOption = None) -> None:
    """The index in use."""
    opened = STATE.open().collection(collection)
    _emit_index(opened, opened.index(encoder), encoder, _NO_INDEX)


@index.command("list")
def index_list(collection: CollectionName, encoder: EncoderOption = None) -> None:
    """The indexes that are kept, the one in use first."""
    found = [facts.to_dict() for facts in STATE.open().collection(collection).indexes(encoder)]
    STATE.out.emit(found, lambda: _draw_list(collection, found))


@index.command("use")
def index_use(
    collection: CollectionName,
    number: Annotated[int, typer.Argument(metavar="NUMBER", help="Of an index that 'index list' shows.")],
    encoder: EncoderOption = None,
) -> None:
    """Go back to an older index; the rows since are searched beside it."""
    opened = STATE.open().collection(collection)
    _emit_index(opened, opened.use_index(number, encoder=encoder), encoder, _NO_INDEX)


@index.command("fold")
def index_fold(
    collection: CollectionName,
    drop_gone: Annotated[
        bool, typer.Option("--drop-gone", help="Write anew every shard with an erased row, and remove older indexes.")
    ] = False,
    encoder: EncoderOption = None,
) -> None:
    """Fold the rows that stand beside the index into it now.

    Searches do so by themselves in the background.
    """
    opened = STATE.open().collection(collection)
    _emit_index(opened, opened.fold_index(drop_gone=drop_gone, encoder=encoder), encoder, "Nothing to fold.")


def _draw_list(collection: str, found: Sequence[Mapping[str, Any]]) -> None:
    if not found:
        STATE.out.say(f"{_NO_INDEX} Build one: raystore index build {collection}")
        return
    rows = [
        {
            "number": row["number"], "in use": "yes" if row["live"] else "", "kind": row["kind"], "rows": row["rows"],
            "shards": row["shards"], "recall": row["recall"], "memory": said_bytes(row["memory_bytes"]),
            "disk": said_bytes(row["disk_bytes"]), "version": row["version"],
            "made by": row["made_by"] + ("" if row["made_from"] is None else f" of {row['made_from']}"),
        }
        for row in found
    ]  # fmt: skip
    STATE.out.table(rows)


def _emit_index(opened: Collection, found: IndexManifest | None, encoder: str | None, otherwise: str) -> None:
    """The index in use with its number, or null; for people `otherwise` where there is none."""
    if found is None:
        STATE.out.emit(None, lambda: STATE.out.say(otherwise))
        return
    number = opened.indexes(encoder)[0].number
    STATE.out.emit({"number": number, **found.model_dump(mode="json")}, lambda: _draw_index(number, found))


def _draw_index(number: int, found: IndexManifest) -> None:
    facts = {"number": number, "rows": found.rows} | found.model_dump(mode="json", exclude={"shards"})
    facts["cache"] = said_bytes(facts.pop("cache_bytes"))
    STATE.out.table([{"field": name, "value": "none" if value is None else str(value)} for name, value in facts.items()])
    shards = []
    for shard in found.shards:
        row = shard.model_dump(mode="json", exclude={"files"})
        shards.append(row | {"memory": said_bytes(shard.memory_bytes), "disk": said_bytes(shard.disk_bytes)})
    columns = ["number", "rows", "since", "as_of", "nlist", "nprobe", "refine", "recall", "memory", "disk"]
    STATE.out.table(shards, columns, title="Shards: rows of the versions after 'since' up to 'as_of'")


def search(
    collection: CollectionName,
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    item: Annotated[str | None, typer.Option(help="Look for neighbours of this id instead; it comes first itself.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for neighbours of this image file instead.")] = None,
    like: Annotated[list[str], typer.Option(help="An id to find more of; may be repeated, with a text or without.")] = [],  # noqa: B006
    unlike: Annotated[list[str], typer.Option(help="An id to keep away from; may be repeated.")] = [],  # noqa: B006
    encoder: EncoderOption = None,
    k: Annotated[int | None, typer.Option("-k", help="How many: 10, or with --min-score all.")] = None,
    where: Annotated[str | None, typer.Option(help="Only rows this predicate selects: \"product = 'card'\".")] = None,
    column: Annotated[list[str], typer.Option(help="A kept column to show; may be repeated.")] = [],  # noqa: B006
    min_score: Annotated[float | None, typer.Option(help="Only rows that score at least so much.")] = None,
    limit: Annotated[
        int, typer.Option(help="Rows of the ranking to look at for --min-score, --distinct and --diversity.")
    ] = LIMIT,
    after: Annotated[str | None, typer.Option(metavar="CURSOR", help="The next page: what the page before said.")] = None,
    distinct: Annotated[str | None, typer.Option(metavar="COLUMN", help="One row for each value of this column.")] = None,
    diversity: Annotated[
        float | None, typer.Option(help="0 to 1: how much the rows are to differ; scores may then rise.")
    ] = None,
    probes: Annotated[
        int | None, typer.Option(help="Lists of the index to visit; more finds more and takes longer.")
    ] = None,
    refine: Annotated[int | None, typer.Option(help="Rows to nominate for each one that is answered.")] = None,
    through: Annotated[
        str | None,
        typer.Option(metavar="BRIDGE", help="Ask rows of an older encoder: the bridge back to it reads the query."),
    ] = None,
) -> None:
    """The rows nearest to a text, an image or an item."""
    found = STATE.open().collection(collection)
    result = found.search(
        text, image=image, item=item, like=like, unlike=unlike, k=k, where=where, columns=column, min_score=min_score,
        limit=limit, after=after, distinct=distinct, diversity=diversity, probes=probes, refine=refine, encoder=encoder,
        through=through,
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
    diversity: Annotated[
        float | None, typer.Option(help="0 to 1: how much the rows are to differ; scores may then rise.")
    ] = None,
) -> None:
    """The rows nearest to a profile: the mean of many items, or of all rows of a subject."""
    result = STATE.open().collection(collection).recommend(
        item or None, subject=subject, half_life=None if half_life is None else timedelta(days=half_life), k=k,
        where=where, columns=column, distinct=distinct, diversity=diversity, encoder=encoder,
    )  # fmt: skip
    _emit_hits(result, column, None)


def _emit_hits(result: SearchResult, column: Sequence[str], limit: int | None) -> None:
    """With a `limit` people are told how to look further; of a verb without --limit and --after there is none."""
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
        "bridged": result.bridged,
    }

    def draw() -> None:
        if hits:
            mapped = result.bridged is not None and result.bridged_hits is not None and "bridged" not in column
            STATE.out.table(hits, ["rank", "score", "id", *column, *(["bridged"] if mapped else [])])
        else:
            STATE.out.say("No row is found.")
        for line in _notes(result, limit):
            STATE.out.say(line)

    STATE.out.emit(facts, draw)


def _notes(result: SearchResult, limit: int | None) -> list[str]:
    """What is to be known of an answer beside its rows."""
    notes = []
    if result.bridged is not None:
        fidelity = result.bridged["fidelity"]
        kept = "" if fidelity["kept"] is None else f", label searches keep {fidelity['kept']:.1%}"
        how = "asked through" if result.bridged_hits is None else "rows are bridged by"
        notes.append(
            f"{how} {result.bridged['encoder']}: recall@10 {fidelity['recall']:.1%} among {fidelity['gallery']:,} rows{kept}"
        )
    if result.missing:
        notes.append(f"{result.coverage:.1%} of the rows were searched: shards {result.missing} did not answer")
    if limit is not None and result.truncated:
        notes.append(f"there may be more: {limit:,} rows were looked at (--limit)")
    if limit is not None and result.cursor:
        notes.append(f"next page: --after {result.cursor}")
    return notes
