"""What is watched, as it stands in the file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raystore.serve.spec.base import Strict


class Watch(Strict):
    """Metrics are always there at /metrics; this is what costs something."""

    drift: Literal["kept", "all"] = Field(
        default="kept",
        description="Of which deployments: those that keep predictions, or all; then the recording process is always there.",
    )
    drift_every_s: float = Field(
        default=60, ge=1, le=86_400, description="How often the window is compared with the head's snapshot."
    )
    drift_window: int = Field(default=2_000, ge=100, le=50_000, description="Newest vectors that are compared.")
    golden_every_s: float = Field(
        default=600, ge=5, le=86_400, description="How often a loaded encoder encodes its golden inputs again."
    )
    traces: str | None = Field(default=None, description="OTLP/HTTP endpoint that spans are sent to.")
    trace_sample: float = Field(default=1.0, gt=0, le=1, description="Share of requests with a trace of their own.")
    json_logs: bool = Field(default=False, description="A JSON line for each request, without content, on standard error.")
