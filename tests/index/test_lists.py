from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import ShardCorrupt
from raystore.index.manifest import ShardRecord
from raystore.index.metric import METRICS, Metric, canonical_scores
from raystore.index.shards import centroids, lists
from raystore.index.shards.blocks import BlockFile, BlockTable, file_digest, send_home
from raystore.index.shards.centroids import nearest_lists, search_lists, train_centroids
from raystore.index.shards.chosen import Chosen
from raystore.index.shards.home import process_cache
from raystore.index.shards.list_file import ListWriter, lists_name
from raystore.index.shards.lists import DiskLists, ListsBuilder, list_count
from raystore.index.shards.shard import ShardFacts
from raystore.index.shards.vector_file import VectorFile, VectorFileWriter, name_of

from .test_vector_file import home as home  # the three places a file may lie

DIM = 16
ROWS = 1_500
NUMBER = 2


@pytest.fixture(autouse=True)
def _an_empty_cache() -> None:
    process_cache.cache_clear()


def unit(matrix: np.ndarray) -> np.ndarray:
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def clustered(n: int, seed: int = 0) -> np.ndarray:
    centres = np.random.default_rng(99).standard_normal((20, DIM))
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(0, 20, n)] + 0.4 * rng.standard_normal((n, DIM)))


def built(folder: Path, vectors: np.ndarray, metric: Metric = "cosine", batch: int = 600) -> ShardRecord:
    """The files of a shard, written once and copied wherever they are asked for again."""
    folder.mkdir(exist_ok=True)
    asked = (vectors.tobytes(), metric, batch, centroids.GRAPH_FROM)
    if asked not in _BUILT:
        record = write(folder, vectors, metric, batch)
        _BUILT[asked] = record, {path.name: path.read_bytes() for path in folder.glob("shard-*")}
    record, files = _BUILT[asked]
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return record


_BUILT: dict[tuple[object, ...], tuple[ShardRecord, dict[str, bytes]]] = {}


def write(folder: Path, vectors: np.ndarray, metric: Metric, batch: int) -> ShardRecord:
    writer = VectorFileWriter(folder / name_of(NUMBER), DIM)
    writer.add(vectors)
    files = writer.close()
    file = VectorFile.open(folder, NUMBER, files, len(vectors), DIM)
    builder = ListsBuilder(file, metric, folder, NUMBER)
    for _, part in file.parts(batch):
        builder.add(part)
    files |= builder.save(folder, NUMBER)
    assert sorted(files) == ["shard-0002.faiss", "shard-0002.lists.blocks", "shard-0002.vectors.blocks"]
    return ShardRecord(number=NUMBER, files=files, rows=len(vectors), row_id_lo=0, row_id_hi=len(vectors), as_of=1)


def loaded(folder: Path, record: ShardRecord, metric: Metric = "cosine", home: str | None = None) -> DiskLists:
    if home is not None:
        path = folder / lists_name(NUMBER)
        send_home(path, home)
        path.unlink()
        record = record.model_copy(update={"home": home})
    return DiskLists.load(folder, record, ShardFacts("disk", metric, DIM))


def nearest(vectors: np.ndarray, query: np.ndarray, k: int, metric: Metric) -> set[int]:
    scores = canonical_scores(np.repeat(query[None], len(vectors), 0), vectors, metric)
    return set(np.argsort(-scores, kind="stable")[:k].tolist())


def recall(found: np.ndarray, vectors: np.ndarray, queries: np.ndarray, k: int, metric: Metric) -> float:
    hits = [len(nearest(vectors, query, k, metric) & set(row.tolist())) for query, row in zip(queries, found, strict=True)]
    return sum(hits) / (k * len(queries))


@pytest.mark.parametrize("metric", METRICS)
def test_all_lists_nominate_the_nearest_rows(tmp_path: Path, home: str | None, metric: Metric) -> None:
    vectors, queries = clustered(ROWS), clustered(20, 1)
    disk = loaded(tmp_path, built(tmp_path, vectors, metric), metric, home)
    found = disk.nominate(queries, 40, None, disk.nlist)
    assert found.shape == (20, 40)
    assert found.dtype == np.int64
    assert recall(found, vectors, queries, 10, metric) == 1.0
    assert recall(found[:, :10], vectors, queries, 10, metric) > 0.9  # by the codes alone


def test_a_query_asked_alone_gets_what_it_gets_in_a_batch(tmp_path: Path, home: str | None) -> None:
    queries = clustered(10, 1)
    disk = loaded(tmp_path, built(tmp_path, clustered(ROWS)), "cosine", home)
    together = disk.nominate(queries, 20, None, 5)
    assert np.array_equal(together, np.vstack([disk.nominate(query[None], 20, None, 5) for query in queries]))


@pytest.mark.parametrize("metric", METRICS)
def test_what_is_fetched_answers_as_what_is_mapped(tmp_path: Path, metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    record, queries = built(tmp_path, clustered(ROWS), metric), clustered(30, 1)
    mapped = loaded(tmp_path, record, metric)
    expected = mapped.nominate(queries, 15, None, 6)
    fetched = loaded(tmp_path, record, metric, f"memory://{tmp_path.name}/x")
    assert np.array_equal(fetched.nominate(queries, 15, None, 6), expected)
    monkeypatch.setattr(lists, "_FETCHED_BYTES", 5_000)  # a few lists at a time
    assert np.array_equal(fetched.nominate(queries, 15, None, 6), expected)


def test_a_query_reads_its_probes_and_each_list_once(tmp_path: Path, home: str | None) -> None:
    disk = loaded(tmp_path, built(tmp_path, clustered(ROWS)), "cosine", home)
    query = clustered(1, 1)
    for _ in range(2):
        disk.nominate(query, 10, None, 4)
        assert disk.blocks.reads == 4
    disk.nominate(query, 10, None, 6)
    assert disk.blocks.reads == 6
    disk.nominate(clustered(200, 2), 10, None, disk.nlist)
    assert disk.blocks.reads == disk.nlist
    assert disk.blocks.bytes_read == ROWS * (DIM + 8)


@pytest.mark.parametrize("kept", [3, 200, ROWS])
def test_only_chosen_rows_are_nominated(tmp_path: Path, home: str | None, kept: int) -> None:
    vectors, queries = clustered(ROWS), clustered(8, 1)
    disk = loaded(tmp_path, built(tmp_path, vectors), "cosine", home)
    mask = np.zeros(ROWS, dtype=bool)
    mask[np.random.default_rng(3).permutation(ROWS)[:kept]] = True
    found = disk.nominate(queries, 10, Chosen(mask), disk.nlist)
    assert mask[found[found >= 0]].all()
    assert (found >= 0).sum(axis=1).tolist() == [min(kept, 10)] * 8


def test_more_rows_than_there_are_leave_the_rest_empty(tmp_path: Path, home: str | None) -> None:
    disk = loaded(tmp_path, built(tmp_path, clustered(100)), "cosine", home)
    found = disk.nominate(clustered(2, 1), 300, None, disk.nlist)
    assert sorted(found[0][:100].tolist()) == list(range(100))
    assert (found[:, 100:] == -1).all()


def test_no_query_is_answered_with_no_row(tmp_path: Path, home: str | None) -> None:
    disk = loaded(tmp_path, built(tmp_path, clustered(100)), "cosine", home)
    assert disk.nominate(np.empty((0, DIM), np.float32), 5, None, 2).shape == (0, 5)


def test_a_changed_list_is_refused_when_it_is_probed_and_others_serve(tmp_path: Path, home: str | None) -> None:
    vectors = clustered(ROWS)
    record = built(tmp_path, vectors)
    path = tmp_path / lists_name(NUMBER)
    table = BlockTable.load(path.with_name(f"{path.name}.blocks"), record.files["shard-0002.lists.blocks"])
    bad = int(np.argmax(np.diff(table.offsets)))
    changed = bytearray(path.read_bytes())
    changed[int(table.offsets[bad + 1]) - 1] ^= 0x40  # the last position of the list: far out of range
    path.write_bytes(changed)
    disk = loaded(tmp_path, record, "cosine", home)
    centroids_of = search_lists(disk._nearest, vectors, 1)[1][:, 0]
    good = vectors[centroids_of != bad]
    assert recall(disk.nominate(good, 10, None, 1)[:, :1], vectors, good, 1, "cosine") > 0.9
    for _ in range(2):
        with pytest.raises(ShardCorrupt, match=rf"shard-0002\.lists' is unusable: the sha256 of its block {bad} is "):
            disk.nominate(vectors[centroids_of == bad][:1], 5, None, 1)


def test_a_list_that_names_a_row_there_is_not_is_refused(tmp_path: Path, home: str | None) -> None:
    record = built(tmp_path, clustered(100))
    short = record.model_copy(update={"rows": 99})
    with pytest.raises(ShardCorrupt) as raised:
        loaded(tmp_path, short, "cosine")
    assert str(raised.value) == (
        f"index file '{tmp_path / lists_name(NUMBER)}' is unusable: it does not hold 99 rows in {list_count(100)} lists. "
        "It was not loaded; the shard is rebuilt."
    )
    path = tmp_path / lists_name(NUMBER)
    data = path.read_bytes()
    table = BlockTable.load(path.with_name(f"{path.name}.blocks"), record.files["shard-0002.lists.blocks"])
    writer = ListWriter(path, len(table), DIM, 100)
    for number in range(len(table)):  # honest digests over positions that are not
        block = data[table.offsets[number] : table.offsets[number + 1]]
        n = len(block) // (DIM + 8)
        positions = np.frombuffer(block[n * DIM :], np.int64) + 7
        codes = np.frombuffer(block[: n * DIM], np.uint8).reshape(n, DIM)
        writer.add(np.full(n, number), codes, positions)
    name = f"{path.name}.blocks"
    files = {**record.files, name: writer.close().save(tmp_path / name)}
    disk = loaded(tmp_path, record.model_copy(update={"files": files}), "cosine", home)
    with pytest.raises(ShardCorrupt, match="a list names a row that is not one of its 100"):
        disk.nominate(clustered(5), 100, None, disk.nlist)


def test_a_list_file_cut_short_or_missing_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    record = built(tmp_path, clustered(100))
    path = tmp_path / lists_name(NUMBER)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ShardCorrupt, match="it has 2392 bytes, its table of blocks says 2400"):
        loaded(tmp_path, record)
    path.unlink()
    with pytest.raises(ShardCorrupt, match="it is missing"):
        loaded(tmp_path, record)


def test_the_batches_in_which_rows_came_do_not_change_a_byte(tmp_path: Path) -> None:
    vectors = clustered(ROWS)
    one, other = built(tmp_path / "a", vectors), built(tmp_path / "b", vectors, batch=100)
    assert one.files == other.files
    same = [(tmp_path / folder / lists_name(NUMBER)).read_bytes() for folder in "ab"]
    assert same[0] == same[1]


def test_what_stays_in_memory_does_not_grow_with_the_rows_of_a_list(tmp_path: Path) -> None:
    few = loaded(tmp_path / "a", built(tmp_path / "a", clustered(ROWS)))
    many = loaded(tmp_path / "b", built(tmp_path / "b", np.tile(clustered(ROWS), (4, 1))))
    assert few.memory_bytes < few.nlist * (4 * DIM + 110)
    assert many.memory_bytes < many.nlist * (4 * DIM + 110)


def test_threads_get_the_same_rows(tmp_path: Path, home: str | None) -> None:
    queries = clustered(20, 1)
    disk = loaded(tmp_path, built(tmp_path, clustered(ROWS)), "cosine", home)
    expected = disk.nominate(queries, 10, None, 5)
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, 20, 20).tolist():
            if not np.array_equal(disk.nominate(queries[i : i + 1], 10, None, 5)[0], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1_000),
    n=st.integers(0, 200),
    nlist=st.integers(1, 30),
    hint=st.sampled_from([0, 100, 3_000_000, 10**9]),  # one group of lists, or many
    cuts=st.lists(st.integers(0, 200), max_size=4),
)
def test_lists_are_written_in_order_whatever_came_when(
    tmp_path_factory: pytest.TempPathFactory, seed: int, n: int, nlist: int, hint: int, cuts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    numbers, codes = rng.integers(0, nlist, n), rng.integers(0, 256, (n, 5)).astype(np.uint8)
    order = rng.permutation(n)
    path = tmp_path_factory.mktemp("l") / "lists"
    writer = ListWriter(path, nlist, 5, hint)
    for part in np.split(order, sorted(min(cut, n) for cut in cuts)):
        writer.add(numbers[part], codes[part], part)
    table = writer.close()
    for number, block in enumerate(BlockFile.open(path, table).read(range(nlist))):
        mine = np.flatnonzero(numbers == number)
        assert bytes(block) == codes[mine].tobytes() + mine.astype(np.int64).tobytes()
    assert [file.name for file in path.parent.iterdir()] == ["lists"]
    assert file_digest(path)


@pytest.mark.parametrize("metric", METRICS)
def test_centroids_in_two_steps_part_the_rows_about_as_well_as_in_one(
    metric: Metric, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = clustered(2_000)

    def apart(n: int) -> float:
        found = train_centroids(sample, n, metric)
        assert n - 10 <= len(found) <= n
        return float(nearest_lists(found, "l2").search(sample, 1)[0].mean())

    one = apart(50)
    monkeypatch.setattr(centroids, "TWO_STEPS_FROM", 1)
    assert apart(50) < 1.2 * one


@pytest.mark.parametrize("metric", METRICS)
def test_a_graph_finds_the_lists_that_comparing_all_of_them_finds(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    found = train_centroids(clustered(2_000), 300, metric)
    queries = clustered(50, 1)
    exact = search_lists(nearest_lists(found, metric), queries, 10)
    monkeypatch.setattr(centroids, "GRAPH_FROM", 300)
    graph = search_lists(nearest_lists(found, metric), queries, 10)
    same = [len(np.intersect1d(a, b)) for a, b in zip(exact[1], graph[1], strict=True)]
    assert np.mean(same) > 9
    first = exact[1][:, 0] == graph[1][:, 0]
    assert np.allclose(exact[0][first, 0], graph[0][first, 0], atol=1e-5)


def test_a_shard_with_a_graph_over_its_lists_is_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(centroids, "GRAPH_FROM", 10)
    monkeypatch.setattr(centroids, "TWO_STEPS_FROM", 10)
    vectors, queries = clustered(ROWS), clustered(10, 1)
    disk = loaded(tmp_path, built(tmp_path, vectors))
    assert recall(disk.nominate(queries, 40, None, disk.nlist), vectors, queries, 10, "cosine") > 0.98


def test_lists_are_many_and_none_is_meant_for_fewer_than_39_rows() -> None:
    rows = (0, 1, 77, 78, 100_000, 1_000_000, 5_000_000)
    assert [list_count(n) for n in rows] == [1, 1, 1, 2, 2_529, 8_000, 17_888]


_: Callable[..., object] = home  # a fixture is used by its name alone
