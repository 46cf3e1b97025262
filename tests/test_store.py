"""The store as a user meets it, inline: no Ray is started here."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.errors import (
    AlreadyExists,
    CollectionNotFound,
    EncoderNotFound,
    HeadNotFound,
    InvalidArguments,
    InvalidName,
    PassportMismatch,
    SnapshotNotFound,
    SnapshotRefused,
    SqlRefused,
    StoreNotFound,
    StoreUnusable,
    TableNotFound,
)
from raystore.store import Store

WORDS = ("card", "money", "blue")
SQL = "SELECT t.id, o.label FROM tickets t JOIN outcomes o ON o.item = t.id WHERE o.label <> $without"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Store:
    """60 tickets of two encoders' kin, labels, a snapshot, a head. Tests add names of their own and change none."""
    store = raystore.open(tmp_path_factory.mktemp("store") / "a store")
    store.encoders.register("tiny", model=str(tiny_model))
    store.encoders.register("short", model=str(tiny_model), max_length=8)
    tickets = store.create_collection("tickets", encoder="tiny", columns={"product": "string"})
    tickets.log([{"id": f"t-{i}", "text": f"the {WORDS[i % 3]} {i}", "product": WORDS[i % 3]} for i in range(60)])
    store.register_table("outcomes", [{"item": f"t-{i}", "label": WORDS[i % 3]} for i in range(60)], id="item")
    snapshot = store.snapshot("refunds", SQL, params={"without": "none"}, split={"train": 0.7, "val": 0.1, "test": 0.2})
    store.train_head("refunds", snapshot=snapshot, workers=0)
    return store


def exactly(sentence: str) -> str:
    return f"^{re.escape(sentence)}$"


# --- opening -------------------------------------------------------------------------------------------------------------


def test_opening_a_new_folder_makes_a_store_and_opening_it_again_finds_it(tmp_path: Path) -> None:
    made = raystore.open(tmp_path / "new" / "store")
    assert (made.collections, made.tables, made.encoders.names(), len(made.snapshots), len(made.heads)) == (
        [],
        [],
        [],
        0,
        0,
    )
    assert repr(made) == f"<store {tmp_path}/new/store: 0 collections, 0 tables, 0 encoders, 0 heads>"
    assert raystore.open(str(tmp_path / "new" / "store"), create=False).root == made.root


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreNotFound, match="no store at"):
        raystore.open(tmp_path / "nothing", create=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StoreUnusable, match="a folder that is no store"):
        raystore.open(tmp_path)
    with pytest.raises(StoreUnusable, match="a file"):
        raystore.open(tmp_path / "letter.txt")
    with pytest.raises(StoreUnusable, match="an object-store address"):
        raystore.open("s3://bucket/store")


def test_importing_and_opening_import_neither_ray_nor_torch(tmp_path: Path) -> None:
    program = """
        import sys, raystore
        raystore.open(sys.argv[1])
        assert not {"ray", "torch", "transformers"} & set(sys.modules), sys.modules.keys()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "store")], check=True)


# --- collections ---------------------------------------------------------------------------------------------------------


def test_a_collection_is_opened_again_with_exist_ok_and_refused_without(store: Store) -> None:
    assert store.create_collection("tickets", encoder="tiny", exist_ok=True) is store.collection("tickets")
    assert store.create_collection("tickets", encoder=store.encoders["tiny"], exist_ok=True).name == "tickets"
    sentence = "collection 'tickets' exists already. Open it: store.collection('tickets')."
    with pytest.raises(AlreadyExists, match=exactly(sentence)):
        store.create_collection("tickets", encoder="tiny")


def test_a_collection_of_another_encoder_is_refused_with_both_fingerprints(store: Store) -> None:
    mine, other = (store.encoders[name].fingerprint for name in ("tiny", "short"))
    with pytest.raises(PassportMismatch) as refused:
        store.create_collection("tickets", encoder="short", exist_ok=True)
    assert str(refused.value) == (
        f"collection 'tickets' expects {mine[:12]}, but was given {other[:12]}. "
        "Encode with the collection's encoder, or use a collection made for this one."
    )


@pytest.mark.parametrize(
    "name, encoder, columns, error",
    [
        ("Tickets", "tiny", {}, InvalidName),
        ("a-b", "tiny", {}, InvalidName),
        ("fresh", "nobody", {}, EncoderNotFound),
        ("fresh", "tiny", {"a": "number", "id": "string"}, InvalidArguments),
        ("outcomes", "tiny", {}, AlreadyExists),
    ],
)
def test_a_collection_that_cannot_be_is_not_made(
    store: Store, name: str, encoder: str, columns: dict[str, str], error: type[Exception]
) -> None:
    before = store.collections
    with pytest.raises(error):
        store.create_collection(name, encoder=encoder, columns=columns)
    assert store.collections == before


# --- reading back by name ------------------------------------------------------------------------------------------------


def test_unknown_names_list_what_there_is(store: Store) -> None:
    where = f"store '{store.root}'"
    with pytest.raises(CollectionNotFound, match=rf"^no collection 'nobody' in {where}\. It has: .*'tickets'"):
        store.collection("nobody")
    with pytest.raises(EncoderNotFound, match=exactly(f"no encoder 'nobody' in {where}. It has: 'short', 'tiny'.")):
        store.encoder("nobody")
    with pytest.raises(SnapshotNotFound, match=exactly(f"no snapshot 'nobody' in {where}. It has: 'refunds'.")):
        store.snapshots["nobody"]
    with pytest.raises(HeadNotFound, match=exactly(f"no head 'nobody' in {where}. It has: 'refunds'.")):
        store.heads["nobody"]
    with pytest.raises(TableNotFound, match=exactly(f"no table 'nobody' in {where}. It has: 'outcomes'.")):
        store.table("nobody")
    with pytest.raises(TableNotFound, match=r"no table 'nobody' in .*'outcomes', .*'tickets'"):
        store.sql("SELECT * FROM nobody")
    with pytest.raises(HeadNotFound, match=exactly(f"no head 'refunds@7' in {where}. It has: 'refunds@1'.")):
        store.heads["refunds@7"]


def test_an_empty_store_says_that_it_has_none(tmp_path: Path) -> None:
    empty = raystore.open(tmp_path / "store")
    with pytest.raises(CollectionNotFound, match=r"It has no collection\.$"):
        empty.collection("tickets")
    with pytest.raises(HeadNotFound, match=r"It has no head\.$"):
        empty.heads["refunds"]


def test_a_fresh_process_reads_everything_back_by_name(store: Store) -> None:
    program = """
        import json, sys, raystore
        store = raystore.open(sys.argv[1], create=False)
        tickets = store.collection("tickets")
        print(json.dumps({
            "rows": len(tickets), "version": tickets.version, "item": tickets.get(["t-7"])[0]["product"],
            "table": store.table("outcomes").version, "snapshot": store.snapshots["refunds"].hash,
            "accuracy": store.heads["refunds"].report.accuracy,
            "label": store.heads["refunds"].predict(store.encoder("tiny").encode(["the card 3"])).labels,
            "near": tickets.search("the card 3", k=1).ids, "lineage": store.lineage("refunds").facts,
            "ray": "ray" in sys.modules,
        }))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(store.root)], capture_output=True, text=True, check=True
    )
    tickets, head = store.collection("tickets"), store.heads["refunds"]
    assert json.loads(run.stdout) == {
        "rows": len(tickets),
        "version": tickets.version,
        "item": "money",
        "table": 1,
        "snapshot": store.snapshots["refunds"].hash,
        "accuracy": head.report.accuracy,
        "label": head.predict(store.encoder("tiny").encode(["the card 3"])).labels,
        "near": [["t-3"]],
        "lineage": store.lineage("refunds").facts,
        "ray": False,
    }


# --- tables and SQL ------------------------------------------------------------------------------------------------------


def test_a_table_is_registered_from_whatever_holds_rows_and_the_same_again_makes_no_version(
    store: Store, tmp_path: Path
) -> None:
    rows = [{"item": f"t-{i}", "score": i} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "scores.parquet")
    forms = (rows, pa.Table.from_pylist(rows), pd.DataFrame(rows), tmp_path / "scores.parquet", [tmp_path / "*.parquet"])
    assert [store.register_table("scores", form, id="item").version for form in forms] == [1] * 5
    assert store.register_table("scores", rows[:2], id="item").version == 2
    assert [store.table("scores", n).n_rows for n in (1, 2)] == [3, 2]
    counted = store.sql("SELECT (SELECT count(*) FROM scores) AS now, count(*) AS before FROM scores AT (VERSION => 1)")
    assert counted.to_dicts() == [{"now": 2, "before": 3}]


def test_sql_joins_collections_and_tables_and_comes_in_three_forms(store: Store) -> None:
    query = "SELECT o.label, count(*) AS n FROM tickets t JOIN outcomes o ON o.item = t.id GROUP BY 1 ORDER BY 1"
    found = store.sql(query)
    assert found.to_dicts() == [{"label": label, "n": 20} for label in ("blue", "card", "money")]
    assert found.to_arrow().num_rows == len(found) == 3
    assert list(found.to_pandas().columns) == found.columns == ["label", "n"]


def test_sql_ranks_by_similarity_to_a_text_and_to_an_item(store: Store) -> None:
    by_text = store.sql(
        "SELECT id, similarity(tiny, $text) AS s FROM tickets ORDER BY s DESC LIMIT 1", {"text": "the blue 8"}
    )
    assert by_text.to_dicts()[0]["id"] == "t-8"
    by_item = store.sql("SELECT id FROM tickets t ORDER BY similarity(t.tiny, item('t-8')) DESC LIMIT 1")
    assert by_item.to_dicts() == [{"id": "t-8"}]
    assert store.collection("tickets").search(item="t-8", k=1).ids == [["t-8"]]


def test_sql_with_another_encoder_names_both_passports(store: Store) -> None:
    mine, other = store.encoders["tiny"], store.encoders["short"]
    with pytest.raises(PassportMismatch) as refused:
        store.sql("SELECT similarity(short, 'card') FROM tickets")
    assert mine.fingerprint[:12] in str(refused.value)
    assert other.label in str(refused.value)


def test_vectors_are_columns_only_where_they_are_asked_for(store: Store) -> None:
    assert not any(c.startswith(("vec_", "_")) for c in store.sql("SELECT * FROM tickets").columns)
    assert any(c.startswith("vec_") for c in store.sql("SELECT * FROM tickets", vectors=True).columns)


@pytest.mark.parametrize(
    "query", ["DROP TABLE tickets", "SELECT 1; SELECT 2", "SELEC id FROM tickets", "SELECT no FROM tickets"]
)
def test_sql_that_is_wrong_or_writes_is_refused(store: Store, query: str) -> None:
    with pytest.raises(SqlRefused, match="this SQL was not run"):
        store.sql(query)


# --- snapshots and heads -------------------------------------------------------------------------------------------------


def test_a_snapshot_is_the_same_after_later_rows_and_labels(store: Store) -> None:
    first = store.snapshots["refunds@1"]
    store.collection("tickets").log([{"id": "later", "text": "later card", "product": "card"}])
    store.register_table("outcomes", [{"item": f"t-{i}", "label": WORDS[i % 3]} for i in range(59)], id="item")
    rebuilt = store.snapshots.rebuild("refunds@1")
    assert (rebuilt.same, rebuilt.hash) == (True, first.hash)
    assert store.snapshots["refunds@1"].rows().equals(first.rows())


def test_the_same_snapshot_again_makes_no_new_number(store: Store) -> None:
    made = [store.snapshot("twice", SQL, params={"without": "blue"}) for _ in range(2)]
    assert [(m.name, m.number) for m in made] == [("twice", 1)] * 2
    assert "twice" in list(store.snapshots)


def test_a_snapshot_that_cannot_be_names_every_reason(store: Store) -> None:
    with pytest.raises(SnapshotRefused, match=r"its SQL gives no column 'id'; its SQL gives no column 'label'"):
        store.snapshot("broken", "SELECT product FROM tickets")
    with pytest.raises(InvalidArguments, match=exactly("snapshot('broken'): the fractions sum to 0.5, expected 1.")):
        store.snapshot("broken", SQL, params={"without": "none"}, split={"train": 0.5})
    assert "broken" not in list(store.snapshots)


def test_a_head_of_either_kind_is_trained_numbered_and_predicts(store: Store) -> None:
    head = store.train_head("kinds", snapshot="refunds@1", kind="mlp", workers=0, max_epochs=3)
    again = store.train_head("kinds", snapshot=store.snapshots["refunds@1"], workers=0)
    assert (head.label, again.label, [h.label for h in store.heads if h.name == "kinds"]) == (
        "kinds@1",
        "kinds@2",
        ["kinds@2"],
    )
    predicted = again.predict(store.encoder("tiny").encode(["the card 3", "the blue 8"]))
    assert set(predicted.labels) <= set(WORDS)
    assert predicted.probabilities.shape == (2, 3)


def test_a_copy_holds_one_version_of_a_head(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        store.train_head("twice", snapshot="refunds@1", workers=0)
    with pytest.raises(InvalidArguments) as refused:
        store.collection("tickets").publish(tmp_path / "copy", predictions=["twice@1", "twice@2"])
    assert str(refused.value) == (
        "publish 'tickets': predictions= names twice@1 and twice@2: a copy holds one version of a head."
    )
    assert not (tmp_path / "copy").exists()


def test_a_head_refuses_vectors_of_another_passport_and_names_both(store: Store) -> None:
    mine, other = store.encoders["tiny"], store.encoders["short"]
    with pytest.raises(PassportMismatch) as refused:
        store.heads["refunds"].predict(other.encode(["the card"]))
    assert (refused.value.expected, refused.value.found) == (mine.fingerprint, other.fingerprint)
    assert str(refused.value).startswith(
        f"head 'refunds@1' expects {mine.fingerprint[:12]}, but was given {other.fingerprint[:12]}. Encode with {mine.label}"
    )


def test_training_on_an_encoder_the_collection_lacks_names_both_passports(store: Store) -> None:
    with pytest.raises(PassportMismatch) as refused:
        store.train_head("lost", snapshot="refunds", encoder="short")
    assert store.encoders["tiny"].fingerprint[:12] in str(refused.value)
    assert store.encoders["short"].label in str(refused.value)


def test_deploying_with_a_log_of_another_passport_names_both_and_starts_nothing(store: Store) -> None:
    store.create_collection("kept_short", encoder="short")
    with pytest.raises(PassportMismatch) as refused:
        store.deploy("triage", head="refunds", log="kept_short")
    assert all(store.encoders[name].fingerprint[:12] in str(refused.value) for name in ("tiny", "short"))
    assert not store.layout.deployment("triage").exists()


def test_deploying_what_is_not_there_starts_nothing(store: Store) -> None:
    with pytest.raises(HeadNotFound, match="'refunds'"):
        store.deploy("triage", head="nobody")
    with pytest.raises(CollectionNotFound, match="'tickets'"):
        store.deploy("triage", head="refunds", log="nobody")


# --- two at once ---------------------------------------------------------------------------------------------------------


def test_two_stores_opened_on_one_root_both_write_and_see_each_others_rows(tmp_path: Path, tiny_model: Path) -> None:
    root = tmp_path / "store"
    first, second = raystore.open(root), raystore.open(root)
    first.encoders.register("tiny", model=str(tiny_model))
    second.encoders.register("tiny", model=str(tiny_model))
    mine = first.create_collection("tickets", encoder="tiny")
    theirs = second.create_collection("tickets", encoder="tiny", exist_ok=True)

    def write(store: Store, name: str) -> None:
        for i in range(10):
            store.collection("tickets").log(
                [{"id": f"{name}-{i}", "text": f"a card {i}"}, {"id": f"both-{i}", "text": "blue"}]
            )
            store.register_table(f"table_{name}", [{"n": i}])

    threads = [threading.Thread(target=write, args=(s, n)) for s, n in ((first, "a"), (second, "b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = sorted(f"{name}-{i}" for name in ("a", "b", "both") for i in range(10))
    assert sorted(mine.to_arrow(["id"])["id"].to_pylist()) == sorted(theirs.to_arrow(["id"])["id"].to_pylist()) == expected
    assert len(mine) == len(theirs) == 30
    assert first.tables == second.tables == ["table_a", "table_b"]
    assert first.table("table_b").version == second.table("table_a").version == 10


def test_two_processes_open_one_store_and_both_write(tmp_path: Path, tiny_model: Path) -> None:
    program = """
        import sys, raystore
        root, name = sys.argv[1:]
        store = raystore.open(root)
        try:
            tickets = store.create_collection("tickets", encoder="tiny", exist_ok=True)
        except raystore.errors.AlreadyExists:
            tickets = store.collection("tickets")
        for i in range(10):
            tickets.log([{"id": f"{name}-{i}", "text": "a card"}, {"id": f"both-{i}", "text": "the same"}])
    """
    root = tmp_path / "store"
    raystore.open(root).encoders.register("tiny", model=str(tiny_model))
    command = [sys.executable, "-c", textwrap.dedent(program), str(root)]
    running = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in ("a", "b")]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    ids = raystore.open(root).collection("tickets").to_arrow(["id"])["id"].to_pylist()
    assert sorted(ids) == sorted(f"{name}-{i}" for name in ("a", "b", "both") for i in range(10))
