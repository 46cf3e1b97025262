"""`raystore classify`: which class is a text of, by the labelled rows that lie nearest, or by descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from raystore.cli.options import CollectionName, EncoderOption
from raystore.cli.state import STATE
from raystore.errors import InvalidArguments

_SHOWN = 5  # neighbours of a text, for people


def classify(
    collection: CollectionName,
    text: Annotated[str | None, typer.Argument(help="What to classify.")] = None,
    item: Annotated[str | None, typer.Option(help="Classify the row of this id instead; it has no vote itself.")] = None,
    image: Annotated[Path | None, typer.Option(help="Classify this image file instead.")] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="TABLE.COLUMN", help="Where the labels stand: a table's column, or a kept column.")
    ] = None,
    description: Annotated[
        list[str], typer.Option("--describe", metavar="CLASS=WORDS", help="What a class is about; may be repeated.")
    ] = [],  # noqa: B006
    k: Annotated[int, typer.Option("-k", help="Neighbours that vote.")] = 20,
    probes: Annotated[int | None, typer.Option(help="Lists of the index to visit.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Abstain below this confidence.")] = None,
    encoder: EncoderOption = None,
) -> None:
    """The class of a text by the vote of the nearest labelled rows; of described classes no row needs a label."""
    described = _described(description)
    if not described and labels is None:
        raise InvalidArguments(call="classify", problems=["expected --labels, --describe, or both"])
    told = STATE.open().collection(collection).classify(
        text, item=item, image=image, labels=described or labels or {}, labelled=labels if described else None,
        k=k, probes=probes, threshold=threshold, encoder=encoder,
    )  # fmt: skip
    (answer,) = told.to_dicts()
    facts = answer | {
        "fingerprint": told.fingerprint,
        "index_version": told.index_version,
        "collection_version": told.collection_version,
        "labels_version": told.labels_version,
        "coverage": told.coverage,
        "missing": told.missing,
        "exact": told.exact,
    }

    def draw() -> None:
        said = f", but {answer['why']}" if answer["abstained"] else ""
        STATE.out.say(f"{answer['label']} ({answer['confidence']:.1%}{said})")
        STATE.out.table(answer["probabilities"], ["label", "probability"])
        if answer["evidence"]:
            STATE.out.table(answer["evidence"][:_SHOWN], ["score", "id", "label"], title="The nearest labelled rows")

    STATE.out.emit(facts, draw)


def _described(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    problems = []
    for place, pair in enumerate(pairs, 1):
        name, equals, words = pair.partition("=")
        if not equals or not name.strip():
            problems.append(f"--describe number {place} is not CLASS=WORDS")
        elif name.strip() in found:
            problems.append(f"--describe names class '{name.strip()[:80]}' twice")
        found[name.strip()] = words.strip()
    if problems:
        raise InvalidArguments(call="classify", problems=problems)
    return found
