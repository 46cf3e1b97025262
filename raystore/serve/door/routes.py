"""Every route there is, and the verb it asks for. What does not stand here is not let in.

Compared is the path as the router sees it, percent-decoded once; of a segment that is empty, '.' or '..', or has a
control character, there is no route. (The router alone would take '/v1/sql%0A' for '/v1/sql'.)
"""

from __future__ import annotations

import re
from typing import NamedTuple

from raystore.access import Verb
from raystore.errors import NoSuchRoute, WrongMethod

# Of the service, not of what it holds: nobody is asked who he is. They are GET, and the application answers other methods.
PUBLIC = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})

_SEGMENT = r"(?!\.{1,2}(?:/|\Z))[^/\x00-\x1f\x7f]+"


# Not counted by anyone's rate: watching must not fail just when there is much to see.
_UNCOUNTED = frozenset({"/metrics"})


class Route(NamedTuple):
    method: str
    pattern: re.Pattern[str]
    verb: Verb | None
    template: str


def _route(method: str, path: str, verb: Verb | None) -> Route:
    """`{name}` is one segment."""
    parts = re.split(r"(\{[a-z]+\})", path)
    named = (f"(?P<{part[1:-1]}>{_SEGMENT})" if part.startswith("{") else re.escape(part) for part in parts)
    return Route(method, re.compile("".join(named)), verb, path)


# The first that matches counts. None: any valid key or token.
ROUTES: tuple[Route, ...] = (
    _route("POST", "/v1/predict/{deployment}", Verb.PREDICT),
    _route("POST", "/v1/predict/{deployment}/stream", Verb.PREDICT),
    _route("POST", "/v1/embeddings", Verb.PREDICT),
    _route("GET", "/v1/models", Verb.PREDICT),
    _route("GET", "/v1/models/{model}", Verb.PREDICT),
    _route("POST", "/v1/collections/{collection}/log", Verb.LOG),
    _route("POST", "/v1/collections/{collection}/search", Verb.SEARCH),
    _route("POST", "/v1/sql", Verb.SQL),
    _route("GET", "/v1/status", Verb.PREDICT),
    _route("GET", "/v1/deployments", Verb.PREDICT),
    _route("GET", "/v1/deployments/{deployment}", Verb.PREDICT),
    _route("POST", "/v1/deployments/{deployment}/promote", Verb.DEPLOY),
    _route("POST", "/v1/deployments/{deployment}/rollback", Verb.DEPLOY),
    _route("GET", "/v1/shadow/{deployment}", Verb.DEPLOY),
    _route("GET", "/v1/review/{deployment}", Verb.LABEL),
    _route("POST", "/v1/review/{deployment}", Verb.LABEL),
    _route("POST", "/v1/review/{deployment}/claim", Verb.LABEL),
    _route("POST", "/v1/review/{deployment}/release", Verb.LABEL),
    _route("GET", "/metrics", None),
)


def verb_of(method: str, path: str) -> Verb | None:
    """What a route asks for; None: no more than a valid key or token.

    Raises:
        NoSuchRoute: the path is none (404).
        WrongMethod: the path takes others (405).
    """
    allowed = []
    for route in ROUTES:
        if route.pattern.fullmatch(path):
            if route.method == method:
                return route.verb
            allowed.append(route.method)
    if allowed:
        raise WrongMethod(allowed=allowed)
    raise NoSuchRoute


def is_counted(path: str) -> bool:
    """Whether a request there counts in its sender's rate."""
    return path not in _UNCOUNTED


def template_of(method: str, path: str) -> tuple[str, str]:
    """The route's template, and the deployment that the path names; 'unmatched' and '' where there is no such route. For requests that
    the door refused: no router saw them."""
    if path in PUBLIC:
        return path, ""
    for route in ROUTES:
        if route.method == method and (found := route.pattern.fullmatch(path)):
            return route.template, found.groupdict().get("deployment", "")
    return "unmatched", ""
