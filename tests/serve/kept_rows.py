"""Predictions as a deployment keeps them: rows of one head over items r0, r1, ..., a minute apart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from raystore.serve.kept.predictions import PredictionRow, Role

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def minute(n: float) -> datetime:
    return NOON + timedelta(minutes=n)


def said(
    head: str,
    answers: Sequence[Any],
    *,
    role: Role = "live",
    start: int = 0,
    subjects: Sequence[str | None] | None = None,
    **more: Any,
) -> list[PredictionRow]:
    """A row an answer: a text is a class, a tuple a set of labels, a float a number."""
    rows = []
    for i, answer in enumerate(answers, start):
        what = "label" if isinstance(answer, str) else "labels" if isinstance(answer, tuple) else "value"
        facts: dict[str, Any] = {"subject": subjects[i - start]} if subjects is not None else {}
        rows.append(
            PredictionRow(
                request=f"r{i}",
                request_id=f"q{i}",
                time=minute(i),
                number=1,
                role=role,
                head=head,
                **{what: answer, "confidence": 0.9, "latency_ms": 0.5, **facts, **more},
            )
        )
    return rows
