"""Drift of the newest requests against a head's snapshot, and golden vectors while an encoder serves."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.encoders import golden
from raystore.encoders.items import Item
from raystore.encoders.passport import Passport, TextPart
from raystore.errors import InvalidArguments, ItemsUnusable, ModelUnusable
from raystore.serve.watch import table
from raystore.serve.watch.drift import LEAST, DriftWatch, Reference, stability, stability_of_labels
from raystore.serve.watch.golden import lowest_cosine, watch_golden
from raystore.serve.watch.merging import series_of
from raystore.serve.watch.metrics import Metrics
from raystore.vectors import Matrix, Vectors, mark

D, TOPICS = 64, 12
_SPACE = np.random.default_rng(0)
_CENTRES = _SPACE.standard_normal((TOPICS + 1, D))
_WIDTHS = np.exp(-np.arange(D) / 20)  # some directions vary more than others, as in every real space


class Traffic:
    """Unit rows around topics off the origin, as an encoder puts texts of a dozen kinds; a label and a score each. It suffices: drift
    looks at nothing else."""

    def __init__(
        self, n: int, seed: int, *, shares: Sequence[float] | None = None, new: float = 0.0, move: float = 0.0
    ) -> None:
        rng = np.random.default_rng(seed)
        topic = rng.choice(TOPICS, size=n, p=shares)
        topic[rng.random(n) < new] = TOPICS
        rows = 0.6 * _CENTRES[topic] + rng.standard_normal((n, D)) * _WIDTHS + 0.3 + move * _CENTRES[0]
        self.vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        self.labels = [f"topic {t % TOPICS}" for t in topic]
        self.scores: npt.NDArray[np.float64] = np.where(topic < TOPICS, rng.beta(8, 1, n), rng.beta(2, 2, n))

    @property
    def reference(self) -> Reference:
        return Reference(self.vectors, self.labels, self.scores)


def watch(traffic: Traffic, window: int = 2000, reference: Traffic | None = None) -> DriftWatch:
    watching = DriftWatch((reference or Traffic(2000, seed=1)).reference, window=window, clock=lambda: 1700000000.0)
    watching.add(traffic.vectors, traffic.labels, traffic.scores)
    return watching


@pytest.mark.parametrize("n", [LEAST, 500, 2000])
@pytest.mark.parametrize("seed", range(20, 28))
def test_without_drift_no_figure_calls_for_a_look(n: int, seed: int) -> None:
    found = watch(Traffic(n, seed)).measure()
    assert found is not None
    assert set(found.psi) == {"labels", "scores", "embedding"}
    # At 100 rows the index of five axes may come close to 0.1 by chance, and no further.
    assert max(found.psi.values()) < (0.15 if n == LEAST else 0.1)
    assert 0.5 < found.mean_shift < 1.6
    assert abs(found.auc - 0.5) < (0.12 if n == LEAST else 0.06)
    assert (found.rows, found.reference_rows, found.measured_at) == (n, 2000, 1700000000.0)


def test_a_new_topic_is_seen_by_scores_embedding_mean_and_classifier() -> None:
    found = watch(Traffic(2000, seed=3, new=0.4)).measure()
    assert found is not None
    assert found.psi["scores"] > 0.25
    assert found.psi["embedding"] > 0.25
    assert found.mean_shift > 3
    assert found.auc > 0.65


def test_other_shares_of_the_same_topics_are_seen_by_the_labels() -> None:
    shares = np.r_[np.full(TOPICS // 2, 4.0), np.full(TOPICS // 2, 1.0)]
    found = watch(Traffic(2000, seed=4, shares=list(shares / shares.sum()))).measure()
    assert found is not None
    assert found.psi["labels"] > 0.25
    assert found.psi["scores"] < 0.1


def test_everything_moved_a_little_is_seen_by_the_classifier_before_any_index() -> None:
    found = watch(Traffic(2000, seed=5, move=0.15)).measure()
    assert found is not None
    assert found.auc > 0.8
    assert found.mean_shift > 3
    assert found.psi["labels"] < 0.1


def test_nothing_is_said_until_there_are_enough_rows() -> None:
    watching = watch(Traffic(LEAST - 1, seed=6))
    assert watching.measure() is None
    one = Traffic(1, seed=7)
    watching.add(one.vectors, one.labels, one.scores)
    assert watching.measure() is not None


def test_the_window_holds_the_newest_rows_however_they_come() -> None:
    old, new = Traffic(700, seed=8, move=2.0), Traffic(500, seed=9)
    at_once, by_one, by_parts = (watch(old, window=300) for _ in range(3))
    at_once.add(new.vectors, new.labels, new.scores)
    for i in range(500):
        by_one.add(new.vectors[i : i + 1], new.labels[i : i + 1], new.scores[i : i + 1])
    for i in range(0, 500, 70):
        by_parts.add(new.vectors[i : i + 70], new.labels[i : i + 70], new.scores[i : i + 70])
    found = [w.measure() for w in (at_once, by_one, by_parts)]
    assert all(each is not None and each.rows == 300 and max(each.psi.values()) < 0.1 for each in found)
    # The rows lie in other places of the ring, so the classifier is fitted on other ones; what is counted is the same.
    assert len({tuple(each.psi.values()) for each in found if each is not None}) == 1


def test_a_reference_without_labels_and_scores_is_compared_by_vectors_alone() -> None:
    watching = DriftWatch(Reference(Traffic(500, seed=1).vectors), window=500)
    watching.add(Traffic(500, seed=2).vectors)
    found = watching.measure()
    assert found is not None
    assert (found.psi_labels, found.psi_scores, list(found.psi)) == (None, None, ["embedding"])


def test_rows_are_added_while_the_window_is_measured() -> None:
    watching, more, stop = watch(Traffic(2000, seed=10)), Traffic(50, seed=11), threading.Event()

    def add() -> None:
        while not stop.is_set():
            watching.add(more.vectors, more.labels, more.scores)

    thread = threading.Thread(target=add)
    thread.start()
    try:
        assert all(watching.measure() is not None for _ in range(5))
    finally:
        stop.set()
        thread.join()


def test_what_cannot_be_compared_is_said_at_once() -> None:
    few = Traffic(20, seed=1)
    with pytest.raises(InvalidArguments) as caught:
        DriftWatch(Reference(few.vectors, few.labels[:5], few.scores[:6]), window=50)
    assert str(caught.value) == (
        "watch drift: the reference has 20 rows, expected 100 or more; window is 50, expected 100 or more; "
        "the reference has 5 labels and 20 rows, expected one a row; the reference has 6 scores and 20 rows, expected one a row."
    )


def test_rows_whose_labels_are_missing_are_not_taken_up() -> None:
    watching, more = watch(Traffic(LEAST - 1, seed=6)), Traffic(3, seed=7)
    with pytest.raises(InvalidArguments) as caught:
        watching.add(more.vectors, more.labels[:2])
    assert str(caught.value) == (
        "watch drift: 2 labels of 3 rows, expected one a row; 0 scores of 3 rows, expected one a row."
    )
    assert watching.measure() is None


# --- the index ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "labels"), [(100, 77), (500, 77), (2000, 77), (2000, 1000)])
def test_the_index_of_many_rare_labels_stays_near_zero_without_drift(n: int, labels: int) -> None:
    rng = np.random.default_rng(n + labels)
    share = rng.dirichlet(np.ones(labels))
    found = [
        stability_of_labels(*(Counter(map(str, rng.choice(labels, size=size, p=share))) for size in (2000, n)))
        for _ in range(30)
    ]
    assert np.median(found) < 0.05
    assert max(found) < 0.15


def test_a_label_that_the_reference_never_had_counts() -> None:
    known = Counter({"a": 500, "b": 500})
    assert stability_of_labels(known, Counter({"a": 250, "b": 250, "new": 500})) > 0.25
    assert stability_of_labels(known, Counter({"a": 500, "b": 500})) == 0.0
    assert stability_of_labels(Counter({"a": 1000}), Counter({"a": 200})) == 0.0


_COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=12)


@given(_COUNTS, st.randoms())
def test_the_index_is_none_of_equal_shares_and_never_below_zero(counts: list[int], random: Any) -> None:
    a = np.array(counts, np.float64) + 1
    b = np.array(random.sample(counts, len(counts)), np.float64) + 1
    assert stability(a, a) == 0.0
    assert stability(a, b) >= 0.0


# --- golden vectors -----------------------------------------------------------------------------------------------------


class Hashing:
    """Encodes a text as random numbers of its length and first letters, and can be made to turn, fail, or be gone. Enough: a check
    compares what comes out with what came out."""

    label = "hashing@aaaaaaaaaaaa"
    passport = Passport(
        weights="0" * 64, architecture="Hashing", config="0" * 64, dim=16,
        text=TextPart(pooling="none", tokenizer="0" * 64, max_length=100),
    )  # fmt: skip

    def __init__(self) -> None:
        self.turn: float = 0.0
        self.error: Exception | None = None

    def encode(self, items: Sequence[Item]) -> Vectors:
        if self.error is not None:
            raise self.error
        rows = np.stack(
            [np.random.default_rng([len(item), *map(ord, str(item)[:3])]).standard_normal(16) for item in items]
        )
        rows[3] += self.turn * np.linalg.norm(rows[3]) * np.eye(16)[0]
        return mark((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), "a" * 64)


def golden_of(encoder: Hashing) -> dict[Any, Matrix]:
    return {"text": np.asarray(encoder.encode(golden.probes("text")))}


def test_an_encoder_that_encodes_what_it_did_has_a_cosine_of_one() -> None:
    encoder = Hashing()
    assert lowest_cosine(encoder, golden_of(encoder)) == pytest.approx(1.0, abs=1e-6)


def test_one_golden_input_that_moved_is_enough() -> None:
    encoder = Hashing()
    expected = golden_of(encoder)
    encoder.turn = 0.5
    assert 0.5 < lowest_cosine(encoder, expected) < 0.99


def test_what_is_no_vector_any_more_counts_as_a_cosine_of_zero() -> None:
    encoder = Hashing()
    expected = golden_of(encoder)
    encoder.turn = float("nan")
    assert lowest_cosine(encoder, expected) == 0.0
    encoder.error = ItemsUnusable(call="encode", n_items=16, problems=[(3, "its vector holds NaN or infinity")])
    assert lowest_cosine(encoder, expected) == 0.0


def test_an_encoder_that_moved_is_in_the_metrics_and_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    metrics, encoder = Metrics("ingress"), Hashing()
    expected = golden_of(encoder)
    encoder.turn = 0.5
    with caplog.at_level(logging.INFO, "raystore.serve"):
        found = watch_golden(metrics, [(encoder, expected)])
    series = series_of(metrics.snapshot())
    assert series[table.GOLDEN_COSINE.name] == {(encoder.label,): found[encoder.label]}
    assert series[table.GOLDEN_TOLERANCE.name] == {(encoder.label,): 0.9999}
    assert caplog.messages == [f"encoder {encoder.label} moved: a golden input's cosine is {found[encoder.label]:.6f}"]


def test_an_encoder_that_cannot_be_asked_keeps_its_last_figure(caplog: pytest.LogCaptureFixture) -> None:
    metrics, encoder = Metrics("ingress"), Hashing()
    expected = golden_of(encoder)
    watch_golden(metrics, [(encoder, expected)])
    encoder.error = ModelUnusable(model="hashing", found="its replica is gone", advice="Wait.")
    assert watch_golden(metrics, [(encoder, expected)]) == {}
    value = series_of(metrics.snapshot())[table.GOLDEN_COSINE.name][encoder.label,]
    assert value == pytest.approx(1.0, abs=1e-6)
    assert caplog.messages == [f"the golden inputs of encoder {encoder.label} were not checked: {encoder.error}"]


@pytest.mark.model
def test_a_real_encoder_behind_its_batches_is_itself(tmp_path: Path, tiny_model: Path) -> None:
    import raystore
    from raystore.encoders.registry import read_encoder
    from raystore.serve.answer.batching import BatchingEncoder

    store = raystore.open(tmp_path / "store")
    registered = store.encoders.register("tiny", model=str(tiny_model))
    encoder = BatchingEncoder(registered.load())
    expected = read_encoder(store.layout, registered.fingerprint).golden(registered.label)
    assert lowest_cosine(encoder, expected) > 0.9999
    encoder.close()
