"""From an answered part of a request to what is told of it. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from raystore.serve.answer.predicting import One, Part
from raystore.serve.kept.predictions import PredictionRow
from raystore.serve.recording.seal import Seal
from raystore.serve.recording.seen import Seen
from raystore.serve.spec.records import DeploymentRecord


def seen_of(part: Part, request_id: str, who: str, seal: Seal) -> Seen:
    """Content only where a shadow has another encoder, and sealed; facts only where rules run in shadow, and those that they name."""
    record = part.live.record
    content = [one.asked.item for one in part.items if one.asked.item is not None]
    encodes = any(shadow.fingerprint != record.fingerprint for shadow in record.shadow)
    shadow_rules = bool(record.rules.shadow)
    now = datetime.now(UTC)
    return Seen(
        deployment=record.name,
        number=record.number,
        request_id=request_id,
        at=now,
        fingerprint=record.fingerprint,
        vectors=np.asarray(part.vectors),
        rows=tuple(_row(record, one, request_id, now, part.head_ms) for one in part.items),
        facts=tuple(part.live.rules.told(_facts(one, who)) for one in part.items) if shadow_rules else (),
        said=tuple(one.said for one in part.items) if shadow_rules else (),
        content=seal.seal(content) if encodes and len(content) == len(part.items) else None,
    )


def _facts(one: One, who: str) -> dict[str, object]:
    return {**one.asked.facts(who), **one.head.facts, "head": one.by.head}


def _row(record: DeploymentRecord, one: One, request_id: str, now: datetime, head_ms: float) -> PredictionRow:
    item, head, said = one.asked, one.head.said, one.said
    return PredictionRow(
        request=item.id,
        request_id=request_id,
        time=now,
        number=record.number,
        role="live" if one.by.head == record.head else "canary",
        head=one.by.head,
        label=head.label,
        labels=head.labels,
        value=head.value,
        confidence=head.confidence,
        margin=one.head.facts.get("margin"),
        second=one.head.facts.get("second"),
        abstained=head.abstained,
        answered=said.label if said.label != head.label else None,
        rules=said.fired,
        review=said.review,
        latency_ms=head_ms,
        subject=item.subject,
        tenant=item.tenant,
        kept={name: item.columns.get(name) for name in record.keep},
    )
