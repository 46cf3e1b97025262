"""What becomes of what was seen: predictions kept, shadows asked beside them, drift measured; never in the way of an answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.collection import CollectionTable
from raystore.encoders import LoadedEncoder
from raystore.encoders.items import Item
from raystore.errors import CollectionNotFound, SealBroken
from raystore.serve.answer.loading import Rooms
from raystore.serve.kept.predictions import Predictions
from raystore.serve.operate.operations import Operations
from raystore.serve.recording.recorder import Recorder
from raystore.serve.recording.seal import Seal
from raystore.serve.recording.seen import Seen
from raystore.serve.rules.said import Said
from raystore.serve.run.follow import Follower
from raystore.serve.run.graph import records_anything
from raystore.serve.shadow.report import shadow_reports
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.records import DeploymentRecord
from raystore.serve.spec.watch import Watch
from raystore.serve.watch import table
from raystore.serve.watch.merging import series_of
from raystore.serve.watch.metrics import Metrics
from raystore.serve.watch.table import Metric
from raystore.train.heads import Head
from raystore.vectors import Vectors
from tests.serve.conftest import Served, Whole, copy_head, recorded
from tests.serve.serving import CANARY, Service, Serving
from tests.waiting import soon

TEXT = "the card never arrived"

# Of the hooks below, which run in the recorder's threads.
GO = threading.Event()
SEEN: list[object] = []


def sleeps(facts: Any, said: Said) -> Said | None:
    assert GO.wait(60)
    SEEN.append(facts["text"])
    return None


def fails(facts: Any, said: Said) -> Said | None:
    raise ValueError(CANARY)


class Recorded:
    """A recorder over a store, and services whose requests it is told of."""

    def __init__(self, rooms: Rooms, watch: Watch | None = None) -> None:
        self.rooms = rooms
        self.metrics = Metrics("recording")
        self.recorder = Recorder(rooms, watch or Watch(), self.metrics)
        self.seen: list[Seen] = []
        self._watch = (watch or Watch()).model_dump()
        self._serving = Serving(rooms)

    def serve(self, name: str, **deployment: Any) -> Service:
        service = self._serving.serve({name: deployment}, tell=self._told, watch=self._watch)
        self.update(service)
        return service

    def update(self, service: Service) -> None:
        self.recorder.update({name: live.record for name, live in service.orchestrator.live.items()})

    def _told(self, seen: Seen) -> None:
        self.seen.append(seen)
        self.recorder.take([seen])

    def kept(self, name: str) -> list[dict[str, Any]]:
        """What was written down, in the order of items and heads."""
        assert self.recorder.drain(120)
        rows = Predictions.open(self.rooms.catalog, name).read().to_pylist()
        return sorted(rows, key=lambda row: row["id"])

    def count(self, metric: Metric, *labels: str) -> float:
        found = series_of(self.metrics.snapshot()).get(metric.name, {}).get(labels, 0.0)
        assert not isinstance(found, list)
        return found


@pytest.fixture(scope="module")
def rooms(served: Served) -> Rooms:
    return served.rooms


@pytest.fixture
def recorded_(rooms: Rooms) -> Iterator[Recorded]:
    GO.clear()
    SEEN.clear()
    recorded = Recorded(rooms)
    yield recorded
    GO.set()
    recorded.recorder.close()


# --- the seal --------------------------------------------------------------------------------------------------------


ITEMS = st.lists(st.text(max_size=50) | st.binary(max_size=50), max_size=6)


@given(items=ITEMS)
def test_sealed_items_come_back_as_they_were(items: list[Item]) -> None:
    seal = Seal(b"k" * 32)
    assert seal.open(seal.seal(items)) == items
    assert Seal(b"k" * 32).open(seal.seal(items)) == items, "every process of the store has its key"


@settings(max_examples=50)
@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_a_message_that_was_changed_anywhere_does_not_open(place: int, bit: int) -> None:
    seal = Seal(b"k" * 32)
    message = bytearray(seal.seal(["a text", b"an image"]))
    message[place % len(message)] ^= 1 << bit
    with pytest.raises(SealBroken) as broken:
        seal.open(bytes(message))
    assert str(broken.value) == (
        "sealed content does not open with this store's key: it is another store's, or was changed on its way."
    )


def test_a_sealed_message_shows_nothing_and_is_never_the_same_twice() -> None:
    seal = Seal(b"k" * 32)
    one, two = seal.seal([CANARY]), seal.seal([CANARY])
    assert CANARY.encode() not in one
    assert one != two
    for other in (b"", b"short", Seal(b"o" * 32).seal([CANARY])):
        with pytest.raises(SealBroken):
            seal.open(other)


# --- predictions and shadows -----------------------------------------------------------------------------------------


def test_what_was_answered_and_what_a_shadow_says_stand_side_by_side(recorded_: Recorded) -> None:
    service = recorded_.serve("r-pairs", head="refunds@2", shadow=["refunds@1"], keep=["product"])
    texts = [TEXT, "return the money", "red and blue"]
    for i, text in enumerate(texts):
        item = {"id": f"x-{i}", "text": text, "subject": f"c-{i}", "columns": {"product": "visa", "other": CANARY}}
        service.ask("r-pairs", item, headers={"x-request-id": f"req-{i}"})
    rows = recorded_.kept("r-pairs")
    assert [(row["id"], row["role"], row["head"], row["request_id"]) for row in rows] == [
        (f"x-{i}:refunds@{n}", role, f"refunds@{n}", f"req-{i}")
        for i in range(3)
        for n, role in ((1, "shadow"), (2, "live"))
    ]
    assert {row["product"] for row in rows} == {"visa"}
    assert [row["subject"] for row in rows] == ["c-0", "c-0", "c-1", "c-1", "c-2", "c-2"]
    assert [row["label"] for row in rows if row["role"] == "live"] == ["card", "money", "colour"]
    alone = recorded_.rooms.head("refunds@1").predict(recorded_.rooms.encoders.get("tiny").encode(texts))
    assert [row["label"] for row in rows if row["role"] == "shadow"] == list(alone.labels)
    assert CANARY not in str(rows)
    differ = sum(a != b for a, b in zip(alone.labels, ["card", "money", "colour"], strict=True))
    assert recorded_.count(table.SHADOW_PREDICTIONS, "r-pairs", "refunds@1") == 3
    assert recorded_.count(table.SHADOW_DISAGREEMENTS, "r-pairs", "refunds@1") == differ >= 1
    [report] = shadow_reports("r-pairs", Predictions.open(recorded_.rooms.catalog, "r-pairs").read(), live="refunds@2")
    assert (report.shadow, report.n_paired, report.coverage) == ("refunds@1", 3, 1)


def test_a_kept_column_has_the_type_that_the_logs_collection_gives_it(recorded_: Recorded, rooms: Rooms) -> None:
    [fingerprint] = CollectionTable.open(rooms.layout, "tickets").fingerprints
    CollectionTable.create(rooms.layout, "typed", {fingerprint: 32}, {"orders": "int64"})
    service = recorded_.serve("r-typed", head="refunds@2", log="typed", keep=["orders", "price"])
    service.ask("r-typed", {"id": "x", "text": TEXT, "columns": {"orders": 3, "price": 2}})
    assert [(row["orders"], row["price"]) for row in recorded_.kept("r-typed")] == [(3, 2.0)]
    columns = Predictions.open(rooms.catalog, "r-typed").table.columns
    assert (columns["orders"], columns["price"]) == ("int64", "float64")
    later = recorded_.serve("r-typed", head="refunds@2", log="tickets", keep=["orders", "price", "product"])
    later.ask("r-typed", {"id": "y", "text": TEXT, "columns": {"product": "visa"}})
    assert [row["product"] for row in recorded_.kept("r-typed")] == [None, "visa"]


def test_a_request_that_is_told_twice_is_kept_once(recorded_: Recorded) -> None:
    service = recorded_.serve("r-twice", head="refunds@2", shadow=["refunds@1"])
    for _ in range(2):
        service.ask("r-twice", {"id": "x", "text": TEXT})
    assert [row["head"] for row in recorded_.kept("r-twice")] == ["refunds@1", "refunds@2"]


def test_a_ruled_answer_keeps_the_heads_own_words_beside_it(recorded_: Recorded) -> None:
    rules = {"after": [{"name": "always", "label": "money"}, {"name": "look", "review": True}]}
    service = recorded_.serve("r-ruled", head="refunds@2", rules=rules, review="reviewed")
    service.ask("r-ruled", {"id": "x", "text": TEXT})
    [row] = recorded_.kept("r-ruled")
    assert (row["label"], row["answered"], row["rules"], row["review"]) == ("card", "money", "always,look", True)
    assert recorded_.count(table.REVIEW_OPEN, "r-ruled") == 1


def test_how_many_items_wait_for_a_label_is_told_after_labels_that_another_process_took(
    recorded_: Recorded, served: Served
) -> None:
    service = recorded_.serve("r-labels", head="refunds@2", review={"table": "r_labels", "sample": 1})
    service.ask("r-labels", {"items": [{"id": f"x-{i}", "text": TEXT} for i in range(3)]})
    assert recorded_.recorder.drain(60)
    assert recorded_.count(table.REVIEW_OPEN, "r-labels") == 3
    Operations(served.rooms).label("r-labels", "ann", [("x-0", "card"), ("x-2", "money")])  # rooms of another process
    recorded_.recorder.look()
    assert recorded_.count(table.REVIEW_OPEN, "r-labels") == 1
    begun_anew = Recorder(recorded_.rooms, Watch(), recorded_.metrics)
    begun_anew.update({"r-labels": service.orchestrator.live["r-labels"].record})
    begun_anew.look()
    assert recorded_.count(table.REVIEW_OPEN, "r-labels") == 1, "before anything is written"
    begun_anew.update({})
    assert table.REVIEW_OPEN.name not in series_of(recorded_.metrics.snapshot())
    begun_anew.close()


def test_the_review_queue_takes_no_more_than_its_bound(recorded_: Recorded) -> None:
    review = {"table": "reviewed", "sample": 1, "most": 2}
    service = recorded_.serve("r-bound", head="refunds@2", review=review)
    service.ask("r-bound", {"items": [{"id": f"x-{i}", "text": TEXT} for i in range(5)]})
    assert [row["review"] for row in recorded_.kept("r-bound")] == [True, True, False, False, False]
    assert recorded_.count(table.REVIEW_OPEN, "r-bound") == 2
    assert recorded_.count(table.REVIEW_LEFT_OUT, "r-bound") == 3


def test_only_a_deployment_with_a_review_queue_tells_from_the_start_that_it_left_nothing_out(recorded_: Recorded) -> None:
    recorded_.serve("r-unreviewed", head="refunds@2", shadow=["refunds@1"])
    assert table.REVIEW_LEFT_OUT.name not in series_of(recorded_.metrics.snapshot())
    recorded_.serve("r-reviewed", head="refunds@2", review={"table": "r_reviewed", "sample": 1, "most": 2})
    assert series_of(recorded_.metrics.snapshot())[table.REVIEW_LEFT_OUT.name] == {("r-reviewed",): 0}


def test_what_is_not_kept_is_lost_and_not_left_out(recorded_: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: Predictions, rows: Any) -> int:
        raise OSError(CANARY)

    monkeypatch.setattr(Predictions, "append", full_disk)
    service = recorded_.serve("r-lost", head="refunds@2", review={"table": "r_lost", "sample": 1, "most": 2})
    service.ask("r-lost", {"items": [{"id": f"x-{i}", "text": TEXT} for i in range(5)]})
    assert recorded_.recorder.drain(60)
    assert recorded_.count(table.RECORDING_DROPPED, "r-lost", "OSError") == 5
    assert recorded_.count(table.REVIEW_LEFT_OUT, "r-lost") == 0


def test_a_shadow_sees_its_share_of_requests_and_always_the_same_ones(recorded_: Recorded, served: Served) -> None:
    service = recorded_.serve("r-share", head="refunds@2", shadow=[{"head": "refunds@1", "sample": 0.3}])
    vector = served.rooms.encoders.get("tiny").encode([TEXT])[0].tolist()
    for i in range(200):
        sent = {"vector": vector, "fingerprint": served.fingerprint}
        service.ask("r-share", sent, headers={"x-request-id": f"q-{i}"})
    shown = [row["request_id"] for row in recorded_.kept("r-share") if row["role"] == "shadow"]
    assert 35 <= len(shown) <= 87, "60 expected, with a standard deviation of 6.5"
    for i in range(200):
        sent = {"id": f"again-{i}", "vector": vector, "fingerprint": served.fingerprint}
        service.ask("r-share", sent, headers={"x-request-id": f"q-{i}"})
    again = [row for row in recorded_.kept("r-share") if row["role"] == "shadow" and row["request"].startswith("again")]
    assert sorted(row["request_id"] for row in again) == sorted(shown)


def test_a_shadow_with_an_encoder_of_its_own_reads_sealed_content(house: Served, caplog: pytest.LogCaptureFixture) -> None:
    rooms = house.rooms
    clip = rooms.encoders.get("clip")
    by_clip = _train_on_clip(rooms)
    recorded = Recorded(rooms)
    service = recorded.serve("r-clip", head="refunds@2", shadow=[by_clip])
    service.ask("r-clip", {"id": "x", "text": f"{TEXT} {CANARY}"})
    assert [row["head"] for row in recorded.kept("r-clip")] == [by_clip, "refunds@2"]
    [seen] = recorded.seen
    assert seen.content is not None
    assert CANARY not in str(seen)
    assert CANARY.encode() not in seen.content
    assert seen.n_bytes == seen.vectors.nbytes + len(seen.content), "what queues are bounded by"
    # a ready vector has no content: this shadow is not asked, and that is counted
    vector = rooms.encoders.get("tiny").encode([TEXT])[0].tolist()
    service.ask("r-clip", {"id": "y", "vector": vector, "fingerprint": house.fingerprint})
    assert [row["id"] for row in recorded.kept("r-clip") if row["request"] == "y"] == ["y:refunds@2"]
    assert recorded.count(table.SHADOW_DROPPED, "r-clip", "no content") == 1
    # content that was changed on its way
    broken = bytes([seen.content[0] ^ 1]) + seen.content[1:]
    with caplog.at_level(logging.WARNING):
        recorded.recorder.take([_with_content(seen, broken)])
        recorded.kept("r-clip")
    assert recorded.count(table.SHADOW_DROPPED, "r-clip", "SealBroken") == 1
    assert "sealed content does not open with this store's key" in caplog.text
    assert CANARY not in caplog.text
    assert clip.fingerprint != house.fingerprint
    recorded.recorder.close()


class CountingRooms(Rooms):
    """Rooms that remember which encoders were loaded."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.loaded: list[str] = []

    def load_encoder(self, fingerprint: str, threads: int | None) -> LoadedEncoder:
        self.loaded.append(fingerprint)
        return super().load_encoder(fingerprint, threads)


def test_shadows_of_one_candidate_encoder_share_it_whatever_deployment_they_are_of(house: Served) -> None:
    rooms = CountingRooms(house.root)
    heads = [_train_on_clip(rooms) for _ in range(3)]
    recorded = Recorded(rooms)
    first = recorded.serve("r-two", head="refunds@2", shadow=heads[:2])
    first.ask("r-two", {"items": [{"id": f"x-{i}", "text": f"{TEXT} {i}"} for i in range(3)]})
    assert [row["head"] for row in recorded.kept("r-two") if row["request"] == "x-0"] == [*heads[:2], "refunds@2"]
    both = recorded.serve("r-third", head="refunds@2", shadow=heads[2:])
    recorded.recorder.update({name: live.record for each in (first, both) for name, live in each.orchestrator.live.items()})
    both.ask("r-third", {"id": "y", "text": TEXT})
    assert [row["head"] for row in recorded.kept("r-third")] == [heads[2], "refunds@2"]
    clip = rooms.encoders.get("clip").fingerprint
    assert rooms.loaded.count(clip) == 1
    recorded.recorder.close()


def _with_content(seen: Seen, content: bytes) -> Seen:
    from dataclasses import replace

    return replace(seen, content=content)


def _train_on_clip(rooms: Rooms) -> str:
    """The new head."""
    import numpy as np

    from raystore.train.fit import train_head
    from raystore.train.source import ArraySource, Examples
    from tests.serve.conftest import CARD, MONEY

    clip = rooms.encoders.get("clip")
    vectors = np.asarray(clip.encode([*CARD, *MONEY]))
    examples = Examples(vectors, np.repeat(np.arange(2), 5).astype(np.int64), np.ones(10, np.float32))
    train_head(
        rooms.layout, name="by-clip", kind="linear", classes=["card", "money"],
        source=ArraySource({"train": examples, "val": examples, "test": examples}),
        fingerprint=clip.fingerprint, encoder_label=clip.label, snapshot={"name": "by-clip", "number": 1, "hash": "ef" * 32},
    )  # fmt: skip
    return rooms.heads.latest("by-clip").label


def test_a_shadow_is_asked_many_requests_at_once_and_timed_on_one(recorded_: Recorded) -> None:
    together = Recorded(recorded_.rooms)
    service = recorded_.serve("r-many", head="refunds@2", shadow=["refunds@1"])
    recorded_.recorder.update({})  # told below, as one message
    texts = [f"{TEXT} {i}" for i in range(7)]
    for i, text in enumerate(texts):
        items = [{"id": f"x-{i}-{n}", "text": f"{text} {n}"} for n in range(1 + i % 2)]
        service.ask("r-many", {"items": items})
    together.update(service)
    together.recorder.take(recorded_.seen)
    rows = [row for row in together.kept("r-many") if row["role"] == "shadow"]
    assert [row["request"] for row in rows] == sorted(f"x-{i}-{n}" for i in range(7) for n in range(1 + i % 2))
    said = [f"{texts[int(row['request'][2])]} {row['request'][4]}" for row in rows]
    alone = [
        recorded_.rooms.head("refunds@1").predict(recorded_.rooms.encoders.get("tiny").encode([text])) for text in said
    ]
    assert [row["label"] for row in rows] == [each.labels[0] for each in alone]
    assert [row["confidence"] for row in rows] == pytest.approx([float(each.confidence[0]) for each in alone], abs=1e-5)
    assert [row["latency_ms"] is not None for row in rows] == [row["request"] == "x-0-0" for row in rows]
    assert together.count(table.SHADOW_PREDICTIONS, "r-many", "refunds@1") == len(rows) == 10
    together.recorder.close()


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_shadow_rule_that_sleeps_is_late_alone(recorded_: Recorded) -> None:
    rules = {"after": [{"name": "slow", "call": "tests.serve.test_recorder:sleeps", "shadow": True}]}
    service = recorded_.serve("r-slow", head="refunds@2", rules=rules, shadow=["refunds@1"])
    for i in range(5):
        assert service.ask("r-slow", {"id": f"x-{i}", "text": TEXT})["predictions"][0]["rules"] == []
    until = time.monotonic() + 60
    while len(_rows(recorded_.rooms, "r-slow")) < 10 and time.monotonic() < until:  # live and shadow, written meanwhile
        time.sleep(0.01)
    assert len(_rows(recorded_.rooms, "r-slow")) == 10
    assert SEEN == []
    assert not recorded_.recorder.drain(0)
    GO.set()
    assert recorded_.recorder.drain(60)
    assert SEEN == [None] * 5, "what a rule in shadow sees has no text"


class Bad:
    """A real head that does what no shadow should before it predicts."""

    def __init__(self, head: Head, does: Callable[[], object]) -> None:
        self._head, self._does = head, does

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)

    def predict(self, vectors: Vectors) -> object:
        self._does()
        return self._head.predict(vectors)


def raises() -> None:
    raise ValueError(CANARY)


def fills() -> None:
    raise MemoryError  # as allocations fail beyond recording.memory_mb


@pytest.mark.parametrize(
    ("does", "why"), [(partial(GO.wait, 120), "waits"), (raises, "ValueError"), (fills, "MemoryError")]
)
def test_a_shadow_head_that_sleeps_raises_or_finds_no_memory_is_missed_alone(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch, does: Callable[[], object], why: str
) -> None:
    heads = Rooms.head
    bad = lambda rooms, name: Bad(heads(rooms, name), does) if name == "refunds@1" else heads(rooms, name)  # noqa: E731
    monkeypatch.setattr(Rooms, "head", bad)
    GO.clear()
    recorded = Recorded(rooms)
    name = f"r-bad-{why.lower()}"
    service = recorded.serve(name, head="refunds@2", shadow=["refunds@1"])
    for i in range(5):
        assert service.ask(name, {"id": f"x-{i}", "text": TEXT})["predictions"][0]["label"] == "card"
    soon(lambda: len(_rows(rooms, name)) == 5)  # the live head's, however the shadow fares
    assert {row["role"] for row in _rows(rooms, name)} == {"live"}
    if why == "waits":
        assert not recorded.recorder.drain(0)
        GO.set()
        assert [row["role"] for row in recorded.kept(name)].count("shadow") == 5
    else:
        assert recorded.recorder.drain(60)
        assert recorded.count(table.SHADOW_DROPPED, name, why) == 5
    recorded.recorder.close()


def test_only_what_rules_in_shadow_name_is_told_to_where_they_are_looked_at(recorded_: Recorded) -> None:
    item = {
        "id": "x", "text": f"{TEXT} {CANARY}", "subject": "c-0",
        "columns": {"product": "visa", "label": "mine", "note": f"{CANARY} note", "amount": 7},
    }  # fmt: skip
    named = {
        "before": [
            {"name": "block", "when": "product = 'visa' AND \"label\" = 'mine'", "refuse": "no", "shadow": True},
            {"name": "calm", "quota": {"requests": 1, "per": "subject"}, "shadow": True},
            {"name": "live", "when": "amount > 99", "refuse": "no"},
        ],
        "after": [{"name": "unsure", "when": "margin < 2 AND label IS NOT NULL", "abstain": True, "shadow": True}],
    }
    service = recorded_.serve("r-told", head="refunds@2", rules=named)
    for _ in range(2):
        service.ask("r-told", item)
    assert recorded_.recorder.drain(60)
    [facts] = recorded_.seen[0].facts
    assert sorted(facts) == ["columns", "margin", "subject"]
    assert (facts["columns"], facts["subject"]) == ({"product": "visa", "label": "mine"}, "c-0")
    fired = {rule: recorded_.count(table.RULES_FIRED, "r-told", rule) for rule in ("block", "calm", "unsure")}
    assert fired == {"block": 2, "calm": 1, "unsure": 2}
    GO.set()
    hook = {"after": [{"name": "slow", "call": "tests.serve.test_recorder:sleeps", "shadow": True}]}
    recorded_.serve("r-hook", head="refunds@2", rules=hook).ask("r-hook", item)
    [facts] = recorded_.seen[-1].facts
    assert (facts["text"], facts["columns"]) == (None, item["columns"]), "nobody knows what a hook looks at"
    assert recorded_.seen[-1].n_bytes > recorded_.seen[0].n_bytes + len(f"{CANARY} note"), "queues are bounded by that"


def _rows(rooms: Rooms, name: str) -> list[Any]:
    try:
        rows: list[Any] = Predictions.open(rooms.catalog, name).read().to_pylist()
    except CollectionNotFound:
        return []
    return rows


def test_rules_in_shadow_are_counted_and_one_that_raises_harms_nothing(
    recorded_: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    rules = {
        "before": [{"name": "would-block", "when": "subject = 'c-0'", "refuse": "no", "shadow": True}],
        "after": [
            {"name": "broken", "call": "tests.serve.test_recorder:fails", "shadow": True},
            {"name": "would-abstain", "least": {"*": 1.0}, "shadow": True},
        ],
    }
    service = recorded_.serve("r-rules", head="refunds@2", rules=rules)
    with caplog.at_level(logging.WARNING):
        for i in range(4):
            body = service.ask("r-rules", {"id": f"x-{i}", "text": TEXT, "subject": f"c-{i % 2}"})
            assert (body["predictions"][0]["abstained"], body["predictions"][0]["rules"]) == (False, [])
        assert recorded_.recorder.drain(60)
    assert recorded_.count(table.RULES_FIRED, "r-rules", "would-block") == 2
    assert recorded_.count(table.RULES_FIRED, "r-rules", "would-abstain") == 4
    assert recorded_.count(table.RULES_FIRED, "r-rules", "broken") == 0
    assert recorded_.count(table.HOOKS_FAILED, "r-rules", "broken") in (3, 4)  # after three it is not asked for a second
    assert "the hook of rule 'broken' of deployment r-rules raised ValueError at its line " in caplog.text
    assert CANARY not in caplog.text


def test_a_shadow_whose_file_is_damaged_is_counted_and_the_others_go_on(recorded_: Recorded) -> None:
    rooms = recorded_.rooms
    good = rooms.head("refunds@1")
    copy_head(rooms, "hurt")
    service = recorded_.serve("r-hurt", head="refunds@2", shadow=["hurt@1", "refunds@1"])
    [arrays] = rooms.layout.heads("hurt").rglob("head.safetensors")
    arrays.chmod(0o644)
    arrays.write_bytes(b"\x00" * arrays.stat().st_size)
    recorded_.recorder._rooms._heads.pop("hurt@1", None)
    for i in range(3):
        service.ask("r-hurt", {"id": f"x-{i}", "text": TEXT})
    assert {row["head"] for row in recorded_.kept("r-hurt")} == {good.label, "refunds@2"}
    assert recorded_.count(table.SHADOW_DROPPED, "r-hurt", "HeadCorrupt") == 3


# --- changes ---------------------------------------------------------------------------------------------------------


def test_shadows_come_and_go_while_requests_do(recorded_: Recorded) -> None:
    first = recorded_.serve("r-change", head="refunds@2", keep=["product"])
    first.ask("r-change", {"id": "a", "text": TEXT})
    second = recorded_.serve("r-change", head="refunds@2", keep=["product"], shadow=["refunds@1"])
    second.ask("r-change", {"id": "b", "text": TEXT})
    assert recorded_.recorder.drain(60)
    third = recorded_.serve("r-change", head="refunds@1", keep=["product"])
    third.ask("r-change", {"id": "c", "text": TEXT})
    assert [(row["id"], row["number"]) for row in recorded_.kept("r-change")] == [
        ("a:refunds@2", 1), ("b:refunds@1", 2), ("b:refunds@2", 2), ("c:refunds@1", 3),
    ]  # fmt: skip
    recorded_.recorder.update({})
    recorded_.recorder.take(recorded_.seen[-1:])
    assert recorded_.recorder.drain(60), "what nobody records any more is passed over"


def test_a_deployment_that_keeps_nothing_is_told_of_nowhere(recorded_: Recorded) -> None:
    service = recorded_.serve("r-nothing", head="refunds@2")
    service.ask("r-nothing", {"text": TEXT})
    assert recorded_.seen == []
    assert _rows(recorded_.rooms, "r-nothing") == []


def test_what_is_told_of_a_deployment_that_is_not_recorded_is_counted(recorded_: Recorded) -> None:
    service = recorded_.serve("r-leaving", head="refunds@1", keep=["product"])
    service.ask("r-leaving", {"id": "u-0", "text": TEXT})
    assert [row["request"] for row in recorded_.kept("r-leaving")] == ["u-0"]
    recorded_.recorder.update({})
    service.ask("r-leaving", {"items": [{"id": f"u-{i}", "text": TEXT} for i in (1, 2)]})
    service.ask("r-leaving", {"id": "u-3", "text": TEXT})
    assert recorded_.count(table.RECORDING_DROPPED, "r-leaving", "unknown deployment") == 3
    recorded_.update(service)
    service.ask("r-leaving", {"id": "u-4", "text": TEXT})
    assert [row["request"] for row in recorded_.kept("r-leaving")] == ["u-0", "u-4"]
    assert recorded_.count(table.RECORDING_DROPPED, "r-leaving", "unknown deployment") == 3


def test_the_recording_process_is_there_where_something_is_told_or_metrics_are_added_up(rooms: Rooms) -> None:
    records = {"r-there": recorded(rooms, "r-there", "refunds@2")}
    files: list[dict[str, Any]] = [{}, {"watch": {"drift": "all"}}, {"replicas": 2}]
    assert [records_anything(AppSpec.model_validate(file), records) for file in files] == [False, True, True]
    records = {"r-there": recorded(rooms, "r-there", "refunds@2", keep=["product"])}
    assert records_anything(AppSpec(), records)


# --- drift -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("of", "keep"), [("kept", ["product"]), ("all", [])])
def test_drift_is_measured_against_the_rows_that_the_head_was_not_fitted_on(whole: Whole, of: str, keep: list[str]) -> None:
    name = f"r-drift-{of}"
    recorded = Recorded(whole.rooms, Watch.model_validate({"drift": of, "drift_every_s": 1, "drift_window": 200}))
    service = recorded.serve(name, head="topics@1", keep=keep)
    strange = whole.vectors[:100].copy()
    strange[:, 0] += 3
    until = time.monotonic() + 120
    found: Sequence[Any] = ()
    while not found and time.monotonic() < until:
        items = [{"vector": vector.tolist()} for vector in strange]
        service.ask(name, {"items": items, "fingerprint": whole.fingerprint})
        time.sleep(0.2)
        series = series_of(recorded.metrics.snapshot())
        found = [labels for labels in series.get(table.DRIFT_PSI.name, {}) if labels[0] == name]
    assert {of for _, of in found} == {"labels", "scores", "embedding"}
    assert recorded.count(table.DRIFT_PSI, name, "embedding") > 0.25
    assert recorded.count(table.DRIFT_AUC, name) > 0.9
    assert recorded.count(table.DRIFT_MEASURED, name) > 0
    recorded.serve(name, head="price@1", keep=keep)
    assert table.DRIFT_PSI.name not in series_of(recorded.metrics.snapshot()), "another head has another reference"
    assert recorded.recorder.drain(60)
    assert bool(_rows(recorded.rooms, name)) == bool(keep), "to watch it, nothing is kept"
    recorded.recorder.close()


# --- following -------------------------------------------------------------------------------------------------------


def test_a_newer_record_is_taken_up_and_one_that_cannot_be_is_tried_again(
    rooms: Rooms, caplog: pytest.LogCaptureFixture
) -> None:
    first = recorded(rooms, "r-follow", "refunds@1")
    told: list[DeploymentRecord] = []
    broken = threading.Event()
    newer = threading.Event()

    def changed(records: dict[str, DeploymentRecord]) -> dict[str, DeploymentRecord]:
        if records["r-follow"].number == 2 and not broken.is_set():
            broken.set()
            raise CollectionNotFound(name="gone", where="this store", existing=[])
        told.append(records["r-follow"])
        if records["r-follow"].number == 2:
            newer.set()
        return records

    follower = Follower(rooms.catalog, changed, look_s=0.01)
    with caplog.at_level(logging.ERROR):
        follower.follow({"r-follow": first})
        assert [record.head for record in told] == ["refunds@1"]
        recorded(rooms, "r-follow", "refunds@2")
        assert newer.wait(60)
    assert [record.head for record in told] == ["refunds@1", "refunds@2"]
    assert "the newest deployments are not taken up: no collection 'gone' in this store." in caplog.text
    follower.follow({"r-follow": first})
    assert told[-1].head == "refunds@2", "a configuration that is older than the store is not gone back to"
