"""What a deployment's drift is measured against: held-out rows, no more than needed, tried again where that failed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from raystore.errors import ItemNotFound
from raystore.serve.recording.drifting import Drifting
from raystore.serve.recording.seen import Seen
from raystore.serve.spec.records import DeploymentRecord
from raystore.serve.spec.watch import Watch
from raystore.serve.watch import table
from raystore.serve.watch.merging import series_of
from raystore.serve.watch.metrics import Metrics
from raystore.train.snapshot_source import SnapshotSource
from raystore.train.source import Examples
from raystore.vectors import mark
from tests.serve.conftest import Whole, recorded
from tests.waiting import soon

Load = Callable[[SnapshotSource, str, int, int], Examples]


def priced(whole: Whole, name: str) -> DeploymentRecord:
    """A deployment of the head of numbers: its drift is of vectors alone."""
    return recorded(whole.rooms, name, "price@1")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """What of the snapshot was loaded: side, every how many-th row, rows."""
    found: list[tuple[str, int, int]] = []
    load = SnapshotSource.load

    def loading(source: SnapshotSource, split: str, rank: int, world: int) -> Examples:
        rows = load(source, split, rank, world)
        found.append((split, world, len(rows.vectors)))
        return rows

    monkeypatch.setattr(SnapshotSource, "load", loading)
    return found


@pytest.mark.parametrize(("window", "every", "most"), [(100, 2, 110), (2_000, 1, 240)])
def test_of_the_held_out_rows_as_many_are_loaded_as_are_compared_and_none_of_train(
    whole: Whole, loads: list[tuple[str, int, int]], window: int, every: int, most: int
) -> None:
    drifting = Drifting(whole.rooms, Watch(drift_window=window), Metrics("recording"))
    drifting.expect(priced(whole, "d-part"))
    soon(lambda: drifting._looks)
    drifting.close()
    assert [(side, world) for side, world, _ in loads] == [("test", every), ("val", every)]
    assert 100 <= sum(n for _, _, n in loads) <= most


def test_rows_of_train_are_loaded_where_those_held_out_are_too_few(
    whole: Whole, loads: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.serve.recording.drifting.LEAST", 300)
    drifting = Drifting(whole.rooms, Watch(), Metrics("recording"))
    drifting.expect(priced(whole, "d-train"))
    soon(lambda: drifting._looks)
    drifting.close()
    assert [side for side, _, _ in loads] == ["test", "val", "train"]
    assert sum(n for _, _, n in loads) == 400


def test_what_failed_is_tried_again_when_it_is_time_to_measure_and_said_once(
    whole: Whole, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried, load = [0], SnapshotSource.load

    def failing(source: SnapshotSource, split: str, rank: int, world: int) -> Examples:
        tried[0] += 1
        if tried[0] <= 2:
            raise ItemNotFound(name="i-1", where="collection 'items'", existing=[])
        return load(source, split, rank, world)

    monkeypatch.setattr(SnapshotSource, "load", failing)
    metrics, record = Metrics("recording"), priced(whole, "d-again")
    with caplog.at_level(logging.WARNING, "raystore.serve"):
        drifting = Drifting(whole.rooms, Watch(drift_every_s=1), metrics)
        drifting.expect(record)
        soon(lambda: drifting._looks)
        vectors = mark(np.asarray(whole.vectors[:100]), whole.fingerprint)
        drifting.add(Seen(record.name, 1, "r", datetime.now(UTC), record.fingerprint, vectors, ()))
        soon(lambda: series_of(metrics.snapshot()).get(table.DRIFT_MEASURED.name))
        drifting.close()
    assert [message for message in caplog.messages if "is not measured" in message] == [
        "drift of deployment d-again is not measured: "
        + str(ItemNotFound(name="i-1", where="collection 'items'", existing=[]))
    ]


def test_where_nothing_can_be_measured_it_is_not_looked_again(
    whole: Whole, loads: list[tuple[str, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.serve.recording.drifting.LEAST", 1_000)
    drifting = Drifting(whole.rooms, Watch(drift_every_s=1), Metrics("recording"))
    drifting.expect(priced(whole, "d-few"))
    soon(lambda: len(loads) == 3)
    threading.Event().wait(2.5)
    drifting.close()
    assert (len(loads), drifting._looks) == (3, None)
