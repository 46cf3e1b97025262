"""What a prediction of each task is on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystore.layout import Layout
from raystore.serve.answer.said import shown, spoken
from raystore.serve.wire.predict import LabelsPrediction, NumberPrediction, PredictAnswer, Prediction
from raystore.train.fit import train_head
from raystore.train.heads import Head, Predictions
from raystore.train.source import ArraySource, Task
from tests.train.examples import MAKERS, NAMED, clusters, source_of

LINEAGE = {"deployment": "triage", "number": 1, "head": "h@1", "encoder": "e", "fingerprint": "5f" * 32}


def head_of(task: Task, tmp_path: Path, **options: Any) -> Head:
    return train_head(
        Layout(tmp_path / "store"),
        name="h",
        kind="linear",
        task=task,
        classes=NAMED[task],
        fingerprint="5f" * 32,
        encoder_label="e",
        snapshot={"name": "s", "number": 1, "hash": "ab"},
        **{"source": source_of(task), **options},
    )


def predictions(head: Head, predicted: Predictions, n: int, top: int) -> list[dict[str, Any]]:
    said = spoken(head.task, predicted, n, top)
    return [{"id": f"i-{i}", "by": head.label, **shown(one.said, one)} for i, one in enumerate(said)]


@pytest.mark.parametrize(
    ("task", "model"), [("classes", Prediction), ("labels", LabelsPrediction), ("number", NumberPrediction)]
)
def test_each_task_answers_in_its_own_words(task: Task, model: type, tmp_path: Path) -> None:
    head = head_of(task, tmp_path)
    predicted = head.predict(MAKERS[task](3, seed=4).vectors)
    rows = predictions(head, predicted, 3, top=2)
    snapshot = {"name": "s", "number": 1, "hash": "ab"}
    answer = PredictAnswer.model_validate(
        {
            "predictions": rows,
            "lineage": {**LINEAGE, "snapshot": snapshot},
            "fingerprint": "5f" * 32,
            "request_id": "r",
            "timings_ms": {},
        }
    )
    assert [type(row) for row in answer.predictions] == [model] * 3
    assert [row.model_dump() for row in answer.predictions] == rows
    said = {"classes": "label", "labels": "labels", "number": "value"}[task]
    assert [row[said] for row in rows] == predicted.labels


def test_a_prediction_below_the_heads_threshold_says_that_it_is_a_guess(tmp_path: Path) -> None:
    splits = {"train": clusters(300, spread=0.6), "val": clusters(300, spread=0.6, seed=1)}
    head = head_of("classes", tmp_path, source=ArraySource(splits), precision=0.97)
    predicted = head.predict(splits["val"].vectors)
    rows = predictions(head, predicted, 300, top=1)
    threshold = np.float32(head.threshold or 0)
    assert {row["abstained"] for row in rows} == {True, False}
    assert all(row["abstained"] == (np.float32(row["confidence"]) < threshold) for row in rows)
