"""The application as several Serve deployments, on a real Ray: encoders and heads of their own, shadows, promotion, kills."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

import raystore
from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.grpc.raystore_pb2_grpc import OrchestratorStub
from raystore.serve.run.deploy import Running, deploy
from raystore.serve.run.proxy import free_port
from raystore.serve.spec.app import AppSpec
from tests.serve.conftest import CARD, Served, copy_head, make_store
from tests.serve.serving import files_holding, object_store_counts, pids_of
from tests.waiting import soon

pytestmark = pytest.mark.ray

GRPC_PORT = free_port()
ASKED: list[str] = []  # items of deployment triage
LAST: list[str] = []  # asked just before the service ended
CANARY = "CANARY-5d20-unwritten"
TRIAGE = {
    "head": {"name": "refunds@1", "own": True},
    "shadow": ["refunds@2"],
    "log": {"collection": "kept", "required": False},
    "review": {"table": "reviewed", "sample": 1},
    "keep": ["product"],
}


# Things in shadow that misbehave. Heads and encoders of ours cannot be made to sleep, or to take memory without end: no real one does.
# So hooks of rules in shadow do, which are anybody's code; they run where shadow heads do, in lanes of the same kind. A head can raise
# by itself: the file of "hurt@1" is damaged.
BAD: dict[str, dict[str, Any]] = {
    **{
        hook: {
            "head": "refunds@1",
            "shadow": ["refunds@2"],
            "rules": {"after": [{"name": hook, "shadow": True, "call": f"tests.serve.bad_hooks:{hook}"}]},
        }
        for hook in ("sleep", "fail", "fill_memory")
    },
    "damaged": {"head": "refunds@1", "shadow": ["hurt@1", "refunds@2"]},
}


# Heads that are asked somewhere else: labelled rows of a collection, and an MLP.
SLOW: dict[str, dict[str, Any]] = {
    "voters": {"head": {"name": "near@1", "own": True, "cpus": 0.1}},
    "wide": {"head": {"name": "wide@1", "own": True, "cpus": 0.1}},
}


APP: dict[str, Any] = {
    "deployments": {"triage": TRIAGE, "plain": {"head": "refunds@2"}, **SLOW, **BAD},
    "encoders": {"tiny": {"replicas": 2}},
    "recording": {"memory_mb": 512},
    "grpc": {"port": GRPC_PORT},
    "watch": {"json_logs": True},
}


def spec_of(running: Running, **changes: Any) -> AppSpec:
    return AppSpec.model_validate({**APP, "port": int(running.url.rsplit(":", 1)[1]), **changes})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    served = make_store(tmp_path_factory.mktemp("graph") / "store", tiny_model)
    copy_head(served.rooms, "hurt")
    copy_head(served.rooms, "wide", "mlp")
    raystore.open(served.root).register_classifier("near", "tickets", labels="product", k=3)
    return served


@pytest.fixture(scope="module")
def running(store: Served, ray_session: object) -> Iterator[Running]:
    running = deploy(store.root, AppSpec.model_validate({**APP, "port": free_port()}), threads=1)
    yield running
    with httpx.Client(base_url=running.url, timeout=60) as client:
        LAST.append(predict(client, "the last one")["predictions"][0]["id"])
    running.stop()
    # The log is not required, so rows may have waited; they are written before a replica ends.
    kept = set(raystore.open(store.root).collection("kept").to_arrow(columns=["id"])["id"].to_pylist())
    assert ASKED
    assert set(ASKED) <= kept
    # So are predictions, but for those that were on their way when the recording process was killed.
    told = raystore.open(store.root).sql("SELECT request FROM predictions_triage WHERE role = 'live'").to_arrow()
    assert LAST[0] in told["request"].to_pylist()


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client


@pytest.fixture
def hurt(store: Served) -> Iterator[None]:
    """A shadow whose file is damaged meanwhile."""
    [arrays] = store.rooms.layout.heads("hurt").rglob("head.safetensors")
    whole = arrays.read_bytes()
    arrays.chmod(0o644)
    arrays.write_bytes(bytes(len(whole)))
    yield
    arrays.write_bytes(whole)


def ray_folder() -> Path:
    """Where this Ray writes what its processes say."""
    import ray

    return Path(ray._private.worker._global_node.get_session_dir_path())


def samples(client: httpx.Client, name: str, label: str) -> dict[str, float]:
    """The metric's values, added up by one of its labels."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name:
                found[sample.labels[label]] = found.get(sample.labels[label], 0.0) + sample.value
    return found


def running_replicas() -> tuple[int, int]:
    return len(pids_of("encoder-tiny")), len(pids_of("recording"))


def predict(client: httpx.Client, text: str, name: str = "triage", **more: Any) -> Any:
    answer = client.post(f"/v1/predict/{name}", json={"text": text, **more})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    if name == "triage":
        ASKED.extend(each["id"] for each in said["predictions"])
    return said


def test_an_encoder_and_a_head_of_their_own_answer_as_those_inside_would(client: httpx.Client, store: Served) -> None:
    rooms = store.rooms
    for text in CARD:
        vector = rooms.encoders.get("tiny").encode([text])
        for name, head in (("triage", "refunds@1"), ("plain", "refunds@2")):
            (said,) = predict(client, text, name)["predictions"]
            expected = rooms.heads.get(head).predict(vector)
            assert said["label"] == expected.labels[0]
            assert said["confidence"] == pytest.approx(float(expected.confidence[0]), abs=1e-4)
    assert len(pids_of("encoder-tiny")) == 2
    assert len(pids_of("head-triage")) == 1
    usage = client.post("/v1/embeddings", json={"model": "tiny", "input": "a card"}).json()["usage"]
    assert usage["prompt_tokens"] == rooms.encoders.get("tiny").load(threads=1).count_tokens(["a card"])


@pytest.mark.parametrize("name", SLOW)
def test_neighbours_and_an_mlp_answer_from_a_process_of_their_own(client: httpx.Client, store: Served, name: str) -> None:
    head = store.rooms.head(SLOW[name]["head"]["name"])
    for text in CARD:
        (said,) = predict(client, text, name, evidence=2)["predictions"]
        expected = head.predict(store.rooms.encoders.get("tiny").encode([text]))
        assert (said["label"], said["by"]) == (expected.labels[0], SLOW[name]["head"]["name"])
        found = {each["label"]: each["probability"] for each in said["probabilities"]}
        assert found == pytest.approx(dict(zip(head.classes, expected.probabilities[0].tolist(), strict=True)), abs=1e-4)
    assert len(pids_of(f"head-{name}")) == 1


def test_an_own_head_of_neighbours_follows_the_rows_that_are_logged(client: httpx.Client) -> None:
    rows = [{"id": f"new-{i}", "text": "snow", "product": "late"} for i in range(3)]
    assert predict(client, "snow", "voters", evidence=3)["predictions"][0]["label"] != "late"
    answer = client.post("/v1/collections/tickets/log", json={"rows": rows})
    assert answer.status_code == 200, answer.text
    said = soon(lambda: (one := predict(client, "snow", "voters", evidence=3)["predictions"][0])["label"] == "late" and one)
    assert {near["id"] for near in said["evidence"]} == {"new-0", "new-1", "new-2"}


def test_grpc_answers_as_http_does(client: httpx.Client) -> None:
    (expected,) = predict(client, "the card", "plain")["predictions"]
    with grpc.insecure_channel(f"127.0.0.1:{GRPC_PORT}") as channel:
        answer = OrchestratorStub(channel).Predict(
            pb.PredictRequest(deployment="plain", items=[pb.PredictItem(text="the card")])
        )
    assert answer.predictions[0].by == expected["by"] == "refunds@2"


def test_what_an_encoder_away_cannot_encode_is_refused_with_its_field(client: httpx.Client) -> None:
    answer = client.post("/v1/predict/triage", json={"text": "data:image/png;base64," + "A" * 40})
    assert answer.status_code == 422
    assert "body.text" in answer.text


def test_a_shadow_sees_what_the_live_head_sees_and_its_report_is_had_over_http(client: httpx.Client, store: Served) -> None:
    ids = [predict(client, text, columns={"product": "card"})["predictions"][0]["id"] for text in CARD * 4]

    def seen() -> Any:
        reports = client.get("/v1/shadow/triage").json()["reports"]
        return reports and reports[0]["n_paired"] >= len(ids) and reports[0]

    report = soon(seen)
    assert (report["live"], report["shadow"]) == ("refunds@1", "refunds@2")
    assert report["metrics"]["agreement"] == report["agreement"]["value"]
    rows = (
        raystore.open(store.root).sql("SELECT request, head, role, product FROM predictions_triage").to_arrow().to_pylist()
    )
    assert {(row["head"], row["role"]) for row in rows if row["request"] in ids} == {
        ("refunds@1", "live"),
        ("refunds@2", "shadow"),
    }
    assert {row["product"] for row in rows if row["request"] in ids} == {"card"}


def test_metrics_of_all_processes_are_one(client: httpx.Client) -> None:
    predict(client, "the card")
    processes = {"ingress": 1, "encoder": 2, "head": 3, "recording": 1}
    soon(lambda: samples(client, "raystore_processes", "process") == processes)
    soon(lambda: sum(samples(client, "raystore_shadow_predictions_total", "deployment").values()) > 0)


def test_shadows_and_records_give_way_to_answers(client: httpx.Client) -> None:
    """Each thread has its niceness; one that ended meanwhile has none."""
    predict(client, "the card")
    soon(lambda: sum(samples(client, "raystore_shadow_predictions_total", "deployment").values()) > 0)
    [recording] = pids_of("recording")
    niceness = []
    for thread in Path(f"/proc/{recording}/task").iterdir():
        with suppress(ProcessLookupError):
            niceness.append(os.getpriority(os.PRIO_PROCESS, int(thread.name)))
    assert set(niceness) == {19}


def test_an_encoder_of_its_own_is_watched_where_it_runs(client: httpx.Client, store: Served) -> None:
    encoder = store.rooms.encoders.get("tiny").label
    predict(client, "the card")

    def told(name: str, label: str = "encoder") -> dict[str, float]:
        return samples(client, name, label)

    soon(lambda: told("raystore_golden_cosine").get(encoder, 0) > 0.9999)
    assert told("raystore_encoder_loaded") == {encoder: 2}
    soon(lambda: told("raystore_batch_items_count").get(encoder, 0) > 0)
    # Each look is at another moment, and the replicas' counts come in between two.
    counts = [f"raystore_batch_{of}_count" for of in ("seconds", "tokens", "items")]
    soon(lambda: len({told(name)[encoder] for name in counts}) == 1)
    assert told("raystore_queue_depth", "queue")[f"encode {encoder}"] >= 0
    assert client.get("/v1/status").json()["encoders"][encoder]["processes"] == 2


def test_the_status_says_what_answers(client: httpx.Client) -> None:
    status = client.get("/v1/status").json()
    assert [(d["name"], d["head"], d["shadows"]) for d in status["deployments"]] == [
        ("triage", "refunds@1", ["refunds@2"]),
        ("plain", "refunds@2", []),
        ("voters", "near@1", []),
        ("wide", "wide@1", []),
        *((name, "refunds@1", each["shadow"]) for name, each in BAD.items()),
    ]


def test_reviewed_items_are_claimed_and_labelled_over_http_and_read_in_sql(client: httpx.Client, store: Served) -> None:
    id_ = predict(client, "a card to look at")["predictions"][0]["id"]
    soon(lambda: id_ in [item["id"] for item in client.get("/v1/review/triage?limit=1000").json()["items"]])
    claimed = client.post("/v1/review/triage/claim", json={"reviewer": "anna", "n": 1000}).json()["items"]
    assert id_ in [item["id"] for item in claimed]
    other = client.post("/v1/review/triage/claim", json={"reviewer": "ben", "n": 1000}).json()["items"]
    assert not {item["id"] for item in claimed} & {item["id"] for item in other}
    done = client.post("/v1/review/triage", json={"reviewer": "anna", "labels": [{"id": id_, "label": "card"}]})
    assert (done.status_code, done.json()["added"]) == (200, 1), done.text
    found = raystore.open(store.root).sql("SELECT label, reviewer FROM reviewed WHERE id = $id", {"id": id_})
    assert found.to_arrow().to_pylist() == [{"label": "card", "reviewer": "anna"}]


def test_a_shadow_is_promoted_and_rolled_back_without_a_failed_request(client: httpx.Client, running: Running) -> None:
    statuses: list[int] = []
    heads: list[str] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=60) as each:
            while not done.is_set():
                answer = each.post("/v1/predict/triage", json={"text": "red and blue"})
                statuses.append(answer.status_code)
                heads.append(answer.json()["lineage"]["head"] if answer.status_code == 200 else answer.text)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        refused = client.post("/v1/deployments/triage/promote", json={"head": "refunds@2", "if": "n_labelled > 0"})
        assert (refused.status_code, refused.json()["error"]["type"]) == (409, "GateHeld"), refused.text
        answer = client.post("/v1/deployments/triage/promote", json={"head": "refunds@2", "if": "agreement >= 0"})
        assert (answer.status_code, answer.json()["after"]) == (200, "refunds@2"), answer.text
        soon(lambda: heads[-1] == "refunds@2")
        back = client.post("/v1/deployments/triage/rollback", json={})
        assert (back.status_code, back.json()["after"]) == (200, "refunds@1"), back.text
        soon(lambda: heads[-1] == "refunds@1")
    finally:
        done.set()
        asking.join()
    assert set(statuses) == {200}
    changes = [head for i, head in enumerate(heads) if i == 0 or head != heads[i - 1]]
    assert changes == ["refunds@1", "refunds@2", "refunds@1"]


def test_a_shadow_that_sleeps_raises_or_fills_memory_changes_no_answer(
    client: httpx.Client, store: Served, hurt: None
) -> None:
    """What they do to the p99 is a part of the benchmark."""
    before = pids_of("orchestrator")
    head, encoder = store.rooms.heads.get("refunds@1"), store.rooms.encoders.get("tiny")
    for name in BAD:
        for text in CARD * 3:
            (said,) = predict(client, text, name)["predictions"]
            expected = head.predict(encoder.encode([text]))
            probabilities = dict(zip(head.classes, expected.probabilities[0].tolist(), strict=True))
            assert (said["label"], said["by"], said["rules"]) == (expected.labels[0], "refunds@1", [])
            found = {each["label"]: each["probability"] for each in said["probabilities"]}
            assert found == pytest.approx(probabilities, abs=1e-4)
    assert pids_of("orchestrator") == before

    def hurt_is_counted() -> bool:
        predict(client, "once more", "damaged")
        return samples(client, "raystore_shadow_dropped_total", "reason").get("HeadCorrupt", 0) > 0

    soon(hurt_is_counted, 60)

    def paired() -> Any:
        """The shadows beside the bad ones are asked all the same, though the process may have begun anew."""
        found = []
        for name in ("fail", "damaged"):
            predict(client, "once more", name)
            reports = client.get(f"/v1/shadow/{name}")
            found.append(reports.status_code == 200 and [each["shadow"] for each in reports.json()["reports"]])
        return found == [["refunds@2"]] * 2

    soon(paired, 60)


def test_what_a_process_beside_the_ingress_says_is_a_line_of_json_too(client: httpx.Client) -> None:
    logs = ray_folder() / "logs"

    def said() -> set[str]:
        predict(client, "the card", "fail")
        written = "".join(file.read_text(encoding="utf-8", errors="replace") for file in logs.glob("worker-*.err"))
        lines = [json.loads(line) for line in written.splitlines() if line.startswith('{"ts"')]
        return {line.get("message", line.get("route")) for line in lines if "fail" in str(line)}

    hook = "the hook of rule 'fail' of deployment fail raised ValueError at its line "
    soon(lambda: {text.rstrip("0123456789") for text in said()} >= {hook, "/v1/predict/{deployment}"})


def test_a_killed_encoder_replica_and_a_killed_recorder_fail_no_request(client: httpx.Client) -> None:
    os.kill(pids_of("encoder-tiny")[0], signal.SIGKILL)
    os.kill(pids_of("recording")[0], signal.SIGKILL)
    for _ in range(40):
        predict(client, "the card never arrived")
    soon(lambda: running_replicas() == (2, 1), 120)
    assert running_replicas() == (2, 1)
    id_ = predict(client, "and again")["predictions"][0]["id"]

    def kept() -> bool:
        return id_ in [item["id"] for item in client.get("/v1/review/triage?limit=1000").json().get("items", [])]

    soon(kept, 60)


def test_the_batch_and_the_encoders_replicas_change_in_place_without_a_failed_request(
    client: httpx.Client, running: Running, store: Served
) -> None:
    statuses: list[int] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=60) as each:
            while not done.is_set():
                statuses.append(each.post("/v1/predict/plain", json={"text": "red and blue"}).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    before = client.get("/v1/status").json()
    triage = {**TRIAGE, "log": {"collection": "kept", "required": False, "queue": 321}}
    changes = {"recording": {"memory_mb": 512, "queue": 123}, "deployments": {**APP["deployments"], "triage": triage}}
    encoders = {"tiny": {"replicas": 1}}
    try:
        deploy(store.root, spec_of(running, batch={"wait_ms": 1}, encoders=encoders, **changes), threads=1)
        soon(lambda: running_replicas() == (1, 1), 120)
    finally:
        done.set()
        asking.join()
    assert set(statuses) == {200}
    predict(client, "the card")
    limits = samples(client, "raystore_queue_limit", "queue")
    assert {name: limits[name] for name in ("recording", "log kept")} == {"recording": 123, "log kept": 321}
    after = client.get("/v1/status").json()
    assert after["up_s"] > before["up_s"], "the replica is the same, and so is what it remembers"
    plain = {each["name"]: each["recent"]["5m"] for each in after["deployments"]}["plain"]
    assert plain["requests"] >= len(statuses)
    assert set(client.get("/readyz").json()["deployments"]) == {"triage", "plain", *SLOW, *BAD}


def test_content_is_nowhere_on_its_way_to_an_encoder_of_its_own(client: httpx.Client, store: Served) -> None:
    import ray

    control = "raystore-control-3b92"
    items = [{"text": f"{CANARY} " * 4_000 + str(i)} for i in range(4)]
    answer = client.post("/v1/predict/triage", json={"items": items})
    assert answer.status_code == 200, answer.text
    for folder in (ray_folder(), store.root):
        assert files_holding(folder, CANARY.encode()) == []
    needles = [CANARY.encode(), control.encode()]
    before = object_store_counts(needles)
    held = ray.put(control.encode() * 20_000)  # over what goes inline: it must be seen
    after = object_store_counts(needles)
    del held
    assert before[0] == after[0] == 0
    assert after[1] > before[1]
