"""A row as a line of the spool: digest, space, JSON, newline. Pure.

    9f86d081884c7d65 {"collection": "tickets", "fingerprint": "5f3c..", "row": {"id": "t-1", "product": "card"}, "vector": "<base64>"}

The vector is base64 of little-endian float32, so what is sent later is the same, bit for bit. A line whose digest does not fit is
no row: torn by a crash, or damaged on the disk.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raystore.vectors import Matrix

_DIGITS = 16


@dataclass(frozen=True, repr=False)
class Record:
    """One row without its content: `row` has the id, what is known of it, and the kept columns."""

    collection: str
    fingerprint: str
    row: Mapping[str, Any]
    vector: Matrix  # (dim,) float32

    @property
    def wire(self) -> dict[str, Any]:
        """The row as POST /v1/collections/{c}/log takes it."""
        return {**self.row, "vector": self.vector.tolist()}


def to_line(record: Record) -> bytes:
    body = {
        "collection": record.collection,
        "fingerprint": record.fingerprint,
        "row": dict(record.row),
        "vector": base64.b64encode(np.ascontiguousarray(record.vector, dtype="<f4").tobytes()).decode("ascii"),
    }
    data = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
    return _digest(data) + b" " + data + b"\n"


def from_line(line: bytes) -> Record | None:
    """The row in a line with or without its newline; None where the line is damaged."""
    digest, _, data = line.rstrip(b"\n").partition(b" ")
    if digest != _digest(data):
        return None
    try:
        body = json.loads(data)
        vector = np.frombuffer(base64.b64decode(body["vector"]), dtype="<f4").astype(np.float32)
        return Record(body["collection"], body["fingerprint"], body["row"], vector)
    except (ValueError, KeyError, TypeError):  # a line somebody else wrote
        return None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest()[:_DIGITS].encode("ascii")
