from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raystore.errors import ShardCorrupt
from raystore.index.exact import best_first, flat_top_k
from raystore.index.merge import merge
from raystore.index.shard import Shard, faiss_threads
from raystore.vectors import pair_scores, rounding_bound

from .conftest import clustered, unit

COMMON = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def hard_vectors(seed: int, n: int, d: int) -> np.ndarray:
    """Rows with exact duplicates and with neighbours that differ in their last bits only."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(n, d)))
    twins = rng.integers(0, n, n // 2)
    vectors[rng.permutation(n)[: n // 2]] = vectors[twins]
    nudged = rng.permutation(n)[: n // 4]
    vectors[nudged] = np.nextafter(vectors[nudged], np.float32(2)).astype(np.float32)
    return vectors


def brute(row_ids: np.ndarray, vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = np.stack([pair_scores(np.repeat(q[None], len(vectors), 0), vectors) for q in queries])
    return best_first(np.broadcast_to(row_ids, scores.shape), scores, k)


@COMMON
@given(
    seed=st.integers(0, 10_000), n=st.integers(1, 120), d=st.sampled_from([1, 3, 16, 384]), m=st.integers(1, 30),
    k=st.integers(1, 40), cuts=st.lists(st.integers(0, 120), max_size=5),
)  # fmt: skip
def test_sharding_never_changes_an_exact_answer(seed: int, n: int, d: int, m: int, k: int, cuts: list[int]) -> None:
    vectors = hard_vectors(seed, n, d)
    row_ids = np.cumsum(np.random.default_rng(seed).integers(1, 5, n)).astype(np.int64)
    queries = np.concatenate([vectors[: m // 2], unit(np.random.default_rng(seed + 1).normal(size=(m, d)))])[:m]
    edges = sorted({0, n, *(min(c, n) for c in cuts)})
    parts = [Shard.build(row_ids[a:b], np.ascontiguousarray(vectors[a:b])).search(queries, k) for a, b in pairwise(edges)]
    rows, scores = merge(parts, m, k)
    expected_rows, expected_scores = brute(row_ids, vectors, queries, k)
    assert np.array_equal(rows, expected_rows)
    assert scores.tobytes() == expected_scores.tobytes()


@COMMON
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 200),
    m=st.sampled_from([1, 3, 25]),
    share=st.floats(0, 1),
    k=st.integers(1, 20),
)
def test_filter_then_search_is_search_then_filter(seed: int, n: int, m: int, share: float, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = hard_vectors(seed, n, 8)
    row_ids = np.arange(n, dtype=np.int64) * 2 + 1
    queries = unit(rng.normal(size=(m, 8)))
    chosen = rng.random(n) < share
    allowed = np.sort(np.concatenate([row_ids[chosen], [0, 10**9]]))  # ids of other shards are ignored
    expected = brute(row_ids[chosen], vectors[chosen], queries, k)
    for kind in ("exact", "ivf"):  # so few rows are allowed that an ivf searches them exactly
        shard = Shard.build(row_ids, vectors, kind)
        rows, scores = shard.search(queries, k, allowed=allowed)
        if chosen.all() and kind == "ivf":
            continue
        assert np.array_equal(rows, expected[0])
        assert scores.tobytes() == expected[1].tobytes()
        assert np.array_equal(shard.search(queries, k, without=row_ids[~chosen])[0], expected[0]) or chosen.all()


@pytest.mark.parametrize("share", [0.0001, 0.99])
@pytest.mark.parametrize("m", [1, 40])
def test_a_filter_is_right_at_both_ends(share: float, m: int) -> None:
    n = 20_000
    vectors = clustered(n, 4)
    row_ids = np.arange(n, dtype=np.int64)
    allowed = np.sort(np.random.default_rng(0).choice(row_ids, int(n * share), replace=False))
    queries = clustered(m * 3, 5)[:m]
    expected = brute(allowed, vectors[allowed], queries, 10)
    assert np.array_equal(Shard.build(row_ids, vectors).search(queries, 10, allowed=allowed)[0], expected[0])
    ivf = Shard.build(row_ids, vectors, "ivf")
    found = ivf.search(queries, 10, allowed=allowed)
    assert set(found[0].ravel()) - {-1} <= set(allowed)
    overlap = np.mean(
        [len(np.intersect1d(a[a >= 0], b)) / max(1, (a >= 0).sum()) for a, b in zip(expected[0], found[0], strict=True)]
    )
    assert overlap >= (1.0 if share < 0.01 else 0.7)  # among so many duplicates any of them is as near


def test_an_ivf_reaches_its_recall_on_queries_it_has_not_seen() -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(60, 32))
    vectors = unit(centres[rng.integers(0, 60, 20_000)] + rng.normal(size=(20_000, 32)))
    queries = unit(centres[rng.integers(0, 60, 200)] + rng.normal(size=(200, 32)))
    row_ids = np.arange(20_000, dtype=np.int64)
    truth = Shard.build(row_ids, vectors).search(queries, 10)[0]
    ivf = Shard.build(row_ids, vectors, "ivf")
    found = ivf.search(queries, 10)[0]
    assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, found, strict=True)]) >= 0.95
    assert ivf.nprobe is not None
    assert ivf.nprobe < (ivf.nlist or 0)
    every = ivf.search(queries, 10, probes=ivf.nlist)
    assert np.array_equal(every[0], truth)


def test_an_ivf_visits_more_lists_where_the_filter_leaves_it_short() -> None:
    vectors = clustered(40_000, 4)
    row_ids = np.arange(40_000, dtype=np.int64)
    ivf = Shard.build(row_ids, vectors, "ivf")
    far = np.sort(np.argsort(vectors @ vectors[0])[:20_000])  # more than are searched exactly, none in a near list
    rows, _ = ivf.search(vectors[:1], 50, allowed=far, probes=1)
    assert (rows >= 0).all()
    assert np.isin(rows, far).all()


def test_faiss_alone_gives_another_score_than_the_canonical_one_sometimes() -> None:
    """The reason for pair_scores: if FAISS agreed with itself, this room could be shorter."""
    vectors = unit(np.random.default_rng(0).normal(size=(4_000, 384)))
    flat = faiss.IndexFlatIP(384)
    flat.add(vectors)
    alone, together = flat.search(vectors[:1], 50)[0][0], flat.search(vectors[:64], 50)[0][0]
    assert np.abs(alone - together).max() <= 2 * rounding_bound(384)
    canonical = pair_scores(np.repeat(vectors[:1], 4_000, 0), vectors)
    assert not np.array_equal(np.sort(canonical)[::-1][:50], alone) or not np.array_equal(alone, together)


def test_a_boundary_full_of_duplicates_is_settled_by_row_id() -> None:
    vectors = np.repeat(unit(np.random.default_rng(0).normal(size=(2, 384))), 500, axis=0)
    flat = faiss.IndexFlatIP(384)
    flat.add(vectors)
    positions, _ = flat_top_k(flat, vectors.__getitem__, vectors[-1:], 10)
    assert positions.tolist() == [list(range(500, 510))]


@COMMON
@given(seed=st.integers(0, 10_000), p=st.integers(1, 50), d=st.sampled_from([1, 2, 7, 16, 129, 384, 1000]))
def test_a_pair_scores_the_same_in_any_block(seed: int, p: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = unit(rng.normal(size=(p, d))), unit(rng.normal(size=(p, d)))
    block = pair_scores(a, b)
    assert all(pair_scores(a[i : i + 1], b[i : i + 1])[0] == block[i] for i in range(p))
    strided = pair_scores(np.asfortranarray(a), b[:, :])
    assert strided.tobytes() == block.tobytes()


def test_merge_counts_a_row_of_two_parts_once() -> None:
    part = (np.array([[4, 2, -1]]), np.array([[0.5, 0.25, -np.inf]], np.float32))
    rows, scores = merge([part, part], 1, 3)
    assert rows.tolist() == [[4, 2, -1]]
    assert scores.tolist() == [[0.5, 0.25, -np.inf]]
    assert merge([], 2, 3)[0].tolist() == [[-1, -1, -1]] * 2


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_saved_shard_answers_as_before(tmp_path: Path, kind: str) -> None:
    vectors = clustered(500, 1)
    shard = Shard.build(np.arange(500, dtype=np.int64) * 3, vectors, kind)
    files = shard.save(tmp_path, 0)
    assert sorted(files) == ["shard-0000.faiss", "shard-0000.rows.arrow"]
    loaded = Shard.load(tmp_path, 0, files, kind=kind, nprobe=shard.nprobe, recall=shard.recall)
    before, after = shard.search(vectors[:5], 10), loaded.search(vectors[:5], 10)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])


def test_a_file_that_is_not_what_the_manifest_says_never_reaches_faiss(tmp_path: Path, monkeypatch) -> None:
    files = Shard.build(np.arange(9, dtype=np.int64), clustered(9)).save(tmp_path, 0)
    (tmp_path / "shard-0000.faiss").write_bytes(b"not an index")
    monkeypatch.setattr(faiss, "read_index", lambda path: pytest.fail("FAISS read a foreign file"))
    with pytest.raises(ShardCorrupt, match=r"its sha256 is [0-9a-f]{12} \(12 bytes\), the manifest says"):
        Shard.load(tmp_path, 0, files, kind="exact")
    (tmp_path / "shard-0000.faiss").unlink()
    with pytest.raises(ShardCorrupt, match="it is missing"):
        Shard.load(tmp_path, 0, files, kind="exact")


def test_thread_counts_are_put_back() -> None:
    before = faiss.omp_get_max_threads()
    with faiss_threads(1):
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == before


@pytest.mark.parametrize("n", [0, 1, 39, 80])
def test_tiny_shards_of_either_kind_answer(n: int) -> None:
    vectors = clustered(100)[:n]
    for kind in ("exact", "ivf"):
        rows, scores = Shard.build(np.arange(n, dtype=np.int64), np.ascontiguousarray(vectors), kind).search(
            clustered(3)[:2], 5
        )
        assert rows.shape == scores.shape == (2, 5)
        assert (rows >= 0).sum() == 2 * min(5, n)
