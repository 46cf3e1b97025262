"""Verbs on indexes, and the search that uses them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raystore.cli.options import CollectionName, EncoderOption, Workers
from raystore.cli.state import STATE

index = typer.Typer(help="Indexes: sharded FAISS over a collection.", no_args_is_help=True, rich_markup_mode=None)


@index.command("build")
def index_build(
    collection: CollectionName,
    shards: Annotated[int, typer.Option(help="Parts it is cut into.")] = 1,
    kind: Annotated[str, typer.Option(help="exact, or ivf (approximate, faster).")] = "exact",
    encoder: EncoderOption = None,
    workers: Workers = None,
) -> None:
    """Build the index that searches use from now on."""
    with STATE.out.progress(f"indexing {collection}") as progress:
        made = STATE.open().collection(collection).build_index(
            shards=shards, kind=kind, encoder=encoder, workers=workers, served="inline", progress=progress
        )  # fmt: skip
    facts = made.model_dump(mode="json")
    STATE.out.emit(
        facts, lambda: STATE.out.say(f"{made.rows:,} rows in {len(made.shards)} shards ({made.kind}), {made.build_s:.1f} s")
    )


@index.command("show")
def index_show(collection: CollectionName, encoder: EncoderOption = None) -> None:
    """The index in use."""
    found = STATE.open().collection(collection).index(encoder)
    facts = found.model_dump(mode="json") if found else None
    STATE.out.emit(
        facts,
        lambda: STATE.out.table(
            [{"field": k, "value": str(v)} for k, v in (facts or {"index": "none; searches read the collection"}).items()]
        ),
    )


def search(
    collection: CollectionName,
    text: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    item: Annotated[str | None, typer.Option(help="Look for neighbours of this id instead.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for neighbours of this image file instead.")] = None,
    encoder: EncoderOption = None,
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    where: Annotated[str | None, typer.Option(help="Only rows this predicate selects: \"product = 'card'\".")] = None,
    column: Annotated[list[str], typer.Option(help="A kept column to show; may be repeated.")] = [],  # noqa: B006
) -> None:
    """The rows nearest to a text, an image or an item."""
    found = STATE.open().collection(collection)
    result = found.search(text, image=image, item=item, k=k, where=where, columns=column, encoder=encoder)
    hits = [{key: v for key, v in hit.items() if key != "query"} for hit in result.to_dicts()]
    facts = {
        "hits": hits,
        "fingerprint": result.fingerprint,
        "index_version": result.index_version,
        "collection_version": result.collection_version,
        "coverage": result.coverage,
        "missing": result.missing,
        "exact": result.exact,
    }
    STATE.out.emit(facts, lambda: STATE.out.table(hits, ["rank", "score", "id", *column]))
