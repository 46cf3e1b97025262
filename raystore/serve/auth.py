"""Who may use which route: one verb for each, asked of the key a request carries.

On loopback no key is demanded. A key is looked up in the store; what was found valid is believed for at most
five seconds, so a revoked key is dead everywhere within that time. Knows headers and paths, no body.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from typing import Protocol

from raystore.access import LOCAL, Principal, Verb
from raystore.errors import KeyRequired, NotAllowed

BELIEVED_S = 5.0
_MAX_BELIEVED = 1024

# Every route under /v1 stands here; a test holds that. The first that matches counts.
VERBS: tuple[tuple[re.Pattern[str], Verb], ...] = (
    (re.compile(r"/v1/predict/[^/]+"), Verb.PREDICT),
    (re.compile(r"/v1/embeddings"), Verb.PREDICT),
    (re.compile(r"/v1/models"), Verb.PREDICT),
    (re.compile(r"/v1/models/[^/]+"), Verb.PREDICT),
    (re.compile(r"/v1/collections/[^/]+/log"), Verb.LOG),
    (re.compile(r"/v1/collections/[^/]+/search"), Verb.SEARCH),
    (re.compile(r"/v1/sql"), Verb.SQL),
)


def verb_of(path: str) -> Verb | None:
    return next((verb for pattern, verb in VERBS if pattern.fullmatch(path)), None)


class Keys(Protocol):
    """`raystore.access.ApiKeys`, as far as the door needs it."""

    def principal(self, key: str | None) -> Principal: ...


class Door:
    """Lets a request in or raises. Without keys (loopback) everybody is the person at this machine."""

    def __init__(self, keys: Keys | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._believed: dict[bytes, tuple[float, Principal]] = {}
        self._lock = threading.Lock()

    @property
    def demands_key(self) -> bool:
        return self._keys is not None

    def admit(self, path: str, authorization: str | None) -> Principal:
        """Who asks.

        Raises:
            KeyRequired: no key, an unknown or a revoked one (401).
            NotAllowed: the key has not the verb of this route (403).
        """
        if self._keys is None or not path.startswith("/v1"):
            return LOCAL
        principal = self._principal(_bearer(authorization))
        verb = verb_of(path)
        if verb is not None and not principal.may(verb):
            raise NotAllowed(principal=principal.name, verb=verb.value)
        return principal

    def _principal(self, key: str | None) -> Principal:
        assert self._keys is not None
        if key is None:
            return self._keys.principal(None)
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
        now = self._clock()
        with self._lock:
            until, believed = self._believed.get(digest, (0.0, LOCAL))
            if now < until:
                return believed
        principal = self._keys.principal(key)
        with self._lock:
            if len(self._believed) >= _MAX_BELIEVED:
                self._believed.clear()
            self._believed[digest] = (now + BELIEVED_S, principal)
        return principal


def _bearer(authorization: str | None) -> str | None:
    """The key in 'Bearer KEY'; None without the header. Raises KeyRequired on another scheme."""
    if not authorization:
        return None
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise KeyRequired(reason="the Authorization header is no 'Bearer KEY'")
    return key.strip()
