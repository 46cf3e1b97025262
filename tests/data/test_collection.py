from __future__ import annotations

import numpy as np
import pytest

from raystore.data.collection import CollectionTable, collection_names
from raystore.errors import AlreadyExists, CollectionNotFound, ColumnNotFound, InvalidArguments, InvalidName, ItemNotFound
from raystore.layout import Layout, vector_column
from tests.data.toy import VECTORS, OtherEncoder, ToyEncoder, make_log, make_tickets, some_values

MINE = ToyEncoder.fingerprint


@pytest.fixture
def filled(tickets: CollectionTable) -> CollectionTable:
    log = make_log(tickets)
    log.log([{"id": f"row-{i}", "text": "e" * (i + 1), "n": i, "product": "card" if i % 2 else None} for i in range(10)])
    log.log([{"id": "it's", "text": "late", "n": 10}])
    return tickets


def test_a_collection_knows_its_columns_and_encoders(tickets: CollectionTable) -> None:
    declared = {"product": "string", "price": "float64", "n": "int64", "paid": "bool", "due": "date"}
    assert tickets.columns == declared
    assert tickets.visible == ["id", "subject", "tenant", "time", *declared]
    assert tickets.fingerprints == [MINE]
    assert tickets.dim(MINE) == 3
    assert tickets.count() == 0
    assert collection_names(tickets.layout) == ["tickets"]


def test_everything_wrong_with_declared_columns_is_said_at_once(layout: Layout) -> None:
    columns = {"id": "string", "two words": "string", "_x": "int64", "a": "text", "B": "bool", "b": "bool", "Time": "date"}
    with pytest.raises(InvalidArguments) as refused:
        make_tickets(layout, columns)
    rule = "is no column name: letters, digits and '_', not starting with '_' or 'vec_'"
    types = "expected one of string, int64, float64, bool, timestamp, date"
    assert str(refused.value) == (
        "create_collection('tickets'): 'id' is one of the store's own columns (id, subject, tenant, time); "
        f"'two words' {rule}; '_x' {rule}; column 'a' has type 'text', {types}; "
        "'B' differs from 'b' in case only, which SQL does not tell apart; "
        "'b' differs from 'B' in case only, which SQL does not tell apart; "
        "'Time' differs from 'time' in case only, which SQL does not tell apart."
    )
    assert collection_names(layout) == []


@pytest.mark.parametrize("name", ["", "Tickets", "1st", "a-b", "../up", "a" * 64, "tick ets", 7])
def test_a_name_that_can_be_no_collection_is_refused(layout: Layout, name: str) -> None:
    with pytest.raises(InvalidName) as refused:
        CollectionTable.create(layout, name, {MINE: 3})
    assert str(refused.value) == (
        f"'{name}' is no name for a collection: expected 1 to 63 characters, a small letter first, "
        "then small letters, digits or '_'."
    )


def test_a_collection_is_made_once(tickets: CollectionTable) -> None:
    with pytest.raises(AlreadyExists) as taken:
        make_tickets(tickets.layout)
    assert str(taken.value) == "collection 'tickets' exists already. Open it: store.collection('tickets')."


def test_a_collection_that_is_not_there_is_said_with_those_that_are(tickets: CollectionTable) -> None:
    with pytest.raises(CollectionNotFound) as missing:
        CollectionTable.open(tickets.layout, "mails")
    assert str(missing.value) == f"no collection 'mails' in store '{tickets.layout.root}'. It has: 'tickets'."


def test_rows_are_read_as_of_a_version_and_by_a_predicate(filled: CollectionTable) -> None:
    assert filled.to_arrow(["id"], as_of=filled.version - 1).column("id").to_pylist() == [f"row-{i}" for i in range(10)]
    assert filled.to_arrow(["n"], where="n > 7").column("n").to_pylist() == [8, 9, 10]
    assert filled.to_arrow(["n"], where="n > 7 OR n = 0", as_of=filled.version - 1).column("n").to_pylist() == [0, 8, 9]
    assert filled.count("product IS NULL") == 6
    assert filled.count(as_of=1) == 0
    assert filled.to_arrow().column_names == filled.visible


@pytest.mark.parametrize("column", ["colour", "_payload", "_added", "_rowid"])
def test_a_column_that_is_hidden_or_not_there_cannot_be_read(filled: CollectionTable, column: str) -> None:
    with pytest.raises(ColumnNotFound) as missing:
        filled.to_arrow(["id", column])
    assert str(missing.value) == (
        f"no column '{column}' in collection 'tickets'. "
        "It has: 'id', 'subject', 'tenant', 'time', 'product', 'price', 'n', 'paid' and 1 more."
    )
    with pytest.raises(ColumnNotFound):
        next(filled.scan(MINE, columns=[column]))


def test_a_scan_gives_every_vector_once_in_batches(filled: CollectionTable) -> None:
    batches = list(filled.scan(MINE, columns=["n", VECTORS], batch_rows=4))
    ids = [id_ for batch in batches for id_ in batch.ids.to_pylist()]
    assert ids == [*(f"row-{i}" for i in range(10)), "it's"]
    assert max(len(b.ids) for b in batches) <= 4
    vectors = np.concatenate([b.vectors for b in batches])
    np.testing.assert_array_equal(vectors, np.asarray(filled.vectors_of(ids, MINE)))
    assert [n for b in batches for n in b.table.column("n").to_pylist()] == list(range(11))
    rows = np.concatenate([b.row_ids for b in batches])
    assert len(set(rows.tolist())) == 11


def test_a_scan_can_be_cut_by_version_predicate_and_row_ids(filled: CollectionTable) -> None:
    def ids(**cut: object) -> list[str]:
        return [i for b in filled.scan(MINE, **cut) for i in b.ids.to_pylist()]

    assert ids(since=filled.version - 1) == ["it's"]
    assert ids(where="n < 2 OR n > 9") == ["row-0", "row-1", "it's"]
    rows = filled.row_ids()
    lo, hi = int(rows[3]), int(rows[6])
    assert ids(row_ids=(lo, hi), where="n != 4") == ["row-3", "row-5"]
    assert filled.row_ids("n = 3").tolist() == [lo]
    found = filled.rows_by_row_id([lo, hi, 10**9], ["id"])
    assert dict(zip(found.column("_rowid").to_pylist(), found.column("id").to_pylist(), strict=True)) == {
        lo: "row-3", hi: "row-6"
    }  # fmt: skip
    assert filled.rows_by_row_id([], ["id"]).num_rows == 0


def test_row_ids_stay_when_fragments_are_merged(filled: CollectionTable) -> None:
    def numbered() -> dict[str, int]:
        batches = list(filled.scan(MINE))
        return {i: int(r) for b in batches for i, r in zip(b.ids.to_pylist(), b.row_ids, strict=True)}

    before = numbered()
    fragments = len(filled.rows.dataset().get_fragments())
    log = make_log(filled)
    for i in range(40):
        log.log([{"id": f"more-{i}", "text": "hello"}])
    assert len(filled.rows.dataset().get_fragments()) < fragments + 40
    after = numbered()
    assert {i: after[i] for i in before} == before


def test_rows_come_in_the_order_they_were_added_also_when_fragments_were_merged(tickets: CollectionTable) -> None:
    log = make_log(tickets)
    log.log([{"id": f"first-{i}", "text": "hello", "n": i} for i in range(1_100)])
    for i in range(1_100, 1_170):
        log.log([{"id": f"row-{i}", "text": "hello", "n": i}])
    assert tickets.to_arrow(["n"]).column("n").to_pylist() == list(range(1_170))
    found = tickets.to_arrow(["n", VECTORS], where="n >= 1150 OR n = 3")
    assert found.column("n").to_pylist() == [3, *range(1_150, 1_170)]
    assert found.column_names == ["n", VECTORS]


def test_vectors_come_in_the_order_asked_for_and_as_often(filled: CollectionTable) -> None:
    found = filled.vectors_of(["it's", "row-1", "it's"], MINE)
    assert found.fingerprint == MINE
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_allclose(found[1], np.array([1, 2, 2]) / 3, rtol=1e-6)
    assert filled.vectors_of([], MINE).shape == (0, 3)


def test_vectors_of_an_id_that_is_not_there_are_not_found(filled: CollectionTable) -> None:
    with pytest.raises(ItemNotFound) as missing:
        filled.vectors_of(["row-1", "nobody"], MINE)
    assert str(missing.value) == "no item 'nobody' in collection 'tickets' with a vector of this encoder."


def test_rows_without_a_vector_of_the_encoder_are_left_out(layout: Layout) -> None:
    dims = {MINE: 3, OtherEncoder.fingerprint: 3}
    table = CollectionTable.create(layout, "tickets", dims)
    make_log(table).log([{"id": "mine", "text": "one"}])
    make_log(table, OtherEncoder()).log([{"id": "other", "text": "two"}])
    assert [b.ids.to_pylist() for b in table.scan(MINE)] == [["mine"]]
    with pytest.raises(ItemNotFound):
        table.vectors_of(["other"], MINE)
    assert table.fingerprints == [MINE, OtherEncoder.fingerprint]


def test_a_second_encoders_column_is_null_until_it_is_filled(layout: Layout) -> None:
    table = make_tickets(layout)
    make_log(table).log([{"id": i, "text": i} for i in "abc"])
    row_ids = table.row_ids()
    assert table.with_vector(ToyEncoder.fingerprint, row_ids).tolist() == row_ids.tolist()
    assert table.add_encoder(OtherEncoder.fingerprint, OtherEncoder.dim)
    assert not table.add_encoder(OtherEncoder.fingerprint, OtherEncoder.dim)
    assert table.fingerprints == [ToyEncoder.fingerprint, OtherEncoder.fingerprint]
    assert table.count_lacking(OtherEncoder.fingerprint) == 3
    column = vector_column(OtherEncoder.fingerprint)
    table.rows.fill(some_values(["b"], column, table.rows.known(["b"])["b"].payload), column)
    assert table.count_lacking(OtherEncoder.fingerprint) == 2
    assert table.with_vector(OtherEncoder.fingerprint, row_ids).tolist() == [row_ids[1]]
    assert table.with_vector(OtherEncoder.fingerprint, row_ids[:1]).tolist() == []
    assert [batch.ids.to_pylist() for batch in table.scan(OtherEncoder.fingerprint)] == [["b"]]


def test_an_encoder_whose_fingerprint_begins_like_anothers_gets_no_column(layout: Layout) -> None:
    table = make_tickets(layout)
    twin = ToyEncoder.fingerprint[:12] + "0" * 52
    with pytest.raises(InvalidArguments) as refused:
        table.add_encoder(twin, 3)
    assert str(refused.value) == (
        "add_encoder to 'tickets': the column 'vec_ab12ab12ab12' is another encoder's, whose fingerprint begins alike."
    )
    assert table.fingerprints == [ToyEncoder.fingerprint]
