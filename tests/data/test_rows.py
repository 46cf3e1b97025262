from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.data.rows import as_time, check_rows, id_problem, kept_value, payload_digests, text_problem

PLUS5 = timezone(timedelta(hours=5))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the id is null"),
        (7, "the id is int, expected a string"),
        (7.0, "the id is float, expected a string"),
        (b"a", "the id is bytes, expected a string"),
        ("", "the id has 0 characters, expected 1 to 512"),
        ("x" * 513, "the id has 513 characters, expected 1 to 512"),
        ("a\udc80", "the id is not valid Unicode"),
        ("x" * 512, None),
        ("a'\"\\\n\0%", None),
    ],
)
def test_what_can_be_an_id(value: object, reason: str | None) -> None:
    assert id_problem(value) == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the text is null"),
        (7, "the text is int, expected a string"),
        (float("nan"), "the text is float, expected a string"),
        ("", "the text is empty"),
        (" \n\t\u00a0", "the text is empty"),
        ("x" * 101, "the text has 101 characters, over the limit of 100"),
        ("a\ud800b", "the text is not valid Unicode (files are read as UTF-8)"),
        ("x" * 100, None),
    ],
)
def test_what_can_be_embedded(value: object, reason: str | None) -> None:
    assert text_problem(value, 100) == reason


@pytest.mark.parametrize(
    ("value", "time"),
    [
        (None, None),
        (datetime(2026, 1, 2, 3), datetime(2026, 1, 2, 3, tzinfo=UTC)),
        (datetime(2026, 1, 2, 3, tzinfo=PLUS5), datetime(2026, 1, 1, 22, tzinfo=UTC)),
        (date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01-02", datetime(2026, 1, 2, tzinfo=UTC)),
        ("2026-01-02T03:00:00+05:00", datetime(2026, 1, 1, 22, tzinfo=UTC)),
        ("2026-01-02T03:00:00Z", datetime(2026, 1, 2, 3, tzinfo=UTC)),
    ],
)
def test_times_become_utc(value: object, time: datetime | None) -> None:
    assert as_time(value) == time


@pytest.mark.parametrize("value", ["soon", "", 5, 1.5, True, [], "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_what_is_no_time_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError):
        as_time(value)


@pytest.mark.parametrize(
    ("value", "kind", "kept"),
    [
        ("a", "string", "a"),
        (1, "int64", 1),
        (1, "float64", 1.0),
        (True, "bool", True),
        ("2026-01-02", "date", date(2026, 1, 2)),
        (datetime(2026, 1, 2, 3), "date", date(2026, 1, 2)),
        ("2026-01-02", "timestamp", datetime(2026, 1, 2, tzinfo=UTC)),
        (2**63 - 1, "int64", 2**63 - 1),
        (-(2**63), "int64", -(2**63)),
    ],
)
def test_a_kept_value_takes_its_columns_type(value: object, kind: str, kept: object) -> None:
    assert kept_value(value, kind) == kept
    assert kept_value(None, kind) is None


@pytest.mark.parametrize(
    ("value", "kind", "reason"),
    [
        (1, "string", "is int, expected string"),
        ("1", "int64", "is str, expected int64"),
        (True, "int64", "is bool, expected int64"),
        (1.0, "int64", "is float, expected int64"),
        (1, "bool", "is int, expected bool"),
        (["a"], "string", "is list, expected string"),
        ({"a": 1}, "string", "is dict, expected string"),
        (b"a", "string", "is bytes, expected string"),
        ("a\udc80", "string", "is not valid Unicode"),
        (2**63, "int64", "is beyond 64 bits"),
        (10**400, "float64", "is beyond 64 bits"),
        ("soon", "date", "is no ISO 8601 date"),
        (5, "date", "is no ISO 8601 date"),
        ("soon", "timestamp", "is no ISO 8601 time"),
        (5, "timestamp", "is no ISO 8601 time"),
    ],
)
def test_what_a_column_cannot_hold_is_said_without_the_value(value: object, kind: str, reason: str) -> None:
    with pytest.raises(ValueError) as error:
        kept_value(value, kind)
    assert str(error.value) == reason


def test_new_columns_are_typed_by_their_values() -> None:
    rows = [
        {
            "id": "a",
            "text": "t",
            "i": None,
            "f": 1,
            "s": None,
            "b": None,
            "d": None,
            "w": None,
            "null": None,
            "n": np.int64(3),
        },
        {
            "id": "b",
            "text": "t",
            "i": 2,
            "f": 1.5,
            "s": "x",
            "b": np.bool_(True),
            "d": date(2026, 1, 1),
            "w": datetime(2026, 1, 1),
        },
    ]
    incoming, problems = check_rows(rows, {}, 100)
    assert problems == []
    assert incoming.kept_types == {
        "b": "bool", "d": "date", "f": "float64", "i": "int64", "n": "int64", "s": "string", "w": "timestamp"
    }  # fmt: skip
    assert incoming.kept["n"] == [3, None]
    assert incoming.kept["b"] == [None, True]


def test_every_problem_of_every_row_is_found_at_once() -> None:
    rows = [
        {"id": "a", "text": "fine", "n": 1},
        {"id": 7, "text": ""},
        "no row",
        {"id": "a", "vector": None, "subject": 3, "tenant": "\udc80", "time": "soon", "n": "two"},
        {"text": "x", "vector": [1]},
        {"id": "b"},
    ]
    _, problems = check_rows(rows, {"n": "int64"}, 100)
    assert problems == [
        (1, None, "the id is int, expected a string"),
        (1, None, "the text is empty"),
        (2, None, "is str, expected a mapping"),
        (3, "a", "the id stands in row 0 of this call already"),
        (3, "a", "the vector is null"),
        (3, "a", "subject is int, expected a string"),
        (3, "a", "tenant is not valid Unicode"),
        (3, "a", "time is neither a datetime nor an ISO 8601 string"),
        (3, "a", "column 'n' is str, expected int64"),
        (4, None, "the id is null"),
        (4, None, "expected exactly one of 'text', 'image' and 'vector'"),
        (5, "b", "expected exactly one of 'text', 'image' and 'vector'"),
    ]


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("two words", "a key is no column name: letters, digits and '_', not starting with '_' or 'vec_'"),
        ("_hidden", "a key is no column name: letters, digits and '_', not starting with '_' or 'vec_'"),
        ("vec_ab12ab12ab12", "a key is no column name: letters, digits and '_', not starting with '_' or 'vec_'"),
        (1, "a key is no column name: letters, digits and '_', not starting with '_' or 'vec_'"),
        ("ID", "a key differs from 'id' in case only, which SQL does not tell apart"),
        ("Text", "a key differs from 'text' in case only, which SQL does not tell apart"),
        ("Product", "a key differs from 'product' in case only, which SQL does not tell apart"),
    ],
)
def test_a_key_that_can_be_no_column_is_refused(key: object, reason: str) -> None:
    _, problems = check_rows([{"id": "a", "text": "t"}, {"id": "b", "text": "t", key: "x"}], {"product": "string"}, 100)
    assert problems == [(1, None, reason)]


facts = st.dictionaries(st.sampled_from(["x", "y", "z"]), st.one_of(st.text(max_size=3), st.integers(), st.booleans()))


@given(content=st.binary(max_size=4), subject=st.none() | st.text(max_size=3), kept=facts)
def test_a_digest_does_not_hang_on_column_order_or_nulls(content: bytes, subject: str | None, kept: dict) -> None:
    def digest(columns: dict) -> bytes:
        return payload_digests(b"k", [content], [subject], [None], {name: [v] for name, v in columns.items()})[0]

    assert digest(kept) == digest(dict(reversed(kept.items()))) == digest({**kept, "absent": None})


@given(st.lists(st.tuples(st.binary(max_size=2), st.none() | st.text(max_size=2), facts), min_size=2, max_size=6))
def test_equal_digests_are_equal_rows(rows: list) -> None:
    keys = sorted({key for _, _, kept in rows for key in kept})
    columns = {key: [kept.get(key) for _, _, kept in rows] for key in keys}
    digests = payload_digests(b"k", [c for c, _, _ in rows], [s for _, s, _ in rows], [None] * len(rows), columns)
    for (content, subject, kept), digest in zip(rows, digests, strict=True):
        for other, found in zip(rows, digests, strict=True):
            same = (content, subject) == other[:2] and repr(sorted(kept.items())) == repr(sorted(other[2].items()))
            assert (digest == found) == same


def test_the_digest_is_keyed() -> None:
    one, other = (payload_digests(key, [b"t"], [None], [None], {})[0] for key in (b"k", b"l"))
    assert one != other
    assert len(one) == 32
