from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from raystore.encoders.items import Item
from raystore.encoders.measure import Speed, check_sample, cost_per_million, head_accuracy, measure_speed, points
from raystore.errors import InvalidArguments
from raystore.vectors import Matrix


def test_every_item_is_encoded_in_batches_of_a_job_and_then_alone() -> None:
    batches: list[int] = []

    def encode(items: Sequence[Item]) -> Matrix:
        batches.append(len(items))
        return np.zeros((len(items), 2), dtype=np.float32)

    speed = measure_speed(encode, ["a"] * 2_500, seconds=0)
    assert batches[:4] == [64, 1_024, 1_024, 452]
    assert batches[4:] == [1] * 20
    assert speed.rows == 2_500
    assert speed.seconds > 0
    assert speed.one_ms > 0


def test_no_items_have_no_speed() -> None:
    with pytest.raises(InvalidArguments) as caught:
        measure_speed(lambda items: np.zeros((len(items), 2), dtype=np.float32), [])
    assert str(caught.value) == "measure speed: there are no items."


def test_a_pace_and_a_price_make_a_cost() -> None:
    assert Speed(rows=500, seconds=2.0, one_ms=3.0).rows_per_s == 250.0
    assert cost_per_million(rows_per_s=1_000_000 / 3600, price_per_hour=3.0) == pytest.approx(3.0)


def test_a_head_is_measured_on_rows_it_has_not_seen() -> None:
    random = np.random.default_rng(0)
    labels = [f"class {i % 4}" for i in range(200)]
    apart = np.eye(4, 16, dtype=np.float32)[[i % 4 for i in range(200)]] + random.normal(0, 0.05, (200, 16)).astype("f4")
    noise = random.normal(0, 1, (200, 16)).astype(np.float32)
    assert head_accuracy(apart, labels) == 1.0
    assert head_accuracy(noise, labels) < 0.45  # a head that had seen its rows would know them
    assert head_accuracy(noise, labels) == head_accuracy(noise, labels)


def test_a_class_of_two_rows_can_be_measured() -> None:
    vectors = np.eye(2, 3, dtype=np.float32)[[0, 0, 0, 0, 1, 1]]
    assert head_accuracy(vectors, ["a", "a", "a", "a", "b", "b"]) == 1.0


@pytest.mark.parametrize(
    "sample, labels, problem",
    [
        (["a"], None, "sample= takes a list of at least 2 items"),
        ("ab", None, "sample= takes a list of at least 2 items"),
        (["a", b"b"], None, "sample= takes texts or images, not both"),
        (["a", "b"], ["x"], "labels= has 1 labels for 2 items, expected one for each"),
        (None, ["x"], "labels= has 1 labels for 0 items, expected one for each"),
        (["a", "b"], ["x", "y"], "labels= needs two classes or more, and 2 items or more of each"),
        (["a", "b"], ["x", "x"], "labels= needs two classes or more, and 2 items or more of each"),
    ],
)
def test_a_sample_that_measures_nothing_is_refused(
    sample: list[Item] | None, labels: list[str] | None, problem: str
) -> None:
    with pytest.raises(InvalidArguments) as caught:
        check_sample("bench", sample, labels)
    assert str(caught.value) == f"bench: {problem}."


def test_good_samples_and_none_pass() -> None:
    check_sample("bench", None, None)
    check_sample("bench", ["a", "b", "c", "d"], ["x", "x", "y", "y"])


def test_changes_are_said_in_points() -> None:
    assert [points(c) for c in (0.0, -0.0032, 0.012, -0.0001, None)] == [
        "0.0 points", "-0.3 points", "+1.2 points", "0.0 points", "not measured",
    ]  # fmt: skip
