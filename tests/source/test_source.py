"""A source against a real service over real sockets: what it keeps there, what it keeps here, and what never leaves."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.responses import PlainTextResponse

from raystore.client import Client
from raystore.data.collection import CollectionTable
from raystore.errors import (
    InvalidArguments,
    InvalidRows,
    PassportMismatch,
    RaystoreError,
    ServiceBusy,
    ServiceRefused,
    ServiceUnreachable,
    SpoolFull,
    SpoolUnusable,
)
from raystore.serve.wire.common import MAX_ID_CHARS
from raystore.source import Packed, Source, pack
from tests.client.service import LOGGED, Service, failure, running, success
from tests.pictures import PICTURES, save_clip
from tests.serve.conftest import Served
from tests.source.conftest import Wire

CANARY = "CANARY-7f3a-uncanny card"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def nowhere() -> str:
    return f"http://127.0.0.1:{free_port()}"


def source_of(url: str | Client, packed: Packed, **more: Any) -> Source:
    return Source(url, packed.folder, **{"columns": ["product"], "threads": 1, **more})


def ids_in(collection: CollectionTable) -> list[str]:
    return sorted(collection.rows.known(all_ids(collection)))


def all_ids(collection: CollectionTable) -> list[str]:
    return [str(i) for i in collection.rows.dataset().to_table(columns=["id"]).column("id").to_pylist()]


def test_logged_rows_are_durable_in_the_collection(
    wire: Wire, packed: Packed, collection: CollectionTable, served: Served
) -> None:
    with source_of(wire.url, packed) as source:
        logged = source.log(
            collection.name,
            [
                {"id": "a", "text": "the card never arrived", "subject": "c-9", "product": "card"},
                {"text": "return the money"},
                {"vector": source.encode(["hello world"])[0]},
            ],
        )
        assert (logged.ids[0], len(set(logged.ids)), logged.sent, logged.spooled) == ("a", 3, 3, 0)
        expected = source.encode(["the card never arrived"])[0]
    np.testing.assert_array_equal(np.asarray(collection.vectors_of(["a"], served.fingerprint))[0], np.asarray(expected))
    assert sorted(all_ids(collection)) == sorted(logged.ids)


def test_a_row_logged_again_changes_nothing_whatever_it_is_batched_with(
    wire: Wire, packed: Packed, collection: CollectionTable
) -> None:
    """Its vector is made again: it has to come out the same bit for bit, or the same id would be another row."""
    rows = [{"id": f"r-{i}", "text": f"card {'never ' * (i % 5)}{i}", "product": "card"} for i in range(12)]
    with source_of(wire.url, packed) as source:
        source.log(collection.name, rows)
        for start in (0, 3, 7):
            assert source.log(collection.name, rows[start : start + 5]).sent == 5
    with source_of(wire.url, packed) as another:
        assert another.log(collection.name, rows[::-1]).sent == 12
    assert len(all_ids(collection)) == 12


def test_a_prediction_is_made_of_the_vector(wire: Wire, packed: Packed, served: Served) -> None:
    with source_of(wire.url, packed) as source:
        answer = source.predict("triage", "return the money", subject="c-9", columns={"product": "card"}, top=2)
        assert [(p.label, len(p.probabilities)) for p in answer.predictions] == [("money", 2)]  # type: ignore[union-attr]
        assert answer.fingerprint == served.fingerprint
        many = source.predict(
            "triage", items=["the card never arrived", {"text": "red and blue", "id": "mine"}], request_id="q"
        )
        assert [(p.id, p.label) for p in many.predictions] == [("q-0", "card"), ("mine", "colour")]  # type: ignore[union-attr]


def test_the_longest_id_that_a_source_lets_out_is_one_that_the_service_takes(
    wire: Wire, packed: Packed, collection: CollectionTable
) -> None:
    longest = "ü" * MAX_ID_CHARS
    with source_of(wire.url, packed) as source:
        assert source.log(collection.name, [{"id": longest, "text": "the card"}]).sent == 1
        answer = source.predict("triage", items=[{"id": longest, "text": "the card"}])
        assert [p.id for p in answer.predictions] == [longest]
        with pytest.raises(InvalidRows):
            source.predict("triage", items=[{"id": longest + "ü", "text": "the card"}])
    assert all_ids(collection) == [longest]


def pieces(text: str) -> Iterator[bytes]:
    """What of a text would betray it: itself, its longer words, and either in the usual disguises."""
    for piece in (text, *re.findall(r"\w{6,}", text)):
        raw = piece.encode()
        yield from (raw, raw.upper(), raw.lower(), piece.encode("utf-16-le"), raw.hex().encode(), raw[::-1])
        for shift in range(3):  # its base64 at any place of a longer text, without what depends on its neighbours
            packed = base64.b64encode(b"x" * shift + raw)[4:-4]
            if len(packed) >= 6:
                yield packed


def test_no_piece_of_the_content_crosses_a_socket_or_reaches_the_disk(
    wire: Wire, packed: Packed, collection: CollectionTable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    told = []
    spool = tmp_path / "spool"
    with source_of(wire.url, packed, spool=spool) as source:
        source.log(collection.name, [{"id": "n-1", "text": CANARY, "product": "kept-column"}])
        source.predict("triage", CANARY)
        source.predict("triage", items=[CANARY, {"text": CANARY, "subject": "c-1"}])
        wire.cut = True
        source.log(collection.name, [{"id": "n-2", "text": CANARY, "product": "kept-column"}])
        for call in (
            lambda: source.predict("triage", CANARY),
            lambda: source.predict("nobody", CANARY),
            lambda: source.log(collection.name, [{"txet": CANARY}]),
            lambda: source.log(collection.name, [{"text": CANARY, "id": 7}]),
            lambda: source.log(collection.name, [{"text": CANARY, CANARY: 1}]),
            lambda: source.log(collection.name, [{"text": CANARY, "time": {CANARY}}]),
        ):
            with pytest.raises(RaystoreError) as caught:
                call()
            told.append(f"{caught.value!r}{caught.value.facts}{caught.value.__cause__}{caught.value.__context__}")
        kept = b"".join(path.read_bytes() for path in sorted(spool.iterdir()))
        assert b"n-2" in kept
        wire.cut = False
        assert source.flush(20)
    kept += b"".join(path.read_bytes() for path in sorted(spool.iterdir()))
    assert sorted(all_ids(collection)) == ["n-1", "n-2"]
    assert b"kept-column" in wire.bytes  # what may leave does
    assert b'"vector"' in wire.bytes
    for piece in pieces(CANARY):
        assert piece not in wire.bytes
        assert piece not in kept
        assert piece not in "".join(told).encode()
        assert piece not in caplog.text.encode()


def test_an_image_is_embedded_here_too(wire: Wire, served: Served, tiny_model: Path, tmp_path: Path) -> None:
    rooms = served.rooms
    clip = rooms.encoders.register("clip", save_clip(tmp_path / "clip", tiny_model))
    album = CollectionTable.create(rooms.layout, f"album_{tmp_path.name[:20]}", {clip.fingerprint: clip.dim})
    packed = pack(rooms.catalog, "clip", tmp_path / "packed")
    with source_of(wire.url, packed, columns=()) as source:
        source.log(album.name, [{"id": "p", "image": PICTURES[0]}, {"id": "t", "text": "a red card"}])
    assert sorted(all_ids(album)) == ["p", "t"]
    for start in range(0, len(PICTURES[0]) - 12, 12):
        part = PICTURES[0][start : start + 12]
        assert part not in wire.bytes
        assert base64.b64encode(part) not in wire.bytes
    with source_of(wire.url, packed) as source, pytest.raises(InvalidRows) as caught:
        source.log(album.name, [{"id": "p", "image": PICTURES[0]}, {"id": "q", "image": b"\x89PNG nothing"}])
    assert caught.value.problems[0][:2] == (1, "q")


def test_without_a_spool_an_unreachable_service_is_an_error(nowhere: str, packed: Packed) -> None:
    with source_of(nowhere, packed) as source:
        with pytest.raises(ServiceUnreachable):
            source.log("tickets", [{"text": "a card"}])
        assert (source.flush(), source.restore_refused(), source.state.pending_rows) == (True, 0, 0)


def test_what_was_logged_while_the_service_was_away_arrives_in_order(
    wire: Wire, packed: Packed, collection: CollectionTable, tmp_path: Path
) -> None:
    wire.cut = True
    before = datetime.now(UTC)
    with source_of(wire.url, packed, spool=tmp_path / "s") as source:
        for i in range(5):
            logged = source.log(collection.name, [{"id": f"r-{i}", "text": f"card {i}", "product": "card"}])
            assert (logged.sent, logged.spooled) == (0, 1)
        after = datetime.now(UTC)
        assert not source.flush(0.3)
        deadline = time.monotonic() + 30
        while (state := source.state).last_error is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (state.pending_rows, state.sent_rows, state.refused_rows) == (5, 0, 0)
        assert state.last_error is not None
        assert state.last_error.startswith(f"no answer from {wire.url} to request ")
        assert collection.rows.known(["r-0"]) == {}
        wire.cut = False
        assert source.flush(20)
        state = source.state
        assert (state.pending_rows, state.sent_rows, state.spool_bytes, state.last_error) == (0, 5, 0, None)
        assert source.log(collection.name, [{"id": "r-5", "text": "card 5"}]).sent == 1
    table = collection.rows.dataset().to_table(columns=["id", "time"])
    assert sorted(table.column("id").to_pylist()) == [f"r-{i}" for i in range(6)]
    times = dict(zip(table.column("id").to_pylist(), table.column("time").to_pylist(), strict=True))
    assert all(before <= times[f"r-{i}"] <= after for i in range(5))  # when it happened, not when it arrived


def test_the_next_source_sends_what_the_last_one_left(
    wire: Wire, packed: Packed, collection: CollectionTable, tmp_path: Path
) -> None:
    wire.cut = True
    with source_of(wire.url, packed, spool=tmp_path / "s") as source:
        source.log(collection.name, [{"id": "left", "text": "a card"}])
    wire.cut = False
    with source_of(wire.url, packed, spool=tmp_path / "s") as source:
        assert source.flush(20)
    assert all_ids(collection) == ["left"]


def test_an_answer_that_was_lost_is_no_second_row(
    wire: Wire, packed: Packed, collection: CollectionTable, tmp_path: Path
) -> None:
    """The service committed, and the connection broke before it could say so."""
    with source_of(wire.url, packed, spool=tmp_path / "s") as source:
        heard = wire.received
        wire.received = _CutsAtAnswer(wire)  # type: ignore[assignment]
        logged = source.log(collection.name, [{"id": "once", "text": "a card", "product": "card"}])
        assert (logged.sent, logged.spooled) == (0, 1)
        assert list(collection.rows.known(["once"])) == ["once"]
        wire.received, wire.cut = heard, False
        assert source.flush(20)
        assert source.state.refused_rows == 0
    assert all_ids(collection) == ["once"]


class _CutsAtAnswer(list[bytes]):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def append(self, data: bytes) -> None:
        self._wire.cut = True
        raise OSError("cut")


@pytest.fixture
def service() -> Iterator[Service]:
    found = Service()
    with running(found) as url:
        found.url = url
        yield found


@pytest.mark.parametrize(
    "answer",
    [
        failure(503, "NotReady"),
        failure(429, "RateExceeded"),
        failure(500, "X"),
        failure(507, "DiskFull"),
        failure(401, "KeyRequired"),
        failure(403, "NotAllowed"),
        PlainTextResponse("Not Found", 404),
    ],
    ids=["503", "429", "500", "507", "a key that has ended", "a key without the verb", "a balancer's 404"],
)
def test_a_service_that_cannot_take_rows_now_is_waited_for(
    answer: Any, service: Service, packed: Packed, tmp_path: Path
) -> None:
    service.answers = [answer]
    with source_of(service.url, packed, spool=tmp_path / "s", timeout_s=1) as source:
        assert source.log("tickets", [{"text": "a card"}]).spooled == 1
        assert not source.flush(0.2)
        service.answers = [success(LOGGED)]
        assert source.flush(20)


@pytest.mark.parametrize("status", [404, 421])
def test_what_is_wrong_with_a_name_or_the_address_is_told_at_once_and_loses_no_waiting_row(
    status: int, service: Service, packed: Packed, tmp_path: Path
) -> None:
    service.answers = [failure(503, "NotReady")]
    with source_of(service.url, packed, spool=tmp_path / "s", timeout_s=1) as source:
        source.log("tickets", [{"text": "a card"}])
        service.answers = [failure(status, "Wrong")]
        assert not source.flush(1)
        assert (source.state.pending_rows, source.state.refused_rows) == (1, 0)
        assert source.state.last_error == f"the service answered {status} Wrong to request r-1: it is Wrong."
        service.answers = [success(LOGGED)]
        assert source.flush(20)
        service.answers = [failure(status, "Wrong")]
        with pytest.raises(RaystoreError) as caught:  # nothing waits: the caller hears it
            source.log("tickets", [{"text": "a card"}])
        assert caught.value.facts["status_code"] == status


def test_a_row_the_service_will_not_take_is_set_aside_and_stops_nothing(
    wire: Wire, packed: Packed, collection: CollectionTable, tmp_path: Path
) -> None:
    with source_of(wire.url, packed, spool=tmp_path / "s") as source:
        source.log(collection.name, [{"id": "r-3", "text": "another card"}])
        with pytest.raises(ServiceRefused) as caught:  # while the service is there the caller is told
            source.log(collection.name, [{"id": "r-3", "text": "something else"}])
        assert (caught.value.type, caught.value.details["ids"]) == ("IdConflict", ["r-3"])
        wire.cut = True
        for i in range(7):
            source.log(collection.name, [{"id": f"r-{i}", "text": f"card {i}"}])
        wire.cut = False
        assert source.flush(30)
        state = source.state
        assert (state.pending_rows, state.refused_rows, state.sent_rows) == (0, 1, 6)
        assert source.restore_refused() == 1
        assert source.flush(20)
        assert source.state.refused_rows == 1
    assert sorted(all_ids(collection)) == [f"r-{i}" for i in range(7)]


def test_a_full_spool_refuses_says_so_and_counts(nowhere: str, packed: Packed, tmp_path: Path) -> None:
    with source_of(nowhere, packed, spool=tmp_path / "s", max_spool_bytes=2**16) as source:
        rows = [{"id": f"r-{i}", "text": "a card"} for i in range(40)]
        kept = 0
        while source.state.spool_bytes < 2**16 * 0.8:
            kept += source.log("tickets", rows).spooled
        with pytest.raises(SpoolFull) as caught:
            source.log("tickets", rows)
        assert caught.value.facts == {"folder": str(tmp_path / "s"), "rows": 40, "max_bytes": 2**16}
        state = source.state
        assert (state.pending_rows, state.full_rows) == (kept, 40)
        assert 0 < state.spool_bytes <= 2**16


def test_two_sources_do_not_share_a_spool(nowhere: str, packed: Packed, tmp_path: Path) -> None:
    with source_of(nowhere, packed, spool=tmp_path / "s"), pytest.raises(SpoolUnusable):
        source_of(nowhere, packed, spool=tmp_path / "s")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"txet": "x"}, "a key is no kept column of this source (columns=: product)"),
        ({"txet": "x"}, "expected exactly one of 'text', 'image' and 'vector'"),
        ({"text": "x", "image": b"y"}, "expected exactly one of 'text', 'image' and 'vector'"),
        ({"text": "  "}, "the text is empty"),
        ({"text": "x" * 100_001}, "the text has 100001 characters, over the limit of 100000"),
        ({"text": b"x"}, "the text is bytes, expected a string"),
        ({"image": "x"}, "the image is str, expected the bytes of an image file"),
        ({"text": "x", "id": ""}, "the id is no text of 1 to 512 characters"),
        ({"text": "x", "id": "x" * 513}, "the id is no text of 1 to 512 characters"),
        ({"text": "x", "id": "\ud800"}, "the id is no text of 1 to 512 characters"),
        ({"text": "x", "subject": 3}, "subject is int, expected a string"),
        ({"text": "x", "product": float("nan")}, "product is float, expected a text, a finite number, a boolean or a time"),
        ({"text": "x", "product": ["a"]}, "product is list, expected a text, a finite number, a boolean or a time"),
        ({"text": "x", "product": "\udcff"}, "product is not valid Unicode"),
        ("x", "is a str, expected a mapping"),
    ],
)
def test_a_bad_row_is_refused_before_anything_leaves(row: Any, reason: str, nowhere: str, packed: Packed) -> None:
    with source_of(nowhere, packed) as source, pytest.raises(InvalidRows) as caught:
        source.log("tickets", [{"text": "good"}, row])
    assert reason in [problem[2] for problem in caught.value.problems]
    assert {problem[0] for problem in caught.value.problems} == {1}


def test_rows_carry_numbers_times_and_nulls_as_json_does(service: Service, packed: Packed) -> None:
    service.answers = [success(LOGGED)]
    with source_of(service.url, packed, columns=["n", "f", "b", "t", "d", "none"]) as source:
        row = {
            "id": "a", "text": "x", "n": np.int64(3), "f": np.float32(0.5), "b": True, "none": None,
            "t": datetime(2026, 11, 21), "d": datetime(2026, 11, 21).date(), "time": "2026-01-01",
        }  # fmt: skip
        source.log("tickets", [row])
        (sent,) = service.sent[0].json["rows"]
        assert service.sent[0].json["fingerprint"] == source.fingerprint
        assert len(sent.pop("vector")) == 32
    assert sent == {
        "id": "a", "n": 3, "f": 0.5, "b": True, "t": "2026-11-21T00:00:00+00:00", "d": "2026-11-21", "time": "2026-01-01",
    }  # fmt: skip


def test_a_vector_of_another_encoder_is_refused(nowhere: str, packed: Packed) -> None:
    from raystore.vectors import mark

    with source_of(nowhere, packed) as source, pytest.raises(PassportMismatch):
        source.log("tickets", [{"vector": mark(np.ones((1, 32), np.float32), "a" * 64)[0]}])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (
            {"columns": "product"},
            "columns= is a list of names, none of them id, subject, tenant, time, text, image, vector",
        ),
        ({"columns": ["text"]}, "columns= is a list of names, none of them id, subject, tenant, time, text, image, vector"),
        ({"max_spool_bytes": 7, "spool": "s"}, "max_spool_bytes= is a whole number of at least 65,536"),
    ],
)
def test_arguments_without_sense_are_refused(arguments: dict[str, Any], problem: str, nowhere: str, packed: Packed) -> None:
    with pytest.raises(InvalidArguments) as caught:
        source_of(nowhere, packed, **arguments)
    assert str(caught.value) == f"Source: {problem}."


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "expected one item (a text or image bytes), or items="),
        ({"item": "x", "colour": "y"}, "unknown: colour"),
        ({"items": ["x"], "subject": "c"}, "with items=, what is known of an item stands in its mapping"),
    ],
)
def test_a_prediction_that_makes_no_sense_is_refused(
    arguments: dict[str, Any], problem: str, nowhere: str, packed: Packed
) -> None:
    with source_of(nowhere, packed) as source, pytest.raises(InvalidArguments) as caught:
        source.predict("triage", **arguments)
    assert str(caught.value) == f"predict: {problem}."


def test_a_client_of_the_callers_stays_open(wire: Wire, packed: Packed) -> None:
    with Client(wire.url) as client:
        with source_of(client, packed) as source:
            assert repr(source) == f"Source('{wire.url}', '{packed.label}', spool=None)"
        assert client.predict("triage", "the card never arrived").predictions
        with pytest.raises(InvalidArguments):
            source_of(client, packed, key="rs.key")


def test_many_threads_share_a_source(wire: Wire, packed: Packed, collection: CollectionTable, tmp_path: Path) -> None:
    failed: list[BaseException] = []
    with source_of(wire.url, packed, spool=tmp_path / "s") as source:

        def work(k: int) -> None:
            try:
                for i in range(8):
                    if (k, i) == (0, 4):
                        wire.cut = True
                    source.log(collection.name, [{"id": f"r-{k}-{i}", "text": f"card {k} {i}"}])
            except RaystoreError as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wire.cut = False
        assert source.flush(30)
        assert (failed, source.state.refused_rows) == ([], 0)
    assert sorted(all_ids(collection)) == sorted(f"r-{k}-{i}" for k in range(4) for i in range(8))


@pytest.mark.slow
def test_a_product_that_is_killed_at_any_moment_loses_and_repeats_no_row(
    wire: Wire, packed: Packed, collection: CollectionTable, tmp_path: Path
) -> None:
    chance = random.Random(11)
    kept: list[str] = []
    for life in range(5):
        wire.cut = life % 2 == 0
        command = [
            sys.executable, "-m", "tests.source.product",
            wire.url, str(packed.folder), str(tmp_path / "s"), collection.name, str(1000 * life),
        ]  # fmt: skip
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(chance.randint(3, 30))]
        os.kill(child.pid, signal.SIGKILL)
        said += child.stdout.readlines()
        child.wait()
        kept += [line.strip() for line in said if line.endswith("\n")]
    wire.cut = False
    with source_of(wire.url, packed, spool=tmp_path / "s") as source:
        assert source.flush(60)
        assert (source.state.refused_rows, source.state.damaged_rows) == (0, 0)
    found = all_ids(collection)
    assert len(found) == len(set(found))
    assert sorted(set(kept) - set(found)) == []
    assert len(found) - len(kept) <= 5  # of each life at most the row that was under way


def test_a_busy_service_without_a_spool_says_so(service: Service, packed: Packed) -> None:
    service.answers = [failure(503, "NotReady")]
    with source_of(service.url, packed, timeout_s=0.5) as source, pytest.raises(ServiceBusy) as caught:
        source.predict("triage", CANARY)
    assert caught.value.type == "NotReady"
    sent = json.loads(service.sent[0].body)
    assert set(sent) == {"items", "fingerprint"}
    assert set(sent["items"][0]) == {"vector"}
