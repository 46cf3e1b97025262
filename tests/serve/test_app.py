from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from raystore.access import ApiKeys, Verb
from raystore.serve.answer.orchestrator import Orchestrator
from raystore.serve.door.auth import Door
from raystore.serve.http.app import make_app
from raystore.serve.spec.app import AppSpec, Limits
from raystore.serve.wire import common, log, openai, predict, search, sql
from tests.serve.conftest import Served, durable, make_store, recorded

CANARY = "CANARY-7f3a-uncanny"
LOOPBACK = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    """A store that no other module adds to: what a search finds is compared."""
    return make_store(tmp_path_factory.mktemp("app") / "a store", tiny_model)


@pytest.fixture(scope="module")
def orchestrator(served: Served) -> Orchestrator:
    rooms = served.rooms
    orchestrator = rooms.orchestrator(AppSpec(), threads=1)
    records = {
        "triage": recorded(rooms, "triage", "refunds@2"),
        "keeping": recorded(rooms, "keeping", "refunds@1", log="kept"),
    }
    orchestrator.update(rooms.live(records))
    return orchestrator


@pytest.fixture(scope="module")
def client(orchestrator: Orchestrator) -> Iterator[TestClient]:
    spec = AppSpec(limits=Limits(max_body_bytes=65_536, max_items=8, max_chars=1_000))
    with TestClient(make_app(lambda: orchestrator, spec), base_url=LOOPBACK) as client:
        yield client


def test_predict_answers_with_label_probabilities_and_lineage(client: TestClient, served: Served) -> None:
    answer = client.post("/v1/predict/triage", json={"text": "the card never arrived", "top": 2})
    assert answer.status_code == 200
    body = answer.json()
    (prediction,) = body["predictions"]
    assert prediction["label"] == "card"
    assert prediction["probabilities"][0]["label"] == "card"
    assert len(prediction["probabilities"]) == 2
    assert prediction["confidence"] == pytest.approx(prediction["probabilities"][0]["probability"])
    assert body["lineage"] == {
        "deployment": "triage",
        "number": 1,
        "head": "refunds@2",
        "snapshot": {"name": "refunds", "number": 1, "hash": "ab" * 32},
        "voters": None,
        "encoder": served.label,
        "fingerprint": served.fingerprint,
    }
    assert body["fingerprint"] == served.fingerprint
    assert body["request_id"] == answer.headers["x-request-id"]
    assert set(body["timings_ms"]) == {"rules", "queue", "encode", "head", "total"}
    assert body["logged"] is None


def test_many_texts_are_answered_in_order(client: TestClient) -> None:
    body = client.post(
        "/v1/predict/triage",
        json={"items": [{"text": t} for t in ("return the money", "the card is a limit", "red and blue")]},
    ).json()
    assert [p["label"] for p in body["predictions"]] == ["money", "card", "colour"]


def test_a_deployment_that_logs_keeps_the_embedding_of_each_prediction(client: TestClient, served: Served) -> None:
    body = client.post("/v1/predict/keeping", json={"items": [{"text": "return the money"}, {"text": "the card"}]}).json()
    assert body["logged"] == [f"{body['request_id']}-0", f"{body['request_id']}-1"]
    kept = durable(served.rooms.layout, "kept").vectors_of(body["logged"], served.fingerprint)
    expected = served.rooms.encoders.get("tiny").encode(["return the money", "the card"])
    np.testing.assert_allclose(kept, expected, atol=1e-5)


def test_log_commits_rows_and_a_row_sent_again_changes_nothing(client: TestClient, served: Served) -> None:
    rows = [
        {"id": "http-1", "text": "the card never arrived", "subject": "c-9", "product": "card"},
        {"id": "http-2", "text": "blue"},
    ]
    first = client.post("/v1/collections/tickets/log", json={"rows": rows}).json()
    assert (first["added"], first["known"], first["fingerprint"]) == (2, 0, served.fingerprint)
    again = client.post("/v1/collections/tickets/log", json={"rows": rows}).json()
    assert (again["added"], again["known"]) == (0, 2)
    changed = client.post("/v1/collections/tickets/log", json={"rows": [{"id": "http-1", "text": f"{CANARY} red"}]})
    assert (changed.status_code, changed.json()["error"]["type"], changed.json()["error"]["ids"]) == (
        409,
        "IdConflict",
        ["http-1"],
    )
    assert CANARY not in changed.text


def test_log_takes_vectors_with_their_fingerprint_only(client: TestClient, served: Served) -> None:
    vector = served.rooms.encoders.get("tiny").encode(["hello world"])[0].tolist()
    row = {"id": "http-v", "vector": vector}
    url = "/v1/collections/tickets/log"
    assert client.post(url, json={"rows": [row], "fingerprint": served.fingerprint}).json()["added"] == 1
    stranger = client.post(url, json={"rows": [{"id": "http-w", "vector": vector}], "fingerprint": "0" * 64})
    assert (stranger.status_code, stranger.json()["error"]["type"]) == (409, "PassportMismatch")
    assert stranger.json()["error"]["expected"] == served.fingerprint
    unmarked = client.post(url, json={"rows": [{"id": "http-w", "vector": vector}]})
    assert (unmarked.status_code, unmarked.json()["error"]["type"]) == (422, "InvalidRows")


def test_search_by_text_id_and_vector_finds_the_same_row_first(client: TestClient, served: Served) -> None:
    url = "/v1/collections/tickets/search"
    vector = served.rooms.encoders.get("tiny").encode(["return the money"])[0].tolist()
    by_text = client.post(url, json={"text": "return the money", "k": 2}).json()
    by_id = client.post(url, json={"id": "t-5", "k": 2}).json()
    by_vector = client.post(url, json={"vector": vector, "fingerprint": served.fingerprint, "k": 2}).json()
    for body in (by_text, by_id, by_vector):
        assert body["hits"][0]["id"] == "t-5"
        assert body["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
        assert (body["coverage"], body["missing"], body["exact"], body["fingerprint"]) == (
            1.0,
            [],
            True,
            served.fingerprint,
        )


def test_search_obeys_where_and_returns_columns(client: TestClient) -> None:
    asked = {"text": "return the money", "k": 3, "where": "product = 'card'", "columns": ["product", "time"]}
    hits = client.post("/v1/collections/tickets/search", json=asked).json()["hits"]
    assert len(hits) == 3
    assert all(hit["columns"]["product"] == "card" and hit["columns"]["time"] for hit in hits)


def test_embeddings_are_openai_shaped_and_base64_is_the_same_numbers(client: TestClient, served: Served) -> None:
    floats = client.post("/v1/embeddings", json={"model": "tiny", "input": ["hello world", "a card"]}).json()
    packed = client.post(
        "/v1/embeddings", json={"model": served.fingerprint, "input": "hello world", "encoding_format": "base64"}
    ).json()
    assert floats["object"] == "list"
    assert [d["index"] for d in floats["data"]] == [0, 1]
    assert (floats["model"], floats["fingerprint"]) == (served.label, served.fingerprint)
    assert floats["usage"]["prompt_tokens"] > 4
    decoded = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_allclose(decoded, floats["data"][0]["embedding"], atol=1e-5)


# Each holds the canary where it must not come back from, with the status it deserves.
BAD = {
    "wrong type": ("/v1/predict/triage", {"text": {"a": CANARY}}, 422),
    "wrong type in a list": ("/v1/predict/triage", {"items": [{"text": "ok"}, {"text": [CANARY]}]}, 422),
    "unknown field": ("/v1/predict/triage", {"text": "a", CANARY: 1}, 422),
    "unknown field in a search": ("/v1/collections/tickets/search", {"text": CANARY, "kk": CANARY}, 422),
    "both": ("/v1/predict/triage", {"text": CANARY, "items": [{"text": CANARY}]}, 422),
    "neither": ("/v1/predict/triage", {}, 422),
    "too long": ("/v1/predict/triage", {"text": CANARY * 100}, 413),
    "too many": ("/v1/predict/triage", {"items": [{"text": CANARY}] * 9}, 413),
    "too large": ("/v1/predict/triage", {"text": CANARY * 10_000}, 413),
    "empty": ("/v1/predict/triage", {"items": [{"text": CANARY}, {"text": "  "}]}, 422),
    "no object": ("/v1/predict/triage", [CANARY], 422),
    "surrogate": ("/v1/predict/triage", {"text": CANARY + "\ud800"}, 422),
    "no such deployment": ("/v1/predict/nobody", {"text": CANARY}, 404),
    "no name": (f"/v1/predict/{CANARY}", {"text": CANARY}, 422),
    "no such collection": ("/v1/collections/nobody/search", {"text": CANARY}, 404),
    "no such route": (f"/v1/{CANARY}", {"text": CANARY}, 404),
    "bad row": ("/v1/collections/tickets/log", {"rows": [{"id": CANARY * 30, "text": CANARY}]}, 422),
    "empty text in a row": ("/v1/collections/tickets/log", {"rows": [{"id": CANARY, "text": " "}]}, 422),
    "kept column of a wrong type": (
        "/v1/collections/tickets/log",
        {"rows": [{"id": "x", "text": "a", "product": {"a": CANARY}}]},
        422,
    ),
    "kept column of another type": (
        "/v1/collections/tickets/log",
        {"rows": [{"id": "x", "text": CANARY, "product": 3}]},
        422,
    ),
    "bad time": ("/v1/collections/tickets/log", {"rows": [{"id": "x", "text": CANARY, "time": CANARY}]}, 422),
    "bad where": ("/v1/collections/tickets/search", {"text": "a", "where": f"'{CANARY}"}, 422),
    "where with an unknown column": ("/v1/collections/tickets/search", {"text": "a", "where": f'"{CANARY}" = 1'}, 422),
    "unknown column": ("/v1/collections/tickets/search", {"text": "a", "columns": [CANARY]}, 404),
    "unknown id": ("/v1/collections/tickets/search", {"id": CANARY}, 404),
    "vector without fingerprint": ("/v1/collections/tickets/search", {"vector": [1.0]}, 422),
    "bad fingerprint": ("/v1/collections/tickets/search", {"vector": [1.0], "fingerprint": CANARY}, 422),
    "unknown model": ("/v1/embeddings", {"model": CANARY, "input": CANARY}, 404),
    "an image": ("/v1/embeddings", {"model": "tiny", "input": [f"data:image/png;base64,{CANARY}"]}, 422),
    "an image of another kind": ("/v1/embeddings", {"model": "tiny", "input": f"data:image/{CANARY}"}, 422),
    "an image in a row": (
        "/v1/collections/tickets/log",
        {"rows": [{"id": "x", "image": f"data:image/png;base64,{CANARY}"}]},
        422,
    ),
    "a kept column called image": (
        "/v1/collections/tickets/log",
        {"rows": [{"id": "x", "text": "a", "image": CANARY}]},
        422,
    ),
    "tokens": ("/v1/embeddings", {"model": "tiny", "input": [1, 2, CANARY]}, 422),
    "bad format": ("/v1/embeddings", {"model": "tiny", "input": CANARY, "encoding_format": CANARY}, 422),
    "other dimensions": ("/v1/embeddings", {"model": "tiny", "input": CANARY, "dimensions": 7}, 422),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_have_one_shape_and_echo_nothing(
    client: TestClient, case: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path, body, status = BAD[case]
    with caplog.at_level(logging.DEBUG):
        answer = client.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert {"type", "message", "request_id"} <= set(error)
    assert error["request_id"] == answer.headers["x-request-id"]
    captured = capfd.readouterr()
    ours = [r.getMessage() for r in caplog.records if not r.name.startswith("httpx")]  # the client's own line names the URL
    for place in (answer.text, str(dict(answer.headers)), *ours, captured.out, captured.err):
        assert CANARY not in place


def test_malformed_json_is_answered_without_the_input(client: TestClient) -> None:
    answer = client.post("/v1/predict/triage", content='{"text": "' + CANARY, headers={"content-type": "application/json"})
    assert answer.json()["error"]["message"] == "1 field of this request is wrong: body: is no JSON."
    assert answer.status_code == 422
    assert CANARY not in answer.text


def test_a_form_that_a_web_page_could_send_is_not_read(client: TestClient) -> None:
    answer = client.post("/v1/predict/triage", content='{"text": "a"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422


def test_a_validation_error_names_every_field_and_reason(client: TestClient) -> None:
    error = client.post(
        "/v1/predict/triage", json={"items": [{"text": 1}, {"text": "ok"}, {"text": ""}], "top": 0, "tpo": 1}
    ).json()["error"]
    assert error["problems"] == [
        {"field": "body.top", "reason": "input should be greater than or equal to 1"},
        {"field": "body.items[0].text", "reason": "input should be a valid string"},
        {"field": "body.items[2].text", "reason": "string should have at least 1 character"},
        {"field": "body", "reason": unknown("fingerprint", "top", "evidence", *ITEM, "items")},
    ]


ITEM = ("id", "text", "vector", "subject", "tenant", "time", "columns")


def unknown(*known: str) -> str:
    return f"has a field that is not known here: known are {', '.join(known)}"


def test_an_unknown_field_is_answered_with_those_of_its_place_and_not_repeated(client: TestClient) -> None:
    answer = client.post("/v1/predict/triage", json={"items": [{"txt": "a"}]})
    assert (answer.status_code, "txt" in answer.text) == (422, False)
    assert {"field": "body.items[0]", "reason": unknown(*ITEM)} in answer.json()["error"]["problems"]
    alone = client.post("/v1/predict/triage", json={"txt": "a"}).json()["error"]["problems"]
    assert {"field": "body", "reason": unknown("fingerprint", "top", "evidence", *ITEM, "items")} in alone


def test_nan_and_zero_and_other_dimensions_are_told_apart(client: TestClient, served: Served) -> None:
    url = "/v1/collections/tickets/search"
    for vector, kind in [
        ("[NaN" + ",1" * 31 + "]", "InvalidVectors"),
        (str([0] * 32), "InvalidVectors"),
        ("[1]", "DimensionMismatch"),
    ]:
        body = f'{{"vector": {vector}, "fingerprint": "{served.fingerprint}"}}'
        answer = client.post(url, content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (422, kind)


def test_a_body_over_the_limit_is_refused_with_and_without_its_length(client: TestClient) -> None:
    declared = client.post("/v1/predict/triage", content=b"x" * 70_000)
    chunked = client.post("/v1/predict/triage", content=(b"x" * 10_000 for _ in range(7)))
    for answer in (declared, chunked):
        assert (answer.status_code, answer.json()["error"]["type"]) == (413, "BodyTooLarge")
        assert answer.json()["error"]["limit"] == 65_536
    within = client.post(
        "/v1/predict/triage",
        content=(part for part in (b'{"text": ', b'"the card"}')),
        headers={"content-type": "application/json"},
    )
    assert within.status_code == 200


def test_an_unknown_failure_shows_its_type_and_nothing_of_its_text(
    served: Served, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken(Orchestrator):
        """Raises what a library might: the text it was given, in the message."""

        async def predict(self, name: str, asked: object, **_: object) -> dict[str, object]:
            raise RuntimeError(f"cannot encode {asked}")

    orchestrator = served.rooms.orchestrator(AppSpec())
    orchestrator.__class__ = Broken
    client = TestClient(make_app(lambda: orchestrator, AppSpec()), base_url=LOOPBACK, raise_server_exceptions=True)
    with caplog.at_level(logging.DEBUG):
        answer = client.post("/v1/predict/triage", json={"text": CANARY})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "RuntimeError")
    captured = capfd.readouterr()
    assert CANARY not in answer.text + caplog.text + captured.out + captured.err
    assert "failed with RuntimeError" in caplog.text


def test_health_answers_at_once_and_readiness_when_loaded(client: TestClient, served: Served) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["deployments"]["triage"] == {
        "number": 1,
        "head": "refunds@2",
        "fingerprint": served.fingerprint,
    }
    early = TestClient(make_app(lambda: None, AppSpec()), base_url=LOOPBACK)
    assert early.get("/healthz").status_code == 200
    assert early.get("/readyz").status_code == 503
    waiting = early.post("/v1/predict/triage", json={"text": "a"})
    assert (waiting.status_code, waiting.headers["retry-after"]) == (503, "1")


def test_on_loopback_only_the_machines_own_names_are_served(client: TestClient) -> None:
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200
    rebound = client.get("/healthz", headers={"host": "evil.example"})
    assert (rebound.status_code, rebound.json()["error"]["type"]) == (421, "WrongHost")


def test_evidence_is_for_those_who_may_search_too(orchestrator: Orchestrator, served: Served) -> None:
    keys = ApiKeys(served.rooms.layout, served.rooms.store_key)
    verbs = {"may_predict": [Verb.PREDICT], "may_search_too": [Verb.PREDICT, Verb.SEARCH]}
    door = {name: {"authorization": f"Bearer {keys.create(name, verbs)}"} for name, verbs in verbs.items()}
    client = TestClient(make_app(lambda: orchestrator, AppSpec(), Door(keys)), base_url="http://127.0.0.1:8000")
    one, line = {"text": "the card"}, {"content-type": "application/x-ndjson"}
    for evidence, name, status in ((0, "may_predict", 200), (1, "may_predict", 403), (1, "may_search_too", 200)):
        whole = client.post("/v1/predict/triage", json={**one, "evidence": evidence}, headers=door[name])
        path = f"/v1/predict/triage/stream?evidence={evidence}"
        streamed = client.post(path, content=json.dumps(one), headers={**door[name], **line})
        assert (whole.status_code, streamed.status_code) == (status, status)
        if status == 403:
            assert (
                whole.json()["error"]["message"] == "key 'may_predict' lacks the verb 'search'. Ask for a key that has it."
            )


def test_a_public_address_answers_to_any_name(orchestrator: Orchestrator) -> None:
    client = TestClient(make_app(lambda: orchestrator, AppSpec(host="0.0.0.0")), base_url="http://service.example")
    assert client.get("/healthz").status_code == 200


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for answer in (client.get("/healthz"), client.post("/v1/predict/triage", json={}), client.get("/nothing")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert "access-control-allow-origin" not in answer.headers
    asked = client.options(
        "/v1/predict/triage", headers={"origin": "http://a.example", "access-control-request-method": "POST"}
    )
    assert "access-control-allow-origin" not in asked.headers


def test_the_docs_page_names_every_route_and_no_address(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "http" not in page.text
    assert "<script" not in page.text
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in page.text


def test_the_document_lists_the_statuses_of_time_and_places(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v1/predict/{deployment}", "/v1/predict/{deployment}/stream", "/v1/collections/{collection}/log"):
        assert {"200", "408", "413", "422", "429", "503", "504"} <= set(paths[path]["post"]["responses"])


def test_the_examples_in_the_openapi_document_fit_their_models(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert "HTTPValidationError" not in schemas
    with_examples = {name: schema["examples"] for name, schema in schemas.items() if "examples" in schema}
    requests = {"PredictRequest", "LogRequest", "SearchRequest", "EmbeddingsRequest", "SqlRequest"}
    answers = {"PredictAnswer", "LogAnswer", "SearchAnswer", "EmbeddingsAnswer", "ModelCard", "SqlAnswer"}
    assert requests | answers <= set(with_examples)
    for name, examples in with_examples.items():
        for example in examples:
            model = next(
                getattr(module, name) for module in (common, log, openai, predict, search, sql) if hasattr(module, name)
            )
            model.model_validate(example)
