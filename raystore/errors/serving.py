"""A service: what is let in, how much of it, rules, promotion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raystore.errors.base import RaystoreError, listed


@dataclass(eq=False, kw_only=True, repr=False)
class BodyTooLarge(RaystoreError, ValueError):
    status = 413
    what: str
    found: int
    limit: int
    unit: str = "bytes"

    def __str__(self) -> str:
        return f"{self.what} has {self.found} {self.unit}, over the limit of {self.limit}."


@dataclass(eq=False, kw_only=True, repr=False)
class BodyTooSlow(RaystoreError, TimeoutError):
    status = 408
    what: str
    within_s: float

    def __str__(self) -> str:
        return f"{self.what} did not come whole within {self.within_s:g} s, and is waited for no longer."


@dataclass(eq=False, kw_only=True, repr=False)
class AddressInUse(RaystoreError, OSError):
    status = 503
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port} is in use. Stop what listens there, or choose another port (port=, --port)."


@dataclass(eq=False, kw_only=True, repr=False)
class KeyRequired(RaystoreError, PermissionError):
    status = 401
    reason: str

    def __str__(self) -> str:
        return f"a key is required: {self.reason}. Make one with 'raystore key create NAME' and send it as 'Authorization: Bearer KEY'."


@dataclass(eq=False, kw_only=True, repr=False)
class NotAllowed(RaystoreError, PermissionError):
    status = 403
    principal: str
    verb: str
    kind: str = "key"  # or token

    def __str__(self) -> str:
        return f"{self.kind} '{self.principal}' lacks the verb '{self.verb}'. Ask for a {self.kind} that has it."


@dataclass(eq=False, kw_only=True, repr=False)
class NoSuchRoute(RaystoreError, LookupError):
    status = 404

    def __str__(self) -> str:
        return "there is no such route. GET /openapi.json lists them."


@dataclass(eq=False, kw_only=True, repr=False)
class WrongMethod(RaystoreError, ValueError):
    status = 405
    allowed: Sequence[str]

    def __str__(self) -> str:
        return f"this route takes {' or '.join(self.allowed)}."


@dataclass(eq=False, kw_only=True, repr=False)
class RateExceeded(RaystoreError, RuntimeError):
    """`limit` is of `unit` a second; after `retry_after_s` the next request is let in, if none came meanwhile."""

    status = 429
    limit: float
    unit: str
    retry_after_s: float

    def __str__(self) -> str:
        return f"the limit of {self.limit:.10g} {self.unit} a second is reached. Try again in {self.retry_after_s:.2f} s."


@dataclass(eq=False, kw_only=True, repr=False)
class ProviderUnreachable(RaystoreError, ConnectionError):
    status = 503

    def __str__(self) -> str:
        return "no token can be checked: the public keys of the identity provider cannot be read. Try again."


@dataclass(eq=False, kw_only=True, repr=False)
class RuleRefused(RaystoreError, PermissionError):
    """`sentence` is the rule's own, from the deployment file or its hook; `item` the place, from 0, of what was refused."""

    status = 403
    rule: str
    sentence: str
    item: int = 0
    n_items: int = 1

    def __str__(self) -> str:
        sentence = self.sentence if self.sentence[-1:] in (".", "!", "?", "'") else f"{self.sentence}."
        return f"rule '{self.rule}' refuses {_item(self.item, self.n_items)}: {sentence}"


@dataclass(eq=False, kw_only=True, repr=False)
class ColumnsRequired(RaystoreError, ValueError):
    """`missing` are names that the rule asks for, in its order."""

    status = 422
    rule: str
    missing: Sequence[str]
    item: int = 0
    n_items: int = 1

    def __str__(self) -> str:
        return f"rule '{self.rule}' requires what {_item(self.item, self.n_items)} lacks, or has as null: {listed(self.missing)}."


@dataclass(eq=False, kw_only=True, repr=False)
class QuotaExceeded(RaystoreError, RuntimeError):
    """`requests` in `window_s` are the whole service's; `retry_after_s` is when this replica would let one more pass."""

    status = 429
    rule: str
    requests: int
    window_s: float
    retry_after_s: float
    item: int = 0
    n_items: int = 1

    def __str__(self) -> str:
        return (
            f"rule '{self.rule}' lets {self.requests} pass in {self.window_s:g} s, and {_item(self.item, self.n_items)} is one more. "
            f"Try again in {self.retry_after_s:.3g} s."
        )


def _item(place: int, n_items: int) -> str:
    return "this request" if n_items == 1 else f"item {place} of {n_items}"


@dataclass(eq=False, kw_only=True, repr=False)
class HookFailed(RaystoreError, RuntimeError):
    """`found` has the type of what was raised or returned, never its text."""

    rule: str
    found: str

    def __str__(self) -> str:
        return f"the hook of rule '{self.rule}' {self.found}. The request was not answered."


@dataclass(eq=False, kw_only=True, repr=False)
class Overloaded(RaystoreError, RuntimeError):
    status = 503
    limit: int
    what: str = "requests are under way"

    def __str__(self) -> str:
        return f"{self.limit} {self.what} here, and no more are taken. Try again in a moment."


@dataclass(eq=False, kw_only=True, repr=False)
class DeadlineMissed(RaystoreError, TimeoutError):
    status = 504
    deadline_s: float
    stage: str

    def __str__(self) -> str:
        return f"the request was given {self.deadline_s:g} s, and they ran out {self.stage}. Nothing was answered."


@dataclass(eq=False, kw_only=True, repr=False)
class SealBroken(RaystoreError, ValueError):
    def __str__(self) -> str:
        return "sealed content does not open with this store's key: it is another store's, or was changed on its way."


@dataclass(eq=False, kw_only=True, repr=False)
class GateHeld(RaystoreError, ValueError):
    status = 409
    head: str
    gate: str
    found: str

    def __str__(self) -> str:
        return f"head '{self.head}' is not promoted: {self.gate} does not hold ({self.found}). Nothing was changed."
