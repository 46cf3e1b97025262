"""`collection graph` and `collection duplicates`: who is near whom in a whole collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raystore.cli.options import CollectionName, EncoderOption, Workers
from raystore.cli.state import STATE

if TYPE_CHECKING:
    from raystore.index.pairs.table import PairTable

pairs = typer.Typer(rich_markup_mode=None)  # its verbs stand among those of `collection`

_SHOWN = 20

Where = Annotated[str | None, typer.Option(help="Only rows this predicate selects: \"product = 'card'\".")]
Exact = Annotated[
    bool | None,
    typer.Option(
        "--exact/--approximate",
        help="Compare every row with every other, or ask the index; by default the index, if there is one, above 50,000 rows.",
    ),
]


@pairs.command("graph")
def collection_graph(
    name: CollectionName,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each row.")] = 10,
    where: Where = None,
    exact: Exact = None,
    encoder: EncoderOption = None,
    workers: Workers = None,
) -> None:
    """The nearest neighbours of every row, as a table in the store."""
    with STATE.out.progress(f"comparing {name}") as progress:
        found = STATE.open().collection(name).knn_graph(
            k=k, where=where, exact=exact, encoder=encoder, workers=workers, progress=progress
        )  # fmt: skip
    head = found.dataset().head(_SHOWN).to_pylist()
    _emit(found, {"head": head}, head)


@pairs.command("duplicates")
def collection_duplicates(
    name: CollectionName,
    threshold: Annotated[float, typer.Option(help="The cosine from which two rows count as duplicates.")] = 0.95,
    limit: Annotated[int, typer.Option(help="Pairs a row that are looked for.")] = 100,
    where: Where = None,
    exact: Exact = None,
    encoder: EncoderOption = None,
    workers: Workers = None,
) -> None:
    """The pairs of rows that are nearly the same, and the groups they form, as a table in the store."""
    with STATE.out.progress(f"comparing {name}") as progress:
        found = STATE.open().collection(name).duplicates(
            threshold=threshold, limit=limit, where=where, exact=exact, encoder=encoder, workers=workers, progress=progress
        )  # fmt: skip
    groups = sorted(found.groups(), key=len, reverse=True)[:_SHOWN]  # of one length, the one with the row added first
    shown = [{"rows": len(group), "ids": ", ".join(group[:5]) + (", ..." if len(group) > 5 else "")} for group in groups]
    _emit(found, {"largest": groups}, shown)


def _emit(found: PairTable, more: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    def draw() -> None:
        STATE.out.say(repr(found).removeprefix("PairTable: "))
        if rows:
            STATE.out.table(rows)
        STATE.out.say(f"\nAll of it: {found.path}")

    STATE.out.emit({**found.facts.model_dump(mode="json"), "number": found.number, "table": str(found.path), **more}, draw)
