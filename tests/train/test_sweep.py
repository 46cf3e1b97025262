from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystore.errors import InvalidArguments, JobFailed
from raystore.layout import Layout
from raystore.train.fit import train_head
from raystore.train.source import ArraySource, Examples, Task
from raystore.train.sweep import Sweep, sweep

from .examples import CLASSES, NAMED, clusters, source, source_of

SETTINGS: list[dict[str, Any]] = [
    {"kind": "mlp", "hidden": 8, "max_epochs": 1},
    {"l2": 1e-4},
    {"kind": "forest"},
    {"l2": 10.0},
    {"loss": "ovr", "l2": [0.1, 1.0]},
    {"kind": "knn", "k": 5, "depth": 3},
    {"kind": "knn", "k": 5},
]


def swept(tmp_path: Path, settings: list[dict[str, Any]], task: Task = "classes", **changes: Any) -> Sweep:
    call: dict[str, Any] = {
        "name": "refunds",
        "settings": settings,
        "classes": NAMED[task],
        "source": source_of(task),
        "task": task,
        "fingerprint": "5f" * 32,
        "encoder_label": "minilm@5f5f5f5f5f5f",
        "snapshot": {"name": "monday", "number": 1, "hash": "ab" * 32},
    }
    return sweep(Layout(tmp_path / "store"), **{**call, **changes})


def test_settings_stand_by_their_loss_on_val_and_the_best_is_published(tmp_path: Path) -> None:
    found = swept(tmp_path, SETTINGS)
    losses = [t.loss for t in found.tried if t.loss is not None]
    assert losses == sorted(losses)
    assert [t.place for t in found.tried[-2:]] == [2, 5]
    assert [t.reason for t in found.tried[-2:]] == [
        "kind must be one of 'linear', 'mlp', 'knn', found 'forest'",
        "a knn head has no option 'depth', it has k, power",
    ]
    assert found.head.label == "refunds@1"
    assert found.head.record.settings["sweep_of"] == 7
    assert found.best.loss == min(losses)
    kind = found.best.setting.get("kind", "linear")
    assert found.head.kind == kind


def test_the_best_head_is_the_one_a_training_of_that_setting_gives(tmp_path: Path) -> None:
    found = swept(tmp_path, [{"l2": 1e-4}, {"l2": 10.0}])
    alone = train_head(
        Layout(tmp_path / "store"),
        name="alone",
        kind="linear",
        classes=CLASSES,
        source=source(),
        fingerprint="5f" * 32,
        encoder_label="minilm@5f5f5f5f5f5f",
        snapshot={"name": "monday", "number": 1, "hash": "ab" * 32},
        options=dict(found.best.setting),
    )
    np.testing.assert_array_equal(found.head.arrays["W"], alone.arrays["W"])
    assert found.head.report.scores == alone.report.scores


def test_it_is_shown_as_a_table(tmp_path: Path) -> None:
    found = swept(tmp_path, SETTINGS)
    lines = str(found).splitlines()
    assert lines[0].strip() == "7 settings on val, 2 failed; the best is refunds@1"
    assert lines[1].split()[:2] == ["kind", "hidden"]
    assert len(lines) >= 9
    assert "0.1, 1.0 -> 1.0" in str(found)
    page = found._repr_html_()
    assert "<caption" in page
    assert f"<td style='text-align:right'>{found.best.score:.1%}</td>" in page
    assert f"{found.best.score:.1%}" in str(found)
    assert [row["failed"] is None for row in found.to_dicts()] == [True] * 5 + [False] * 2


@pytest.mark.parametrize(
    ("task", "columns"), [("labels", ["val log loss", "val micro-F1"]), ("number", ["val RMSE", "val mean error"])]
)
def test_several_labels_a_row_and_numbers_have_scores_of_their_own(tmp_path: Path, task: Task, columns: list[str]) -> None:
    found = swept(tmp_path, [{"l2": 1e-4}, {"l2": 10.0}, {"kind": "knn"}], task)
    for name in columns:
        assert all(isinstance(row[name], float) for row in found.to_dicts())
    assert found.best.setting != {"l2": 1e-4}


def test_without_rows_of_val_or_settings_nothing_is_tried(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as refused:
        swept(tmp_path, [{}], source=ArraySource({"train": clusters(50)}))
    assert str(refused.value) == "sweep of head 'refunds': settings are scored on rows of val, and there are none."
    with pytest.raises(InvalidArguments) as refused:
        swept(tmp_path, [])
    assert str(refused.value) == "sweep of head 'refunds': there are no settings to try."


def test_where_no_setting_can_be_the_reasons_are_said_and_nothing_is_published(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as refused:
        swept(tmp_path, [{"l2": -1}, {"kind": "tree"}])
    assert str(refused.value) == (
        "sweep of head 'refunds': setting 1: l2 must be positive, found -1; "
        "setting 2: kind must be one of 'linear', 'mlp', 'knn', found 'tree'."
    )
    assert not (tmp_path / "store" / "heads").exists()


def test_where_every_fit_fails_the_job_has_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr("raystore.train.sweep.fit_arrays", no_memory)
    with pytest.raises(JobFailed) as failed:
        swept(tmp_path, [{"l2": 1.0}])
    assert str(failed.value) == (
        "sweep of head 'refunds' failed: no setting could be fitted (setting 1: it ended with MemoryError). Change the settings."
    )


def test_a_setting_that_is_given_twice_is_tried_once(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    twice = [{"l2": 1.0}, {"kind": "linear", "l2": 1, "seed": 0}, {"l2": 2.0}, {"l2": 1.0, "seed": 5}]
    found = swept(tmp_path, twice, progress=lambda done, total: told.append((done, total)))
    assert sorted(t.place for t in found.tried) == [0, 2, 3]
    assert found.head.record.settings["sweep_of"] == 3
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_progress_counts_the_settings(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    swept(tmp_path, [{"l2": -1}, {"l2": 1.0}, {"l2": 2.0}], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.ray
def test_on_ray_it_is_the_same_table_and_the_same_head(tmp_path: Path, ray_session: object) -> None:
    inline, spread = (swept(tmp_path / str(w), SETTINGS, workers=w) for w in (0, 2))
    assert [(t.place, t.reason, t.found) for t in spread.tried] == [(t.place, t.reason, t.found) for t in inline.tried]
    for a, b in zip(spread.tried, inline.tried, strict=True):
        if b.loss is not None:
            assert (a.loss, a.score) == (pytest.approx(b.loss, rel=1e-4), pytest.approx(b.score, abs=0.01))
    for name, array in inline.head.arrays.items():
        np.testing.assert_allclose(spread.head.arrays[name], array, atol=2e-3)


@pytest.mark.ray
def test_a_setting_whose_worker_dies_is_listed_and_the_others_go_on(tmp_path: Path, ray_session: object) -> None:
    driver = os.getpid()

    # Local, so that it travels to the workers by value: they cannot import this file.
    @dataclass(frozen=True)
    class Deadly(ArraySource):
        def load(self, split: str, rank: int, world: int) -> Examples:
            if os.getpid() != driver and split == "train" and not (tmp_path / "died-2").exists():
                (tmp_path / ("died-2" if (tmp_path / "died-1").exists() else "died-1")).touch()
                os._exit(1)
            return super().load(split, rank, world)

    found = swept(tmp_path, [{"l2": 1.0}, {"l2": 2.0}, {"l2": 3.0}], workers=1, source=Deadly(source().splits))
    assert sorted(t.place for t in found.tried if t.loss is not None) == [1, 2]
    assert [t.reason for t in found.tried if t.loss is None] == ["its worker died twice"]
