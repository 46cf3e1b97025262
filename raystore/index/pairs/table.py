"""The finished job: one Lance table of pairs with its facts in the schema, numbered, never edited; and how it shows itself.

graphs/<collection>/<fp12>/knn-<n>.lance          id, rank, neighbour, score
graphs/<collection>/<fp12>/duplicates-<n>.lance   a, b, score, group
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from raystore.errors import PairsNotFound, PassportMismatch
from raystore.index.pairs.plan import PairKind
from raystore.layout import FP12, Layout, disk_full_is_said, sync, sync_tree
from raystore.markup import rows_html

_FACTS = b"raystore"
_SHOWN = 20


class PairFacts(BaseModel):
    """What was compared, and how well."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: PairKind
    collection: str
    fingerprint: str
    version: int  # of the collection: rows that came later were not compared
    where: str | None
    rows: int  # compared with one another
    pairs: int
    exact: bool  # every row was compared with every other
    recall: float | None  # of the index that nominated the neighbours; None where exact
    index_version: int | None
    k: int | None = None
    threshold: float | None = None
    groups: int | None = None  # duplicates: of rows that hang together
    in_groups: int | None = None  # rows in them
    cut_short: int | None = None  # duplicates: rows with more duplicates than were looked for
    took_s: float


@dataclass(frozen=True, repr=False)
class PairTable:
    """The pairs that a job found. `facts` says what they cover; ids that were erased since are still in it."""

    path: Path
    number: int
    facts: PairFacts

    def dataset(self) -> Any:
        """The Lance dataset, to be read a batch at a time."""
        return lance.dataset(str(self.path))

    def to_arrow(self) -> pa.Table:
        """All of it: knn id, rank (from 0), neighbour, score, by row and rank; duplicates a, b, score, group, where a was added
        before b, each pair once."""
        return self.dataset().to_table().replace_schema_metadata(None)

    def groups(self) -> list[list[str]]:
        """Duplicates: the ids of each group, in the order of its number, the row added first at the front."""
        found: dict[int, dict[str, None]] = {}
        for batch in self.dataset().to_batches(columns=["a", "b", "group"]):
            for a, b, group in zip(*(batch.column(name).to_pylist() for name in ("a", "b", "group")), strict=True):
                found.setdefault(group, {}).update({a: None, b: None})
        return [list(found[group]) for group in sorted(found)]

    def __len__(self) -> int:
        return self.facts.pairs

    def _about(self) -> str:
        facts = self.facts
        what = f"{facts.k} nearest" if facts.kind == "knn" else f"duplicates from {facts.threshold:g}"
        sure = "exact" if facts.exact else f"approximate, recall {facts.recall}"
        grouped = "" if facts.groups is None else f" in {facts.groups:,} groups of {facts.in_groups:,} rows"
        short = f", {facts.cut_short:,} rows have more" if facts.cut_short else ""
        return (
            f"{what} of {facts.rows:,} rows of {facts.collection}: {facts.pairs:,} pairs{grouped}{short}, {sure}, encoder "
            f"{facts.fingerprint[:FP12]}, version {facts.version}"
        )

    def __repr__(self) -> str:
        return f"PairTable: {self._about()}"

    @cached_property
    def _head(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.dataset().head(_SHOWN).to_pylist()
        return rows

    def _repr_html_(self) -> str:
        more = f"{len(self) - _SHOWN:,} more" if len(self) > _SHOWN else ""
        return rows_html(self._head, title=self._about(), note=more)


def publish_pairs(
    layout: Layout, stage: Path, facts: PairFacts, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> PairTable:
    """The rows in a new numbered table. It stands there whole or not at all."""
    stamped = schema.with_metadata({_FACTS: facts.model_dump_json().encode()})
    parent = layout.graphs(facts.collection, facts.fingerprint)
    shutil.rmtree(stage / "table", ignore_errors=True)  # of a call that was killed while it wrote
    with disk_full_is_said(stage, f"writing the {facts.kind} table"):
        rows = pa.RecordBatchReader.from_batches(stamped, (batch.cast(stamped) for batch in batches))
        lance.write_dataset(rows, str(stage / "table"), schema=stamped)
        sync_tree(stage / "table")
    parent.mkdir(parents=True, exist_ok=True)
    number = max([0, *pair_numbers(layout, facts.collection, facts.fingerprint, facts.kind)]) + 1
    while True:
        path = parent / f"{facts.kind}-{number}.lance"
        try:
            os.rename(stage / "table", path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            number += 1
            continue
        sync(parent)
        return PairTable(path, number, facts)


def pair_numbers(layout: Layout, collection: str, fingerprint: str, kind: PairKind) -> list[int]:
    """The numbers of the finished tables of that kind, lowest first."""
    folder = layout.graphs(collection, fingerprint)
    named = re.compile(rf"{kind}-(\d+)\.lance")
    found = (named.fullmatch(path.name) for path in (folder.iterdir() if folder.is_dir() else ()))
    return sorted(int(match[1]) for match in found if match)


def open_pairs(layout: Layout, collection: str, fingerprint: str, kind: PairKind, number: int | None = None) -> PairTable:
    """The newest table of that kind, or the one of that number.

    Raises:
        PairsNotFound: there is none.
        PassportMismatch: it is of another encoder whose fingerprint begins alike.
    """
    existing = pair_numbers(layout, collection, fingerprint, kind)
    wanted = number if number is not None else max(existing, default=0)
    if wanted not in existing:
        where = f"collection '{collection}' for encoder {fingerprint[:FP12]}"
        raise PairsNotFound(name=f"{kind}-{wanted}", where=where, existing=[f"{kind}-{n}" for n in existing])
    path = layout.graphs(collection, fingerprint) / f"{kind}-{wanted}.lance"
    facts = PairFacts.model_validate_json(lance.dataset(str(path)).schema.metadata[_FACTS])
    if facts.fingerprint != fingerprint:
        advice = "Make one for this encoder."
        raise PassportMismatch(
            asker=f"{kind}-{wanted} of '{collection}'", expected=facts.fingerprint, found=fingerprint, advice=advice
        )
    return PairTable(path, wanted, facts)
