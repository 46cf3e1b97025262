"""Verbs on what is made of vectors: head, index, search, lineage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from raystore.cli.data import Workers
from raystore.cli.state import STATE
from raystore.train.heads import Kind

CollectionName = Annotated[str, typer.Argument(help="Its name.")]
EncoderOption = Annotated[str | None, typer.Option(help="Needed where the collection has several.")]

head = typer.Typer(help="Heads: shallow models on an encoder's vectors.", no_args_is_help=True, rich_markup_mode=None)
index = typer.Typer(help="Indexes: sharded FAISS over a collection.", no_args_is_help=True, rich_markup_mode=None)


@head.command("train")
def head_train(
    name: Annotated[str, typer.Argument(help="Small letters, digits, '_' and '-'.")],
    snapshot: Annotated[str, typer.Option(help="NAME or NAME@NUMBER of the training set.")],
    kind: Annotated[Kind, typer.Option(help="What to train.")] = "linear",
    encoder: EncoderOption = None,
    seed: Annotated[int, typer.Option(help="Of the random parts (order, mlp's first weights).")] = 0,
    workers: Workers = None,
) -> None:
    """Train a head and print its report."""
    made = STATE.open().train_head(name, snapshot=snapshot, kind=kind, encoder=encoder, seed=seed, workers=workers)
    STATE.out.emit(_head_facts(made), lambda: STATE.out.say(f"{made!r}\n\n{made.report}"))


@head.command("list")
def head_list() -> None:
    """Heads with accuracy."""
    rows = [
        {"head": h.label, "kind": h.kind, "classes": len(h.classes), "accuracy": h.report.accuracy, "encoder": h.encoder}
        for h in STATE.open().heads
    ]
    STATE.out.emit(rows, lambda: STATE.out.table(rows, ["head", "kind", "classes", "accuracy", "encoder"]))


@head.command("show")
def head_show(reference: Annotated[str, typer.Argument(help="NAME or NAME@NUMBER")]) -> None:
    """A head's report and where it comes from."""
    found = STATE.open().heads.get(reference)
    STATE.out.emit(_head_facts(found), lambda: STATE.out.say(f"{found!r}\n\n{found.report}"))


@head.command("predict")
def head_predict(
    reference: Annotated[str, typer.Argument(help="NAME or NAME@NUMBER")],
    text: Annotated[list[str], typer.Argument(help="Texts; none reads one a line from standard input.")] = [],  # noqa: B006
) -> None:
    """Predict labels of texts in this process."""
    store = STATE.open()
    found = store.heads.get(reference)
    texts = text or [line for line in sys.stdin.read().splitlines() if line.strip()]
    predicted = found.predict(store.encoder(found.fingerprint).encode(texts))
    rows = [
        {"label": label, "confidence": float(c)} for label, c in zip(predicted.labels, predicted.confidence, strict=True)
    ]
    STATE.out.emit(rows, lambda: STATE.out.table(rows))


def _head_facts(found: Any) -> dict[str, Any]:
    return {
        "head": found.label,
        "kind": found.kind,
        "classes": found.classes,
        "encoder": found.encoder,
        "fingerprint": found.fingerprint,
        "snapshot": found.snapshot,
        "report": found.report.model_dump(mode="json"),
    }


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


def lineage(reference: Annotated[str, typer.Argument(help="A deployment, head or snapshot: NAME or NAME@NUMBER")]) -> None:
    """Where a thing comes from, back to the SQL, its versions and the encoder."""
    found = STATE.open().lineage(reference)
    STATE.out.emit(found.facts, lambda: STATE.out.say(str(found)))
