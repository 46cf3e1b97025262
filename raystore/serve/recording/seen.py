"""What a replica tells the recording process of a request it answered: vectors, what was said, kept columns; content sealed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from raystore.serve.kept.predictions import PredictionRow
from raystore.serve.lane import weight
from raystore.serve.rules.said import Said
from raystore.vectors import Matrix


@dataclass(frozen=True, slots=True)
class Seen:
    """The part of a request that one deployment answered, item by item.

    `vectors` (n, d) float32 are unit rows of the encoder `fingerprint`. `facts` are what rules in shadow look at, and `said` what
    was answered; there only where the deployment has such rules. `content` is sealed, and there only where a shadow has another
    encoder and all items came with content.
    """

    deployment: str
    number: int
    request_id: str
    at: datetime
    fingerprint: str
    vectors: Matrix
    rows: tuple[PredictionRow, ...]
    facts: tuple[Mapping[str, Any], ...] = ()
    said: tuple[Said, ...] = ()
    content: bytes | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_bytes(self) -> int:
        """Of what a request makes large: content, vectors, columns, and texts that rules in shadow look at."""
        facts = (value for each in self.facts for value in (*each.values(), *each.get("columns", {}).values()))
        return len(self.content or b"") + self.vectors.nbytes + weight(facts) + sum(map(bytes_of_row, self.rows))


def bytes_of_row(row: PredictionRow) -> int:
    return weight(row.kept.values())
