"""Lets a request in, as somebody, or raises: who asks, may they do this, and have they sent too much?

On loopback everybody is the person at this machine, unless the file names an identity provider. Elsewhere a key of the
store or a token is demanded. What was found valid is believed for at most five seconds, and never past its end, so a
revoked key is dead everywhere within that time. Costs some 5 us for who is known; for others it reads files or the
provider's keys, and blocks. Knows headers and paths, no body.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from raystore.access import LOCAL, NOBODY, ApiKeys, Principal, is_loopback, not_valid
from raystore.errors import KeyRequired, NotAllowed
from raystore.serve.door.rates import Buckets
from raystore.serve.door.routes import PUBLIC, verb_of
from raystore.serve.spec.app import AppSpec

if TYPE_CHECKING:
    from raystore.serve.door.oidc import Tokens

BELIEVED_S = 5.0
MAX_CREDENTIAL = 16_384
_MAX_BELIEVED = 1024
_KEY = "rs."  # what every key of a store begins with, and no token can


class Keys(Protocol):
    """`raystore.access.ApiKeys`, as far as the door needs it."""

    def principal(self, key: str | None) -> Principal: ...


class Door:
    """Asks everyone who comes.

    Args:
        keys: of the store; None: nobody is asked, and everybody is the person at this machine.
        oidc: the tokens that are believed beside the keys.
        rates: what each may send; None counts nothing.
        clock, wall: seconds that only go forward, and those since 1970.
    """

    def __init__(
        self,
        keys: Keys | None,
        *,
        oidc: Tokens | None = None,
        rates: Buckets | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._keys = keys
        self._tokens = oidc
        self._rates = rates
        self._clock = clock
        self._wall = wall
        self._believed: dict[bytes, tuple[float, Principal]] = {}
        self._lock = threading.Lock()

    @property
    def demands_key(self) -> bool:
        return self._keys is not None

    def warm(self) -> None:
        """Read what the first requests would have to wait for. Blocks for some seconds where a provider does not answer."""
        if self._tokens is not None:
            self._tokens.warm()

    def admit(self, path: str, method: str, authorization: str | None) -> Principal:
        """Who asks. It may read files or ask the provider: not for an event loop.

        Raises:
            KeyRequired: no key or token, or one that is not believed (401).
            NotAllowed: it has not the verb of this route (403).
            NoSuchRoute, WrongMethod: there is none, or not by this method (404, 405).
            RateExceeded: too much came from there (429).
            ProviderUnreachable: a token cannot be checked now (503).
        """
        known = self.admit_known(path, method, authorization)
        return known if known is not None else self._let_in(self._ask(_bearer(authorization)), path, method)

    def admit_known(self, path: str, method: str, authorization: str | None) -> Principal | None:
        """As `admit`, but at once: None where somebody has to be asked first."""
        if path in PUBLIC:
            return LOCAL if self._keys is None else NOBODY
        principal = LOCAL if self._keys is None else self._known(_bearer(authorization))
        return self._let_in(principal, path, method) if principal is not None else None

    def debit(self, principal: Principal, n_bytes: int) -> None:
        """Count bytes of the body of a request that was let in."""
        if self._rates is not None:
            self._rates.debit(principal, n_bytes)

    def _let_in(self, principal: Principal, path: str, method: str) -> Principal:
        if self._rates is not None:
            self._rates.take(principal)
        verb = verb_of(method, path)
        if verb is not None and not principal.may(verb):
            kind = "token" if principal.kind == "token" else "key"
            raise NotAllowed(principal=principal.name, verb=verb.value, kind=kind)
        return principal

    def _known(self, credential: str) -> Principal | None:
        with self._lock:
            until, principal = self._believed.get(_digest(credential), (0.0, NOBODY))
        ends = principal.expires_at
        return principal if self._clock() < until and (ends is None or self._wall() < ends.timestamp()) else None

    def _ask(self, credential: str) -> Principal:
        assert self._keys is not None
        now = self._clock()  # before the question, so that no answer is believed longer than it says
        tokens = self._tokens
        holder = tokens if tokens is not None and not credential.startswith(_KEY) else self._keys
        principal = holder.principal(credential)
        with self._lock:
            if len(self._believed) >= _MAX_BELIEVED:
                self._believed = {digest: (until, who) for digest, (until, who) in self._believed.items() if now < until}
            if len(self._believed) < _MAX_BELIEVED:  # else the others are asked each time
                self._believed[_digest(credential)] = (now + BELIEVED_S, principal)
        return principal


def door_of(spec: AppSpec, keys: ApiKeys, *, share: float = 1.0) -> Door:
    """The door at the spec's address.

    Args:
        share: this replica's part of the rates, 1 / replicas.

    Raises:
        KeyRequired: other machines reach the address, and nobody could come in: no valid key, and no identity provider.
    """
    rates = Buckets(spec.rates, share=share)
    tokens = None
    if spec.oidc is not None:
        from raystore.serve.door.oidc import Tokens  # PyJWT and cryptography take 0.1 s, which most services need not spend

        tokens = Tokens(spec.oidc)
    if tokens is None and is_loopback(spec.host):
        return Door(None, rates=rates)
    if tokens is None and not keys.names():
        raise KeyRequired(reason=f"{spec.host} can be reached from other machines, and this store has no key yet")
    return Door(keys, oidc=tokens, rates=rates)


def _bearer(authorization: str | None) -> str:
    """The KEY in 'Bearer KEY'. Raises KeyRequired without the header, on another scheme, and where it is too long."""
    if not authorization:
        raise KeyRequired(reason="the request carries none")
    scheme, _, credential = authorization.partition(" ")
    credential = credential.strip(" ")
    if scheme.lower() != "bearer" or not credential:
        raise KeyRequired(reason="the Authorization header is no 'Bearer KEY'")
    if len(credential) > MAX_CREDENTIAL:
        raise not_valid()
    return credential


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()
