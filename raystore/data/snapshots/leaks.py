"""What stands on two sides of a snapshot's split: entities, ids, and rows whose vectors are nearly the same.

A test row that has a twin in train is not a test: the head has seen the answer. The vectors of val and test are held, those of the
collection stream past them in blocks of an exact float32 product. Knows nothing of heads.
"""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, NamedTuple

import duckdb
import numpy as np
import numpy.typing as npt

from raystore.data.collection import CollectionTable
from raystore.data.snapshots.snapshot import SnapshotRecord
from raystore.data.snapshots.split import SIDES
from raystore.data.tabular import html_table, text_table
from raystore.errors import InvalidArguments
from raystore.progress import Progress
from raystore.vectors import Matrix

PAIRS = tuple(combinations(SIDES, 2))
_HELD = 65_536  # rows of val and test whose vectors are in memory at once: 100 MB of 384 numbers
_BLOCK = 8_192  # of those in one product
_ROWS = 4_096  # of the collection in one product, which is 128 MB
# A float32 product of unit rows is within this of the cosine: what is that near the threshold is computed again in float64.
_SLACK = 1e-4
_ROUNDING = 1e-6  # unit rows of float32 are equal to this


@dataclass(frozen=True)
class Near:
    """Two rows of different sides, `one` of the earlier side (train, val, test), and the cosine of their vectors."""

    one: str
    other: str
    sides: tuple[str, str]
    cosine: float
    same_label: bool


@dataclass(frozen=True)
class LeakReport:
    """What stands on two sides of a snapshot.

    Attributes:
        snapshot, encoder, threshold: what was asked.
        rows: by side how many rows were compared; `erased` the collection no longer has, `without_vector` have none of this encoder.
        n_entities, entities: how many entities stand on several sides, and the first of them with their rows a side.
        n_ids, ids: the same for ids.
        n_pairs: by pair of sides how many pairs of rows have a cosine of the threshold or more.
        touched: by pair of sides how many rows of the later side have such a twin on the earlier one.
        pairs: the nearest of them, at most `limit`, by cosine, then ids.
    """

    snapshot: str
    encoder: str
    threshold: float
    rows: dict[str, int]
    erased: int
    without_vector: int
    n_entities: int
    entities: list[tuple[str, dict[str, int]]]
    n_ids: int
    ids: list[tuple[str, dict[str, int]]]
    n_pairs: dict[tuple[str, str], int]
    touched: dict[tuple[str, str], int]
    pairs: list[Near]

    def __bool__(self) -> bool:
        """Whether anything leaks."""
        return bool(self.n_entities or self.n_ids or any(self.n_pairs.values()))

    def to_dict(self) -> dict[str, Any]:
        """All of it, JSON-ready; a pair of sides is written "train-test"."""
        return {
            **asdict(self),
            "n_pairs": {"-".join(sides): n for sides, n in self.n_pairs.items()},
            "touched": {"-".join(sides): n for sides, n in self.touched.items()},
            "pairs": [{**asdict(pair), "sides": list(pair.sides)} for pair in self.pairs],
        }

    def __str__(self) -> str:
        return "\n\n".join([*self._words(), *(f"{caption}\n{text_table(*table)}" for caption, table in self._tables())])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        words = "".join(f"<p>{html.escape(line)}</p>" for line in self._words())
        return words + "".join(html_table(*table, caption=caption) for caption, table in self._tables())

    def _words(self) -> list[str]:
        compared = ", ".join(f"{n:,} {side}" for side, n in self.rows.items())
        lines = [
            f"{self.snapshot}: {_counted(self.n_entities, 'entity', 'entities')} and {_counted(self.n_ids, 'id', 'ids')} on two "
            f"sides, {_counted(sum(self.n_pairs.values()), 'pair', 'pairs')} of near-duplicates "
            f"(cosine >= {self.threshold:g}) across sides."
        ]
        lines += [
            f"{self.touched[sides]:,} of {self.rows[sides[1]]:,} {sides[1]} rows "
            f"{'has' if self.touched[sides] == 1 else 'have'} a near-duplicate in {sides[0]}."
            for sides in PAIRS
            if self.touched[sides]
        ]
        gone, bare = self.erased, self.without_vector
        skipped = [
            f"; {_counted(gone, 'row was', 'rows were')} erased" if gone else "",
            f"; {_counted(bare, 'row has', 'rows have')} no vector of this encoder" if bare else "",
        ]
        return [*lines, f"Compared: {compared}{''.join(skipped)}."]

    def _tables(self) -> list[tuple[str, tuple[list[str], list[list[Any]]]]]:
        sides = [(n, [[name, *(by.get(s, 0) for s in SIDES)] for name, by in found]) for n, found in self._groups()]
        near = [[f"{p.cosine:.4f}", p.sides[0], p.one, p.sides[1], p.other, p.same_label] for p in self.pairs]
        columns = ["cosine", "side", "id", "other side", "other id", "same label"]
        tables = [(f"{noun} on two sides", ([noun, *SIDES], rows)) for noun, rows in sides]
        return [(c, t) for c, t in [*tables, ("near-duplicates across sides", (columns, near))] if t[1]]

    def _groups(self) -> list[tuple[str, list[tuple[str, dict[str, int]]]]]:
        return [("entities", self.entities), ("ids", self.ids)]


def _counted(n: int, one: str, several: str) -> str:
    return f"{n:,} {one if n == 1 else several}"


def leak_check(
    snapshot: SnapshotRecord,
    table: CollectionTable,
    fingerprint: str,
    *,
    threshold: float = 0.98,
    limit: int = 100,
    progress: Progress | None = None,
) -> LeakReport:
    """What stands on two sides of the snapshot's split, counted in full and listed up to `limit` of each kind.

    Args:
        table: the snapshot's collection.
        fingerprint: the encoder whose vectors say which rows are near-duplicates.
        threshold: rows of different sides with this cosine or more are near-duplicates, 0 < threshold <= 1.
        progress: called with rows of the collection that went past, and how many will in all.

    Raises:
        InvalidArguments: another collection's table, a threshold or limit that cannot be.
        PassportMismatch: the collection holds no vectors of this encoder.

    Cost: n_train x (n_val + n_test) x d multiply-adds (80,000 x 20,000 x 384: 10 s on 2 cores), and two streaming reads of the
        collection for each 65,536 rows of val and test. Memory: 100 MB of vectors (d = 384), 250 MB of products, the snapshot's rows.
    Source: definition; exact, no index. Near the threshold the cosine is computed again in float64, and 1e-6 below it counts as it.
    """
    _check(snapshot, table, threshold, limit)
    table.check_encoder(fingerprint)
    rows = snapshot.rows().select(["id", "entity", "label", "split"])
    with duckdb.connect() as connection:
        connection.register("r", rows)
        n_entities, entities = _torn(connection, "entity", limit)
        n_ids, ids = _torn(connection, "id", limit)
    own = rows.column("id").to_pylist()
    known = table.has_ids(own)
    search = _Search(
        ids=own,
        sides=np.array([SIDES.index(side) for side in rows.column("split").to_pylist()], np.int8),
        threshold=threshold,
        limit=limit,
        progress=progress,
    )
    search.run(table, fingerprint)
    labels = rows.column("label").to_pylist()
    return LeakReport(
        snapshot=snapshot.label,
        encoder=fingerprint,
        threshold=threshold,
        rows={side: int((search.seen & (search.sides == s)).sum()) for s, side in enumerate(SIDES)},
        erased=int((~known).sum()),
        without_vector=int((known & ~search.seen).sum()),
        n_entities=n_entities,
        entities=entities,
        n_ids=n_ids,
        ids=ids,
        n_pairs=search.n_pairs,
        touched={sides: int(found.sum()) for sides, found in search.touched.items()},
        pairs=[Near(own[p.one], own[p.other], p.sides, p.cosine, labels[p.one] == labels[p.other]) for p in search.nearest],
    )


def _check(snapshot: SnapshotRecord, table: CollectionTable, threshold: float, limit: int) -> None:
    problems = []
    if table.name != snapshot.collection:
        problems.append(f"it is a snapshot of collection '{snapshot.collection}', the collection given is '{table.name}'")
    if not 0 < threshold <= 1:
        problems.append(f"threshold is {threshold:g}, expected above 0 and at most 1")
    if limit < 0:
        problems.append(f"limit is {limit}, expected 0 or more")
    if problems:
        raise InvalidArguments(call=f"leak_check of {snapshot.label}", problems=problems)


def _torn(connection: duckdb.DuckDBPyConnection, column: str, limit: int) -> tuple[int, list[tuple[str, dict[str, int]]]]:
    """How many values of the column stand on several sides, and the first of them in byte order with their rows a side."""
    counts = ", ".join(f"count_if(split = '{side}')" for side in SIDES)
    sql = f"""SELECT {column}, {counts}, count(*) OVER () FROM r
              GROUP BY {column} HAVING count(DISTINCT split) > 1 ORDER BY {column} LIMIT {max(limit, 1)}"""  # noqa: S608
    found = connection.execute(sql).fetchall()
    listed = [(str(name), {s: n for s, n in zip(SIDES, by, strict=True) if n}) for name, *by, _ in found]
    return (int(found[0][-1]) if found else 0), listed[:limit]


class _Pair(NamedTuple):
    cosine: float
    one: int
    other: int
    sides: tuple[str, str]


class _Search:
    """One pass, or a few, of the collection's vectors past those of val and test."""

    def __init__(
        self, ids: list[str], sides: npt.NDArray[np.int8], threshold: float, limit: int, progress: Progress | None
    ) -> None:
        self.sides = sides
        self.seen = np.zeros(len(ids), np.bool_)
        self.n_pairs = dict.fromkeys(PAIRS, 0)
        self.touched = {pair: np.zeros(len(ids), np.bool_) for pair in PAIRS}
        self._places = {id_: place for place, id_ in enumerate(ids)}
        self._threshold = threshold
        self._limit = limit
        self.nearest: list[_Pair] = []
        self._progress: Progress = progress or (lambda *_: None)
        self._past = self._total = 0

    def run(self, table: CollectionTable, fingerprint: str) -> None:
        later = np.flatnonzero(self.sides > 0)
        starts = range(0, max(len(later), 1), _HELD)
        self._total = 2 * len(starts) * table.count()
        for start in starts:
            held = later[start : start + _HELD]
            vectors = np.empty((len(held), table.dim(fingerprint)), np.float32)
            present = np.zeros(len(held), np.bool_)
            for places, batch in self._batches(table, fingerprint):
                self.seen[places] = True
                at = np.searchsorted(held, places)
                mine = (at < len(held)) & (held[np.minimum(at, len(held) - 1)] == places) if len(held) else at < 0
                vectors[at[mine]] = batch[mine]
                present[at[mine]] = True
            held, vectors = held[present], vectors[present]
            if len(held):
                for places, batch in self._batches(table, fingerprint):
                    self._compare(places, batch, held, vectors)
        self._progress(self._total, self._total)  # rows without a vector went past unseen

    def _batches(self, table: CollectionTable, fingerprint: str) -> Iterator[tuple[npt.NDArray[np.int64], Matrix]]:
        """The snapshot's rows among the collection's: their places and vectors, some thousand at a time."""
        for batch in table.scan(fingerprint, batch_rows=_ROWS):
            places = np.fromiter((self._places.get(id_, -1) for id_ in batch.ids.to_pylist()), np.int64, len(batch.ids))
            mine = places >= 0
            if mine.any():
                yield places[mine], batch.vectors[mine]
            self._past += len(batch.ids)
            self._progress(self._past, self._total)

    def _compare(self, places: npt.NDArray[np.int64], batch: Matrix, held: npt.NDArray[np.int64], vectors: Matrix) -> None:
        """Count the batch's rows of an earlier side against the held ones of a later side, block by block."""
        for (one, other), (i, j) in zip(PAIRS, combinations(range(len(SIDES)), 2), strict=True):
            mine = self.sides[places] == i
            theirs = np.flatnonzero(self.sides[held] == j)
            if not mine.any():
                continue
            rows, own = batch[mine], places[mine]
            for start in range(0, len(theirs), _BLOCK):
                block = theirs[start : start + _BLOCK]
                self._block(rows, own, vectors[block], held[block], (one, other))

    def _block(
        self,
        rows: Matrix,
        own: npt.NDArray[np.int64],
        vectors: Matrix,
        held: npt.NDArray[np.int64],
        sides: tuple[str, str],
    ) -> None:
        products = rows @ vectors.T  # (batch, block)
        x, y = np.nonzero(products >= self._threshold - _SLACK)
        cosines = products[x, y].astype(np.float64)
        close = np.flatnonzero(cosines < self._threshold + _SLACK)
        cosines[close] = _cosines(rows, vectors, x[close], y[close])
        near = cosines >= self._threshold - _ROUNDING
        x, y, cosines = x[near], y[near], cosines[near]
        self.n_pairs[sides] += len(x)
        self.touched[sides][held[y]] = True
        best = np.argsort(-cosines, kind="stable")[: self._limit]
        exact = _cosines(rows, vectors, x[best], y[best])
        found = zip(exact.tolist(), own[x[best]].tolist(), held[y[best]].tolist(), strict=True)
        pairs = [*self.nearest, *(_Pair(cosine, one, other, sides) for cosine, one, other in found)]
        self.nearest = sorted(pairs, key=lambda p: (-p.cosine, p.one, p.other))[: self._limit]


def _cosines(rows: Matrix, vectors: Matrix, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """(m,) the cosines of rows[x] and vectors[y] in float64, at most 1; a chunk of pairs in memory."""
    found = np.empty(len(x))
    for start in range(0, len(x), _ROWS):
        part = slice(start, start + _ROWS)
        a, b = rows[x[part]].astype(np.float64), vectors[y[part]].astype(np.float64)
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found[part] = np.minimum(np.einsum("ij,ij->i", a, b) / lengths, 1.0)
    return found
