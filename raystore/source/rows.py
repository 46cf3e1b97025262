"""What a product gives to a source, checked before anything is encoded or leaves the process. Pure.

A key that is not declared is refused: a misspelt `text` must not become a column that carries the text away.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from raystore.encoders.items import Item
from raystore.errors import InvalidRows
from raystore.serve.wire.common import MAX_ID_CHARS

KNOWN = ("id", "subject", "tenant", "time")
CONTENTS = ("text", "image", "vector")
_SCALARS = (str, int, float, bool, type(None))
Problem = tuple[int, str | None, str]


@dataclass
class Given:
    """Rows that passed: their content by place, and everything else as it may travel."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    items: dict[int, Item] = field(default_factory=dict)
    vectors: dict[int, Any] = field(default_factory=dict)
    named: set[int] = field(default_factory=set)  # places whose id the caller gave


def check(rows: object, columns: Sequence[str], max_chars: int, where: str, *, now: datetime | None) -> Given:
    """The rows taken apart. Rows without an id get one, rows without a time `now`, where there is one.

    Raises:
        InvalidRows: with every problem; it quotes no value, and no key that was not declared.
    """
    given, problems = Given(), list[Problem]()
    if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Sequence):
        problem = (0, None, f"the rows are a {type(rows).__name__}, expected a list of mappings")
        raise InvalidRows(collection=where, n_rows=1, problems=[problem])
    for place, row in enumerate(rows):
        reasons = _check_row(place, row, columns, max_chars, given, now)
        id_ = row.get("id") if isinstance(row, Mapping) else None
        problems += [
            (place, id_ if isinstance(id_, str) and len(id_) <= MAX_ID_CHARS else None, reason) for reason in reasons
        ]
    if problems:
        raise InvalidRows(collection=where, n_rows=len(rows), problems=problems)
    return given


def _check_row(
    place: int, row: object, columns: Sequence[str], max_chars: int, given: Given, now: datetime | None
) -> list[str]:
    if not isinstance(row, Mapping):
        return [f"is a {type(row).__name__}, expected a mapping"]
    reasons = []
    if any(key not in (*KNOWN, *CONTENTS, *columns) for key in row):
        reasons.append(f"a key is no kept column of this source (columns=: {', '.join(columns) or 'none'})")
    holds = [name for name in CONTENTS if row.get(name) is not None]
    if len(holds) != 1:
        reasons.append("expected exactly one of 'text', 'image' and 'vector'")
    else:
        reasons += _content_problems(holds[0], row[holds[0]], max_chars)
    id_ = row.get("id")
    if id_ is not None and not (isinstance(id_, str) and 1 <= len(id_) <= MAX_ID_CHARS and _is_unicode(id_)):
        reasons.append(f"the id is no text of 1 to {MAX_ID_CHARS} characters")
    for name in ("subject", "tenant"):
        if row.get(name) is not None and not isinstance(row[name], str):
            reasons.append(f"{name} is {type(row[name]).__name__}, expected a string")
    kept: dict[str, Any] = {}
    for name in (*KNOWN, *columns):
        value: Any = row.get(name)
        plain = value.item() if hasattr(value, "item") and not isinstance(value, type) else value  # NumPy's numbers
        if isinstance(plain, (datetime, date)):
            plain = _utc(plain)
        if not isinstance(plain, _SCALARS) or (isinstance(plain, float) and not abs(plain) < float("inf")):
            reasons.append(f"{name} is {type(value).__name__}, expected a text, a finite number, a boolean or a time")
        elif isinstance(plain, str) and not _is_unicode(plain):
            reasons.append(f"{name} is not valid Unicode")
        elif plain is not None:
            kept[name] = plain
    if reasons:
        return reasons
    if "id" in kept:
        given.named.add(place)
    kept.setdefault("id", uuid.uuid4().hex)
    if now is not None:
        kept.setdefault("time", _utc(now))
    given.rows.append(kept)
    if holds == ["vector"]:
        given.vectors[place] = row["vector"]
    else:
        given.items[place] = row[holds[0]]
    return []


def _content_problems(name: str, value: Any, max_chars: int) -> list[str]:
    if name == "text" and not isinstance(value, str):
        return [f"the text is {type(value).__name__}, expected a string"]
    if name == "image" and not isinstance(value, bytes):
        return [f"the image is {type(value).__name__}, expected the bytes of an image file"]
    if name == "text" and not value.strip():
        return ["the text is empty"]
    if name == "text" and len(value) > max_chars:
        return [f"the text has {len(value)} characters, over the limit of {max_chars}"]
    return []


def _utc(value: date) -> str:
    """ISO 8601; a time without a zone is UTC, a date stays one."""
    if not isinstance(value, datetime):
        return value.isoformat()
    return (value.replace(tzinfo=UTC) if value.tzinfo is None else value).isoformat()


def _is_unicode(value: str) -> bool:
    """Without an exception, which would hold the value."""
    return not any("\ud800" <= c <= "\udfff" for c in value)
