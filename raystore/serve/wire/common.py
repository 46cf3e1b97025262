"""Requests and answers, as they stand on the wire and in the OpenAPI document. The examples are invented.

Pure models. Unknown fields are refused, except in a logged row, whose further fields are kept columns. `contents` of
a request are its texts and images as they were sent, by the path of their field; `content.py` reads them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

MAX_ID_CHARS = (
    512  # as `data.rows.MAX_ID_CHARS`, whose module brings Arrow: what a collection takes is predicted and reviewed
)
Id = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARS)]
Text = Annotated[str, StringConstraints(min_length=1)]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Kept = str | int | float | bool | None
# The most that a file may allow in a request (`max_items`). pydantic stops there: without it, 16 MiB of one-letter items are made into
# models, for seconds and 1 GB, before anybody counts them.
MOST_ITEMS = 4096
GivenVector = Annotated[list[float], Field(max_length=65_536)]
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # what a caller's own must be, whole: it stands in logs


def _in_utc(value: datetime) -> datetime:
    """As `data.rows.as_time`, whose module brings Arrow and Lance, which a client has no use for."""
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("expected a time that the calendar has in UTC, too") from None


Moment = Annotated[datetime, AfterValidator(_in_utc)]

CONTENT = (
    "A string that begins with `data:image/` is an image (`data:image/png;base64,...`; JPEG, PNG, GIF, WebP, BMP or TIFF), "
    "any other is a text. What the encoder does not take is refused."
)
ROW_CONTENT = (
    "A row has a text in `text`, an image in `image` (as `data:image/png;base64,...`) or its `vector`; the content is "
    "encoded with every encoder of the collection. It is kept only where the collection's owner chose that when it was made "
    "(`keep_source`)."
)

EXAMPLE_FINGERPRINT = "5f3c1a2b9d0e" + "0" * 52
EXAMPLE_REQUEST_ID = "0b6e7c1c9f3b4a6f9d8e2a1b3c4d5e6f"


def with_example(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


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


class Health(BaseModel):
    status: Literal["ok", "starting"]


class Readiness(BaseModel):
    model_config = with_example(
        {"status": "ok", "deployments": {"triage": {"number": 1, "head": "refunds@2", "fingerprint": EXAMPLE_FINGERPRINT}}}
    )

    status: Literal["ok", "starting"]
    deployments: dict[str, dict[str, str | int]]
    failed: dict[str, dict[str, str | int]] = Field(
        default={},
        description="Numbers of deployments that could not be taken up, and the error; what answered before goes on.",
    )


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
