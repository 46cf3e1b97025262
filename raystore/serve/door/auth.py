"""Lets a request in, as somebody, or raises: who asks, may they do this, and have they sent too much?

On loopback everybody is the person at this machine, unless the file names an identity provider. Elsewhere a key of the
store or a token is demanded. What was found valid is believed for at most five seconds, and never past its end, so a
revoked key is dead everywhere within that time. Costs some 5 us for who is known; for others it reads files or the
provider's keys, and blocks. Knows headers and paths, no body.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Protocol

from raystore.access import LOCAL, NOBODY, ApiKeys, Principal, Rates, Verb, is_loopback, not_valid
from raystore.errors import KeyRequired
from raystore.serve.door.rates import Buckets
from raystore.serve.door.routes import PUBLIC, is_counted, verb_of
from raystore.serve.spec.app import AppSpec

if TYPE_CHECKING:
    from raystore.serve.door.oidc import Tokens

BELIEVED_S = 5.0
MAX_CREDENTIAL = 16_384
_MAX_BELIEVED = 1024
# Threads that look up keys and tokens that are not known yet. Apart from those that encode, so that neither waits for the other.
_ASKING = 8
_KEY = "rs."  # what every key of a store begins with, and no token can


class Keys(Protocol):
    """`raystore.access.ApiKeys`, as far as the door needs it."""

    def principal(self, key: str | None) -> Principal: ...


def check_evidence(principal: Principal, evidence: int) -> None:
    """NotAllowed of who asks for evidence and may not search: it names rows of a collection, as a search does."""
    if evidence:
        principal.require(Verb.SEARCH)


class Door:
    """Asks everyone who comes. One for HTTP and gRPC, for as long as the process lives: see `change`.

    Args:
        keys: of the store; None: nobody is asked, and everybody is the person at this machine.
        oidc: the tokens that are believed beside the keys.
        rates: what each may send; without, everything.
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
        self._rates = rates if rates is not None else Buckets()
        self._clock = clock
        self._wall = wall
        self._believed: dict[bytes, tuple[float, Principal]] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_ASKING, thread_name_prefix="raystore-door")

    @property
    def demands_key(self) -> bool:
        return self._keys is not None

    @property
    def tokens(self) -> Tokens | None:
        return self._tokens

    def change(self, keys: Keys | None, tokens: Tokens | None, rates: Rates, share: float) -> None:
        """Other rules from now on, for streams that are open too. What was counted stays; so does who was believed, where tokens are
        still those of the same provider."""
        with self._lock:
            if tokens is not self._tokens or (keys is None) != (self._keys is None):
                self._believed = {}
            self._keys, self._tokens = keys, tokens
        self._rates.change(rates, share)

    def warm(self) -> None:
        """Read what the first requests would have to wait for. Blocks for some seconds where a provider does not answer."""
        if self._tokens is not None:
            self._tokens.warm()

    async def let_in(self, path: str, method: str, authorization: str | None, *, counted: bool = True) -> Principal:
        """As `admit`, for an event loop: who is known is let in at once; for others files or a provider are asked, in a thread."""
        known = self.admit_known(path, method, authorization, counted=counted)
        if known is not None:
            return known
        ask = partial(self.admit, path, method, authorization, counted=counted)
        return await asyncio.get_running_loop().run_in_executor(self._threads, ask)

    def admit(self, path: str, method: str, authorization: str | None, *, counted: bool = True) -> Principal:
        """Who asks. It may read files or ask the provider: not for an event loop. `counted`: as a request, by its rate.

        Raises:
            KeyRequired: no key or token, or one that is not believed (401).
            NotAllowed: it has not the verb of this route (403).
            NoSuchRoute, WrongMethod: there is none, or not by this method (404, 405).
            RateExceeded: too much came from there (429).
            ProviderUnreachable: a token cannot be checked now (503).
        """
        known = self.admit_known(path, method, authorization, counted=counted)
        return known if known is not None else self._let_in(self._ask(_bearer(authorization)), path, method, counted)

    def admit_known(self, path: str, method: str, authorization: str | None, *, counted: bool = True) -> Principal | None:
        """As `admit`, but at once: None where somebody has to be asked first."""
        if path in PUBLIC:
            return LOCAL if self._keys is None else NOBODY
        principal = LOCAL if self._keys is None else self._known(_bearer(authorization))
        return self._let_in(principal, path, method, counted) if principal is not None else None

    def debit(self, principal: Principal, n_bytes: int) -> None:
        """Count bytes of the body of a request that was let in."""
        self._rates.debit(principal, n_bytes)

    def _let_in(self, principal: Principal, path: str, method: str, counted: bool) -> Principal:
        if counted and is_counted(path):
            self._rates.take(principal)
        verb = verb_of(method, path)
        if verb is not None:
            principal.require(verb)
        return principal

    def _known(self, credential: str) -> Principal | None:
        with self._lock:
            until, principal = self._believed.get(_digest(credential), (0.0, NOBODY))
        ends = principal.expires_at
        return principal if self._clock() < until and (ends is None or self._wall() < ends.timestamp()) else None

    def _ask(self, credential: str) -> Principal:
        now = self._clock()  # before the question, so that no answer is believed longer than it says
        with self._lock:
            keys, tokens = self._keys, self._tokens
        if keys is None:  # the door was opened meanwhile
            return LOCAL
        holder = tokens if tokens is not None and not credential.startswith(_KEY) else keys
        principal = holder.principal(credential)
        with self._lock:
            if len(self._believed) >= _MAX_BELIEVED:
                self._believed = {digest: (until, who) for digest, (until, who) in self._believed.items() if now < until}
            # Else the others are asked each time; and what another provider said, before a change, is not believed after it.
            if len(self._believed) < _MAX_BELIEVED and tokens is self._tokens:
                self._believed[_digest(credential)] = (now + BELIEVED_S, principal)
        return principal


def door_of(spec: AppSpec, keys: ApiKeys, *, share: float = 1.0, before: Door | None = None) -> Door:
    """The door at the spec's address.

    Args:
        share: this replica's part of the rates, 1 / replicas.
        before: the door of the earlier spec, which is changed where it stands.

    Raises:
        KeyRequired: other machines reach the address, and nobody could come in: no valid key, and no identity provider.
    """
    tokens = None
    if spec.oidc is not None:
        from raystore.serve.door.oidc import Tokens  # PyJWT and cryptography take 0.1 s, which most services need not spend

        held = before.tokens if before is not None else None
        tokens = held if held is not None and held.spec == spec.oidc else Tokens(spec.oidc)
    demanded = tokens is not None or not is_loopback(spec.host)
    closed = before is not None and before.demands_key  # it goes on, whatever became of its keys
    if demanded and tokens is None and not closed and not keys.names():
        raise KeyRequired(reason=f"{spec.host} can be reached from other machines, and this store has no key yet")
    door = before if before is not None else Door(None)
    door.change(keys if demanded else None, tokens, spec.rates, share)
    return door


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
