"""One contract over every kind and metric: the same tests, whatever nominates."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest

from raystore.errors import ShardCorrupt
from raystore.index.kinds import KINDS, TABLE, code_bytes, sub_vectors
from raystore.index.manifest import ShardRecord
from raystore.index.metric import METRICS, Metric, canonical_scores
from raystore.index.shards.exact import best_first
from raystore.index.shards.ivf import IvfLists
from raystore.index.shards.nominator import faiss_name
from raystore.index.shards.shard import Found, Shard, ShardFacts, memory_shard
from raystore.index.shards.write import write_shard

from .array_source import ArraySource, name_of
from .conftest import clustered

DIM, ROWS = 16, 1_200
NUMBER = 3
FINE = 20


@dataclass(frozen=True)
class Case:
    kind: str
    metric: Metric
    folder: Path
    record: ShardRecord
    row_ids: np.ndarray
    vectors: np.ndarray
    queries: np.ndarray

    def load(self) -> Shard:
        return Shard.load(self.folder, self.record, ShardFacts(self.kind, self.metric, DIM))

    def truth(self, k: int, chosen: Any = slice(None), queries: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """By a float64 sum over every pair, which knows nothing of shards."""
        queries = self.queries if queries is None else queries
        vectors, row_ids = self.vectors[chosen], self.row_ids[chosen]
        scores = [canonical_scores(np.repeat(q[None], len(vectors), 0), vectors, self.metric) for q in queries]
        return best_first(np.broadcast_to(row_ids, (len(queries), len(row_ids))), np.array(scores), k)

    def recall(self, found: Found, k: int, chosen: Any = slice(None)) -> float:
        """Of the rows that score as high as the k-th: duplicates are as good as each other."""
        least = self.truth(k, chosen)[1][:, -1:]
        return float((found.scores[:, :k] >= least).mean())


@cache
def case_of(kind: str, metric: Metric, folder: Path) -> Case:
    rng = np.random.default_rng(7)
    vectors = clustered(ROWS, 1)
    queries = clustered(72, 2)[-24:]
    if metric != "cosine":  # other lengths than 1, which only these two metrics know of
        vectors = (vectors * rng.uniform(0.5, 2.0, (ROWS, 1))).astype(np.float32)
        vectors[ROWS // 3 : ROWS // 2] = vectors[ROWS // 3]
        queries = (queries * rng.uniform(0.5, 2.0, (24, 1))).astype(np.float32)
    row_ids = np.cumsum(rng.integers(1, 4, ROWS)).astype(np.int64)
    order = rng.permutation(ROWS)  # fragments stand in any order
    here = folder / f"{kind}-{metric}"
    here.mkdir()
    record = write(ArraySource(row_ids[order], vectors[order]), here, kind, metric)
    return Case(kind, metric, here, record, row_ids, vectors, queries)


def write(source: ArraySource, folder: Path, kind: str, metric: Metric = "cosine") -> ShardRecord:
    return write_shard(
        source, folder, NUMBER, fingerprint="f", row_ids=(0, 2**62), since=0, as_of=1, kind=kind, metric=metric, threads=1
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds") / "."


@pytest.fixture(params=METRICS)
def metric(request: pytest.FixtureRequest) -> Metric:
    return request.param


@pytest.fixture(params=KINDS)
def case(request: pytest.FixtureRequest, metric: Metric, shards: Path) -> Case:
    return case_of(request.param, metric, shards)


def test_it_finds_what_an_exact_search_finds(case: Case) -> None:
    found = case.load().search(case.queries, 10)
    assert found.rows.dtype == np.int64
    assert found.scores.dtype == np.float32
    assert found.rows.shape == found.scores.shape == (24, 10)
    assert found.exact == (case.kind == "exact")
    if case.kind == "exact":
        rows, scores = case.truth(10)
        assert np.array_equal(found.rows, rows)
        assert found.scores.tobytes() == scores.tobytes()
    assert case.recall(found, 10) >= 0.85  # of 24 queries; the sample it was chosen on reached 0.97


def test_its_scores_are_the_canonical_ones_in_order_ties_to_the_lower_row(case: Case) -> None:
    shard = case.load()
    for queries in (case.queries, case.queries[:1]):
        found = shard.search(queries, 30)
        at = np.searchsorted(case.row_ids, found.rows)
        assert np.array_equal(case.row_ids[at], found.rows)
        pairs = canonical_scores(np.repeat(queries, 30, 0), case.vectors[at.ravel()], case.metric)
        assert found.scores.tobytes() == pairs.tobytes()
        assert np.array_equal(np.lexsort((found.rows, -found.scores), axis=-1), np.tile(np.arange(30), (len(queries), 1)))


def test_one_query_is_answered_as_in_a_batch(case: Case) -> None:
    shard = case.load()
    batch = shard.search(case.queries, 5)
    alone = [shard.search(case.queries[i : i + 1], 5) for i in range(len(case.queries))]
    same = np.mean([np.array_equal(one.scores[0], many) for one, many in zip(alone, batch.scores, strict=True)])
    assert same >= (1.0 if case.kind == "exact" else 0.9)  # FAISS's own rounding may put another list among the nearest


def test_more_neighbours_than_rows_are_all_rows_and_padding(case: Case) -> None:
    found = case.load().search(case.queries[:2], ROWS + 50)
    rows, scores = case.truth(ROWS + 50, queries=case.queries[:2])
    assert found.exact
    assert np.array_equal(found.rows, rows)
    assert found.scores.tobytes() == scores.tobytes()
    assert (found.rows[:, ROWS:] == -1).all()
    assert np.isneginf(found.scores[:, ROWS:]).all()


@pytest.mark.parametrize("m", [1, 24])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_only_allowed_rows_are_answered(case: Case, share: float, m: int) -> None:
    chosen = np.random.default_rng(1).random(ROWS) < share
    allowed = np.concatenate([[-5], case.row_ids[chosen], [10**9]])  # ids of other shards are ignored
    found = case.load().search(case.queries[:m], 5, allowed=allowed)
    rows, scores = case.truth(5, chosen, case.queries[:m])
    assert found.exact  # so few are compared one by one
    assert np.array_equal(found.rows, rows)
    assert found.scores.tobytes() == scores.tobytes()


@pytest.mark.parametrize("share", [0.1, 0.6, 0.99])
def test_a_filter_over_many_rows_is_pushed_into_the_lists(
    case: Case, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.index.shards.shard._SUBSET_ROWS", 0)  # as if there were millions
    chosen = np.random.default_rng(1).random(ROWS) < share
    shard = case.load()
    refine = FINE if case.kind == "ivf_pqfs" else 4  # its codes are two bytes here
    found = shard.search(case.queries, 3, allowed=case.row_ids[chosen], refine=refine)
    assert set(found.rows.ravel()) <= set(case.row_ids[chosen])
    assert case.recall(found, 3, chosen) >= 0.8
    rest = shard.search(case.queries, 3, allowed=case.row_ids[chosen], without=case.row_ids[::2], refine=refine)
    chosen[::2] = False
    assert set(rest.rows.ravel()) <= set(case.row_ids[chosen])
    assert case.recall(rest, 3, chosen) >= 0.8


@pytest.mark.parametrize("step", [2, 200])
def test_rows_that_are_gone_are_never_answered(case: Case, step: int) -> None:
    shard = case.load()
    gone = case.row_ids[::step]
    found = shard.search(case.queries, 10, without=gone)
    kept = ~np.isin(case.row_ids, gone)
    assert not np.isin(found.rows, gone).any()
    assert case.recall(found, 10, kept) >= 0.85
    assert (shard.search(case.queries, 10, without=case.row_ids).rows == -1).all()


def test_probes_from_one_to_more_than_there_are_lists(case: Case) -> None:
    shard = case.load()
    assert (shard.search(case.queries, 1, probes=1).rows >= 0).all()
    every = shard.search(case.queries, 10, probes=10**9, refine=FINE)
    assert case.recall(every, 10) >= (0.9 if case.kind == "ivf_pqfs" else 0.98)
    assert (shard.nlist is not None) == TABLE[case.kind].in_lists
    if shard.nlist is not None:
        assert 1 <= (shard.nprobe or 0) <= shard.nlist


def test_no_query_and_no_neighbour_are_no_answer(case: Case) -> None:
    found = case.load().search(case.queries[:0], 4)
    assert found.rows.shape == found.scores.shape == (0, 4)


def test_the_record_says_what_it_takes(case: Case) -> None:
    shard, record = case.load(), case.record
    assert (record.rows, record.kind, record.as_of) == (ROWS, None, 1)
    assert shard.memory_bytes == record.memory_bytes
    assert record.disk_bytes == sum(path.stat().st_size for path in case.folder.iterdir())
    assert record.disk_bytes > 4 * DIM * ROWS
    if case.kind != "exact":
        assert record.recall is not None
        assert record.recall >= 0.95
    names = {path.name for path in case.folder.iterdir()}
    assert set(record.files) <= names
    assert names - set(record.files) <= {"shard-0003.vectors", "shard-0003.lists"}


def test_the_table_of_kinds_in_the_docs_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "index.md").read_text(encoding="utf-8")
    table = page.partition("## Which kind for what")[2].partition("Centroids come on top")[0]
    said = dict(re.findall(r"^\| `(\w+)` \| ([\d,]+|nothing)", table, re.MULTILINE))
    held = {kind: code_bytes(kind, 384) for kind in KINDS}
    assert said == {kind: f"{bytes_:,.0f}" if bytes_ else "nothing" for kind, bytes_ in held.items()}


def test_memory_is_the_codes_the_ids_and_the_centroids(case: Case) -> None:
    """Against FAISS's own file of the index, which holds nothing else."""
    expected = code_bytes(case.kind, DIM) * ROWS + 4 * DIM * (case.record.nlist or 0)
    if case.kind in ("exact", "disk"):
        assert case.record.memory_bytes < 20_000 < 4 * DIM * ROWS
        return
    book = 4 * DIM * (256 if case.kind == "ivf_pq" else 16)
    assert case.record.memory_bytes == pytest.approx(expected, abs=book + 0.1 * expected)
    on_disk = (case.folder / faiss_name(NUMBER)).stat().st_size
    assert case.record.memory_bytes == pytest.approx(on_disk, rel=0.1, abs=3_000)


def test_names_and_vectors_are_those_of_the_rows(case: Case) -> None:
    shard = case.load()
    some = case.row_ids[[5, 3, 900]]
    assert shard.names_of(np.append(some, [-1, 10**9])) == {row: name_of(row) for row in some.tolist()}
    at = shard.positions_of(np.sort(some))
    assert shard.vectors_at(at).tobytes() == case.vectors[[3, 5, 900]].tobytes()
    assert np.array_equal(shard.row_ids, case.row_ids)
    assert not shard.row_ids.flags.writeable  # mapped


@pytest.mark.parametrize("n", [0, 1, 39, 80, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_tiny_shards_of_every_kind_answer(tmp_path: Path, kind: str, n: int) -> None:
    vectors = clustered(ROWS, 1)[:n]
    record = write(ArraySource(np.arange(n), vectors), tmp_path, kind)
    shard = Shard.load(tmp_path, record, ShardFacts(kind, "cosine", DIM))
    found = shard.search(clustered(3)[:2], 5)
    assert found.rows.shape == found.scores.shape == (2, 5)
    assert (found.rows >= 0).sum() == 2 * min(5, n)
    assert record.kind == (None if shard.kind == kind else "exact")
    if n in (0, 39) and kind != "hnsw":
        assert shard.kind == "exact"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_what_the_record_says_is_refused_unread(
    shards: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = case_of(kind, "cosine", shards)
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("FAISS read a foreign file"))
    for name in case.record.files:
        if name.endswith(".lists.blocks"):
            continue  # read after FAISS's own file: test_lists.py
        path = case.folder / name
        whole = path.read_bytes()
        try:
            path.write_bytes(whole[:-1])
            with pytest.raises(
                ShardCorrupt, match=rf"its sha256 is [0-9a-f]{{12}} \({len(whole) - 1} bytes\), the manifest"
            ):
                case.load() if name != "shard-0003.vectors.blocks" or kind == "exact" else _open_vectors(case)
            path.unlink()
            with pytest.raises(ShardCorrupt, match="it is missing"):
                case.load() if name != "shard-0003.vectors.blocks" or kind == "exact" else _open_vectors(case)
        finally:
            path.write_bytes(whole)


def _open_vectors(case: Case) -> None:
    from raystore.index.shards.vector_file import VectorFile

    VectorFile.open(case.folder, NUMBER, case.record.files, ROWS, DIM)


def test_a_byte_that_changed_among_the_vectors_is_met_by_the_search(case: Case) -> None:
    path = case.folder / "shard-0003.vectors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[::400] = bytes(byte ^ 1 for byte in whole[::400])
    try:
        path.write_bytes(flipped)
        with pytest.raises(ShardCorrupt, match="sha256 of its block"):
            case.load().search(case.queries, 10)
    finally:
        path.write_bytes(whole)


def test_two_hundred_and_fifty_six_codes_need_as_many_rows(tmp_path: Path) -> None:
    record = write(ArraySource(np.arange(255), clustered(255)), tmp_path, "ivf_pq")
    assert record.kind == "exact"
    assert record.nlist is None


def test_sub_vectors_divide_every_dimension() -> None:
    assert (sub_vectors("ivf_pq", 384), sub_vectors("ivf_pqfs", 384)) == (96, 64)
    for dim in range(1, 1_100):
        assert all(dim % sub_vectors(kind, dim) == 0 for kind in ("ivf_pq", "ivf_pqfs"))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["ivf", "ivf_sq8", "ivf_pq"])
def test_a_gpu_nominates_as_the_lists_in_memory_do(shards: Path, kind: str) -> None:
    """Never run: no machine of this project had faiss-gpu and a GPU."""
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip("FAISS sees no GPU")
    case = case_of(kind, "cosine", shards)
    lists = IvfLists.load(kind, case.folder, NUMBER)
    assert lists.on_gpu is not None
    assert case.recall(case.load().search(case.queries, 10), 10) >= 0.9


def test_a_shard_in_memory_answers_as_the_one_in_files(shards: Path, metric: Metric) -> None:
    case = case_of("exact", metric, shards)
    ids = pa.chunked_array([[name_of(row) for row in case.row_ids.tolist()]], pa.string())
    held = memory_shard(case.row_ids, case.vectors, ids, metric)
    for allowed in (None, case.row_ids[::7], case.row_ids[5:]):
        one, other = held.search(case.queries, 9, allowed=allowed), case.load().search(case.queries, 9, allowed=allowed)
        assert np.array_equal(one.rows, other.rows)
        assert one.scores.tobytes() == other.scores.tobytes()
    assert held.names_of(case.row_ids[:2]) == {row: name_of(row) for row in case.row_ids[:2].tolist()}
    assert held.memory_bytes >= case.vectors.nbytes
