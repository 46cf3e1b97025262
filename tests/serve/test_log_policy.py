"""What a deployment's predictions leave in its log's collection: when, how often, and what of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from raystore.data.collection import CollectionTable
from raystore.errors import InvalidRows, WriterBlocked
from raystore.serve.answer.keeping import Row, log_lane
from raystore.serve.answer.opened import OpenCollection
from raystore.serve.answer.served import ServedCollection
from raystore.serve.operate.promote import promote
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.records import deployment_records
from raystore.serve.watch import table
from tests.serve.conftest import Served, durable, recorded
from tests.serve.serving import CANARY, Serving
from tests.waiting import soon

TEXT = "the card never arrived"


@pytest.fixture(scope="module")
def serving(served: Served) -> Serving:
    return Serving(served.rooms)


@pytest.fixture
def kept(serving: Serving, served: Served, request: pytest.FixtureRequest) -> CollectionTable:
    """An empty collection with a column."""
    name = f"log_{request.node.name[:50]}".lower()
    return CollectionTable.create(serving.rooms.layout, name, {served.fingerprint: 32}, {"product": "string"})


def rows_of(kept: CollectionTable) -> list[dict[str, Any]]:
    """All that is durable by now, whether its journal was taken in already or not."""
    kept.rows.take_in()
    columns = ["id", "subject", "tenant", "time", "product"]
    return sorted(kept.rows.dataset().to_table(columns=columns).to_pylist(), key=lambda row: row["id"])


def test_a_required_row_is_durable_before_the_answer_with_the_columns_that_the_collection_has(
    serving: Serving, served: Served, kept: CollectionTable
) -> None:
    service = serving.serve({"l-all": {"head": "refunds@2", "log": kept.name}})
    item: dict[str, Any] = {
        "id": "a", "text": f"{TEXT} {CANARY}", "subject": "c-9", "tenant": "acme", "time": "2026-11-01T12:00:00Z",
        "columns": {"product": "visa", "colour": "not a column of the collection"},
    }  # fmt: skip
    body = service.ask("l-all", item)
    assert body["logged"] == ["a"]
    [row] = rows_of(kept)
    assert row["time"].isoformat() == "2026-11-01T12:00:00+00:00"
    assert {name: row[name] for name in ("id", "subject", "tenant", "product")} == {
        "id": "a", "subject": "c-9", "tenant": "acme", "product": "visa",
    }  # fmt: skip
    expected = served.rooms.encoders.get("tiny").encode([item["text"]])
    np.testing.assert_allclose(kept.vectors_of(["a"], served.fingerprint), expected, atol=1e-5)
    assert "log" in body["timings_ms"]
    assert service.count(table.LOGGED, kept.name) == 1
    files = [path for path in served.root.rglob("*") if path.is_file()]
    assert not [path for path in files if CANARY.encode() in path.read_bytes()], "no content in any file of the store"


def test_a_request_that_is_sent_again_adds_nothing_though_it_shares_its_batch_with_others(
    serving: Serving, kept: CollectionTable
) -> None:
    service = serving.serve({"l-again": {"head": "refunds@2", "log": kept.name}})
    headers = {"x-request-id": "req-7"}
    first = service.ask("l-again", {"text": TEXT}, headers=headers)
    assert first["logged"] == ["req-7"]
    assert service.ask("l-again", {"text": TEXT}, headers=headers)["logged"] == ["req-7"]
    # The same item among longer ones: its vector differs in the last bits, and it is the same item.
    long = [{"text": "money return the card is a limit and the world of blue sentences " * 4} for _ in range(5)]
    service.ask("l-again", {"items": [{"id": "req-7", "text": TEXT}, *long]})
    assert len(rows_of(kept)) == 6
    assert service.count(table.LOGGED, kept.name) == 6
    status, kind, message = service.refused("l-again", {"text": f"return the money {CANARY}"}, headers=headers)
    assert (status, kind) == (409, "IdConflict")
    assert CANARY not in message
    assert len(rows_of(kept)) == 6


def test_required_rows_are_in_the_collection_soon_after_the_answer(serving: Serving, kept: CollectionTable) -> None:
    service = serving.serve({"l-soon": {"head": "refunds@2", "log": kept.name}})
    for i in range(3):
        service.ask("l-soon", {"id": f"s-{i}", "text": TEXT})
    soon(lambda: kept.rows.dataset().count_rows() == 3)
    service.ask("l-soon", {"id": "s-3", "text": TEXT})
    service.orchestrator.drain(60)
    assert kept.rows.dataset().count_rows() == 4
    assert service.ask("l-soon", {"id": "s-4", "text": TEXT})["logged"] == ["s-4"], (
        "durable, though nobody takes it in here"
    )
    assert kept.rows.dataset().count_rows() == 4


def test_what_a_service_that_was_killed_left_in_the_journal_is_taken_in_by_the_next(
    serving: Serving, kept: CollectionTable
) -> None:
    service = serving.serve({"l-left": {"head": "refunds@2", "log": kept.name}})
    service.orchestrator.drain(60)  # it takes in nothing any more
    assert service.ask("l-left", {"id": "left", "text": TEXT})["logged"] == ["left"]
    assert kept.rows.dataset().count_rows() == 0
    serving.serve({"l-left": {"head": "refunds@2", "log": kept.name}})
    soon(lambda: kept.rows.dataset().count_rows() == 1)


def test_a_vector_is_logged_as_it_came(serving: Serving, served: Served, kept: CollectionTable) -> None:
    service = serving.serve({"l-vector": {"head": "refunds@2", "log": kept.name}})
    vector = served.rooms.encoders.get("tiny").encode([TEXT])[0]
    sent = {"id": "v", "vector": vector.tolist(), "fingerprint": served.fingerprint}
    for _ in range(2):
        assert service.ask("l-vector", sent)["logged"] == ["v"]
    assert [row["id"] for row in rows_of(kept)] == ["v"]
    np.testing.assert_allclose(kept.vectors_of(["v"], served.fingerprint)[0], vector, atol=1e-6)


def test_a_collection_of_several_encoders_gets_a_vector_of_each(house: Served) -> None:
    serving = Serving(house.rooms)
    service = serving.serve({"l-every": {"head": "refunds@2", "log": "everything"}})
    service.ask("l-every", {"id": "l-every-1", "text": TEXT})
    every = durable(house.rooms.layout, "everything")
    clip = house.rooms.encoders.get("clip")
    np.testing.assert_allclose(every.vectors_of(["l-every-1"], clip.fingerprint), clip.encode([TEXT]), atol=1e-5)
    tiny = house.rooms.encoders.get("tiny")
    np.testing.assert_allclose(every.vectors_of(["l-every-1"], tiny.fingerprint), tiny.encode([TEXT]), atol=1e-5)


def test_a_log_that_is_not_required_is_written_behind_the_answer_and_on_leaving(
    serving: Serving, kept: CollectionTable
) -> None:
    log = {"collection": kept.name, "required": False}
    service = serving.serve({"l-behind": {"head": "refunds@2", "log": log}})
    for i in range(20):
        assert service.ask("l-behind", {"id": f"b-{i:02}", "text": TEXT, "subject": f"c-{i}"})["logged"] is None
    service.orchestrator.drain(60)
    assert [row["subject"] for row in rows_of(kept)] == [f"c-{i}" for i in range(20)]
    assert service.count(table.LOGGED, kept.name) == 20
    service.ask("l-behind", {"id": "late", "text": TEXT})
    assert service.count(table.LOG_DROPPED, kept.name, "closed") == 1


def test_rows_of_requests_that_a_change_of_the_service_overtook_are_logged_by_what_answers_now(
    serving: Serving, kept: CollectionTable, served: Served
) -> None:
    other = CollectionTable.create(serving.rooms.layout, f"{kept.name[:50]}_2", {served.fingerprint: 32}, {})
    log = {"required": False}
    service = serving.serve(
        {
            "l-before": {"head": "refunds@2", "log": {**log, "collection": kept.name}},
            "l-late": {"head": "refunds@2", "log": {**log, "collection": other.name}},
        }
    )
    before = service.orchestrator
    after = serving.rooms.orchestrator(AppSpec(), metrics=service.metrics, threads=1)
    after.adopt(before)
    after.update(before.live)
    before.close()
    asked: list[str] = []

    def opened(name: str) -> ServedCollection:
        asked.append(name)
        return serving.rooms.opened(name)

    after.collections.opened = opened
    service.ask("l-before", {"id": "a", "text": TEXT})  # asked of the one before, whose lane is opened only now
    after.drain(60)
    assert [row["id"] for row in rows_of(kept)] == ["a"]
    assert asked == [kept.name]
    service.ask("l-before", {"id": "b", "text": TEXT})
    service.ask("l-late", {"id": "c", "text": TEXT})
    assert [service.count(table.LOG_DROPPED, name, "closed") for name in (kept.name, other.name)] == [1, 1]


def test_one_row_that_cannot_be_written_takes_no_other_with_it(serving: Serving, kept: CollectionTable) -> None:
    log = {"collection": kept.name, "required": False}
    service = serving.serve({"l-one": {"head": "refunds@2", "log": log}})
    items = [
        {"id": "good", "text": TEXT},
        {"id": "bad", "text": TEXT, "columns": {"product": 7}},
        {"id": "fine", "text": TEXT},
    ]
    service.ask("l-one", {"items": items})
    service.orchestrator.drain(60)
    assert [row["id"] for row in rows_of(kept)] == ["fine", "good"]
    assert service.count(table.LOG_DROPPED, kept.name, "InvalidRows") == 1


def row(id_: str, fingerprint: str = "f" * 64) -> Row:
    return Row({"id": id_}, fingerprint, None)


class Commits:
    """What a log lane commits: `refused` ids are refused, at `broken` ones it breaks, and the first so many calls find the writer
    blocked."""

    def __init__(self, *, refused: Sequence[str] = (), broken: Sequence[str] = (), blocked: int = 0) -> None:
        self.calls: list[list[str]] = []
        self.dropped: list[tuple[str, str, int]] = []
        self._refused, self._broken = set(refused), set(broken)
        self._blocked = blocked
        self.lane = log_lane("tickets", 1_000, self._commit, lambda *facts: self.dropped.append(facts), retry_s=0)

    def put(self, ids: Sequence[str]) -> None:
        """All of them as one batch."""
        self.lane.put(*map(row, ids))
        assert self.lane.drain(60)

    def _commit(self, rows: Sequence[Row]) -> None:
        ids = [each.row["id"] for each in rows]
        self.calls.append(ids)
        if len(self.calls) <= self._blocked:
            raise WriterBlocked(folder="tickets", waited_s=1.0, holder="another process")
        if self._broken & set(ids):
            raise ValueError(CANARY)
        wrong = [(i, id_, "is refused") for i, id_ in enumerate(ids) if id_ in self._refused]
        if wrong:
            raise InvalidRows(collection="tickets", n_rows=len(ids), problems=wrong)


def test_a_batch_whose_writer_was_blocked_is_tried_again_whole() -> None:
    ids = [f"b-{i}" for i in range(200)]
    commits = Commits(blocked=3)
    commits.put(ids)
    assert commits.calls == [ids] * 4
    assert commits.dropped == []
    never = Commits(blocked=99)
    never.put(ids)
    assert never.calls == [ids] * 4
    assert never.dropped == [("tickets", "WriterBlocked", 200)]


def test_refused_rows_are_found_by_halves_and_all_others_are_written() -> None:
    ids = [f"b-{i}" for i in range(256)]
    commits = Commits(refused=["b-7", "b-200"])
    commits.put(ids)
    assert commits.dropped == [("tickets", "InvalidRows", 1)] * 2
    written = [id_ for call in commits.calls if not {"b-7", "b-200"} & set(call) for id_ in call]
    assert written == [id_ for id_ in ids if id_ not in ("b-7", "b-200")]
    assert len(commits.calls) <= 33, "some sixteen looks a refused row, not one commit a row"


def test_rows_that_fail_for_a_reason_nobody_knows_are_counted_and_those_written_beside_them_are_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    commits = Commits(broken=["bad"])
    commits.lane.put(row("good"), row("bad", "e" * 64), row("fine"))
    assert commits.lane.drain(60)
    assert sorted(id_ for call in commits.calls for id_ in call) == ["bad", "fine", "good"]
    assert commits.dropped == [("tickets", "ValueError", 1)]
    assert "1 rows were not logged to collection 'tickets': ValueError" in caplog.text
    assert CANARY not in caplog.text


def test_a_row_is_weighed_with_what_it_holds() -> None:
    image = bytes(10**6)
    held = Row({"id": "a", "image": image, "note": "x" * 10**5}, "f" * 64, np.zeros((1, 384), np.float32))
    assert 1_101_536 <= held.n_bytes <= 1_102_000
    assert 1_536 <= Row({"id": "a", "vector": np.zeros(384, np.float32)}, "f" * 64, None).n_bytes <= 4_000


def test_a_request_that_could_not_be_logged_counts_in_no_quota(serving: Serving, kept: CollectionTable) -> None:
    rules = {"before": [{"name": "few", "quota": {"requests": 2, "window_s": 3600}}]}
    service = serving.serve({"l-quota": {"head": "refunds@2", "log": kept.name, "rules": rules}})
    service.ask("l-quota", {"id": "q-0", "text": TEXT})
    for _ in range(3):
        assert service.refused("l-quota", {"id": "q-0", "text": "return the money"})[:2] == (409, "IdConflict")
    service.ask("l-quota", {"id": "q-1", "text": TEXT})
    assert service.refused("l-quota", {"id": "q-2", "text": TEXT})[:2] == (429, "QuotaExceeded")
    assert service.count(table.PREDICTIONS, "l-quota", "refunds@2", "card") == 2, "what is not answered is not counted"


def test_what_quotas_counted_outlasts_a_promotion_and_not_a_change_of_the_rules(serving: Serving) -> None:
    rules = {"before": [{"name": "few", "quota": {"requests": 1, "window_s": 3600}}]}
    service = serving.serve({"l-outlasts": {"head": "refunds@1", "shadow": ["refunds@2"], "rules": rules}})
    service.ask("l-outlasts", {"text": TEXT})

    def take_up() -> None:
        record = {"l-outlasts": deployment_records(serving.rooms.catalog)["l-outlasts"]}
        service.orchestrator.update(serving.rooms.live(record, metrics=service.metrics))

    promote(serving.rooms, "refunds@2", deployment="l-outlasts")
    take_up()
    assert service.refused("l-outlasts", {"text": TEXT})[:2] == (429, "QuotaExceeded")
    rules["before"][0]["quota"] = {"requests": 2, "window_s": 3600}
    recorded(serving.rooms, "l-outlasts", "refunds@2", rules=rules)
    take_up()
    assert service.ask("l-outlasts", {"text": TEXT})["lineage"]["head"] == "refunds@2"


def test_what_the_queue_has_no_room_for_is_dropped_and_counted(
    serving: Serving, served: Served, kept: CollectionTable
) -> None:
    log = {"collection": kept.name, "required": False, "queue": 2}
    service = serving.serve({"l-full": {"head": "refunds@2", "log": log}})
    stuck = _Stuck(serving.rooms.opened(kept.name))
    service.orchestrator.collections.opened = lambda _: stuck
    service.ask("l-full", {"id": "f-0", "text": TEXT})
    assert stuck.begun.wait(60)
    service.ask("l-full", {"items": [{"id": f"f-{i}", "text": TEXT} for i in range(1, 6)]})
    assert service.count(table.LOG_DROPPED, kept.name, "full") == 3
    stuck.go.set()
    service.orchestrator.drain(60)
    assert [row["id"] for row in rows_of(kept)] == ["f-0", "f-1", "f-2"]


class _Stuck:
    """A collection whose log waits until it is let go; everything else is the real one's."""

    def __init__(self, inner: ServedCollection) -> None:
        self._inner = inner
        self.begun, self.go = threading.Event(), threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def log(self, *arguments: Any) -> Any:
        self.begun.set()
        assert self.go.wait(60)
        return self._inner.log(*arguments)


def test_a_sample_keeps_its_share_and_always_the_same_ids(serving: Serving, served: Served, kept: CollectionTable) -> None:
    service = serving.serve({"l-share": {"head": "refunds@2", "log": {"collection": kept.name, "sample": 0.25}}})
    vector = served.rooms.encoders.get("tiny").encode([TEXT])[0].tolist()
    items = [{"id": f"s-{i}", "vector": vector} for i in range(250)]
    body = service.ask("l-share", {"items": items, "fingerprint": served.fingerprint})
    # 62.5 expected, with a standard deviation of 6.8
    assert 35 <= len(body["logged"]) <= 90
    again = service.ask("l-share", {"items": items, "fingerprint": served.fingerprint})
    assert again["logged"] == body["logged"] == sorted((row["id"] for row in rows_of(kept)), key=lambda id_: int(id_[2:]))


def test_requests_of_many_threads_are_all_logged(serving: Serving, kept: CollectionTable) -> None:
    service = serving.serve({"l-many": {"head": "refunds@2", "log": kept.name}})
    with service.client, ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(service.ask, "l-many", {"id": f"m-{i}", "text": f"{TEXT} {i}"}) for i in range(40)]
        assert [f.result(120)["logged"] for f in asked] == [[f"m-{i}"] for i in range(40)]
    assert len(rows_of(kept)) == 40


def test_rows_whose_encoder_was_retired_meanwhile_are_encoded_with_those_that_are_left(
    serving: Serving, served: Served, kept: CollectionTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = serving.serve({"l-retired": {"head": "refunds@2", "log": kept.name}})
    mine, seen = served.fingerprint, list[Mapping[str, str]]()

    def loaded_as(_: OpenCollection) -> Mapping[str, str]:
        """Before each first write one that goes before the rows are written."""
        seen.append({"0" * 64: mine, mine: mine} if len(seen) % 2 == 0 else {mine: mine})
        return seen[-1]

    monkeypatch.setattr(OpenCollection, "loaded_as", property(loaded_as))
    answer = service.client.post(f"/v1/collections/{kept.name}/log", json={"rows": [{"id": "a", "text": TEXT}]})
    assert (answer.status_code, answer.json()["added"]) == (200, 1)
    assert service.ask("l-retired", {"id": "b", "text": TEXT})["logged"] == ["b"]
    assert len(seen) == 4
    assert [row["id"] for row in rows_of(kept)] == ["a", "b"]
