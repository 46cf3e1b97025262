"""What of one deployment is not there or does not fit, part by part, so that all of it is told at once.

Reads the records of heads, collections and bridges; loads no encoder, publishes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from raystore.errors import RaystoreError
from raystore.serve.answer.loading import Rooms
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import deployment_history
from raystore.train.heads import HeadRecord


def misfits(name: str, wanted: DeploymentSpec, rooms: Rooms) -> list[str]:
    """A sentence for each part that is not there or does not fit, after its field: 'head: no head ...'.

    Each is looked at beside the head alone. Where the head is not there, so is all that has to fit it: of the rest is only told
    what is not there itself.
    """
    found: list[str] = []

    def stands(field: str, look: Callable[[], object]) -> bool:
        try:
            look()
        except RaystoreError as error:
            found.append(f"{field}: {error}")
            return False
        return True

    def beside(spec: DeploymentSpec, **parts: object) -> Callable[[], object]:
        return partial(rooms.resolved, name, spec.model_copy(update=parts))

    alone = wanted.model_copy(update={"through": None, "log": None, "shadow": [], "canary": None})
    there = stands("head", beside(alone))
    bridged = alone.model_copy(update={"through": wanted.through})
    fits = stands("through", beside(bridged) if there else partial(rooms.bridge, wanted.through))
    if wanted.log is not None:
        stands("log", beside(bridged, log=wanted.log) if there and fits else partial(rooms.held, wanted.log.collection))
    for shadow in wanted.shadow:
        stands("shadow", partial(rooms.heads.get, shadow.head))
    if wanted.canary is not None:
        look = beside(alone, canary=wanted.canary) if there else partial(rooms.heads.get, wanted.canary.head)
        stands("canary", look)
    return found


def head_there(reference: str, rooms: Rooms) -> HeadRecord | None:
    """What is known of a head; None where it is not there, which `misfits` tells."""
    try:
        return rooms.heads.record(reference)
    except RaystoreError:
        return None


def heads_there(wanted: DeploymentSpec, rooms: Rooms) -> list[HeadRecord]:
    """Those of its heads that are there."""
    canary = [wanted.canary.head] if wanted.canary is not None else []
    names = (wanted.head.name, *(each.head for each in wanted.shadow), *canary)
    return [head for name in names if (head := head_there(name, rooms)) is not None]


def labels_given(name: str, wanted: DeploymentSpec, rooms: Rooms) -> frozenset[str] | None:
    """Every label that a head of the deployment can give; None where that cannot be told.

    Heads of its earlier records are among them: a roll-back may bring one back, and a rule that was written for it has to pass
    when the service is started again after a promotion. A head of kind "neighbours" gives whatever labels its rows come to have.
    """
    if head_there(wanted.head.name, rooms) is None:
        return None
    earlier = {each.head for record in deployment_history(rooms.catalog, name) for each in record.heads}
    heads = heads_there(wanted, rooms) + [head for each in earlier if (head := head_there(each, rooms)) is not None]
    if any(head.task != "classes" or head.voters is not None for head in heads):
        return None
    return frozenset(label for head in heads for label in head.classes)
