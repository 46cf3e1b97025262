"""The rows of a block as a job embeds them: their ids, content and kept columns, checked, and their payloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.data.job import EmbedPlan
from raystore.data.keyed import PAYLOAD
from raystore.data.readers import Block, parse_text
from raystore.data.rows import as_time, content_problem, id_problem, is_unicode, kept_value, payload_digests
from raystore.data.set_aside import BadRow
from raystore.encoders.items import Item


@dataclass
class JobRow:
    """One usable row of a block: its number in the source, the encoders it lacks a vector of, and the vectors, once encoded."""

    number: int
    id: str
    content: Item = ""
    subject: str | None = None
    tenant: str | None = None
    time: datetime | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    payload: bytes = b""
    lacks: tuple[str, ...] = ()
    vectors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)  # (dim,) by fingerprint


def row_ids_of(block: Block, path: str, id_column: str | None, id_prefix: str) -> list[Any]:
    """The id of each row: its column, integers in decimal digits; or file name and row number where there is none."""
    if id_column is None:
        stem = Path(path).stem
        return [f"{id_prefix}{stem}:{block.first_row + i}" for i in range(block.n_rows)]
    return [
        f"{id_prefix}{v}" if (isinstance(v, str) and v) or (isinstance(v, int) and not isinstance(v, bool)) else v
        for v in block.columns[id_column]
    ]


def usable_rows(
    plan: EmbedPlan, block: Block, ids: Sequence[Any], start: int, max_chars: int
) -> tuple[list[JobRow], list[BadRow]]:
    """The rows from `start` on that can be embedded, one for each of `ids`, and the others with their reasons."""
    good: list[JobRow] = []
    bad: list[BadRow] = []
    for place, id_ in enumerate(ids):
        i = start + place
        number = block.first_row + i
        named = id_ if id_problem(id_) is None else None
        reason = block.unreadable.get(number) or id_problem(id_)
        row = JobRow(number, named or "")
        if plan.from_kept:
            row.payload = block.columns[PAYLOAD][i]
        if reason is None:
            row.content = block.columns[plan.content][i]
            reason = content_problem(row.content, plan.modality, max_chars)
        if reason is None:
            reason = _read_columns(plan, row, block, i)
        if reason is None:
            good.append(row)
        else:
            bad.append((number, named, reason))
    return good, bad


def _read_columns(plan: EmbedPlan, row: JobRow, block: Block, i: int) -> str | None:
    for name in ("subject", "tenant"):
        column = getattr(plan, name)
        value = block.columns[column][i] if column else None
        setattr(row, name, None if value is None else str(value))
        if value is not None and not is_unicode(str(value)):
            return f"column '{column}' is not valid Unicode"
    try:
        row.time = as_time(block.columns[plan.time][i] or None) if plan.time else None
    except ValueError:
        return f"column '{plan.time}' is no ISO 8601 time"
    for column, kind in plan.kept_types.items():
        try:
            row.kept[column] = kept_value(parse_text(block.columns[column][i], kind), kind)
        except ValueError as error:
            return f"column '{column}' {error}"
    return None


def payloads_of(plan: EmbedPlan, store_key: bytes, rows: Sequence[JobRow]) -> list[bytes]:
    """The payload of each row: the digest of its content and kept columns under the store's key.

    Kept content was found by its row's payload, which stands beside it.
    """
    if plan.from_kept:
        return [row.payload for row in rows]
    return payload_digests(
        store_key,
        [row.content.encode() if isinstance(row.content, str) else row.content for row in rows],
        [row.subject for row in rows],
        [row.tenant for row in rows],
        {name: [row.kept[name] for row in rows] for name in plan.kept_types},
    )
