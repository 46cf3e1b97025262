"""The public keys of an identity provider (a JWK set), held in memory and read again when that is due.

Keys are believed for 5 minutes, then read again with the next token; a key id that is not among them has them read
at once, at most every 10 s. Where they cannot be read, those of before are believed for an hour. Reading blocks
for up to 5 s, so it is never done on an event loop: one thread reads, few wait for it, the others go on with what is
held. Knows no token.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from jwt import PyJWK, PyJWTError

from raystore.errors import ProviderUnreachable

log = logging.getLogger("raystore.serve")

FRESH_S = 300.0
STALE_S = 3600.0
RETRY_S = 10.0
READ_S = 5.0
_MAX_BYTES = 2**20
_MAX_KEYS = 100
_WAITING = 3  # threads that may wait for the one that reads; the door has more, so keys of the store are still looked up
# What a key must be for an algorithm, by `kty` and `crv`. A key that names its own `alg` is for that alone.
_FAMILIES: dict[tuple[str, str | None], tuple[str, ...]] = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
    ("OKP", "Ed448"): ("EdDSA",),
}

Keys = Mapping[tuple[str | None, str], Sequence[PyJWK]]


def parse_keys(text: bytes, algorithms: Sequence[str]) -> Keys:
    """The keys by key id and algorithm; only those that verify signatures of the algorithms. ValueError where it is no JWK set.

    Skipped are symmetric keys, keys for encryption, keys with their private part, and what is damaged.
    """
    found: Any = json.loads(text)
    listed = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise ValueError("no JWK set")
    keys: dict[tuple[str | None, str], list[PyJWK]] = {}
    for each in listed:
        if not isinstance(each, dict) or "d" in each or each.get("use", "sig") != "sig":
            continue
        operations, kid = each.get("key_ops", ["verify"]), each.get("kid")
        if not isinstance(operations, list) or "verify" not in operations:
            continue
        family = _FAMILIES.get((str(each.get("kty")), str(each["crv"]) if "crv" in each else None), ())
        for algorithm in family:
            if algorithm in algorithms and each.get("alg", algorithm) == algorithm:
                try:
                    key = PyJWK(each, algorithm)
                except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
                    continue
                keys.setdefault((kid if isinstance(kid, str) else None, algorithm), []).append(key)
    return keys


@dataclass(frozen=True)
class _Held:
    keys: Keys
    read_at: float


class KeySet:
    """See the head of this file. `read` gives the bytes of the set at `source`, an https address or a file."""

    def __init__(
        self,
        source: str,
        algorithms: Sequence[str],
        *,
        read: Callable[[str], bytes] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._algorithms = tuple(algorithms)
        self._read_bytes = read or read_source
        self._clock = clock
        self._held: _Held | None = None
        self._not_before = float("-inf")
        self._reading = threading.Lock()
        self._room = threading.BoundedSemaphore(_WAITING + 1)

    def find(self, kid: str | None, algorithm: str) -> PyJWK | None:
        """The key of that id, for that algorithm; without an id, the only key there is for it. None where there is none.

        Raises:
            ProviderUnreachable: no keys were read in the last hour, or too many wait for them.
        """
        self.refresh()
        key = self._lookup(kid, algorithm)
        if key is None and kid is not None:  # it may be new
            self._read(wait=True)
            key = self._lookup(kid, algorithm)
        if self._age() >= STALE_S:
            raise ProviderUnreachable
        return key

    def refresh(self) -> None:
        """Read the keys where that is due."""
        age = self._age()
        if age >= FRESH_S:
            self._read(wait=age >= STALE_S)

    def _age(self) -> float:
        held = self._held
        return self._clock() - held.read_at if held is not None else float("inf")

    def _lookup(self, kid: str | None, algorithm: str) -> PyJWK | None:
        held = self._held
        if held is None:
            return None
        if kid is not None:
            return next(iter(held.keys.get((kid, algorithm), ())), None)
        fitting = [key for (_, for_), keys in held.keys.items() if for_ == algorithm for key in keys]
        return fitting[0] if len(fitting) == 1 else None

    def _read(self, *, wait: bool) -> None:
        """One thread reads, at most every RETRY_S; what it could not read is logged by the type of the failure."""
        if self._clock() < self._not_before and not self._reading.locked():
            return
        with self._turn(wait) as mine:
            if not mine or self._clock() < self._not_before:
                return
            self._not_before = self._clock() + RETRY_S
            try:
                keys = parse_keys(self._read_bytes(self._source), self._algorithms)
            except (OSError, httpx.HTTPError, httpx.InvalidURL, ValueError, RecursionError) as error:
                log.warning("the public keys of the identity provider were not read: %s", type(error).__name__)
                return
            if not keys:
                log.warning("the identity provider has no public key for %s", ", ".join(self._algorithms))
            self._held = _Held(keys, self._clock())

    @contextmanager
    def _turn(self, wait: bool) -> Iterator[bool]:
        if not self._room.acquire(blocking=False):
            if wait:
                raise ProviderUnreachable
            yield False
            return
        try:
            mine = self._reading.acquire(blocking=wait)
            try:
                yield mine
            finally:
                if mine:
                    self._reading.release()
        finally:
            self._room.release()


def read_source(source: str) -> bytes:
    """The bytes at an https address or in a file, of a MiB at most. OSError, ValueError or httpx.HTTPError where there are none."""
    if not source.startswith("https://"):
        with Path(source).open("rb") as file:
            return _limited([file.read(_MAX_BYTES + 1)])
    deadline = time.monotonic() + READ_S

    def in_time(parts: Iterator[bytes]) -> Iterator[bytes]:
        for part in parts:
            if time.monotonic() > deadline:  # httpx limits each read, not all of them
                raise TimeoutError
            yield part

    headers = {"accept": "application/json", "accept-encoding": "identity"}
    # A redirect is not followed: it may lead to an address that is not https.
    with (
        httpx.Client(timeout=READ_S, follow_redirects=False) as client,
        client.stream("GET", source, headers=headers) as answer,
    ):
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        return _limited(in_time(answer.iter_raw()))


def _limited(parts: Iterator[bytes] | Sequence[bytes]) -> bytes:
    found = bytearray()
    for part in parts:
        found += part
        if len(found) > _MAX_BYTES:
            raise ValueError("more than a MiB")
    return bytes(found)
