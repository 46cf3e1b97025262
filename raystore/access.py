"""Verbs, principals and API keys: who may do what.

A key is shown once, when it is made; the store keeps its HMAC under the store's key. On loopback no key
is demanded; on any other address one is. Knows nothing of HTTP.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from raystore.errors import KeyRequired
from raystore.layout import Layout, check_name, names, numbers, read_json, write_json
from raystore.secret import keyed_digest


class Verb(StrEnum):
    LOG = "log"
    PREDICT = "predict"
    SEARCH = "search"
    SQL = "sql"
    VECTORS = "vectors"


# What a key may do for which no verbs are named: what a service does. Reading rows in SQL, or vectors, is asked for by name.
SERVICE = frozenset({Verb.LOG, Verb.PREDICT, Verb.SEARCH})


@dataclass(frozen=True)
class Principal:
    """Who asks. The person at this machine holds every verb; a key holds those it was made with."""

    name: str
    verbs: frozenset[Verb]

    def may(self, verb: Verb) -> bool:
        return verb in self.verbs


LOCAL = Principal("local", frozenset(Verb))


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ApiKeys:
    """The API keys of one store: `access/keys/<name>/1.json`, revoked by a later record."""

    def __init__(self, layout: Layout, store_key: bytes) -> None:
        self._layout = layout
        self._store_key = store_key

    def create(self, name: str, verbs: frozenset[Verb] = SERVICE) -> str:
        """The new key, `rs.<name>.<secret>`. It is not kept and cannot be shown again."""
        check_name("a key", name)
        secret = secrets.token_urlsafe(32)
        record = {"digest": self._digest(name, secret), "verbs": sorted(verbs), "revoked": False}
        number = (numbers(self._layout.api_keys / name) or [0])[-1] + 1
        write_json(self._layout.api_keys / name / f"{number}.json", record, self._layout.tmp, exclusive=True)
        return f"rs.{name}.{secret}"

    def revoke(self, name: str) -> None:
        record = self._record(name)
        if record is not None:
            number = numbers(self._layout.api_keys / name)[-1] + 1
            write_json(
                self._layout.api_keys / name / f"{number}.json",
                {**record, "revoked": True},
                self._layout.tmp,
                exclusive=True,
            )

    def names(self) -> list[str]:
        """The keys that are not revoked."""
        return [n for n in names(self._layout.api_keys) if not (self._record(n) or {"revoked": True})["revoked"]]

    def principal(self, key: str | None) -> Principal:
        """Who holds this key. Raises KeyRequired when it is missing, unknown or revoked; the three read alike but the first."""
        if not key:
            raise KeyRequired(reason="this address is not loopback and the request carries none")
        parts = key.split(".", 2)
        record = self._record(parts[1]) if len(parts) == 3 and parts[0] == "rs" else None
        wanted = record["digest"] if record else "0" * 64
        matches = hmac.compare_digest(wanted, self._digest(parts[1], parts[2]) if len(parts) == 3 else "")
        if record is None or record["revoked"] or not matches:
            raise KeyRequired(reason="the one that was sent is not valid here")
        return Principal(parts[1], frozenset(Verb(v) for v in record["verbs"]))

    def _record(self, name: str) -> dict[str, Any] | None:
        if not name.replace("_", "").isalnum():
            return None
        found = numbers(self._layout.api_keys / name)
        return read_json(self._layout.api_keys / name / f"{found[-1]}.json") if found else None

    def _digest(self, name: str, secret: str) -> str:
        return keyed_digest(self._store_key, b"api-key", name.encode(), secret.encode()).hex()
