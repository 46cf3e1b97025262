from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.data.rows import as_time
from raystore.data.tables.columns import TIME, Keys, Rows, Stream, as_times, kept_rows, plain_type
from raystore.errors import InvalidArguments

CANARY = "canary-8c1f"


def given_rows(table: pa.Table, rows_each: int = 2) -> Rows:
    def stream(columns: list[str]) -> Stream:
        chosen = table.select(columns)
        return Stream(chosen.schema, iter(chosen.to_batches(max_chunksize=rows_each)))

    return Rows(table.column_names, stream, {})


def kept(table: pa.Table, keys: Keys, types: dict[str, pa.DataType] | None = None) -> pa.Table:
    stream = kept_rows(given_rows(table), keys, None, types or {}, "test")
    return pa.Table.from_batches(stream.batches, schema=stream.schema)


def refusal(table: pa.Table, **more: Any) -> str:
    with pytest.raises(InvalidArguments) as refused:
        kept(table, **more)
    assert CANARY not in str(refused.value)
    return str(refused.value)


# --- the time of an event ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("2026-03-01", "2026-03-01T00:00:00+00:00"),
        ("2026-03-01 10:20", "2026-03-01T10:20:00+00:00"),
        ("2026-03-01T10:20:30Z", "2026-03-01T10:20:30+00:00"),
        ("2026-03-01T10:20:30.123456+02:00", "2026-03-01T08:20:30.123456+00:00"),
        ("2026-03-01T10:20:30.123456789", "2026-03-01T10:20:30.123456+00:00"),
        ("20260301T102030-0130", "2026-03-01T11:50:30+00:00"),
        ("0001-01-01", "0001-01-01T00:00:00+00:00"),
    ],
)
def test_iso_8601_of_every_shape_is_a_time_alone_and_among_others(given: str, seen: str) -> None:
    expected = datetime.fromisoformat(seen)
    for others in ([], ["2026-01-01"], ["2026-01-01T00:00Z"], ["2026-01-01", "2026-01-01T00:00:00+01:00", None]):
        found, wrong = as_times(pa.array([given, *others]))
        assert (found.type, found[0].as_py(), wrong) == (TIME, expected, [])


@pytest.mark.parametrize(
    "column",
    [
        pa.array([datetime(2026, 3, 1, 10)], pa.timestamp("s")),
        pa.array([datetime(2026, 3, 1, 10)], pa.timestamp("ms", "UTC")),
        pa.array([1_772_359_200_000_000_999], pa.int64()).cast(pa.timestamp("ns")),
        pa.array([datetime(2026, 3, 1, 10, tzinfo=UTC)], pa.timestamp("us", "Europe/Berlin")),
        pa.array(["2026-03-01T10:00:00"], pa.large_string()),
        pa.array(["2026-03-01T10:00:00"]).dictionary_encode(),
        pa.array(["2026-03-01T10:00:00Z"], pa.string_view()),
    ],
    ids=lambda column: str(column.type),
)
def test_times_of_every_type_become_microseconds_in_utc(column: pa.Array) -> None:
    found, wrong = as_times(column)
    assert (found.type, found.to_pylist(), wrong) == (TIME, [datetime(2026, 3, 1, 10, tzinfo=UTC)], [])


def test_a_date_is_its_first_moment_in_utc() -> None:
    for kind in (pa.date32(), pa.date64()):
        assert as_times(pa.array([date(2026, 3, 1), None], kind))[0].to_pylist() == [datetime(2026, 3, 1, tzinfo=UTC), None]


def test_values_that_are_no_time_are_counted_to_the_end_and_named_by_row() -> None:
    values = ["2026-01-01", CANARY, None, "2026-13-01", "yesterday", "", "1767225600", "24:00", "2026-01-02"]
    table = pa.table({"at": values})
    assert refusal(table, keys=Keys(time="at")) == (
        "test: time column 'at' holds 6 values that are no time in ISO 8601 (rows from 0: 1, 3, 4, 5, 6 ...)."
    )
    assert refusal(table.slice(0, 3), keys=Keys(time="at")) == (
        "test: time column 'at' holds 1 value that is no time in ISO 8601 (rows from 0: 1)."
    )
    far = pa.table({"at": pa.array([0, 2**62], pa.int64()).cast(pa.timestamp("s"))})
    assert refusal(far, keys=Keys(time="at")) == (
        "test: time column 'at' holds 1 value that is no time in ISO 8601 (rows from 0: 1)."
    )


def test_a_time_column_holds_times_and_is_no_key() -> None:
    table = pa.table({"n": [1], "x": [0.5], "s": ["2026-01-01"]})
    assert refusal(table, keys=Keys(time="n")) == (
        "test: time column 'n' is int64, expected timestamps, dates or strings in ISO 8601."
    )
    assert refusal(table, keys=Keys(id="x", time="x")) == (
        "test: key column 'x' is double, expected strings or integers; "
        "time column 'x' is double, expected timestamps, dates or strings in ISO 8601; "
        "column 'x' cannot be a key and the time of the event at once."
    )
    assert refusal(table, keys=Keys(id="s", time="when")) == "test: there is no column 'when'; there are: n, x, s."


zones = st.none() | st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.none() | st.builds(
    lambda at, zone: at.replace(tzinfo=zone),
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),
    zones,
)


@given(st.lists(moments, max_size=6))
def test_every_time_is_what_a_collection_makes_of_it(values: list[datetime | None]) -> None:
    texts = pa.array([None if v is None else v.isoformat() for v in values], pa.string())
    found, wrong = as_times(texts)
    assert (found.to_pylist(), wrong) == ([as_time(v) for v in values], [])


# --- types ---------------------------------------------------------------------------------------------------------------


def test_integers_fit_a_column_of_floats_and_nulls_fit_any_column() -> None:
    types = {"x": pa.float64(), "none": pa.int64(), "n": pa.int64(), "new": pa.date32()}
    found = kept(pa.table({"x": [1], "none": pa.nulls(1), "n": [1.5], "other": pa.nulls(1)}), Keys(), types)
    assert [str(f.type) for f in found.schema] == ["double", "int64", "double", "string"]
    large = pa.table({"x": [2**53 + 1]})
    assert refusal(large, keys=Keys(), types=types) == "test: column 'x' holds values that do not fit double."


@pytest.mark.parametrize(
    ("kind", "plain"),
    [
        (pa.large_string(), "string"),
        (pa.dictionary(pa.int8(), pa.large_string()), "string"),
        (pa.large_binary(), "binary"),
        (pa.float16(), "float"),
        (pa.timestamp("ms", "Etc/UTC"), "timestamp[ms, tz=UTC]"),
        (pa.timestamp("ns"), "timestamp[ns]"),
        (pa.large_list(pa.large_string()), "list<item: string>"),
        (pa.list_(pa.float16(), 3), "fixed_size_list<item: float>[3]"),
        (pa.struct([("a", pa.list_(pa.string_view()))]), "struct<a: list<item: string>>"),
        (pa.uuid(), "fixed_size_binary[16]"),
        (pa.decimal128(9, 2), "decimal128(9, 2)"),
    ],
    ids=str,
)
def test_one_type_stands_for_the_encodings_of_the_same_values(kind: pa.DataType, plain: str) -> None:
    assert str(plain_type(kind)) == plain
    assert plain_type(plain_type(kind)) == plain_type(kind)


def test_types_that_no_table_keeps_are_found_at_any_depth() -> None:
    span = pa.array([[{"s": (1, 2, 3)}]], pa.list_(pa.struct([("s", pa.month_day_nano_interval())])))
    assert refusal(pa.table({"span": span}), keys=Keys(id="span")) == (
        "test: column 'span' is list<item: struct<s: month_day_nano_interval>>, which a table cannot keep."
    )


def test_nothing_is_read_before_the_columns_are_right() -> None:
    def stream(columns: list[str]) -> Stream:
        def batches() -> Any:
            raise AssertionError
            yield

        return Stream(pa.schema([(name, pa.float64()) for name in columns]), batches())

    with pytest.raises(InvalidArguments):
        kept_rows(Rows(["ticket"], stream, {}), Keys(id="ticket"), None, {}, "test")
