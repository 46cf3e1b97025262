"""A deployment that is asked all the time while its collection goes to a fine-tuned encoder, back, there again, and the old one is
retired: no request fails."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import raystore
from raystore.serve.run.deploy import deploy
from raystore.serve.run.proxy import free_port
from raystore.serve.spec.app import AppSpec
from raystore.store import Store
from raystore.train.fit import train_head
from raystore.train.source import ArraySource, Examples
from tests.fine_tune.tickets import QUICK, write_tickets

pytestmark = [pytest.mark.ray, pytest.mark.slow]

WORDS = ("card", "money", "blue", "hello", "world", "text", "sentence", "limit")
TEXTS = [" ".join(three) for three in itertools.product(WORDS, WORDS, WORDS)]
OLD_ROWS = 60


class Traffic:
    """Logs, predicts and searches, each in a thread of its own, until it is stopped."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._done = threading.Event()
        self.failed: list[tuple[str, int, str]] = []
        self.logged: list[tuple[float, str]] = []  # when the request began, and the row's id
        self.predicted: list[dict[str, Any]] = []
        self.searched: list[dict[str, Any]] = []
        self._threads = [threading.Thread(target=work) for work in (self._log, self._predict, self._search)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(60)

    def until(self, reached: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            assert self.failed == []
            assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
            time.sleep(0.05)

    def _log(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            for number in itertools.count():
                if self._done.is_set():
                    return
                rows = [{"id": f"live-{number}-{i}", "text": TEXTS[(5 * number + i) % len(TEXTS)]} for i in range(5)]
                began = time.monotonic()
                if self._answer(client, "collections/tickets/log", {"rows": rows}) is not None:
                    self.logged += [(began, row["id"]) for row in rows]

    def _predict(self) -> None:
        self._ask("predict/topics", lambda n: {"text": TEXTS[n]}, self.predicted)

    def _search(self) -> None:
        self._ask("collections/tickets/search", lambda n: {"text": TEXTS[n], "k": 3}, self.searched)

    def _ask(self, path: str, body: Callable[[int], dict[str, Any]], into: list[dict[str, Any]]) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._done.is_set():
                if (answer := self._answer(client, path, body(len(into) % len(TEXTS)))) is not None:
                    into.append(answer)
                time.sleep(0.01)

    def _answer(self, client: httpx.Client, path: str, body: dict[str, Any]) -> dict[str, Any] | None:
        try:
            answer = client.post(f"/v1/{path}", json=body)
        except httpx.HTTPError as error:
            self.failed.append((path, 0, type(error).__name__))
            return None
        if answer.status_code != 200:
            self.failed.append((path, answer.status_code, answer.text[:300]))
            return None
        found: dict[str, Any] = answer.json()
        return found


def make_store(folder: Path, tiny_model: Path) -> Store:
    store = raystore.open(folder / "store")
    old = store.encoders.register("old", tiny_model)
    store.fine_tune(
        "new", base="old", data=write_tickets(folder / "labelled.parquet"), text="body", label="topic", id="ticket",
        subject="shop", force="a test", **QUICK,
    )  # fmt: skip
    tickets = store.create_collection("tickets", encoder="old")
    tickets.log([{"id": f"t-{i}", "text": text} for i, text in enumerate(TEXTS[:OLD_ROWS])])
    labels = np.array([WORDS.index(text.split()[0]) % 2 for text in TEXTS], np.int64)
    examples = Examples(np.asarray(old.encode(TEXTS)), labels, np.ones(len(TEXTS), np.float32))
    train_head(
        store.layout,
        name="topics",
        kind="linear",
        classes=["even", "odd"],
        source=ArraySource({"train": examples, "val": examples, "test": examples}),
        fingerprint=old.fingerprint,
        encoder_label=old.label,
        snapshot={"name": "topics", "number": 1, "hash": "ab" * 32},
    )
    return store


def test_a_collection_changes_its_encoder_under_traffic_and_no_request_fails(
    tmp_path: Path, tiny_model: Path, ray_session: object
) -> None:
    store = make_store(tmp_path, tiny_model)
    tickets = store.collection("tickets")
    old, new = store.encoder("old"), store.encoder("new")
    port = free_port()

    def spec(**head: str) -> AppSpec:
        return AppSpec.model_validate({"port": port, "deployments": {"topics": {"head": "topics@1", **head}}})

    running = deploy(store.root, spec(), threads=1)
    try:
        with Traffic(running.url) as traffic:
            traffic.until(lambda: bool(traffic.logged and traffic.predicted and traffic.searched), "the first answers")
            assert traffic.searched[0]["fingerprint"] == old.fingerprint
            tickets.migrate("new", "dual")
            both_from = time.monotonic()
            traffic.until(lambda: len(tickets) - tickets.table.count_lacking(new.fingerprint) >= 150, "150 rows with both")

            report = tickets.migrate("new", "bridge", cut_over=True)
            assert report.cut_over, report
            forward = store.encoder("new-from-old")
            seen = len(traffic.searched) + 5
            traffic.until(lambda: len(traffic.searched) >= seen, "searches after the cut-over")
            assert traffic.searched[-1]["fingerprint"] == forward.fingerprint

            assert report.through is not None
            deploy(store.root, spec(through=report.through), threads=1)
            traffic.until(lambda: traffic.predicted[-1]["bridged"] is not None, "the head asked through the bridge")
            assert traffic.predicted[-1]["bridged"]["encoder"] == store.encoder(report.through).label
            assert traffic.predicted[-1]["lineage"]["head"] == "topics@1"

            assert tickets.roll_back_encoder() == old
            seen = len(traffic.searched) + 5
            traffic.until(lambda: len(traffic.searched) >= seen, "searches after the way back")
            assert traffic.searched[-1]["fingerprint"] == old.fingerprint

            tickets.use_encoder(forward, reason="a test")
            tickets.retire_encoder("old", force="its head is asked through the bridge", grace_s=2.0)
            seen, logged = len(traffic.searched) + 5, len(traffic.logged) + 5
            traffic.until(
                lambda: len(traffic.searched) >= seen and len(traffic.logged) >= logged, "requests after it is gone"
            )
            assert traffic.searched[-1]["fingerprint"] == forward.fingerprint
    finally:
        running.stop()
    assert traffic.failed == []
    ids = [id_ for _, id_ in traffic.logged]
    assert tickets.table.has_ids(ids).all()
    assert len(tickets) == OLD_ROWS + len(ids)
    assert old.fingerprint not in store.collection("tickets").table.fingerprints
    since = [id_ for began, id_ in traffic.logged if began > both_from]
    assert len(tickets.table.vectors_of(since, new.fingerprint)) == len(since) >= 150
    assert len(tickets.table.vectors_of([f"t-{i}" for i in range(OLD_ROWS)], forward.fingerprint)) == OLD_ROWS
