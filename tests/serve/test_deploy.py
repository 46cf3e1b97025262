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
from pathlib import Path

import httpx
import numpy as np
import pytest

from raystore.errors import HeadNotFound, InvalidArguments, KeyRequired
from raystore.serve.run.deploy import Running, deploy
from raystore.serve.run.proxy import free_port, haproxy_binary
from raystore.serve.spec.app import AppSpec
from tests.pictures import data_url
from tests.serve.conftest import Served

pytestmark = pytest.mark.ray

CANARY = "CANARY-91c4-unheard"


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


def test_the_head_changes_in_place_without_a_failed_request(running: Running, served: Served) -> None:
    statuses: list[int] = []
    heads: list[str] = []
    replicas = _replica_pids()
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            while not done.is_set():
                answer = client.post("/v1/predict/triage", json={"text": "red and blue"})
                statuses.append(answer.status_code)
                heads.append(answer.json()["lineage"]["head"])

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        again = deploy(served.root, spec_at(running, deployments={"triage": {"head": "refunds@2"}}), threads=1)
        enough = len(statuses) + 20
        while len(statuses) < enough and asking.is_alive():
            time.sleep(0.01)
    finally:
        done.set()
        asking.join()
    assert again.url == running.url
    assert set(statuses) == {200}
    assert (heads[0], heads[-1]) == ("refunds@1", "refunds@2")
    assert heads == sorted(heads)
    assert _replica_pids() == replicas


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


def test_a_large_body_is_in_no_file_of_the_session_and_not_in_the_object_store(
    client: httpx.Client, ray_session: object
) -> None:
    rows = [{"id": f"{CANARY[:6]}-{n}", "text": f"{CANARY} " * 1_000} for n in range(20)]
    rows += [{"id": "bad", "text": f"{CANARY} " * 6_000}]  # too long: the row that fails
    assert client.post("/v1/collections/tickets/log", json={"rows": rows[:20]}).status_code == 200
    assert client.post("/v1/collections/tickets/log", json={"rows": rows[20:]}).status_code == 413
    noise = np.random.default_rng(0).bytes(9_900_000)  # no image; one of this size is the largest body there is
    refused = client.post("/v1/embeddings", json={"model": "tiny", "input": data_url(noise)})
    assert (refused.status_code, refused.json()["error"]["type"]) == (422, "InvalidRequest")
    import ray

    needles = [CANARY.encode(), base64.b64encode(noise[3_000_000:3_000_060]), noise[3_000_000:3_000_060]]
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    assert [_files_holding(session, needle) for needle in needles] == [[], [], []]
    stores = _object_store_counts([*needles, b"raystore-control-7d1e"])
    control = ray.put(b"raystore-control-7d1e" * 20_000)  # over what goes inline: it must be seen
    seen = _object_store_counts([*needles, b"raystore-control-7d1e"])
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


PROGRAM = """
    import sys
    from raystore.serve.run.deploy import serve_app
    from raystore.serve.spec.app import AppSpec
    spec = AppSpec.model_validate({"port": int(sys.argv[2]), "deployments": {"triage": {"head": "refunds@1"}}})
    serve_app(sys.argv[1], spec, started=lambda running: print(running.url, flush=True))
"""


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
    deadline = time.monotonic() + 30
    while _listens(port) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _listens(port)
    shutil.rmtree(sessions, ignore_errors=True)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _listeners() -> list[str]:
    return subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()


def _replica_pids() -> set[str]:
    found = set()
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ServeReplica:raystore" in cmdline.read_bytes():
                found.add(cmdline.parent.name)
        except OSError:
            continue
    return found


def _files_holding(folder: Path, needle: bytes) -> list[str]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file() and needle in path.read_bytes():
            found.append(str(path))
    return found


def _object_store_counts(needles: list[bytes]) -> list[int]:
    """How often each needle stands in this Ray's object store: its pages, read through the process that holds them."""
    counts = [0] * len(needles)
    for line in Path("/proc/self/maps").read_text().splitlines():  # the driver maps the store it is connected to
        if "/dev/shm/plasma" not in line:
            continue
        low, high = (int(edge, 16) for edge in line.split()[0].split("-"))
        with Path("/proc/self/mem").open("rb", buffering=0) as memory:
            memory.seek(low)
            while (left := high - memory.tell()) > 0:
                block = memory.read(min(left, 2**24))
                counts = [count + block.count(needle) for count, needle in zip(counts, needles, strict=True)]
    return counts
