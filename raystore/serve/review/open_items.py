"""Which items of a review queue are open: kept in memory, followed by the versions of the predictions and of the labels.

Cost: the first look reads the reviewed rows and the labels once, some 30 ms at 100,000 rows. A new version of the predictions reads
the parts that are new, a new version of the labels its new events. All is read again where rows went (an erase), where a label was
taken away or came with an earlier time than others, and where the table of labels was replaced. Memory: the open items, and the ids
of those that have a label. Knows no claims; its caller holds a lock.
"""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raystore.catalog import Catalog
from raystore.data.keyed import ADDED
from raystore.data.tables.table import KIND, SourceTable, open_table
from raystore.layout import numbers
from raystore.serve.kept.predictions import Predictions
from raystore.train.classify.labels import labels_of_ids

SHOWN = (
    "request", "time", "subject", "head", "label", "labels", "value", "confidence", "margin", "second", "abstained", "rules",
)  # fmt: skip
_NEVER = np.iinfo(np.int64).min


class _Read(NamedTuple):
    """How far the predictions were read: a version, its rows and parts, and the kept columns that were wanted."""

    version: int
    rows: int
    parts: Set[int]
    keep: tuple[str, ...]


class _Done(NamedTuple):
    """The ids that have a label in a version of the label table, and the time of its newest event."""

    version: int | None
    since: int
    newest: int
    ids: set[str]


class OpenItems:
    def __init__(self, catalog: Catalog, table: str) -> None:
        """
        Args:
            table: the source table of the labels, which need not be there yet.
        """
        self._catalog = catalog
        self._table = table
        self._read: _Read | None = None
        self._done = _Done(None, 0, _NEVER, set())
        self._open = pa.table({})

    def look(self, predictions: Predictions) -> pa.Table:
        """The open items as they are now, oldest first, with the columns `SHOWN` and those that are kept."""
        seen, labels = self._read, self._newest_labels()
        now = (predictions.version, predictions.keep, labels)
        if seen is not None and (seen.version, seen.keep, self._done.version) == now:
            return self._open
        if not (self._follow_labels(labels) and self._follow_rows(predictions)):
            self._done = self._all_labels(labels)
            self._read = None
            self._follow_rows(predictions)
        return self._open

    # --- labels ----------------------------------------------------------------------------------------------------------

    def _newest_labels(self) -> int | None:
        return next(reversed(numbers(self._catalog.layout.aliases(KIND, self._table))), None)

    def _follow_labels(self, version: int | None) -> bool:
        """Whether new events could be taken in as they came; otherwise all labels are to be read."""
        known = self._done
        if version == known.version:
            return True
        if version is None or known.version is None:
            return False
        table = open_table(self._catalog, self._table, version)
        if table.since != known.since or table.id is None:
            return False
        columns = list(dict.fromkeys([table.id, "label", *([table.time] if table.time else [])]))
        events = table.dataset().to_table(columns=columns, filter=f"{ADDED} > {known.version} AND {ADDED} <= {version}")
        earliest, newest = _times(events, table)
        if earliest < known.newest or events.column("label").null_count:
            return False
        known.ids.update(id_ for id_ in events.column(table.id).to_pylist() if id_ is not None)
        self._done = _Done(version, table.since, max(newest, known.newest), known.ids)
        if self._open.num_columns:
            self._open = _without(self._open, known.ids)
        return True

    def _all_labels(self, version: int | None) -> _Done:
        if version is None:
            return _Done(None, 0, _NEVER, set())
        table = open_table(self._catalog, self._table, version)
        ids, labels, last = labels_of_ids(table, "label")
        done = ids.filter(labels.take(pa.array(last)).combine_chunks().is_valid())
        times = table.dataset().to_table(columns=[table.time], filter=table.filter()) if table.time else pa.table({})
        return _Done(version, table.since, _times(times, table)[1], set(done.to_pylist()))

    # --- predictions -----------------------------------------------------------------------------------------------------

    def _follow_rows(self, predictions: Predictions) -> bool:
        """Whether new rows could be taken in as they came; otherwise all are to be read. Without any read yet, all are."""
        known = self._read
        dataset = predictions.table.rows.dataset()
        version, keep = int(dataset.version), predictions.keep
        if known is not None and (known.version, known.keep) == (version, keep):
            return True
        if known is not None and (known.keep != keep or known.version > version):
            return False
        parts = dataset.get_fragments()
        columns = list(dict.fromkeys([*SHOWN, *(column for column in keep if column in predictions.table.columns)]))
        asked = {"columns": [*columns, "review", "role"]}
        if known is None:
            rows = dataset.to_table(**asked, filter="review = true AND role <> 'shadow'")
            self._open = pa.table({})
        else:
            fresh = [part for part in parts if part.fragment_id not in known.parts]
            rows = pa.table({})
            if fresh:
                rows = dataset.scanner(**asked, filter=f"{ADDED} > {known.version}", fragments=fresh).to_table()
            if known.rows + len(rows) != dataset.count_rows():
                return False
            if len(rows):
                rows = rows.filter(pc.and_(rows.column("review"), pc.not_equal(rows.column("role"), "shadow")))
        self._read = _Read(version, int(dataset.count_rows()), frozenset(part.fragment_id for part in parts), keep)
        if len(rows) or not self._open.num_columns:
            self._take(rows.select(columns))
        return True

    def _take(self, rows: pa.Table) -> None:
        rows = pa.concat_tables([self._open, rows], promote_options="default") if self._open.num_columns else rows
        rows = rows.sort_by([("time", "descending"), ("head", "ascending")])
        rows = rows.take(_first_places(rows.column("request")))  # an item that two live heads answered is asked about once
        self._open = _without(rows.sort_by([("time", "ascending"), ("request", "ascending")]), self._done.ids)


def _without(rows: pa.Table, ids: Set[str]) -> pa.Table:
    """The rows of other items. The rows are few, the ids may be many."""
    return rows.filter(pa.array([id_ not in ids for id_ in rows.column("request").to_pylist()], pa.bool_()))


def _times(events: pa.Table, table: SourceTable) -> tuple[int, int]:
    """The earliest and the newest; those of a table without times come one after the other."""
    if not len(events) or table.time is None:
        return (np.iinfo(np.int64).max, _NEVER)
    times = pc.fill_null(events.column(table.time).cast(pa.int64()), _NEVER)
    found = pc.min_max(times).as_py()
    return found["min"], found["max"]


def _first_places(values: pa.ChunkedArray) -> pa.Array:
    """Where each different value stands first."""
    places = pa.table({"value": values, "place": pa.array(range(len(values)), pa.int64())})
    found = places.group_by("value", use_threads=False).aggregate([("place", "min")])
    return found.column("place_min").combine_chunks()
