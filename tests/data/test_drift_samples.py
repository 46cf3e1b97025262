from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raystore.data.collection import CollectionTable
from raystore.data.columns import vector_array
from raystore.data.drift.drift import Sample, drift
from raystore.data.drift.samples import collection_drift, snapshot_drift
from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.errors import ColumnNotFound, InvalidArguments, PassportMismatch
from raystore.layout import Layout, vector_column
from raystore.vectors import Matrix
from tests.data.frozen import frozen

FINGERPRINT = "5eed" * 16
NEW_YEAR = datetime(2026, 1, 1, tzinfo=UTC)
N = 120


def cloud(n: int, seed: int, shift: float = 0.0) -> Matrix:
    rows = np.random.default_rng(seed).normal(size=(n, 6))
    rows[:, 0] += shift
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def add(
    table: CollectionTable, vectors: Matrix, first: int, *, lacking: int = 0, when: datetime | None = NEW_YEAR
) -> list[str]:
    """Rows with these vectors, the last of them without one; topics alternate."""
    n = len(vectors)
    ids = [f"t-{first + i:04}" for i in range(n)]
    rows = pa.table(
        {
            "id": ids,
            "_payload": pa.array([b"p" * 32] * n, pa.binary(32)),
            "topic": ["card" if i % 3 else "cash" for i in range(n)],
            "paid": [bool(i % 2) for i in range(n)],
            "price": [float(i) for i in range(n)],
            "time": pa.array([when] * n, pa.timestamp("us", "UTC")),
            vector_column(FINGERPRINT): vector_array(vectors, np.arange(n) < n - lacking),
        }
    )
    table.rows.commit([rows], refuse_differing=True)
    return ids


@pytest.fixture
def table(layout: Layout) -> CollectionTable:
    columns = {"topic": "string", "paid": "bool", "price": "float64"}
    return CollectionTable.create(layout, "tickets", {FINGERPRINT: 6, "ab12" * 16: 3}, columns)


def take(folder: Path, ids: list[str], number: int, label: object = "x", **more: str) -> SnapshotRecord:
    task = "number" if isinstance(label, float) else "classes"
    rows = [
        {"id": id_, "label": label + i if isinstance(label, float) else label, "split": "train"}
        for i, id_ in enumerate(ids)
    ]
    return frozen(folder, rows, number=number, task=task, **more)


def test_snapshots_whose_vectors_differ_are_an_alarm(table: CollectionTable, tmp_path: Path) -> None:
    one, other = add(table, cloud(N, 1), 0), add(table, cloud(N, 2, shift=2), N)
    a, b = take(tmp_path, one, 1), take(tmp_path, other, 2, label="y")
    report = snapshot_drift(a, b, table, FINGERPRINT, seed=3)
    assert (report.a, report.b, report.rows, report.alarm) == ("refunds@1", "refunds@2", (N, N), True)
    assert [(c.label, c.change) for c in report.balance.changes] == [("x", -1.0), ("y", 1.0)]
    plain = drift(
        Sample(np.asarray(table.vectors_of(one, FINGERPRINT)), ["x"] * N, "refunds@1", one),
        Sample(np.asarray(table.vectors_of(other, FINGERPRINT)), ["y"] * N, "refunds@2", other),
        seed=3,
    )
    assert report == plain


def test_rows_of_both_snapshots_are_drawn_once_and_no_alarm_by_themselves(table: CollectionTable, tmp_path: Path) -> None:
    ids = add(table, cloud(N, 1), 0)
    report = snapshot_drift(take(tmp_path, ids, 1), take(tmp_path, ids, 2), table, FINGERPRINT)
    assert (report.shared, sum(report.embedding.sizes), report.alarm) == (N, N, False)


def test_erased_rows_and_rows_without_a_vector_are_left_out_and_said(table: CollectionTable, tmp_path: Path) -> None:
    one, other = add(table, cloud(N, 1), 0, lacking=2), add(table, cloud(N, 2), N)
    a, b = take(tmp_path, one, 1), take(tmp_path, other, 2)
    table.rows.dataset().delete("id IN ('t-0000', 't-0001', 't-0200')")
    report = snapshot_drift(a, b, table, FINGERPRINT)
    assert (report.rows, report.embedding.sizes) == ((N - 2, N - 1), (N - 4, N - 1))
    assert report.note == (
        "2 rows of refunds@1 were erased. 1 rows of refunds@2 were erased. 2 drawn rows have no vector of this encoder."
    )
    assert str(report).split("\n\n")[0].endswith(report.note)


def test_numbers_are_compared_by_tenths_of_the_first_snapshot(table: CollectionTable, tmp_path: Path) -> None:
    one, other = add(table, cloud(N, 1), 0), add(table, cloud(N, 2), N)
    report = snapshot_drift(take(tmp_path, one, 1, label=0.0), take(tmp_path, other, 2, label=1_000.0), table, FINGERPRINT)
    assert len(report.balance.changes) == 10
    first = report.balance.changes[0]
    assert (first.label, first.change) == ("over 107.1", 0.9)
    assert report.note == "Its classes are the tenths of the numbers of refunds@1."
    assert all(c.share_a == pytest.approx(0.1) for c in report.balance.changes)


def test_one_side_may_be_asked_for(table: CollectionTable, tmp_path: Path) -> None:
    ids = add(table, cloud(N, 1), 0)
    rows = [{"id": id_, "label": "x", "split": "test" if i < 40 else "train"} for i, id_ in enumerate(ids)]
    a, b = frozen(tmp_path, rows), frozen(tmp_path, rows, number=2)
    report = snapshot_drift(a, b, table, FINGERPRINT, side="test")
    assert (report.a, report.rows) == ("refunds@1 test", (40, 40))


def test_snapshots_that_do_not_compare_are_refused(table: CollectionTable, tmp_path: Path) -> None:
    ids = add(table, cloud(N, 1), 0)
    a, b = take(tmp_path, ids, 1), take(tmp_path, ids, 2, label=1.0, collection="photos")
    with pytest.raises(InvalidArguments) as refused:
        snapshot_drift(a, b, table, FINGERPRINT, side="dev", permutations=5)
    assert str(refused.value) == (
        "drift of 'refunds@1' and 'refunds@2': refunds@2 is of collection 'photos', the collection given is 'tickets'; "
        "the labels of refunds@1 are classes and those of refunds@2 number; side is 'dev', expected train, val, test or None for all; "
        "permutations is 5, expected 200 or more: fewer cannot give p < 0.01."
    )
    with pytest.raises(PassportMismatch):
        snapshot_drift(a, a, table, "cd34" * 16)
    few = take(tmp_path, ids[:3], 3)
    with pytest.raises(
        InvalidArguments, match=r"'refunds@3' has . rows to draw that the other has not, expected 10 or more"
    ):
        snapshot_drift(a, few, table, FINGERPRINT)


def test_a_collection_is_compared_with_what_it_was_at_a_version(table: CollectionTable) -> None:
    add(table, cloud(N, 1), 0)
    version = table.version
    add(table, cloud(N, 2, shift=2), N, lacking=5)
    report = collection_drift(table, FINGERPRINT, version, label="topic")
    assert (report.a, report.b) == (f"tickets before version {version}", f"tickets since version {version}")
    assert (report.rows, report.alarm) == ((N, N - 5), True)
    assert {c.label for c in report.balance.changes} == {"card", "cash"}
    assert report.note == "5 rows have no vector of this encoder and are left out."
    assert collection_drift(table, FINGERPRINT, version).balance is None
    assert {c.label for c in collection_drift(table, FINGERPRINT, version, label="paid").balance.changes} == {
        "true",
        "false",
    }


def test_the_drawn_rows_have_their_own_vectors(table: CollectionTable) -> None:
    """Each side holds one direction; were a vector another row's, the sides would mix."""
    for n, first in ((60, 0), (60, 60), (60, 120)):
        vectors = np.zeros((n, 6), np.float32)
        vectors[:, 1 if first else 0] = 1
        add(table, vectors, first, when=NEW_YEAR + timedelta(days=first))
    report = collection_drift(table, FINGERPRINT, NEW_YEAR + timedelta(days=1), sample=50)
    assert (report.rows, report.embedding.sizes, report.embedding.auc) == ((60, 120), (50, 50), 1.0)


def test_a_collection_is_compared_with_what_it_was_before_a_date(table: CollectionTable) -> None:
    add(table, cloud(N, 1), 0, when=NEW_YEAR)
    add(table, cloud(N, 2), N, when=NEW_YEAR + timedelta(days=3))
    add(table, cloud(4, 3), 2 * N, when=None)
    for since in (NEW_YEAR + timedelta(days=3), datetime(2026, 1, 4), "2026-01-04"):
        report = collection_drift(table, FINGERPRINT, since, label="topic")
        assert (report.rows, report.alarm) == ((N, N), False)
        assert report.note == "4 rows have no time and are left out."
    assert report.b == "tickets since 2026-01-04 00:00:00"


def test_a_collection_that_cannot_be_compared_is_said(table: CollectionTable) -> None:
    add(table, cloud(N, 1), 0)
    with pytest.raises(InvalidArguments) as refused:
        collection_drift(table, FINGERPRINT, table.version)
    assert str(refused.value) == (
        f"drift of 'tickets before version {table.version}' and 'tickets since version {table.version}': "
        f"'tickets since version {table.version}' has 0 rows to draw that the other has not, expected 10 or more."
    )
    for since, told in {"last week": "'last week'", 2.5: "a float", True: "a bool"}.items():
        with pytest.raises(InvalidArguments) as refused:
            collection_drift(table, FINGERPRINT, since)  # type: ignore[arg-type]
        assert str(refused.value) == f"drift: since is {told}, expected a version, a datetime or an ISO 8601 string."
    with pytest.raises(ColumnNotFound):
        collection_drift(table, FINGERPRINT, 1, label="color")
    with pytest.raises(InvalidArguments, match="the column 'price' holds float64, expected string, int64, bool"):
        collection_drift(table, FINGERPRINT, 1, label="price")
    with pytest.raises(InvalidArguments, match="the column 'time' holds timestamp, expected string, int64, bool"):
        collection_drift(table, FINGERPRINT, 1, label="time")
