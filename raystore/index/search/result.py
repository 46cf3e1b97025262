"""What a search answers, and how it shows itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raystore.index.metric import Metric
from raystore.index.shards.exact import Scores
from raystore.layout import FP12
from raystore.markup import rows_html

_SHOWN = 20


@dataclass(frozen=True, repr=False)
class SearchResult:
    """The neighbours of each query, nearest first, and what the answer covers.

    `ids[i]` and `scores[i]` (float32, higher is nearer; what they mean is the `metric`) are as long as query i has
    neighbours: k, or fewer where fewer rows are allowed. Under `diversity` they stand in the order they were chosen. `rows`
    holds the asked columns of every hit, with `query` and `rank` (both from 0), `id` and `score` before them. `coverage` is
    the share of the rows that were searched; `missing` are the shards that did not answer. `exact` is True where every row
    was compared. `truncated` is True where `limit` ended the search before every row that was asked for was found. `cursor`
    is given to the same search as `after` for the next page; None where this was the last, or not one query's. `bridged` says
    through which bridge it was asked, or by which rows that it found were mapped into this space, and how well that finds:
    {"encoder": .., "fidelity": {..}}; None where neither. `bridged_hits` says which rows, as `ids` has them; None where the
    encoder is no bridge, and every vector a true one.
    """

    ids: list[list[str]]
    scores: list[Scores]
    rows: pa.Table | None
    coverage: float
    missing: list[int]
    fingerprint: str
    index_version: int | None  # the index's number, None where the collection itself was searched
    collection_version: int
    exact: bool
    metric: Metric = "cosine"
    truncated: bool = False
    cursor: str | None = None
    columns: tuple[str, ...] = field(default=())
    bridged: Mapping[str, Any] | None = None
    bridged_hits: list[list[bool]] | None = None

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a hit: query, rank, id, score and the asked columns; of a bridge, `bridged`: whether its vector was mapped."""
        hits: list[dict[str, Any]]
        if self.rows is not None:
            hits = self.rows.to_pylist()
        else:
            hits = [
                {"query": query, "rank": rank, "id": id_, "score": float(score)}
                for query, (ids, scores) in enumerate(zip(self.ids, self.scores, strict=True))
                for rank, (id_, score) in enumerate(zip(ids, scores, strict=True))
            ]
        if self.bridged_hits is not None:
            for hit in hits:
                hit.setdefault("bridged", self.bridged_hits[hit["query"]][hit["rank"]])  # a kept column may have that name
        return hits

    def to_pandas(self) -> Any:
        """The hits as a pandas DataFrame."""
        return pa.Table.from_pylist(self.to_dicts()).to_pandas()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def _shown_columns(self) -> list[str]:
        return [
            *self.columns,
            *(["bridged"] if self.bridged and self.bridged_hits and "bridged" not in self.columns else []),
        ]

    def _about(self) -> str:
        index = "the collection itself" if self.index_version is None else f"index {self.index_version}"
        kind = "exact" if self.exact else "approximate"
        missing = f", missing shards {self.missing}" if self.missing else ""
        cut = ", cut by the limit" if self.truncated else ""
        scored = "" if self.metric == "cosine" else f", scored by {self.metric}"
        through = ""
        if self.bridged is not None and self.bridged_hits is None:
            through = f", asked through {self.bridged['encoder']}"
        elif self.bridged is not None and self.bridged_hits is not None:
            mapped = sum(map(sum, self.bridged_hits))
            fidelity = self.bridged["fidelity"]
            among = f"recall@10 {fidelity['recall']:.1%} among {fidelity['gallery']:,}"
            through = f", {mapped} of {sum(map(len, self.ids))} rows bridged, at {among}"
        return (
            f"{len(self.ids)} {'query' if len(self.ids) == 1 else 'queries'} against {index}, {kind}, coverage "
            f"{self.coverage:.4g}{missing}{cut}{scored}{through}, encoder {self.fingerprint[:FP12]}, version {self.collection_version}"
        )

    def __repr__(self) -> str:
        hits = self.to_dicts()
        lines = [
            "  ".join([f"{h['query']:>3}", f"{h['score']:.4f}", str(h["id"]), *(_short(h[c]) for c in self._shown_columns)])
            for h in hits[:_SHOWN]
        ]
        more = [f"... and {len(hits) - _SHOWN} more"] if len(hits) > _SHOWN else []
        return "\n".join([f"SearchResult: {self._about()}", *lines, *more])

    def _repr_html_(self) -> str:
        hits = self.to_dicts()
        more = f"{len(hits) - _SHOWN} more hits" if len(hits) > _SHOWN else ""
        return rows_html(hits[:_SHOWN], ["query", "score", "id", *self._shown_columns], title=self._about(), note=more)


def _short(value: object) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def hits_table(ids: list[list[str]], scores: list[Scores], columns: pa.Table) -> pa.Table:
    """query, rank, id, score, then `columns`, whose rows stand in the order of the hits."""
    lengths = [len(row) for row in ids]
    flat = [np.asarray(s, dtype=np.float32) for s in scores]
    lead = {
        "query": pa.array(np.repeat(np.arange(len(ids), dtype=np.int32), lengths)),
        "rank": pa.array(
            np.concatenate([np.empty(0, np.int32), *(np.arange(n, dtype=np.int32) for n in lengths)]).astype(np.int32)
        ),
        "id": pa.array([id_ for row in ids for id_ in row], pa.string()),
        "score": pa.array(np.concatenate([np.empty(0, np.float32), *flat])),
    }
    for name in columns.column_names:
        if name not in lead:
            lead[name] = columns.column(name)
    return pa.table(lead)
