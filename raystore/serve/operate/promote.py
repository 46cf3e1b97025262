"""Promotion and roll-back: a new record of the deployment, which every process of the service takes up within a second or two.

A record is published whole, as the one after the record it was made from: where somebody else published meanwhile, everything is looked
at again, and nothing of theirs is undone. A request ends with the record it began with: none fails. Knows no HTTP, no Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raystore.errors import DeploymentNotFound, GateHeld, HeadNotFound, InvalidArguments
from raystore.serve.answer.loading import Rooms
from raystore.serve.shadow.gate import Gate, Verdict
from raystore.serve.shadow.report import ShadowReport
from raystore.serve.spec.alias import alias_of, next_place, settle
from raystore.serve.spec.apart import check_apart
from raystore.serve.spec.base import Strict
from raystore.serve.spec.deployment import MOST_SHADOWS, CanarySpec, DeploymentSpec, HeadSpec, ShadowSpec
from raystore.serve.spec.records import (
    DeploymentRecord,
    deployment_history,
    deployment_records,
    publish_record,
)


class Promoted(Strict):
    """What was done: the deployment's number, the head that answered before, the one that answers now.

    `alias` means the new head from now on, where the deployment's file names an alias of it; else `file_names` is what the file says,
    and the next deploy from it would bring back.
    """

    deployment: str
    number: int
    before: str
    after: str
    why: str
    alias: str | None = None
    file_names: str | None = None
    verdict: Verdict | None = None


def promote(
    rooms: Rooms,
    head: str,
    *,
    deployment: str | None = None,
    gate: str | None = None,
    reports: Callable[[str], Sequence[ShadowReport]] | None = None,
) -> Promoted:
    """Let a shadow or canary answer; the head that answered becomes a shadow.

    Args:
        head: 'refunds@3', or an alias of it.
        deployment: by default the only one that has it as a shadow or canary.
        gate: a condition on the shadow's report ("agreement > .97 and accuracy_gain.low > 0"); without it, none.
        reports: of a deployment, for the gate.

    Raises:
        DeploymentNotFound, HeadNotFound: names what there is. GateHeld: the condition does not hold, or cannot be told.
        InvalidArguments: the head is no shadow of the deployment, or of several; the deployment has no room for one more shadow; the
            service has no place for the head's encoder. PassportMismatch: the log has another encoder. Nothing was changed.
    """
    found = rooms.heads.get(head)
    label = f"{found.name}@{found.number}"
    while True:  # until nobody published another record meanwhile
        record = _with_shadow(rooms, label, deployment)
        verdict = None
        if gate is not None:
            verdict = _verdict(Gate.parse(gate), label, record.head, reports(record.name) if reports else ())
            if not verdict.passed:
                raise GateHeld(head=label, gate=verdict.gate, found="; ".join(_reasons(verdict)))
        why = f"promoted {label} over {record.head}" + (f": {verdict.gate}" if verdict else "")
        done = _published(rooms, record, _promoted(record, label), "promote", why, verdict)
        if done is not None:
            return done


def rollback(rooms: Rooms, deployment: str, *, to: int | None = None) -> Promoted:
    """Let what answered before answer again: the newest earlier record with another live head, or the one of number `to`. Its
    heads come back; rules, log, review and what is kept stay as they are now.

    Raises:
        DeploymentNotFound: names the deployments there are. InvalidArguments: there is no such record, or the service has no place for
            the head's encoder. HeadNotFound: its head is gone.
    """
    while True:  # as in `promote`
        present = _record(rooms, deployment)
        chosen = _earlier(present, deployment_history(rooms.catalog, deployment), to)
        why = f"rolled back from {present.head} to {chosen.head}, record {chosen.number}"
        done = _published(rooms, present, _with_heads_of(present, chosen), "rollback", why)
        if done is not None:
            return done


def _published(
    rooms: Rooms, present: DeploymentRecord, spec: DeploymentSpec, call: str, why: str, verdict: Verdict | None = None
) -> Promoted | None:
    """What was done, the alias moved; None where somebody published a record after `present`: all has to be looked at anew then."""
    settle(rooms.catalog, present.name)  # the alias of a promotion before that was cut off
    head = spec.head.name
    alias = alias_of(present.asked, head.rpartition("@")[0])
    named = _named_by_file(deployment_history(rooms.catalog, present.name))
    changes = {
        "asked": present.asked if alias else head,
        "alias_record": next_place(rooms.catalog, present.asked, head) if alias else None,
        "why": why,
    }
    new = rooms.resolved(present.name, spec).model_copy(update=changes)
    if new.reads != present.reads:
        check_apart(rooms.catalog, new, f"{call} '{present.name}'")
    published = publish_record(rooms.catalog, new, over=present.number)
    if published is None:
        return None
    settle(rooms.catalog, present.name)
    return Promoted(
        deployment=present.name,
        number=published.number,
        before=present.head,
        after=head,
        why=why,
        alias=present.asked if alias else None,
        file_names=None if alias else named,
        verdict=verdict,
    )


def _earlier(present: DeploymentRecord, history: Sequence[DeploymentRecord], to: int | None) -> DeploymentRecord:
    """The record to return to: number `to`, or the newest with another head than the present one's. InvalidArguments."""
    for each in reversed(history):
        if each.number == to or (to is None and each.head != present.head):
            return each
    numbers = ", ".join(f"{each.number} ({each.head})" for each in history)
    wanted = f"record {to}" if to is not None else "an earlier record with another head"
    problem = f"there is no {wanted}; there are: {numbers}"
    raise InvalidArguments(call=f"rollback '{present.name}'", problems=[problem])


def _with_heads_of(present: DeploymentRecord, chosen: DeploymentRecord) -> DeploymentSpec:
    """The deployment as it is, with the heads of an earlier record: rules, log, review and what is kept have their own reasons."""
    placed = present.own.model_dump(by_alias=True) if present.own else {}
    canary = chosen.canary
    return DeploymentSpec(
        head=HeadSpec(name=chosen.head, own=present.own is not None, **placed),
        through=chosen.through.encoder.partition("@")[0] if chosen.through else None,
        log=present.log,
        shadow=[ShadowSpec(head=each.head, sample=each.sample) for each in chosen.shadow],
        canary=CanarySpec(head=canary.head, percent=canary.percent, by=canary.by) if canary else None,
        rules=present.rules,
        review=present.review,
        keep=list(present.keep),
    )


def _named_by_file(history: Sequence[DeploymentRecord]) -> str:
    """How the deployment's file names its head: what was last recorded by anything but a promotion or a roll-back."""
    return next((each.asked for each in reversed(history) if each.why is None), history[-1].asked)


def _record(rooms: Rooms, name: str) -> DeploymentRecord:
    records = deployment_records(rooms.catalog)
    if name not in records:
        raise DeploymentNotFound(name=name, where=f"store '{rooms.layout.root}'", existing=sorted(records))
    return records[name]


def _with_shadow(rooms: Rooms, head: str, name: str | None) -> DeploymentRecord:
    """The deployment that has the head as a shadow or canary."""
    records = deployment_records(rooms.catalog) if name is None else {name: _record(rooms, name)}
    having = [record for record in records.values() if any(each.head == head for each in record.heads[1:])]
    if len(having) == 1:
        return having[0]
    if having:
        names = ", ".join(record.name for record in having)
        problem = f"{head} is a shadow of several deployments: {names}; name one with deployment="
        raise InvalidArguments(call=f"promote '{head}'", problems=[problem])
    if answering := [record.name for record in records.values() if record.head == head]:
        problem = f"it answers already in {', '.join(answering)}: there is nothing to promote"
        raise InvalidArguments(call=f"promote '{head}'", problems=[problem])
    heads = sorted({each.head for record in records.values() for each in record.heads[1:]})
    if not heads:
        whose = f"deployment '{name}'" if name else "any deployment"
        problem = (
            f"there is no shadow or canary of {whose}; name {head} in shadow: or canary: of its file, and deploy it first"
        )
        raise InvalidArguments(call=f"promote '{head}'", problems=[problem])
    where = f"the shadows and canaries of deployment '{name}'" if name else "the shadows and canaries of the deployments"
    raise HeadNotFound(name=head, where=where, existing=heads)


def _promoted(record: DeploymentRecord, head: str) -> DeploymentSpec:
    """The deployment's spec with that head live, and the one before it in its shadow."""
    shadows = [ShadowSpec(head=each.head, sample=each.sample) for each in record.shadow if each.head != head]
    canary = record.canary
    stays = canary is not None and canary.head != head
    new = next(each for each in record.heads if each.head == head)
    through = record.through.encoder.partition("@")[0] if record.through and new.fingerprint == record.fingerprint else None
    if stays and canary is not None and canary.fingerprint != new.fingerprint:
        shadows.append(ShadowSpec(head=canary.head))
        stays = False
    shadows.append(ShadowSpec(head=record.head))
    if len(shadows) > MOST_SHADOWS:
        problem = (
            f"deployment '{record.name}' would have {len(shadows)} shadows then, with {record.head} among them, and {MOST_SHADOWS} are "
            "the most: take one out of its file, deploy it, and promote again"
        )
        raise InvalidArguments(call=f"promote '{head}'", problems=[problem])
    placed = record.own.model_dump(by_alias=True) if record.own else {}
    return DeploymentSpec(
        head=HeadSpec(name=head, own=record.own is not None, **placed),
        through=through,
        log=record.log,
        shadow=shadows,
        canary=CanarySpec(head=canary.head, percent=canary.percent, by=canary.by) if canary and stays else None,
        rules=record.rules,
        review=record.review,
        keep=list(record.keep),
    )


def _verdict(gate: Gate, head: str, live: str, reports: Sequence[ShadowReport]) -> Verdict:
    """What the gate says of the head beside the one that answers now: a report beside an earlier one tells nothing of it."""
    found = next((each for each in reports if (each.shadow, each.live) == (head, live)), None)
    if found is None:
        raise GateHeld(head=head, gate=str(gate), found="no request was seen by both it and the live head")
    return gate.check(found)


def _reasons(verdict: Verdict) -> list[str]:
    held = [clause for clause in verdict.clauses if not clause.held]
    values = [
        f"{clause.text} with {', '.join(f'{name} = {value:.4g}' for name, value in clause.values.items() if value is not None)}"
        for clause in held
        if any(value is not None for value in clause.values.values())
    ]
    return [*values, *(sentence.removesuffix(".") for sentence in verdict.missing)]
