"""POST /v1/predict/{deployment}: what is asked, what is answered, and what the answer's parts say."""

from __future__ import annotations

import asyncio
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from raystore.serve.answer.evidence import SnapshotEvidence
from raystore.serve.answer.served import Predicted, ServedHead
from raystore.serve.watch import table
from raystore.serve.wire.predict import (
    LabelsPrediction,
    NumberPrediction,
    PredictAnswer,
    Prediction,
    PredictItem,
    PredictRequest,
    StreamLine,
)
from raystore.vectors import Matrix, Vectors
from tests.pictures import PICTURES, data_url
from tests.serve.conftest import Served, Whole
from tests.serve.serving import CANARY, Held, Service, Serving

TEXT = "the card never arrived"


@pytest.fixture(scope="module")
def serving(served: Served) -> Serving:
    return Serving(served.rooms)


@pytest.fixture(scope="module")
def whole_serving(whole: Whole) -> Serving:
    return Serving(whole.rooms)


def checked(body: Any) -> Any:
    """The body, in which every field is one of the documented model and none is missing."""
    assert PredictAnswer.model_validate(body).model_dump(mode="json", exclude_unset=True) == body
    return body


# --- items and vectors -----------------------------------------------------------------------------------------------


def test_items_are_answered_in_order_under_their_own_ids(serving: Serving) -> None:
    service = serving.serve({"p-items": {"head": "refunds@2"}})
    items = [
        {"id": "mine", "text": "return the money", "subject": "c-9", "columns": {"product": "card", "n": 3, "vip": True}},
        {"text": TEXT},
    ]
    body = checked(service.ask("p-items", {"items": items}, headers={"x-request-id": "req-1"}))
    assert [(p["id"], p["label"], p["by"]) for p in body["predictions"]] == [
        ("mine", "money", "refunds@2"),
        ("req-1-1", "card", "refunds@2"),
    ]
    alone = service.ask("p-items", {"text": TEXT, "subject": "c-9"}, headers={"x-request-id": "req-2"})
    assert alone["predictions"][0]["id"] == "req-2"


def test_a_ready_vector_is_answered_as_its_text_is(serving: Serving, served: Served) -> None:
    service = serving.serve({"p-vector": {"head": "refunds@2"}})
    text = service.ask("p-vector", {"text": TEXT})
    vector = served.rooms.encoders.get("tiny").encode([TEXT])[0].tolist()
    ready = service.ask("p-vector", {"vector": vector, "fingerprint": text["fingerprint"]})
    assert ready["predictions"][0]["label"] == text["predictions"][0]["label"]
    assert ready["predictions"][0]["confidence"] == pytest.approx(text["predictions"][0]["confidence"], abs=1e-5)


def test_a_vector_of_another_encoder_is_refused_with_the_one_that_is_expected(serving: Serving, served: Served) -> None:
    service = serving.serve({"p-other": {"head": "refunds@2"}})
    found = service.refused("p-other", {"vector": [1.0] * 32, "fingerprint": "0" * 64})
    assert found == (
        409,
        "PassportMismatch",
        f"deployment 'p-other' expects {served.fingerprint[:12]}, but was given {'0' * 12}. "
        "Encode with the deployment's encoder: an answer to a text says its fingerprint.",
    )


def test_vectors_that_are_none_are_told_apart_and_named_by_their_place(serving: Serving, served: Served) -> None:
    service = serving.serve({"p-bad": {"head": "refunds@2"}})
    good = [0.5] * 32
    for vectors, kind, message in [
        ([good, [0.0] * 32], "InvalidVectors", "predict: 1 of 2 vectors are unusable: vector 1 is zero."),
        (
            [[math.nan, *good[1:]]],
            "InvalidVectors",
            "predict: 1 of 1 vectors are unusable: vector 0 holds NaN or infinity.",
        ),
        ([[1.0, 2.0]], "DimensionMismatch", "predict: expected vectors of 32 numbers, found 2."),
    ]:
        body = {"items": [{"text": TEXT}, *({"vector": v} for v in vectors)], "fingerprint": served.fingerprint}
        sent = json.dumps(body)  # NaN as Python writes it
        answer = service.client.post("/v1/predict/p-bad", content=sent, headers={"content-type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["message"]) == (422, kind, message)
    ragged = {"items": [{"vector": good}, {"vector": [1.0]}], "fingerprint": served.fingerprint}
    assert service.refused("p-bad", ragged)[0] == 422


def test_texts_and_vectors_of_one_request_keep_their_places(serving: Serving, served: Served) -> None:
    service = serving.serve({"p-mixed": {"head": "refunds@2"}})
    money = served.rooms.encoders.get("tiny").encode(["return the money"])[0].tolist()
    items = [{"vector": money}, {"text": TEXT}, {"vector": money}, {"text": "red and blue"}]
    body = service.ask("p-mixed", {"items": items, "fingerprint": served.fingerprint})
    assert [p["label"] for p in body["predictions"]] == ["money", "card", "money", "colour"]


def test_the_same_id_may_not_stand_for_two_items(serving: Serving) -> None:
    service = serving.serve({"p-twice": {"head": "refunds@2"}})
    found = service.refused("p-twice", {"items": [{"id": "a", "text": TEXT}, {"id": "a", "text": "blue"}, {"text": "red"}]})
    assert found == (422, "InvalidRequest", "1 field of this request is wrong: body: expected each id once.")


# --- images and content types ----------------------------------------------------------------------------------------


def test_an_image_may_be_the_body_and_its_options_stand_in_the_query(house: Served) -> None:
    service = Serving(house.rooms).serve({"p-colours": {"head": "colours"}, "p-words": {"head": "refunds@2"}})
    raw = service.client.post("/v1/predict/p-colours?top=1", content=PICTURES[0], headers={"content-type": "image/png"})
    assert raw.status_code == 200, raw.text
    [one] = checked(raw.json())["predictions"]
    assert (one["label"], len(one["probabilities"])) == ("red", 1)
    as_url = service.ask("p-colours", {"text": data_url(PICTURES[0])})["predictions"][0]
    assert as_url["confidence"] == pytest.approx(one["confidence"], abs=1e-5)
    broken = service.client.post("/v1/predict/p-colours", content=CANARY.encode(), headers={"content-type": "image/png"})
    assert (broken.status_code, broken.json()["error"]["problems"][0]["field"]) == (422, "body")
    assert CANARY not in broken.text
    words = service.refused("p-colours", {"items": [{"text": data_url(PICTURES[0])}, {"text": CANARY}]})
    assert words == (
        422,
        "InvalidRequest",
        "1 field of this request is wrong: body.items[1].text: is a text, and this encoder takes images.",
    )


def test_what_no_content_type_announces_is_not_read(serving: Serving) -> None:
    service = serving.serve({"p-type": {"head": "refunds@2"}})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "application/x-ndjson"):
        answer = service.client.post("/v1/predict/p-type", content=b'{"text": "a"}', headers={"content-type": kind})
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == (
            "1 field of this request is wrong: body: expected application/json, or an image with its type, as content-type."
        )
    charset = {"content-type": "Application/JSON; charset=utf-8"}
    assert service.client.post("/v1/predict/p-type", content=b'{"text": "a card"}', headers=charset).status_code == 200


def test_top_says_how_many_labels_are_named_likeliest_first(serving: Serving) -> None:
    service = serving.serve({"p-top": {"head": "refunds@2"}})
    for top, named in ((1, 1), (2, 2), (9, 3)):
        likely = service.ask("p-top", {"text": TEXT, "top": top})["predictions"][0]["probabilities"]
        assert len(likely) == named
        assert [p["probability"] for p in likely] == sorted((p["probability"] for p in likely), reverse=True)
    assert service.refused("p-top", {"text": TEXT, "top": 0})[0] == 422


# --- heads of every task, and evidence -------------------------------------------------------------------------------


def test_heads_of_every_task_answer_in_their_own_shape(whole_serving: Serving, whole: Whole) -> None:
    heads = {"w-classes": "topics@1", "w-number": "price@1", "w-labels": "tags@1"}
    service = whole_serving.serve({name: {"head": head} for name, head in heads.items()})
    asked = {"vector": whole.vectors[0].tolist(), "fingerprint": whole.fingerprint}
    shapes = {"w-classes": Prediction, "w-number": NumberPrediction, "w-labels": LabelsPrediction}
    for name, shape in shapes.items():
        body = checked(service.ask(name, asked))
        assert isinstance(PredictAnswer.model_validate(body).predictions[0], shape)
        assert body["lineage"]["snapshot"]["number"] == 1
    assert service.ask("w-classes", asked)["predictions"][0]["label"] == whole.groups[0]
    value = service.ask("w-number", asked)["predictions"][0]["value"]
    assert value == pytest.approx(whole.vectors[0][0], abs=0.05)
    assert whole.groups[0] in service.ask("w-labels", asked)["predictions"][0]["labels"]


def test_evidence_names_the_labelled_rows_that_are_nearest(whole_serving: Serving, whole: Whole) -> None:
    service = whole_serving.serve({"w-seen": {"head": "topics@1"}, "w-near": {"head": "near@1"}})
    asked = {"vector": whole.vectors[7].tolist(), "fingerprint": whole.fingerprint}
    cosines = whole.vectors @ whole.vectors[7]
    nearest = np.argsort(-cosines, kind="stable")[:3]
    for name in ("w-seen", "w-near"):
        assert service.ask(name, asked)["predictions"][0]["evidence"] is None
        rows = checked(service.ask(name, {**asked, "evidence": 3}))["predictions"][0]["evidence"]
        assert [row["id"] for row in rows] == [f"i-{i:03}" for i in nearest]
        assert [row["label"] for row in rows] == [whole.groups[i] for i in nearest]
        np.testing.assert_allclose([row["score"] for row in rows], cosines[nearest], atol=1e-5)
    assert "evidence" in service.ask("w-seen", {**asked, "evidence": 1})["timings_ms"]


def test_a_head_whose_snapshot_is_gone_answers_without_evidence(serving: Serving) -> None:
    service = serving.serve({"p-gone": {"head": "refunds@2"}})
    assert service.ask("p-gone", {"text": TEXT, "evidence": 3})["predictions"][0]["evidence"] is None


# --- rules -----------------------------------------------------------------------------------------------------------


def test_rules_before_and_after_are_named_in_the_answer_and_counted(serving: Serving) -> None:
    rules = {
        "before": [
            {"name": "blocked", "when": "subject = 'c-0'", "refuse": "this customer is blocked"},
            {"name": "needs-product", "require": ["product"]},
        ],
        "after": [
            {"name": "unsure", "least": {"*": 1.0}},
            {"name": "allowed", "allow": {"card": ["reissue"]}},
            {"name": "vip", "when": "product = 'gold'", "label": "money"},
            {"name": "look", "when": "product = 'gold'", "review": True},
        ],
    }
    service = serving.serve({"p-rules": {"head": "refunds@2", "rules": rules, "review": "seen"}})
    sent = {"text": TEXT, "columns": {"product": "visa"}}
    [plain] = checked(service.ask("p-rules", sent))["predictions"]
    assert (plain["label"], plain["abstained"], plain["why"], plain["actions"]) == ("card", True, "unsure", [])
    assert plain["rules"] == ["unsure", "allowed"]
    [gold] = checked(service.ask("p-rules", {"text": TEXT, "columns": {"product": "gold"}}))["predictions"]
    assert (gold["label"], gold["confidence"], gold["abstained"], gold["review"]) == ("money", None, False, True)
    assert gold["rules"] == ["unsure", "allowed", "vip", "look"]
    assert service.refused("p-rules", {**sent, "subject": "c-0"}) == (
        403,
        "RuleRefused",
        "rule 'blocked' refuses this request: this customer is blocked.",
    )
    assert service.refused("p-rules", {"text": TEXT})[:2] == (422, "ColumnsRequired")
    for rule, times in {"blocked": 1, "needs-product": 1, "unsure": 2, "allowed": 2, "vip": 1, "look": 1}.items():
        assert service.count(table.RULES_FIRED, "p-rules", rule) == times
    assert service.count(table.ABSTENTIONS, "p-rules", "unsure") == 1
    assert service.count(table.PREDICTIONS, "p-rules", "refunds@2", "money") == 1


def test_a_rule_that_gives_the_label_of_a_head_of_labels_leaves_no_confidence(whole_serving: Serving, whole: Whole) -> None:
    rules = {"after": [{"name": "always", "label": "card"}]}
    service = whole_serving.serve({"w-given": {"head": "tags@1", "rules": rules}})
    money = whole.groups.index("money")
    [one] = checked(service.ask("w-given", {"vector": whole.vectors[money].tolist(), "fingerprint": whole.fingerprint}))[
        "predictions"
    ]
    assert (one["labels"], one["confidence"]) == (["card"], None)


def test_a_rule_may_route_to_another_deployment_which_is_named_among_the_others(serving: Serving) -> None:
    rules = {"before": [{"name": "old", "when": "product = 'old'", "route": "p-to"}]}
    service = serving.serve({"p-from": {"head": "refunds@2", "rules": rules}, "p-to": {"head": "refunds@1"}})
    items = [{"text": TEXT, "columns": {"product": "new"}}, {"text": TEXT, "columns": {"product": "old"}}]
    body = checked(service.ask("p-from", {"items": items}))
    assert [(p["by"], p["rules"]) for p in body["predictions"]] == [("refunds@2", []), ("refunds@1", ["old"])]
    assert (body["lineage"]["deployment"], body["lineage"]["head"]) == ("p-from", "refunds@2")
    assert [(other["deployment"], other["head"]) for other in body["others"]] == [("p-to", "refunds@1")]
    assert (service.count(table.RULES_FIRED, "p-from", "old"), service.count(table.RULES_FIRED, "p-to", "old")) == (1, 0)


def test_what_is_unusable_is_named_by_its_field_whichever_deployment_answers_it(serving: Serving, house: Served) -> None:
    rules = {"before": [{"name": "old", "when": "product = 'old'", "route": "p-there"}]}
    service = Serving(house.rooms).serve(
        {"p-here": {"head": "refunds@2", "rules": rules}, "p-there": {"head": "refunds@1"}}
    )
    items = [
        {"text": TEXT},
        {"text": TEXT, "columns": {"product": "old"}},
        {"text": data_url(PICTURES[0]), "columns": {"product": "old"}},
    ]
    status, _, message = service.refused("p-here", {"items": items})
    assert (status, message) == (
        422,
        "1 field of this request is wrong: body.items[2].text: is an image, and this encoder takes texts.",
    )


def test_routes_that_never_end_are_refused_and_four_in_a_row_are_not(serving: Serving) -> None:
    def to(name: str) -> dict[str, Any]:
        return {"head": "refunds@2", "rules": {"before": [{"name": f"to-{name}", "route": name}]}}

    circle = serving.serve({"p-a": to("p-b"), "p-b": to("p-a")})
    assert circle.refused("p-a", {"text": TEXT}) == (
        422,
        "InvalidArguments",
        "predict 'p-a': more than 4 rules route one item on, from p-a to p-b at last.",
    )
    names = ["p-1", "p-2", "p-3", "p-4", "p-5"]
    row = serving.serve({**{a: to(b) for a, b in pairwise(names)}, "p-5": {"head": "refunds@1"}})
    body = row.ask("p-1", {"text": TEXT})
    assert body["predictions"][0]["rules"] == ["to-p-2", "to-p-3", "to-p-4", "to-p-5"]
    assert body["others"][0]["deployment"] == "p-5"


def test_a_quota_counts_nothing_of_a_request_that_is_refused(serving: Serving) -> None:
    rules = {
        "before": [
            {"name": "few", "quota": {"requests": 3, "window_s": 3600, "per": "subject"}},
            {"name": "blocked", "when": "product = 'bad'", "refuse": "no"},
        ]
    }
    service = serving.serve({"p-quota": {"head": "refunds@2", "rules": rules}})
    good = {"text": TEXT, "subject": "c-1"}
    bad = {**good, "columns": {"product": "bad"}}
    for _ in range(3):
        assert service.refused("p-quota", {"items": [good, good, bad]})[:2] == (403, "RuleRefused")
    unusable = {"items": [good, {**good, "text": data_url(PICTURES[0])}]}
    assert service.refused("p-quota", unusable)[0] == 422
    assert len(service.ask("p-quota", {"items": [good, good, good]})["predictions"]) == 3
    status, kind, message = service.refused("p-quota", good)
    assert (status, kind) == (429, "QuotaExceeded")
    assert message.startswith("rule 'few' lets 3 pass in 3600 s, and this request is one more. Try again in ")


# --- canary ----------------------------------------------------------------------------------------------------------


def answered_by(service: Service, name: str, items: list[dict[str, Any]], fingerprint: str) -> dict[str, str]:
    body: dict[str, Any] = {"predictions": []}
    by: dict[str, str] = {}
    for start in range(0, len(items), 250):
        body = checked(service.ask(name, {"items": items[start : start + 250], "fingerprint": fingerprint}))
        by |= {p["id"]: p["by"] for p in body["predictions"]}
    assert [other["head"] for other in body["others"]] == ["topics@2"]
    return by


def test_a_canary_answers_its_share_of_subjects_or_of_requests_and_always_the_same_ones(
    whole_serving: Serving, whole: Whole
) -> None:
    canary = {"head": "topics@2", "percent": 20}
    deployments = {
        "w-subject": {"head": "topics@1", "canary": canary},
        "w-request": {"head": "topics@1", "canary": {**canary, "by": "request"}},
    }
    service = whole_serving.serve(deployments)
    vector = whole.vectors[0].tolist()
    items = [{"id": f"r-{i}", "subject": f"c-{i}", "vector": vector} for i in range(2_000)]
    # 20% of 2,000 is 400, with a standard deviation of 17.9; four of them on either side
    for name in ("w-subject", "w-request"):
        by = answered_by(service, name, items, whole.fingerprint)
        assert set(by.values()) == {"topics@1", "topics@2"}
        assert 328 <= sum(head == "topics@2" for head in by.values()) <= 472
        assert answered_by(service, name, items[:500], whole.fingerprint) == {k: by[k] for k in list(by)[:500]}
    of_subjects = answered_by(service, "w-subject", items, whole.fingerprint)
    renamed = [{**item, "id": f"again-{i}"} for i, item in enumerate(items)]
    again = answered_by(service, "w-subject", renamed, whole.fingerprint)
    assert list(again.values()) == list(of_subjects.values()), "a subject stays where it is"
    nobody = [{"id": item["id"], "vector": vector} for item in items]
    assert len(set(answered_by(service, "w-subject", nobody, whole.fingerprint).values())) == 2


# --- limits ----------------------------------------------------------------------------------------------------------


def test_what_no_file_can_allow_is_refused_before_it_is_all_read(serving: Serving) -> None:
    service = serving.serve({"p-most": {"head": "refunds@2"}})
    many, path = [{"text": "a"}] * 4096, "/v1/predict/p-most"
    assert service.refused("p-most", {"items": many}) == (
        413,
        "BodyTooLarge",
        "body.items has 4096 items, over the limit of 256.",
    )
    too_many = "list should have at most 4096 items after validation, not"
    for url, body, problem in (
        (path, {"items": [*many, {"text": "a"}]}, f"body.items: {too_many} 4097"),
        (
            path,
            {"vector": [0.5] * 65_537, "fingerprint": "a" * 64},
            f"body.vector: {too_many.replace('4096', '65536')} 65537",
        ),
        ("/v1/collections/kept/log", {"rows": [{"id": "a", "text": "a"}] * 4097}, f"body.rows: {too_many} 4097"),
        (
            "/v1/collections/kept/log",
            {"rows": [{f"x{i}": 1 for i in range(1001)}]},
            "body.rows[0]: expected at most 1,000 fields in a row",
        ),
        ("/v1/embeddings", {"model": "tiny", "input": ["a"] * 4097}, "body.input: expected at most 4,096 strings"),
    ):
        answer = service.client.post(url, json=body)
        assert answer.status_code == 422
        assert answer.json()["error"]["message"] == f"1 field of this request is wrong: {problem}."


def test_a_deadline_is_kept_while_the_encoder_is_busy(serving: Serving, served: Served) -> None:
    held = Held(serving.rooms.load_encoder(served.fingerprint, 1))
    service = serving.serve({"p-late": {"head": "refunds@2"}}, away=lambda _: held)
    with service.client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(service.ask, "p-late", {"text": TEXT})
        assert held.begun.wait(60)
        late = service.refused("p-late", {"text": TEXT}, headers={"x-raystore-deadline-ms": "50"})
        held.go.set()
        assert first.result(60)["predictions"][0]["label"] == "card"
    assert late[:2] == (504, "DeadlineMissed")
    assert (
        late[2]
        == f"the request was given {late[2].split()[4]} s, and they ran out before it was encoded. Nothing was answered."
    )


def test_no_route_waits_for_a_busy_encoder_beyond_its_deadline(serving: Serving, served: Served) -> None:
    held = Held(serving.rooms.load_encoder(served.fingerprint, 1))
    service = serving.serve({"p-routes": {"head": "refunds@2"}}, away=lambda _: held)
    asked = {
        "/v1/embeddings": {"model": "tiny", "input": TEXT},
        "/v1/collections/kept/search": {"text": TEXT},
        "/v1/collections/kept/log": {"rows": [{"id": "never", "text": TEXT}]},
    }
    with service.client as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(service.ask, "p-routes", {"text": TEXT})
        assert held.begun.wait(60)
        late = {url: client.post(url, json=body, headers={"x-raystore-deadline-ms": "300"}) for url, body in asked.items()}
        held.go.set()
        first.result(60)
    for url, answer in late.items():
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (504, "DeadlineMissed"), url
        assert error["message"].endswith(" s, and they ran out before it was encoded. Nothing was answered."), url
    assert service.count(table.LOGGED, "kept") == 0
    assert service.client.post("/v1/collections/kept/log", json=asked["/v1/collections/kept/log"]).json()["added"] == 1


def test_evidence_is_looked_for_no_longer_than_the_deadline_and_then_nothing_is_logged(serving: Serving) -> None:
    service = serving.serve({"p-evidence": {"head": "refunds@2", "log": "kept"}})
    live = service.orchestrator.live["p-evidence"]
    searched = []

    def slowly(query: Matrix, k: int) -> tuple[list[str], list[float]]:
        searched.append(k)
        time.sleep(0.1)
        return [], []

    service.orchestrator.update({"p-evidence": replace(live, evidence=SnapshotEvidence(slowly, dict))})
    asked = {"items": [{"text": TEXT}] * 100, "evidence": 1}
    late = service.refused("p-evidence", asked, headers={"x-raystore-deadline-ms": "1000"})
    assert late[:2] == (504, "DeadlineMissed")
    assert len(searched) < 100
    assert service.count(table.LOGGED, "kept") == 0


class _Late:
    """A real head that answers when nobody waits any more."""

    def __init__(self, head: ServedHead) -> None:
        self.task, self.classes = head.task, head.classes
        self._head = head

    async def ask(self, vectors: Vectors) -> Predicted:
        found = await self._head.ask(vectors)
        await asyncio.sleep(0.6)
        return found


def test_what_a_head_says_too_late_is_neither_answered_nor_logged(serving: Serving) -> None:
    service = serving.serve({"p-slow": {"head": "refunds@2", "log": "kept"}})
    live = service.orchestrator.live["p-slow"]
    service.orchestrator.update({"p-slow": replace(live, head=_Late(live.head))})
    late = service.refused("p-slow", {"text": TEXT}, headers={"x-raystore-deadline-ms": "500"})
    assert late[:2] == (504, "DeadlineMissed")
    assert service.count(table.LOGGED, "kept") == 0
    assert service.ask("p-slow", {"text": TEXT})["logged"] is not None


def test_more_requests_than_are_taken_are_refused_at_once_and_health_still_answers(
    serving: Serving, served: Served
) -> None:
    held = Held(serving.rooms.load_encoder(served.fingerprint, 1))
    service = serving.serve({"p-full": {"head": "refunds@2"}}, away=lambda _: held, limits={"max_requests": 1})
    with service.client as client, ThreadPoolExecutor(1) as threads:
        first = threads.submit(service.ask, "p-full", {"text": TEXT})
        assert held.begun.wait(60)
        over = client.post("/v1/predict/p-full", json={"text": CANARY})
        health = client.get("/healthz")
        assert service.count(table.IN_FLIGHT) == 1
        held.go.set()
        first.result(60)
    assert (over.status_code, over.headers["retry-after"]) == (503, "1")
    assert over.json() == {
        "error": {
            "type": "Overloaded",
            "message": "1 requests are under way here, and no more are taken. Try again in a moment.",
            "request_id": over.headers["x-request-id"],
            "limit": 1,
        }
    }
    assert health.json() == {"status": "ok"}
    assert service.count(table.IN_FLIGHT) == 0
    assert service.count(table.REQUESTS, "/v1/predict/{deployment}", "p-full", "503") == 1


# --- the document ----------------------------------------------------------------------------------------------------


def test_the_openapi_document_has_the_models_of_the_bodies_that_are_read_past_fastapi(serving: Serving) -> None:
    service = serving.serve({"p-doc": {"head": "refunds@2"}})
    document = service.client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for model in (PredictRequest, PredictItem, StreamLine, PredictAnswer):
        assert set(schemas[model.__name__]["properties"]) == set(model.model_fields)
    paths = document["paths"]
    sent = paths["/v1/predict/{deployment}"]["post"]["requestBody"]["content"]
    assert sent["application/json"]["schema"] == {"$ref": "#/components/schemas/PredictRequest"}
    assert sent["image/*"]["schema"] == {"type": "string", "format": "binary"}
    stream = paths["/v1/predict/{deployment}/stream"]["post"]
    assert stream["requestBody"]["content"]["application/x-ndjson"]["schema"] == {
        "$ref": "#/components/schemas/PredictItem"
    }
    answered = stream["responses"]["200"]["content"]["application/x-ndjson"]["schema"]
    assert answered == {"$ref": "#/components/schemas/StreamLine"}
    named = set(_refs(document))
    assert {ref for ref in named if ref.rsplit("/", 1)[-1] not in schemas} == set()


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for each in value.values() for ref in _refs(each)]
    return [ref for each in value for ref in _refs(each)] if isinstance(value, list) else []
