"""Who calls a service: `raystore.client` and `raystore.source`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raystore.errors.base import RaystoreError


@dataclass(eq=False, kw_only=True, repr=False)
class ServiceError(RaystoreError, RuntimeError):
    """What a service answered to `raystore.client`: `type`, `message` and `details` as it said them, of which nothing was sent to it.

    Its class says what to do: `ServiceRefused` (the same request would be refused again), `ServiceDenied` (the key), `ServiceBusy`
    (later); the base itself is a failure of the service. `retry_after_s` is 0 where it named no time.
    """

    status = 502
    status_code: int
    type: str
    message: str
    request_id: str
    retry_after_s: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"the service answered {self.status_code} {self.type} to request {self.request_id}: {self.message}"


class ServiceRefused(ServiceError):
    """4xx: the request has to change; also where a rule of the deployment refuses it (403 RuleRefused)."""


class ServiceDenied(ServiceError):
    """401 and any other 403: the key is missing, unknown, or lacks the verb."""


class ServiceBusy(ServiceError):
    """429, 503 and 504, after the retries that fitted into the deadline."""

    status = 503


@dataclass(eq=False, kw_only=True, repr=False)
class ServiceUnreachable(RaystoreError, ConnectionError):
    status = 503
    url: str
    found: str
    attempts: int
    request_id: str

    def __str__(self) -> str:
        times = "once" if self.attempts == 1 else f"{self.attempts} times"
        return (
            f"no answer from {self.url} to request {self.request_id}: {self.found}, tried {times}. "
            "Check that the service runs, or give it more time (timeout_s=, deadline_s=)."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class SpoolFull(RaystoreError, OSError):
    status = 507
    folder: str
    rows: int
    max_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.rows} rows were not kept: the spool in '{self.folder}' holds as much as it may, {self.max_bytes} bytes. What it "
            "holds is safe and is sent when the service answers again. Repeat the call then, or give it more room (max_spool_bytes=)."
        )


@dataclass(eq=False, kw_only=True, repr=False)
class SpoolUnusable(RaystoreError, OSError):
    folder: str
    found: str
    advice: str

    def __str__(self) -> str:
        return f"the spool in '{self.folder}' cannot be used: {self.found}. {self.advice}"
