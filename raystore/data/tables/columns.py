"""The columns of a source table: which are kept, of what type, and what cannot be kept. Pure; knows no file and no Lance table.

One table comes out of every source: large and view strings are strings, dictionaries are their values, times with a zone are
UTC, a key column is text, the event time is microseconds in UTC. No problem quotes a value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.columns import column_twins
from raystore.data.rows import as_time
from raystore.errors import InvalidArguments

TIME = pa.timestamp("us", "UTC")
_ROWS_NAMED = 5


class Stream(NamedTuple):
    """Rows that can be read once: their columns, and the batches that bring them."""

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Rows:
    """What a source holds, before anything is read but its columns.

    Args:
        names: its columns; a name may stand twice.
        stream: the named columns' rows.
        source: where it can be read again from, ready for JSON.
    """

    names: list[str]
    stream: Callable[[list[str]], Stream]
    source: dict[str, Any]


@dataclass(frozen=True)
class Keys:
    """The names of the columns that mean something: what joins an item, a subject, and when an event happened."""

    id: str | None = None
    subject: str | None = None
    time: str | None = None

    def texts(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.id, self.subject) if name))

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.id, self.subject, self.time) if name))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type that a value of `kind` is kept as; one type for the several encodings of the same values."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if is_text(kind):
        return pa.string()
    if types.is_large_binary(kind) or types.is_binary_view(kind):
        return pa.binary()
    if types.is_float16(kind):
        return pa.float32()  # DuckDB reads no half floats
    if types.is_timestamp(kind) and kind.tz is not None:
        return pa.timestamp(kind.unit, "UTC")  # DuckDB and pandas name the zone of the machine
    if types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind):
        return pa.list_(plain_type(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([pa.field(f.name, plain_type(f.type)) for f in kind])
    return kind


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def kept_rows(rows: Rows, keys: Keys, columns: Sequence[str] | None, types: Mapping[str, pa.DataType], call: str) -> Stream:
    """The rows as the table keeps them, with the key columns and the chosen ones, in the order of the source.

    Args:
        columns: what to keep beside the keys; None keeps all.
        types: of the columns that the table has already. A column of nothing but nulls takes the type it had; integers
            become floats in a column of floats. Any other type is left as it is, for the table to refuse.

    Raises:
        InvalidArguments: columns that are not there or cannot be kept, all at once. While the batches are read: times that
            are none, by count and row.
    """
    has = ", ".join(rows.names)
    problems = [f"there is no column '{key}'; there are: {has}" for key in keys.names() if key not in rows.names]
    problems += [f"there is no column '{c}' (columns=); there are: {has}" for c in columns or () if c not in rows.names]
    chosen = [c for c in rows.names if columns is None or c in {*keys.names(), *columns}]
    problems += name_problems(chosen)
    if len(set(rows.names)) < len(rows.names):  # which of the two a name means cannot be said, chosen or not
        twins = [name for name in dict.fromkeys(rows.names) if rows.names.count(name) > 1 and name not in chosen]
        problems += name_problems([name for name in rows.names if name in twins])
        raise InvalidArguments(call=call, problems=problems)
    stream = rows.stream(chosen)
    fields = [pa.field(f.name, _kept_type(f, keys, types)) for f in stream.schema]
    problems += [
        f"column '{f.name}' is {f.type}, which a table cannot keep"
        for f in stream.schema
        if not _can_keep(plain_type(f.type))
    ]
    if not problems:  # a column that cannot be kept cannot be a key either, which needs not be said twice
        problems = _key_problems(stream.schema, keys)
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    schema = pa.schema(fields)
    return Stream(schema, _converted(stream.batches, schema, keys.time, call))


def name_problems(names: Sequence[str]) -> list[str]:
    """Why columns cannot have these names."""
    problems = [f"column '{name}' starts with '_', which is reserved" for name in names if name.startswith("_")]
    problems += [f"column '{name}' holds a '.', which is reserved" for name in names if "." in name]
    problems += ["a column has no name"] * ("" in names)
    return problems + [
        f"columns '{one}' and '{other}' differ in case only or not at all, which SQL does not tell apart"
        for one, other in column_twins(names)
    ]


def _kept_type(field: pa.Field, keys: Keys, types: Mapping[str, pa.DataType]) -> pa.DataType:
    kind, known = plain_type(field.type), types.get(field.name)
    if field.name in keys.texts():
        return pa.string()
    if field.name == keys.time:
        return TIME
    if pa.types.is_null(kind):
        return known or pa.string()
    if known is not None and pa.types.is_floating(known) and pa.types.is_integer(kind):
        return known
    return kind


def _can_keep(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_struct(kind):
        return all(_can_keep(f.type) for f in kind)
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return _can_keep(kind.value_type)
    return not (types.is_interval(kind) or types.is_union(kind) or types.is_run_end_encoded(kind))


def _key_problems(schema: pa.Schema, keys: Keys) -> list[str]:
    problems = []
    for key in keys.texts():
        kind = plain_type(schema.field(key).type)
        if not (pa.types.is_integer(kind) or is_text(kind) or pa.types.is_null(kind)):
            problems.append(f"key column '{key}' is {kind}, expected strings or integers")
    if keys.time is not None:
        kind = plain_type(schema.field(keys.time).type)
        if not (is_text(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind)):
            problems.append(f"time column '{keys.time}' is {kind}, expected timestamps, dates or strings in ISO 8601")
    if keys.time is not None and keys.time in keys.texts():
        problems.append(f"column '{keys.time}' cannot be a key and the time of the event at once")
    return problems


def _converted(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, time: str | None, call: str
) -> Iterator[pa.RecordBatch]:
    """The batches with the schema's types. Times that are none are counted to the end before they are said."""
    bad, position, n_bad = list[int](), 0, 0
    for batch in batches:
        columns = []
        for field in schema:
            column = batch.column(field.name)
            if field.name == time:
                column, wrong = as_times(column)
                n_bad += len(wrong)
                bad += [position + row for row in wrong[:_ROWS_NAMED]]
            columns.append(_cast(column, field, call))
        position += len(batch)
        if not n_bad:
            yield pa.record_batch(columns, schema=schema)
    if n_bad:
        named = ", ".join(str(row) for row in bad[:_ROWS_NAMED]) + (" ..." if n_bad > _ROWS_NAMED else "")
        what = "value that is" if n_bad == 1 else "values that are"
        problem = f"time column '{time}' holds {n_bad:,} {what} no time in ISO 8601 (rows from 0: {named})"
        raise InvalidArguments(call=call, problems=[problem])


def _cast(column: pa.Array, field: pa.Field, call: str) -> pa.Array:
    if column.type == field.type:
        return column
    try:
        return pc.cast(decoded(column), field.type)
    except (pa.ArrowException, ValueError):  # whose words may quote the value
        problem = f"column '{field.name}' holds values that do not fit {field.type}"
        raise InvalidArguments(call=call, problems=[problem]) from None


def decoded(column: pa.Array) -> pa.Array:
    """The values of a dictionary column, in the plain type; any other column as it is. Arrow takes from no view strings."""
    if not pa.types.is_dictionary(column.type):
        return column
    return pc.cast(column.dictionary, plain_type(column.type)).take(column.indices)


def as_times(column: pa.Array) -> tuple[pa.Array, list[int]]:
    """The values as timestamps of microseconds in UTC, and the rows (from 0) of those that are no time.

    Times without a zone are UTC, as are dates at their first moment; nulls stay null; nanoseconds are cut off.
    """
    column = pc.cast(decoded(column), plain_type(column.type))
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
        column = pc.cast(column, pa.timestamp("us", column.type.tz), safe=False)
    # Texts with a zone and texts without take two casts, and a column of both goes value by value.
    for kind in (
        (pa.timestamp("us"), TIME) if is_text(column.type) else (pa.timestamp("us", getattr(column.type, "tz", None)),)
    ):
        try:
            return pc.cast(pc.cast(column, kind), TIME), []
        except (pa.ArrowException, ValueError):
            continue
    times: list[datetime | None] = []
    wrong: list[int] = []
    for row, scalar in enumerate(column):
        try:
            times.append(as_time(scalar.as_py()))
        except (ValueError, OverflowError):
            times.append(None)
            wrong.append(row)
    return pa.array(times, TIME), wrong
