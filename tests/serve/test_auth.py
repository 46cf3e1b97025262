"""The door: who comes in by which route, what is believed for how long, and what stands in every answer."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Route
from starlette.testclient import TestClient
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from raystore.access import LOCAL, NOBODY, ApiKeys, Principal, Rates, Sizes, Verb
from raystore.errors import KeyRequired, NoSuchRoute, NotAllowed, RateExceeded, WrongMethod
from raystore.layout import Layout
from raystore.serve.door.admission import Admission
from raystore.serve.door.auth import BELIEVED_S, Door, door_of
from raystore.serve.door.bodies import Bodies
from raystore.serve.door.middleware import KeyCheck, LastResort, principal_of, request_id
from raystore.serve.door.oidc import Tokens
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.door.rates import Buckets
from raystore.serve.door.routes import PUBLIC, ROUTES, verb_of
from raystore.serve.http.app import make_app
from raystore.serve.http.operate import _reviewer
from raystore.serve.spec.app import AppSpec, Limits
from raystore.serve.spec.read import parse_spec
from raystore.serve.watch.finished import Finished
from tests.serve.serving import running
from tests.serve.test_oidc import Provider, public, signed, spec

PUBLIC_SPEC = AppSpec(host="0.0.0.0")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(Layout(tmp_path), b"k" * 32)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


# Routes.


@pytest.mark.parametrize(
    ("method", "path", "verb"),
    [
        ("POST", "/v1/predict/triage", Verb.PREDICT), ("POST", "/v1/predict/triage/stream", Verb.PREDICT),
        ("POST", "/v1/embeddings", Verb.PREDICT), ("GET", "/v1/models", Verb.PREDICT), ("GET", "/v1/models/minilm@5f3c", Verb.PREDICT),
        ("POST", "/v1/collections/tickets/log", Verb.LOG), ("POST", "/v1/collections/tickets/search", Verb.SEARCH),
        ("POST", "/v1/sql", Verb.SQL), ("GET", "/v1/status", Verb.PREDICT),
        ("GET", "/v1/deployments", Verb.PREDICT), ("GET", "/v1/deployments/triage", Verb.PREDICT),
        ("POST", "/v1/deployments/triage/promote", Verb.DEPLOY), ("POST", "/v1/deployments/triage/rollback", Verb.DEPLOY),
        ("GET", "/v1/shadow/triage", Verb.DEPLOY), ("GET", "/v1/review/triage", Verb.LABEL),
        ("POST", "/v1/review/triage", Verb.LABEL), ("POST", "/v1/review/triage/claim", Verb.LABEL), ("GET", "/metrics", None),
        ("POST", "/v1/predict/...", Verb.PREDICT), ("GET", "/v1/models/a name %2F", Verb.PREDICT),
    ],
)  # fmt: skip
def test_a_route_asks_for_its_verb(method: str, path: str, verb: Verb | None) -> None:
    assert verb_of(method, path) is verb


@pytest.mark.parametrize(
    "path",
    [
        "/v1", "/v1/", "/v1/nothing", "/v1/sql/", "/v1//sql", "//v1/sql", "/v1/sql//", "/V1/sql", "/v1/SQL", "/v1/sql\n", "/v1/sql\r",
        "/v1/sql\0", "/v1/./sql", "/v1/../v1/sql", "/v1/x/../sql", "/v1/sql/..", "/v1/sql;a=b", "/v1/sql?x", "/v1/sql#x", "/v1/sql%0a",
        "/v1%2Fsql", "v1/sql", "", "/", "/v1/predict/", "/v1/predict/a/", "/v1/predict//stream", "/v1/predict/a/stream/",
        "/v1/predict/a/b",
        "/v1/predict/a\n", "/v1/predict/..", "/v1/predict/.", "/v1/predict/../sql", "/v1/deployments/", "/v1/deployments//promote",
        "/v1/deployments/a//b", "/v1/deployments/a/../b", "/v1/deployments/a/b/..", "/v1/deployments/../sql", "/v1/collections/log",
        "/v1/deployments/a/versions", "/v1/deployments/a/b/c",
        "/v1/collections/a/b/log", "/v1/models/a/b", "/v2/sql", "/metrics/", "/METRICS", "/healthz/", "/docs/", "/openapi.json/",
        "/redoc",
        "/v1/sql\u2028", "/v1/\uff53ql", "/v1/predict/a\x7f", "\n/v1/sql",
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_route_is_not_let_in_whoever_asks(path: str) -> None:
    for method in ("GET", "POST", "PUT", "HEAD", "OPTIONS"):
        with pytest.raises(NoSuchRoute):
            Door(None).admit(path, method, None)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PATCH", "DELETE", "TRACE", "CONNECT", "GET", "post", "POST ", ""])
def test_a_route_takes_its_own_methods_alone(method: str) -> None:
    with pytest.raises(WrongMethod) as refused:
        Door(None).admit("/v1/sql", method, None)
    assert str(refused.value) == "this route takes POST."
    with pytest.raises(WrongMethod) as refused:
        Door(None).admit("/v1/review/triage", "DELETE", None)
    assert str(refused.value) == "this route takes GET or POST."


def _router() -> list[Route]:
    """Starlette's own routes for every template of the table, by a template's name."""
    source = Path(verb_of.__code__.co_filename).read_text(encoding="utf-8")
    found = re.findall(r'_route\("(\w+)", "([^"]+)"', source)
    assert len(found) == len(ROUTES)
    assert [(route.method, route.template) for route in ROUTES] == found
    routes = [Route(path, lambda _: None, methods=[m], name=str(i)) for i, (m, path) in enumerate(found)]
    return [*routes, *(Route(path, lambda _: None, name="public") for path in sorted(PUBLIC))]


ROUTER = _router()
pieces = st.sampled_from(
    [
        "v1",
        "predict",
        "sql",
        "deployments",
        "review",
        "claim",
        "promote",
        "metrics",
        "models",
        "a",
        ".",
        "..",
        "",
        "\n",
        "%2F",
        "A",
        "é",
        "log",
    ]
)
paths = (
    st.lists(pieces, max_size=6).map("/".join)
    | st.lists(pieces, max_size=6).map(lambda p: "/" + "/".join(p))
    | st.text(max_size=12)
)


@given(path=paths, method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"]))
def test_whatever_the_router_would_answer_the_door_asks_for_that_routes_verb_or_refuses(path: str, method: str) -> None:
    scope = {"type": "http", "path": path, "root_path": "", "method": method, "headers": []}
    answering = next((route for route in ROUTER if route.matches(scope)[0] is Match.FULL), None)
    try:
        verb = verb_of(method, path)
    except (NoSuchRoute, WrongMethod):
        return
    assert answering is not None, "it is let in, and there is no route"
    assert verb is ROUTES[int(answering.name)][2]


def test_every_route_of_the_application_stands_in_the_table() -> None:
    paths = make_app(lambda: None, AppSpec()).openapi()["paths"]
    assert len(paths) > 8
    for path, methods in paths.items():
        for method in methods:
            if path not in PUBLIC:
                verb_of(method.upper(), path.replace("{", "").replace("}", ""))


def test_the_security_page_names_every_verb_and_its_examples_are_read() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    assert [verb for verb in Verb if f"`{verb}`" not in page] == []
    examples = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    together: dict[str, Any] = {}
    for example in examples:
        together |= yaml.safe_load(example)
    assert {"oidc", "rates", "tls", "host"} <= set(parse_spec(together, "serve").model_fields_set)


# Who comes in.


def test_on_loopback_everybody_is_the_person_at_this_machine() -> None:
    door = door_of(AppSpec(), _no_keys())
    assert not door.demands_key
    assert door.admit("/v1/sql", "POST", None) is LOCAL
    assert door.admit("/v1/sql", "POST", "Bearer anything") is LOCAL
    assert door.admit("/healthz", "GET", "nonsense") is LOCAL


def _no_keys() -> Any:
    """Fails where it is asked."""
    return None


def test_elsewhere_a_key_is_demanded_but_for_what_says_nothing_of_the_store(keys: ApiKeys) -> None:
    key = keys.create("searcher", [Verb.SEARCH])
    door = door_of(PUBLIC_SPEC, keys)
    assert door.demands_key
    assert door.admit("/v1/collections/tickets/search", "POST", f"Bearer {key}").name == "searcher"
    assert door.admit("/metrics", "GET", f"bearer  {key} ").name == "searcher"
    for path in PUBLIC:
        assert door.admit(path, "GET", None) is NOBODY
    for path in ("/v1/collections/tickets/search", "/metrics", "/v1/nothing", "/nothing", "/healthz/"):
        for sent in (
            None,
            "",
            "Bearer",
            "Bearer ",
            "Bearer rs.searcher.x",
            f"Basic {key}",
            key,
            f"Bearer {key}, Bearer {key}",
            f"Bearer {key}x",
        ):
            with pytest.raises(KeyRequired):
                door.admit(path, "POST", sent)
    with pytest.raises(NotAllowed) as refused:
        door.admit("/v1/predict/triage", "POST", f"Bearer {key}")
    assert str(refused.value) == "key 'searcher' lacks the verb 'predict'. Ask for a key that has it."
    with pytest.raises(NoSuchRoute):
        door.admit("/v1/nothing", "POST", f"Bearer {key}")


def test_a_credential_that_is_too_long_is_refused_unread(keys: ApiKeys) -> None:
    with pytest.raises(KeyRequired, match="the one that was sent is not valid here"):
        door_of(PUBLIC_SPEC, _with_one(keys)).admit("/v1/sql", "POST", "Bearer rs.a." + "x" * 20_000)


def _with_one(keys: ApiKeys) -> ApiKeys:
    keys.create("one")
    return keys


def test_every_verb_opens_its_routes_and_no_other(keys: ApiKeys) -> None:
    door = door_of(PUBLIC_SPEC, _with_one(keys))
    for verb in Verb:
        key = keys.create("only", [verb])
        for route in ROUTES:
            path, method = re.sub(r"\{\w+\}", "x", route.template), route.method
            assert route.pattern.fullmatch(path), path
            if route.verb in (verb, None):
                assert door.admit(path, method, f"Bearer {key}").name == "only"
            else:
                with pytest.raises(NotAllowed):
                    door.admit(path, method, f"Bearer {key}")


def test_a_public_address_is_refused_while_nobody_could_come_in(keys: ApiKeys, tmp_path: Path) -> None:
    keys.create("late", expires_at=datetime.now(UTC) + timedelta(days=1))
    keys.create("gone")
    keys.revoke("gone")
    later = ApiKeys(Layout(tmp_path), b"k" * 32, lambda: datetime.now(UTC) + timedelta(days=2))
    with pytest.raises(KeyRequired, match=r"0\.0\.0\.0 can be reached from other machines, and this store has no key yet"):
        door_of(PUBLIC_SPEC, later)
    with_provider = AppSpec(host="0.0.0.0", oidc=spec())
    assert door_of(with_provider, later).demands_key


def test_an_identity_provider_closes_loopback_too(keys: ApiKeys) -> None:
    door = door_of(AppSpec(oidc=spec()), keys)
    assert door.demands_key
    with pytest.raises(KeyRequired):
        door.admit("/v1/sql", "POST", None)


# Beliefs.


def test_a_revoked_key_is_dead_within_five_seconds(keys: ApiKeys) -> None:
    clock = Clock()
    door = Door(keys, clock=clock)
    key = keys.create("leaving")
    assert door.admit("/v1/embeddings", "POST", f"Bearer {key}").name == "leaving"
    keys.revoke("leaving")
    clock.now += BELIEVED_S - 0.01
    assert door.admit("/v1/embeddings", "POST", f"Bearer {key}").name == "leaving"
    clock.now += 0.01
    with pytest.raises(KeyRequired):
        door.admit("/v1/embeddings", "POST", f"Bearer {key}")
    assert BELIEVED_S <= 5


def test_who_is_known_is_let_in_at_once_and_others_are_left_to_a_thread(keys: ApiKeys) -> None:
    clock = Clock()
    door = Door(keys, clock=clock)
    asked = ("/v1/embeddings", "POST", f"Bearer {keys.create('one')}")
    assert door.admit_known(*asked) is None
    assert door.admit(*asked).name == "one"
    known = door.admit_known(*asked)
    assert known is not None
    assert known.name == "one"
    clock.now += BELIEVED_S
    assert door.admit_known(*asked) is None


def test_a_key_is_not_believed_past_its_end(keys: ApiKeys) -> None:
    clock, wall, end = Clock(), Clock(), datetime.now(UTC) + timedelta(days=1)
    wall.now = end.timestamp() - 2
    door = Door(keys, clock=clock, wall=wall)
    asked = ("/v1/embeddings", "POST", f"Bearer {keys.create('one', expires_at=end)}")
    door.admit(*asked)
    wall.now += 1
    assert door.admit_known(*asked) is not None
    wall.now += 1
    assert door.admit_known(*asked) is None


def test_what_is_not_valid_is_asked_each_time_and_not_kept() -> None:
    class Asked:
        """Counts, and knows nobody."""

        n = 0

        def principal(self, key: str | None) -> Principal:
            self.n += 1
            raise KeyRequired(reason="no")

    door, asked = Door(keys := Asked()), ("/v1/sql", "POST", "Bearer rs.a.b")
    for _ in range(3):
        assert door.admit_known(*asked) is None
        with pytest.raises(KeyRequired):
            door.admit(*asked)
    assert keys.n == 3


def test_more_keys_than_are_kept_are_let_in_all_the_same() -> None:
    class Any_:
        """Knows everybody."""

        def principal(self, key: str | None) -> Principal:
            return Principal(str(key), frozenset(Verb))

    clock = Clock()
    door = Door(Any_(), clock=clock)
    for i in range(2_000):
        assert door.admit("/v1/sql", "POST", f"Bearer k{i}").name == f"k{i}"
    assert sum(door.admit_known("/v1/sql", "POST", f"Bearer k{i}") is not None for i in range(2_000)) == 1024
    clock.now += BELIEVED_S
    door.admit("/v1/sql", "POST", "Bearer new")
    assert door.admit_known("/v1/sql", "POST", "Bearer new") is not None


# Tokens.

KEY = rsa.generate_private_key(65537, 2048)


@pytest.fixture
def provider() -> Provider:
    return Provider(public(KEY, "one"))


def test_a_token_comes_in_by_its_roles_and_keys_still_do(keys: ApiKeys, provider: Provider) -> None:
    door = Door(keys, oidc=Tokens(spec(), read=provider))
    door.warm()
    assert provider.asked == 1
    token = f"Bearer {signed(KEY)}"
    assert door.admit("/v1/predict/triage", "POST", token).kind == "token"
    with pytest.raises(NotAllowed) as refused:
        door.admit("/v1/sql", "POST", token)
    assert str(refused.value) == "token 'anna' lacks the verb 'sql'. Ask for a token that has it."
    assert door.admit("/v1/sql", "POST", f"Bearer {keys.create('analyst', [Verb.SQL])}").kind == "key"
    without = Door(keys)
    with pytest.raises(KeyRequired):
        without.admit("/v1/predict/triage", "POST", token)


def test_a_token_is_believed_for_five_seconds_and_never_past_its_end(keys: ApiKeys, provider: Provider) -> None:
    clock, wall = Clock(), Clock()
    wall.now = time.time()
    door = Door(keys, oidc=Tokens(spec(), read=provider), clock=clock, wall=wall)
    asked = ("/v1/predict/triage", "POST", f"Bearer {signed(KEY, exp=int(wall.now) + 2)}")
    door.admit(*asked)
    assert door.admit_known(*asked) is not None
    wall.now += 2
    assert door.admit_known(*asked) is None
    asked = ("/v1/predict/triage", "POST", f"Bearer {signed(KEY)}")
    door.admit(*asked)
    clock.now += BELIEVED_S
    assert door.admit_known(*asked) is None


# Rates.


def test_each_key_has_its_rate_and_a_request_that_is_refused_otherwise_counts_too(keys: ApiKeys) -> None:
    clock = Clock()
    door = Door(keys, rates=Buckets(Rates(requests_per_s=1, burst=3), clock=clock), clock=clock)
    one, two = (f"Bearer {keys.create(name, [Verb.SQL])}" for name in ("one", "two"))
    door.admit("/v1/sql", "POST", one)
    with pytest.raises(NotAllowed):
        door.admit("/v1/predict/triage", "POST", one)
    with pytest.raises(NoSuchRoute):
        door.admit("/v1/nothing", "POST", one)
    with pytest.raises(RateExceeded):
        door.admit("/v1/sql", "POST", one)
    door.admit("/v1/sql", "POST", two)
    for _ in range(10):
        door.admit("/healthz", "GET", one)


def test_on_loopback_all_share_one_account() -> None:
    door = door_of(AppSpec(rates=Rates(requests_per_s=0.001, burst=2)), _no_keys())
    door.admit("/v1/sql", "POST", "Bearer a")
    door.admit("/v1/sql", "POST", "Bearer b")
    with pytest.raises(RateExceeded):
        door.admit("/v1/sql", "POST", "Bearer c")


def test_an_open_stream_asks_again_uncounted(keys: ApiKeys) -> None:
    clock = Clock()
    door = Door(keys, rates=Buckets(Rates(requests_per_s=1, burst=1), clock=clock), clock=clock)
    asked = ("/v1/predict/triage/stream", "POST", f"Bearer {keys.create('feed', [Verb.PREDICT])}")
    door.admit(*asked)
    for _ in range(10):
        assert asyncio.run(door.let_in(*asked, counted=False)).name == "feed"
    with pytest.raises(RateExceeded):
        asyncio.run(door.let_in(*asked))
    keys.revoke("feed")
    clock.now += BELIEVED_S
    with pytest.raises(KeyRequired):
        asyncio.run(door.let_in(*asked, counted=False))


# One door for the life of a process.


def test_a_change_of_what_is_deployed_gives_nobody_a_new_allowance(keys: ApiKeys) -> None:
    served = AppSpec(host="0.0.0.0", rates=Rates(requests_per_s=0.001, burst=2))
    asked = ("/v1/sql", "POST", f"Bearer {keys.create('analyst', [Verb.SQL])}")
    door = door_of(served, keys, share=0.5)
    door.admit(*asked)
    for again in (served, served.model_copy(update={"collections": ["tickets"]})):
        assert door_of(again, keys, share=0.5, before=door) is door
        with pytest.raises(RateExceeded):
            door.admit(*asked)


def test_changed_rates_hold_from_then_on_and_those_of_a_key_stay_counted(keys: ApiKeys) -> None:
    own = f"Bearer {keys.create('own', [Verb.SQL], rates=Rates(requests_per_s=0.001, burst=1))}"
    plain = f"Bearer {keys.create('plain', [Verb.SQL])}"
    door = door_of(PUBLIC_SPEC, keys)
    for sent in (own, plain, plain, plain):
        door.admit("/v1/sql", "POST", sent)
    door_of(AppSpec(host="0.0.0.0", rates=Rates(requests_per_s=0.001, burst=1)), keys, before=door)
    with pytest.raises(RateExceeded):
        door.admit("/v1/sql", "POST", own)
    door.admit("/v1/sql", "POST", plain)
    with pytest.raises(RateExceeded):
        door.admit("/v1/sql", "POST", plain)


def test_a_change_keeps_the_providers_keys_unless_it_is_of_the_provider(keys: ApiKeys, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public(KEY, "one")]}))
    served = AppSpec(oidc=spec(jwks=str(tmp_path / "keys.json")))
    asked = ("/v1/predict/triage", "POST", f"Bearer {signed(KEY)}")
    door = door_of(served, keys)
    door.warm()
    (tmp_path / "keys.json").unlink()
    door_of(served.model_copy(update={"collections": ["tickets"]}), keys, before=door)
    assert door.admit(*asked).kind == "token"
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public(KEY, "one")]}))
    door_of(AppSpec(oidc=spec(jwks=str(tmp_path / "keys.json"), verbs={"asker": ["search"]})), keys, before=door)
    with pytest.raises(NotAllowed):
        door.admit(*asked)


def test_a_service_whose_keys_were_all_revoked_takes_up_changes_and_lets_nobody_in(keys: ApiKeys) -> None:
    key = keys.create("only", [Verb.SQL])
    door = door_of(PUBLIC_SPEC, keys)
    keys.revoke("only")
    assert door_of(PUBLIC_SPEC, keys, before=door) is door
    with pytest.raises(KeyRequired):
        door.admit("/v1/sql", "POST", f"Bearer {key}")


# As middleware.


def app_behind(door: Door, *, tls: bool = False, max_bytes: int = 10_000) -> Any:
    """An application that answers with what the middlewares left for it."""

    async def echo(request: Request) -> Response:
        body = await request.body()
        who = principal_of(request.scope)
        return JSONResponse(
            {"name": who.name, "kind": who.kind, "size": len(body), "request_id": request_id(request.scope)}
        )

    routed = Starlette(
        routes=[Route("/v1/sql", echo, methods=["POST"]), Route("/healthz", echo), Route("/v1/models/{m}", echo)]
    )
    return LastResort(KeyCheck(Bodies(routed, Admission(Limits(max_body_bytes=max_bytes))), door), tls=tls)


def test_the_principal_stands_in_the_scope(keys: ApiKeys) -> None:
    client = TestClient(app_behind(Door(keys)))
    answer = client.post("/v1/sql", headers=bearer(keys.create("analyst", [Verb.SQL])), content=b"12345").json()
    assert (answer["name"], answer["kind"], answer["size"]) == ("analyst", "key", 5)
    assert client.get("/healthz").json()["name"] == "nobody"
    assert TestClient(app_behind(Door(None))).post("/v1/sql").json()["name"] == "local"


@pytest.mark.parametrize(
    ("method", "path", "status", "message", "headers"),
    [
        ("POST", "/v1/nothing", 404, "there is no such route. GET /openapi.json lists them.", {}),
        ("POST", "/v1/sql/", 404, "there is no such route. GET /openapi.json lists them.", {}),
        ("POST", "/v1/sql%0A", 404, "there is no such route. GET /openapi.json lists them.", {}),
        ("POST", "/v1/x/%2E%2E/sql", 404, "there is no such route. GET /openapi.json lists them.", {}),
        ("POST", "/v1//sql", 404, "there is no such route. GET /openapi.json lists them.", {}),
        ("POST", "/V1/SQL", 404, "there is no such route. GET /openapi.json lists them.", {}),
        ("GET", "/v1/sql", 405, "this route takes POST.", {"allow": "POST"}),
        ("OPTIONS", "/v1/sql", 405, "this route takes POST.", {"allow": "POST"}),
        ("DELETE", "/v1/review/a", 405, "this route takes GET or POST.", {"allow": "GET, POST"}),
    ],
)  # fmt: skip
def test_no_route_and_no_method_are_said_in_the_one_shape(
    keys: ApiKeys, method: str, path: str, status: int, message: str, headers: dict[str, str]
) -> None:
    sent = bearer(keys.create("all", Verb))
    for client in (TestClient(app_behind(Door(None))), TestClient(app_behind(Door(keys)), headers=sent)):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)
        assert headers.items() <= dict(answer.headers).items()
    stranger = TestClient(app_behind(Door(keys))).request(method, path)
    assert (stranger.status_code, stranger.headers["www-authenticate"]) == (401, "Bearer")


def test_a_head_request_is_refused_without_a_body(keys: ApiKeys) -> None:
    assert TestClient(app_behind(Door(None))).head("/v1/sql").status_code == 405


def test_an_encoded_slash_is_a_slash_to_the_door_as_to_the_router() -> None:
    client = TestClient(app_behind(Door(None)))
    assert client.get("/v1/models/a%2Fb").status_code == 404
    assert client.get("/v1/models/a").status_code == 200


def test_two_authorization_headers_are_none_that_is_valid(keys: ApiKeys) -> None:
    key = keys.create("analyst", [Verb.SQL])
    client = TestClient(app_behind(Door(keys)))
    for first, second in ((key, key), (key, "x"), ("x", key)):
        sent = [("authorization", f"Bearer {first}"), ("Authorization", f"Bearer {second}")]
        assert client.post("/v1/sql", headers=sent).status_code == 401
    assert client.post("/v1/sql", headers=bearer(key)).status_code == 200


def test_a_websocket_is_closed_before_anything_is_asked() -> None:
    with pytest.raises(WebSocketDisconnect) as closed, TestClient(app_behind(Door(None))).websocket_connect("/v1/sql"):
        pass
    assert closed.value.code == 1008


@pytest.mark.parametrize("sent", ["a", "0b6e7c1c-9f3b.4a_X", "x" * 64])
def test_a_callers_request_id_is_kept(sent: str) -> None:
    answer = TestClient(app_behind(Door(None))).post("/v1/sql", headers={"x-request-id": sent})
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == (sent, sent)


@pytest.mark.parametrize(
    "sent", ["", " ", "x" * 65, "a b", "a/b", "a\tb", "é".encode(), "a,b", "<script>", '"a"', "a;b", "{}"]
)
def test_a_request_id_that_could_not_stand_in_a_log_is_replaced(sent: str | bytes) -> None:
    headers = {"x-request-id": sent}
    answer = TestClient(app_behind(Door(None))).post("/v1/sql", headers=headers)  # type: ignore[arg-type]
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_two_request_ids_are_none() -> None:
    client = TestClient(app_behind(Door(None)))
    answer = client.post("/v1/sql", headers=[("x-request-id", "a"), ("x-request-id", "b")])
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])


def test_with_tls_a_browser_is_told_to_come_back_by_tls() -> None:
    door = Door(None)
    assert TestClient(app_behind(door, tls=True)).get("/healthz").headers["strict-transport-security"] == "max-age=31536000"
    assert TestClient(app_behind(door, tls=True)).get("/nothing").headers["strict-transport-security"] == "max-age=31536000"
    assert "strict-transport-security" not in TestClient(app_behind(door)).get("/healthz").headers


def test_who_sends_too_much_is_told_when_to_come_again(keys: ApiKeys) -> None:
    clock = Clock()
    door = Door(keys, rates=Buckets(Rates(requests_per_s=0.4, burst=1), clock=clock), clock=clock)
    client = TestClient(app_behind(door), headers=bearer(keys.create("analyst", [Verb.SQL])))
    assert client.post("/v1/sql").status_code == 200
    late = client.post("/v1/sql", content=b"x" * 100_000)
    error = late.json()["error"]
    assert (late.status_code, late.headers["retry-after"]) == (429, "3")
    assert error == {
        "type": "RateExceeded",
        "message": "the limit of 0.4 requests a second is reached. Try again in 2.50 s.",
        "request_id": late.headers["x-request-id"],
        "limit": 0.4,
        "unit": "requests",
        "retry_after_s": pytest.approx(2.5),
    }
    clock.now += 2.5
    assert client.post("/v1/sql").status_code == 200


def test_the_bytes_of_a_body_are_counted_as_they_are_read_even_of_one_that_is_too_large(keys: ApiKeys) -> None:
    clock = Clock()
    door = Door(keys, rates=Buckets(Rates(bytes_per_s=1_000), clock=clock), clock=clock)
    client = TestClient(app_behind(door), headers=bearer(keys.create("analyst", [Verb.SQL])))
    assert client.post("/v1/sql", content=(b"x" * 1_000 for _ in range(7))).json()["size"] == 7_000
    assert client.post("/v1/sql").headers["retry-after"] == "5"
    clock.now += 5
    assert client.post("/v1/sql", content=(b"x" * 1_000 for _ in range(20))).status_code == 413
    assert client.post("/v1/sql").headers["retry-after"] == "20"
    clock.now += 20
    assert client.post("/v1/sql", headers={"content-length": "20000"}, content=b"x" * 20_000).status_code == 413
    assert client.post("/v1/sql").status_code == 429


def test_a_stranger_is_refused_before_the_body_is_read(keys: ApiKeys) -> None:
    read: list[Message] = []
    sent: list[Message] = []

    async def receive() -> Message:
        read.append({"type": "http.request", "body": b"x", "more_body": True})
        return read[-1]

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/sql",
        "headers": [(b"authorization", b"Bearer rs.a.b")],
        "query_string": b"",
    }
    asyncio.run(app_behind(Door(_with_one(keys)))(scope, receive, send))
    assert (read, sent[0]["status"]) == ([], 401)


# In the real application, which is not ready here: who is let in reads 503.


def test_a_public_address_demands_a_key_with_the_routes_verb(keys: ApiKeys) -> None:
    key = keys.create("searcher", [Verb.SEARCH])
    client = TestClient(make_app(lambda: None, PUBLIC_SPEC, door_of(PUBLIC_SPEC, keys)))
    search: dict[str, Any] = {"url": "/v1/collections/tickets/search", "json": {"id": "t-1", "k": 1}}
    assert client.post(**search, headers=bearer(key)).json()["error"]["type"] == "NotReady"
    for headers in ({}, bearer("rs.searcher.wrong"), bearer("nonsense"), {"authorization": f"Basic {key}"}):
        answer = client.post(**search, headers=headers)
        assert (answer.status_code, answer.json()["error"]["type"]) == (401, "KeyRequired")
        assert answer.headers["www-authenticate"] == "Bearer"
    forbidden = client.post("/v1/predict/triage", json={"text": "a"}, headers=bearer(key))
    assert (forbidden.status_code, forbidden.json()["error"]["message"]) == (
        403,
        "key 'searcher' lacks the verb 'predict'. Ask for a key that has it.",
    )
    assert client.get("/healthz").status_code == 200
    assert client.get("/v1/nothing").status_code == 401


def test_a_token_of_a_provider_whose_keys_stand_in_a_file_comes_in(keys: ApiKeys, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public(KEY, "one")]}))
    app_spec = AppSpec(oidc=spec(jwks=str(tmp_path / "keys.json")))
    client = TestClient(make_app(lambda: None, app_spec, door_of(app_spec, keys)), base_url="http://localhost")
    search: dict[str, Any] = {"url": "/v1/collections/tickets/search", "json": {"id": "t-1", "k": 1}}
    assert client.post(**search, headers=bearer(signed(KEY))).status_code == 503
    assert client.post(**search).status_code == 401
    assert client.post(**search, headers=bearer(signed(KEY, roles=[]))).status_code == 403


def test_a_tokens_holder_is_told_apart_from_a_key_of_that_name(keys: ApiKeys, tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public(KEY, "one")]}))
    app_spec = AppSpec(oidc=spec(jwks=str(tmp_path / "keys.json")))
    finished: list[Finished] = []
    app = make_app(lambda: None, app_spec, door_of(app_spec, keys), tellers=[finished.append])
    client = TestClient(app, base_url="http://localhost")
    for credential in (keys.create("anna", [Verb.SEARCH]), signed(KEY)):
        client.post("/v1/collections/tickets/search", json={"id": "t-1"}, headers=bearer(credential))
    assert [each.key for each in finished] == ["anna", "token:anna"]
    scope = {"type": "http", "headers": [], "state": {"principal": Principal("anna", frozenset(), kind="token")}}
    assert [_reviewer(Request(scope), named) for named in (None, "anna", "token:anna")] == ["token:anna"] * 3
    with pytest.raises(InvalidRequestError):
        _reviewer(Request(scope), "token:ben")


def test_what_the_door_refuses_is_counted_under_the_route_and_the_deployment_it_was_for(keys: ApiKeys) -> None:
    finished: list[Finished] = []
    orchestrator: Any = SimpleNamespace(live={"triage": None})
    app_spec = AppSpec(host="0.0.0.0", rates=Rates(requests_per_s=0.001, burst=1))
    app = make_app(lambda: orchestrator, app_spec, door_of(app_spec, _with_one(keys)), tellers=[finished.append])
    client = TestClient(app, base_url="http://localhost")
    client.post("/v1/predict/triage", json={"text": "a"})
    for path in ("/v1/predict/triage", "/v1/predict/made-up", "/v1/shadow/triage", "/v1/nowhere/triage"):
        key = keys.create(f"one{len(finished)}", [Verb.SEARCH])
        client.request("POST" if "predict" in path else "GET", path, headers=bearer(key))
    for _ in range(2):
        client.post("/v1/predict/triage/stream", headers=bearer(key))
    assert [(each.route, each.deployment, each.status) for each in finished] == [
        ("/v1/predict/{deployment}", "triage", 401),
        ("/v1/predict/{deployment}", "triage", 403),
        ("/v1/predict/{deployment}", "", 403),
        ("/v1/shadow/{deployment}", "", 403),  # about a deployment, not answered by it
        ("unmatched", "", 404),
        *[("/v1/predict/{deployment}/stream", "triage", 429)] * 2,
    ]


def test_metrics_are_told_however_much_is_asked(keys: ApiKeys) -> None:
    app_spec = AppSpec(rates=Rates(requests_per_s=0.001, burst=1))
    door = door_of(app_spec, keys)
    for _ in range(3):
        assert door.admit("/metrics", "GET", None) is not None
    door.admit("/v1/status", "GET", None)
    with pytest.raises(RateExceeded):
        door.admit("/v1/status", "GET", None)
    assert door.admit("/metrics", "GET", None) is not None


def test_a_key_with_sizes_of_its_own_is_held_to_them_and_to_those_of_the_service(keys: ApiKeys) -> None:
    small = keys.create("small", sizes=Sizes(max_body_bytes=2_000, max_items=2))
    large = keys.create("large", sizes=Sizes(max_body_bytes=2**25, max_items=4096))
    app_spec = AppSpec(host="0.0.0.0", limits=Limits(max_body_bytes=10_000, max_items=3))
    orchestrator: Any = SimpleNamespace(live={})  # nothing that is refused gets further
    client = TestClient(make_app(lambda: orchestrator, app_spec, door_of(app_spec, keys)), base_url="http://localhost")

    def over(key: str, n: int, chars: int = 1) -> str:
        body = {"items": [{"text": "a" * chars}] * n}
        answer = client.post("/v1/predict/triage", json=body, headers=bearer(key))
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "BodyTooLarge")
        return str(answer.json()["error"]["message"])

    assert over(small, 3) == "body.items has 3 items, over the limit of 2."
    assert over(large, 4) == "body.items has 4 items, over the limit of 3."
    assert over(small, 1, 2_000).endswith("over the limit of 2000.")
    assert over(large, 1, 10_000).endswith("over the limit of 10000.")


def test_no_odd_way_to_write_a_path_gets_past_the_door_of_a_real_server(keys: ApiKeys) -> None:
    key = keys.create("logger", [Verb.LOG])
    with running(make_app(lambda: None, PUBLIC_SPEC, door_of(PUBLIC_SPEC, keys))) as url:

        def status(target: str, *headers: str) -> int:
            """Of a request as it stands here, byte for byte."""
            lines = [f"POST {target} HTTP/1.1", "host: x", "content-type: application/json", "content-length: 2", *headers]
            with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=30) as connection:
                connection.sendall("\r\n".join([*lines, "connection: close", "", "{}"]).encode())
                return int(connection.makefile("rb").readline().split()[1])

        mine = f"authorization: Bearer {key}"
        assert status("/v1/collections/tickets/log", mine) == 422  # in, and the body is wrong
        assert status("/v1/sql", mine) == 403
        for target in (
            "/v1/sql%0A", "/v1/sql%0a", "/v1/sql%0D", "/v1/sql/", "/v1//sql", "//v1/sql", "/v1/./sql", "/v1/%2e/sql",
            "/v1/a/../sql", "/V1/sql", "/v1/sql%00", "/v1/sql%20", "/v1%2Fsql%2F", "/v1/sql;x", "/v1/sql%3F", "/v1/sql%23",
            "/%76%31/%73ql/", "/v1/predict/a%2F..%2Fb", "/v1/collections/tickets/log%0A", "/v1/collections/a%2Fb/log",
            "/healthz/../v1/sql", "/docs/../v1/sql", "/healthz%2f..%2fv1%2fsql",
        ):  # fmt: skip
            assert status(target, mine) == 404, target
            assert status(target) == 401, target
        for target in ("/%76%31/%73ql", "/v1%2Fsql", "/v1/sql?a=/v1/collections/tickets/log", "http://y/v1/sql"):
            assert status(target, mine) == 403, target
        assert status("/v1/collections/tickets/log", mine, mine) == 401
        assert status("/v1/collections/tickets/log", f"authorization: Bearer {key}, Bearer {key}") == 401
