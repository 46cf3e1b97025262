"""The routes of those who operate and review: status, metrics, deployments, promotion, shadows, the review queue."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import raystore
from raystore.data.tables.table import open_table
from raystore.serve.answer.loading import Rooms
from raystore.serve.operate.operations import Operations
from raystore.serve.recording.recorder import Recorder
from raystore.serve.run.follow import Follower
from raystore.serve.spec.records import DeploymentRecord, deployment_records
from raystore.serve.spec.watch import Watch
from raystore.serve.watch.metrics import Metrics
from tests.serve.conftest import Served, recorded
from tests.serve.serving import CANARY, Service, Serving

TEXT = "the card never arrived"


@pytest.fixture(scope="module")
def rooms(served: Served) -> Rooms:
    return served.rooms


@pytest.fixture(scope="module")
def recorder(rooms: Rooms) -> Iterator[Recorder]:
    recorder = Recorder(rooms, Watch(), Metrics("recording"))
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def service(rooms: Rooms, recorder: Recorder) -> Service:
    deployments: dict[str, dict[str, Any]] = {
        "h-shadowed": {"head": "refunds@1", "shadow": ["refunds@2"], "log": "kept"},
        "h-looked": {
            "head": "refunds@2", "review": {"table": "h_reviewed", "sample": 1}, "keep": ["product"],
            "canary": {"head": "refunds@1", "percent": 1},
        },
    }  # fmt: skip
    shown = {"collections": ["kept"], "tables": ["h_outcomes", "h_nothing_yet"]}
    tell = lambda seen: recorder.take([seen])  # noqa: E731
    service = Serving(rooms).serve(deployments, tell=tell, shown=shown, operating=True)
    recorder.update({name: live.record for name, live in service.orchestrator.live.items()})
    return service


def test_deployments_are_listed_with_what_answers_and_what_watches(service: Service) -> None:
    listed = service.client.get("/v1/deployments").json()
    assert [each["name"] for each in listed["deployments"]] == ["h-looked", "h-shadowed"]
    one = service.client.get("/v1/deployments/h-shadowed").json()
    assert one == listed["deployments"][1]
    assert {name: one[name] for name in ("head", "shadows", "canary", "log", "review", "why")} == {
        "head": "refunds@1", "shadows": ["refunds@2"], "canary": None, "log": "kept", "review": None, "why": None,
    }  # fmt: skip
    assert (listed["deployments"][0]["canary"], listed["deployments"][0]["review"]) == ("refunds@1", "h_reviewed")
    missing = service.client.get("/v1/deployments/nobody")
    assert (missing.status_code, missing.json()["error"]["existing"]) == (404, ["h-looked", "h-shadowed"])


def test_a_shadows_report_is_told_with_its_figures(service: Service, recorder: Recorder) -> None:
    empty = service.client.get("/v1/shadow/h-looked")
    assert (empty.status_code, empty.json()["reports"]) == (200, [])
    for i, text in enumerate([TEXT, "return the money", "red and blue"] * 3):
        service.ask("h-shadowed", {"id": f"s-{i}", "text": text})
    assert recorder.drain(60)
    answer = service.client.get("/v1/shadow/h-shadowed")
    assert answer.status_code == 200, answer.text
    [report] = answer.json()["reports"]
    assert (report["live"], report["shadow"], report["n_paired"]) == ("refunds@1", "refunds@2", 9)
    assert report["metrics"]["agreement"] == pytest.approx(6 / 9)
    assert report["metrics"]["accuracy_gain"] is None
    missing = service.client.get("/v1/shadow/h-shadowed?labels=nowhere.label")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "TableNotFound")
    wrong = service.client.get(f"/v1/shadow/h-shadowed?labels={CANARY}")
    assert (wrong.status_code, wrong.json()["error"]["problems"][0]["field"]) == (422, "query.labels")
    assert CANARY not in wrong.text


def test_a_promotion_over_http_is_followed_by_what_serves(service: Service, rooms: Rooms) -> None:
    url = "/v1/deployments/h-shadowed"
    held = service.client.post(f"{url}/promote", json={"head": "refunds@2", "if": "agreement > .97"})
    assert (held.status_code, held.json()["error"]["type"]) == (409, "GateHeld")
    assert held.json()["error"]["message"].endswith("Nothing was changed.")
    followed = threading.Event()

    def changed(records: dict[str, DeploymentRecord]) -> dict[str, DeploymentRecord]:
        service.orchestrator.update({**service.orchestrator.live, **rooms.live(records)})
        if records["h-shadowed"].number == 2:
            followed.set()
        return records

    follower = Follower(rooms.catalog, changed, look_s=0.01)
    follower.follow({"h-shadowed": deployment_records(rooms.catalog)["h-shadowed"]})
    done = service.client.post(f"{url}/promote", json={"head": "refunds@2", "if": "agreement > .5"})
    assert done.status_code == 200, done.text
    assert (done.json()["number"], done.json()["before"], done.json()["after"]) == (2, "refunds@1", "refunds@2")
    assert done.json()["verdict"]["passed"]
    assert followed.wait(60)
    assert service.ask("h-shadowed", {"text": TEXT})["lineage"]["head"] == "refunds@2"
    assert service.client.get(url).json()["why"] == "promoted refunds@2 over refunds@1: agreement > 0.5"
    back = service.client.post(f"{url}/rollback", json={})
    assert (back.status_code, back.json()["after"], back.json()["number"]) == (200, "refunds@1", 3)
    none = service.client.post(f"{url}/rollback", json={"to": 9})
    assert (none.status_code, none.json()["error"]["type"]) == (422, "InvalidArguments")


def test_what_is_wrong_with_a_promotion_is_told_by_its_field_and_echoes_nothing(service: Service) -> None:
    url = "/v1/deployments/h-shadowed/promote"
    for body, field in [
        ({"head": f"{CANARY} x"}, "body.head"),
        ({"head": "refunds@2", "if": [CANARY]}, "body.if"),
        ({"head": "refunds@2", "since": CANARY}, "body.since"),
        ({"head": "refunds@2", CANARY: 1}, "body"),
    ]:
        answer = service.client.post(url, json=body)
        assert (answer.status_code, answer.json()["error"]["problems"][0]["field"]) == (422, field)
        assert CANARY not in answer.text
    missing = service.client.post(url, json={"head": "refunds@77"})
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "HeadNotFound")


def test_the_review_queue_is_listed_claimed_and_labelled(service: Service, recorder: Recorder, rooms: Rooms) -> None:
    for i in range(4):
        item = {"id": f"l-{i}", "text": f"{TEXT} {CANARY}", "columns": {"product": "visa"}}
        assert service.ask("h-looked", item)["predictions"][0]["review"]
    assert recorder.drain(60)
    url = "/v1/review/h-looked"
    listed = service.client.get(url)
    assert CANARY not in listed.text
    assert [item["id"] for item in listed.json()["items"]] == [f"l-{i}" for i in range(4)]
    assert listed.json()["items"][0]["columns"] == {"product": "visa"}
    assert len(service.client.get(f"{url}?limit=2&order=least_confident").json()["items"]) == 2
    mine = service.client.post(f"{url}/claim", json={"reviewer": "ann", "n": 2}).json()["items"]
    others = service.client.post(f"{url}/claim", json={"reviewer": "bob", "n": 9}).json()["items"]
    assert [[item["id"] for item in items] for items in (mine, others)] == [["l-0", "l-1"], ["l-2", "l-3"]]
    assert {item["claimed_by"] for item in mine} == {"ann"}
    labels = [{"id": "l-0", "label": "card"}, {"id": "l-1", "label": "money"}]
    done = service.client.post(url, json={"reviewer": "ann", "labels": labels})
    assert done.status_code == 200, done.text
    assert {name: done.json()[name] for name in ("added", "known", "disagreements")} == {
        "added": 2, "known": 0, "disagreements": [],
    }  # fmt: skip
    assert [item["id"] for item in service.client.get(url).json()["items"]] == ["l-2", "l-3"]
    rows = open_table(rooms.catalog, "h_reviewed").dataset().to_table(columns=["id", "label", "reviewer"]).to_pylist()
    assert sorted((row["id"], row["label"], row["reviewer"]) for row in rows) == [
        ("l-0", "card", "ann"), ("l-1", "money", "ann"),
    ]  # fmt: skip
    wrong = service.client.post(url, json={"reviewer": "ann", "labels": [{"id": "l-2", "label": CANARY}]})
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (422, "InvalidArguments")
    assert CANARY not in wrong.text
    unknown = service.client.post(url, json={"reviewer": "ann", "labels": [{"id": CANARY, "label": "card"}]})
    assert (unknown.status_code, unknown.json()["error"]["type"]) == (404, "ItemNotFound")
    assert CANARY not in unknown.text
    none = service.client.get("/v1/review/h-shadowed")
    assert (none.status_code, none.json()["error"]["message"]) == (
        422,
        "review 'h-shadowed': it has no review queue: give it review: {table: ...} in its file.",
    )


def test_labels_of_the_review_queue_are_labels_of_the_report(service: Service, recorder: Recorder) -> None:
    assert recorder.drain(60)
    answer = service.client.get("/v1/shadow/h-looked?labels=h_reviewed.label")
    assert answer.status_code == 200, answer.text


OF_A_DEPLOYMENT: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/v1/deployments/{deployment}", {}),
    ("POST", "/v1/deployments/{deployment}/promote", {"head": "refunds@2"}),
    ("POST", "/v1/deployments/{deployment}/rollback", {}),
    ("GET", "/v1/shadow/{deployment}", {}),
    ("GET", "/v1/review/{deployment}", {}),
    ("POST", "/v1/review/{deployment}/claim", {}),
    ("POST", "/v1/review/{deployment}", {"labels": [{"id": "x", "label": "card"}]}),
    ("POST", "/v1/review/{deployment}/release", {}),
]


def test_a_deployment_of_the_store_that_this_service_does_not_serve_is_none_to_every_route(
    service: Service, rooms: Rooms
) -> None:
    elsewhere = {"shadow": ["refunds@2"], "log": "kept", "review": {"table": "h_else"}}
    record = recorded(rooms, "h-elsewhere", "refunds@1", **elsewhere)
    for method, path, body in OF_A_DEPLOYMENT:
        answer = service.client.request(method, path.format(deployment="h-elsewhere"), json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["type"], error["message"]) == (
            404,
            "DeploymentNotFound",
            "no deployment of that name here. There are: 'h-looked', 'h-shadowed'.",
        ), path
    assert deployment_records(rooms.catalog)["h-elsewhere"] == record


def test_no_route_of_those_who_operate_a_deployment_is_left_out_above(service: Service) -> None:
    paths = service.client.get("/openapi.json").json()["paths"]
    told = {(method.upper(), path) for path, methods in paths.items() for method in methods if "{deployment}" in path}
    predicting = {("POST", path) for _, path in told if path.startswith("/v1/predict/")}
    assert told - predicting == {(method, path) for method, path, _ in OF_A_DEPLOYMENT}


def test_labels_of_a_report_are_of_what_this_service_serves_alone(service: Service, rooms: Rooms) -> None:
    store = raystore.open(rooms.layout.root)
    for name in ("h_outcomes", "h_salaries"):
        store.register_table(name, [{"ticket": "s-0", "outcome": "card"}], id="ticket")
    served = service.client.get("/v1/shadow/h-shadowed?labels=h_outcomes.outcome")
    assert served.status_code == 200, served.text
    url = "/v1/deployments/h-shadowed/promote"
    for hidden in ("h_salaries", "h_nothing_yet", "h_else", "predictions_h_shadowed", "nowhere"):
        asked = {"head": "refunds@2", "if": "agreement > 2", "labels": f"{hidden}.outcome"}
        for answer in (
            service.client.get(f"/v1/shadow/h-shadowed?labels={hidden}.outcome"),
            service.client.post(url, json=asked),
        ):
            error = answer.json()["error"]
            assert (answer.status_code, error["type"], error["message"]) == (
                404,
                "TableNotFound",
                "no table of that name here. There are: 'h_outcomes', 'h_reviewed', 'kept'. The deployment file's tables and "
                "collections say which are served.",
            )
    held = service.client.post(url, json={"head": "refunds@2", "if": "agreement > 2", "labels": "h_outcomes.outcome"})
    assert (held.status_code, held.json()["error"]["type"]) == (409, "GateHeld")
    in_process = Operations(rooms).reports("h-shadowed", labels="h_salaries.outcome")
    assert [report.n_paired for report in in_process] == [9]


def test_status_says_what_answers_and_how_it_is_doing(service: Service) -> None:
    service.ask("h-looked", {"id": "st", "text": TEXT})
    answer = service.client.get("/v1/status")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert {each["name"]: each["head"] for each in body["deployments"]}["h-looked"] == "refunds@2"
    [looked] = [each for each in body["deployments"] if each["name"] == "h-looked"]
    assert looked["canary"] == {"head": "refunds@1", "percent": 1}
    assert looked["recent"]["1m"]["requests"] >= 1
    assert body["processes"] == {"ingress": 1}


def test_metrics_are_prometheus_text_in_which_requests_are_counted(service: Service) -> None:
    def counted() -> dict[tuple[str, ...], float]:
        answer = service.client.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return {
            (sample.name, *(sample.labels.get(k, "") for k in ("route", "deployment", "status"))): sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
        }

    before = counted()
    for _ in range(3):
        service.ask("h-looked", {"text": TEXT})
    service.client.post("/v1/predict/h-looked", json={})
    service.client.post(f"/v1/predict/{CANARY.lower()}", json={"text": "a"})
    after = counted()
    route = "/v1/predict/{deployment}"
    for key, rise in [(("h-looked", "200"), 3), (("h-looked", "422"), 1), (("", "404"), 1)]:
        name = ("raystore_requests_total", route, *key)
        assert after[name] - before.get(name, 0) == rise
    assert after["raystore_request_seconds_count", route, "h-looked", ""] >= 4
    assert CANARY.lower() not in service.client.get("/metrics").text


def test_without_an_operator_there_are_no_such_routes(rooms: Rooms) -> None:
    service = Serving(rooms).serve({"h-plain": {"head": "refunds@2"}})
    for path in ("/v1/deployments", "/v1/status", "/metrics", "/v1/review/h-plain"):
        assert service.client.get(path).status_code == 404
