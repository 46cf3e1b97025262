"""The alias that a promotion moves, in two steps of which the first says what the second will do.

The record of a promotion names the number under which its alias comes to mean the new head (`alias_record`); the alias is moved
then. Whoever changes the deployment next looks first, and moves it where a crash kept that from being done. Once the number is taken,
by whomever, nothing is moved any more. Files alone; costs a small file or two.
"""

from __future__ import annotations

from contextlib import suppress

from raystore.catalog import Catalog
from raystore.train.registry import KIND


def alias_of(asked: str, name: str) -> str | None:
    """The alias of head `name` that a deployment was asked for by; None where it was another head, or a number."""
    head, _, version = asked.partition("@")
    return version if head == name and version and not version.isdecimal() else None


def next_place(catalog: Catalog, asked: str, head: str) -> int | None:
    """The number of the record by which the alias 'refunds@live' comes to mean 'refunds@3'; None where it means that already."""
    latest = catalog.latest(catalog.layout.aliases(KIND, asked))
    if latest is not None and latest[1]["number"] == _number(head):
        return None
    return 1 if latest is None else latest[0] + 1


def settle(catalog: Catalog, deployment: str) -> None:
    """Move the alias that the deployment's newest record moves, unless that is done, or somebody else has moved it since."""
    latest = catalog.latest(catalog.layout.deployment(deployment))
    place = latest[1].get("alias_record") if latest is not None else None
    if latest is None or place is None:
        return
    folder = catalog.layout.aliases(KIND, latest[1]["asked"])
    if catalog.record(folder, place) is None:
        with suppress(FileExistsError):  # another process settled it just now
            catalog.put(folder, {"number": _number(latest[1]["head"])}, only=place)


def _number(head: str) -> int:
    return int(head.rpartition("@")[2])
