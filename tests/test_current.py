"""The encoder a collection is asked by where nobody names one: chosen, seen by everyone at once, taken back."""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import raystore
from raystore.collection import Collection
from raystore.data.collection import CollectionTable
from raystore.data.current import KIND, current_of, cut_over, default_first, roll_back
from raystore.encoders.registry import Encoder
from raystore.errors import EncoderNotFound, InvalidArguments, PassportMismatch
from raystore.layout import Layout
from raystore.serve.answer.loading import Rooms
from raystore.serve.spec.read import parse_spec
from raystore.store import Store
from tests.data.toy import OtherEncoder, ToyEncoder, make_store, make_tickets

N = 40
ONE, TWO = ToyEncoder.fingerprint, OtherEncoder.fingerprint
SQL = "SELECT t.id, o.label FROM tickets t JOIN outcomes o ON o.item = t.id"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store whose collection has vectors of two encoders, with labels and a snapshot."""
    store = raystore.open(tmp_path_factory.mktemp("current") / "store")
    for name, length in (("tiny", None), ("short", 8), ("mini", 4)):
        store.encoders.register(name, model=str(tiny_model), max_length=length)
    tickets = store.create_collection("tickets", encoder=["tiny", "short"])
    tickets.log([{"id": f"t-{i}", "text": f"{'card' if i % 2 else 'money'} never arrived {i}"} for i in range(N)])
    store.register_table("outcomes", [{"item": f"t-{i}", "label": "ab"[i % 2]} for i in range(N)], id="item")
    store.snapshot("labels", SQL)
    return store.root


@pytest.fixture
def store(tmp_path: Path, made: Path) -> Store:
    return raystore.open(shutil.copytree(made, tmp_path / "it's a störe"))


@pytest.fixture
def tickets(store: Store) -> Collection:
    return store.collection("tickets")


@pytest.fixture
def encoders(store: Store) -> tuple[Encoder, Encoder]:
    return store.encoder("tiny"), store.encoder("short")


def test_until_one_is_chosen_the_first_is_asked_and_what_lasts_wants_a_choice(
    store: Store, tickets: Collection, encoders: tuple[Encoder, Encoder]
) -> None:
    tiny, short = encoders
    assert tickets.encoder() == tiny
    assert (tickets.previous_encoder(), tickets.encoder_history()) == (None, [])
    assert f"encoder {tiny.label}, {short.label}, version" in repr(tickets)
    with pytest.raises(InvalidArguments) as refused:
        store.train_head("refunds", snapshot="labels", workers=0)
    assert str(refused.value) == (
        "train_head('refunds'): collection 'tickets' holds vectors of several encoders "
        f"({tiny.label}, {short.label}): choose one with encoder=."
    )


def test_a_cut_over_is_followed_by_everything_that_names_no_encoder(
    store: Store, tickets: Collection, encoders: tuple[Encoder, Encoder]
) -> None:
    tiny, short = encoders
    assert tickets.search("card never", k=1).fingerprint == tiny.fingerprint
    assert tickets.use_encoder("short", reason="it is shorter") == short
    for opened in (tickets, raystore.open(store.root).collection("tickets")):
        assert opened.encoder() == short
        assert opened.search("card never", k=1).fingerprint == short.fingerprint
        assert opened.log([{"id": "t-1", "text": "card never arrived 1"}]).fingerprint == short.fingerprint
    assert tickets.search("card never", k=1, encoder="tiny").fingerprint == tiny.fingerprint
    assert store.train_head("refunds", snapshot="labels", workers=0).fingerprint == short.fingerprint
    manifest = tickets.build_index(workers=0)
    assert manifest.fingerprint == short.fingerprint
    assert (tickets.index() == manifest, tickets.index("tiny")) == (True, None)
    assert tickets.classify("card never arrived", labels="outcomes.label", k=5).fingerprint == short.fingerprint
    assert store.register_classifier("near", "tickets", labels="outcomes.label").fingerprint == short.fingerprint
    version = tickets.version
    tickets.log([{"id": f"new-{i}", "text": f"money never arrived {i}"} for i in range(10)])
    assert tickets.drift(version).rows == (N, 10)  # and no word that an encoder has to be chosen
    assert f"encoder {tiny.label}, {short.label} (current), version" in repr(tickets)
    assert f"{short.label} (current)" in tickets._repr_html_()


def test_roll_back_goes_back_step_by_step_and_says_when_there_is_no_further(
    store: Store, tickets: Collection, encoders: tuple[Encoder, Encoder]
) -> None:
    tiny, short = encoders
    tickets.add_encoder("mini", workers=0)
    mini = store.encoder("mini")
    tickets.use_encoder(short)
    tickets.use_encoder("mini")
    assert tickets.previous_encoder() == short
    assert tickets.roll_back_encoder(reason="worse") == short
    assert tickets.previous_encoder() == tiny
    assert tickets.roll_back_encoder() == tiny
    assert tickets.encoder() == tiny
    with pytest.raises(InvalidArguments) as refused:
        tickets.roll_back_encoder()
    assert str(refused.value) == (
        "roll_back_encoder of 'tickets': it was not cut over from one encoder to another, so there is nothing to go back to."
    )
    tickets.use_encoder("mini")
    assert tickets.roll_back_encoder() == tiny
    told = [(e["fingerprint"], e["before"], e["reason"], e["undoes"]) for e in tickets.encoder_history()]
    one, two, three = (e.fingerprint for e in (tiny, short, mini))
    assert told == [
        (two, one, None, None),
        (three, two, None, None),
        (two, three, "worse", 2),
        (one, two, None, 1),
        (three, one, None, None),
        (one, three, None, 5),
    ]
    assert all(entry["at"].endswith("Z") for entry in tickets.encoder_history())


def test_the_same_encoder_again_makes_no_record(tickets: Collection) -> None:
    tickets.use_encoder("short", reason="first")
    tickets.use_encoder("short", reason="again")
    assert [entry["reason"] for entry in tickets.encoder_history()] == ["first"]


def test_to_choose_the_first_is_a_choice_too(store: Store, tickets: Collection, encoders: tuple[Encoder, Encoder]) -> None:
    tickets.use_encoder("tiny")
    assert store.train_head("refunds", snapshot="labels", workers=0).fingerprint == encoders[0].fingerprint


def test_an_encoder_the_collection_has_no_vectors_of_is_refused_and_nothing_changes(tickets: Collection) -> None:
    with pytest.raises(PassportMismatch, match=r"^collection 'tickets' expects "):
        tickets.use_encoder("mini")
    with pytest.raises(EncoderNotFound):
        tickets.use_encoder("nobody")
    assert tickets.encoder_history() == []


def test_rows_that_the_new_encoder_would_not_find_are_counted_in_a_warning(
    store: Store, tickets: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    tiny, mini = store.encoder("tiny"), store.encoder("mini")
    tickets.log([{"id": "given", "vector": tiny.encode(["card"])[0]}], fingerprint=tiny.fingerprint)
    tickets.add_encoder("mini", workers=0)
    with caplog.at_level(logging.WARNING, "raystore"):
        tickets.use_encoder("mini")
    assert caplog.messages == [
        f"'tickets' is asked by {mini.label} from now on, and 41 of its 41 rows have no vector of it: they are not found"
    ]


def test_impact_and_lineage_say_what_the_collection_is_asked_by(
    store: Store, tickets: Collection, encoders: tuple[Encoder, Encoder]
) -> None:
    assert "current" not in store.impact("short")["collection"][0]
    assert "current encoder" not in store.lineage("labels")["collection"]
    tickets.use_encoder("short", reason="it is shorter")
    at = tickets.encoder_history()[0]["at"]
    assert store.impact("short")["collection"][0]["current"] == f"since {at}"
    assert "current" not in store.impact("tiny")["collection"][0]
    link = store.lineage("labels")["collection"]
    assert (link["current encoder"], link["since"], link["reason"]) == (encoders[1].label, at, "it is shorter")


def test_a_running_service_follows_a_cut_over_at_its_next_request(
    store: Store, tickets: Collection, encoders: tuple[Encoder, Encoder]
) -> None:
    tiny, short = (encoder.fingerprint for encoder in encoders)
    running = Rooms(store.root).orchestrator(parse_spec({}, "test"), threads=1)

    def asked() -> tuple[str, str]:
        row = {"id": "t-1", "text": "card never arrived 1"}
        found = running.collections.search("tickets", item="card", request_id="r")
        return found["fingerprint"], running.collections.log("tickets", [row], request_id="r")["fingerprint"]

    try:
        assert asked() == (tiny, tiny)
        tickets.use_encoder("short")
        assert asked() == (short, short)
        assert running.collections.search("tickets", item="card", fingerprint=tiny, request_id="r")["fingerprint"] == tiny
        tickets.roll_back_encoder()
        assert asked() == (tiny, tiny)
    finally:
        running.close()


# --- the records ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_store(tmp_path / "toys")


@pytest.fixture
def toys(layout: Layout) -> CollectionTable:
    table = make_tickets(layout)
    table.add_encoder(TWO, 3)
    return table


def test_a_record_of_an_encoder_that_is_gone_is_passed_over(layout: Layout, toys: CollectionTable) -> None:
    catalog = raystore.open(layout.root).catalog
    catalog.set_alias(KIND, "tickets", {"fingerprint": "ef56" * 16, "before": ONE, "reason": None})
    assert current_of(catalog, toys) is None
    assert default_first(catalog, toys) == [ONE, TWO]


def test_roll_back_to_an_encoder_that_is_gone_is_refused(layout: Layout, toys: CollectionTable) -> None:
    catalog = raystore.open(layout.root).catalog
    catalog.set_alias(KIND, "tickets", {"fingerprint": TWO, "before": "ef56" * 16, "reason": None})
    with pytest.raises(InvalidArguments) as refused:
        roll_back(catalog, toys)
    assert str(refused.value) == (
        f"roll_back_encoder of 'tickets': it holds no vectors of the encoder before, {'ef56' * 16}; it has: {ONE}, {TWO}."
    )


def test_of_cut_overs_at_once_each_knows_what_it_was_before(layout: Layout, toys: CollectionTable) -> None:
    """Racing writers: none is lost, and the chain of records has no gap."""
    catalog = raystore.open(layout.root).catalog
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: cut_over(catalog, toys, (ONE, TWO)[i % 2]), range(40)))
    folder = layout.aliases(KIND, "tickets")
    records = [catalog.record(folder, n + 1) for n in range(len(list(folder.iterdir())))]
    assert records
    before = ONE
    for record in records:
        assert record is not None
        assert record["before"] == before
        before = record["fingerprint"]
