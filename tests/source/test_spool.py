from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import DiskFull, InvalidArguments, SpoolFull, SpoolUnusable
from raystore.source.record import Record, from_line, to_line
from raystore.source.spool import Spool
from tests.source.spooling import FINGERPRINT, record

MB = 2**20


def drain(spool: Spool, n: int = 3) -> list[str]:
    """The ids in the order they are sent."""
    found = []
    while batch := spool.next(n):
        assert len({(r.collection, r.fingerprint) for r in batch.records}) <= 1
        found += [str(r.row["id"]) for r in batch.records]
        spool.sent(batch)
    return found


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.none() | st.booleans() | st.integers() | FLOATS | st.text()
APPENDS = st.tuples(st.just("append"), st.integers(1, 4), st.sampled_from("ab"))
STEPS = st.lists(APPENDS | st.sampled_from(["send", "lose", "open"]), max_size=25)


@given(
    collection=st.text(min_size=1, max_size=20),
    row=st.dictionaries(st.text(max_size=9), VALUES),
    vector=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9),
)
def test_a_line_holds_a_row_bit_for_bit(collection: str, row: dict[str, object], vector: list[float]) -> None:
    sent = Record(collection, FINGERPRINT, row, np.asarray(vector, np.float32))
    line = to_line(sent)
    assert line.count(b"\n") == 1
    found = from_line(line)
    assert found is not None
    assert (found.collection, found.fingerprint, found.row) == (collection, FINGERPRINT, row)
    assert found.vector.tobytes() == sent.vector.tobytes()


@given(line=st.binary(max_size=200), at=st.integers(0, 150), flip=st.integers(1, 255))
def test_a_damaged_line_is_no_row(line: bytes, at: int, flip: int) -> None:
    assert from_line(line) is None
    good = bytearray(to_line(record(1)).rstrip(b"\n"))
    good[at % len(good)] ^= flip
    assert from_line(bytes(good)) is None


@settings(max_examples=60, deadline=None)
@given(steps=STEPS, n=st.integers(1, 5))
def test_every_kept_row_is_sent_in_order_whatever_happens_between(steps: list[object], n: int) -> None:
    """Reopening may repeat what was sent and not yet noted ("lose"), never skip or reorder."""
    with tempfile.TemporaryDirectory() as folder:
        spool, kept, sent = Spool(folder, MB, segment_bytes=600), list[str](), list[str]()
        for step in steps:
            if isinstance(step, tuple):
                rows = [record(len(kept) + i, str(step[2])) for i in range(step[1])]
                spool.append(rows)
                kept += [str(r.row["id"]) for r in rows]
            elif step == "open":
                spool.close()
                spool = Spool(folder, MB, segment_bytes=600)
            elif batch := spool.next(n):
                ids = [str(r.row["id"]) for r in batch.records]
                assert ids == kept[len(sent) : len(sent) + len(ids)]
                if step == "send":
                    spool.sent(batch)
                    sent += ids
            assert spool.pending_rows == len(kept) - len(sent)
        assert sent + drain(spool, n) == kept
        assert (spool.pending_rows, spool.n_bytes, spool.next(n)) == (0, 0, None)
        spool.close()


def test_a_batch_is_of_one_collection(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    spool.append([record(0, "a"), record(1, "a"), record(2, "b"), record(3, "a")])
    batches = []
    while batch := spool.next(10):
        batches.append([str(r.row["id"]) for r in batch.records])
        spool.sent(batch)
    assert batches == [["r-0", "r-1"], ["r-2"], ["r-3"]]


def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 2**16)
    kept = 0
    while spool.n_bytes < 2**16 - 500:
        spool.append([record(kept), record(kept + 1)])
        kept += 2
    with pytest.raises(SpoolFull) as caught:
        spool.append([record(kept), record(kept + 1), record(kept + 2)])
    assert str(caught.value) == (
        f"3 rows were not kept: the spool in '{tmp_path}' holds as much as it may, 65536 bytes. What it holds is safe and is sent when "
        "the service answers again. Repeat the call then, or give it more room (max_spool_bytes=)."
    )
    assert 200 < spool.pending_rows == kept
    assert spool.n_bytes <= 2**16
    assert drain(spool, 7) == [f"r-{i}" for i in range(kept)]
    spool.append([record(kept)])  # there is room again


@pytest.mark.parametrize("torn", [1, 20, 60])
def test_a_torn_last_line_is_cut_off(torn: int, tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    spool.append([record(0), record(1)])
    spool.close()
    (segment,) = tmp_path.glob("0*.rows")
    with segment.open("ab") as file:
        file.write(to_line(record(2))[:-torn])
    spool = Spool(tmp_path, MB)
    assert spool.pending_rows == 2
    spool.append([record(3)])
    assert drain(spool) == ["r-0", "r-1", "r-3"]


def test_a_damaged_line_is_passed_over_and_counted(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    spool.append([record(i) for i in range(3)])
    spool.close()
    (segment,) = tmp_path.glob("0*.rows")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(lines[0] + lines[1].replace(b"card", b"cart") + lines[2])
    spool = Spool(tmp_path, MB)
    batch = spool.next(10)
    assert batch is not None
    assert ([r.row["id"] for r in batch.records], batch.damaged) == (["r-0", "r-2"], 1)
    spool.sent(batch)
    assert (spool.pending_rows, spool.next(10)) == (0, None)


def test_without_its_note_everything_is_sent_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    spool.append([record(i) for i in range(4)])
    batch = spool.next(2)
    assert batch is not None
    spool.sent(batch)
    spool.close()
    (tmp_path / "sent.json").write_text("{", encoding="utf-8")
    assert drain(Spool(tmp_path, MB)) == ["r-0", "r-1", "r-2", "r-3"]


def test_refused_rows_are_set_aside_count_and_come_back(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    spool.append([record(0), record(1)])
    batch = spool.next(2)
    assert batch is not None
    spool.refuse(batch.records[1:])
    spool.sent(batch)
    size = spool.n_bytes
    assert (spool.pending_rows, spool.refused_rows, size > 0) == (0, 1, True)
    spool.close()
    spool = Spool(tmp_path, MB)
    assert (spool.refused_rows, spool.n_bytes) == (1, size)
    assert spool.restore() == 1
    assert (spool.refused_rows, spool.restore()) == (0, 0)
    assert drain(spool) == ["r-1"]


def test_one_spool_is_held_once(tmp_path: Path) -> None:
    held = Spool(tmp_path, MB)
    with pytest.raises(SpoolUnusable) as caught:
        Spool(tmp_path, MB)
    assert str(caught.value) == (
        f"the spool in '{tmp_path}' cannot be used: another process, or another source of this one, holds it. "
        "Give each a folder of its own."
    )
    held.close()
    Spool(tmp_path, MB).close()


def test_a_closed_spool_writes_nothing_more(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MB)
    spool.append([record(0)])
    batch = spool.next(1)
    assert batch is not None
    spool.close()
    other = Spool(tmp_path, MB)
    for late in (lambda: spool.append([record(1)]), lambda: spool.sent(batch), lambda: spool.refuse([record(0)])):
        with pytest.raises(SpoolUnusable) as caught:
            late()
        assert caught.value.found == "it was closed"
    assert (other.refused_rows, drain(other)) == (0, ["r-0"])


def test_a_folder_with_other_things_is_no_spool(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("x", encoding="utf-8")
    with pytest.raises(SpoolUnusable) as caught:
        Spool(tmp_path, MB)
    assert caught.value.found == "it holds 'letters.txt'"
    (tmp_path / "letters.txt").unlink()
    Spool(tmp_path, MB).close()  # and the lock was let go


def test_a_fork_does_not_write_into_its_parents_spool(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from tests.source.spooling import record\n"
        "from raystore.source.spool import Spool\n"
        "from raystore.errors import SpoolUnusable\n"
        "spool = Spool(sys.argv[1], 2**20)\n"
        "pid = os.fork()\n"
        "if pid:\n"
        "    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "try:\n"
        "    spool.append([record(0)])\n"
        "except SpoolUnusable:\n"
        "    os._exit(7)\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], cwd=Path.cwd(), check=False).returncode == 7


def test_its_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", MB)
    spool.append([record(0)])
    spool.refuse([record(1)])
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "spool").iterdir()}
    assert modes == {"lock": 0o600, "000000000001.rows": 0o600, "refused.rows": 0o600}
    assert stat.S_IMODE((tmp_path / "spool").stat().st_mode) == 0o700


def test_a_disk_at_its_end_leaves_the_spool_as_it_was(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    spool = Spool(tmp_path, MB)
    spool.append([record(0)])
    (segment,) = tmp_path.glob("0*.rows")
    kept = segment.read_bytes()
    segment.unlink()
    segment.symlink_to(full)
    with pytest.raises(DiskFull):
        spool.append([record(1)])
    segment.unlink()
    segment.write_bytes(kept)
    assert spool.pending_rows == 1
    spool.append([record(2)])
    assert drain(spool) == ["r-0", "r-2"]


@pytest.mark.parametrize("max_bytes", [0, 1024, True, 1.5])
def test_a_bound_without_sense_is_refused(max_bytes: int, tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as caught:
        Spool(tmp_path, max_bytes)
    assert str(caught.value) == "Source: max_spool_bytes= is a whole number of at least 65,536."


@pytest.mark.slow
def test_what_was_kept_survives_kills_at_any_moment(tmp_path: Path) -> None:
    chance, kept, number = random.Random(7), list[int](), 0
    for _ in range(10):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.source.spooling", str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(chance.randint(1, 60))]
        os.kill(child.pid, signal.SIGKILL)
        said += child.stdout.readlines()
        child.wait()
        whole = [line for line in said if line.endswith("\n")]
        kept += [int(n) for line in whole for n in line.split()]
        number = (kept[-1] if kept else 0) + 1000
    spool = Spool(tmp_path, MB * 64)
    found = [int(id_.removeprefix("r-")) for id_ in drain(spool, 50)]
    assert found == sorted(found)
    missing = sorted({*kept} - {*found})
    assert missing == []
    assert len(found) - len(kept) <= 2 * 10  # of each kill at most the call that was under way
