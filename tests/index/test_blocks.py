from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import InvalidArguments, ShardCorrupt
from raystore.index.shards.blocks import BlockFile, BlockTable, BlockWriter, file_digest, send_home
from raystore.index.shards.home import BlockCache, process_cache

UNUSABLE = "It was not loaded; the shard is rebuilt."


def written(path: Path, blocks: list[bytes]) -> BlockTable:
    writer = BlockWriter(path)
    for block in blocks:
        writer.add(block)
    return writer.close()


def random_blocks(sizes: list[int], seed: int = 0) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [rng.bytes(size) for size in sizes]


@pytest.fixture(autouse=True)
def _an_empty_cache() -> None:
    process_cache.cache_clear()


@pytest.fixture(params=["mapped", "file", "memory"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    homes = {"mapped": None, "file": f"file://{tmp_path}/höme", "memory": f"memory://{tmp_path.name}/höme"}
    return homes[request.param]


def opened(path: Path, blocks: list[bytes], home: str | None, **options: int) -> BlockFile:
    table = written(path, blocks)
    if home is not None:
        send_home(path, home)
        path.unlink()
    return BlockFile.open(path, table, home=home, **options)


def test_blocks_come_as_they_were_written_in_the_order_asked(tmp_path: Path, home: str | None) -> None:
    blocks = random_blocks([3, 5_000, 0, 1, 70_000])
    file = opened(tmp_path / "a 'file' ä", blocks, home)
    assert [bytes(block) for block in file.read([4, 0, 2, 1, 3, 0])] == [blocks[i] for i in (4, 0, 2, 1, 3, 0)]
    assert file.read([]) == []


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(0, 50), max_size=12), each=st.integers(1, 40))
def test_a_run_of_equal_blocks_is_the_blocks_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], each: int
) -> None:
    folder = tmp_path_factory.mktemp("b")
    data = b"".join(random_blocks(sizes))
    writer = BlockWriter(folder / "run")
    writer.add(data, each=each)
    run = writer.close()
    single = written(folder / "single", [data[i : i + each] for i in range(0, len(data), each)])
    assert np.array_equal(run.offsets, single.offsets)
    assert np.array_equal(run.digests, single.digests)
    assert (folder / "run").read_bytes() == (folder / "single").read_bytes() == data
    for table in (run, single):
        digest = table.save(folder / "t.blocks")
        loaded = BlockTable.load(folder / "t.blocks", digest)
        assert np.array_equal(loaded.offsets, table.offsets)
        assert np.array_equal(loaded.digests, table.digests)


def test_a_table_is_offsets_and_cut_digests(tmp_path: Path) -> None:
    table = written(tmp_path / "f", [b"hello", b"", b"world!"])
    assert table.offsets.tolist() == [0, 5, 5, 11]
    assert table.digests[2].tobytes() == hashlib.sha256(b"world!").digest()[:16]
    assert (len(table), table.size) == (3, 11)


def test_a_block_is_read_once_and_only_if_asked(tmp_path: Path, home: str | None) -> None:
    file = opened(tmp_path / "f", random_blocks([100, 200, 300]), home)
    file.read([2])
    file.read([2, 0, 2])
    assert (file.reads, file.bytes_read) == (2, 400)


def test_a_changed_block_is_refused_and_its_neighbours_serve(tmp_path: Path, home: str | None) -> None:
    blocks = random_blocks([100, 200, 300])
    path = tmp_path / "f"
    table = written(path, blocks)
    changed = bytearray(path.read_bytes())
    changed[150] ^= 1
    path.write_bytes(changed)
    if home is not None:
        send_home(path, home)
    file = BlockFile.open(path, table, home=home)
    assert [bytes(block) for block in file.read([2, 0])] == [blocks[2], blocks[0]]
    found = hashlib.sha256(changed[100:300]).hexdigest()[:12]
    for _ in range(2):
        with pytest.raises(ShardCorrupt) as raised:
            file.read([0, 1])
        assert str(raised.value) == (
            f"index file '{file.address}' is unusable: the sha256 of its block 1 is {found} (200 bytes), "
            f"its table says {table.digests[1].tobytes().hex()[:12]}. {UNUSABLE}"
        )


def test_a_file_cut_short_or_missing_is_refused_before_it_is_read(tmp_path: Path, home: str | None) -> None:
    path = tmp_path / "f"
    table = written(path, random_blocks([100, 200]))
    path.write_bytes(path.read_bytes()[:-1])
    if home is not None:
        send_home(path, home)
    address = str(path) if home is None else f"{home}/f"
    with pytest.raises(ShardCorrupt) as raised:
        BlockFile.open(path, table, home=home)
    assert (
        str(raised.value)
        == f"index file '{address}' is unusable: it has 299 bytes, its table of blocks says 300. {UNUSABLE}"
    )
    missing = path.with_name("g")
    with pytest.raises(ShardCorrupt, match="g' is unusable: it is missing"):
        BlockFile.open(missing, table, home=home)


def test_a_file_that_goes_from_its_home_is_said_to_be_missing(tmp_path: Path) -> None:
    file = opened(tmp_path / "f", random_blocks([10]), f"file://{tmp_path}/home")
    (tmp_path / "home" / "f").unlink()
    with pytest.raises(ShardCorrupt, match="it is missing"):
        file.read([0])


def test_a_table_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.blocks"
    digest = written(tmp_path / "f", [b"hello"]).save(path)
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    with pytest.raises(ShardCorrupt) as raised:
        BlockTable.load(path, digest)
    assert str(raised.value) == (
        f"index file '{path}' is unusable: its sha256 is {file_digest(path)[:12]} ({len(good) - 1} bytes), "
        f"the manifest says {digest[:12]}. {UNUSABLE}"
    )
    path.write_bytes(b"something else")
    with pytest.raises(ShardCorrupt, match="it is no table of blocks"):
        BlockTable.load(path, file_digest(path))
    path.unlink()
    with pytest.raises(ShardCorrupt, match="it is missing"):
        BlockTable.load(path, digest)


def test_a_table_whose_blocks_overlap_is_refused(tmp_path: Path) -> None:
    table = written(tmp_path / "f", [b"hello", b"world"])
    digest = BlockTable(table.offsets[[0, 2, 1]], table.digests).save(tmp_path / "t.blocks")
    with pytest.raises(ShardCorrupt, match="it is no table of blocks"):
        BlockTable.load(tmp_path / "t.blocks", digest)


@settings(max_examples=60, deadline=None)
@given(capacity=st.integers(0, 60), asked=st.lists(st.integers(0, 9), max_size=60))
def test_a_cache_never_holds_more_than_its_size_and_what_it_gives_is_right(capacity: int, asked: list[int]) -> None:
    blocks = random_blocks(list(range(1, 11)), 3)
    cache = BlockCache(capacity)
    for number in asked:
        kept = cache.get(bytes([number]))
        assert kept in (None, blocks[number])
        cache.put(bytes([number]), blocks[number])
        assert cache.used <= capacity
        held = [i for i in range(10) if cache.get(bytes([i])) is not None]
        assert cache.used == sum(len(blocks[i]) for i in held)
        assert number in held or len(blocks[number]) > capacity


def test_what_was_used_last_stays_in_the_cache() -> None:
    cache = BlockCache(2)
    cache.put(b"a", b"1")
    cache.put(b"b", b"2")
    cache.get(b"a")
    cache.put(b"c", b"3")
    assert [cache.get(key) for key in (b"a", b"b", b"c")] == [b"1", None, b"3"]


def test_files_of_one_size_of_cache_share_it(tmp_path: Path) -> None:
    home = f"memory://{tmp_path.name}/shared"
    block = random_blocks([500])
    first = opened(tmp_path / "f", block, home)
    first.read([0])
    second = opened(tmp_path / "g", block, home)
    second.read([0])
    assert (first.reads, second.reads, second.cache_used) == (1, 0, 500)


def test_threads_read_the_same_bytes(tmp_path: Path, home: str | None) -> None:
    blocks = random_blocks([100] * 50, 5)
    file = opened(tmp_path / "f", blocks, home, cache_bytes=1_009)
    wrong: list[int] = []

    def read(seed: int) -> None:
        for _ in range(20):
            asked = np.random.default_rng(seed).integers(0, 50, 10).tolist()
            wrong.extend(i for i, block in zip(asked, file.read(asked), strict=True) if bytes(block) != blocks[i])

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_address_that_nobody_knows_is_said(tmp_path: Path) -> None:
    table = written(tmp_path / "f", [b"x"])
    with pytest.raises(InvalidArguments) as raised:
        BlockFile.open(tmp_path / "f", table, home="nowhere://x")
    assert str(raised.value) == (
        "home: no file system is known for nowhere://; name a folder, or an address that fsspec knows."
    )


def test_an_empty_file_has_no_blocks(tmp_path: Path, home: str | None) -> None:
    file = opened(tmp_path / "f", [], home)
    assert (file.read([]), len(file.table), file.table.size) == ([], 0, 0)
