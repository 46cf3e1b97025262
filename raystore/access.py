"""Verbs, principals and API keys: who may do what, how much of it, and until when.

A key is shown once, when it is made; the store keeps its HMAC under the store's key. On loopback no key
is demanded; on any other address one is. Looking a key up reads two or three small files. Knows nothing of HTTP.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from raystore.errors import InvalidArguments, InvalidName, KeyRequired, NotAllowed
from raystore.layout import Layout, check_name, names, numbers, read_json, write_json
from raystore.secret import keyed_digest


class Verb(StrEnum):
    LOG = "log"
    PREDICT = "predict"
    SEARCH = "search"
    SQL = "sql"
    VECTORS = "vectors"  # reading embeddings as numbers
    HUNT = "hunt"
    LABEL = "label"
    READ_AUDIT = "read-audit"
    EXPORT = "export"
    ERASE = "erase"
    DEPLOY = "deploy"


# What a key may do for which no verbs are named: what a service does. Everything else is asked for by name.
SERVICE = frozenset({Verb.LOG, Verb.PREDICT, Verb.SEARCH})


class Rates(BaseModel):
    """What one key, or one token's holder, may send; without limits by default. A key made with rates of its own has those."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_s: float | None = Field(default=None, ge=0.0001, le=1_000_000)
    burst: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Requests at once; by default two seconds' worth."
    )
    bytes_per_s: float | None = Field(
        default=None, ge=0.0001, le=1e12, description="Of request bodies; two seconds' worth at once."
    )

    @model_validator(mode="after")
    def _burst_of_something(self) -> Rates:
        if self.burst is not None and self.requests_per_s is None:
            raise ValueError("burst says how many of requests_per_s may come at once: name that too")
        return self


class Sizes(BaseModel):
    """What one request of a key may hold, where that is less than the service's own limits allow everybody."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_body_bytes: int | None = Field(default=None, ge=1024, le=2**25)
    max_items: int | None = Field(default=None, ge=1, le=4096)


@dataclass(frozen=True)
class Principal:
    """Who asks. The person at this machine holds every verb; a key holds those it was made with, a token those of its roles."""

    name: str
    verbs: frozenset[Verb]
    rates: Rates | None = None  # None: those of the service
    kind: Literal["local", "key", "token", "nobody"] = "key"
    expires_at: datetime | None = None
    sizes: Sizes | None = None  # of a key

    @property
    def who(self) -> str:
        """As rules, quotas, logs and reviews name it: a token's holder may have the name of a key, and is somebody else."""
        return f"token:{self.name}" if self.kind == "token" else self.name

    def may(self, verb: Verb) -> bool:
        return verb in self.verbs

    def require(self, verb: Verb) -> None:
        """Return where it holds the verb. NotAllowed."""
        if not self.may(verb):
            raise NotAllowed(principal=self.name, verb=verb.value, kind="token" if self.kind == "token" else "key")


LOCAL = Principal("local", frozenset(Verb), kind="local")
NOBODY = Principal("nobody", frozenset(), kind="nobody")


@dataclass(frozen=True)
class KeyFacts:
    """What can be told of a key; the key itself is not kept."""

    name: str
    verbs: tuple[Verb, ...]
    state: Literal["valid", "expired", "revoked"]
    created_at: datetime | None
    expires_at: datetime | None
    rates: Rates | None
    sizes: Sizes | None = None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def not_valid() -> KeyRequired:
    """What is raised for any key or token that is not believed. Unknown, revoked and expired ones read alike."""
    return KeyRequired(reason="the one that was sent is not valid here")


def _now() -> datetime:
    return datetime.now(UTC)


class ApiKeys:
    """The API keys of one store: `access/keys/<name>/<n>.json`, of which the last counts."""

    def __init__(self, layout: Layout, store_key: bytes, now: Callable[[], datetime] = _now) -> None:
        self._layout = layout
        self._store_key = store_key
        self._now = now

    def create(
        self,
        name: str,
        verbs: Iterable[Verb] = SERVICE,
        *,
        expires_at: datetime | None = None,
        rates: Rates | None = None,
        sizes: Sizes | None = None,
    ) -> str:
        """The new key, `rs.<name>.<secret>`. It is not kept and cannot be shown again; one of that name before it is dead.

        Args:
            verbs: what it may do; by default log, predict and search.
            expires_at: from then on it is refused; without a zone it is UTC. None: never.
            rates: limits of its own, in place of those of the service.
            sizes: of its requests, beside those of the service: the lower counts.

        Raises:
            InvalidName, InvalidArguments: what was given makes no key.
        """
        check_name("a key", name)
        wanted, problems = _verbs(verbs)
        expires = expires_at.replace(tzinfo=UTC) if expires_at is not None and expires_at.tzinfo is None else expires_at
        if expires is not None and expires <= self._now():
            problems.append(f"expires_at is {expires.isoformat()}, which is past")
        if problems:
            raise InvalidArguments(call=f"keys.create('{name}')", problems=problems)
        secret = secrets.token_urlsafe(32)
        record = {
            "digest": self._digest(name, secret),
            "verbs": wanted,
            "revoked": False,
            "created": self._now().isoformat(),
            "expires": expires.astimezone(UTC).isoformat() if expires is not None else None,
            "rates": rates.model_dump(exclude_none=True) if rates is not None else None,
            "sizes": sizes.model_dump(exclude_none=True) if sizes is not None else None,
        }
        while not self._published(name, record, self._last(name) + 1):
            pass  # somebody made one under the same name at the same time; the last counts
        return f"rs.{name}.{secret}"

    def revoke(self, name: str) -> None:
        """Make the key of that name invalid, if there is one; a running service refuses it within 5 s."""
        while (number := self._last(name)) > 0:
            record = read_json(self._layout.api_keys / name / f"{number}.json")
            if self._published(name, {**record, "revoked": True}, number + 1):
                return

    def names(self) -> list[str]:
        """The keys that are valid."""
        return [key.name for key in self.facts() if key.state == "valid"]

    def facts(self) -> list[KeyFacts]:
        """Every key that was ever made, by name."""
        found = ((name, self._record(name)) for name in names(self._layout.api_keys))
        return [self._facts(name, record) for name, record in found if record is not None]

    def principal(self, key: str | None) -> Principal:
        """Who holds this key. Raises KeyRequired when it is missing, unknown, revoked or expired; all read alike but the first."""
        if not key:
            raise KeyRequired(reason="the request carries none")
        prefix, _, rest = key.partition(".")
        name, dot, secret = rest.partition(".")
        record = self._record(name) if prefix == "rs" and dot and key.isascii() else None
        wanted, found = (record["digest"], self._digest(name, secret)) if record else ("", "-")
        if record is None or not hmac.compare_digest(wanted, found) or self._state(record) != "valid":
            raise not_valid()
        facts = self._facts(name, record)
        return Principal(name, frozenset(facts.verbs), rates=facts.rates, expires_at=facts.expires_at, sizes=facts.sizes)

    def _facts(self, name: str, record: dict[str, Any]) -> KeyFacts:
        return KeyFacts(
            name=name,
            verbs=tuple(verb for verb in Verb if verb in record["verbs"]),  # a verb of a later version means nothing here
            state=self._state(record),
            created_at=_time(record.get("created")),
            expires_at=_time(record.get("expires")),
            rates=Rates(**record["rates"]) if record.get("rates") else None,
            sizes=Sizes(**record["sizes"]) if record.get("sizes") else None,
        )

    def _state(self, record: dict[str, Any]) -> Literal["valid", "expired", "revoked"]:
        if record["revoked"]:
            return "revoked"
        expires = _time(record.get("expires"))
        return "expired" if expires is not None and expires <= self._now() else "valid"

    def _last(self, name: str) -> int:
        return (numbers(self._layout.api_keys / name) or [0])[-1]

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            check_name("a key", name)
        except InvalidName:
            return None
        number = self._last(name)
        return read_json(self._layout.api_keys / name / f"{number}.json") if number else None

    def _published(self, name: str, record: dict[str, Any], number: int) -> bool:
        try:
            write_json(self._layout.api_keys / name / f"{number}.json", record, self._layout.tmp, exclusive=True)
        except FileExistsError:
            return False
        return True

    def _digest(self, name: str, secret: str) -> str:
        return keyed_digest(self._store_key, b"api-key", name.encode(), secret.encode()).hex()


def _verbs(asked: Iterable[str]) -> tuple[list[str], list[str]]:
    """The verbs as they are kept, and what is wrong with them."""
    wanted = sorted({str(verb) for verb in asked})
    unknown = [verb for verb in wanted if verb not in set(Verb)]
    problems = [f"'{verb}' is no verb, expected {', '.join(Verb)}" for verb in unknown]
    return wanted, problems or ([] if wanted else ["it names no verb"])


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
