"""What SQL keeps in memory between queries: row tables, scores and columns, within one budget of bytes.

The least recently used goes first. What was read of an older version of a collection goes when a newer one is read, so that
nothing of an erased row outlives the next query. Vectors are not among it: the system keeps their files' pages (`vector_files.py`).
"""

from __future__ import annotations

import os
import re
import resource
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raystore.data.keyed import ADDED
from raystore.data.query.row_table import Positions, RowTable
from raystore.data.query.vector_files import Scores, dots
from raystore.errors import InvalidArguments
from raystore.vectors import Matrix

_CHUNK_ROWS = 65_536  # DuckDB's threads take chunks of this size in turns
_SAMPLE_ROWS = 65_536
_FEW_VALUES = (
    4_096  # a text column of fewer different values in its sample is kept as a dictionary: groups are then found by number
)
_TEXT_BYTES = 24  # a guess, before a column is read
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(text: str, name: str) -> int:
    """'2GB' and '2GiB' -> 2147483648. Raises InvalidArguments, naming the setting."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGT])I?)?B?", text.strip().upper())
    if not found:
        raise InvalidArguments(call=name, problems=[f"'{text[:40]}' is no size, expected one like 2GB or 500MB"])
    return int(float(found[1]) * _UNITS[found[2] or ""])


def machine_memory() -> int:
    """The bytes this process may count on: the machine's, or those of its container or its own limit where they are fewer."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # absent, or "max"
            found.append(int(Path(path).read_text(encoding="ascii")))
    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA))
    return min(*found, *(limit for limit in limits if limit != resource.RLIM_INFINITY), 1 << 62)


@dataclass(frozen=True)
class _Column:
    """A column of the rows with these ids, which no later version changes."""

    row_ids: Positions
    newest: int  # the last commit among them
    values: pa.ChunkedArray


class SqlCache:
    """Safe in many threads; two that miss the same thing may both compute it."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._asked: dict[tuple[str, str], int] = {}
        self._versions: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        with self._lock:
            return sum(size for _, size in self._held.values())

    def rows(self, dataset: lance.LanceDataset) -> RowTable:
        path, version = str(dataset.uri), int(dataset.version)
        self._forget_older(path, version)
        key = ("rows", path, version)
        found: RowTable | None = self._get(key)
        if found is None:
            found = RowTable.read(dataset)
            self._put(key, found, found.nbytes)
        return found

    def scores(self, rows: RowTable, column: str, queries: Matrix) -> Scores:
        """(m, n) float32 as `dots` gives them; those that were asked before are not computed again."""
        path, version = str(rows.dataset.uri), int(rows.dataset.version)
        keys = [("scores", path, version, column, query.tobytes()) for query in queries]
        found: list[Scores | None] = [self._get(key) for key in keys]
        missing = [i for i, scores in enumerate(found) if scores is None]
        if missing:
            for i, scores in zip(missing, dots(rows, column, queries[missing]), strict=True):
                found[i] = scores
                self._put(keys[i], scores, scores.nbytes)
        return np.stack([scores for scores in found if scores is not None])

    def columns(self, rows: RowTable, names: Sequence[str]) -> pa.Table | None:
        """The columns by position, or None where they are better read from the disk: at their first use, or because they are
        too large to be kept. A text column of few values is a dictionary."""
        path = str(rows.dataset.uri)
        with self._lock:
            for name in names:
                self._asked[path, name] = self._asked.get((path, name), 0) + 1
            is_first = any(self._asked[path, name] < 2 for name in names)
        if is_first or len(rows) * sum(_width(rows.dataset.schema.field(name).type) for name in names) > self.budget // 2:
            return None
        held: dict[str, pa.ChunkedArray] = {}
        for name in names:
            if (grown := self._grown(rows, name, self._get(("column", path, name)))) is not None:
                held[name] = grown
        if missing := [name for name in names if name not in held]:
            read = rows.columns(missing)
            held |= {name: _compact(read.column(name)) for name in missing}
        newest = int(rows.added.max()) if len(rows) else 0
        for name, column in held.items():
            self._put(("column", path, name), _Column(rows.row_ids, newest, column), column.nbytes)
        return pa.table(held)

    @staticmethod
    def _grown(rows: RowTable, name: str, kept: _Column | None) -> pa.ChunkedArray | None:
        """The kept column with the rows since, or None where it has to be read anew."""
        if kept is None or len(kept.row_ids) > len(rows):
            return None
        n = len(kept.row_ids)
        if rows.row_ids is not kept.row_ids and not np.array_equal(rows.row_ids[:n], kept.row_ids):  # rows were erased
            return None
        if n == len(rows):
            return kept.values
        since = rows.dataset.to_table(columns=[name], filter=f"{ADDED} > {kept.newest}", with_row_id=True)
        if len(since) != len(rows) - n:
            return None
        values = since.take(np.argsort(since.column("_rowid").to_numpy())).column(name).combine_chunks()
        if pa.types.is_dictionary(kept.values.type):
            values = pc.dictionary_encode(values)
        return pa.chunked_array([*kept.values.chunks, values]).unify_dictionaries()

    def _forget_older(self, path: str, version: int) -> None:
        with self._lock:
            if self._versions.get(path, 0) >= version:
                return
            self._versions[path] = version
            for key in [k for k in self._held if k[0] in ("rows", "scores") and k[1] == path]:  # type: ignore[index]
                del self._held[key]

    def _get(self, key: Hashable) -> Any:
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
            return None if found is None else found[0]

    def _put(self, key: Hashable, value: Any, size: int) -> None:
        with self._lock:
            self._held.pop(key, None)
            if size > self.budget:
                return
            self._held[key] = (value, size)
            total = sum(held for _, held in self._held.values())
            while total > self.budget:
                total -= self._held.popitem(last=False)[1][1]


def _width(kind: pa.DataType) -> int:
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:
        return _TEXT_BYTES


def _compact(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in chunks of one size, text of few values as a dictionary."""
    if pa.types.is_string(column.type) and len(pc.unique(column.slice(0, _SAMPLE_ROWS))) <= _FEW_VALUES:
        encoded = pc.dictionary_encode(column).unify_dictionaries()
        if not encoded.num_chunks or len(encoded.chunk(0).dictionary) <= 16 * _FEW_VALUES:
            column = encoded
    if not len(column):
        return column
    whole = pa.concat_arrays(column.chunks)
    return pa.chunked_array([whole.slice(start, _CHUNK_ROWS) for start in range(0, len(whole), _CHUNK_ROWS)])
