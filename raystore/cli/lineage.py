"""lineage and impact: what a thing stands on, and what stands on it."""

from __future__ import annotations

from typing import Annotated

import typer

from raystore.cli.state import STATE


def lineage(reference: Annotated[str, typer.Argument(help="A deployment, head or snapshot: NAME or NAME@NUMBER")]) -> None:
    """Where a thing comes from, back to the SQL, its versions and the encoder."""
    found = STATE.open().lineage(reference)
    STATE.out.emit(found.facts, lambda: STATE.out.say(str(found)))


def impact(
    thing: Annotated[
        str, typer.Argument(help="An encoder (or its fingerprint), a head or a snapshot: NAME or NAME@NUMBER.")
    ],
) -> None:
    """What stands on a thing: collections, indexes, snapshots, heads, deployments, published copies."""
    found = STATE.open().impact(thing)
    STATE.out.emit({"impact": found.facts, "unreadable": found.unreadable}, lambda: STATE.out.say(str(found)))
