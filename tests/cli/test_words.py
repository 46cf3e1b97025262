"""How values on a command line are read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from raystore.cli.words import moment, option_values, pairs, setting_of, settings_of, split_of, value_of
from raystore.errors import InvalidArguments


@pytest.mark.parametrize(
    "text, value",
    [
        ("1", 1),
        ("-3", -3),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("1,10,100", [1, 10, 100]),
        ("1,", [1]),
        ("balanced", "balanced"),
        ('{"card": 2}', {"card": 2}),
        ("[1, 2.5]", [1, 2.5]),
        ('{"supcon": 1, "arcface": .5}', {"supcon": 1, "arcface": 0.5}),
        ("{supcon: 1, arcface: 1e-1}", {"supcon": 1, "arcface": 0.1}),
        ('["1", .5]', ["1", 0.5]),
        ("nan", "nan"),
        ("1_000", "1_000"),
        ("", ""),
    ],
)
def test_a_value_is_a_number_a_list_json_or_text(text: str, value: Any) -> None:
    found = value_of(text)
    assert (found, type(found)) == (value, type(value))


def test_a_moment_is_a_span_from_now_either_way_or_a_time_that_is_utc_where_it_names_no_zone() -> None:
    for text, span in (("12h", timedelta(hours=12)), ("30d", timedelta(days=30)), ("8w", timedelta(weeks=8))):
        assert abs(moment(text) - datetime.now(UTC) - span) < timedelta(minutes=5)
        assert abs(datetime.now(UTC) - moment(text, ago=True) - span) < timedelta(minutes=5)
    assert moment("2027-01-01", ago=True) == moment("2027-01-01T01:00+01:00") == datetime(2027, 1, 1, tzinfo=UTC)
    for text in ("24", "-1d", "1.5h", "1m", "yesterday", ""):
        with pytest.raises(ValueError):
            moment(text)
    with pytest.raises(OverflowError):
        moment("999999w", ago=True)


def test_every_option_that_is_no_pair_is_named() -> None:
    with pytest.raises(InvalidArguments) as refused:
        pairs(["a=1", "b", "=c"], "sql")
    assert str(refused.value) == "sql: 'b' is not NAME=VALUE; '=c' is not NAME=VALUE."


def test_a_value_that_begins_like_json_and_is_none_is_named_and_not_quoted() -> None:
    with pytest.raises(InvalidArguments) as refused:
        option_values(["l2=1", "class_weight={card"], "head train")
    assert str(refused.value) == "head train: the value of class_weight begins like JSON, and is neither that nor YAML."


def test_in_a_setting_what_has_no_equals_sign_goes_on_with_the_value_before() -> None:
    assert setting_of("kind=linear, l2=1,10,100,loss=ovr", "head sweep") == {
        "kind": "linear",
        "l2": [1, 10, 100],
        "loss": "ovr",
    }


def test_settings_come_from_json_and_from_yaml_whose_1e_3_is_a_number_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"kind": "mlp", "learning_rate": 1e-3}]')
    (tmp_path / "a.yaml").write_text("- {kind: mlp, learning_rate: 1e-3}\n")
    assert (
        settings_of(str(tmp_path / "a.json"), "head sweep")
        == settings_of(str(tmp_path / "a.yaml"), "head sweep")
        == [{"kind": "mlp", "learning_rate": 0.001}]
    )


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("no.json", None, "cannot be read (No such file or directory)"),
        ("a.json", b"[{", "does not parse as JSON"),
        ("a.yaml", b"a: [", "does not parse as YAML"),
        ("a.yaml", b"\xff\xfe\x00", "is not UTF-8"),
        (
            "a.yaml",
            b"kind: linear",
            "holds no list of settings, expected one like [{kind: linear, l2: 1}, {kind: knn, k: 5}]",
        ),
    ],
)
def test_settings_that_cannot_be_read_are_refused(tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidArguments) as refused:
        settings_of(str(file), "head sweep")
    assert str(refused.value) == f"head sweep: '{file}' {sentence}."


@pytest.mark.parametrize(
    "text, rule",
    [
        (".8,.1,.1", {"train": 0.8, "val": 0.1, "test": 0.1}),
        (".6,0,.4", {"train": 0.6, "val": 0.0, "test": 0.4}),
        ("entity:.9,.1", {"by": "entity", "train": 0.9, "val": 0.1}),
        ("time", {"by": "time"}),
        ("time:.8,.1,.1", {"by": "time", "train": 0.8, "val": 0.1, "test": 0.1}),
        ("time:2026-03-01,2026-04-01T12:30", {"by": "time", "val": "2026-03-01", "test": "2026-04-01T12:30"}),
        ("time:,2026-04-01", {"by": "time", "test": "2026-04-01"}),
        ("time:at:.8,.1,.1", {"by": "time", "column": "at", "train": 0.8, "val": 0.1, "test": 0.1}),
        ("group:shop", {"by": "group", "column": "shop"}),
        ("group:shop:.5,.25,.25", {"by": "group", "column": "shop", "train": 0.5, "val": 0.25, "test": 0.25}),
        ("given", {"by": "given"}),
    ],
)
def test_a_split_is_a_way_perhaps_a_column_and_values(text: str, rule: dict[str, Any]) -> None:
    assert split_of(text, "snapshot create") == rule


@pytest.mark.parametrize(
    "text", ["half", "", ".1,.2,.3,.4", "time:at:monday", "time:,", "age:.8,.1,.1", "entity:a:.8,.1,.1"]
)
def test_a_split_that_is_none_is_refused_with_what_there_is(text: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        split_of(text, "snapshot create")
    assert str(refused.value) == (
        f"snapshot create: --split is '{text}', expected .8,.1,.1, time:.8,.1,.1, time:2026-03-01,2026-04-01 (val and test "
        "from then on), group:COLUMN:.8,.1,.1 or given."
    )
