"""From what was asked to predictions: rules, encode, head, rules, in that order, for all items of a request at once.

Pure: handed the encoders. A request's items may be answered by several deployments (a rule's route) and by several heads (a
canary); each part is encoded and predicted whole. Keeps nothing of what it is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raystore.errors import (
    ColumnsRequired,
    DeploymentNotFound,
    HookFailed,
    InvalidArguments,
    InvalidVectors,
    ItemsUnusable,
    PassportMismatch,
    QuotaExceeded,
    RuleRefused,
)
from raystore.serve.answer.asked import Asked, share
from raystore.serve.answer.batching import BatchingEncoder
from raystore.serve.answer.deadline import check_in_time
from raystore.serve.answer.live import Live
from raystore.serve.answer.said import Spoken, check_probabilities, shown, spoken
from raystore.serve.answer.timer import Timer
from raystore.serve.rules.said import Passed, Said
from raystore.serve.spec.records import DeploymentRecord, HeadRef
from raystore.vectors import Vectors, as_unit_rows, mark

Fired = Callable[[str, str], None]  # told a deployment and its rule, whatever becomes of the request

_MOST_ROUTES = 4  # a deployment routes to another, which may route again; `serve check` refuses circles


@dataclass(frozen=True)
class One:
    """One item, and what became of it: what the head said, and what was answered after the rules."""

    place: int  # in the request
    asked: Asked
    by: HeadRef
    head: Spoken
    said: Said

    @property
    def prediction(self) -> dict[str, Any]:
        return {**shown(self.said, self.head), "id": self.asked.id, "by": self.by.head}


@dataclass(frozen=True)
class Part:
    """The items of a request that one deployment answers; `vectors` (n, d) are of the head's encoder."""

    live: Live
    items: list[One]
    vectors: Vectors
    head_ms: float


@dataclass
class _Routed:
    """What one deployment is to answer."""

    places: list[int]
    fired: list[tuple[str, ...]]


async def predict_parts(
    name: str,
    asked: Sequence[Asked],
    *,
    deployments: Mapping[str, Live],
    encoder: Callable[[str], BatchingEncoder],
    fingerprint: str | None,
    who: str,
    top: int,
    timer: Timer,
    where: str,
    passed: list[Passed],
    fired: Fired,
) -> list[Part]:
    """The parts of a request, each predicted. What nobody waits for any more (`deadline.py`) is not asked further.

    Args:
        deployments: those that are served.
        encoder: of a fingerprint.
        fingerprint: of the encoder that made the vectors among `asked`.
        who: the name of who asks.
        top: labels to name with their probabilities.
        where: what error sentences call this service.
        passed: gets what rules let through, with what their quotas counted: whoever does not answer in the end gives it back.
        fired: told of every rule that fires.

    Raises:
        DeploymentNotFound, RuleRefused, ColumnsRequired, QuotaExceeded, HookFailed, ItemsUnusable, PassportMismatch, InvalidVectors,
        DimensionMismatch, DeadlineMissed. InvalidArguments: more probabilities than an answer may name.
    """
    with timer.stage("rules"):
        groups = _routed(name, asked, deployments, who, where, passed, fired)
        check_probabilities(name, sum(_named(deployments[to], len(group.places), top) for to, group in groups.items()))
    parts = []
    for to, group in groups.items():
        live, mine = deployments[to], [asked[i] for i in group.places]
        with timer.stage("encode"):
            try:
                vectors = await _vectors(live, mine, encoder(live.record.reads), fingerprint, timer)
            except (ItemsUnusable, InvalidVectors) as error:
                raise _in_request(error, asked, group.places) from None
        check_in_time("before the head was asked")
        parts.append(await _answered(live, group, mine, vectors, who, top, timer, fired))
    check_in_time("before it was answered")
    return parts


def _named(live: Live, n: int, top: int) -> int:
    """How many probabilities the answers to n items name at most."""
    heads = (live.head,) if live.canary is None else (live.head, live.canary)
    return n * min(top, max(len(head.classes) for head in heads))


def _routed(
    name: str,
    asked: Sequence[Asked],
    deployments: Mapping[str, Live],
    who: str,
    where: str,
    passed: list[Passed],
    told: Fired,
) -> dict[str, _Routed]:
    """By the deployment that answers, its items; every rule's answer is added to `passed`."""
    groups: dict[str, _Routed] = {}
    for place, item in enumerate(asked):
        to: str = name
        fired: tuple[str, ...] = ()
        for _ in range(_MOST_ROUTES + 1):
            live = deployments.get(to)
            if live is None:
                raise DeploymentNotFound(name=to, where=where, existing=sorted(deployments))
            if not live.record.rules.before:
                break
            try:
                one = live.rules.before(item.facts(who), item=place, n_items=len(asked))
            except (RuleRefused, ColumnsRequired, QuotaExceeded, HookFailed) as error:
                told(to, error.rule)
                raise
            for rule in one.fired:
                told(to, rule)
            passed.append(one)
            fired = (*fired, *one.fired)
            if one.route is None:
                break
            to = one.route
        else:
            problem = f"more than {_MOST_ROUTES} rules route one item on, from {name} to {to} at last"
            raise InvalidArguments(call=f"predict '{name}'", problems=[problem])
        group = groups.setdefault(to, _Routed([], []))
        group.places.append(place)
        group.fired.append(fired)
    return groups


async def _answered(
    live: Live, group: _Routed, asked: list[Asked], vectors: Vectors, who: str, top: int, timer: Timer, told: Fired
) -> Part:
    record = live.record
    with timer.stage("head"):
        canary = [live.goes_to_canary(item) for item in asked]
        heads = await _spoken(live, vectors, canary, top)
    head_ms = 1e3 * timer.stages[-1].seconds
    items: list[One] = []
    with timer.stage("rules"):
        for place, fired, item, to_canary, head in zip(group.places, group.fired, asked, canary, heads, strict=True):
            by = record.canary if to_canary and record.canary else record
            said = replace(head.said, fired=fired) if fired else head.said
            if record.rules.after:
                said = live.rules.after({**item.facts(who), **head.facts, "head": by.head}, said)
                for rule in said.fired[len(fired) :]:
                    told(record.name, rule)
            if _to_review(record, item, said) != said.review:
                said = replace(said, review=not said.review)
            items.append(One(place, item, by, head, said))
    return Part(live, items, vectors, head_ms)


def _in_request(
    error: ItemsUnusable | InvalidVectors, asked: Sequence[Asked], places: Sequence[int]
) -> ItemsUnusable | InvalidVectors:
    """The error with places among all contents, or all vectors, of the request: a part counts its own alone."""
    vectors = isinstance(error, InvalidVectors)
    alike = [place for place, item in enumerate(asked) if (item.item is None) == vectors]
    mine = [alike.index(place) for place in places if (asked[place].item is None) == vectors]
    problems = [(mine[place], reason) for place, reason in error.problems]
    if isinstance(error, InvalidVectors):
        return InvalidVectors(call=error.call, n_vectors=len(alike), problems=problems)
    return ItemsUnusable(call=error.call, n_items=len(alike), problems=problems)


async def _vectors(
    live: Live, asked: Sequence[Asked], encoder: BatchingEncoder, fingerprint: str | None, timer: Timer
) -> Vectors:
    """(n, d) unit rows of the head's encoder: encoded here, or given and checked."""
    content = [item.item for item in asked if item.item is not None]
    if len(content) == len(asked):
        vectors = await encoder.encode_soon(content, timer=timer)
    else:
        if fingerprint != encoder.fingerprint:
            raise PassportMismatch(
                asker=f"deployment '{live.record.name}'",
                expected=encoder.fingerprint,
                found=fingerprint or "no fingerprint",
                advice="Encode with the deployment's encoder: an answer to a text says its fingerprint.",
            )
        given = np.asarray([item.item is None for item in asked])
        rows = np.empty((len(asked), encoder.dim), np.float32)
        rows[given] = as_unit_rows([item.vector for item in asked if item.item is None], encoder.dim, "predict")
        if content:
            rows[~given] = await encoder.encode_soon(content, timer=timer)
        vectors = mark(rows, encoder.fingerprint)
    if live.record.through is not None and encoder.bridge is not None:
        return encoder.bridge.ask(vectors)
    return vectors


async def _spoken(live: Live, vectors: Vectors, canary: Sequence[bool], top: int) -> list[Spoken]:
    """What the head says of each row: the live one, or the canary where it is its turn."""
    if live.canary is None or not any(canary):
        return spoken(live.head.task, await live.head.ask(vectors), len(vectors), top)
    turn = np.asarray(canary)
    found: dict[int, Spoken] = {}
    for head, mine in ((live.head, ~turn), (live.canary, turn)):
        chosen = np.flatnonzero(mine)
        if len(chosen):
            part = mark(np.asarray(vectors)[chosen], live.record.fingerprint)
            found |= dict(zip(chosen.tolist(), spoken(head.task, await head.ask(part), len(chosen), top), strict=True))
    return [found[i] for i in range(len(vectors))]


def _to_review(record: DeploymentRecord, asked: Asked, said: Said) -> bool:
    policy = record.review
    if policy is None:
        return False
    return said.review or (policy.abstained and said.abstained) or share(f"review {record.name}", asked.id) < policy.sample
