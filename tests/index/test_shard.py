from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import InvalidVectors, ShardCorrupt
from raystore.index.manifest import ShardRecord
from raystore.index.metric import METRICS, Metric
from raystore.index.shards.hnsw import Graph, held_positions
from raystore.index.shards.ivf import list_count, sample_rows
from raystore.index.shards.probes import choose_probes
from raystore.index.shards.refine import best_of
from raystore.index.shards.rows_file import joined_ids, read_rows_file, write_rows
from raystore.index.shards.shard import Shard, ShardFacts, memory_shard
from raystore.index.shards.shard_vectors import HeldVectors
from raystore.index.shards.threads import faiss_threads
from raystore.index.shards.write import write_shard

from .array_source import ArraySource, name_of
from .conftest import clustered, unit


class Away(HeldVectors):
    """Vectors that are not on this machine: they can be asked for, and not looked at in place."""

    def whole(self, positions: np.ndarray) -> None:
        return None


def written(
    folder: Path, vectors: np.ndarray, kind: str, *, target_recall: float = 0.95, row_ids: np.ndarray | None = None
) -> tuple[ShardRecord, Shard]:
    source = ArraySource(np.arange(len(vectors)) if row_ids is None else row_ids, vectors)
    record = write_shard(
        source, folder, 0, fingerprint="f", row_ids=(0, 2**62), since=0, as_of=1, kind=kind, metric="cosine",
        target_recall=target_recall,
    )  # fmt: skip
    return record, Shard.load(folder, record, ShardFacts(kind, "cosine", vectors.shape[1]))


@pytest.fixture(scope="module")
def spread() -> tuple[np.ndarray, np.ndarray]:
    """Vectors of many directions, and queries nobody has seen."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 32))
    vectors = unit(centres[rng.integers(0, 60, 8_000)] + rng.normal(size=(8_000, 32)))
    return vectors, unit(centres[rng.integers(0, 60, 200)] + rng.normal(size=(200, 32)))


@pytest.mark.parametrize("kind", ["ivf", "ivf_sq8", "ivf_pqfs", "hnsw"])
def test_the_chosen_probes_reach_their_recall_on_queries_nobody_has_seen(
    spread: tuple[np.ndarray, np.ndarray], tmp_path: Path, kind: str
) -> None:
    vectors, queries = spread
    truth = memory_shard(np.arange(8_000), vectors, pa.array(["x"] * 8_000), "cosine").search(queries, 10).rows
    record, shard = written(tmp_path, vectors, kind)
    found = shard.search(queries, 10).rows
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)]) >= 0.95
    assert record.recall is not None
    assert record.recall >= 0.97
    assert record.nprobe is not None
    assert record.nprobe < (record.nlist or 1_000)


def test_a_lower_target_is_met_with_fewer_probes(spread: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    record, shard = written(tmp_path, spread[0], "ivf", target_recall=0.6)
    assert record.recall is not None
    assert 0.62 <= record.recall < 0.95
    assert choose_probes(shard, 0.95).probes > (record.nprobe or 0)
    every = choose_probes(shard, 1.0)
    assert every.recall == 1.0


def test_an_ivf_visits_more_lists_where_the_filter_leaves_it_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raystore.index.shards.shard._SUBSET_ROWS", 0)  # as if there were millions
    vectors = clustered(4_000, 4)
    _, shard = written(tmp_path, vectors, "ivf")
    far = np.sort(np.argsort(vectors @ vectors[0])[:2_000])  # none of them in a near list
    found = shard.search(vectors[:1], 50, allowed=far, probes=1)
    assert not found.exact
    assert (found.rows >= 0).all()
    assert np.isin(found.rows, far).all()


def test_rows_of_any_order_are_written_in_that_of_their_row_ids(tmp_path: Path) -> None:
    vectors = clustered(700)
    row_ids = np.random.default_rng(0).permutation(700).astype(np.int64) * 3
    record, shard = written(tmp_path, vectors, "exact", row_ids=row_ids)
    order = np.argsort(row_ids)
    assert np.array_equal(shard.row_ids, row_ids[order])
    assert shard.vectors_at(np.arange(700)).tobytes() == vectors[order].tobytes()
    assert shard.names_of(row_ids[:1]) == {int(row_ids[0]): name_of(int(row_ids[0]))}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "shard-0000.rows.arrow", "shard-0000.vectors", "shard-0000.vectors.blocks",
    ]  # fmt: skip
    assert sorted(record.files) == ["shard-0000.rows.arrow", "shard-0000.vectors.blocks"]


def test_a_range_of_row_ids_is_half_open(tmp_path: Path) -> None:
    record = write_shard(
        ArraySource(np.arange(100), clustered(100)), tmp_path, 0,
        fingerprint="f", row_ids=(10, 30), since=4, as_of=7, kind="exact", metric="ip",
    )  # fmt: skip
    assert (record.rows, record.row_id_lo, record.row_id_hi, record.since, record.as_of) == (20, 10, 30, 4, 7)
    shard = Shard.load(tmp_path, record, ShardFacts("exact", "ip", 16))
    assert shard.row_ids.tolist() == list(range(10, 30))


def test_a_vector_without_a_direction_is_no_row_of_a_shard(tmp_path: Path) -> None:
    vectors = clustered(20)
    vectors[7] = 0
    with pytest.raises(InvalidVectors, match="is zero"):
        written(tmp_path, vectors, "exact")


def test_a_rows_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shard-0000.rows.arrow"
    table = pa.table({"row_id": pa.array([1], pa.int64())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(ShardCorrupt) as caught:
        read_rows_file(tmp_path, 0)
    assert str(caught.value) == (
        f"index file '{path}' is unusable: it holds other columns than row_id and id. It was not loaded; the shard is rebuilt."
    )


def test_row_ids_and_ids_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    before = pa.total_allocated_bytes()
    ids = joined_ids([pa.array(["a", "ü"]), pa.array(["c" * 50_000])])
    write_rows(tmp_path, 0, np.array([2, 5, 9]), ids)
    del ids
    rows = read_rows_file(tmp_path, 0)
    row_ids, names = rows.row_ids, rows.ids
    assert row_ids.tolist() == [2, 5, 9]
    assert names.to_pylist() == ["a", "ü", "c" * 50_000]
    assert pa.total_allocated_bytes() - before < 50_000


def test_a_record_without_a_rows_file_is_corrupt(tmp_path: Path) -> None:
    record, _ = written(tmp_path, clustered(30), "exact")
    bare = record.model_copy(update={"files": {}})
    with pytest.raises(ShardCorrupt, match="the manifest says nothing"):
        Shard.load(tmp_path, bare, ShardFacts("exact", "cosine", 16))


def test_an_exact_shard_nominates_nothing() -> None:
    with pytest.raises(ValueError, match="an exact shard nominates nothing"):
        memory_shard(np.arange(3), clustered(3), pa.array(list("abc")), "cosine").nominate(clustered(1), 1, 1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    m=st.integers(1, 5),
    c=st.integers(1, 40),
    k=st.integers(1, 12),
    metric=st.sampled_from(METRICS),
)
def test_the_best_of_the_nominated_are_the_same_wherever_the_vectors_lie(
    seed: int, m: int, c: int, k: int, metric: Metric
) -> None:
    rng = np.random.default_rng(seed)
    vectors, queries = clustered(60, seed), clustered(12, seed + 1)[:m]
    nominated = np.array([rng.permutation(60)[:c] for _ in range(m)]).astype(np.int64)
    nominated[rng.random((m, c)) < 0.2] = -1
    here, away = (best_of(queries, nominated, k, kept(vectors), metric) for kept in (HeldVectors, Away))
    assert np.array_equal(here[0], away[0])
    assert here[1].tobytes() == away[1].tobytes()
    for i in range(m):
        row_ids = np.sort(nominated[i][nominated[i] >= 0])
        if not len(row_ids):
            assert (here[0][i] == -1).all()
            continue
        names = pa.array([""] * len(row_ids))
        expected = memory_shard(row_ids, vectors[row_ids], names, metric).search(queries[i : i + 1], k)
        assert expected.scores[0] == pytest.approx(here[1][i], abs=1e-6)  # of duplicates one is as good as the other


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 4_000))
def test_every_node_of_a_graph_is_one_position(rows: int) -> None:
    graph = Graph(faiss.IndexHNSWFlat(2, 4), rows)
    nodes = np.arange(rows, dtype=np.int64)
    positions = graph._positions(nodes)
    assert np.array_equal(np.sort(positions), nodes)
    held = held_positions(rows)
    assert np.array_equal(positions[rows - len(held) :], held)
    assert graph._positions(np.array([[-1, 0]])).tolist()[0][0] == -1


def test_lists_grow_with_the_root_of_the_rows() -> None:
    assert [list_count(n) for n in (1, 80, 1_000, 102_500, 1_000_000)] == [1, 2, 25, 1_280, 4_000]
    assert sample_rows(1_280) == 81_920


def test_thread_counts_are_put_back() -> None:
    before = faiss.omp_get_max_threads()
    with faiss_threads(1):
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == before
    with faiss_threads(None):
        assert faiss.omp_get_max_threads() == before
