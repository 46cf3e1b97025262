"""Kept predictions: a row an item and head, once, visible to SQL and to snapshots; never content."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raystore
from raystore.data.collection import CollectionTable
from raystore.data.log import RowLog
from raystore.doctor import examine
from raystore.errors import AlreadyExists, CollectionNotFound, InvalidArguments, InvalidName, PassportMismatch
from raystore.serve.kept.predictions import (
    COLUMNS,
    PredictionRow,
    Predictions,
    keep_problems,
    predictions_name,
    read_labels,
    write_labels,
)
from tests.data.toy import ToyEncoder
from tests.serve.kept_rows import minute, said


@pytest.fixture
def store(tmp_path: Path) -> raystore.Store:
    return raystore.open(tmp_path / "a store")


def test_a_prediction_is_a_row_that_sql_joins_with_labels(store: raystore.Store) -> None:
    kept = Predictions.open_or_create(store.catalog, "triage", ["product"])
    rows = said(
        "refunds@2", ["card", "money"], kept={"product": "visa", "text": "my card never arrived"}, rules=("vip", "big")
    )
    assert kept.append([*rows, *said("refunds@3", ["card", "card"], role="shadow")]) == 4
    store.register_table("outcomes", [{"id": "r0", "outcome": "card"}, {"id": "r1", "outcome": "money"}], id="id")
    right = store.sql(
        """SELECT head, sum((label = outcome)::INT) AS n FROM predictions_triage p JOIN outcomes o ON o.id = p.request
           GROUP BY head ORDER BY head"""
    )
    assert right.to_dicts() == [{"head": "refunds@2", "n": 2}, {"head": "refunds@3", "n": 1}]
    [first] = store.sql("SELECT * EXCLUDE (time) FROM predictions_triage WHERE id = 'r0:refunds@2'").to_dicts()
    assert first == {
        "id": "r0:refunds@2", "subject": None, "tenant": None, "request": "r0", "request_id": "q0", "number": 1, "role": "live",
        "head": "refunds@2", "label": "card", "labels": None, "value": None, "confidence": 0.9, "margin": None, "second": None,
        "abstained": False, "answered": None, "rules": "vip,big", "review": False, "latency_ms": 0.5, "product": "visa",
    }  # fmt: skip
    assert (len(kept), kept.name) == (4, "predictions_triage")


def test_an_item_and_head_are_kept_once_as_they_came_first(store: raystore.Store) -> None:
    kept = Predictions.open_or_create(store.catalog, "triage")
    assert kept.append(said("refunds@2", ["card", "money"])) == 2
    again = [replace(row, label="other") for row in said("refunds@2", ["card", "money", "money"])]
    assert kept.append([*again, *again]) == 1
    assert kept.append([]) == 0
    assert kept.append(said("refunds@3", ["card"], role="canary")) == 1
    assert kept.read(columns=["request", "label"]).to_pydict() == {
        "request": ["r0", "r0", "r1", "r2"],
        "label": ["card", "card", "money", "other"],
    }


def test_what_is_there_is_opened_with_every_kept_column(store: raystore.Store) -> None:
    Predictions.open_or_create(store.catalog, "triage", ["product", "never"]).append(
        said("refunds@2", ["card"], kept={"product": "visa"})
    )
    assert Predictions.open(store.catalog, "triage").keep == ("product",)
    with pytest.raises(CollectionNotFound, match="no collection 'predictions_other'"):
        Predictions.open(store.catalog, "other")


def test_writers_at_once_add_each_row_once(store: raystore.Store) -> None:
    rows = said("refunds@2", ["card"] * 40)

    def write(start: int) -> int:
        own = Predictions.open_or_create(store.catalog, "triage", ["product"])
        return sum(own.append(rows[i : i + 20]) for i in range(start, 30, 10))

    with ThreadPoolExecutor(4) as pool:
        added = sum(pool.map(write, [0, 0, 10, 10]))
    assert added == len(store.collection("predictions_triage")) == 40


def test_kept_columns_are_typed_by_their_first_value_and_what_does_not_fit_is_null(
    store: raystore.Store, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Predictions.open_or_create(
        store.catalog, "triage", ["amount", "vip", "product", "seen", "never"], {"seen": "timestamp"}
    )
    values: list[dict[str, Any]] = [
        {"amount": 3, "vip": True, "product": None, "seen": "2026-11-01T00:00:00Z"},
        {"amount": 3.5, "vip": 1, "product": "visa", "secret": "my card never arrived"},
    ]
    kept.append([replace(row, kept=value) for row, value in zip(said("refunds@2", ["a", "b"]), values, strict=True)])
    kept.append([replace(row, kept={"amount": "my card never arrived"}) for row in said("refunds@3", ["a", "b"])])
    assert kept.table.columns == {**COLUMNS, "seen": "timestamp", "amount": "float64", "vip": "bool", "product": "string"}
    read = kept.read(columns=["amount", "vip", "product"]).to_pylist()
    assert read == [
        {"amount": 3.0, "vip": True, "product": None},
        {"amount": None, "vip": None, "product": None},
        {"amount": 3.5, "vip": None, "product": "visa"},
        {"amount": None, "vip": None, "product": None},
    ]
    assert [record.getMessage() for record in caplog.records] == [
        "a value of the kept column 'vip' of 'predictions_triage' is int, expected bool; of such ones null is kept",
        "a value of the kept column 'amount' of 'predictions_triage' is str, expected float64; of such ones null is kept",
    ]


def test_columns_that_predictions_have_themselves_cannot_be_kept(store: raystore.Store) -> None:
    assert keep_problems(["product", "region"]) == []
    with pytest.raises(InvalidArguments) as error:
        Predictions.open_or_create(store.catalog, "triage", ["Label", "time", "vec_x", "product", "Product"])
    assert str(error.value) == (
        "keep of deployment 'triage': 'Label' is a column that predictions have (label); "
        "'time' is one of the store's own columns (id, subject, tenant, time); "
        "'vec_x' is no column name: letters, digits and '_', not starting with '_' or 'vec_'; "
        "'product' differs from 'Product' in case only, which SQL does not tell apart; "
        "'Product' differs from 'product' in case only, which SQL does not tell apart."
    )


def test_every_field_of_a_row_but_the_kept_ones_has_its_column() -> None:
    named = {field.name for field in fields(PredictionRow)}
    assert named - {"subject", "tenant", "time", "kept"} == set(COLUMNS)


def test_dashes_of_a_deployment_become_underlines_and_long_names_are_refused() -> None:
    assert predictions_name("triage-eu") == "predictions_triage_eu"
    with pytest.raises(InvalidName):
        predictions_name("d" * 60)


def test_a_name_that_something_else_has_is_refused(store: raystore.Store) -> None:
    CollectionTable.create(store.layout, "predictions_triage", {"f" * 64: 3}, {"label": "string"})
    with pytest.raises(
        AlreadyExists, match="Deployment 'triage' keeps its predictions under this name: rename the deployment"
    ):
        Predictions.open_or_create(store.catalog, "triage")
    store.register_table("predictions_other", [{"id": "a"}], id="id")
    with pytest.raises(AlreadyExists, match="Collections and tables share one SQL namespace"):
        Predictions.open_or_create(store.catalog, "other")


def test_sets_of_labels_are_read_by_sql(store: raystore.Store) -> None:
    kept = Predictions.open_or_create(store.catalog, "triage")
    kept.append(said("topics@1", [("fraud", "card"), (), ("card",)]))
    found = store.sql(
        """SELECT request, from_json(labels, '["VARCHAR"]') AS labels FROM predictions_triage
           WHERE list_contains(from_json(labels, '["VARCHAR"]'), 'fraud')"""
    )
    assert found.to_dicts() == [{"request": "r0", "labels": ["card", "fraud"]}]
    assert store.sql("SELECT count(*) AS n FROM predictions_triage WHERE labels = '[]'").to_dicts() == [{"n": 1}]


@given(st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5)))
def test_two_sets_of_labels_are_the_same_text_exactly_where_they_are_equal(a: list[str], b: list[str]) -> None:
    assert read_labels(write_labels(a)) == tuple(sorted(set(a)))
    assert (write_labels(a) == write_labels(b)) == (set(a) == set(b))
    assert json.loads(write_labels(a)) == sorted(set(a))


@settings(max_examples=40, deadline=None)
@given(
    since=st.none() | st.integers(-1, 9),
    until=st.none() | st.integers(-1, 9),
    heads=st.none() | st.sets(st.sampled_from(["a@1", "b@1", "c@1"])),
)
def test_a_window_reads_the_rows_from_its_start_until_before_its_end(
    window: Predictions, since: int | None, until: int | None, heads: set[str] | None
) -> None:
    found = window.read(
        None if since is None else minute(since), None if until is None else minute(until).replace(tzinfo=None),
        None if heads is None else sorted(heads), columns=["request", "head"],
    )  # fmt: skip
    expected = [
        {"request": f"r{i}", "head": head}
        for i in range(8)
        for head in ("a@1", "b@1")
        if (since is None or i >= since) and (until is None or i < until) and (heads is None or head in heads)
    ]
    assert found.to_pylist() == expected


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Predictions:
    kept = Predictions.open_or_create(raystore.open(tmp_path_factory.mktemp("window") / "s").catalog, "triage")
    kept.append(said("b@1", ["x"] * 8, role="shadow"))
    kept.append(said("a@1", ["x"] * 8))
    return kept


# --- a collection that holds no vector ---------------------------------------------------------------------------------


def test_what_needs_an_encoder_says_that_there_is_none(store: raystore.Store, tmp_path: Path) -> None:
    Predictions.open_or_create(store.catalog, "triage").append(said("refunds@2", ["card"]))
    collection = store.collection("predictions_triage")
    assert repr(collection) == f"<collection predictions_triage: 1 rows, encoder none, version {collection.version}>"
    assert len(collection) == 1
    assert collection.get(["r0:refunds@2"])[0]["label"] == "card"
    none = "collection 'predictions_triage': it holds no vectors, so no encoder reads it; ask it by SQL."
    for ask in (
        collection.encoder,
        lambda: collection.search("card"),
        lambda: collection.knn_graph(),
        lambda: collection.build_index(),
    ):
        with pytest.raises(InvalidArguments) as error:
            ask()
        assert str(error.value) == none
    with pytest.raises(InvalidArguments) as error:
        collection.log([{"id": "x", "text": "my card never arrived"}])
    assert str(error.value) == "log into 'predictions_triage': it has no encoder, so nothing can be embedded into it."
    with pytest.raises(InvalidArguments, match="it has no encoder"):
        collection.embed([str(tmp_path / "x.csv")], text="text")
    with pytest.raises(PassportMismatch, match="no encoder"):
        CollectionTable.open(store.layout, "predictions_triage").check_encoder("f" * 64)
    assert collection.publish(tmp_path / "copy").version == collection.version


def test_the_doctor_examines_it(store: raystore.Store) -> None:
    Predictions.open_or_create(store.catalog, "triage").append(said("refunds@2", ["card"]))
    [check] = [check for check in examine(store.root, with_ray=False) if check.what == "collection predictions_triage"]
    assert check.ok
    assert check.found.endswith("no vectors")


def test_a_snapshot_of_logged_rows_reads_predictions_beside_them(store: raystore.Store) -> None:
    encoder = ToyEncoder()
    logged = CollectionTable.create(store.layout, "tickets", {encoder.fingerprint: 3})
    now = datetime.now(UTC)
    RowLog(logged, encoder, b"k" * 32).log([{"id": f"r{i}", "text": "e" * (i % 3 + 1), "time": now} for i in range(60)])
    kept = Predictions.open_or_create(store.catalog, "triage")
    kept.append(said("refunds@2", [("card", "money")[i % 2] for i in range(60)]))
    record = store.snapshot(
        "sure", "SELECT t.id, p.label FROM tickets t JOIN predictions_triage p ON p.request = t.id WHERE p.confidence > .5"
    )
    assert record.collection == "tickets"
    assert record.versions == {"tickets": logged.version, "predictions_triage": kept.version}
    assert len(record.rows()) == 60
    kept.append(said("refunds@3", ["card"] * 60))
    rebuilt = store.snapshots.rebuild("sure")
    assert (rebuilt.same, rebuilt.hash) == (True, record.hash)
