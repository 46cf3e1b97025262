"""A classifier by neighbours as a head: published, read back, followed, left out of what needs weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raystore.errors import HeadCorrupt, InvalidArguments, InvalidName
from raystore.serve.spec.deployment import DeploymentSpec
from raystore.serve.spec.records import DeploymentRecord, record_deployment
from raystore.train.classify.register import LEFT_OUT, open_head, register_classifier
from raystore.train.export import export_head
from raystore.train.heads import Head
from raystore.train.predicting import predicted
from raystore.train.registry import Heads

from .labelled import CENTRES, GROUPS, Desk, near

DESCRIBED = {"card lost": "about 0", "naïve 'quote'": "about 1", "退款": "about 2"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk.at(tmp_path)


def registered(desk: Desk, labels: object = "product", **options: object) -> Head:
    threshold = options.pop("threshold", None)
    made = desk.classifier(labels, **options)
    return register_classifier(desk.catalog.layout, "by-rows", made, desk.encoder.label, threshold=threshold)  # type: ignore[arg-type]


def test_a_head_read_back_says_what_the_classifier_says_and_follows_the_rows(desk: Desk) -> None:
    desk.fill()
    registered(desk, k=3)
    head = Heads(desk.catalog)["by-rows"]
    assert (head.kind, head.task, head.classes, head.snapshot) == ("neighbours", "classes", sorted(GROUPS), {})
    assert head.predict(CENTRES[:3]).labels == GROUPS
    desk.add([f"n{i}" for i in range(3)], near([3] * 3, 8), ["new"] * 3)
    told = head.predict(CENTRES[3])
    assert told.labels == ["new"]
    assert head.classes == [*sorted(GROUPS), "new"]
    assert told.probabilities.shape == (1, 4)
    np.testing.assert_allclose(np.exp(head.scores(CENTRES[3:4])), told.probabilities, atol=1e-6)


def test_its_report_is_about_rows_that_had_no_vote_in_their_own_class(desk: Desk) -> None:
    desk.fill(200)
    report = registered(desk).report
    assert (report.head, report.split, report.n) == ("by-rows@1", LEFT_OUT, {"train": 200, LEFT_OUT: 100})
    assert report.accuracy > 0.95
    assert report.baselines.majority < 0.4
    assert report.snapshot == "tickets, labels product, 20 neighbours"


def test_a_head_of_descriptions_holds_their_vectors_and_is_not_measured(desk: Desk) -> None:
    registered(desk, DESCRIBED)
    seen = list(desk.encoder.seen)
    head = Heads(desk.catalog)["by-rows"]
    assert head.predict(CENTRES[:3]).labels == GROUPS
    assert desk.encoder.seen == seen  # nothing is encoded again
    assert head.report.headline_text == "not measured"
    assert "It was not measured: no row had a label." in head.report.to_html()
    (version,) = Heads(desk.catalog).versions("by-rows")
    assert (version["kind"], version["score"], version["snapshot"]) == (
        "neighbours",
        "not measured",
        "tickets, 3 descriptions",
    )
    assert "tickets, 3 descriptions" in head._repr_html_()
    assert "not measured" in str(head.report)


def test_below_its_threshold_the_head_abstains(desk: Desk) -> None:
    desk.fill()
    head = registered(desk, threshold=1)
    assert head.predict(CENTRES[:3]).abstained.all()
    with pytest.raises(InvalidArguments, match=re.escape("threshold is 2, expected a number above 0, 1 at most, or None")):
        registered(desk, threshold=2)


def test_predictions_of_the_collections_own_rows_leave_each_row_out(desk: Desk) -> None:
    desk.fill(60)
    desk.add(["odd"], CENTRES[:1], ["nobody else's"])
    head = registered(desk, k=1)
    assert head.predict(CENTRES[0]).labels == ["nobody else's"]
    table = predicted(head, desk.table, ["odd", "r0", "missing"])
    assert table.column("id").to_pylist() == ["odd", "r0"]
    assert table.column("label").to_pylist()[0] == GROUPS[0]


def test_a_head_of_neighbours_is_not_exported(desk: Desk, tmp_path: Path) -> None:
    desk.fill()
    head = registered(desk)
    problem = "a head of kind 'neighbours' holds no weights, it asks its collection's index; export a linear or an mlp head"
    with pytest.raises(InvalidArguments, match=re.escape(problem)):
        export_head(head, tmp_path / "out")


def test_a_head_that_was_not_published_or_was_tampered_with_is_refused(desk: Desk) -> None:
    desk.fill()
    with pytest.raises(InvalidName):
        register_classifier(desk.catalog.layout, "No Name", desk.classifier(), "minilm")
    head = registered(desk)
    with pytest.raises(HeadCorrupt, match="it is not published, so the rows it asks are not to be found"):
        open_head(replace(head, root=None))
    file = desk.catalog.layout.heads("by-rows") / "1" / "head.json"
    file.write_text(
        file.read_text()
        .replace('"described":{}', '"described":{"a":"b"}')
        .replace('"described": {}', '"described": {"a": "b"}')
    )
    with pytest.raises(HeadCorrupt, match=re.escape("a neighbours head holds no arrays []")):
        Heads(desk.catalog)["by-rows"]


def test_a_deployment_of_it_names_the_collection_and_the_labels(desk: Desk) -> None:
    desk.fill()
    registered(desk)

    def recorded() -> DeploymentRecord:
        heads = Heads(desk.catalog)
        spec = DeploymentSpec.model_validate({"head": "by-rows"})
        return record_deployment(desk.catalog, "triage", spec, open_head=heads.get, held=lambda _: [])

    record = recorded()
    assert record.snapshot is None
    assert record.voters is not None
    assert record.voters.model_dump() == {"collection": "tickets", "labels": "product"}
    assert recorded() == record
