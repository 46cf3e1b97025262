"""From what a caller hands in to rows a collection can hold: checks, column types, payload digests.

Pure: knows no Lance table and no encoder. Problems are sentences without content, collected for all rows at once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from raystore.data.columns import TYPES, column_problem
from raystore.data.keyed import PAYLOAD
from raystore.encoders.items import Item
from raystore.encoders.passport import Modality
from raystore.layout import vector_column
from raystore.secret import keyed_digest

RESERVED = ("id", "text", "vector", "subject", "tenant", "time")
MAX_ID_CHARS = 512
Problem = tuple[int, str | None, str]


def id_problem(value: object) -> str | None:
    """Why this cannot be an id, or None."""
    if value is None:
        return "the id is null"
    if not isinstance(value, str):
        return f"the id is {type(value).__name__}, expected a string"
    if not value or len(value) > MAX_ID_CHARS:
        return f"the id has {len(value)} characters, expected 1 to {MAX_ID_CHARS}"
    if not is_unicode(value):
        return "the id is not valid Unicode"
    return None


def text_problem(value: object, max_chars: int) -> str | None:
    """Why this cannot be embedded as text, or None. Never quotes it."""
    if value is None:
        return "the text is null"
    if not isinstance(value, str):
        return f"the text is {type(value).__name__}, expected a string"
    if not value.strip():
        return "the text is empty"
    if len(value) > max_chars:
        return f"the text has {len(value)} characters, over the limit of {max_chars}"
    if not is_unicode(value):
        return "the text is not valid Unicode (files are read as UTF-8)"
    return None


def content_problem(value: object, modality: Modality, max_chars: int) -> str | None:
    """Why this cannot be embedded as text or image, or None. Whether an image can be decoded is the encoder's to say."""
    if modality == "text":
        return text_problem(value, max_chars)
    if value is None:
        return "the image is null"
    if not isinstance(value, bytes):
        return f"the image is {type(value).__name__}, expected the bytes of an image file"
    return None if value else "the image is empty"


def unusable(modality: Modality, reason: str) -> str:
    """A sentence of what an encoder says of an item ("is empty") or of its vector ("its vector is zero")."""
    return reason if reason.startswith("its ") else f"the {modality} {reason}"


def is_unicode(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def as_time(value: object) -> datetime | None:
    """UTC time from a datetime (naive ones are UTC), a date or an ISO 8601 string. ValueError on anything else."""
    if value is None:
        return None
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if not isinstance(value, datetime):
        raise ValueError("no time")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:  # the first and the last day of the calendar, seen from another zone
        raise ValueError("no time") from None


@dataclass
class Incoming:
    """Rows that passed their checks, column-wise: n of each. An item is a text, an image file's bytes, or None where a
    vector was given."""

    ids: list[str] = field(default_factory=list)
    items: list[Item | None] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)
    subjects: list[str | None] = field(default_factory=list)
    tenants: list[str | None] = field(default_factory=list)
    times: list[datetime | None] = field(default_factory=list)
    kept: dict[str, list[Any]] = field(default_factory=dict)
    kept_types: dict[str, str] = field(default_factory=dict)


def check_rows(rows: Sequence[Any], columns: Mapping[str, str], max_chars: int) -> tuple[Incoming, list[Problem]]:
    """The rows column-wise, and every problem found in them: (row number, id where it is one, reason).

    Args:
        columns: the declared columns; other keys are new columns, typed by their values. `image` is content where a row
            holds bytes under it and no column is called so.
    """
    incoming = Incoming(kept_types={})
    problems: list[Problem] = []
    first_row: dict[str, int] = {}
    given, rows = rows, [_plain(row) if isinstance(row, Mapping) else {} for row in rows]
    # A new column is one that has a value: nulls have no type to give it.
    kept = {key for row in rows for key, value in row.items() if key in columns or value is not None}
    contents = ["text", "vector"]
    if "image" not in columns and any(isinstance(row.get("image"), bytes) for row in rows):
        contents.insert(1, "image")
    kept_names = sorted(kept - {*RESERVED, *contents}, key=str)
    for name in kept_names:
        incoming.kept[name] = []
        incoming.kept_types[name] = columns.get(name) or _first_type(rows, name)
        if name not in columns and (reason := column_problem(name, [*RESERVED, *columns, *kept_names])):
            number = next(i for i, row in enumerate(rows) if name in row)
            problems.append((number, None, f"a key {reason}"))
    for number, row in enumerate(rows):
        id_ = row.get("id")
        reasons = [id_problem(id_)]
        named = id_ if isinstance(id_, str) and reasons[0] is None else None
        if named is not None and first_row.setdefault(named, number) != number:
            reasons.append(f"the id stands in row {first_row[named]} of this call already")
        holds = [key for key in contents if key in row]
        if len(holds) != 1:
            reasons.append("expected exactly one of 'text', 'image' and 'vector'")
        elif holds != ["vector"]:
            reasons.append(content_problem(row[holds[0]], "image" if holds == ["image"] else "text", max_chars))
        elif row["vector"] is None:
            reasons.append("the vector is null")
        for key in ("subject", "tenant"):
            if row.get(key) is not None and not isinstance(row[key], str):
                reasons.append(f"{key} is {type(row[key]).__name__}, expected a string")
            elif row.get(key) is not None and not is_unicode(row[key]):
                reasons.append(f"{key} is not valid Unicode")
        try:
            time = as_time(row.get("time"))
        except ValueError:
            time = None
            reasons.append("time is neither a datetime nor an ISO 8601 string")
        for name in kept_names:
            try:
                incoming.kept[name].append(kept_value(row.get(name), incoming.kept_types[name]))
            except ValueError as error:
                incoming.kept[name].append(None)
                reasons.append(f"column '{name}' {error}")
        if not isinstance(given[number], Mapping):
            reasons = [f"is {type(given[number]).__name__}, expected a mapping"]
        problems += [(number, named, reason) for reason in reasons if reason]
        incoming.ids.append(named or "")
        incoming.items.append(row.get("image") if holds == ["image"] else row.get("text"))
        incoming.vectors.append(row.get("vector"))
        incoming.subjects.append(row.get("subject"))
        incoming.tenants.append(row.get("tenant"))
        incoming.times.append(time)
    return incoming, problems


def _plain(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """The row with NumPy's numbers as Python's; a row out of a DataFrame holds them."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in row.items()}


def _first_type(rows: Sequence[Any], name: str) -> str:
    values = [row[name] for row in rows if row.get(name) is not None]
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "bool"), (int, "int64"), (float, "float64"), (str, "string"), (datetime, "timestamp"), (date, "date"),
    )  # fmt: skip
    if values and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return "float64" if any(isinstance(v, float) for v in values) else "int64"
    return next((kind for python, kind in kinds if values and isinstance(values[0], python)), "string")


_PYTHON: dict[str, tuple[type, ...]] = {"string": (str,), "int64": (int,), "float64": (int, float), "bool": (bool,)}


def kept_value(value: Any, kind: str) -> Any:
    """The value as the column's type. ValueError says what was found, never the value."""
    if value is None:
        return None
    if kind == "timestamp":
        try:
            return as_time(value)
        except ValueError:
            raise ValueError("is no ISO 8601 time") from None
    if kind == "date":
        try:
            value = date.fromisoformat(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError("is no ISO 8601 date") from None
        if not isinstance(value, date):
            raise ValueError("is no ISO 8601 date")
        return value.date() if isinstance(value, datetime) else value
    known: Any = value
    if not isinstance(value, _PYTHON[kind]) or (isinstance(value, bool) and kind != "bool"):
        raise ValueError(f"is {type(value).__name__}, expected {kind}")
    if kind == "string" and not is_unicode(known):
        raise ValueError("is not valid Unicode")
    if kind == "int64" and not -(2**63) <= known < 2**63:
        raise ValueError("is beyond 64 bits")
    try:
        return float(known) if kind == "float64" else known
    except OverflowError:
        raise ValueError("is beyond 64 bits") from None


def payload_digests(
    key: bytes,
    contents: Sequence[bytes],
    subjects: Sequence[str | None],
    tenants: Sequence[str | None],
    kept: Mapping[str, Sequence[Any]],
) -> list[bytes]:
    """HMAC-SHA256 of content, subject, tenant and kept columns, a row each; nulls count as absent.

    Time is left out: where a caller gives none the store fills it in, and a retry must still be the same row.
    """
    digests = []
    for i, content in enumerate(contents):
        facts = {name: values[i] for name, values in kept.items() if values[i] is not None}
        facts |= {"subject": subjects[i]} if subjects[i] is not None else {}
        facts |= {"tenant": tenants[i]} if tenants[i] is not None else {}
        canonical = json.dumps(facts, sort_keys=True, ensure_ascii=False, default=_iso).encode("utf-8", "surrogatepass")
        digests.append(keyed_digest(key, content, canonical))
    return digests


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return as_time(value).isoformat()  # type: ignore[union-attr]
    return str(value.isoformat())


def row_table(
    *,
    ids: Sequence[str],
    payloads: Sequence[bytes],
    vectors: Mapping[str, pa.FixedSizeListArray],
    subjects: Sequence[str | None],
    tenants: Sequence[str | None],
    times: Sequence[datetime | None],
    kept: Mapping[str, Sequence[Any]],
    kept_types: Mapping[str, str],
) -> pa.Table:
    """The rows as `KeyedTable.commit` takes them; `vectors` by fingerprint, null where a row has none."""
    columns: dict[str, pa.Array] = {
        "id": pa.array(ids, pa.string()),
        "subject": pa.array(subjects, pa.string()),
        "tenant": pa.array(tenants, pa.string()),
        "time": pa.array(times, TYPES["timestamp"]),
    }
    columns |= {name: pa.array(values, TYPES[kept_types[name]]) for name, values in kept.items()}
    columns[PAYLOAD] = pa.array(payloads, pa.binary(32))
    columns |= {vector_column(fingerprint): found for fingerprint, found in vectors.items()}
    return pa.table(columns)
