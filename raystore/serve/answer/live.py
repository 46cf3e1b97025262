"""A deployment in memory: its record, the heads that answer, its rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raystore.serve.answer.asked import Asked, share
from raystore.serve.answer.served import ServedHead
from raystore.serve.rules.engine import Rules
from raystore.serve.spec.records import DeploymentRecord, HeadRef
from raystore.serve.spec.rules import RulesSpec
from raystore.vectors import Vectors

Evidence = Callable[[Vectors, int], list[list[dict[str, Any]]]]  # of each row so many labelled rows, nearest first


@dataclass(frozen=True)
class Live:
    """A deployment as it answers. `canary` is the head of the record's canary, where it has one."""

    record: DeploymentRecord
    head: ServedHead
    canary: ServedHead | None = None
    rules: Rules = field(default_factory=lambda: Rules(RulesSpec()))
    evidence: Evidence | None = None

    def goes_to_canary(self, asked: Asked) -> bool:
        canary = self.record.canary
        if canary is None:
            return False
        key = asked.subject if canary.by == "subject" and asked.subject is not None else asked.id
        return 100 * share(f"canary {self.record.name}", key) < canary.percent

    @property
    def lineage(self) -> dict[str, Any]:
        return self.lineage_of(self.record)

    def lineage_of(self, head: HeadRef) -> dict[str, Any]:
        """Of the live head, or of the canary."""
        return {
            "deployment": self.record.name,
            "number": self.record.number,
            "head": head.head,
            "snapshot": head.snapshot.model_dump() if head.snapshot else None,
            "voters": head.voters.model_dump() if head.voters else None,
            "encoder": head.encoder,
            "fingerprint": head.fingerprint,
        }
