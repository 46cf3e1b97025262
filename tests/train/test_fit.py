from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raystore.errors import InvalidArguments, InvalidName, JobFailed, PassportMismatch
from raystore.layout import Layout
from raystore.session import start_ray
from raystore.train.fit import train_head
from raystore.train.heads import Head
from raystore.train.ray_train import cause_of
from raystore.train.source import ArraySource, Examples, Task

from .examples import CLASSES, MAKERS, NAMED, clusters, numbers, source, source_of, tagged


def train(tmp_path: Path, given: ArraySource | None = None, **changes: Any) -> Head:
    call: dict[str, Any] = {
        "name": "refunds",
        "kind": "linear",
        "classes": CLASSES,
        "source": given or source(),
        "fingerprint": "5f" * 32,
        "encoder_label": "minilm@5f5f5f5f5f5f",
        "snapshot": {"name": "monday", "number": 1, "hash": "ab" * 32},
    }
    return train_head(Layout(tmp_path / "store"), **{**call, **changes})


@pytest.mark.parametrize(("kind", "options"), [("linear", {}), ("mlp", {"hidden": 32, "max_epochs": 10})])
def test_a_head_beats_the_majority_and_reports_on_test(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    head = train(tmp_path, kind=kind, options=options)
    report = head.report
    assert report.split == "test"
    assert report.n == {"train": 600, "val": 200, "test": 200}
    assert report.accuracy > report.baselines.majority + 0.2
    assert report.temperature == head.temperature
    test = clusters(200, seed=2)
    right = np.mean([CLASSES[i] == label for i, label in zip(test.labels, head.predict(test.vectors).labels, strict=True)])
    assert report.accuracy == pytest.approx(right)
    assert head.record.settings == {**options, "seed": 0, "workers": 0}


def test_without_a_test_split_it_reports_on_val_and_without_both_on_train(tmp_path: Path) -> None:
    splits = source().splits
    on_val = train(tmp_path, ArraySource({s: splits[s] for s in ("train", "val")}))
    assert (on_val.report.split, on_val.report.n["test"]) == ("val", 0)
    on_train = train(tmp_path, ArraySource({"train": splits["train"]}))
    assert (on_train.report.split, on_train.temperature) == ("train", 1.0)


def test_everything_wrong_with_a_call_is_said_at_once_and_nothing_is_written(tmp_path: Path) -> None:
    none = Examples(*(array[:0] for array in clusters(1)))
    with pytest.raises(InvalidArguments) as refused:
        train(tmp_path, ArraySource({"train": none}), kind="forest", workers=-1, classes=["a", "a"])
    assert str(refused.value) == (
        "train_head: kind must be one of 'linear', 'mlp', 'knn', found 'forest'; "
        "workers must be 0 (inline) or a number of Ray workers, found -1; "
        "classes must differ from each other; the train split has no rows."
    )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": 3}, "a linear head has no option 'depth', it has l2, loss, class_weight, max_iter, tol"),
        ({"l2": 0}, "l2 must be positive, found 0"),
        ({"l2": float("nan")}, "l2 must be positive, found nan"),
        ({"l2": "strong"}, "l2 must be a number, found str"),
        ({"max_iter": 10.5}, "max_iter must be a whole number, found 10.5"),
    ],
)
def test_an_option_that_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        train(tmp_path, options=options)
    assert str(refused.value) == f"train_head: {sentence}."


def test_a_bad_name_is_said_with_all_else_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as refused:
        train(tmp_path, name="H x", kind="zz", precision=2)
    assert str(refused.value) == (
        "train_head: 'H x' is no name for a head: expected 1 to 63 characters, a small letter first, then small letters, digits, "
        "'_' or '-'; "
        "kind must be one of 'linear', 'mlp', 'knn', found 'zz'; precision must lie above 0 and be 1 at most, found 2."
    )


def test_one_class_and_labels_outside_the_classes_are_refused(tmp_path: Path) -> None:
    rows = clusters(20)
    with pytest.raises(InvalidArguments, match="the train split holds one class only, so there is nothing to tell apart"):
        train(tmp_path, ArraySource({"train": rows._replace(labels=np.ones(20, np.int64))}))
    with pytest.raises(InvalidArguments, match="labels of test must lie in 0 to 2, the number of classes less one"):
        train(tmp_path, ArraySource({"train": rows, "test": rows._replace(labels=np.full(20, 3))}))


def test_a_name_that_is_no_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidName):
        train(tmp_path, name="../refunds")


def test_slices_of_a_source_together_are_every_row_once() -> None:
    whole = source(100)
    slices = [whole.load("train", rank, 3) for rank in range(3)]
    rows = np.concatenate([part.vectors for part in slices])
    np.testing.assert_array_equal(np.unique(rows, axis=0), np.unique(whole.splits["train"].vectors, axis=0))
    assert whole.load("nothing", 0, 1).vectors.shape == (0, 16)


class Wrapped(Exception):
    """Has the one attribute Ray Train keeps a worker's own exception in."""

    def __init__(self, inner: Exception) -> None:
        super().__init__("text that quotes the rows")
        self._base_exc = inner


class GroupError(Exception):
    def __init__(self, failures: dict[int, Exception]) -> None:
        super().__init__("text that quotes the rows")
        self.worker_failures = failures


def test_a_raystore_error_of_any_worker_comes_out_whole() -> None:
    inner = PassportMismatch(asker="head 'a'", expected="1", found="2", advice="Train again.")
    found = cause_of(GroupError({0: Wrapped(ConnectionError()), 1: Wrapped(inner)}), "training head 'a'")
    assert found is inner


def test_a_foreign_error_is_named_by_its_kind_and_not_quoted() -> None:
    found = cause_of(GroupError({0: Wrapped(MemoryError("secret"))}), "training head 'a'")
    assert isinstance(found, JobFailed)
    assert str(found).startswith("training head 'a' failed: a worker ended with MemoryError. Run it again")


@pytest.fixture
def ray_here(request: pytest.FixtureRequest) -> None:
    """The suite's one Ray."""
    try:
        request.getfixturevalue("ray_session")
    except pytest.FixtureLookupError:
        start_ray(num_cpus=4)


def assert_same_fit(spread: Head, inline: Head) -> None:
    for name, array in inline.arrays.items():
        np.testing.assert_allclose(spread.arrays[name], array, atol=2e-3)
    assert spread.report.n == inline.report.n
    assert spread.report.accuracy == pytest.approx(inline.report.accuracy, abs=0.005)
    assert spread.temperature == pytest.approx(inline.temperature, rel=0.01)
    assert spread.report.baselines == inline.report.baselines


@pytest.mark.ray
def test_two_ray_workers_fit_what_one_process_fits(tmp_path: Path, ray_here: None) -> None:
    inline = train(tmp_path)
    spread = train(tmp_path, workers=2)
    assert_same_fit(spread, inline)
    assert spread.label == "refunds@2"
    assert not list((tmp_path / "store" / "tmp").iterdir())


@pytest.mark.ray
def test_ctrl_c_is_answered_after_a_training_on_ray_as_before(tmp_path: Path, ray_here: None) -> None:
    before = signal.getsignal(signal.SIGINT)
    train(tmp_path, workers=1)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_during_a_training_on_ray_ends_it_at_once(tmp_path: Path, ray_here: None) -> None:
    began, driver = tmp_path / "began", os.getpid()

    @dataclass(frozen=True)
    class Slow(ArraySource):
        def load(self, split: str, rank: int, world: int) -> Examples:
            if os.getpid() != driver:
                began.touch()
                time.sleep(300)
            return super().load(split, rank, world)

    def press() -> None:
        while not began.exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Slow(source().splits), workers=1)
    assert not (tmp_path / "store" / "heads").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_dies_is_replaced_and_the_head_is_the_same(tmp_path: Path, ray_here: None) -> None:
    died = tmp_path / "died"

    # Local, so that it travels to the workers by value: they cannot import this file.
    @dataclass(frozen=True)
    class DiesOnce(ArraySource):
        def load(self, split: str, rank: int, world: int) -> Examples:
            if rank == 1 and not died.exists():
                died.touch()
                os._exit(1)
            return super().load(split, rank, world)

    spread = train(tmp_path, DiesOnce(source().splits), workers=2)
    assert died.exists()
    assert_same_fit(spread, train(tmp_path))


TASKED = [
    ("labels", "linear", {}),
    ("labels", "mlp", {"hidden": 16, "max_epochs": 8}),
    ("labels", "knn", {}),
    ("number", "linear", {"l2": [1.0, 100.0]}),
    ("number", "mlp", {"hidden": 16, "max_epochs": 20}),
    ("number", "knn", {"k": 5}),
    ("classes", "knn", {"power": 8}),
    ("classes", "linear", {"loss": "ovr", "class_weight": "balanced"}),
]


@pytest.mark.parametrize(("task", "kind", "options"), TASKED)
def test_every_kind_learns_every_task_and_reports_it(
    tmp_path: Path, task: Task, kind: str, options: dict[str, Any]
) -> None:
    head = train(tmp_path, source_of(task), task=task, kind=kind, classes=NAMED[task], options=options)
    name, value = head.report.headline
    better = value < head.report.baselines.majority if task == "number" else value > head.report.baselines.majority
    assert better, (name, value, head.report.baselines)
    assert head.report.task == head.task == task
    assert head.report.cost_us is not None
    again = Head.load(tmp_path / "store" / "heads" / "refunds" / "1") if kind != "knn" else head
    test = MAKERS[task](200, seed=2).vectors
    for a, b in zip(head.predict(test), again.predict(test), strict=True):
        np.testing.assert_array_equal(np.array(a, dtype=object), np.array(b, dtype=object))


def test_predictions_of_several_labels_are_those_that_reach_their_threshold(tmp_path: Path) -> None:
    head = train(tmp_path, source_of("labels"), task="labels", classes=NAMED["labels"])
    assert head.record.thresholds is not None
    assert repr(head) == "Head(refunds@1, linear, 4 labels, on minilm@5f5f5f5f5f5f)"
    labels, probabilities, confidence, abstained, classes = head.predict(tagged(50, seed=5).vectors)
    given = probabilities >= np.float32(head.record.thresholds)
    assert labels == [[NAMED["labels"][j] for j in np.flatnonzero(row)] for row in given]
    np.testing.assert_allclose(confidence, np.maximum(probabilities, 1 - probabilities).mean(axis=1))
    assert not abstained.any()
    assert list(classes) == NAMED["labels"]


def test_predictions_of_numbers_are_numbers(tmp_path: Path) -> None:
    head = train(tmp_path, source_of("number"), task="number", classes=[])
    assert repr(head) == "Head(refunds@1, linear, a number, on minilm@5f5f5f5f5f5f)"
    labels, probabilities, confidence, abstained, classes = head.predict(numbers(20, seed=5).vectors)
    assert [type(label) for label in labels] == [float] * 20
    assert (probabilities.shape, confidence.tolist(), abstained.tolist()) == ((20, 0), [1.0] * 20, [False] * 20)
    assert list(classes) == []


def test_a_wanted_precision_is_reached_on_val_and_the_rest_is_abstained_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ArraySource({s: clusters(n, spread=0.6, seed=i) for i, (s, n) in enumerate([("train", 600), ("val", 400)])})
    with caplog.at_level("INFO", logger="raystore"):
        head = train(tmp_path, given, precision=0.97)
    val = given.splits["val"]
    predicted = head.predict(val.vectors)
    kept = ~predicted.abstained
    right = np.array([CLASSES[i] == label for i, label in zip(val.labels, predicted.labels, strict=True)])
    assert 0 < kept.mean() < 1
    assert right[kept].mean() >= 0.97
    assert head.threshold == predicted.confidence[kept].min()
    assert head.record.settings["coverage_on_val"] == pytest.approx(kept.mean())
    assert head.report.threshold is not None
    assert f"from confidence {head.threshold:.2f} on, {kept.mean():.1%} of val have precision 0.97" in caplog.text


def test_a_precision_that_val_does_not_reach_is_said_and_nothing_is_abstained_from(tmp_path: Path) -> None:
    rows = clusters(300)
    doubled = Examples(*(np.concatenate([array, array]) for array in rows))  # one of each two is wrong
    doubled.labels[300:] = (doubled.labels[300:] + 1) % 3
    head = train(tmp_path, ArraySource({"train": rows, "val": doubled}), precision=0.9)
    assert head.record.settings["not_reached"] == "not reached on val: best 0.50"
    assert head.threshold is None
    assert not head.predict(rows.vectors).abstained.any()
    labels = train(tmp_path, source_of("labels"), task="labels", classes=NAMED["labels"], precision=1.0)
    assert len(labels.record.thresholds or ()) == 4


def test_one_row_in_a_class_and_rows_that_are_gone_are_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = clusters(60)
    single = rows._replace(labels=np.where(np.arange(60) == 7, 2, rows.labels % 2))
    head = train(tmp_path, ArraySource({"train": single, "val": clusters(30, seed=1)}, erased=3))
    assert head.record.settings["erased"] == head.report.settings["erased"] == 3
    assert "head 'refunds': 3 rows of its snapshot are gone from the collection; it learned from the rest" in caplog.text


BAD: list[tuple[dict[str, Any], str]] = [
    ({"task": "sentiment"}, "task must be one of 'classes', 'labels', 'number', found 'sentiment'"),
    ({"options": {"loss": "hinge"}}, "loss must be one of 'multinomial', 'ovr', found 'hinge'"),
    ({"options": {"l2": []}}, "l2 is an empty list"),
    ({"options": {"l2": [1, 1]}}, "l2 names a value twice"),
    ({"options": {"l2": [1, -1]}}, "l2 must be positive, found -1"),
    ({"options": {"class_weight": {"c": 2}}}, "class_weight names 1 classes that are not there ('c')"),
    ({"options": {"class_weight": {CLASSES[0]: 0}}}, "a class weight must be a positive number, found 0"),
    (
        {"options": {"class_weight": [1, 2]}},
        "class_weight must be 'balanced' or a weight for each class by its label, found list",
    ),
    (
        {"kind": "mlp", "options": {"seeds": 0}},
        "seeds must be a number of fits from 1, or a list of whole numbers from 0, found 0",
    ),
    ({"kind": "mlp", "options": {"dropout": 1.0}}, "dropout must be below 1, found 1.0"),
    ({"kind": "knn", "options": {"k": 2.5}}, "k must be a whole number, found 2.5"),
    ({"kind": "knn", "options": {"l2": 1.0}}, "a knn head has no option 'l2', it has k, power"),
    ({"precision": 1.5}, "precision must lie above 0 and be 1 at most, found 1.5"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD)
def test_what_cannot_be_is_refused_with_the_reason(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        train(tmp_path, **changes)
    assert str(refused.value) == f"train_head: {sentence}."


def test_what_needs_rows_of_val_says_so(tmp_path: Path) -> None:
    alone = ArraySource({"train": clusters(50)})
    for changes, sentence in (
        ({"options": {"l2": [1, 10]}}, "a list of l2 needs rows of val to choose by, and there are none: give one number"),
        ({"kind": "mlp", "options": {"seeds": 3}}, "several seeds need rows of val to choose by, and there are none"),
        ({"precision": 0.9}, "precision needs rows of val to choose the threshold on, and there are none"),
    ):
        with pytest.raises(InvalidArguments) as refused:
            train(tmp_path, alone, **changes)
        assert str(refused.value) == f"train_head: {sentence}."


def test_labels_that_are_none_for_their_task_are_refused(tmp_path: Path) -> None:
    number = numbers(50)
    wrong = [
        ("number", number._replace(labels=np.where(np.arange(50) < 2, np.nan, 1.0)), "labels of train hold 2 NaN or infinite values"),
        ("number", number._replace(labels=np.ones(50)), "all rows of the train split have the same label, so there is nothing"),
        ("labels", tagged(50)._replace(labels=np.full((50, 4), 0.5, np.float32)), "labels of train must be a matrix of 0 and 1"),
        ("labels", tagged(50, n_labels=3), "labels of train must be a matrix of 4 columns, one a class, found shape (50, 3)"),
        ("labels", tagged(50)._replace(labels=np.ones((50, 4), np.float32)), "all rows of the train split have the same labels"),
    ]  # fmt: skip
    for task, rows, sentence in wrong:
        with pytest.raises(InvalidArguments) as refused:
            train(tmp_path, ArraySource({"train": rows}), task=task, classes=NAMED[task])
        assert sentence in str(refused.value)
    with pytest.raises(InvalidArguments, match="a head for numbers has no classes"):
        train(tmp_path, source_of("number"), task="number")
    with pytest.raises(InvalidArguments, match="a predicted number is not right or wrong"):
        train(tmp_path, source_of("number"), task="number", classes=[], precision=0.9)


@pytest.mark.ray
def test_two_ray_workers_choose_the_l2_and_give_the_ridge_of_one_process(tmp_path: Path, ray_here: None) -> None:
    inline, spread = (
        train(tmp_path, source_of("number"), task="number", classes=[], workers=w, options={"l2": [0.1, 1.0, 10.0]})
        for w in (0, 2)
    )
    assert spread.record.settings["l2"] == inline.record.settings["l2"]
    for name, array in inline.arrays.items():
        np.testing.assert_allclose(spread.arrays[name], array, rtol=1e-5, atol=1e-4)
    assert spread.report.scores == pytest.approx(inline.report.scores)
