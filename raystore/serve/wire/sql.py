"""The request and the answer of POST /v1/sql. The examples are invented.

The rows arrive from the query's own process as bytes and are passed on as they are: nothing of them is parsed here.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints
from starlette.responses import Response

from raystore.data.sandbox.process import Rows
from raystore.serve.wire.common import EXAMPLE_REQUEST_ID, with_example

Form = Literal["json", "arrow"]
Scalar = str | int | float | bool | None
ParameterName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,62}$")]

ARROW = "application/vnd.apache.arrow.stream"
ABOUT = (
    "One SELECT in DuckDB's dialect over the collections and tables that are served, without vectors. Values belong into "
    f"`params` and are named in the query as `$name`. With `Accept: {ARROW}` the answer is an Arrow stream."
)


class SqlRequest(BaseModel):
    model_config = with_example(
        {
            "sql": "SELECT product, count(*) AS n FROM tickets WHERE time >= $since::TIMESTAMPTZ GROUP BY product ORDER BY n DESC",
            "params": {"since": "2026-01-01"},
            "limit": 100,
        }
    )

    sql: Annotated[str, StringConstraints(min_length=1, max_length=65_536)]
    params: dict[ParameterName, Scalar | Annotated[list[Scalar], Field(max_length=65_536)]] = Field(
        default_factory=dict, max_length=100
    )
    limit: int = Field(default=1000, ge=1, le=1_000_000, description="The most rows; the service has a limit of its own.")


class Column(BaseModel):
    name: str
    type: str = Field(description="DuckDB's name of the type.")


class SqlAnswer(BaseModel):
    """What JSON has no word for is text: times in ISO 8601, decimals, NaN and infinities; bytes are base64."""

    model_config = with_example(
        {
            "columns": [{"name": "product", "type": "VARCHAR"}, {"name": "n", "type": "BIGINT"}],
            "rows": [["card", 41], ["transfer", 17]],
            "row_count": 2,
            "truncated": False,
            "versions": {"tickets": 7},
            "request_id": EXAMPLE_REQUEST_ID,
            "seconds": 0.031,
        }
    )

    columns: list[Column]
    rows: list[list[Any]] = Field(description="A row has a value for each column, in their order.")
    row_count: int
    truncated: bool = Field(description="There are more rows than these.")
    versions: dict[str, int] = Field(description="The version of each relation that was read; the newest of several.")
    request_id: str
    seconds: float


def form_of(accept: str) -> Form:
    """What an Accept header asks for; JSON unless it names Arrow."""
    kinds = {part.split(";")[0].strip().lower() for part in accept.split(",")}
    return "arrow" if ARROW in kinds else "json"


def respond(rows: Rows, form: Form, *, request_id: str, seconds: float) -> Response:
    """The answer; an Arrow stream carries its facts in its schema's metadata, under `raystore`."""
    if form == "arrow":
        return Response(rows.body, media_type=ARROW)
    after = {
        "row_count": rows.row_count,
        "truncated": rows.truncated,
        "versions": rows.versions,
        "request_id": request_id,
        "seconds": seconds,
    }
    parts = [
        b'{"columns":',
        json.dumps(rows.columns).encode(),
        b',"rows":',
        rows.body,
        b",",
        json.dumps(after).encode()[1:],
    ]
    return Response(b"".join(parts), media_type="application/json")
