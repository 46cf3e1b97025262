"""What a head said, row by row: the same as if each row were looked at alone, and no more than an answer may name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from raystore.serve.answer.said import MOST_PROBABILITIES, Spoken, spoken
from raystore.serve.answer.streaming import LINES
from raystore.serve.rules.said import Said
from raystore.serve.wire.predict import PredictOptions
from raystore.train.source import Task
from tests.serve.conftest import Served
from tests.serve.serving import Serving

TEXT = "the card never arrived"


@dataclass(frozen=True)
class Predicted:
    probabilities: npt.NDArray[np.float32]
    labels: Any
    confidence: npt.NDArray[np.float32]
    abstained: npt.NDArray[np.bool_]
    classes: list[str]


def one_by_one(task: Task, predicted: Predicted, n: int, top: int) -> list[Spoken]:
    """The definition, row by row."""
    found = []
    for i in range(n):
        if task == "number":
            found.append(Spoken(Said(value=float(predicted.labels[i]))))
            continue
        row = predicted.probabilities[i]
        best = np.argsort(-row, kind="stable")[: max(top, 2)]
        likely = [{"label": str(predicted.classes[place]), "probability": float(row[place])} for place in best]
        confidence = float(predicted.confidence[i])
        if task == "labels":
            found.append(Spoken(Said(labels=tuple(map(str, predicted.labels[i])), confidence=confidence), likely[:top]))
            continue
        facts = {"second": None, "margin": None}
        if len(likely) > 1:
            facts = {"second": likely[1]["label"], "margin": likely[0]["probability"] - likely[1]["probability"]}
        abstained = bool(predicted.abstained[i])
        said = Said(
            label=str(predicted.labels[i]),
            confidence=confidence,
            abstained=abstained,
            why="threshold" if abstained else None,
        )
        found.append(Spoken(said, likely[:top], facts))
    return found


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Task, Predicted, int]:
    n, m = draw(st.integers(1, 6)), draw(st.sampled_from([1, 2, 5, 63, 200]))
    # Few values, so that many are equal, in every place.
    values = st.sampled_from([0.0, -0.0, 1e-30, 0.1, 0.25, 0.25000003, 0.5, 1.0]) | st.floats(0, 1, width=32)
    probabilities = draw(arrays(np.float32, (n, m), elements=values))
    classes = [f"class {i}" for i in range(m)]
    task: Task = draw(st.sampled_from(["classes", "labels", "number"]))
    labels: Any = np.asarray(classes)[probabilities.argmax(axis=1)]
    if task == "labels":
        labels = [[name for name, p in zip(classes, row, strict=True) if p > 0.4] for row in probabilities]
    if task == "number":
        labels = probabilities[:, 0]
    confidence = probabilities.max(axis=1)
    predicted = Predicted(probabilities, labels, confidence, confidence < 0.5, classes)
    return task, predicted, draw(st.integers(1, 250))


@given(drawn=predictions())
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("sorted_whole", [0, 4_096])
def test_all_rows_at_once_say_what_each_says_alone_and_ties_keep_the_order_of_the_classes(
    sorted_whole: int, drawn: tuple[Task, Predicted, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.serve.answer.said._SORTED", sorted_whole)
    task, predicted, top = drawn
    n = len(predicted.probabilities)
    found = spoken(task, predicted, n, top)
    assert found == one_by_one(task, predicted, n, top)
    for one in found:
        assert all(type(each["probability"]) is float and type(each["label"]) is str for each in one.probabilities)
        assert type(one.said.confidence) in (float, type(None))
        assert type(one.said.abstained) is bool


def test_no_rows_say_nothing() -> None:
    none = Predicted(np.empty((0, 3), np.float32), [], np.empty(0, np.float32), np.empty(0, bool), ["a", "b", "c"])
    assert spoken("classes", none, 0, 5) == []


def test_a_group_of_a_stream_asks_for_less_than_an_answer_may_name() -> None:
    [most] = [each.le for each in PredictOptions.model_fields["top"].metadata if hasattr(each, "le")]
    assert LINES * most <= MOST_PROBABILITIES


def test_what_would_name_too_many_probabilities_is_refused_before_anything_is_encoded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Serving(served.rooms).serve({"s-many": {"head": "refunds@2"}})
    monkeypatch.setattr("raystore.serve.answer.said.MOST_PROBABILITIES", 11)
    encoded = [encoder for encoder in service.orchestrator.encoders if encoder.fingerprint == served.fingerprint]
    monkeypatch.setattr(type(encoded[0]), "encode_soon", None)
    with service.client:
        assert service.refused("s-many", {"items": [{"text": TEXT}] * 4, "top": 1000}) == (
            422,
            "InvalidArguments",
            "predict 's-many': its items, each with as many labels as top says, are 12 probabilities, expected 11 at most. "
            "Ask for a lower top, or for fewer items.",
        )
        monkeypatch.undo()
        predictions = service.ask("s-many", {"items": [{"text": TEXT}] * 4, "top": 1000})["predictions"]
    assert [len(each["probabilities"]) for each in predictions] == [3, 3, 3, 3]
