from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from raystore.access import ApiKeys, Verb
from raystore.errors import KeyRequired
from raystore.serve.app import make_app
from raystore.serve.auth import BELIEVED_S, Door
from raystore.serve.spec import AppSpec
from tests.serve.conftest import Served

PUBLIC = AppSpec(host="0.0.0.0")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def keys(served: Served) -> ApiKeys:
    return ApiKeys(served.rooms.layout, served.rooms.store_key)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_public_address_demands_a_key_with_the_routes_verb(served: Served, keys: ApiKeys) -> None:
    key = keys.create("searcher", frozenset({Verb.SEARCH}))
    orchestrator = served.rooms.orchestrator(AppSpec(), threads=1)
    client = TestClient(make_app(lambda: orchestrator, PUBLIC, served.rooms.door(PUBLIC)))
    search = {"url": "/v1/collections/tickets/search", "json": {"id": "t-1", "k": 1}}
    assert client.post(**search, headers=bearer(key)).status_code == 200
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


def test_a_stranger_is_refused_before_the_body_is_read(served: Served, keys: ApiKeys) -> None:
    keys.create("somebody")
    client = TestClient(make_app(lambda: None, PUBLIC, served.rooms.door(PUBLIC)))
    assert client.post("/v1/predict/triage", content=b"x" * 2**21).status_code == 401


def test_a_revoked_key_is_dead_within_five_seconds(keys: ApiKeys) -> None:
    clock = Clock()
    door = Door(keys, clock)
    key = keys.create("leaving")
    assert door.admit("/v1/embeddings", f"Bearer {key}").name == "leaving"
    keys.revoke("leaving")
    clock.now += BELIEVED_S
    with pytest.raises(KeyRequired):
        door.admit("/v1/embeddings", f"Bearer {key}")


def test_loopback_demands_no_key(served: Served) -> None:
    assert not served.rooms.door(AppSpec()).demands_key


def test_a_public_address_is_refused_while_the_store_has_no_key(served: Served, keys: ApiKeys) -> None:
    for name in keys.names():
        keys.revoke(name)
    with pytest.raises(KeyRequired, match=r"0\.0\.0\.0 can be reached from other machines, and this store has no key yet"):
        served.rooms.door(PUBLIC)
