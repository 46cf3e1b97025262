"""A collection from one encoder to another: the plan, each way, what changes with it, the cut-over, and the old one retired."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
from raystore.errors import InvalidArguments, PassportMismatch
from raystore.layout import filled_column, vector_column
from raystore.store import Store
from raystore.train.fit import train_head
from raystore.train.source import ArraySource, Examples

WORDS = ("card", "money", "blue", "hello", "world", "text", "sentence", "limit")
TEXTS = [f"{a} {b} {c}" for a, b, c in itertools.product(WORDS, WORDS, WORDS[:2])]
GONE = [f"gone {i}" for i in range(4)]
N = len(TEXTS)


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path) -> Store:
    """Encoders `old` (16 numbers) and `new` (32)."""
    made = raystore.open(tmp_path / "store")
    made.encoders.register("old", tiny_model, dimensions=16)
    made.encoders.register("new", tiny_model)
    return made


def logged(store: Store, keep_source: bool = False, both: bool = True) -> Collection:
    """128 logged rows, of both encoders or of the old one alone, and 4 that came as old vectors."""
    encoder = ["old", "new"] if both else "old"
    made = store.create_collection("tickets", encoder=encoder, columns={"topic": "string"}, keep_source=keep_source)
    made.log([{"id": f"t-{i}", "text": text, "topic": text.split()[0]} for i, text in enumerate(TEXTS)])
    old = store.encoder("old")
    lone = old.encode(["money money money", "card card card", "hello limit", "blue world blue"])
    made.log([{"id": id_, "vector": v} for id_, v in zip(GONE, lone, strict=True)], fingerprint=old.fingerprint)
    return made


def head_of_old(store: Store) -> None:
    old = store.encoder("old")
    labels = np.array([WORDS.index(text.split()[0]) % 2 for text in TEXTS], np.int64)
    examples = Examples(np.asarray(old.encode(TEXTS)), labels, np.ones(N, np.float32))
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


def holding(folder: Path, needle: bytes) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and needle in path.read_bytes()]


def test_a_plan_says_of_each_way_what_it_covers_and_why_it_cannot_be(store: Store) -> None:
    tickets = logged(store, both=False)
    version = tickets.version
    plan = tickets.plan_migration("new")
    assert (plan.rows, plan.lacking, plan.pairs, tickets.version) == (N + 4, N + 4, 0, version)
    assert [(way.name, way.possible, way.rows, way.note) for way in plan.ways] == [
        ("kept", False, 0, "the collection keeps no content (keep_source=True keeps it)"),
        ("files", False, 0, "no file was embedded into it: its rows were logged"),
        ("dual", True, 0, "from now on; 128 bytes for each new row, and one more encoding"),
        ("bridge", False, 0, "0 rows have both vectors, 100 are needed: dual-write, or re-embed some, first"),
        ("through", False, 0, "0 rows have both vectors, 100 are needed for a bridge back"),
    ]
    assert plan.recommendation == "Write both from now on (dual); when 100 rows have both vectors, bridge the old rows."
    assert str(plan).splitlines()[0] == plan.title
    assert len(str(plan).splitlines()) == 8
    assert "Write both" in plan._repr_html_()


def test_kept_content_is_planned_re_embedded_and_cut_over_to(store: Store) -> None:
    made = store.create_collection("tickets", encoder="old", keep_source=True)
    made.log([{"id": f"t-{i}", "text": text} for i, text in enumerate(TEXTS)])
    plan = made.plan_migration("new")
    kept = plan["kept"]
    assert (kept.possible, kept.rows, kept.bytes) == (True, N, N * 32 * 4)
    assert kept.seconds is not None
    assert kept.seconds > 0
    assert kept.note.endswith("rows/s in one process, measured on 32 items")
    assert plan.recommendation.startswith("Re-embed (kept): it reaches every row with a true vector, in about ")
    assert plan["files"].note == "the collection keeps its content, which is read in the place of any file"
    made.build_index(kind="ivf", shards=2, recall=0.9)
    report = made.migrate("new", cut_over=True, workers=0)
    assert (report.left, report.cut_over, report.serves) == (0, True, store.encoder("new").label)
    assert report.steps[-2] == f"index 1 (ivf) over {N} vectors of {store.encoder('new').label} was built"
    index = made.index()
    assert index is not None
    assert (index.fingerprint, index.kind, len(index.shards), index.target_recall) == (
        store.encoder("new").fingerprint, "ivf", 2, 0.9,
    )  # fmt: skip
    assert made.encoder() == store.encoder("new")
    assert made.roll_back_encoder() == store.encoder("old")
    again = made.migrate("new", workers=0)
    assert (again.left, again.cut_over, again.advice) == (0, False, None)
    assert made.plan_migration("new").recommendation == (
        "Every row has its vector already: compare_encoders, then use_encoder cuts over."
    )


def test_files_that_changed_or_are_gone_are_counted_and_the_others_are_read(store: Store, tmp_path: Path) -> None:
    made = store.create_collection("tickets", encoder="old")
    for part in range(3):
        rows = {"id": [f"r{part}-{i}" for i in range(40)], "text": TEXTS[40 * part : 40 * part + 40]}
        pq.write_table(pa.table(rows), tmp_path / f"{part}.parquet")
    made.embed(str(tmp_path / "*.parquet"), text="text", id="id", workers=0)
    (tmp_path / "0.parquet").unlink()
    plan = made.plan_migration("new")
    assert (plan["files"].possible, plan["files"].rows, plan["files"].bytes) == (True, 80, 80 * 128)
    assert plan["files"].note == "files: 2 there, 1 gone"
    assert plan.recommendation == "Write both from now on (dual); when 100 rows have both vectors, bridge the old rows."
    report = made.migrate("new", cut_over=True, workers=0)
    assert (report.left, report.cut_over) == (40, False)
    assert report.steps[-1] == (
        f"not cut over: 40 rows have no vector of {store.encoder('new').label} and would not be found; use_encoder does it all "
        "the same"
    )
    assert report.advice == (
        "40 rows have no content any more. New rows get both vectors: call this again when 100 rows have both "
        "(80 different ones do), and the "
        "others are bridged."
    )


def test_rows_whose_content_is_gone_are_bridged_cut_over_to_and_the_old_encoder_is_retired(store: Store) -> None:
    tickets, old, new = logged(store), store.encoder("old"), store.encoder("new")
    head_of_old(store)
    assert tickets.plan_migration("new")["bridge"].rows == N + 4
    report = tickets.migrate("new", "bridge", cut_over=True)
    forward = store.encoder("new-from-old")
    assert (report.left, report.cut_over, report.serves, report.through) == (0, True, forward.label, "new-from-old-back")
    assert tickets.encoder() == forward
    assert tickets.search("money money money", k=N + 4).ids[0][0] in ("gone 0", "t-18", "t-19")
    assert tickets.plan_migration("new")["bridge"].rows == 0
    through = tickets.migrate("new", "through")
    assert through.steps[-1] == f"search(through='new-from-old-back') asks the old rows with {new.label} from now on"

    compared = tickets.compare_encoders("old", "new", labels="topic")
    assert (compared.n, compared.unseen, compared.bridge) == (N, False, forward.label)
    assert 0.5 < compared.recall <= 1
    assert list(compared.heads) == ["topics@1"]
    assert compared.heads["topics@1"] > 0.7
    assert [row["class"] for row in compared.rows] == ["all rows", *sorted(WORDS)]
    assert sum(row["rows"] for row in compared.rows) == 2 * N
    assert "topics@1 agrees" in str(compared)
    assert tickets.compare_encoders("old", "new-from-old").recall == compared.recall

    tickets.build_index(encoder="old")
    with pytest.raises(InvalidArguments) as refused:
        tickets.retire_encoder("old")
    assert refused.value.problems == [
        f"index tickets@1 ({N + 4} rows) is in use over its vectors",
        "4 rows have beside its vector a bridged one alone: their last true one goes, and with it the way back",
        "force='<reason>' does it all the same; the reason is kept",
    ]
    needles = [np.asarray(tickets.table.vectors_of([id_], old.fingerprint))[0].tobytes() for id_ in ("t-7", "gone 2")]
    root = store.layout.root
    assert all(holding(root / "collections", needle) and holding(root / "indexes", needle) for needle in needles)
    gone = tickets.retire_encoder("old", force="nobody asks it")
    assert (gone.rows, gone.lost, gone.bridged, gone.indexes, gone.reason) == (N + 4, 0, 4, 1, "nobody asks it")
    assert f"are gone, of {N + 4} rows, 4 of which have a bridged one alone, with 1 indexes" in str(gone)
    assert [holding(root / "collections", needle) + holding(root / "indexes", needle) for needle in needles] == [[], []]
    names = tickets.table.schema.names
    assert {vector_column(old.fingerprint), filled_column(old.fingerprint)}.isdisjoint(names)
    assert set(tickets.encoders) == {new, forward}
    assert tickets.encoder() == forward
    tickets.log([{"id": "later", "text": "money card"}])
    assert tickets.search("money card", k=1).ids == [["later"]]
    with pytest.raises(PassportMismatch):
        tickets.retire_encoder("old")
    kept = store.catalog.alias("retired", "tickets")
    assert kept is not None
    assert (kept["fingerprint"], kept["state"], kept["reason"]) == (old.fingerprint, "done", "nobody asks it")
    assert (len(kept["overruled"]), kept["freed_bytes"]) == (2, gone.freed_bytes)


def test_an_encoder_that_is_asked_or_holds_a_rows_only_vector_is_not_retired(store: Store) -> None:
    tickets = logged(store)
    with pytest.raises(InvalidArguments) as refused:
        tickets.retire_encoder("old")
    assert refused.value.problems == [
        "it is what 'tickets' is asked by: use_encoder cuts over to another",
        "4 rows have a vector of no other encoder: bridge or re-embed them first",
        "force='<reason>' does it all the same; the reason is kept",
    ]
    with pytest.raises(InvalidArguments, match="force= is the reason that is kept, and it is empty"):
        tickets.retire_encoder("old", force=" ")
    lone = store.create_collection("lone", encoder="old")
    with pytest.raises(InvalidArguments, match="is its only encoder"):
        lone.retire_encoder("old", force="anyhow")


def test_a_way_that_cannot_be_is_refused_before_anything_is_done(store: Store) -> None:
    tickets = logged(store, both=False)
    with pytest.raises(InvalidArguments) as wrong:
        tickets.migrate("new", "swim")  # type: ignore[arg-type]
    assert wrong.value.problems == ["way= is 'swim', expected one of auto, kept, files, dual, bridge, through"]
    for way, said in (
        ("kept", "the collection keeps no content; only one made with keep_source=True does"),
        ("files", "no file was embedded into it: its rows were logged"),
        ("dual", "way='dual' gives old rows no vector in the new space, so nothing can be cut over to"),
    ):
        with pytest.raises(InvalidArguments) as refused:
            tickets.migrate("new", way, cut_over=way == "dual")  # type: ignore[arg-type]
        assert refused.value.problems == [said]
    keeping = store.create_collection("keeping", encoder="old", keep_source=True)
    with pytest.raises(InvalidArguments) as kept:
        keeping.migrate("new", "files")
    assert kept.value.problems == [
        "the collection keeps its content, which is read in the place of any file: way='kept' says so"
    ]
    with pytest.raises(InvalidArguments, match="there is nothing to move from"):
        tickets.migrate("old")
    assert [e.name for e in tickets.encoders] == ["old"]
    report = tickets.migrate("new", "dual")
    assert (report.left, [e.name for e in tickets.encoders]) == (N + 4, ["old", "new"])
    tickets.log([{"id": "now", "text": "a card"}])
    assert tickets.table.vectors_of(["now"], store.encoder("new").fingerprint).shape == (1, 32)
