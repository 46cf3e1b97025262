"""A JSON line for each request, and never a word of what it held."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from raystore.serve.watch.finished import Finished, Stage
from raystore.serve.watch.json_logs import start_json_logs, stop_json_logs, tell_log

ROUTE = "/v1/predict/{deployment}"
CANARY = "zebra-quartz-4711"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    start_json_logs(stream)
    yield stream
    stop_json_logs()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def finished(**changes: Any) -> Finished:
    given: dict[str, Any] = {
        "request_id": "9c1e",
        "method": "POST",
        "route": ROUTE,
        "status": 200,
        "started_at": 1700000000.0,
        "seconds": 0.0081234,
    }
    return Finished(**{**given, **changes})


def test_a_request_is_one_line_of_json(written: io.StringIO) -> None:
    stages = [Stage("rules", 0.0, 0.001), Stage("encode", 0.001, 0.0042), Stage("rules", 0.005, 0.001)]
    tell_log()(finished(deployment="triage", stages=stages, items=2, key="shop"))
    (line,) = lines(written)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "info",
        "request_id": "9c1e",
        "method": "POST",
        "route": ROUTE,
        "deployment": "triage",
        "status": 200,
        "ms": 8.123,
        "stages": {"rules": 2.0, "encode": 4.2},
        "items": 2,
        "key": "shop",
        "error": None,
    }


@pytest.mark.parametrize(
    ("status", "level"),
    [(200, "info"), (404, "info"), (422, "info"), (429, "warning"), (503, "warning"), (500, "error"), (504, "error")],
)
def test_the_level_says_whose_fault_it_is(written: io.StringIO, status: int, level: str) -> None:
    tell_log()(finished(status=status, error="SomeError"))
    assert [(line["level"], line["error"]) for line in lines(written)] == [(level, "SomeError")]


def test_nothing_that_a_client_writes_gets_into_a_line(written: io.StringIO) -> None:
    tell_log()(finished(method=CANARY.upper(), traceparent=CANARY))
    assert CANARY not in written.getvalue().lower()
    assert lines(written)[0]["method"] == "_OTHER"


def test_a_finished_request_has_no_field_for_content_or_a_path() -> None:
    assert [field.name for field in fields(Finished)] == [
        "request_id", "method", "route", "status", "started_at", "seconds", "deployment", "stages", "items", "key", "error",
        "traceparent",
    ]  # fmt: skip


def test_what_the_service_says_besides_is_a_line_and_an_exception_only_its_type(written: io.StringIO) -> None:
    log = logging.getLogger("raystore.serve")
    try:
        raise ValueError(f"cannot read {CANARY}")
    except ValueError:
        log.exception("request %s failed", "9c1e")
    (line,) = lines(written)
    del line["ts"]
    assert line == {"level": "error", "logger": "raystore.serve", "message": "request 9c1e failed", "error": "ValueError"}
    assert CANARY not in written.getvalue()


def test_what_the_rest_of_raystore_warns_of_in_a_process_of_the_service_is_a_line_too(written: io.StringIO) -> None:
    logging.getLogger("raystore").info("not said without json_logs either")
    logging.getLogger("raystore").warning("a table is being compacted")
    logging.getLogger("raystore.source").error("an id was refused")
    assert [(line["level"], line["logger"], line["message"]) for line in lines(written)] == [
        ("warning", "raystore", "a table is being compacted"),
        ("error", "raystore.source", "an id was refused"),
    ]


def test_a_line_stays_one_line_whatever_it_says(written: io.StringIO) -> None:
    logging.getLogger("raystore.serve").warning('two\nlines, "quotes", \u2028 and é')
    assert written.getvalue().count("\n") == 1
    assert written.getvalue().isascii()
    assert lines(written)[0]["message"] == 'two\nlines, "quotes", \u2028 and é'


def test_lines_go_to_one_place_only_and_once(written: io.StringIO) -> None:
    again, elsewhere = io.StringIO(), io.StringIO()
    start_json_logs(again)
    root = logging.StreamHandler(elsewhere)
    logging.getLogger().addHandler(root)
    try:
        tell_log()(finished())
    finally:
        logging.getLogger().removeHandler(root)
    assert len(lines(written)) == 1
    assert again.getvalue() == elsewhere.getvalue() == ""


def test_without_json_logs_all_is_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    stream = io.StringIO()
    start_json_logs(stream)
    stop_json_logs()
    stop_json_logs()
    for name in ("raystore", "raystore.serve"):
        with caplog.at_level(logging.WARNING, name):
            logging.getLogger(name).warning("%s said", name)
    assert caplog.messages == ["raystore said", "raystore.serve said"]
    assert stream.getvalue() == ""
