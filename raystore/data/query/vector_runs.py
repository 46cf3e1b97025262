"""Where the vectors of a column lie in its files: most hold them as plain float32, row after row, so they are mapped, not decoded.

Lance's metadata says where each page of a column lies. A page counts as plain when its size is that of its vectors and its first and
last vector are, bit for bit, what Lance reads there. Every other file (vectors under 128 bytes, columns with nulls among
them) is left to Lance.

A file stays mapped between queries, since finding its pages again costs as much as the products over them; a file that a
collection no longer has is let go when its vectors are next looked for, or by `forget`.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
from lance.file import LanceFileReader

from raystore.data.query.row_table import Positions
from raystore.vectors import Matrix

_FILES_KNOWN = 4_096
_MAPS_KEPT = 1_024  # of the 65,530 that Linux lets a process have
_REMOTE = ("nfs", "cifs", "smb", "fuse", "ceph", "lustre", "gluster", "9p", "afs", "beegfs", "gpfs")


@dataclass(frozen=True)
class Run:
    """`n` vectors of `dim` float32 numbers that lie one after the other in a file from byte `offset`, the first that of row `first`."""

    path: str
    offset: int
    first: int
    n: int
    dim: int


_runs_known: OrderedDict[tuple[str, int], tuple[Run, ...] | None] = OrderedDict()
_maps: OrderedDict[Run, Matrix] = OrderedDict()
_lock = threading.Lock()


def matrix_of(vectors: pa.FixedSizeListArray) -> Matrix:
    """(n, d) float32 of an array without nulls, without a copy."""
    matrix: Matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, vectors.type.list_size)
    return matrix


def find_runs(dataset: lance.LanceDataset, column: str) -> tuple[list[tuple[int, Run]], list[int]]:
    """(fragment, run) of each file that holds the column plain, and the fragments that Lance has to read.

    Fragments without the column (their rows have no vector) are in neither. Cost: 1 ms a file that was not seen before.
    """
    field = next(f.id() for f in dataset.lance_schema.fields() if f.name() == column)
    dim = int(dataset.schema.field(column).type.list_size)
    folder = Path(str(dataset.uri)) / "data"
    plain: list[tuple[int, Run]] = []
    others: list[int] = []
    there: set[str] = set()
    for fragment in dataset.get_fragments():
        for file in fragment.metadata.files:
            if field in file.fields:
                there.add(str(folder / file.path))
                runs = _runs(str(folder / file.path), file.column_indices[file.fields.index(field)], column, dim)
                if runs is None:
                    others.append(fragment.fragment_id)
                else:
                    plain += [(fragment.fragment_id, run) for run in runs]
    forget(folder, there)
    return plain, others


def forget(folder: Path, but: Collection[str] = ()) -> None:
    """Let go of what is mapped of the files of a folder, but for those: a file that was removed holds its disk space until then."""
    with _lock:
        for run in [r for r in _maps if r.path not in but and Path(r.path).parent == folder]:
            del _maps[run]


def _runs(path: str, number: int, column: str, dim: int) -> tuple[Run, ...] | None:
    """Where the file's vectors lie, or None where they are not plain; remembered, since a file never changes."""
    key = (path, number)
    with _lock:
        if key in _runs_known:
            return _runs_known[key]
    found = _find(path, number, column, dim)
    with _lock:
        _runs_known[key] = found
        while len(_runs_known) > _FILES_KNOWN:
            _runs_known.popitem(last=False)
    return found


def _find(path: str, number: int, column: str, dim: int) -> tuple[Run, ...] | None:
    if not Path(path).is_file():
        return None
    metadata = LanceFileReader(path).metadata()
    runs, first = [], 0
    for page in metadata.columns[number].pages:
        if len(page.buffers) != 1 or page.buffers[0].size % (4 * dim) or page.buffers[0].position % 4:
            return None
        n = page.buffers[0].size // (4 * dim)
        runs.append(Run(path, page.buffers[0].position, first, n, dim))
        first += n
    if first != metadata.num_rows or not first:
        return None
    # The sizes fit; whether the bytes are the vectors, Lance's own reading of the ends of each page decides.
    ends = sorted({row for run in runs for row in (run.first, run.first + run.n - 1)})
    read = LanceFileReader(path, columns=[column]).take_rows(ends).to_table().column(column).combine_chunks()
    if read.null_count:
        return None
    mapped = np.concatenate([_read(run, row - run.first, 1) for run in runs for row in _ends(run)])
    return tuple(runs) if mapped.tobytes() == matrix_of(read).tobytes() else None


def _ends(run: Run) -> list[int]:
    return sorted({run.first, run.first + run.n - 1})


def vectors_at(run: Run, rows: slice | Positions) -> Matrix:
    """(n, dim) float32 vectors of those of the run's rows: a view of the mapped file where it lies on this machine's own disk.

    A file that another machine removes would end a process that has it mapped, so such a one is read.
    """
    with _lock:
        mapped = _maps.get(run)
        if mapped is not None:
            _maps.move_to_end(run)
    if mapped is None and _is_local(run.path):
        mapped = _map(run)
    if mapped is not None:
        return mapped[rows]
    if isinstance(rows, slice):
        return _read(run, rows.start, min(rows.stop, run.n) - rows.start)
    return np.concatenate([_read(run, int(row), 1) for row in rows])


def _map(run: Run) -> Matrix | None:
    size, lead = 4 * run.dim * run.n, run.offset % mmap.ALLOCATIONGRANULARITY
    try:
        with Path(run.path).open("rb", buffering=0) as file:
            held = mmap.mmap(file.fileno(), lead + size, offset=run.offset - lead, access=mmap.ACCESS_READ)
    except OSError:  # a limit on the address space
        return None
    matrix: Matrix = np.frombuffer(held, np.float32, run.n * run.dim, lead).reshape(run.n, run.dim)
    with _lock:
        _maps[run] = matrix
        while len(_maps) > _MAPS_KEPT:
            _maps.popitem(last=False)
    return matrix


def _read(run: Run, start: int, n: int) -> Matrix:
    matrix: Matrix = np.empty((n, run.dim), np.float32)
    with Path(run.path).open("rb", buffering=0) as file:
        file.seek(run.offset + 4 * run.dim * start)
        left = memoryview(matrix.data).cast("B")
        while len(left):
            n_read = file.readinto(left)
            if not n_read:
                raise OSError(f"'{run.path}' ends before its vectors do")
            left = left[n_read:]
    return matrix


_mounts: list[tuple[str, str]] | None = None


def _is_local(path: str) -> bool:
    """Whether the file lies on this machine's own disk, as its mount says; False where that cannot be told."""
    global _mounts  # read once: what is mounted where changes seldom
    if _mounts is None:
        try:
            lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        except OSError:
            lines = []
        _mounts = [(line.split()[4], line.rsplit(" - ", 1)[1].split()[0]) for line in lines]
        _mounts.sort(key=lambda mount: -len(mount[0]))
    real = os.path.realpath(path)
    kind = next((kind for at, kind in _mounts if real == at or real.startswith(at.rstrip("/") + "/")), "nfs")
    return not kind.startswith(_REMOTE)
