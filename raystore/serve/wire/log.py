"""The request and the answer of POST /v1/collections/{c}/log. The examples are invented."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raystore.serve.wire.common import (
    EXAMPLE_FINGERPRINT,
    EXAMPLE_REQUEST_ID,
    MOST_ITEMS,
    ColumnName,
    Fingerprint,
    GivenVector,
    Id,
    Kept,
    Moment,
    Text,
    with_example,
)

_MOST_FIELDS = 1000


class LogRow(BaseModel):
    """One event. Further fields are kept columns: texts, numbers, booleans or null. The content itself is kept only by a
    collection whose owner chose that when it was made (`keep_source`)."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"maxProperties": _MOST_FIELDS})
    __pydantic_extra__: dict[ColumnName, Kept] = Field(init=False)

    id: Id
    text: Text | None = None
    image: Kept = Field(
        default=None, description="An image: `data:image/png;base64,...`; anything else is a kept column of that name."
    )
    vector: GivenVector | None = None
    subject: str | None = None
    tenant: str | None = None
    time: Moment | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_few_fields(cls, value: object) -> object:
        """Each further field is looked at, so they are counted first."""
        if isinstance(value, dict) and len(value) > _MOST_FIELDS:
            raise ValueError(f"expected at most {_MOST_FIELDS:,} fields in a row")
        return value

    def row(self) -> dict[str, Any]:
        """The row as it was sent: only the fields that were."""
        return {**self.model_dump(exclude_unset=True, exclude={"__pydantic_extra__"}), **(self.model_extra or {})}


class LogRequest(BaseModel):
    model_config = with_example(
        {"rows": [{"id": "t-1", "subject": "c-9", "text": "My card never arrived", "product": "card"}]}
    )

    rows: list[LogRow] = Field(min_length=1, max_length=MOST_ITEMS)
    fingerprint: Fingerprint | None = Field(default=None, description="The encoder of the vectors, where rows carry them.")


class LogAnswer(BaseModel):
    model_config = with_example(
        {
            "added": 1,
            "known": 0,
            "version": 7,
            "fingerprint": EXAMPLE_FINGERPRINT,
            "request_id": EXAMPLE_REQUEST_ID,
            "timings_ms": {"log": 14.1, "total": 14.2},
        }
    )

    added: int
    known: int = Field(description="Rows that were there already, with the same payload.")
    version: int
    fingerprint: Fingerprint
    request_id: str
    timings_ms: dict[str, float]
