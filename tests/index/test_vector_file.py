from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import ShardCorrupt
from raystore.index.shards.blocks import send_home
from raystore.index.shards.home import process_cache
from raystore.index.shards.vector_file import VectorFile, VectorFileWriter, name_of, table_name_of

DIM = 6


def vectors(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, DIM)).astype(np.float32)


def written(folder: Path, matrix: np.ndarray, cuts: tuple[int, ...] = ()) -> dict[str, str]:
    writer = VectorFileWriter(folder / name_of(3), matrix.shape[1])
    for part in np.split(matrix, sorted(min(cut, len(matrix)) for cut in cuts)):
        writer.add(part)
    assert writer.rows == len(matrix)
    return writer.close()


@pytest.fixture(autouse=True)
def _an_empty_cache() -> None:
    process_cache.cache_clear()


@pytest.fixture(params=["mapped", "file", "memory"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    homes = {"mapped": None, "file": f"file://{tmp_path}/höme", "memory": f"memory://{tmp_path.name}/höme"}
    return homes[request.param]


def opened(folder: Path, matrix: np.ndarray, home: str | None, **options: int) -> VectorFile:
    files = written(folder, matrix)
    if home is not None:
        send_home(folder / name_of(3), home)
        (folder / name_of(3)).unlink()
    return VectorFile.open(folder, 3, files, len(matrix), DIM, home=home, **options)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(0, 100), cuts=st.lists(st.integers(0, 100), max_size=6))
def test_the_batches_in_which_vectors_came_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, n: int, cuts: list[int]
) -> None:
    folder, matrix = tmp_path_factory.mktemp("v"), vectors(n)
    files = written(folder, matrix, tuple(cuts))
    assert (folder / name_of(3)).read_bytes() == matrix.tobytes()
    assert files == written(folder, matrix)
    assert list(files) == [table_name_of(3)] == ["shard-0003.vectors.blocks"]


def test_rows_come_in_the_order_asked_with_their_repeats(tmp_path: Path, home: str | None) -> None:
    matrix = vectors(200)
    file = opened(tmp_path, matrix, home)
    at = np.random.default_rng(1).integers(0, 200, 500)
    assert np.array_equal(file.rows(at), matrix[at])
    assert file.rows(np.empty(0, np.int64)).shape == (0, DIM)
    assert (len(file), file.dim, file.disk_bytes) == (200, DIM, 200 * DIM * 4)


def test_only_the_blocks_that_are_touched_are_read_and_once_each(tmp_path: Path, home: str | None) -> None:
    file = opened(tmp_path, vectors(200), home)
    for _ in range(2):
        file.rows(np.array([0, 5, 15, 199]))
        assert (file.blocks.reads, file.blocks.bytes_read) == (2, (16 + 8) * DIM * 4)


def test_parts_are_the_whole_in_order(tmp_path: Path, home: str | None) -> None:
    matrix = vectors(203)
    file = opened(tmp_path, matrix, home)
    parts = list(file.parts(30))
    assert [start for start, _ in parts] == [0, 32, 64, 96, 128, 160, 192]
    assert np.array_equal(np.concatenate([part for _, part in parts]), matrix)


def test_parts_of_a_mapped_file_are_views_that_nobody_writes_to(tmp_path: Path) -> None:
    _, part = next(opened(tmp_path, vectors(50), None).parts(50))
    with pytest.raises(ValueError, match="read-only"):
        part[0, 0] = 1


def test_no_rows_are_a_file_too(tmp_path: Path, home: str | None) -> None:
    file = opened(tmp_path, vectors(0), home)
    assert file.rows(np.empty(0, np.int64)).shape == (0, DIM)
    assert list(file.parts(10)) == []


def test_a_position_that_is_not_there_is_refused(tmp_path: Path, home: str | None) -> None:
    file = opened(tmp_path, vectors(20), home)
    for at in (-1, 20):
        with pytest.raises(IndexError) as raised:
            file.rows(np.array([3, at]))
        assert str(raised.value) == f"positions reach from {min(3, at)} to {max(3, at)}, the file has 20 rows"


def test_a_changed_row_is_refused_when_its_block_is_touched(tmp_path: Path) -> None:
    matrix = vectors(64)
    files = written(tmp_path, matrix)
    path = tmp_path / name_of(3)
    changed = bytearray(path.read_bytes())
    changed[40 * DIM * 4] ^= 1
    path.write_bytes(changed)
    file = VectorFile.open(tmp_path, 3, files, 64, DIM)
    assert np.array_equal(file.rows(np.array([0, 31, 48])), matrix[[0, 31, 48]])
    for touch in (lambda: file.rows(np.array([0, 33])), lambda: list(file.parts(64))):
        with pytest.raises(ShardCorrupt, match=r"shard-0003\.vectors' is unusable: the sha256 of its block 2 is"):
            touch()


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    files = written(tmp_path, vectors(64))
    with pytest.raises(ShardCorrupt) as raised:
        VectorFile.open(tmp_path, 3, files, 32, 2 * DIM)
    assert str(raised.value) == (
        f"index file '{tmp_path / name_of(3)}' is unusable: it does not hold 32 rows of 12 numbers. "
        "It was not loaded; the shard is rebuilt."
    )
