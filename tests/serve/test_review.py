"""The review queue: open is what was marked and has no label; labels are events of a source table, and the loop closes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import raystore
from raystore.data.collection import CollectionTable
from raystore.data.log import RowLog
from raystore.errors import InvalidArguments, ItemNotFound
from raystore.serve.kept.predictions import PredictionRow, Predictions
from raystore.serve.review.labels import Disagreement
from raystore.serve.review.queue import ReviewQueue
from raystore.serve.review.queues import ReviewQueues
from raystore.serve.shadow.labels import live_labels
from raystore.serve.shadow.report import shadow_reports
from raystore.serve.spec.deployment import ReviewSpec
from raystore.serve.spec.records import DeploymentRecord
from raystore.train.fit import train_head
from raystore.train.snapshot_source import SnapshotSource
from raystore.train.source import Task
from tests.data.toy import ToyEncoder
from tests.serve.kept_rows import minute, said


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """A deployment with `n` items to look at, and its queue."""

    def __init__(self, root: Path, rows: list[PredictionRow], *, task: Task = "classes", most: int = 10_000) -> None:
        self.store = raystore.open(root / "a store")
        self.kept = Predictions.open_or_create(self.store.catalog, "triage", ["product"])
        self.clock = Clock()
        self.queue = self.again(task, most)
        self.kept.append(self.queue.admit(rows))

    def again(self, task: Task = "classes", most: int = 10_000) -> ReviewQueue:
        """The queue as a process has it that was just started."""
        return ReviewQueue(
            self.store.catalog, "triage", self.kept, "reviewed",
            task=task, classes=["card", "money", "other"], most=most, clock=self.clock,
        )  # fmt: skip

    def open(self, **asked: Any) -> list[str]:
        return [item.id for item in self.queue.items(**asked)]

    def events(self) -> list[tuple[str, str, str]]:
        rows = self.store.sql("SELECT id, label, reviewer FROM reviewed ORDER BY time, id")
        return [(row["id"], row["label"], row["reviewer"]) for row in rows.to_dicts()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    unsure = [
        row
        for i, c in enumerate([0.5, 0.3, 0.4, 0.2])
        for row in said("refunds@2", ["card"], start=i, review=True, confidence=c)
    ]
    return Desk(tmp_path, [*unsure, *said("refunds@2", ["money"] * 3, start=4)])


def test_what_was_marked_and_has_no_label_is_open_oldest_or_least_sure_first(desk: Desk) -> None:
    assert desk.open() == ["r0", "r1", "r2", "r3"]
    assert desk.open(order="least_confident") == ["r3", "r1", "r2", "r0"]
    assert desk.open(limit=2) == ["r0", "r1"]
    desk.queue.label("ann", [("r1", "money")])
    assert desk.open() == ["r0", "r2", "r3"]


def test_an_item_shows_scores_and_kept_columns_and_no_content(tmp_path: Path) -> None:
    kept = {"product": "visa", "text": "my card never arrived"}
    facts = {"confidence": 0.4, "margin": 0.1, "second": "money", "abstained": True, "rules": ("vip", "big"), "kept": kept}
    desk = Desk(tmp_path, said("refunds@2", ["card"], subjects=["c-9"], review=True, **facts))
    [item] = desk.queue.items()
    assert item.model_dump(exclude={"time"}) == {
        "id": "r0", "subject": "c-9", "head": "refunds@2", "label": "card", "labels": None, "value": None, "confidence": 0.4,
        "margin": 0.1, "second": "money", "abstained": True, "rules": ("vip", "big"), "columns": {"product": "visa"},
        "claimed_by": None,
    }  # fmt: skip
    assert item.time == minute(0)


def test_shadows_are_not_reviewed_and_an_item_of_two_live_heads_is_asked_about_once(tmp_path: Path) -> None:
    rows = [
        *said("refunds@2", ["card"], review=True), *said("refunds@3", ["money"], review=True, confidence=0.1),
        *said("refunds@4", ["card"], start=1, role="shadow", review=True),
        *said("refunds@3", ["card"], start=2, role="canary", review=True),
    ]  # fmt: skip
    desk = Desk(tmp_path, rows)
    assert desk.open() == ["r0", "r2"]


def test_a_label_is_an_event_of_a_table_that_sql_reads(desk: Desk) -> None:
    done = desk.queue.label("ann", [("r0", "card"), ("r1", "money")])
    assert (done.added, done.known, done.version, done.disagreements) == (2, 0, 1, ())
    table = desk.store.table("reviewed")
    assert (table.id, table.time, list(table.columns)) == ("id", "time", ["id", "label", "reviewer", "time", "deployment"])
    assert desk.events() == [("r0", "card", "ann"), ("r1", "money", "ann")]


def test_the_same_label_by_the_same_reviewer_again_adds_nothing(desk: Desk) -> None:
    first = desk.queue.label("ann", [("r0", "card")])
    again = desk.queue.label("ann", [("r0", "card"), ("r0", "card"), ("r1", "card")])
    assert (again.added, again.known, again.version) == (1, 1, first.version + 1)
    assert desk.queue.label("ann", [("r0", "card")]).version == again.version
    assert desk.queue.label("ann", []).added == 0
    assert len(desk.events()) == 2


def test_another_label_is_one_more_event_and_the_newest_counts(desk: Desk) -> None:
    desk.queue.label("ann", [("r0", "card")])
    done = desk.queue.label("bob", [("r0", "money")])
    assert done.disagreements == (Disagreement(id="r0", reviewer="ann", label="card"),)
    assert [event[1:] for event in desk.events()] == [("card", "ann"), ("money", "bob")]
    assert live_labels(desk.store.catalog, "reviewed.label").to_pylist() == [{"id": "r0", "label": "money"}]
    desk.queue.label("ann", [("r0", "other")])
    assert live_labels(desk.store.catalog, "reviewed.label").to_pylist() == [{"id": "r0", "label": "other"}]


def test_labels_are_classes_of_the_head_unless_new_ones_are_allowed(desk: Desk) -> None:
    with pytest.raises(InvalidArguments) as error:
        desk.queue.label(
            "ann", [("r0", "mony"), ("r1", "my card never arrived"), ("r2", "card"), ("r2", "money"), ("r3", 3)]
        )
    classes = "is none of the head's 3 classes:"
    assert str(error.value) == (
        f"label in 'triage': the label of item 'r0' {classes} did you mean 'money'? allow_new takes it all the same; "
        f"the label of item 'r1' {classes} allow_new takes it all the same; "
        "the label of item 'r2' is there twice, with different labels; the label of item 'r3' is int, expected a string."
    )
    assert desk.open() == ["r0", "r1", "r2", "r3"]
    assert desk.queue.label("ann", [("r0", "fraud")], allow_new=True).added == 1
    with pytest.raises(InvalidArguments, match="has 201 characters, expected 1 to 200 and not blanks alone"):
        desk.queue.label("ann", [("r0", "x" * 201)], allow_new=True)
    with pytest.raises(InvalidArguments, match=r"there are 1,001 labels, expected at most 1,000 in one call"):
        desk.queue.label("ann", [("r0", "card")] * 1_001)


def test_only_items_that_the_deployment_answered_are_labelled(desk: Desk) -> None:
    desk.kept.append(said("refunds@3", ["card"], start=50, role="shadow"))
    for stranger in ("r50", "r-9"):
        with pytest.raises(ItemNotFound) as error:
            desk.queue.label("ann", [("r0", "card"), (stranger, "card")])
        assert str(error.value).startswith(f"no item '{stranger}' in the predictions of deployment 'triage'.")
    assert desk.queue.label("ann", [("r5", "card")]).added == 1  # nobody asked for it, and it is welcome


def test_sets_of_labels_and_numbers_are_reviewed_too(tmp_path: Path) -> None:
    sets = Desk(tmp_path / "sets", said("topics@1", [("card",), ()], review=True), task="labels")
    assert [item.labels for item in sets.queue.items()] == [("card",), ()]
    assert sets.queue.label("ann", [("r0", ["money", "card", "card"]), ("r1", [])]).added == 2
    assert sets.queue.label("ann", [("r0", ["card", "money"])]).added == 0
    assert sets.queue.label("bob", [("r0", [])]).disagreements == (
        Disagreement(id="r0", reviewer="ann", label=("card", "money")),
    )
    assert sets.open() == []
    with pytest.raises(InvalidArguments, match="is str, expected a list of labels"):
        sets.queue.label("ann", [("r0", "card")])
    numbers = Desk(tmp_path / "numbers", said("prices@1", [1.5], review=True), task="number")
    assert numbers.queue.items()[0].value == 1.5
    with pytest.raises(InvalidArguments, match="is float, expected a finite number"):
        numbers.queue.label("ann", [("r0", float("nan"))])
    assert numbers.queue.label("ann", [("r0", 2)]).added == 1
    assert numbers.store.sql("SELECT label FROM reviewed").to_dicts() == [{"label": 2.0}]


@pytest.mark.parametrize(
    ("rows", "keys", "problem"),
    [
        ([{"id": "r0", "label": "card"}], {"id": "id"},
         "table 'reviewed' has no column reviewer, time, deployment, so it is no review table: name another"),
        ([{"id": "r0", "label": "a", "reviewer": "b", "time": "2026-01-01", "deployment": "c"}], {"id": "id"},
         "table 'reviewed' was not registered with id='id' and time='time', as a review table is"),
        ([{"id": "r0", "label": 1.5, "reviewer": "b", "time": "2026-01-01", "deployment": "c"}], {"id": "id", "time": "time"},
         "the labels of table 'reviewed' are double, those of this deployment string: name another"),
    ],
)  # fmt: skip
def test_a_table_of_another_kind_is_refused(desk: Desk, rows: list[Any], keys: dict[str, str], problem: str) -> None:
    desk.store.register_table("reviewed", rows, **keys)
    with pytest.raises(InvalidArguments) as error:
        desk.queue.label("ann", [("r1", "card")])
    assert str(error.value) == f"label in 'triage': {problem}."


# --- claims ------------------------------------------------------------------------------------------------------------


def test_two_reviewers_do_not_get_the_same_items(desk: Desk) -> None:
    assert [item.id for item in desk.queue.claim("ann", 2)] == ["r0", "r1"]
    assert [item.id for item in desk.queue.claim("bob", 5)] == ["r2", "r3"]
    assert [(item.id, item.claimed_by) for item in desk.queue.items()] == [
        ("r0", "ann"),
        ("r1", "ann"),
        ("r2", "bob"),
        ("r3", "bob"),
    ]
    assert [item.id for item in desk.queue.claim("ann", 2)] == ["r0", "r1"]
    assert desk.queue.claim("eve") == []
    desk.queue.label("ann", [("r0", "card")])
    assert [item.id for item in desk.queue.claim("ann", 2)] == ["r1"]
    assert (desk.queue.counts().open, desk.queue.counts().claimed) == (3, 3)
    assert desk.queue.release("bob") == 2
    assert [item.id for item in desk.queue.claim("eve", 9, order="least_confident")] == ["r3", "r2"]


def test_a_claim_ends_with_its_time_and_with_the_process_and_no_item_is_lost(desk: Desk) -> None:
    desk.queue.claim("ann", 4, minutes=10)
    desk.clock.now += 599
    assert desk.queue.claim("bob") == []
    desk.clock.now += 1
    assert [item.id for item in desk.queue.claim("bob", 1)] == ["r0"]
    assert [item.id for item in desk.again().claim("eve")] == ["r0", "r1", "r2", "r3"]


def test_whoever_labels_need_not_have_claimed(desk: Desk) -> None:
    desk.queue.claim("ann", 4)
    assert desk.queue.label("bob", [("r0", "card")]).added == 1
    assert [item.id for item in desk.queue.claim("ann", 4)] == ["r1", "r2", "r3"]


def test_numbers_and_orders_that_cannot_be_are_refused(desk: Desk) -> None:
    with pytest.raises(InvalidArguments) as error:
        desk.queue.claim("ann", 0, minutes=0, order="newest")
    assert str(error.value) == (
        "claim in 'triage': n is 0, expected 1 to 1,000; minutes is 0, expected more than 0 and at most 1440; "
        "order is none, expected oldest or least_confident."
    )
    with pytest.raises(InvalidArguments, match=r"review in 'triage': limit is 1001, expected 1 to 1,000"):
        desk.queue.items(1_001)


def test_claims_of_many_at_once_never_overlap(tmp_path: Path) -> None:
    desk = Desk(tmp_path, said("refunds@2", ["card"] * 60, review=True))
    with ThreadPoolExecutor(6) as pool:
        got = list(pool.map(lambda who: [item.id for item in desk.queue.claim(who, 10)], "abcdef"))
    assert sorted(id_ for mine in got for id_ in mine) == sorted(f"r{i}" for i in range(60))


# --- the bound, and what goes ------------------------------------------------------------------------------------------


def test_beyond_the_bound_nothing_more_is_marked_until_there_is_room(tmp_path: Path) -> None:
    desk = Desk(tmp_path, said("refunds@2", ["card"] * 5, review=True), most=3)
    assert desk.open() == ["r0", "r1", "r2"]
    assert desk.queue.counts().model_dump() == {"open": 3, "claimed": 0, "left_out": 2, "most": 3}
    desk.kept.append(desk.queue.admit(said("refunds@2", ["card"], start=5, review=True)))
    desk.queue.label("ann", [("r0", "card")])
    desk.kept.append(
        desk.queue.admit([*said("refunds@2", ["card"], start=6), *said("refunds@2", ["card"] * 2, start=7, review=True)])
    )
    assert desk.open() == ["r1", "r2", "r7"]
    assert desk.queue.counts().left_out == 4
    assert len(desk.kept) == 9
    assert [row.review for row in desk.again(most=3).admit(said("refunds@2", ["card"], start=20, review=True))] == [False]


def test_an_erased_row_leaves_the_queue(desk: Desk) -> None:
    assert desk.open() == ["r0", "r1", "r2", "r3"]
    desk.kept.table.rows.dataset().delete("request = 'r1'")
    assert desk.open() == ["r0", "r2", "r3"]
    with pytest.raises(ItemNotFound):
        desk.queue.label("ann", [("r1", "card")])


def test_a_label_that_is_taken_away_opens_the_item_again(desk: Desk) -> None:
    desk.queue.label("ann", [("r0", "card")])
    away = [{"id": "r0", "label": None, "reviewer": "ann", "time": datetime.now(UTC), "deployment": "triage"}]
    desk.store.register_table("reviewed", away, mode="append")
    assert desk.open() == ["r0", "r1", "r2", "r3"]
    assert desk.queue.label("ann", [("r0", "card")]).added == 1
    assert desk.open() == ["r1", "r2", "r3"]


class Reviewing(RuleBasedStateMachine):
    """Whatever people do, in whatever order: open and labelled are apart and together all, and nobody shares an item."""

    folder: Path

    @initialize()
    def begin(self) -> None:
        self.desk = Desk(self.folder / f"{np.random.default_rng().integers(1 << 60)}", [])
        self.labels: dict[str, str] = {}
        self.held: dict[str, str] = {}
        self.n = 0

    @rule(n=st.integers(1, 3))
    def predict(self, n: int) -> None:
        self.desk.kept.append(self.desk.queue.admit(said("refunds@2", ["card"] * n, start=self.n, review=True)))
        self.n += n

    @rule(who=st.sampled_from("ab"), n=st.integers(1, 3))
    def claim(self, who: str, n: int) -> None:
        got = [item.id for item in self.desk.queue.claim(who, n)]
        assert all(self.held.get(id_, who) == who for id_ in got)
        assert not set(got) & self.labels.keys()
        self.held |= dict.fromkeys(got, who)

    @rule(who=st.sampled_from("ab"), which=st.integers(0, 9), label=st.sampled_from(["card", "money"]))
    def label(self, who: str, which: int, label: str) -> None:
        if which < self.n:
            before = self.labels.get(f"r{which}")
            done = self.desk.queue.label(who, [(f"r{which}", label)])
            assert done.added or before is not None
            if done.added:
                self.labels[f"r{which}"] = label
            self.held.pop(f"r{which}", None)

    @rule()
    def restart(self) -> None:
        self.desk.queue = self.desk.again()
        self.held = {}

    @invariant()
    def open_and_labelled_are_apart_and_together_all(self) -> None:
        if hasattr(self, "desk"):
            everything = [f"r{i}" for i in range(self.n)]
            assert sorted([*self.desk.open(), *self.labels]) == sorted(everything)
            if self.labels:
                rows = live_labels(self.desk.store.catalog, "reviewed.label").to_pylist()
                assert {row["id"]: row["label"] for row in rows} == self.labels


def test_reviewing_loses_nothing_and_shares_nothing(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    Reviewing.folder = tmp_path
    run_state_machine_as_test(Reviewing, settings=settings(max_examples=8, stateful_step_count=12, deadline=None))


class Following(RuleBasedStateMachine):
    """What is followed from version to version is what a process reads that was just started."""

    folder: Path

    @initialize()
    def begin(self) -> None:
        self.desk = Desk(self.folder / f"{np.random.default_rng().integers(1 << 60)}", [])
        self.n = 0

    @rule(head=st.sampled_from(["refunds@2", "refunds@3"]), start=st.integers(0, 9), review=st.booleans())
    def predict(self, head: str, start: int, review: bool) -> None:
        """Items that were there before too, by another head."""
        self.desk.kept.append(said(head, ["card", "money"], start=start, review=review, kept={"product": "visa"}))

    @rule(which=st.integers(0, 9), minutes=st.integers(-60, 60), label=st.sampled_from(["card", "money", None]))
    def happen(self, which: int, minutes: int, label: str | None) -> None:
        """An event, told late or early, that gives a label or takes it away."""
        when = datetime.now(UTC) + timedelta(minutes=minutes)
        event = {"id": f"r{which}", "label": label, "reviewer": "c", "time": when, "deployment": "triage"}
        rows = pa.Table.from_pylist([event]).cast(_EVENTS)
        self.desk.store.register_table("reviewed", rows, id="id", time="time", mode="append")

    @rule()
    def begin_the_table_anew(self) -> None:
        event = {"id": "r3", "label": "card", "reviewer": "c", "time": datetime.now(UTC), "deployment": "triage"}
        rows = pa.Table.from_pylist([event]).cast(_EVENTS)
        self.desk.store.register_table("reviewed", rows, id="id", time="time")

    @rule(which=st.integers(0, 9))
    def erase(self, which: int) -> None:
        self.desk.kept.table.rows.dataset().delete(f"request = 'r{which}'")

    @rule()
    def keep_more(self) -> None:
        self.desk.queue.predictions = Predictions.open_or_create(self.desk.store.catalog, "triage", ["product", "region"])

    @invariant()
    def it_is_what_is_there(self) -> None:
        if hasattr(self, "desk"):
            fresh = self.desk.again()
            fresh.predictions = self.desk.queue.predictions
            assert self.desk.queue.items() == fresh.items()


_EVENTS = pa.schema(
    {
        "id": pa.string(), "label": pa.string(), "reviewer": pa.string(), "time": pa.timestamp("us", "UTC"),
        "deployment": pa.string(),
    }
)  # fmt: skip


def test_what_is_followed_is_what_is_there(tmp_path: Path) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    Following.folder = tmp_path
    run_state_machine_as_test(Following, settings=settings(max_examples=10, stateful_step_count=15, deadline=None))


def test_many_who_ask_first_get_one_queue(desk: Desk) -> None:
    record = DeploymentRecord(
        name="triage", number=1, head="refunds@2", asked="refunds@2", fingerprint="f" * 64, encoder="tiny@f", snapshot=None,
        review=ReviewSpec(table="reviewed", most=3), keep=("product",),
    )  # fmt: skip
    queues = ReviewQueues(desk.store.catalog)
    with ThreadPoolExecutor(8) as threads:
        found = [threads.submit(queues.get, record) for _ in range(16)]
        assert len({id(each.result(60)) for each in found}) == 1
    queue = queues.get(record)
    assert queue is not None
    queue.claim("ann", 1)
    changed = record.model_copy(update={"review": ReviewSpec(table="reviewed", most=9), "keep": ("product", "region")})
    assert queues.get(changed) is queue, "claims stay"
    assert (queue.most, queue.predictions.keep) == (9, ("product", "region"))
    assert queues.get(record.model_copy(update={"review": ReviewSpec(table="elsewhere")})) is not queue
    assert queues.get(record.model_copy(update={"review": None})) is None


# --- the loop ----------------------------------------------------------------------------------------------------------


def test_the_loop_closes(tmp_path: Path) -> None:
    """Predicted and logged, reviewed, joined in SQL, frozen, and a head trained of it; the labels judge the shadow too."""
    encoder = ToyEncoder()
    rows = [row for i in range(60) for row in said("refunds@2", ["card"], start=i, review=True, subjects=[f"c-{i}"])]
    desk = Desk(tmp_path, rows)
    store = desk.store
    logged = CollectionTable.create(store.layout, "tickets", {encoder.fingerprint: 3})
    texts = [("e" * (1 + i // 2 % 5) if i % 2 else "o" * (1 + i // 2 % 5)) for i in range(60)]
    now = datetime.now(UTC)
    RowLog(logged, encoder, b"k" * 32).log([{"id": f"r{i}", "text": t, "time": now} for i, t in enumerate(texts)])
    truth = {f"r{i}": "card" if i % 2 else "money" for i in range(60)}
    while batch := desk.queue.claim("ann", 25):
        desk.queue.label("ann", [(item.id, truth[item.id]) for item in batch])
    assert desk.queue.counts().open == 0
    joined = store.sql(
        """SELECT r.label, count(*) AS n, avg((p.label = r.label)::INT) AS right
           FROM predictions_triage p JOIN reviewed r ON r.id = p.request GROUP BY r.label ORDER BY r.label"""
    )
    assert joined.to_dicts() == [{"label": "card", "n": 30, "right": 1.0}, {"label": "money", "n": 30, "right": 0.0}]
    snapshot = store.snapshot(
        "again",
        """SELECT t.id, r.label, r.time AS at FROM tickets t JOIN reviewed r ON r.id = t.id
           JOIN predictions_triage p ON p.request = t.id""",
        label="last",
    )
    assert snapshot.collection == "tickets"
    assert set(snapshot.versions) == {"tickets", "predictions_triage", "reviewed"}
    source = SnapshotSource(
        str(store.root), "tickets", encoder.fingerprint, str(snapshot.folder), tuple(snapshot.classes), "classes"
    )
    head = train_head(
        store.layout, name="refunds", kind="linear", classes=snapshot.classes, source=source, fingerprint=encoder.fingerprint,
        encoder_label="toy@1", snapshot={"name": snapshot.name, "number": snapshot.number, "hash": snapshot.hash},
    )  # fmt: skip
    answers = head.predict(logged.vectors_of(list(truth), encoder.fingerprint)).labels
    desk.kept.append(said(head.label, [str(label) for label in answers], role="shadow"))
    [report] = shadow_reports("triage", desk.kept.read(), labels=live_labels(store.catalog, "reviewed.label"))
    assert (report.n_paired, report.n_labelled) == (60, 60)
    assert report.comparison is not None
    assert report.comparison.better == head.label
