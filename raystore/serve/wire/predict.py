"""The request and the answer of POST /v1/predict/{d}, and of a line of its stream. The examples are invented.

`contents` of a request are its texts and images as they were sent, by the path of their field; `content.py` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field, model_validator

from raystore.serve.wire.common import (
    CONTENT,
    EXAMPLE_FINGERPRINT,
    EXAMPLE_REQUEST_ID,
    MOST_ITEMS,
    BridgedBy,
    ColumnName,
    ErrorBody,
    Fingerprint,
    GivenVector,
    Id,
    Kept,
    Moment,
    Text,
    with_example,
)

_TIMINGS = {"rules": 0.0, "queue": 0.1, "encode": 6.1, "head": 0.1, "total": 6.4}


class PredictItem(BaseModel):
    """One text or image, or a vector that was made where it arose; and what is known of it, for rules, log and reports."""

    model_config = with_example({"text": "My card never arrived", "subject": "c-9", "columns": {"product": "card"}})

    id: Id | None = Field(default=None, description="Of the row that is logged; by default the request's id. Once only.")
    text: Text | None = Field(default=None, description=CONTENT)
    vector: GivenVector | None = Field(default=None, description="With `fingerprint`, in place of content.")
    subject: Id | None = None
    tenant: Id | None = None
    time: Moment | None = None
    columns: dict[ColumnName, Kept] = Field(default_factory=dict, max_length=100)

    @model_validator(mode="after")
    def _has_one(self) -> PredictItem:
        if (self.text is None) == (self.vector is None):
            raise ValueError("expected exactly one of text and vector")
        return self


class PredictOptions(BaseModel):
    """What a request says of all its items; of a stream, its query string."""

    fingerprint: Fingerprint | None = Field(default=None, description="The encoder that made the vectors.")
    top: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="How many labels to name with their probabilities; of all items together 100,000 at most.",
    )
    evidence: int = Field(
        default=0,
        ge=0,
        le=100,
        description="How many labelled rows to name that are nearest; for keys that may search too.",
    )


class PredictRequest(PredictOptions):
    """One item, its fields beside the options; or `items`, answered in order."""

    model_config = with_example(
        {"text": "My card never arrived", "subject": "c-9", "columns": {"product": "card"}, "top": 3}
    )

    id: Id | None = None
    text: Text | None = Field(default=None, description=CONTENT)
    vector: GivenVector | None = Field(default=None, description="With `fingerprint`, in place of content.")
    subject: Id | None = None
    tenant: Id | None = None
    time: Moment | None = None
    columns: dict[ColumnName, Kept] = Field(default_factory=dict, max_length=100)
    items: list[PredictItem] | None = Field(default=None, min_length=1, max_length=MOST_ITEMS)

    @model_validator(mode="after")
    def _is_one_or_many(self) -> PredictRequest:
        alone = (self.id, self.text, self.vector, self.subject, self.tenant, self.time, self.columns or None)
        if self.items is not None and any(value is not None for value in alone):
            raise ValueError("expected the fields of one item, or items, not both")
        if self.items is None and (self.text is None) == (self.vector is None):
            raise ValueError("expected exactly one of text, vector and items")
        ids = [item.id for item in self.items or () if item.id is not None]
        if len(set(ids)) < len(ids):
            raise ValueError("expected each id once")
        if self.fingerprint is None and any(item.vector is not None for item in self.asked):
            raise ValueError("expected fingerprint with vector, so that it is clear which encoder made it")
        return self

    @property
    def asked(self) -> Sequence[PredictItem | PredictRequest]:
        """Its items; where it is one itself, it has what an item has."""
        return self.items if self.items is not None else (self,)

    @property
    def contents(self) -> dict[str, str]:
        if self.items is None:
            return {} if self.text is None else {"body.text": self.text}
        return {f"body.items[{i}].text": item.text for i, item in enumerate(self.items) if item.text is not None}


class SnapshotLineage(BaseModel):
    name: str
    number: int
    hash: str


class VotersLineage(BaseModel):
    collection: str
    labels: str | None = Field(description="A kept column, or a table's column.")


class Lineage(BaseModel):
    """Where a prediction comes from: deployment, head, the snapshot it learned from or the labelled rows it asks, the encoder."""

    deployment: str
    number: int
    head: str
    snapshot: SnapshotLineage | None = None
    voters: VotersLineage | None = Field(default=None, description="Of a head that asks labelled rows, which are followed.")
    encoder: str
    fingerprint: Fingerprint


class Probability(BaseModel):
    label: str
    probability: float


Probabilities = Annotated[list[Probability], Field(description="The most likely labels, highest first.")]


class Evidence(BaseModel):
    """A labelled row that is near: of a head that asks rows its voters, of another one rows of its snapshot."""

    id: str
    label: str
    score: float = Field(description="Cosine, higher is nearer.")


class _Said(BaseModel):
    """What every prediction carries beside what was predicted."""

    id: str = Field(description="Of the item: its own, or the request's with its place.")
    by: str = Field(description="The head that answered; where it is not the live one, `others` has its lineage.")
    abstained: bool = Field(default=False, description="Whether this is a guess: nobody should act on it.")
    why: str | None = Field(default=None, description="Why it abstained: 'threshold' (of the head), or the rule.")
    rules: list[str] = Field(default_factory=list, description="Rules that fired, in order.")
    actions: list[str] | None = Field(
        default=None, description="What the rules allow for this label; null where none says."
    )
    review: bool = Field(default=False, description="Whether people will look at it.")
    evidence: list[Evidence] | None = Field(default=None, description="Where it was asked for, nearest first.")


class Prediction(_Said):
    """Of a head that names one class."""

    label: str
    confidence: float | None = Field(description="Null where a rule gave the label.")
    probabilities: Probabilities


class LabelsPrediction(_Said):
    """Of a head that gives any number of labels."""

    labels: list[str]
    confidence: float | None = Field(
        description="How sure it is of each label, given or not, on average; null where a rule gave the label."
    )
    probabilities: Probabilities


class NumberPrediction(_Said):
    """Of a head that predicts a number."""

    value: float


_LINEAGE = {
    "deployment": "triage",
    "number": 1,
    "head": "refunds@2",
    "snapshot": {"name": "refunds", "number": 1, "hash": "9a1c" + "0" * 60},
    "voters": None,
    "encoder": "minilm@5f3c1a2b9d0e",
    "fingerprint": EXAMPLE_FINGERPRINT,
}


class PredictAnswer(BaseModel):
    model_config = with_example(
        {
            "predictions": [
                {
                    "id": EXAMPLE_REQUEST_ID,
                    "by": "refunds@2",
                    "rules": [],
                    "actions": None,
                    "review": False,
                    "evidence": None,
                    "label": "card_arrival",
                    "confidence": 0.94,
                    "abstained": False,
                    "why": None,
                    "probabilities": [
                        {"label": "card_arrival", "probability": 0.94},
                        {"label": "lost_card", "probability": 0.03},
                    ],
                }
            ],
            "lineage": _LINEAGE,
            "others": [],
            "fingerprint": EXAMPLE_FINGERPRINT,
            "bridged": None,
            "logged": None,
            "request_id": EXAMPLE_REQUEST_ID,
            "timings_ms": _TIMINGS,
        }
    )

    predictions: list[Prediction | LabelsPrediction | NumberPrediction]
    lineage: Lineage
    others: list[Lineage] = Field(
        default_factory=list, description="Of heads that answered in place of it: a canary, a rule's route."
    )
    fingerprint: Fingerprint
    bridged: BridgedBy | None = Field(default=None, description="Where the deployment reads through a bridge.")
    logged: list[str] | None = Field(
        default=None,
        description="Ids of the rows that keep the embeddings, where they are durable now.",
    )
    request_id: str
    timings_ms: dict[str, float]


class StreamLine(BaseModel):
    """A line of the stream's answer: of an item its prediction or what was wrong with it; of the last line the counts, and why the
    stream was ended, where its sender did not end it."""

    model_config = with_example(
        {"line": 0, "error": {"type": "InvalidRequest", "message": "...", "request_id": EXAMPLE_REQUEST_ID}}
    )

    line: int | None = None
    prediction: Prediction | LabelsPrediction | NumberPrediction | None = None
    error: ErrorBody | None = None
    done: int | None = Field(default=None, description="Lines that were answered, or empty.")
    failed: int | None = None
    lineage: Lineage | None = None
    request_id: str | None = None
