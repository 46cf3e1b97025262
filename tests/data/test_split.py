from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.snapshots.split import (
    SALT,
    SIDES,
    SplitRule,
    bucket,
    bucket_sql,
    iso,
    moment,
    parse_split,
    side,
    side_sql,
    split_problems,
)

DEFAULT = {"train": 0.8, "val": 0.1, "test": 0.1}


# printf 'raystore-split-1\0c-9' | sha256sum | cut -c1-16, as a hexadecimal number over 2^64.
@pytest.mark.parametrize(
    ("entity", "digits"),
    [("c-9", "70c2f4abe3d84a2d"), ("t-1", "6074945865a846d5"), ("ärger", "81a64b7d362c767f"), ("", "5f49f8ccd087ab70")],
)
def test_a_bucket_is_what_the_definition_says(entity: str, digits: str) -> None:
    assert bucket(entity) == int(digits, 16) / 2**64


def test_the_salt_is_fixed_since_a_changed_one_would_move_every_entity() -> None:
    assert SALT == "raystore-split-1"
    assert bucket("c-9", "another") != bucket("c-9")


@given(st.text())
def test_a_bucket_lies_from_zero_up_to_one(entity: str) -> None:
    assert 0 <= bucket(entity) <= 1


fractions = (
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
    .filter(lambda f: f[0] > 1e-6)
    .map(lambda f: {s: v / math.fsum(f) for s, v in zip(SIDES, f, strict=True)})
)


@given(st.text(), fractions)
def test_an_entity_stands_on_the_one_side_whose_range_holds_its_bucket(entity: str, given: dict) -> None:
    assert split_problems(given) == []
    chosen = side(entity, given)
    edges = [sum(given[s] for s in SIDES[: i + 1]) for i in range(3)]
    place = bucket(entity)
    wanted = next((s for s, edge in zip(SIDES, edges, strict=True) if place < edge), None)
    assert chosen == wanted or wanted is None or given[wanted] == 0
    assert given[chosen] > 0
    assert side(entity, dict(reversed(given.items()))) == chosen


@given(st.text(), st.floats(0.1, 0.8))
def test_an_entity_leaves_train_only_when_train_shrinks(entity: str, train: float) -> None:
    small = {"train": train, "val": 0.1, "test": 0.9 - train}
    large = {"train": train + 0.1, "val": 0.1, "test": 0.8 - train} if train < 0.8 else {"train": 0.9, "val": 0.1}
    if side(entity, small) == "train":
        assert side(entity, large) == "train"


@pytest.mark.parametrize("wanted", [DEFAULT, {"train": 0.5, "test": 0.5}, {"train": 0.34, "val": 0.33, "test": 0.33}])
def test_the_fractions_are_honoured_over_many_entities(wanted: dict[str, float]) -> None:
    n = 20_000
    counts = Counter(side(f"customer {i}", wanted) for i in range(n))
    for name in SIDES:
        p = wanted.get(name, 0.0)
        assert abs(counts[name] - n * p) <= 4 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("sum_to_less", [{"train": 0.7, "val": 0.2, "test": 0.1 - 1e-12}, {"train": 1 - 1e-12}])
def test_a_bucket_beyond_the_rounded_sum_stands_on_the_last_side(
    sum_to_less: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.data.snapshots.split.bucket", lambda entity, salt: 1 - 2**-53)
    assert side("x", sum_to_less) == list(sum_to_less)[-1]


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        (DEFAULT, []),
        ({"train": 1}, []),
        ({"train": 0.9, "holdout": 0.1}, ["'holdout' is no side of a split, expected train, val, test"]),
        ({"train": 0.8, "test": 0.1}, ["the fractions sum to 0.9, expected 1"]),
        (
            {"train": 1.5, "test": -0.5},
            ["the fraction of 'train' is 1.5, expected 0 to 1", "the fraction of 'test' is -0.5, expected 0 to 1"],
        ),
        ({"train": float("nan"), "test": 1}, ["the fraction of 'train' is nan, expected 0 to 1"]),
        ({"val": 0.5, "test": 0.5}, ["no row goes to train"]),
        ({}, ["the fractions sum to 0, expected 1"]),
        ({"train": 1, "test": 0.2}, ["the fractions sum to 1.2, expected 1"]),
        (
            {"train": "most", "test": True},
            [
                "the fraction of 'train' is a str, expected a number from 0 to 1",
                "the fraction of 'test' is a bool, expected a number from 0 to 1",
            ],
        ),
    ],
)
def test_fractions_that_cannot_be_used_are_said(given: dict[str, float], problems: list[str]) -> None:
    assert split_problems(given) == problems


# --- the same in SQL ---------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=12) | st.sampled_from(["", "\0", "a\0", "ß", "\U0001f600"]), min_size=1), fractions)
def test_sql_puts_every_entity_in_the_same_bucket_and_on_the_same_side(entities: list[str], given: dict) -> None:
    with duckdb.connect() as connection:
        connection.register("entities", pa.table({"e": entities}))
        select = f"SELECT {bucket_sql('e')} AS bucket, {side_sql('e', given)} AS side FROM entities"
        found = connection.sql(select).to_arrow_table().to_pydict()
    assert found == {"bucket": [bucket(e) for e in entities], "side": [side(e, given) for e in entities]}


# --- rules -------------------------------------------------------------------------------------------------------------

FIRST, SECOND = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, 12, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        (None, SplitRule("entity", DEFAULT)),
        ({}, SplitRule("entity", DEFAULT)),
        ({"train": 0.9, "test": 0.1}, SplitRule("entity", {"train": 0.9, "val": 0.0, "test": 0.1})),
        ({"by": "entity", "train": 1}, SplitRule("entity", {"train": 1, "val": 0.0, "test": 0.0})),
        ({"by": "group", "column": "shop"}, SplitRule("group", DEFAULT, "shop")),
        ({"by": "time"}, SplitRule("time", DEFAULT, "time")),
        ({"by": "time", "test": "2026-04-01T12:30"}, SplitRule("time", None, "time", test=SECOND)),
        (
            {"by": "time", "column": "closed_at", "val": "2026-03-01", "test": SECOND},
            SplitRule("time", None, "closed_at", FIRST, SECOND),
        ),
        ("given", SplitRule("given")),
        ({"by": "given"}, SplitRule("given")),
    ],
)
def test_a_split_is_read_and_kept(given: Any, rule: SplitRule) -> None:
    assert parse_split(given) == (rule, [])
    assert SplitRule.of_record(rule.record()) == rule


def test_cuts_that_fractions_placed_are_kept_and_not_asked_for_again() -> None:
    rule = SplitRule("time", DEFAULT, "time", FIRST, SECOND)
    assert rule.record() == {
        "by": "time", "fractions": DEFAULT, "column": "time", "val": "2026-03-01T00:00:00Z", "test": "2026-04-01T12:30:00Z",
    }  # fmt: skip
    assert rule.asked == SplitRule("time", DEFAULT, "time")
    fixed = SplitRule("time", None, "time", FIRST, SECOND)
    assert fixed.asked == fixed


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        ("random", ["split='random' is no way to split, expected 'given' or a mapping"]),
        (0.8, ["split= is a float, expected 'given' or a mapping"]),
        ({"by": "luck"}, ["a split cannot be by 'luck', expected entity, group, time, given"]),
        ({"by": "group"}, ["a split by group needs 'column': the column that holds the group"]),
        ({"by": "given", "train": 1}, ["a given split has no 'train'"]),
        ({"by": "entity", "column": "x", "train": 1.2}, [
            "a split by entity has no 'column'", "the fraction of 'train' is 1.2, expected 0 to 1",
        ]),
        ({"by": "time", "train": 0.8, "test": 0.4}, ["the fractions sum to 1.2, expected 1"]),
        ({"by": "time", "val": "soon", "test": 3}, [
            "the cut 'val' is no moment, expected one like '2026-03-01' or '2026-03-01T12:00:00Z'",
            "the cut 'test' is a int, expected a moment like '2026-03-01'",
        ]),
        ({"by": "time", "val": "2026-04-01", "test": "2026-03-01"}, ["the cut 'val' is not before the cut 'test'"]),
        ({"by": "time", "train": 0.5, "test": "2026-03-01"}, [
            "'train' is no cut of a split by time, expected val and test (moments), or fractions",
        ]),
    ],
)  # fmt: skip
def test_a_split_that_cannot_be_is_said(given: Any, problems: list[str]) -> None:
    assert parse_split(given)[1] == problems


def test_a_moment_without_a_zone_is_utc() -> None:
    assert moment("2026-03-01") == moment(datetime(2026, 3, 1)) == FIRST
    assert moment("2026-03-01T02:00:00+02:00") == moment(FIRST.astimezone(timezone(timedelta(hours=2)))) == FIRST
    assert iso(FIRST) == "2026-03-01T00:00:00Z"
