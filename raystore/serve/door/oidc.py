"""Tokens (JWT) of an identity provider: checked against its public keys, their roles turned into verbs.

Only the algorithms of the file are believed, whatever a token says of itself; issuer, audience and times are demanded. A
token is never logged and never in an error: of one that is refused, the type of the reason is. Costs 0.1 ms where
the provider's keys are held. Knows no HTTP.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import jwt

from raystore.access import Principal, Verb, not_valid
from raystore.serve.door.auth import MAX_CREDENTIAL
from raystore.serve.door.jwks import KeySet
from raystore.serve.spec.door import Oidc

log = logging.getLogger("raystore.serve")

_MAX_NAME = 200
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_LATEST = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


class Tokens:
    """The tokens that one service believes.

    Args:
        spec: issuer, audience, algorithms, and what each role may do.
        read: see `KeySet`.
    """

    def __init__(
        self, spec: Oidc, *, read: Callable[[str], bytes] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.spec = spec
        self._keys = KeySet(spec.jwks, spec.algorithms, read=read, clock=clock)

    def warm(self) -> None:
        """Read the provider's keys, so that the first token need not wait; where that fails it is logged, and tried again."""
        self._keys.refresh()

    def principal(self, token: str) -> Principal:
        """Who holds this token, until it expires.

        Raises:
            KeyRequired: it is no token, or one that is not believed; why is not said.
            ProviderUnreachable: the keys to check it with cannot be read.
        """
        if len(token) > MAX_CREDENTIAL or not _COMPACT.fullmatch(token):
            raise not_valid()
        try:
            claims = self._claims(token)
        except jwt.PyJWTError as error:
            log.info("a token was refused: %s", type(error).__name__)
            raise not_valid() from None
        name, expires = claim(claims, self.spec.name), claims["exp"]
        if not _is_name(name) or isinstance(expires, bool) or not isinstance(expires, (int, float)):
            log.info("a token was refused: it names nobody, or its exp is no number")
            raise not_valid()
        return Principal(
            name, self._verbs(claims), kind="token", expires_at=datetime.fromtimestamp(min(expires, _LATEST), UTC)
        )

    def _claims(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in self.spec.algorithms:
            raise jwt.InvalidAlgorithmError
        key = self._keys.find(header.get("kid"), algorithm)
        if key is None:
            raise jwt.InvalidKeyError
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self.spec.audience,
            issuer=self.spec.issuer,
            leeway=self.spec.leeway_s,
            options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
        )
        return claims

    def _verbs(self, claims: Mapping[str, Any]) -> frozenset[Verb]:
        names = roles(claims, self.spec.roles)
        return frozenset(verb for role, verbs in self.spec.verbs.items() if role in names for verb in verbs)


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that name, or, where there is none, the claim inside of claims that it leads to by its dots; None without one."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def roles(claims: Mapping[str, Any], path: str) -> frozenset[str]:
    """The roles in a claim: a text is one role, but in `scope`, where spaces part them (RFC 8693); of a list, its texts.

    Of anything else none, so a claim that is missing or of a wrong type gives no verb.
    """
    found = claim(claims, path)
    if isinstance(found, str):
        return frozenset(found.split(" ") if path.rpartition(".")[2] == "scope" else [found]) - {""}
    return frozenset(each for each in found if isinstance(each, str)) if isinstance(found, list) else frozenset()


def _is_name(found: Any) -> bool:
    """It will stand in logs and audits, so it is one line of bounded length."""
    return isinstance(found, str) and 0 < len(found) <= _MAX_NAME and found.isprintable()
