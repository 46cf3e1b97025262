"""A search and its answer, as they stand on the wire and in the OpenAPI document. Pure models.

The names are those of `Collection.search`; what bounds the work of one request is bounded here.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, model_validator

from raystore.index.metric import Metric
from raystore.serve.wire.common import (
    CONTENT,
    EXAMPLE_FINGERPRINT,
    EXAMPLE_REQUEST_ID,
    BridgedBy,
    ColumnName,
    Fingerprint,
    GivenVector,
    Text,
    with_example,
)

RowId = Annotated[str, StringConstraints(min_length=1)]
_FLOAT32 = 3.4e38  # what a score can be


class SearchRequest(BaseModel):
    """At most one of `text`, `id` and `vector`, moved towards the rows in `like` and away from those in `unlike`; `like` alone is
    enough. A vector comes with the fingerprint of its encoder."""

    model_config = with_example({"text": "card never arrived", "k": 3, "where": "product = 'card'", "columns": ["product"]})

    text: Text | None = Field(default=None, description=CONTENT)
    id: RowId | None = Field(default=None, description="A row to find the neighbours of; it is its own nearest.")
    vector: GivenVector | None = Field(default=None, min_length=1)
    like: list[RowId] = Field(default_factory=list, max_length=100, description="Ids of rows to find more of.")
    unlike: list[RowId] = Field(default_factory=list, max_length=100, description="Ids of rows to keep away from.")
    fingerprint: Fingerprint | None = Field(
        default=None, description="The encoder to search by; needed with a vector, else the collection's current one."
    )
    through: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = Field(
        default=None,
        description="A bridge to the encoder that is searched; a vector's `fingerprint` is then its own encoder's.",
    )
    k: int | None = Field(default=None, ge=1, le=1000, description="10 by default; with min_score, every row up to limit.")
    where: Annotated[str, StringConstraints(max_length=4096)] | None = None
    columns: list[ColumnName] = Field(default_factory=list, max_length=64)
    min_score: float | None = Field(
        default=None, ge=-_FLOAT32, le=_FLOAT32, allow_inf_nan=False, description="Only rows that score at least so much."
    )
    limit: int = Field(
        default=1000,
        ge=1,
        le=10_000,
        description="Rows to look at where min_score, distinct or diversity need more than k.",
    )
    after: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        default=None, description="The `cursor` of the page before, of the same search."
    )
    distinct: ColumnName | None = Field(default=None, description="A column; of rows with one value in it, the nearest.")
    diversity: float | None = Field(
        default=None, ge=0, le=1, description="How much the hits are to differ from each other."
    )
    probes: int | None = Field(default=None, ge=1, le=65_536, description="Lists of the index to visit.")
    refine: int | None = Field(default=None, ge=1, le=100, description="Rows to nominate for each hit.")

    @model_validator(mode="after")
    def _has_one(self) -> SearchRequest:
        asked = sum(query is not None for query in (self.text, self.id, self.vector))
        if asked > 1 or not (asked or self.like or self.unlike):
            raise ValueError(f"expected {'at most' if self.like else 'exactly'} one of text, id and vector")
        if not asked and not self.like:
            raise ValueError("expected like, or one of text, id and vector, beside unlike")
        if set(self.like) & set(self.unlike):
            raise ValueError("an id is both in like and in unlike")
        if self.vector is not None and self.fingerprint is None:
            raise ValueError("expected fingerprint with vector, so that it is clear which encoder made it")
        if self.through is not None and self.id is not None:
            raise ValueError("a row has a vector of the encoder that is searched: leave through out with id")
        return self

    @property
    def contents(self) -> dict[str, str]:
        return {"body.text": self.text} if self.text is not None else {}


class Hit(BaseModel):
    id: str
    score: float = Field(description="By the index's metric, higher is nearer; cosine where there is no index.")
    columns: dict[str, Any] = Field(default_factory=dict)
    bridged: bool = Field(
        default=False,
        description="Whether its vector was mapped from an older encoder's, as well as `bridged` of the answer says.",
    )


class SearchAnswer(BaseModel):
    model_config = with_example(
        {
            "hits": [{"id": "t-1", "score": 0.87, "columns": {"product": "card"}, "bridged": False}],
            "cursor": "3gWQN984AZgHAAAAAAAAAAAAAD8DAAAAAAAAAA_4",
            "truncated": False,
            "coverage": 1.0,
            "missing": [],
            "exact": True,
            "metric": "cosine",
            "version": 7,
            "index_version": 3,
            "fingerprint": EXAMPLE_FINGERPRINT,
            "bridged": None,
            "request_id": EXAMPLE_REQUEST_ID,
            "timings_ms": {"queue": 0.1, "encode": 6.0, "search": 0.8, "total": 7.1},
        }
    )

    hits: list[Hit] = Field(description="Nearest first; with diversity, in the order they were chosen.")
    cursor: str | None = Field(description="`after` of the next page; null where this is the last.")
    truncated: bool = Field(description="Whether `limit` was met before all that was asked for was found.")
    coverage: float = Field(description="The part of the rows that was searched.")
    missing: list[int] = Field(description="Shards that did not answer.")
    exact: bool
    metric: Metric = Field(description="What a score is; of l2, minus the squared distance.")
    version: int = Field(description="The version of the collection that was searched.")
    index_version: int | None = Field(description="The index that was searched; null where the collection itself was.")
    fingerprint: Fingerprint
    bridged: BridgedBy | None = Field(
        default=None,
        description="The bridge it was asked through, or by which hits were mapped into this space; else null.",
    )
    request_id: str
    timings_ms: dict[str, float]
