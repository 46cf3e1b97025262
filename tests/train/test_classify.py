"""A classifier for free: it follows the rows and their labels, says what it stands on, and when it cannot tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from raystore.data.tables.table import register_table
from raystore.errors import ColumnNotFound, InvalidArguments, InvalidVectors, PassportMismatch, TableNotFound
from raystore.index.build.run import build_index
from raystore.train.calibration import softmax
from raystore.train.knn import Neighbours
from raystore.train.source import Examples
from raystore.vectors import mark

from .labelled import CENTRES, FINGERPRINT, GROUPS, Desk, near

DESCRIBED = {"card lost": "about 0", "naïve 'quote'": "about 1", "退款": "about 2"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.at(tmp_path)


def test_a_text_gets_the_class_of_the_rows_near_it_with_those_rows_as_evidence(desk: Desk) -> None:
    desk.fill()
    groups = [2, 0, 1, 1]
    told = desk.classifier(k=5).classify(near(groups, 9))
    assert told.labels == [GROUPS[g] for g in groups]
    assert not told.abstained.any()
    for label, evidence in zip(told.labels, told.evidence, strict=True):
        assert [n.label for n in evidence] == [label] * 5
        assert [n.score for n in evidence] == sorted((n.score for n in evidence), reverse=True)
        assert all(GROUPS[int(n.id[1:]) % 3] == label for n in evidence)
    assert (told.collection_version, told.index_version, told.coverage, told.missing) == (desk.table.version, None, 1.0, [])
    assert (told.exact, told.fingerprint, told.labels_version) == (True, FINGERPRINT, None)


def test_the_votes_are_those_of_a_knn_head(desk: Desk) -> None:
    groups = desk.fill()
    queries = near([0, 1, 2, 3], 5, spread=0.5)
    train = Examples(near(groups, 1), np.array(groups), np.ones(len(groups), np.float32))
    classifier = desk.classifier(k=10)
    order = [classifier.classes.index(group) for group in GROUPS] if classifier.classify(queries) else []
    temperature = classifier._state.calibration.temperature  # type: ignore[union-attr]
    wanted = softmax(Neighbours(train).scores(queries, 3, "classes", k=10), temperature)
    np.testing.assert_allclose(classifier.classify(queries).probabilities[:, order], wanted, atol=1e-5)


def test_only_labelled_rows_vote_however_many_others_are_nearer(desk: Desk) -> None:
    desk.add([f"u{i}" for i in range(200)], near([0] * 200, 3, spread=0.01))
    desk.add(["one", "two"], near([0, 1], 4), ["a", "b"])
    told = desk.classifier().classify(CENTRES[0])
    assert [n.id for n in told.evidence[0]] == ["one", "two"]
    assert told.labels == ["a"]


def test_a_row_teaches_with_its_commit_and_is_forgotten_with_its_erasure(desk: Desk) -> None:
    desk.fill(30)
    classifier = desk.classifier(k=3)
    assert classifier.classify(CENTRES[3]).labels[0] in GROUPS
    desk.add(["new 'row'", "n2", "n3"], near([3] * 3, 8), ["new"] * 3)
    told = classifier.classify(CENTRES[3])
    assert (told.labels, told.classes[-1]) == (["new"], "new")
    assert {n.id for n in told.evidence[0]} == {"new 'row'", "n2", "n3"}
    desk.erase(["new 'row'", "n2", "n3"])
    after = classifier.classify(CENTRES[3])
    assert after.labels[0] in GROUPS
    assert after.classes == told.classes  # who holds earlier probabilities can still name them
    assert after.probabilities[0, told.classes.index("new")] == 0


def test_labels_of_a_table_are_followed_by_its_versions(desk: Desk) -> None:
    desk.fill(60, labelled=False)
    desk.label({f"r{i}": GROUPS[i % 3] for i in range(30)} | {"not there": GROUPS[0]})
    classifier = desk.classifier("outcomes.outcome", k=3)
    told = classifier.classify(CENTRES[:3])
    assert (told.labels, told.labels_version) == (GROUPS, 1)
    assert all(int(n.id[1:]) < 30 for line in told.evidence for n in line)
    desk.label({f"r{i}": "swapped" for i in range(0, 60, 3)})  # of two labels of a row, the later one
    assert classifier.classify(CENTRES[:3]).labels == ["swapped", *GROUPS[1:]]
    desk.label({f"r{i}": None for i in range(1, 60, 3)})  # and none, where it says so
    assert "naïve 'quote'" not in {n.label for line in classifier.classify(CENTRES[1]).evidence for n in line}
    desk.add(["not there"], CENTRES[3:4])  # a label may be there before its row
    assert classifier.classify(CENTRES[3]).evidence[0][0].id == "not there"


def test_the_latest_of_a_rows_labels_counts_where_the_table_has_times(desk: Desk) -> None:
    desk.fill(6, labelled=False)
    rows = [{"item": f"r{i}", "at": f"2026-0{m}-01", "label": str(m)} for i in range(6) for m in (3, 1, 2)]
    register_table(desk.catalog, "events", rows, id="item", time="at")
    assert desk.classifier("events.label").classify(CENTRES[0]).labels == ["3"]


def test_integers_and_booleans_are_labels(desk: Desk) -> None:
    desk.add(["a", "b"], CENTRES[:2], urgent=pa.array([True, False]))
    assert desk.classifier("urgent", k=1).classify(CENTRES[:2]).labels == ["true", "false"]


def test_with_few_labels_a_class_it_is_right_as_often_as_it_says(desk: Desk) -> None:
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(40, 16))

    def drawn(n: int) -> np.ndarray:
        rows = np.repeat(centres, n, axis=0) + 0.8 * rng.normal(size=(40 * n, 16))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    desk.add([f"c{i}" for i in range(120)], drawn(3), [f"class {i // 3}" for i in range(120)])
    told = desk.classifier().classify(drawn(20))
    right = np.array(told.labels) == np.repeat([f"class {i}" for i in range(40)], 20)
    assert told.confidence.mean() == pytest.approx(right.mean(), abs=0.065)  # one row left out at a time: 0.081


def test_a_single_labelled_row_is_all_there_is_to_go_by(desk: Desk) -> None:
    desk.add(["only"], CENTRES[:1], ["a class"])
    told = desk.classifier().classify(CENTRES[:1])
    assert (told.labels, told.confidence.tolist(), told.abstained.tolist()) == (["a class"], [1.0], [False])


def test_a_text_far_from_every_labelled_row_is_not_classified(desk: Desk) -> None:
    desk.fill()
    told = desk.classifier().classify(np.stack([CENTRES[3], CENTRES[0]]))
    assert told.abstained.tolist() == [True, False]
    assert re.fullmatch(
        r"it is far from everything: the nearest labelled row is at 0\.\d{3}, 99% of the rows have one at 0\.\d{3}",
        told.why[0] or "",
    )


def test_below_the_threshold_it_abstains_and_says_so(desk: Desk) -> None:
    desk.fill()
    told = desk.classifier().classify(CENTRES[0], threshold=1)
    assert told.why == [f"its confidence of {told.confidence[0]:.3f} is below the threshold of 1"]
    assert told.abstained.tolist() == [True]


def test_descriptions_classify_without_any_label(desk: Desk) -> None:
    desk.fill(labelled=False)
    told = desk.classifier(DESCRIBED).classify(CENTRES[[2, 0, 3]])
    assert told.labels[:2] == ["退款", "card lost"]
    assert list(told.evidence) == [[], [], []]
    assert told.abstained.tolist() == [False, False, True]
    assert (told.why[2] or "").startswith("it is far from everything: the nearest description is at ")
    assert desk.encoder.seen == ["card lost: about 0", "naïve 'quote': about 1", "退款: about 2"]


def test_descriptions_work_in_an_empty_collection(desk: Desk) -> None:
    assert desk.classifier(DESCRIBED).classify(CENTRES[:3]).labels == GROUPS


def test_labels_win_over_a_wrong_description_as_they_arrive(desk: Desk) -> None:
    wrong = {"card lost": "about 1", "naïve 'quote'": "about 0"}
    classifier = desk.classifier(wrong, labelled="product")
    said = [classifier.classify(CENTRES[0]).labels[0]]
    for n in (1, 30):
        desk.add([f"{n}-{i}" for i in range(2 * n)], near([0, 1] * n, n), GROUPS[:2] * n)
        said.append(classifier.classify(CENTRES[0]).labels[0])
    assert (said[0], said[-1]) == ("naïve 'quote'", "card lost")


def test_a_class_may_have_labels_without_a_description(desk: Desk) -> None:
    desk.fill()
    told = desk.classifier({"card lost": "about 0"}, labelled="product").classify(CENTRES[:3])
    assert told.labels == GROUPS
    assert told.classes[0] == "card lost"


def test_a_row_does_not_vote_for_itself_where_it_is_left_out(desk: Desk) -> None:
    desk.fill(9)
    classifier = desk.classifier(k=3)
    own = [f"r{i}" for i in range(9)]
    told = classifier.classify(near([i % 3 for i in range(9)], 1), leave_out=own)
    assert all(id_ not in {n.id for n in line} for id_, line in zip(own, told.evidence, strict=True))
    assert all(len(line) == 3 for line in told.evidence)


@pytest.mark.parametrize("options", [{"kind": "ivf"}, {"shards": 2}, {"kind": "ivf", "metric": "l2"}, {"metric": "ip"}])
def test_it_answers_the_same_through_any_index(desk: Desk, options: dict[str, Any]) -> None:
    desk.fill(300)
    queries = near([0, 1, 2] * 3, 6, spread=0.3)
    before = desk.classifier().classify(queries)
    number, manifest = build_index(desk.table, desk.catalog.layout, "tickets", FINGERPRINT, **options)
    after = desk.classifier(probes=manifest.shards[0].nlist).classify(queries)  # all lists: nothing is left to chance
    assert after.index_version == number
    assert after.labels == before.labels
    np.testing.assert_allclose(after.confidence, before.confidence, atol=0.1)
    assert np.abs([line[0].score for line in after.evidence]).max() <= 1 + 1e-6


def test_more_neighbours_than_there_are_rows_is_fine_and_one_class_too(desk: Desk) -> None:
    desk.add(["only"], CENTRES[:1], ["alone"])
    told = desk.classifier(k=1_000).classify(CENTRES[0])
    assert (told.labels, told.confidence.tolist()) == (["alone"], [1.0])


def test_thousands_of_queries_are_cut_into_parts_and_none_gives_none(desk: Desk) -> None:
    desk.fill(60)
    many = near([i % 3 for i in range(2_500)], 11)
    told = desk.classifier(k=3).classify(many)
    assert len(told) == 2_500
    assert told.labels[-3:] == desk.classifier(k=3).classify(many[-3:]).labels
    assert len(desk.classifier(k=3).classify(np.empty((0, 16), np.float32))) == 0


def test_labels_that_cannot_be_are_refused(desk: Desk) -> None:
    desk.fill(6)
    register_table(desk.catalog, "keyless", [{"label": "x"}])
    register_table(desk.catalog, "numbers", [{"item": "r1", "label": 0.5}], id="item")
    with pytest.raises(TableNotFound, match="no table 'nowhere'"):
        desk.classifier("nowhere.label")
    with pytest.raises(ColumnNotFound, match="no column 'x' in table 'numbers'"):
        desk.classifier("numbers.x")
    with pytest.raises(ColumnNotFound, match="no column 'x' in collection 'tickets'"):
        desk.classifier("x")
    for labels, problem in {
        "keyless.label": "table 'keyless' has no id key, by which its labels would join rows: register it with id=",
        "numbers.label": "column 'label' of table 'numbers' is double, expected labels: text, integers or booleans",
        "price": "column 'price' of collection 'tickets' is double, expected labels: text, integers or booleans",
    }.items():
        with pytest.raises(InvalidArguments, match=re.escape(f"classify in 'tickets': {problem}.")):
            desk.classifier(labels)


def test_all_that_is_wrong_with_the_arguments_is_said_at_once(desk: Desk) -> None:
    desk.fill(6)
    with pytest.raises(InvalidArguments) as error:
        desk.classifier({"one": "only"}, k=0, probes=-1)
    assert list(error.value.problems) == [
        "labels= describes 1 class, expected two or more",
        "k is 0, expected a number from 1",
        "probes is -1, expected a number from 1, or None",
    ]
    for labels, labelled, problem in [
        (["a"], None, "labels= is list, expected 'table.column', a kept column, or descriptions by class"),
        ({"a": 1, "b": "x"}, None, "labels= is no mapping of classes to descriptions, both text"),
        ("product", "product", "labelled= goes with descriptions in labels=: the place of the labels alone is labels="),
        (DESCRIBED, "", "labelled= is no 'table.column' and no kept column"),
    ]:
        with pytest.raises(InvalidArguments, match=re.escape(problem)):
            desk.classifier(labels, labelled=labelled)
    with pytest.raises(InvalidArguments, match=r"threshold is 1.5, expected a number above 0, 1 at most, or None"):
        desk.classifier().classify(CENTRES[0], threshold=1.5)


def test_without_a_labelled_row_it_says_that_there_is_none(desk: Desk) -> None:
    desk.fill(30, labelled=False)
    with pytest.raises(InvalidArguments, match=re.escape("classify in 'tickets': no row has a label in 'product'.")):
        desk.classifier().classify(CENTRES[0])


def test_vectors_of_another_encoder_or_with_nan_are_refused(desk: Desk) -> None:
    desk.fill(30)
    with pytest.raises(PassportMismatch):
        desk.classifier().classify(mark(CENTRES[:1], "a8" * 32))
    with pytest.raises(InvalidVectors):
        desk.classifier().classify(np.full(16, np.nan))


def test_an_answer_shows_itself_and_is_ready_for_json(desk: Desk) -> None:
    desk.fill()
    told = desk.classifier(k=2).classify(CENTRES[:2])
    (first, _) = told.to_dicts(top=1)
    assert first["label"] == GROUPS[0]
    assert first["probabilities"] == [{"label": GROUPS[0], "probability": pytest.approx(float(told.confidence[0]))}]
    assert set(first["evidence"][0]) == {"id", "score", "label"}
    assert repr(told).startswith(
        "Classified: 2 texts into 3 classes by the collection itself, coverage 1, encoder 5f3c1a2b9d0e, version "
    )
    assert "naïve &#x27;quote&#x27;" in told._repr_html_()
