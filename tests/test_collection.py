"""A collection as a user meets it, inline: write, read, search."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import raystore
from raystore.collection import Collection
from raystore.errors import (
    ColumnNotFound,
    DimensionMismatch,
    IdConflict,
    IndexNotFound,
    InvalidArguments,
    InvalidRows,
    InvalidVectors,
    ItemNotFound,
    PassportMismatch,
    SqlRefused,
)
from raystore.layout import vector_column
from raystore.store import Store

WORDS = ("card", "money", "blue", "hello")
N = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw 'files' ü")
    pq.write_table(
        pa.table(
            {
                "ticket": list(range(N)),
                "body": [f"the {WORDS[i % 4]} {i}" for i in range(N)],
                "customer": [f"c-{i // 2}" for i in range(N)],
                "product": [WORDS[i % 4] for i in range(N)],
                "price": [float(i) for i in range(N)],
            }
        ),
        folder / "tickets.parquet",
    )
    return folder


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Store:
    store = raystore.open(tmp_path_factory.mktemp("collections") / "store")
    store.encoders.register("tiny", model=str(tiny_model))
    store.encoders.register("short", model=str(tiny_model), max_length=8)
    return store


@pytest.fixture(scope="module")
def tickets(store: Store, folder: Path) -> Collection:
    """N embedded rows; read only."""
    tickets = store.create_collection("tickets", encoder="tiny", columns={"product": "string"})
    tickets.embed(
        folder / "tickets.parquet", text="body", id="ticket", subject="customer", keep=["product", "price"], workers=0
    )
    return tickets


@pytest.fixture
def fresh(store: Store, request: pytest.FixtureRequest) -> Collection:
    name = re.sub(r"[^a-z0-9]+", "_", request.node.name.lower())[:60].strip("_")
    return store.create_collection(name, encoder="tiny", columns={"product": "string"})


# --- writing -------------------------------------------------------------------------------------------------------------


def test_embed_says_what_became_of_every_row_and_does_nothing_twice(fresh: Collection, folder: Path) -> None:
    def embed() -> raystore.data.ingest.EmbedReport:  # type: ignore[name-defined]
        return fresh.embed(str(folder / "*.parquet"), text="body", id="ticket", subject="customer", keep=["product"])

    first, again = embed(), embed()
    assert (first.read, first.added, first.known, first.set_aside, first.workers) == (N, N, 0, 0, 0)
    assert (again.read, again.added, again.known) == (N, 0, N)
    assert first.fingerprint == fresh.encoder().fingerprint
    assert str(first).startswith(f"{fresh.name}: {N} rows embedded, 0 known already; ")
    assert str(first).endswith(" rows/s, inline")


def test_progress_counts_up_to_every_row(fresh: Collection, folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    fresh.embed(folder / "tickets.parquet", text="body", id="ticket", workers=0, progress=lambda *done: calls.append(done))
    assert (calls[0], calls[-1]) == ((0, N), (N, N))
    assert calls == sorted(calls)


def test_rows_that_cannot_be_embedded_are_set_aside_with_id_and_reason(fresh: Collection, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b", "c", None], "t": ["fine", "", None, "no id"]}), tmp_path / "some.parquet")
    report = fresh.embed(tmp_path / "some.parquet", text="t", id="id", workers=0)
    assert (report.added, report.set_aside, sum(report.reasons.values())) == (1, 3, 3)
    aside = fresh.set_aside().sort_by("row").to_pylist()
    assert [(row["id"], row["row"]) for row in aside] == [("b", 1), ("c", 2), (None, 3)]
    assert all(row["reason"] and row["source"].endswith("some.parquet") for row in aside)


def test_a_column_that_is_not_there_is_named_with_those_that_are(fresh: Collection, folder: Path) -> None:
    with pytest.raises(InvalidArguments) as refused:
        fresh.embed(folder / "tickets.parquet", text="words", id="number", keep=["colour"])
    has = "it has: ticket, body, customer, product, price"
    path = folder / "tickets.parquet"
    assert str(refused.value) == (
        f"embed into '{fresh.name}': '{path}' has no column 'words' (text=); {has}; '{path}' has no column 'number' (id=); "
        f"{has}; '{path}' has no column 'colour' (keep=); {has}."
    )
    assert len(fresh) == 0


def test_a_report_names_the_most_frequent_reason_and_where_all_stand(fresh: Collection, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b", "c"], "t": ["fine", "", ""]}), tmp_path / "some.parquet")
    report = fresh.embed(tmp_path / "some.parquet", text="t", id="id", workers=0)
    assert "2 set aside (the text is empty; see collection.set_aside()); " in str(report)
    both = replace(report, set_aside=3, reasons={"the text is null": 1, "the text is empty": 2})
    assert "3 set aside (mostly: the text is empty; see collection.set_aside()); " in str(both)


def test_log_commits_once_and_knows_the_row_again(fresh: Collection) -> None:
    row = {"id": "t-1", "subject": "c-9", "text": "my card never arrived", "product": "card"}
    before = fresh.version
    first, again = fresh.log([row]), fresh.log([row])
    assert (first.added, first.known, again.added, again.known) == (1, 0, 0, 1)
    assert fresh.version == first.version > before
    with pytest.raises(IdConflict, match="already holds 't-1' with another payload"):
        fresh.log([{**row, "text": "something else"}])
    assert fresh.get(["t-1"])[0]["subject"] == "c-9"


def test_a_bad_row_stops_the_whole_log_and_all_are_named(fresh: Collection) -> None:
    with pytest.raises(InvalidRows) as refused:
        fresh.log([{"id": "good", "text": "a card"}, {"id": "empty", "text": ""}, {"id": 7, "text": "a number"}])
    assert [row for row, _, _ in refused.value.problems] == [1, 2]
    assert str(refused.value).endswith("Nothing was written.")
    assert len(fresh) == 0


def test_vectors_are_logged_only_under_their_own_passport(fresh: Collection, store: Store) -> None:
    encoder, other = store.encoders["tiny"], store.encoders["short"]
    rows = [{"id": "v-1", "vector": encoder.encode(["a card"])[0]}]
    assert fresh.log(rows, fingerprint=encoder.fingerprint).added == 1
    with pytest.raises(PassportMismatch) as refused:
        fresh.log([{"id": "v-2", "vector": other.encode(["a card"])[0]}], fingerprint=other.fingerprint)
    assert encoder.fingerprint[:12] in str(refused.value)
    assert other.fingerprint[:12] in str(refused.value)


# --- reading -------------------------------------------------------------------------------------------------------------


def test_len_version_and_columns(tickets: Collection) -> None:
    assert len(tickets) == N
    assert tickets.version > 0
    assert tickets.columns == {"product": "string", "price": "float64"}
    encoder = tickets.encoder().label
    assert repr(tickets) == f"<collection tickets: 40 rows, encoder {encoder}, version {tickets.version}>"


def test_get_keeps_the_asked_order_and_names_the_first_that_is_missing(tickets: Collection) -> None:
    assert [row["product"] for row in tickets.get(["7", "0", "7"])] == ["hello", "card", "hello"]
    assert tickets.get([]) == []
    assert set(tickets.get(["3"])[0]) == {"id", "subject", "tenant", "time", "product", "price"}
    with pytest.raises(ItemNotFound, match=r"^no item 'it''s me' in collection 'tickets'\.$".replace("''", "'")):
        tickets.get(["0", "it's me", "nor me"])


def test_to_arrow_shows_vectors_only_by_name_and_takes_a_predicate(tickets: Collection) -> None:
    assert tickets.to_arrow().column_names == ["id", "subject", "tenant", "time", "product", "price"]
    some = tickets.to_arrow(["id", "price"], where="product = 'card' AND price < 10")
    assert sorted(some["id"].to_pylist()) == ["0", "4", "8"]
    vectors = tickets.to_arrow([vector_column(tickets.encoder().fingerprint)])
    assert vectors.column(0).type.list_size == 32
    with pytest.raises(ColumnNotFound, match=r"no column 'colour' in collection 'tickets'\. It has: 'id', "):
        tickets.to_arrow(["colour"])


def test_to_arrow_as_of_a_version_leaves_later_rows_out(fresh: Collection) -> None:
    first = fresh.log([{"id": "a", "text": "a card"}]).version
    fresh.log([{"id": "b", "text": "a card"}])
    assert fresh.to_arrow(["id"], as_of=first)["id"].to_pylist() == ["a"]


# --- searching -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["the collection itself", "an exact index of two shards"])
def searched(request: pytest.FixtureRequest, tickets: Collection, store: Store, folder: Path) -> Collection:
    if request.param == "the collection itself":
        return tickets
    indexed = store.create_collection("indexed", encoder="tiny", exist_ok=True)
    if len(indexed) == 0:
        indexed.embed(folder / "tickets.parquet", text="body", id="ticket", keep=["product", "price"], workers=0)
        assert indexed.build_index(shards=2, workers=0).rows == N
    return indexed


def test_a_text_several_texts_an_item_and_a_vector_find_the_same(searched: Collection) -> None:
    text = "the money 13"
    found = searched.search(text, k=3)
    assert found.ids[0][0] == "13"
    assert found.scores[0][0] == pytest.approx(1, abs=1e-3)
    several = searched.search([text, "the card 4"], k=3)
    assert several.ids[0] == found.ids[0]
    assert several.ids[1][0] == "4"
    assert searched.search(item="13", k=3).ids == found.ids
    assert searched.search(vector=searched.encoder().encode([text]), k=3).ids == found.ids
    assert searched.search(vector=np.asarray(searched.encoder().encode([text]))[0], k=3).ids == found.ids
    assert (found.exact, found.coverage, found.missing) == (True, 1.0, [])
    assert found.fingerprint == searched.encoder().fingerprint


def test_the_scores_are_the_cosines_of_a_plain_matrix_product(searched: Collection) -> None:
    rows = searched.to_arrow(["id", vector_column(searched.encoder().fingerprint)])
    vectors = np.stack(rows.column(1).to_numpy(zero_copy_only=False))
    query = np.asarray(searched.encoder().encode(["hello world"]))[0]
    expected = dict(zip(rows["id"].to_pylist(), vectors @ query, strict=True))
    found = searched.search("hello world", k=N)
    assert set(found.ids[0]) == set(expected)
    assert np.allclose(found.scores[0], [expected[i] for i in found.ids[0]], atol=1e-5)
    assert list(found.scores[0]) == sorted(found.scores[0], reverse=True)


def test_where_and_columns(searched: Collection) -> None:
    found = searched.search("the money 13", k=5, where="product IN ('blue') AND price >= 20", columns=["product", "price"])
    hits = found.to_dicts()
    assert {hit["product"] for hit in hits} == {"blue"}
    assert min(hit["price"] for hit in hits) >= 20
    assert len(hits) == 5
    assert searched.search("a", k=3, where="price > 1000").ids == [[]]
    assert searched.search([], k=3).ids == []
    assert list(found.to_pandas().columns) == ["query", "rank", "id", "score", "product", "price"]


def test_rows_logged_after_the_index_are_found(store: Store, folder: Path) -> None:
    later = store.create_collection("later", encoder="tiny")
    later.embed(folder / "tickets.parquet", text="body", id="ticket", workers=0)
    later.build_index(shards=2, workers=0)
    later.log([{"id": "new", "text": "never limit sentence"}])
    assert later.search("never limit sentence", k=1).ids == [["new"]]
    assert later.index().rows == N  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "given, found",
    [
        ({}, "none"),
        ({"text": "a", "item": "1"}, "text and item"),
        ({"item": "1", "vector": [0.0] * 32}, "item and vector"),
        ({"text": "a", "item": "1", "vector": [0.0] * 32}, "text and item and vector"),
    ],
)
def test_none_or_several_of_text_item_and_vector_are_refused(
    tickets: Collection, given: dict[str, object], found: str
) -> None:
    with pytest.raises(InvalidArguments) as refused:
        tickets.search(**given)  # type: ignore[arg-type]
    assert (
        str(refused.value) == f"search in 'tickets': expected exactly one of text, image, item and vector, found {found}."
    )


@pytest.mark.parametrize(
    "given, error",
    [
        ({"text": "a", "k": 0}, InvalidArguments),
        ({"text": "a", "columns": ["colour"]}, ColumnNotFound),
        ({"text": "a", "where": "colour = 'red'"}, SqlRefused),
        ({"text": "a", "where": "price = "}, SqlRefused),
        ({"text": "a", "where": "price > 'dear'"}, SqlRefused),
        ({"item": "nobody"}, ItemNotFound),
        ({"vector": [1.0] * 31}, DimensionMismatch),
        ({"vector": [float("nan")] * 32}, InvalidVectors),
        ({"vector": [0.0] * 32}, InvalidVectors),
    ],
)
def test_a_search_that_cannot_be_is_refused(searched: Collection, given: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        searched.search(**given)  # type: ignore[arg-type]


def test_a_search_with_another_passport_names_both(searched: Collection, store: Store) -> None:
    mine, other = store.encoders["tiny"], store.encoders["short"]
    with pytest.raises(PassportMismatch) as by_vector:
        searched.search(vector=other.encode(["the card"]))
    assert mine.fingerprint[:12] in str(by_vector.value)
    assert other.fingerprint[:12] in str(by_vector.value)
    with pytest.raises(PassportMismatch) as by_name:
        searched.search("the card", encoder="short")
    assert mine.fingerprint[:12] in str(by_name.value)
    assert other.label in str(by_name.value)


def test_indexes_are_listed_folded_into_and_gone_back_to(fresh: Collection, folder: Path) -> None:
    assert (fresh.indexes(), fresh.index(), fresh.fold_index()) == ([], None, None)
    with pytest.raises(IndexNotFound, match=r"^no index over collection .* Build one: "):
        fresh.use_index(1)
    fresh.embed(folder / "tickets.parquet", text="body", id="ticket", workers=0)
    fresh.build_index(shards=2, workers=0)
    assert fresh.fold_index() is None
    fresh.log([{"id": "new", "text": "never limit sentence"}])
    folded = fresh.fold_index()
    assert folded is not None
    assert (folded.rows, len(folded.shards), folded.made_by, folded.made_from) == (N + 1, 3, "fold", 1)
    back = fresh.use_index(1)
    assert (back.rows, back.made_by, back.made_from) == (N, "rollback", 1)
    facts = [(f.number, f.live, f.rows, f.shards, f.made_by) for f in fresh.indexes()]
    assert facts == [(3, True, N, 2, "rollback"), (2, False, N + 1, 3, "fold"), (1, False, N, 2, "build")]
    assert fresh.search("never limit sentence", k=1).ids == [["new"]]  # it stands beside the older one
    with pytest.raises(IndexNotFound, match=r"^no index '7' over collection .* It has: '1', '2', '3'\.$"):
        fresh.use_index(7)


def test_a_profile_finds_what_is_near_many_rows_and_not_these(searched: Collection, tickets: Collection) -> None:
    found = searched.recommend(["1", "5"], k=3, columns=["product"])
    vectors = searched.encoder().encode(["the money 1", "the money 5"])
    without = searched.search(vector=np.asarray(vectors).mean(axis=0), k=5).ids[0]
    assert found.ids[0] == [i for i in without if i not in ("1", "5")][:3]
    assert set(found.to_dicts()[0]) == {"query", "rank", "id", "score", "product"}
    mine = tickets.recommend(subject="c-3", k=2, where="product = 'card'")  # rows 6 and 7
    assert mine.ids == tickets.recommend(["6", "7"], k=2, where="product = 'card'").ids
    with pytest.raises(ItemNotFound, match="the subjects of collection 'tickets'"):
        tickets.recommend(subject="nobody")
    with pytest.raises(ItemNotFound):
        tickets.recommend(["1", "nothing"])
    for given, problem in (({}, "none"), ({"items": ["1"], "subject": "c-3"}, "both")):
        with pytest.raises(InvalidArguments, match=f"expected one of items and subject, found {problem}"):
            tickets.recommend(**given)  # type: ignore[arg-type]


def test_an_index_over_nothing_is_refused(fresh: Collection) -> None:
    with pytest.raises(InvalidArguments, match="no rows"):
        fresh.build_index(workers=0)
    assert fresh.index() is None


def test_closing_lets_go_and_searching_goes_on(searched: Collection) -> None:
    before = searched.search("a card", k=3).ids
    searched.close()
    assert searched.search("a card", k=3).ids == before
