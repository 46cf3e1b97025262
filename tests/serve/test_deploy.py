from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest

import raystore
from raystore.errors import HeadNotFound, InvalidArguments, JobFailed, KeyRequired
from raystore.serve.run import deploy as deploy_module
from raystore.serve.run.balancer import Balancer
from raystore.serve.run.deploy import Running, deploy
from raystore.serve.run.present import present_app
from raystore.serve.run.proxy import free_port, haproxy_binary
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.records import deployment_records
from tests.pictures import data_url
from tests.serve.conftest import Served, recorded
from tests.serve.serving import files_holding, object_store_counts, pids_of
from tests.waiting import soon

pytestmark = pytest.mark.ray

CANARY = "CANARY-91c4-unheard"
TRIAGE = {"triage": {"head": "refunds@2"}}


@pytest.fixture(scope="module")
def running(served: Served, ray_session: object) -> Iterator[Running]:
    spec = AppSpec.model_validate({"port": free_port(), "deployments": {"triage": {"head": "refunds@1"}}})
    running = deploy(served.root, spec, threads=1)
    yield running
    running.stop()


@pytest.fixture
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=30) as client:
        yield client


def spec_at(running: Running, **changes: object) -> AppSpec:
    return AppSpec.model_validate({"port": int(running.url.rsplit(":", 1)[1]), **changes})


def test_each_route_answers_over_http(client: httpx.Client, served: Served) -> None:
    predicted = client.post("/v1/predict/triage", json={"text": "the card never arrived"})
    assert predicted.status_code == 200, predicted.text
    assert (predicted.json()["lineage"]["head"], predicted.json()["fingerprint"]) == ("refunds@1", served.fingerprint)
    logged = client.post("/v1/collections/tickets/log", json={"rows": [{"id": "ray-1", "text": "the money is blue"}]})
    assert (logged.status_code, logged.json()["added"]) == (200, 1)
    found = client.post("/v1/collections/tickets/search", json={"text": "the money is blue", "k": 1}).json()
    assert found["hits"][0]["id"] == "ray-1"
    asked = client.post("/v1/sql", json={"sql": "SELECT id FROM tickets WHERE id = $id", "params": {"id": "ray-1"}})
    assert (asked.status_code, asked.json()["rows"]) == (200, [["ray-1"]])
    embedded = client.post("/v1/embeddings", json={"model": "tiny", "input": "a card"}).json()
    assert len(embedded["data"][0]["embedding"]) == 32
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["deployments"]["triage"]["head"] == "refunds@1"
    assert "/v1/predict/{deployment}" in client.get("/docs").text
    assert client.get("/openapi.json").json()["info"]["title"] == "raystore"


def test_errors_keep_their_shape_behind_the_proxy(client: httpx.Client) -> None:
    answer = client.post("/v1/predict/triage", content='{"text": "' + CANARY, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (422, "InvalidRequest")
    assert client.post("/v1/predict/nobody", json={"text": "a"}).json()["error"]["existing"] == ["triage"]
    assert client.get("/healthz", headers={"host": "evil.example"}).status_code == 421
    large = client.post("/v1/predict/triage", content=(b"x" * 65_536 for _ in range(257)))
    assert (large.status_code, large.json()["error"]["type"]) == (413, "BodyTooLarge")
    for sent in ("has space!", "fine-1"):
        [id_] = client.get("/v1/models", headers={"x-request-id": sent}).headers.get_list("x-request-id")
        assert (id_ == sent) == (sent == "fine-1")


def test_the_head_changes_in_place_without_a_failed_request(running: Running, served: Served) -> None:
    replicas = pids_of("orchestrator")
    with asking(running.url) as heads:
        again = deploy(served.root, spec_at(running, deployments={"triage": {"head": "refunds@2"}}), threads=1)
    assert again.url == running.url
    assert (heads[0], heads[-1]) == ("refunds@1", "refunds@2")
    assert heads == sorted(heads)
    assert pids_of("orchestrator") == replicas


@pytest.mark.skipif(haproxy_binary() is None, reason="no HAProxy for this platform")
def test_another_limit_of_requests_holds_in_place_whoever_deploys(
    running: Running, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    [balancer] = balancers()
    replicas = pids_of("orchestrator")
    for most, another in ((77, True), (128, False)):
        if another:  # a process that did not start Serve knows nothing of its proxy
            monkeypatch.setattr(deploy_module, "_folder", None)
            monkeypatch.setattr(deploy_module, "_started", False)
        else:
            monkeypatch.undo()
        deploy(served.root, spec_at(running, deployments=TRIAGE, limits={"max_requests": most}), threads=1)
        bounds = {row["slim"] for row in balancer._rows() if row["svname"] not in ("FRONTEND", "BACKEND")}
        assert bounds == {str(most)}
    assert pids_of("orchestrator") == replicas


def test_a_deployment_added_in_python_leaves_the_door_and_the_rest_as_the_file_has_them(
    running: Running, served: Served, client: httpx.Client
) -> None:
    """Without its collections in the list, the service would serve them all."""
    file = {"collections": ["kept"], "limits": {"deadline_s": 17}, "rates": {"requests_per_s": 5_000}}
    recorded(served.rooms, "never-served", "refunds@1")
    deploy(served.root, spec_at(running, deployments=TRIAGE, **file), threads=1)
    store = raystore.open(served.root, create=False)
    again = store.deploy("second", head="refunds@1", port=int(running.url.rsplit(":", 1)[1]))
    assert again.url == running.url
    assert client.get("/readyz").json()["deployments"].keys() == {"triage", "second"}
    now = present_app()
    assert now is not None
    assert (now.spec.collections, now.spec.limits.deadline_s, now.spec.rates.requests_per_s) == (["kept"], 17, 5_000)
    answer = client.post("/v1/collections/tickets/search", json={"text": "a", "k": 1})
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "CollectionNotFound")
    with pytest.raises(InvalidArguments, match=r"serves at .* already"):
        store.deploy("second", head="refunds@1", port=free_port())
    deploy(served.root, spec_at(running, deployments=TRIAGE), threads=1)


def test_what_does_not_fit_is_refused_and_the_present_goes_on(
    running: Running, served: Served, client: httpx.Client
) -> None:
    with pytest.raises(HeadNotFound):
        deploy(served.root, spec_at(running, deployments={"triage": {"head": "nothing"}}), threads=1)
    with pytest.raises(InvalidArguments, match=r"serves at .* already"):
        deploy(served.root, AppSpec(port=free_port()), threads=1)
    with pytest.raises(KeyRequired):
        deploy(served.root, spec_at(running, host="0.0.0.0"), threads=1)
    assert client.get("/readyz").status_code == 200


def test_a_replica_that_no_node_is_large_enough_for_is_refused_and_nothing_is_recorded(
    running: Running, served: Served
) -> None:
    import ray

    before = deployment_records(served.rooms.catalog)["triage"].number
    [node] = [each["Resources"] for each in ray.nodes() if each["Alive"]]
    with pytest.raises(InvalidArguments) as refused:
        deploy(served.root, spec_at(running, encoders={"tiny": {"cpus": 1000}}, deployments=TRIAGE), threads=1)
    has = "" if not node.get("GPU") else f" and {node['GPU']:g} GPU{'' if node['GPU'] == 1 else 's'}"
    cores = f"{node['CPU']:g} core{'' if node['CPU'] == 1 else 's'}{has}"
    assert str(refused.value) == f"deploy: encoders.tiny: a replica asks for 1000 cores, which no node has ({cores})."
    assert deployment_records(served.rooms.catalog)["triage"].number == before


def test_a_change_that_does_not_become_ready_says_why_and_what_was_there_goes_on(
    running: Running, served: Served, client: httpx.Client
) -> None:
    import ray
    from ray import serve

    replicas = pids_of("orchestrator")
    cores = ray.cluster_resources()["CPU"]
    both = spec_at(running, encoders={"tiny": {"cpus": cores, "replicas": 2}}, deployments=TRIAGE)  # there is room for one
    with asking(running.url):
        with pytest.raises(
            JobFailed, match=r"after 6 s .*'encoder-tiny' has \d replicas that run and \d that wait for cores"
        ):
            deploy(served.root, both, threads=1, ready_s=6)
        soon(lambda: serve.status().applications["raystore"].deployments.keys() == {"orchestrator"})
    soon(lambda: pids_of("orchestrator") == replicas)


def test_another_placement_replaces_the_only_replica_without_a_failed_request(running: Running, served: Served) -> None:
    replicas = pids_of("orchestrator")
    for threads in (2, 1):
        with asking(running.url):
            deploy(served.root, spec_at(running, deployments=TRIAGE), threads=threads)
    soon(lambda: len(pids_of("orchestrator")) == 1)
    assert pids_of("orchestrator") != replicas


def test_a_large_body_is_in_no_file_of_the_session_and_not_in_the_object_store(
    client: httpx.Client, ray_session: object
) -> None:
    assert client.post("/v1/collections/tickets/log", json={"rows": secret_rows("a")[:20]}).status_code == 200
    assert client.post("/v1/collections/tickets/log", json={"rows": secret_rows("b")[20:]}).status_code == 413
    send_noise(client)


def test_nor_is_one_that_waits_for_a_replica_after_the_only_one_was_killed(
    client: httpx.Client, ray_session: object
) -> None:
    """Serve's own proxy has the requests meanwhile, and from there they pass through Ray's calls."""
    [replica] = pids_of("orchestrator")
    os.kill(replica, signal.SIGKILL)
    for _ in range(3):
        send_noise(client)
    assert pids_of("orchestrator") not in ([], [replica])


def secret_rows(batch: str) -> list[dict[str, str]]:
    rows = [{"id": f"{CANARY[:6]}-{batch}-{n}", "text": f"{CANARY} " * 1_000} for n in range(20)]
    return [*rows, {"id": f"bad-{batch}", "text": f"{CANARY} " * 6_000}]  # too long: the row that fails


def send_noise(client: httpx.Client) -> None:
    """Nothing of the largest body there is, no image, is seen where it must not be, and nothing of the rows before it."""
    noise = np.random.default_rng().bytes(9_900_000)
    refused = insist(client, "/v1/embeddings", {"model": "tiny", "input": data_url(noise)})
    assert (refused.status_code, refused.json()["error"]["type"]) == (422, "InvalidRequest")
    import ray

    needles = [CANARY.encode(), base64.b64encode(noise[3_000_000:3_000_060]), noise[3_000_000:3_000_060]]
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert [files_holding(session, needle) for needle in needles] == [[], [], []]
    mark = base64.b64encode(noise[:60])
    stores = object_store_counts([*needles, mark])
    control = ray.put(mark * 20_000)  # over what goes inline: it must be seen
    seen = object_store_counts([*needles, mark])
    del control
    assert stores[:3] == seen[:3] == [0, 0, 0]
    assert seen[3] > stores[3]


@pytest.mark.skipif(haproxy_binary() is None, reason="no HAProxy for this platform")
def test_nothing_of_serve_listens_beyond_loopback(running: Running) -> None:
    wide = [
        line
        for line in _listeners()
        if re.search(r"haproxy|ServeRep|ServeCon|ProxyAct", line) and "127.0.0.1" not in line.split()[3]
    ]
    import ray

    if ray.util.get_node_ip_address() == "127.0.0.1":
        assert wide == []
    else:  # Ray's own ports follow its node's address; the proxy's must not
        assert [line for line in wide if "haproxy" in line] == []


def test_a_replica_is_given_the_time_that_a_request_may_take_before_it_is_killed(running: Running) -> None:
    from ray.serve.context import _get_global_client

    [placed] = _get_global_client().get_serve_details()["applications"]["raystore"]["deployments"].values()
    assert placed["deployment_config"]["graceful_shutdown_timeout_s"] == 30 + AppSpec().limits.deadline_s + 20


@pytest.mark.skipif(haproxy_binary() is None, reason="no HAProxy for this platform")
def test_stopping_answers_what_is_under_way_and_begins_nothing_new(running: Running) -> None:
    """The last that asks `running`: it ends it."""
    [balancer] = balancers()
    rest = threading.Event()
    statuses: list[int] = []

    def body() -> Iterator[bytes]:
        yield b'{"text": "the card '
        rest.wait(60)
        yield b'never arrived"}'

    def ask() -> None:
        json_ = {"content-type": "application/json"}
        statuses.append(
            httpx.post(f"{running.url}/v1/predict/triage", content=body(), headers=json_, timeout=60).status_code
        )

    asking, stopping = threading.Thread(target=ask), threading.Thread(target=running.stop)
    asking.start()
    soon(lambda: balancer._under_way() == 1)
    stopping.start()
    soon(lambda: httpx.get(f"{running.url}/readyz", timeout=10).status_code == 503)
    assert stopping.is_alive()
    rest.set()
    for each in (asking, stopping):
        each.join()
    assert statuses == [200]
    assert not _listens(int(running.url.rsplit(":", 1)[1]))
    running.stop()  # again: nothing is left to do


PROGRAM = """
    import sys
    from raystore.serve.run.foreground import serve_app
    from raystore.serve.spec.app import AppSpec
    spec = AppSpec.model_validate({"port": int(sys.argv[2]), "deployments": {"triage": {"head": "refunds@1"}}})
    serve_app(sys.argv[1], spec, started=lambda running: print(running.url, flush=True))
"""


@pytest.mark.slow
def test_a_ray_that_would_put_bodies_into_its_object_store_is_refused(served: Served) -> None:
    program = """
    import sys
    import ray
    from raystore.errors import InvalidArguments
    from raystore.serve.run.deploy import deploy
    from raystore.serve.spec.app import AppSpec
    ray.init("local", num_cpus=2, include_dashboard=False)
    try:
        deploy(sys.argv[1], AppSpec.model_validate({"port": int(sys.argv[2]), "deployments": {"triage": {"head": "refunds@1"}}}))
    except InvalidArguments as error:
        print(error.problems[0])
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(served.root), str(free_port())]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout == (
        "this Ray puts what is over 102400 bytes of a call into its object store, where request bodies must not be: start it "
        'with --system-config=\'{"max_direct_call_object_size": 67108864, "task_rpc_inlined_bytes_limit": 67108864}\'\n'
    ), run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_server_that_is_ended_frees_its_port(served: Served, tmp_path: Path, how: signal.Signals) -> None:
    port = free_port()
    sessions = tempfile.mkdtemp(prefix="rst", dir="/tmp")  # short: Ray's sockets stand in it
    env = {**os.environ, "RAYSTORE_RAY_TMP": sessions}
    program = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(served.root), str(port)]
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=err, env=env, text=True, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}", (tmp_path / "err").read_text()
    assert httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200
    process.send_signal(how)
    process.wait(60)
    process.stdout.close()
    if how != signal.SIGKILL:
        assert process.returncode == 0, (tmp_path / "err").read_text()
    soon(lambda: not _listens(port))
    shutil.rmtree(sessions, ignore_errors=True)


def insist(client: httpx.Client, path: str, body: dict[str, object]) -> httpx.Response:
    """The answer, asked for again where the connection ended or no replica was reached, as raystore's own client does."""
    for _ in range(20):
        with suppress(httpx.TransportError):  # a request that the killed replica still took
            answer = client.post(path, json=body)
            if answer.status_code != 503:
                return answer
        time.sleep(0.5)
    raise AssertionError(f"{path} was not answered")


@contextmanager
def asking(url: str) -> Iterator[list[str]]:
    """One request after the other meanwhile, each of them answered; the heads that answered."""
    heads: list[str] = []
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not done.is_set():
                answer = client.post("/v1/predict/triage", json={"text": "red and blue"})
                assert answer.status_code == 200, answer.text
                heads.append(answer.json()["lineage"]["head"])

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        try:
            yield heads
            enough = len(heads) + 20
            while len(heads) < enough and not asked.done():
                time.sleep(0.01)
        finally:
            done.set()
        asked.result()


def balancers() -> list[Balancer]:
    """Of the proxy that deploying started."""
    assert deploy_module._folder is not None
    return [Balancer(admin) for admin in deploy_module._folder.path.glob("*/admin.sock")]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _listeners() -> list[str]:
    return subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
