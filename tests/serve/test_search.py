"""What a search over HTTP may be asked beside its k nearest rows, and what it says of its answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec

from .conftest import Served

CANARY = "Zq7-canary"
URL = "/v1/collections/tickets/search"


@pytest.fixture
def client(served: Served) -> Iterator[TestClient]:
    spec = AppSpec()
    orchestrator = served.rooms.orchestrator(spec, threads=1)
    with TestClient(make_app(lambda: orchestrator, spec), base_url="http://127.0.0.1") as client:
        yield client
    orchestrator.close()


def ask(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post(URL, json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ids(answer: dict[str, Any]) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


def test_pages_go_on_where_the_one_before_ended(client: TestClient) -> None:
    whole = ids(ask(client, text="return the money", k=9))
    first = ask(client, text="return the money", k=4)
    second = ask(client, text="return the money", k=5, after=first["cursor"])
    assert ids(first) + ids(second) == whole


def test_every_row_above_a_score_up_to_a_limit(client: TestClient) -> None:
    everything = ask(client, id="t-5", min_score=-1.0)
    assert len(everything["hits"]) > 10
    assert not everything["truncated"]
    tenth = everything["hits"][9]["score"]
    assert ids(ask(client, id="t-5", min_score=tenth))[:10] == ids(everything)[:10]
    cut = ask(client, id="t-5", min_score=-1.0, limit=3)
    assert (ids(cut), cut["truncated"]) == (ids(everything)[:3], True)


def test_liked_rows_are_a_question_and_no_answer(client: TestClient) -> None:
    found = ask(client, like=["t-0", "t-1"], unlike=["t-5"], k=3)
    assert not {"t-0", "t-1", "t-5"} & set(ids(found))
    both = ask(client, text="the card never arrived", like=["t-1"], k=20)
    assert "t-1" not in ids(both)
    assert "t-0" in ids(both)


def test_one_row_for_each_value_and_not_all_alike(client: TestClient) -> None:
    rows = "product IN ('card', 'other')"  # whatever other tests log
    found = ask(client, text="money", distinct="product", columns=["product"], where=rows, k=2)
    assert {hit["columns"]["product"] for hit in found["hits"]} == {"card", "other"}
    diverse = ask(client, text="money", diversity=1.0, k=5)
    assert len(set(ids(diverse))) == 5
    assert ids(diverse)[0] == ids(ask(client, text="money", k=1))[0]
    assert diverse["cursor"] is None


def test_an_answer_says_what_it_is_of(client: TestClient, served: Served) -> None:
    found = ask(client, text="money", k=1)
    assert {name: found[name] for name in ("coverage", "missing", "exact", "metric", "index_version", "truncated")} == {
        "coverage": 1.0,
        "missing": [],
        "exact": True,
        "metric": "cosine",
        "index_version": None,
        "truncated": False,
    }
    assert (found["fingerprint"], len(found["cursor"])) == (served.fingerprint, 40)


BAD = {
    "nothing asked": ({}, 422, "expected exactly one of text, id and vector"),
    "unlike alone": ({"unlike": ["t-1"]}, 422, "expected like, or one of text, id and vector, beside unlike"),
    "two things and liked": (
        {"text": CANARY, "id": CANARY, "like": ["t-1"]},
        422,
        "expected at most one of text, id and vector",
    ),
    "liked and unliked": ({"like": [CANARY], "unlike": [CANARY]}, 422, "an id is both in like and in unlike"),
    "an unknown id": ({"like": [CANARY]}, 404, "no item of that id in collection 'tickets' with a vector of this encoder."),
    "a strange cursor": ({"text": "a", "after": CANARY}, 422, "after is no cursor of this search"),
    "a cursor of another search": ({"text": "a", "where": "product = 'card'", "after": "FIRST"}, 422, "after is no cursor"),
    "a cursor of another query": ({"text": "a", "after": "FIRST"}, 422, "after is the cursor of another query"),
    "an unknown column": ({"text": "a", "distinct": CANARY}, 404, "a column that was asked for is not in"),
    "too diverse": ({"text": "a", "diversity": 1.5}, 422, "body.diversity: input should be less than or equal to 1"),
    "diverse pages": ({"text": "return the money", "diversity": 0.5, "after": "FIRST"}, 422, "do not go together"),
    "too many liked": ({"like": ["t-1"] * 101}, 422, "body.like: list should have at most 100 items"),
    "too far": ({"text": "a", "limit": 10_001}, 422, "body.limit: input should be less than or equal to 10000"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_question_gets_a_sentence_that_repeats_nothing(client: TestClient, case: str) -> None:
    asked, status, says = BAD[case]
    if asked.get("after") == "FIRST":
        asked = {**asked, "after": ask(client, text="return the money", k=2)["cursor"]}
    answer = client.post(URL, json=asked)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert CANARY not in answer.text
