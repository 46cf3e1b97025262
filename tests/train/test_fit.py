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
from raystore.train.fit import _cause, train_head
from raystore.train.heads import Head
from raystore.train.source import ArraySource, Examples

from .examples import CLASSES, clusters, source


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
        "train_head: kind must be one of 'linear', 'mlp', found 'forest'; "
        "workers must be 0 (inline) or a number of Ray workers, found -1; "
        "classes must differ from each other; the train split has no rows."
    )
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"depth": 3}, "a linear head has no option 'depth', it has l2, max_iter, tol"),
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
    found = _cause(GroupError({0: Wrapped(ConnectionError()), 1: Wrapped(inner)}), "training head 'a'")
    assert found is inner


def test_a_foreign_error_is_named_by_its_kind_and_not_quoted() -> None:
    found = _cause(GroupError({0: Wrapped(MemoryError("secret"))}), "training head 'a'")
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
