"""What Arrow reads: images in Parquet, Arrow files and streams, Lance."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import lance
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.readers import SOURCES, Reference, find_files, plan, read, reference
from raystore.errors import InvalidArguments
from tests.data.test_readers import CANARY, read_all, refusal

MIB = 2**20


def write_arrow(path: Path, table: pa.Table, form: str, batch: int) -> Path:
    if form == "feather":
        feather.write_feather(table, path, chunksize=batch, compression="lz4")
        return path
    with (pa.ipc.new_file if form == "file" else pa.ipc.new_stream)(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


def sample(rows: int) -> pa.Table:
    return pa.table(
        {
            "text": [f"wörd {i}" for i in range(rows)],
            "coded": pa.array([f"c{i % 3}" for i in range(rows)]).dictionary_encode(),
            "image": pa.array([bytes([i % 256]) * (i % 7) for i in range(rows)], pa.binary()),
            "n": pa.array([None if i % 3 else i for i in range(rows)], pa.int16()),
        }
    )


def sizes_of_blocks(path: Path, columns: list[str], batch_rows: int, batch_bytes: int) -> list[int]:
    _, references = plan([str(path)], 1, "test")
    return [block.n_rows for r in references for block in read(r, columns, batch_rows, batch_bytes)]


# --- images in columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_a_binary_column_is_content(tmp_path: Path, kind: pa.DataType) -> None:
    path = write_arrow(tmp_path / "t.arrow", pa.table({"image": pa.array([b"\xff\xd8", None, b""], kind)}), "file", 2)
    (file,), _ = plan([str(path)], 1, "test")
    assert file.columns == {"image": "binary"}
    assert read_all(path, ["image"])[0] == {"image": [b"\xff\xd8", None, b""]}


@pytest.mark.parametrize("form", ["parquet", "file", "stream", "lance"])
def test_a_struct_of_bytes_and_path_is_read_as_its_bytes(tmp_path: Path, form: str) -> None:
    values = [{"bytes": b"one", "path": "1.jpg"}, None, {"bytes": None, "path": "3.jpg"}, {"bytes": b"four", "path": None}]
    table = pa.table({"image": pa.array(values, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})
    path = tmp_path / ("t.lance" if form == "lance" else "t.parquet" if form == "parquet" else "t.arrow")
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "lance":
        lance.write_dataset(table, path)
    else:
        write_arrow(path, table, form, 3)
    (file,), _ = plan([str(path)], 1, "test")
    assert file.columns == {"image": "binary"}
    assert read_all(path, ["image"])[0] == {"image": [b"one", None, None, b"four"]}


@pytest.mark.parametrize("form", ["parquet", "file", "stream", "feather", "lance"])
def test_a_block_ends_before_its_content_passes_the_bytes_asked_for(tmp_path: Path, form: str) -> None:
    table = pa.table({"image": [b"x" * size for size in (40, 40, 40, 500, 1, 1, 1, 1)], "n": range(8)})
    path = tmp_path / {"parquet": "t.parquet", "lance": "t.lance"}.get(form, "t.arrow")
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "lance":
        lance.write_dataset(table, path)
    else:
        write_arrow(path, table, form, 8)
    found = sizes_of_blocks(path, ["image"], 1_000, 100)
    assert sum(found) == 8
    _, references = plan([str(path)], 1, "test")
    for r in references:
        for block in read(r, ["image", "n"], 1_000, 100):
            assert block.n_rows == 1 or sum(map(len, block.columns["image"])) <= 100


@pytest.mark.parametrize("form", ["parquet", "file", "stream", "lance"])
def test_small_images_and_small_batches_are_joined_to_blocks_of_the_rows_asked_for(tmp_path: Path, form: str) -> None:
    table = pa.table({"image": [bytes([i % 256]) for i in range(300)]})
    path = tmp_path / {"parquet": "t.parquet", "lance": "t.lance"}.get(form, "t.arrow")
    if form == "parquet":
        pq.write_table(table, path)
    elif form == "lance":
        lance.write_dataset(table, path)
    else:
        write_arrow(path, table, form, 3)
    assert sizes_of_blocks(path, ["image"], 128, 10**6) == ([126, 126, 48] if path.suffix == ".arrow" else [128, 128, 44])
    assert read_all(path, ["image"], batch_rows=128)[0] == table.to_pydict()


def test_a_dictionary_is_measured_by_what_it_stands_for(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["x" * 60] * 5).dictionary_encode()})
    path = write_arrow(tmp_path / "t.arrow", table, "file", 5)
    assert sizes_of_blocks(path, ["text"], 1_000, 130) == [2, 2, 1]


_PEAK = """
import os, sys
import pyarrow as pa, pyarrow.parquet as pq
from raystore.data.readers import plan, read
path = sys.argv[1]
table = pa.table({"image": [os.urandom(2**20) for _ in range(96)]})
pq.write_table(table, path, write_batch_size=1)
del table
pa.default_memory_pool().release_unused()
pool = pa.system_memory_pool()
pa.set_memory_pool(pool)
files, references = plan([path], 1, "test")
print(files[0].n_rows, sum(block.n_rows for r in references for block in read(r, ["image"], 1_024, 8 * 2**20)))
print(pool.max_memory())
"""


def test_one_giant_row_group_is_streamed(tmp_path: Path) -> None:
    # A process of its own: Arrow's pool counts its peak from the process's start.
    run = [sys.executable, "-c", _PEAK, str(tmp_path / "t.parquet")]
    rows, peak = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert rows == "96 96"
    assert int(peak) < 48 * MIB  # half of the row group; what is held at once are a batch and some pages


# --- Arrow files and streams -------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(0, 50),
    batch=st.integers(1, 20),
    step=st.integers(1, 9),
    block=st.integers(1, 20),
    form=st.sampled_from(["file", "stream", "feather"]),
    suffix=st.sampled_from(["arrow", "feather", "ipc"]),
)
def test_arrow_slices_give_every_row_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: int, batch: int, step: int, block: int, form: str, suffix: str
) -> None:
    path = write_arrow(tmp_path_factory.mktemp("a") / f"t.{suffix}", sample(rows), form, batch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "MIN_SLICE_ROWS", step)
        patch.setattr(reference, "MAX_SLICE_ROWS", step)
        values, unreadable = read_all(path, ["n", "image", "coded", "text"], workers=3, batch_rows=block)
    assert values == sample(rows).select(["n", "image", "coded", "text"]).to_pydict()
    assert unreadable == {}


def test_arrow_columns_have_the_types_a_collection_keeps(tmp_path: Path) -> None:
    (file,), _ = plan([str(write_arrow(tmp_path / "t.arrow", sample(3), "file", 2))], 1, "test")
    assert (file.kind, file.n_rows) == ("arrow", 3)
    assert file.columns == {"text": "string", "coded": "string", "image": "binary", "n": "int64"}


def test_many_small_batches_make_few_slices(tmp_path: Path) -> None:
    path = write_arrow(tmp_path / "t.arrow", pa.table({"n": range(3_000)}), "stream", 1)
    _, references = plan([str(path)], 1, "test")
    assert [(r.row_group, r.start, r.n_rows) for r in references] == [(0, 0, 1_024), (1_024, 0, 1_024), (2_048, 0, 952)]


@pytest.mark.parametrize(
    ("form", "cut", "error"),
    [("file", 8, "ArrowInvalid"), ("file", 600, "ArrowInvalid"), ("stream", 20, "OSError"), ("stream", 800, "OSError")],
)
def test_an_arrow_file_that_is_cut_off_is_refused(tmp_path: Path, form: str, cut: int, error: str) -> None:
    path = write_arrow(tmp_path / "t.arrow", pa.table({"t": [CANARY * 10] * 40}), form, 20)
    path.write_bytes(path.read_bytes()[:-cut])
    assert refusal(path) == f"embed into 'tickets': '{path}' cannot be read as arrow ({error})."


@pytest.mark.parametrize("content", [b"", b"no arrow " + CANARY.encode() * 9, b"ARROW1" + CANARY.encode() * 9])
def test_a_file_that_is_no_arrow_is_refused_without_quoting_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.arrow"
    path.write_bytes(content)
    said = refusal(path)
    assert said.startswith(f"embed into 'tickets': '{path}' cannot be read as arrow (")
    assert CANARY not in said


def test_offsets_that_point_outside_the_file_are_never_followed(tmp_path: Path) -> None:
    offsets = pa.array([0, 10**9, 3], pa.int32()).buffers()[1]
    wild = pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"abc")])
    path = write_arrow(tmp_path / "t.arrow", pa.table({"t": wild}), "file", 2)
    _, (slice_,) = plan([str(path)], 1, "test")
    with pytest.raises(pa.ArrowInvalid):
        list(read(slice_, ["t"], 10))


# --- Lance -------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 40),
    fragment=st.integers(1, 15),
    step=st.integers(1, 9),
    block=st.integers(1, 20),
    gone=st.sets(st.integers(0, 39), max_size=15),
)
def test_lance_slices_give_every_live_row_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: int, fragment: int, step: int, block: int, gone: set[int]
) -> None:
    path = tmp_path_factory.mktemp("l") / "t.lance"
    table = sample(rows).append_column("row", pa.array(range(rows)))
    dataset = lance.write_dataset(table, path, max_rows_per_file=fragment)
    if gone:
        dataset.delete(f"row in ({', '.join(map(str, gone))})")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "MIN_SLICE_ROWS", step)
        patch.setattr(reference, "MAX_SLICE_ROWS", step)
        values, _ = read_all(path, ["row", "image", "text"], workers=3, batch_rows=block)
    live = table.filter(pa.array([i not in gone for i in range(rows)])).select(["row", "image", "text"])
    assert values == live.to_pydict()


def test_a_lance_dataset_is_read_as_it_was_planned_whatever_is_written_since(tmp_path: Path) -> None:
    path = tmp_path / "t.lance"
    lance.write_dataset(pa.table({"t": ["a", "b"]}), path)
    (file,), (slice_,) = plan(find_files(path, "test", SOURCES), 1, "test")
    assert (file.kind, file.n_rows, file.columns) == ("lance", 2, {"t": "string"})
    assert file.size_bytes is not None
    assert file.modified is not None
    lance.write_dataset(pa.table({"t": ["c"]}), path, mode="append")
    lance.dataset(path).delete("t = 'a'")
    assert [block.columns["t"] for block in read(slice_, ["t"], 10)] == [["a", "b"]]


def test_a_lance_version_that_was_cleaned_up_is_said(tmp_path: Path) -> None:
    path = tmp_path / "t.lance"
    lance.write_dataset(pa.table({"t": ["a"]}), path)
    _, (slice_,) = plan([str(path)], 1, "test")
    with pytest.raises(InvalidArguments) as refused:
        list(read(dataclasses.replace(slice_, version=7), ["t"], 10))
    assert str(refused.value) == f"read: version 7 of '{path}' is not there any more (ValueError): plan the job again."


def test_a_folder_that_is_no_lance_dataset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.lance"
    path.mkdir()
    assert refusal(path) == f"embed into 'tickets': '{path}' cannot be read as lance (ValueError)."


# --- references --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "lance"])
def test_a_reference_travels_as_json_and_holds_no_content(tmp_path: Path, suffix: str) -> None:
    table = pa.table({"t": [CANARY] * 3, "image": [CANARY.encode()] * 3})
    path = tmp_path / f"t.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "lance":
        lance.write_dataset(table, path)
    else:
        write_arrow(path, table, "file", 2)
    _, (slice_,) = plan([str(path)], 1, "test")
    line = json.dumps(dataclasses.asdict(slice_))
    assert CANARY not in line
    assert len(line) < 1_000
    assert Reference(**json.loads(line)) == slice_


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "lance"])
def test_without_columns_the_rows_are_numbered_and_nothing_is_opened(tmp_path: Path, suffix: str) -> None:
    slice_ = Reference(str(tmp_path / f"gone.{suffix}"), "lance" if suffix == "lance" else suffix, 100, 25, 0, 25)
    assert [(block.first_row, block.n_rows, block.columns) for block in read(slice_, [], 10)] == [
        (100, 10, {}), (110, 10, {}), (120, 5, {})
    ]  # fmt: skip


def test_every_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.parquet", "b.arrow", "c.tar")]
    for path in paths:
        path.write_text(CANARY * 10)
    with pytest.raises(InvalidArguments) as refused:
        plan(list(map(str, paths)), 1, "embed")
    assert str(refused.value) == (
        f"embed: '{paths[0]}' cannot be read as parquet (ArrowInvalid); '{paths[1]}' cannot be read as arrow (ArrowInvalid); "
        f"'{paths[2]}' cannot be read as tar (ReadError)."
    )
