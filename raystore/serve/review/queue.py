"""The review queue of a deployment: predictions that people are to look at and that nobody has labelled yet.

An item is open when the answer to it was marked for review and the review table holds no label of it. So the queue is nothing of its
own: it is read from the kept predictions and the labels, an erased row leaves it, and a restart loses nothing. Only claims, which keep
two people from the same items, are in memory: they end with their time or with the process.

Items are ids, scores and kept columns; whoever labels looks the content up where it lives.

Cost: a look reads what is new of predictions and labels (`open_items.py`); labels are one commit, some 30 ms.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from raystore.catalog import Catalog
from raystore.errors import InvalidArguments
from raystore.serve.kept.predictions import PredictionRow, Predictions, read_labels
from raystore.serve.review.labels import Label, Labelled, check_labels, write_events
from raystore.serve.review.open_items import SHOWN, OpenItems
from raystore.serve.spec.base import Strict
from raystore.train.source import Task

Order = Literal["oldest", "least_confident"]

_MOST_AT_ONCE = 1_000
_RECOUNT_S = 30.0


class ReviewItem(Strict):
    """One item to look at: what was said of it, and the columns that the deployment keeps.

    `label`, `labels` or `value` by what the head predicts; `margin` is how much likelier it is than `second`.
    """

    id: str
    time: datetime
    subject: str | None
    head: str
    label: str | None
    labels: tuple[str, ...] | None
    value: float | None
    confidence: float | None
    margin: float | None
    second: str | None
    abstained: bool
    rules: tuple[str, ...]
    columns: dict[str, Any]
    claimed_by: str | None


class ReviewCounts(Strict):
    """`open` items, of which so many are `claimed`; `left_out` found the queue full, since the process began."""

    open: int
    claimed: int
    left_out: int
    most: int


class _Claim(NamedTuple):
    reviewer: str
    until: float


class ReviewQueue:
    """The queue of one deployment. Safe in many threads; claims hold within the one process that has it.

    `task` and `classes` are what a label may be, `predictions` what is reviewed, with the columns that are shown: set them again when
    the deployment changes.
    """

    def __init__(
        self,
        catalog: Catalog,
        deployment: str,
        predictions: Predictions,
        table: str,
        *,
        task: Task = "classes",
        classes: Sequence[str] = (),
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            table: the source table that labels land in; made with the first one.
            most: open items; beyond that `admit` takes none in.
        """
        self.deployment = deployment
        self.table = table
        self.task: Task = task
        self.classes = tuple(classes)
        self.most = most
        self._catalog = catalog
        self.predictions = predictions
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # its own, so that `admit` waits for no commit
        self._claims: dict[str, _Claim] = {}
        self._items_open = OpenItems(catalog, table)
        self._count: int | None = None
        self._counted_at = -math.inf
        self._left_out = 0

    def admit(self, rows: Sequence[PredictionRow]) -> list[PredictionRow]:
        """The rows, before they are appended: those beyond the bound are no longer marked for review."""
        with self._lock:
            found = []
            for row in rows:
                if row.review and not self._has_room():
                    self._left_out += 1
                    row = replace(row, review=False)
                elif row.review:
                    self._count = (self._count or 0) + 1
                found.append(row)
            return found

    def counts(self) -> ReviewCounts:
        with self._lock:
            ids = set(self._look().column("request").to_pylist())
            claimed = sum(id_ in ids for id_ in self._held())
            return ReviewCounts(open=len(ids), claimed=claimed, left_out=self._left_out, most=self.most)

    def items(self, limit: int = 50, order: Order = "oldest") -> list[ReviewItem]:
        """The first open items, claimed or not. Those of equal confidence go by age; a head of numbers has none."""
        problems = [] if 1 <= limit <= _MOST_AT_ONCE else [f"limit is {limit}, expected 1 to {_MOST_AT_ONCE:,}"]
        self._refuse("review", [*problems, *_order_problems(order)])
        with self._lock:
            return self._items(_sorted(self._look(), order).slice(0, limit))

    def claim(self, reviewer: str, n: int = 10, minutes: float = 15, order: Order = "oldest") -> list[ReviewItem]:
        """The reviewer's n items: those claimed already and still open, then the first that nobody has. They are kept from others for
        so long, from now."""
        problems = [] if 1 <= n <= _MOST_AT_ONCE else [f"n is {n}, expected 1 to {_MOST_AT_ONCE:,}"]
        if not 0 < minutes <= 24 * 60:
            problems.append(f"minutes is {minutes:g}, expected more than 0 and at most {24 * 60}")
        self._refuse("claim", [*problems, *_order_problems(order)])
        with self._lock:
            rows, held = _sorted(self._look(), order), self._held()
            ids = rows.column("request").to_pylist()
            mine = [i for i, id_ in enumerate(ids) if held.get(id_) == reviewer]
            free = [i for i, id_ in enumerate(ids) if id_ not in held]
            chosen = [*mine, *free][:n]
            until = self._clock() + 60 * minutes
            self._claims |= {ids[i]: _Claim(reviewer, until) for i in chosen}
            return self._items(rows.take(pa.array(chosen, pa.int64())))

    def release(self, reviewer: str) -> int:
        """How many items the reviewer gives back."""
        with self._lock:
            mine = [id_ for id_, name in self._held().items() if name == reviewer]
            for id_ in mine:
                del self._claims[id_]
            return len(mine)

    def label(self, reviewer: str, labels: Sequence[tuple[str, Label]], *, allow_new: bool = False) -> Labelled:
        """What became of labels, each of an item's id; durable when it returns.

        The same label by the same reviewer again adds nothing. Another one is one more event, and the newest of an item counts.
        Whether the item was claimed is not asked, by whomever.

        Args:
            labels: (id, label): a class, a list of labels or a number, as the head predicts.
            allow_new: take labels that the head does not know.

        Raises:
            ItemNotFound: an item that this deployment did not answer.
            InvalidArguments: labels that are none; all are named by their item. The review table is another kind of table.
            DiskFull, WriterBlocked, LeaseLost: nothing was written.
        """
        if len(labels) > _MOST_AT_ONCE:
            problem = f"there are {len(labels):,} labels, expected at most {_MOST_AT_ONCE:,} in one call"
            raise InvalidArguments(call=f"label in '{self.deployment}'", problems=[problem])
        checked = check_labels(self.predictions, self.deployment, labels, self.task, None if allow_new else self.classes)
        with self._writing:
            done = write_events(self._catalog, self.table, self.deployment, reviewer, checked, self.task)
        with self._lock:
            for id_ in checked:
                self._claims.pop(id_, None)
            self._counted_at = -math.inf  # there may be room again
        return done

    # --- what is open ------------------------------------------------------------------------------------------------

    def _look(self) -> pa.Table:
        """The open items, oldest first, as the predictions and labels are now."""
        rows = self._items_open.look(self.predictions)
        self._count, self._counted_at = len(rows), self._clock()
        return rows

    def _has_room(self) -> bool:
        if self._count is None or (self._count >= self.most and self._clock() - self._counted_at > _RECOUNT_S):
            self._look()
        return (self._count or 0) < self.most

    def _held(self) -> dict[str, str]:
        """Who has which item; what has run out is forgotten."""
        now = self._clock()
        self._claims = {id_: claim for id_, claim in self._claims.items() if claim.until > now}
        return {id_: claim.reviewer for id_, claim in self._claims.items()}

    def _items(self, rows: pa.Table) -> list[ReviewItem]:
        held, kept = self._held(), [c for c in rows.column_names if c not in SHOWN]
        return [
            ReviewItem(
                **{name: row[name] for name in SHOWN if name not in ("request", "labels", "rules")},
                id=row["request"],
                labels=None if row["labels"] is None else read_labels(row["labels"]),
                rules=tuple(rule for rule in (row["rules"] or "").split(",") if rule),
                columns={name: row[name] for name in kept},
                claimed_by=held.get(row["request"]),
            )
            for row in rows.to_pylist()
        ]

    def _refuse(self, doing: str, problems: Sequence[str]) -> None:
        if problems:
            raise InvalidArguments(call=f"{doing} in '{self.deployment}'", problems=problems)


def _order_problems(order: str) -> list[str]:
    return [] if order in ("oldest", "least_confident") else ["order is none, expected oldest or least_confident"]


def _sorted(rows: pa.Table, order: Order) -> pa.Table:
    if order == "oldest":
        return rows
    return rows.sort_by([("confidence", "ascending"), ("time", "ascending"), ("request", "ascending")])
