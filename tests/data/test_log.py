from __future__ import annotations

import threading
from datetime import UTC, datetime

import numpy as np
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.log import RowLog
from raystore.errors import IdConflict, InvalidRows, PassportMismatch
from tests.data.toy import VECTORS, OtherEncoder, ToyEncoder, make_log

MINE = ToyEncoder.fingerprint
CANARY = "canary-8c1f"


@pytest.fixture
def encoder() -> ToyEncoder:
    return ToyEncoder()


@pytest.fixture
def log(tickets: CollectionTable, encoder: ToyEncoder) -> RowLog:
    return make_log(tickets, encoder)


def ids_of(table: CollectionTable) -> list[str]:
    return table.to_arrow(["id"]).column("id").to_pylist()


def test_a_logged_row_is_there_with_its_vector_and_columns(tickets: CollectionTable, log: RowLog) -> None:
    time = datetime(2026, 11, 20, 9, tzinfo=UTC)
    row = {"id": "t-1", "subject": "c-9", "tenant": "x", "time": time, "text": "hello", "product": "card", "price": 2}
    result = log.log([row])
    assert (result.version, result.added, result.known, result.fingerprint) == (tickets.version, 1, 0, MINE)
    (found,) = tickets.to_arrow([*tickets.visible, VECTORS]).to_pylist()
    unit = np.array([1, 5, 1]) / np.sqrt(27)
    assert found.pop(VECTORS) == pytest.approx(unit.tolist())
    wanted = {**row, "price": 2.0, "n": None, "paid": None, "due": None}
    del wanted["text"]
    assert found == wanted


def test_a_row_without_a_time_gets_the_present_one(tickets: CollectionTable, log: RowLog) -> None:
    before = datetime.now(UTC)
    log.log([{"id": "a", "text": "hello"}])
    (time,) = tickets.to_arrow(["time"]).column("time").to_pylist()
    assert before <= time <= datetime.now(UTC)


def test_a_row_sent_again_changes_nothing_and_is_not_encoded_again(
    tickets: CollectionTable, log: RowLog, encoder: ToyEncoder
) -> None:
    rows = [{"id": "a", "text": "one", "product": "card"}, {"id": "b", "text": "two", "product": None}]
    first = log.log(rows)
    again = log.log(list(reversed(rows)))
    assert (again.version, again.added, again.known) == (first.version, 0, 2)
    assert encoder.encoded == ["one", "two"]
    mixed = log.log([rows[0], {"id": "c", "text": "three"}])
    assert (mixed.added, mixed.known) == (1, 1)
    assert encoder.encoded == ["one", "two", "three"]
    assert ids_of(tickets) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "change",
    [{"text": "else"}, {"product": "loan"}, {"product": None}, {"subject": "c-2"}, {"tenant": "y"}, {"n": 1}],
    ids=lambda c: next(iter(c)),
)
def test_another_payload_under_a_known_id_is_a_conflict_and_nothing_is_written(
    tickets: CollectionTable, log: RowLog, change: dict
) -> None:
    row = {"id": "t '1'", "subject": "c-1", "tenant": "x", "text": "hello", "product": "card"}
    log.log([row])
    before = tickets.version
    with pytest.raises(IdConflict) as conflict:
        log.log([{"id": "new", "text": CANARY}, row | change])
    assert str(conflict.value) == (
        "collection 'tickets' already holds 't '1'' with another payload. A row never changes: log the new content "
        "under a new id. Nothing was written."
    )
    assert (tickets.version, ids_of(tickets)) == (before, ["t '1'"])


def test_another_time_is_no_other_payload(tickets: CollectionTable, log: RowLog) -> None:
    log.log([{"id": "a", "text": "hello"}])
    assert log.log([{"id": "a", "text": "hello", "time": "2020-01-01"}]).known == 1


def test_bad_rows_are_all_named_and_nothing_is_written(tickets: CollectionTable, log: RowLog) -> None:
    rows = [
        {"id": "good", "text": "hello"},
        {"id": "nul", "text": None},
        {"id": "empty", "text": "  "},
        {"id": "long", "text": CANARY * 100},
        {"id": "good", "text": "hello"},
        {"id": 7, "text": CANARY},
    ]
    before = tickets.version
    with pytest.raises(InvalidRows) as refused:
        log.log(rows)
    assert str(refused.value) == (
        "5 of 6 rows for collection 'tickets' cannot be written: "
        "row 1 (id 'nul'): the text is null; "
        "row 2 (id 'empty'): the text is empty; "
        "row 3 (id 'long'): the text has 1100 characters, over the limit of 100; "
        "row 4 (id 'good'): the id stands in row 0 of this call already; "
        "row 5: the id is int, expected a string. Nothing was written."
    )
    assert (tickets.version, len(ids_of(tickets))) == (before, 0)


def test_bad_vectors_are_all_named_and_nothing_is_written(tickets: CollectionTable, log: RowLog) -> None:
    rows = [
        {"id": "good", "vector": [3, 4, 0]},
        {"id": "short", "vector": [1, 2]},
        {"id": "nan", "vector": [1, float("nan"), 0]},
        {"id": "infinite", "vector": np.array([1, np.inf, 0])},
        {"id": "zero", "vector": [0, 0, 0]},
        {"id": "null", "vector": None},
        {"id": "words", "vector": CANARY},
        {"id": "two", "vector": [[1, 2, 3], [4, 5, 6]]},
        {"id": "huge", "vector": [1e300, 0, 0]},
        "no row",
    ]
    with pytest.raises(InvalidRows) as refused:
        log.log(rows, fingerprint=MINE)
    assert refused.value.problems == [
        (1, "short", "the vector has 2 numbers, expected 3"),
        (2, "nan", "the vector holds NaN or infinity"),
        (3, "infinite", "the vector holds NaN or infinity"),
        (4, "zero", "the vector is zero"),
        (5, "null", "the vector is null"),
        (6, "words", "the vector is not a list of numbers"),
        (7, "two", "the vector is a list of 2 vectors, expected one"),
        (8, "huge", "the vector holds NaN or infinity"),
        (9, None, "is str, expected a mapping"),
    ]
    assert str(refused.value) == (
        "9 of 10 rows for collection 'tickets' cannot be written: row 1 (id 'short'): the vector has 2 numbers, expected 3; "
        "row 2 (id 'nan'): the vector holds NaN or infinity; row 3 (id 'infinite'): the vector holds NaN or infinity; "
        "row 4 (id 'zero'): the vector is zero; row 5 (id 'null'): the vector is null; and 4 more. Nothing was written."
    )
    assert ids_of(tickets) == []


def test_given_vectors_are_kept_as_unit_rows_beside_encoded_ones(tickets: CollectionTable, log: RowLog) -> None:
    rows = [{"id": "v", "vector": [3, 4, 0]}, {"id": "t", "text": "e"}, {"id": "w", "vector": [0, 0, -2]}]
    assert log.log(rows, fingerprint=MINE).added == 3
    assert log.log(rows, fingerprint=MINE).known == 3
    third = 1 / np.sqrt(3)
    wanted = [[0.6, 0.8, 0], [third] * 3, [0, 0, -1]]
    np.testing.assert_allclose(tickets.vectors_of(["v", "t", "w"], MINE), wanted, rtol=1e-6)


def test_vectors_of_nobody_are_refused(log: RowLog) -> None:
    with pytest.raises(InvalidRows) as refused:
        log.log([{"id": "t", "text": "hello"}, {"id": "v", "vector": [1, 2, 3]}])
    assert refused.value.problems == [
        (1, None, "vectors are given without fingerprint=, so nobody knows which encoder made them")
    ]


def test_vectors_of_another_encoder_are_refused(tickets: CollectionTable, log: RowLog) -> None:
    with pytest.raises(PassportMismatch) as refused:
        log.log([{"id": "v", "vector": [1, 2, 3]}], fingerprint=OtherEncoder.fingerprint)
    assert str(refused.value) == (
        f"collection 'tickets' expects {MINE[:12]}, but was given {OtherEncoder.fingerprint[:12]}. "
        "Encode with the collection's encoder, or use a collection made for this one."
    )
    with pytest.raises(PassportMismatch):
        make_log(tickets, OtherEncoder())


def test_an_undeclared_column_is_refused_so_that_a_misspelt_text_is_not_kept(tickets: CollectionTable, log: RowLog) -> None:
    with pytest.raises(InvalidRows) as refused:
        log.log([{"id": "a", "text": "one", "product": "card"}, {"id": "b", "txet": CANARY, CANARY: 1}])
    has = "(it has: product, price, n, paid, due)"
    assert refused.value.problems == [
        (1, None, "a key is no column name: letters, digits and '_', not starting with '_' or 'vec_'"),
        (1, "b", "expected exactly one of 'text', 'image' and 'vector'"),
        (1, None, f"a key is no kept column of the collection {has}"),
        (1, None, f"a key is no kept column of the collection {has}"),
    ]
    assert CANARY not in str(refused.value)
    assert tickets.count() == 0


def test_an_undeclared_column_is_added_nullable_when_asked(tickets: CollectionTable, log: RowLog) -> None:
    log.log([{"id": "a", "text": "one"}])
    row = {"id": "b", "text": "two", "channel": "mail", "score": np.float32(0.5), "unknown": None}
    log.log([row], add_columns=True)
    assert tickets.columns["channel"] == "string"
    assert tickets.columns["score"] == "float64"
    assert "unknown" not in tickets.columns
    assert tickets.to_arrow(["id", "channel", "score"]).to_pylist() == [
        {"id": "a", "channel": None, "score": None},
        {"id": "b", "channel": "mail", "score": 0.5},
    ]


def test_an_undeclared_column_is_checked_once_it_is_there(tickets: CollectionTable, log: RowLog) -> None:
    log.log([{"id": "a", "text": "one", "score": 1}], add_columns=True)
    with pytest.raises(InvalidRows) as refused:
        log.log([{"id": "b", "text": "two", "score": CANARY}])
    assert str(refused.value) == (
        "1 of 1 rows for collection 'tickets' cannot be written: row 0 (id 'b'): column 'score' is str, expected int64. "
        "Nothing was written."
    )


def test_writers_that_add_one_column_with_two_types_get_one_column_and_one_refusal(tickets: CollectionTable) -> None:
    """The slower writer looked at the columns before the faster one added its own."""

    class Slow(CollectionTable):
        """The real table; after it has been asked for its columns the first time, another writer adds one."""

        @property
        def columns(self) -> dict[str, str]:
            found = super().columns
            if "score" not in found:
                make_log(tickets).log([{"id": "fast", "text": "one", "score": 1}], add_columns=True)
            return found

    slow = make_log(Slow(tickets.layout, "tickets"))
    with pytest.raises(InvalidRows, match="column 'score' is str, expected int64"):
        slow.log([{"id": "slow", "text": "two", "score": "high"}], add_columns=True)
    assert ids_of(tickets) == ["fast"]


def test_lone_surrogates_are_refused(log: RowLog) -> None:
    bad = "a\udcff"
    rows = [{"id": bad, "text": "t"}, {"id": "b", "text": bad}, {"id": "c", "text": "t", "product": bad, "subject": bad}]
    with pytest.raises(InvalidRows) as refused:
        log.log(rows)
    assert refused.value.problems == [
        (0, None, "the id is not valid Unicode"),
        (1, "b", "the text is not valid Unicode (files are read as UTF-8)"),
        (2, "c", "subject is not valid Unicode"),
        (2, "c", "column 'product' is not valid Unicode"),
    ]


@pytest.mark.parametrize("rows", [[], (), iter([])])
def test_no_rows_are_no_commit(tickets: CollectionTable, log: RowLog, rows: object) -> None:
    before = tickets.version
    result = log.log(rows)
    assert (result.version, result.added, result.known) == (before, 0, 0)


def test_rows_may_come_from_a_generator(tickets: CollectionTable, log: RowLog) -> None:
    rows = ({"id": str(i), "text": "hello", "fresh": i} for i in range(3))
    assert log.log(rows, add_columns=True).added == 3


def test_one_row_instead_of_a_list_is_refused(log: RowLog) -> None:
    with pytest.raises(InvalidRows, match="row 0: is str, expected a mapping"):
        log.log({"id": "a", "text": "hello"})


def test_many_threads_share_commits_and_each_id_lands_once(tickets: CollectionTable, log: RowLog) -> None:
    before, results, gate = tickets.version, [], threading.Barrier(12)

    def work(start: int) -> None:
        gate.wait()
        for i in range(start, start + 6):  # each id is logged by six threads
            results.append(log.log([{"id": f"row-{i}", "text": f"text {i}"}]))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ids_of(tickets)) == sorted(f"row-{i}" for i in range(17))
    assert sum(r.added for r in results) == 17
    assert sum(r.added + r.known for r in results) == 72
    assert tickets.version - before < 17  # some commits held rows of several threads
    for result in results:
        assert before <= result.version <= tickets.version


def test_threads_with_two_payloads_for_one_id_get_one_row_and_conflicts(tickets: CollectionTable, log: RowLog) -> None:
    outcomes, gate = [], threading.Barrier(8)

    def work(number: int) -> None:
        gate.wait()
        try:
            outcomes.append(log.log([{"id": "same", "text": f"text {number}"}, {"id": f"own-{number}", "text": "mine"}]))
        except IdConflict as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len([o for o in outcomes if not isinstance(o, IdConflict)]) == 1
    assert len(outcomes) == 8
    assert len(ids_of(tickets)) == 2  # the same, and the one winner's own
