"""A sentence for each request would fill a log."""

from __future__ import annotations

import logging

import pytest

from raystore.serve.watch.sparse import Sparse


def test_a_sentence_is_written_once_in_ten_seconds_with_how_often_it_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    sparse = Sparse(logging.getLogger("raystore.test"), clock=lambda: now[0])
    for kind in ("a", "a", "b", "a"):
        sparse.error(kind, f"{kind} failed")
    now[0] += 10.0
    sparse.error("a", "a failed")
    now[0] += 10.0
    sparse.error("a", "a failed")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["a failed", "b failed", "a failed (and 2 times more before)", "a failed"]


def test_kinds_without_end_take_no_memory_without_end(caplog: pytest.LogCaptureFixture) -> None:
    sparse = Sparse(logging.getLogger("raystore.test"), clock=lambda: 0.0)
    for kind in range(2_500):
        sparse.error(kind, "failed")
    assert len(caplog.records) == 2_500
    assert len(sparse._told) <= 1_000
