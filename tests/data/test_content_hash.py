from __future__ import annotations

import hashlib
import math
import os
import struct
import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.snapshots import content_hash as module
from raystore.data.snapshots.content_hash import ContentHash, blocks, content_hash

KINDS = {
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
    "number": pa.float64(),
    "integer": pa.int64(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us", "UTC"),
    "date": pa.date32(),
}


def by_definition(rows: list[dict[str, Any]], kinds: dict[str, str], block: int = 65_536) -> str:
    """The definition in the module's head, written again, a value at a time."""
    out = bytearray(b"raystore-snapshot-2" + struct.pack(">I", len(kinds)))
    for name, kind in kinds.items():
        for text in (name, kind):
            out += struct.pack(">I", len(text.encode())) + text.encode()
    rows = sorted(rows, key=lambda row: row["id"].encode())
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        out += struct.pack(">Q", len(part))
        for name, kind in kinds.items():
            values = [row[name] for row in part]
            out += bytes(value is None for value in values)
            if kind == "texts":
                out += b"".join(struct.pack(">I", len(v or [])) for v in values)
                values, kind = [text for v in values for text in v or []], "text"
            if kind == "text":
                encoded = [(v or "").encode() for v in values]
                out += b"".join(struct.pack(">I", len(e)) for e in encoded) + b"".join(encoded)
            for v in values if kind != "text" else []:
                if kind == "number":
                    out += (
                        b"\x7f\xf8" + bytes(6) if v is not None and math.isnan(v) else struct.pack(">d", (v or 0.0) + 0.0)
                    )
                elif kind == "boolean":
                    out += bytes([bool(v)])
                else:
                    out += struct.pack(">q", _whole(v))
    return hashlib.sha256(bytes(out)).hexdigest()


def _whole(value: Any) -> int:
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // (datetime.resolution)
    return (value - date(1970, 1, 1)).days if isinstance(value, date) else value or 0


texts = st.text(max_size=5)
rows_of_all_kinds = st.lists(
    st.fixed_dictionaries(
        {
            "id": texts,
            "text": st.none() | texts,
            "texts": st.none() | st.lists(texts, max_size=3),
            "number": st.none() | st.floats() | st.just(-0.0),
            "integer": st.none() | st.integers(-(2**63), 2**63 - 1),
            "boolean": st.none() | st.booleans(),
            "time": st.none() | st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
            "date": st.none() | st.dates(),
        }
    ),
    max_size=12,
    unique_by=lambda row: row["id"],
)
NAMED = {"id": "text", **{kind: kind for kind in KINDS}}
SCHEMA = pa.schema([(name, KINDS[kind]) for name, kind in NAMED.items()])


@settings(max_examples=150, deadline=None)
@given(rows_of_all_kinds, st.randoms(use_true_random=False), st.integers(1, 5), st.integers(1, 4))
def test_the_hash_is_what_its_definition_says_whatever_the_order_and_the_chunks(
    rows: list[dict[str, Any]], random: Any, chunk: int, block: int
) -> None:
    wanted = by_definition(rows, NAMED, block)
    shuffled = random.sample(rows, len(rows))
    parts = [shuffled[i : i + chunk] for i in range(0, len(shuffled), chunk)]
    table = pa.concat_tables([SCHEMA.empty_table(), *(pa.Table.from_pylist(part, SCHEMA) for part in parts)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        assert content_hash(table) == wanted
        assert content_hash(pa.Table.from_pylist(sorted(rows, key=lambda r: r["id"]), SCHEMA)) == wanted


ROWS = [
    {"id": "ü 'x'", "entity": "ü 'x'", "label": "refund", "split": "test", "weight": 2.5},
    {"id": "b", "entity": "c-2", "label": "none", "split": "train", "weight": 1.0},
    {"id": "a", "entity": "c-1", "label": "refund", "split": "train", "weight": 1.0},
]
DIGEST = "ccb3a368eb032eb9fc2b0b12ecc92401bccf1ca79572776a5225287e293fcf47"


def test_the_hash_of_these_rows_never_changes() -> None:
    kinds = {"id": "text", "entity": "text", "label": "text", "split": "text", "weight": "number"}
    assert content_hash(pa.Table.from_pylist(ROWS)) == by_definition(ROWS, kinds) == DIGEST


def test_processes_with_other_seeds_time_zones_and_threads_agree() -> None:
    code = (
        f"import pyarrow as pa; pa.set_cpu_count(int(__import__('sys').argv[1]));"
        f"from raystore.data.snapshots.content_hash import content_hash; print(content_hash(pa.Table.from_pylist({ROWS!r})))"
    )
    for seed, threads in (("1", "1"), ("2", "4")):
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"}
        command = [sys.executable, "-c", code, threads]
        root = Path(__file__).parent.parent.parent
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=root, timeout=60)
        assert done.stdout.strip() == DIGEST


@pytest.mark.parametrize(
    "change",
    [{"id": "c"}, {"entity": "c-3"}, {"label": "other"}, {"split": "val"}, {"weight": 1.0000000000000002}],
    ids=lambda change: next(iter(change)),
)
def test_any_change_of_a_row_is_another_hash(change: dict[str, Any]) -> None:
    assert content_hash(pa.Table.from_pylist([ROWS[0], ROWS[1], {**ROWS[2], **change}])) != DIGEST


def test_a_feature_is_part_of_the_hash_with_its_name_and_kind() -> None:
    table = pa.Table.from_pylist(ROWS)
    free = pa.array(["free", None, "paid"])
    found = {content_hash(table.append_column(name, free)) for name in ("plan", "rank")}
    found |= {content_hash(table.append_column("plan", pa.nulls(3, kind))) for kind in (pa.string(), pa.int64())}
    assert len(found | {DIGEST}) == 5


def test_what_stands_in_two_columns_does_not_run_together() -> None:
    one = {"id": "a", "x": "bc", "y": "d"}
    other = {"id": "a", "x": "b", "y": "cd"}
    assert content_hash(pa.Table.from_pylist([one])) != content_hash(pa.Table.from_pylist([other]))
    null, empty = {"id": "a", "x": None}, {"id": "a", "x": ""}
    schema = pa.schema([("id", pa.string()), ("x", pa.string())])
    assert content_hash(pa.Table.from_pylist([null], schema)) != content_hash(pa.Table.from_pylist([empty], schema))


def test_a_list_column_has_one_hash_whatever_its_items_are_called() -> None:
    hashes = set()
    for item in ("item", "element", "l"):
        kind = pa.list_(pa.field(item, pa.string()))
        hashes.add(content_hash(pa.table({"id": ["a"], "label": pa.array([["x", "y"]], kind)})))
    assert len(hashes) == 1


def test_blocks_are_cut_at_fixed_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 4)
    batches = pa.table({"id": list("abcdefghij")}).to_batches(3)
    assert [len(block) for block in blocks(batches)] == [4, 4, 2]
    assert [len(block) for block in blocks(pa.table({"id": list("abcdefgh")}).to_batches(8))] == [4, 4]
    assert list(blocks([])) == []


def test_a_column_that_no_snapshot_holds_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^column 'x' is int32, which a snapshot cannot hold$"):
        ContentHash(pa.schema([("x", pa.int32())]))
