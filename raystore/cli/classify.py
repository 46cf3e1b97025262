"""`raystore classify`: which class is a text of, by the labelled rows that lie nearest, or by descriptions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from raystore.cli.heads import head_facts
from raystore.cli.options import CollectionName, EncoderOption
from raystore.cli.state import STATE
from raystore.errors import InvalidArguments

_SHOWN = 5  # neighbours of a text, for people

registered = typer.Typer(rich_markup_mode=None)  # its verb stands among those of `head`

Labels = Annotated[
    str | None, typer.Option(metavar="TABLE.COLUMN", help="Where the labels stand: a table's column, or a kept column.")
]
Descriptions = Annotated[
    list[str], typer.Option("--describe", metavar="CLASS=WORDS", help="What a class is about; may be repeated.")
]
Voters = Annotated[int, typer.Option("-k", help="Neighbours that vote.")]
Threshold = Annotated[float | None, typer.Option(help="Abstain below this confidence.")]


def classify(
    collection: CollectionName,
    text: Annotated[str | None, typer.Argument(help="What to classify.")] = None,
    item: Annotated[str | None, typer.Option(help="Classify the row of this id instead; it has no vote itself.")] = None,
    image: Annotated[Path | None, typer.Option(help="Classify this image file instead.")] = None,
    labels: Labels = None,
    description: Descriptions = [],  # noqa: B006
    k: Voters = 20,
    probes: Annotated[int | None, typer.Option(help="Lists of the index to visit.")] = None,
    threshold: Threshold = None,
    encoder: EncoderOption = None,
) -> None:
    """The class of a text by the vote of the nearest labelled rows; of described classes no row needs a label."""
    described = _classes(description, labels, "classify")
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


@registered.command("neighbours")
def head_neighbours(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The head's name.")],
    collection: CollectionName,
    labels: Labels = None,
    description: Descriptions = [],  # noqa: B006
    k: Voters = 20,
    probes: Annotated[int | None, typer.Option(help="Lists of the index to visit.")] = None,
    threshold: Threshold = None,
    encoder: EncoderOption = None,
) -> None:
    """Publish `classify` as a head: by name, in versions, deployable. It follows the collection and its labels."""
    described = _classes(description, labels, "head neighbours")
    made = STATE.open().register_classifier(
        name, collection, labels=described or labels or {}, labelled=labels if described else None,
        k=k, probes=probes, threshold=threshold, encoder=encoder,
    )  # fmt: skip
    STATE.out.emit(head_facts(made), lambda: STATE.out.say(f"{made.label}\n{made.report}"))


def _classes(pairs: Sequence[str], labels: str | None, call: str) -> dict[str, str]:
    """What is described, perhaps nothing; InvalidArguments where there are no labels either."""
    described = _described(pairs, call)
    if not described and labels is None:
        raise InvalidArguments(call=call, problems=["expected --labels, --describe, or both"])
    return described


def _described(pairs: Sequence[str], call: str) -> dict[str, str]:
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
        raise InvalidArguments(call=call, problems=problems)
    return found
