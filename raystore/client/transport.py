"""What the blocking and the asynchronous client share of httpx: settings, an attempt's arguments, what a failure is called.

An httpx exception holds its request, and that the content. So none is chained to what a caller sees: it is caught here, said
by its class, and forgotten before anything is raised.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from raystore.client.flow import Broken, Call, Send
from raystore.errors import InvalidArguments

CONNECT_S = 5.0  # an address that does not answer is tried again rather than waited for
FAILURES = (httpx.TransportError, httpx.DecodingError, httpx.InvalidURL, httpx.StreamError)
_SAID: tuple[tuple[type[Exception], str], ...] = (
    (httpx.ConnectTimeout, "connecting took too long"),
    (httpx.ConnectError, "the connection could not be made"),
    (httpx.PoolTimeout, "all connections of this client stayed in use"),
    (httpx.TimeoutException, "the time was up"),
    (httpx.NetworkError, "the connection broke"),
    (httpx.RemoteProtocolError, "the connection ended before the answer"),
)


@dataclass(frozen=True, repr=False)
class Address:
    """Where the service is and who asks; the key is shown nowhere."""

    url: str
    key: str | None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url if isinstance(self.url, str) else "")
        problems = []
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            problems.append("the address begins with http:// or https:// and names a host, like http://127.0.0.1:8000")
        if parts.username or parts.password:
            problems.append("a key is given as key=, not within the address")
        if self.key is not None and not (
            isinstance(self.key, str) and self.key.isascii() and self.key.isprintable() and self.key
        ):
            problems.append("key= is no key")
        if problems:
            raise InvalidArguments(call="Client", problems=problems)

    @property
    def base(self) -> str:
        return self.url.rstrip("/")

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}


def settings(connections: int, verify: ssl.SSLContext | bool) -> dict[str, Any]:
    """Of an httpx client: no proxies or keys from the environment, no redirects, which would carry content elsewhere."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    verify = _certificates() if verify is True else verify
    return {"trust_env": False, "follow_redirects": False, "limits": limits, "verify": verify, "timeout": None}


@cache
def _certificates() -> ssl.SSLContext:
    """Those that httpx trusts; reading them takes 50 ms."""
    return httpx.create_ssl_context(trust_env=False)


def arguments(address: Address, call: Call[Any], send: Send) -> dict[str, Any]:
    """Of one attempt, as `httpx.Client.build_request` takes them."""
    headers = {**address.headers, **send.headers, "accept": "application/json"}
    if call.body is not None:
        headers["content-type"] = call.content_type
    return {
        "method": call.method,
        "url": address.base + call.path,
        "params": dict(call.params) or None,
        "content": call.body,
        "headers": headers,
        "timeout": httpx.Timeout(send.timeout_s, connect=min(CONNECT_S, send.timeout_s)),
    }


def broken(error: Exception) -> Broken:
    said = next((said for kind, said in _SAID if isinstance(error, kind)), "the connection failed")
    return Broken(f"{said} ({type(error).__name__})")
