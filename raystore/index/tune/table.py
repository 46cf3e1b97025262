"""What `index tune` measured, as records: one trial a kind and setting, and the tuning that holds them. Measures nothing.

tunings/<collection>/<n>.json    never edited; `raystore plan --rows` reckons from them
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from raystore.catalog import Catalog
from raystore.encoders.plan import said_bytes
from raystore.errors import StoreUnusable
from raystore.index.kinds import TABLE, KindName
from raystore.index.metric import Metric
from raystore.layout import FP12, Layout, names, numbers, read_json
from raystore.markup import rows_html


class Trial(BaseModel):
    """One kind with one setting over `rows` vectors: how many of the k true neighbours it finds, how fast, and what it holds.

    Times are of one search in this process with all cores, the vector files warm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: KindName
    rows: int
    dim: int
    nlist: int | None = None
    probes: int | None = None  # lists a query visits; of hnsw, its ef
    refine: int = 1  # rows nominated for each neighbour asked
    recall: float
    recall_low: float  # of the 95% interval over queries
    recall_high: float
    p50_ms: float  # one query at a time
    p95_ms: float
    queries_per_s: float  # in batches of 1,024
    memory_bytes: float  # a vector, in the process that holds it
    disk_bytes: float  # a vector
    build_s: float

    @property
    def setting(self) -> str:
        """'ivf_sq8, 64 of 1,264 lists'."""
        if self.kind == "exact" or self.probes is None:
            return self.kind
        if self.nlist is None:
            return f"{self.kind}, ef {self.probes}"
        refined = f", {self.refine} x refined" if TABLE[self.kind].refine > 1 else ""
        return f"{self.kind}, {self.probes:,} of {self.nlist:,} lists{refined}"

    @property
    def said_recall(self) -> str:
        return f"{self.recall:.3f} ({self.recall_low:.3f} to {self.recall_high:.3f})"


class Tuning(BaseModel):
    """All trials over one collection, and the one that was chosen within the budget.

    `trials` hold every setting that was measured; `shown` is one row a kind. `chosen` is a place in `trials`, None where
    nothing keeps the budget: then `unmet` says what comes nearest. `number` is its own under the collection.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: str
    fingerprint: str
    metric: Metric
    dim: int
    version: int  # of the collection
    collection_rows: int
    rows: int  # that were indexed for it
    k: int
    queries: int
    held_out: bool  # the queries are rows of the collection, left out of the index; otherwise they were given
    target_recall: float
    memory_bytes: int | None  # the budgets, for the whole collection and for one query
    p95_ms: float | None
    cores: int
    trials: tuple[Trial, ...]
    foretold: tuple[Trial, ...]  # the same at `collection_rows`; the budget is held against these
    chosen: int | None
    explanation: str
    unmet: str | None
    seconds: float
    number: int | None = None
    published_at: str | None = None

    @property
    def choice(self) -> Trial | None:
        return None if self.chosen is None else self.trials[self.chosen]

    @property
    def shown(self) -> list[dict[str, Any]]:
        """One row a kind: its fastest setting that reaches the recall, or the one that comes nearest to it."""
        best: dict[str, Trial] = {}
        for trial in (each for each in self.trials if each.rows == self.rows):
            held = best.get(trial.kind)
            if held is None or _rank(trial, self.target_recall) > _rank(held, self.target_recall):
                best[trial.kind] = trial
        if self.choice is not None:
            best[self.choice.kind] = self.choice
        return [_row(trial, trial == self.choice) for trial in best.values()]

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, JSON-ready."""
        return {
            **self.model_dump(mode="json"),
            "choice": None if self.choice is None else self.choice.model_dump(mode="json"),
        }

    def __str__(self) -> str:
        rows = self.shown
        widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in rows[0]} if rows else {}
        lines = ["  ".join(name.ljust(width) for name, width in widths.items())]
        lines += ["  ".join(str(row[name]).ljust(width) for name, width in widths.items()).rstrip() for row in rows]
        return "\n".join([self.about, *lines, *self.says])

    __repr__ = __str__

    @property
    def says(self) -> list[str]:
        """Why this one, or what comes nearest."""
        return [text for text in (self.explanation, self.unmet) if text]

    @property
    def about(self) -> str:
        """What was measured on what, in a line."""
        whose = "held out of them" if self.held_out else "given"
        of = "" if self.rows == self.collection_rows else f" of {self.collection_rows:,}"
        return (
            f"Tuning of {self.collection}: {self.rows:,}{of} rows of {self.dim} numbers, {self.queries:,} queries {whose}, "
            f"recall at {self.k}, encoder {self.fingerprint[:FP12]}"
        )

    def _repr_html_(self) -> str:
        return rows_html(self.shown, title=self.about, note=" ".join(self.says))


def write_tuning(layout: Layout, tuning: Tuning) -> Tuning:
    """The tuning as it now stands on the disk, with its number."""
    put = tuning.model_dump(mode="json", exclude={"number", "published_at"})
    number = Catalog(layout).put(layout.tunings(tuning.collection), put)
    return Tuning.model_validate({**read_json(layout.tunings(tuning.collection) / f"{number}.json"), "number": number})


def read_tunings(layout: Layout, collection: str | None = None) -> list[Tuning]:
    """The newest tuning of each collection (or of that one) and encoder, newest first; StoreUnusable where one cannot be read."""
    newest: dict[tuple[str, str], Tuning] = {}
    for name in names(layout.tunings()) if collection is None else [collection]:
        folder = layout.tunings(name)
        for number in numbers(folder):
            try:
                found = Tuning.model_validate({**read_json(folder / f"{number}.json"), "number": number})
            except (json.JSONDecodeError, UnicodeDecodeError, ValidationError):
                raise StoreUnusable(
                    root=str(layout.root),
                    found=f"tuning {number} of collection '{name}' cannot be read",
                    advice=f"Remove the file and measure again: raystore index tune {name}.",
                ) from None
            newest[name, found.fingerprint] = found
    return sorted(newest.values(), key=lambda each: each.published_at or "", reverse=True)


def _rank(trial: Trial, target: float) -> tuple[bool, float]:
    reached = trial.recall_low >= target
    return reached, trial.queries_per_s if reached else trial.recall


def _row(trial: Trial, chosen: bool) -> dict[str, Any]:
    return {
        "kind": trial.kind,
        "probes": "" if trial.probes is None else trial.probes,
        "refine": trial.refine,
        "recall": trial.said_recall,
        "p50 ms": f"{trial.p50_ms:.2f}",
        "p95 ms": f"{trial.p95_ms:.2f}",
        "queries/s": f"{trial.queries_per_s:,.0f}",
        "memory/vector": said_bytes(trial.memory_bytes),
        "disk/vector": said_bytes(trial.disk_bytes),
        "build s": f"{trial.build_s:.1f}",
        "": "chosen" if chosen else "",
    }
