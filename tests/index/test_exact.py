from __future__ import annotations

from itertools import pairwise

import faiss
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystore.index.merge import merge
from raystore.index.metric import METRICS, Metric, canonical_scores, faiss_metric
from raystore.index.shards.exact import best_first, flat_top_k, flat_view, longest
from raystore.index.shards.shard import Shard, memory_shard
from raystore.vectors import pair_scores, rounding_bound

from .conftest import clustered, unit

COMMON = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def hard_vectors(seed: int, n: int, d: int, metric: Metric = "cosine") -> np.ndarray:
    """Rows with exact duplicates and with neighbours that differ in their last bits only."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(n, d)))
    if metric != "cosine":
        vectors = (vectors * rng.uniform(0.1, 10, (n, 1))).astype(np.float32)
    twins = rng.integers(0, n, n // 2)
    vectors[rng.permutation(n)[: n // 2]] = vectors[twins]
    nudged = rng.permutation(n)[: n // 4]
    vectors[nudged] = np.nextafter(vectors[nudged], np.float32(2)).astype(np.float32)
    return vectors


def brute(
    row_ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, k: int, metric: Metric = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    scores = np.stack([canonical_scores(np.repeat(q[None], len(vectors), 0), vectors, metric) for q in queries])
    return best_first(np.broadcast_to(row_ids, scores.shape), scores, k)


def held(row_ids: np.ndarray, vectors: np.ndarray, metric: Metric = "cosine") -> Shard:
    return memory_shard(row_ids, vectors, pa.array([str(row) for row in row_ids.tolist()], pa.string()), metric)


@COMMON
@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 120), d=st.sampled_from([1, 3, 16, 384]), m=st.integers(1, 30),
    k=st.integers(1, 40), cuts=st.lists(st.integers(0, 120), max_size=5), metric=st.sampled_from(METRICS),
)  # fmt: skip
def test_sharding_never_changes_an_exact_answer(
    seed: int, n: int, d: int, m: int, k: int, cuts: list[int], metric: Metric
) -> None:
    vectors = hard_vectors(seed, n, d, metric)
    row_ids = np.cumsum(np.random.default_rng(seed).integers(1, 5, n)).astype(np.int64)
    queries = np.concatenate([vectors[: m // 2], hard_vectors(seed + 1, m, d, metric)])[:m]
    edges = sorted({0, n, *(min(c, n) for c in cuts)})
    parts = [held(row_ids[a:b], vectors[a:b], metric).search(queries, k) for a, b in pairwise(edges)]
    rows, scores = merge([part[:2] for part in parts], m, k)
    expected_rows, expected_scores = brute(row_ids, vectors, queries, k, metric)
    assert np.array_equal(rows, expected_rows)
    assert scores.tobytes() == expected_scores.tobytes()
    assert all(part.exact for part in parts)


@COMMON
@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 200), m=st.sampled_from([1, 3, 25]), share=st.floats(0, 1),
    k=st.integers(1, 20), gap=st.sampled_from([1, 2]), metric=st.sampled_from(METRICS),
)  # fmt: skip
def test_filter_then_search_is_search_then_filter(
    seed: int, n: int, m: int, share: float, k: int, gap: int, metric: Metric
) -> None:
    rng = np.random.default_rng(seed)
    vectors = hard_vectors(seed, n, 8, metric)
    row_ids = np.arange(n, dtype=np.int64) * gap + 1
    queries = unit(rng.normal(size=(m, 8)))
    chosen = rng.random(n) < share
    everything = held(row_ids, vectors, metric).search(queries, n)
    kept = np.isin(everything.rows, row_ids[chosen])
    later = best_first(
        np.where(kept, everything.rows, -1), np.where(kept, everything.scores, -np.inf).astype(np.float32), k
    )
    allowed = np.sort(np.concatenate([row_ids[chosen], [0, 10**9]]))  # ids of other shards are ignored
    shard = held(row_ids, vectors, metric)
    for found in (shard.search(queries, k, allowed=allowed), shard.search(queries, k, without=row_ids[~chosen])):
        assert np.array_equal(found.rows, later[0])
        assert found.scores.tobytes() == later[1].tobytes()


@pytest.mark.parametrize("share", [0.0001, 0.5, 0.99])
@pytest.mark.parametrize("m", [1, 40])
def test_a_filter_is_right_at_both_ends(share: float, m: int) -> None:
    n = 20_000
    vectors = clustered(n, 4)
    row_ids = np.arange(n, dtype=np.int64)
    allowed = np.sort(np.random.default_rng(0).choice(row_ids, int(n * share), replace=False))
    queries = clustered(m * 3, 5)[:m]
    expected = brute(allowed, vectors[allowed], queries, 10)
    assert np.array_equal(held(row_ids, vectors).search(queries, 10, allowed=allowed).rows, expected[0])


def test_the_same_filter_is_worked_out_once() -> None:
    shard = held(np.arange(50, dtype=np.int64), clustered(50))
    allowed, other = np.arange(20, dtype=np.int64), np.arange(10, dtype=np.int64)
    for asked in (allowed, allowed, other, allowed):
        assert set(shard.search(clustered(3)[:1], 50, allowed=asked).rows[0]) - {-1} == set(asked.tolist())


def test_faiss_alone_gives_another_score_than_the_canonical_one_sometimes() -> None:
    """The reason for canonical scores: if FAISS agreed with itself, this room could be shorter."""
    vectors = unit(np.random.default_rng(0).normal(size=(4_000, 384)))
    flat = faiss.IndexFlatIP(384)
    flat.add(vectors)
    alone, together = flat.search(vectors[:1], 50)[0][0], flat.search(vectors[:64], 50)[0][0]
    assert np.abs(alone - together).max() <= 2 * rounding_bound(384)
    canonical = pair_scores(np.repeat(vectors[:1], 4_000, 0), vectors)
    assert not np.array_equal(np.sort(canonical)[::-1][:50], alone) or not np.array_equal(alone, together)


@pytest.mark.parametrize("metric", METRICS)
def test_a_boundary_full_of_duplicates_is_settled_by_row_id(metric: Metric) -> None:
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(2, 384))), 500, axis=0)
    positions, scores = flat_top_k(vectors, vectors[-1:], 10, metric, longest_row=longest(vectors))
    assert positions.tolist() == [list(range(500, 510))]
    assert len(set(scores[0].tolist())) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_a_view_answers_as_an_index_that_holds_a_copy(metric: Metric) -> None:
    vectors = clustered(700, 3)
    vectors.flags.writeable = False  # as of a mapped file
    copy = faiss.IndexFlat(16, faiss_metric(metric))
    copy.add(vectors)
    view = flat_view(vectors, metric)
    assert view.ntotal == 700
    assert not view.codes.is_owned
    for m in (1, 30):
        assert np.array_equal(view.search(vectors[:m], 5)[1], copy.search(vectors[:m], 5)[1])
    assert flat_view(vectors[:0], metric).search(vectors[:1], 1)[1].tolist() == [[-1]]


def test_the_longest_row_of_none_is_zero() -> None:
    assert longest(np.empty((0, 4), np.float32)) == 0
    assert longest(np.array([[3, 4], [0, 1]], np.float32)) == 5


@COMMON
@given(seed=st.integers(0, 10_000), p=st.integers(1, 50), d=st.sampled_from([1, 2, 7, 16, 129, 384, 1000]))
def test_a_pair_scores_the_same_in_any_block(seed: int, p: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = unit(rng.normal(size=(p, d))), unit(rng.normal(size=(p, d)))
    for metric in METRICS:
        block = canonical_scores(a, b, metric)
        assert all(canonical_scores(a[i : i + 1], b[i : i + 1], metric)[0] == block[i] for i in range(p))
        assert canonical_scores(np.asfortranarray(a), b[:, :], metric).tobytes() == block.tobytes()
        assert canonical_scores(np.broadcast_to(a[0], b.shape), b, metric)[0] == block[0]


def test_merge_counts_a_row_of_two_parts_once() -> None:
    part = (np.array([[4, 2, -1]]), np.array([[0.5, 0.25, -np.inf]], np.float32))
    rows, scores = merge([part, part], 1, 3)
    assert rows.tolist() == [[4, 2, -1]]
    assert scores.tolist() == [[0.5, 0.25, -np.inf]]
    assert merge([], 2, 3)[0].tolist() == [[-1, -1, -1]] * 2
