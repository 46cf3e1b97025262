"""Requests and answers, as they stand on the wire and in the OpenAPI document. The examples are invented.

Pure models. Unknown fields are refused, except in a logged row, whose further fields are kept columns. `contents` of
a request are its texts and images as they were sent, by the path of their field; `content.py` reads them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Text = Annotated[str, StringConstraints(min_length=1)]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Kept = str | int | float | bool | None

CONTENT = (
    "A string that begins with `data:image/` is an image (`data:image/png;base64,...`; JPEG, PNG, GIF, WebP, BMP or TIFF), "
    "any other is a text. What the encoder does not take is refused."
)
ROW_CONTENT = (
    "A row has a text in `text`, an image in `image` (as `data:image/png;base64,...`) or its `vector`; the content is "
    "encoded with every encoder of the collection, and not kept."
)

EXAMPLE_FINGERPRINT = "5f3c1a2b9d0e" + "0" * 52
EXAMPLE_REQUEST_ID = "0b6e7c1c9f3b4a6f9d8e2a1b3c4d5e6f"
_TIMINGS = {"encode": 6.1, "head": 0.1, "total": 6.4}


def with_example(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


class PredictRequest(BaseModel):
    """Exactly one of `text` and `texts`; an answer per item, in order."""

    model_config = with_example({"text": "My card never arrived", "top": 3})

    text: Text | None = Field(default=None, description=CONTENT)
    texts: list[Text] | None = Field(default=None, min_length=1, description=CONTENT)
    top: int = Field(default=5, ge=1, le=1000, description="How many labels to name with their probabilities.")

    @model_validator(mode="after")
    def _has_one(self) -> PredictRequest:
        if (self.text is None) == (self.texts is None):
            raise ValueError("expected exactly one of text and texts")
        return self

    @property
    def contents(self) -> dict[str, str]:
        if self.text is not None:
            return {"body.text": self.text}
        return {f"body.texts[{i}]": text for i, text in enumerate(self.texts or [])}


class SnapshotLineage(BaseModel):
    name: str
    number: int
    hash: str


class VotersLineage(BaseModel):
    collection: str
    labels: str | None = Field(description="A kept column, or a table's column.")


class Fidelity(BaseModel):
    """What a bridge reached on pairs of vectors that it was not fitted on."""

    kind: str = Field(description="procrustes, low-rank or mlp.")
    pairs: int = Field(description="That it was fitted on.")
    n: int = Field(description="That were held out.")
    gallery: int = Field(description="Rows they were looked for in: among more, fewer neighbours are found.")
    recall: float = Field(description="recall@10: of the 10 rows nearest by true vectors, the share that is found.")
    kept: float | None = Field(
        description="What label searches keep: rows of the query's label found, of those that true vectors find; null without labels."
    )
    cosine: float = Field(description="Of a bridged vector with the true one, on average.")


class BridgedBy(BaseModel):
    """The bridge through which an answer was asked, or rows in it were mapped: its vectors stand for those of the encoder that it
    leads to, as well as `fidelity` says."""

    encoder: str
    fidelity: Fidelity


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


class Prediction(BaseModel):
    """Of a head that names one class."""

    label: str
    confidence: float
    abstained: bool = Field(description="Whether the confidence is below the head's threshold: the label is then a guess.")
    probabilities: Probabilities


class LabelsPrediction(BaseModel):
    """Of a head that gives any number of labels."""

    labels: list[str]
    confidence: float = Field(description="How sure it is of each label, given or not, on average.")
    probabilities: Probabilities


class NumberPrediction(BaseModel):
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
                    "label": "card_arrival",
                    "confidence": 0.94,
                    "abstained": False,
                    "probabilities": [
                        {"label": "card_arrival", "probability": 0.94},
                        {"label": "lost_card", "probability": 0.03},
                    ],
                }
            ],
            "lineage": _LINEAGE,
            "fingerprint": EXAMPLE_FINGERPRINT,
            "bridged": None,
            "logged": None,
            "request_id": EXAMPLE_REQUEST_ID,
            "timings_ms": _TIMINGS,
        }
    )

    predictions: list[Prediction | LabelsPrediction | NumberPrediction]
    lineage: Lineage
    fingerprint: Fingerprint
    bridged: BridgedBy | None = Field(default=None, description="Where the deployment reads through a bridge.")
    logged: list[str] | None = Field(
        default=None, description="Ids of the rows that keep the embeddings, where the deployment logs."
    )
    request_id: str
    timings_ms: dict[str, float]


class LogRow(BaseModel):
    """One event. Further fields are kept columns: texts, numbers, booleans or null. The content itself is never kept."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[ColumnName, Kept] = Field(init=False)

    id: Annotated[str, StringConstraints(min_length=1)]
    text: Text | None = None
    image: Kept = Field(
        default=None, description="An image: `data:image/png;base64,...`; anything else is a kept column of that name."
    )
    vector: list[float] | None = None
    subject: str | None = None
    tenant: str | None = None
    time: datetime | None = None

    def row(self) -> dict[str, Any]:
        """The row as it was sent: only the fields that were."""
        return {**self.model_dump(exclude_unset=True, exclude={"__pydantic_extra__"}), **(self.model_extra or {})}


class LogRequest(BaseModel):
    model_config = with_example(
        {"rows": [{"id": "t-1", "subject": "c-9", "text": "My card never arrived", "product": "card"}]}
    )

    rows: list[LogRow] = Field(min_length=1)
    fingerprint: Fingerprint | None = Field(default=None, description="The encoder of the vectors, where rows carry them.")


class LogAnswer(BaseModel):
    model_config = with_example(
        {
            "added": 1,
            "known": 0,
            "version": 7,
            "fingerprint": EXAMPLE_FINGERPRINT,
            "request_id": EXAMPLE_REQUEST_ID,
            "timings_ms": {"total": 14.2},
        }
    )

    added: int
    known: int = Field(description="Rows that were there already, with the same payload.")
    version: int
    fingerprint: Fingerprint
    request_id: str
    timings_ms: dict[str, float]


class Health(BaseModel):
    status: Literal["ok", "starting"]


class Readiness(BaseModel):
    model_config = with_example(
        {"status": "ok", "deployments": {"triage": {"number": 1, "head": "refunds@2", "fingerprint": EXAMPLE_FINGERPRINT}}}
    )

    status: Literal["ok", "starting"]
    deployments: dict[str, dict[str, str | int]]


class ErrorBody(BaseModel):
    """`type` and `message` are for the reader, the further fields are the error's facts; the input is never among them."""

    model_config = ConfigDict(extra="allow")

    type: str
    message: str
    request_id: str


class ErrorAnswer(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "type": "InvalidRequest",
                        "message": "1 field of this request is wrong: body.text: string should have at least 1 character.",
                        "request_id": EXAMPLE_REQUEST_ID,
                        "problems": [{"field": "body.text", "reason": "string should have at least 1 character"}],
                    }
                }
            ]
        }
    )

    error: ErrorBody
