"""Two nodes on this machine, as an operator starts them: `ray start` twice, `serve deploy`, predictions, a promotion and back."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml

from raystore.serve.run.proxy import ProxyFolder, free_port, haproxy_binary
from raystore.session import INLINE_CALLS
from tests.serve.conftest import Served, make_store

pytestmark = [pytest.mark.ray, pytest.mark.slow]
FOLDER = Path(__file__).parent.parent.parent / "cluster"
BIN = Path(sys.executable).parent
_START_S, _READY_S = 120.0, 240.0


@dataclass
class Nodes:
    dashboard: str
    port: int
    env: dict[str, str]
    folder: Path  # of Ray's sessions: no other process has it in its command line

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [BIN / words[0], *words[1:]], env=self.env, capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def asked(self, path: str) -> Any:
        """What the dashboard answers."""
        token = {"authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}
        return httpx.get(f"{self.dashboard}{path}", headers=token, trust_env=False, timeout=10).json()

    def processes(self) -> list[int]:
        """Those that this Ray started: they have its folder in their command line or, workers, in their environment."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if str(self.folder).encode() in told and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    def replicas(self) -> set[int]:
        return {pid for pid in self.processes() if b"ServeReplica:raystore" in _command(pid)}


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def soon(told: str, seconds: float, look: Callable[[], Any]) -> Any:
    """What `look` returns as soon as that is true; until then nobody may listen."""
    deadline, last = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if found := look():
                return found
        except (httpx.TransportError, KeyError, ValueError) as error:
            last = str(error)
        time.sleep(0.5)
    pytest.fail(f"{told} within {seconds} s; last: {last}")


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path) -> Served:
    return make_store(tmp_path / "store", tiny_model)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    binary = haproxy_binary()
    if binary is None:
        pytest.skip("no HAProxy for this platform")
    folder = Path(tempfile.mkdtemp(prefix="rsc", dir="/tmp"))  # short: Ray's sockets stand in it
    proxy = ProxyFolder(binary)
    gcs, dashboard = free_port(), free_port()
    env = {
        **os.environ,
        **proxy.env,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")])),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TMPDIR": str(folder),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # a Ray of this process has set 0, which is for one node
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
        "RAYSTORE_MAX_REQUESTS": "128",
    }
    common = [
        "--num-cpus=4",
        f"--object-store-memory={100 * 2**20}",
        "--disable-usage-stats",
        "--block",
    ]
    starts = [
        ["--head", f"--port={gcs}", f"--temp-dir={folder}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
         f"--dashboard-agent-listen-port={free_port()}", f"--ray-client-server-port={free_port()}",
         f"--system-config={json.dumps(INLINE_CALLS)}"],
        [f"--address={ray.util.get_node_ip_address()}:{gcs}", f"--dashboard-agent-listen-port={free_port()}"],
    ]  # fmt: skip
    found = Nodes(f"http://127.0.0.1:{dashboard}", free_port(), env, folder)
    started: list[subprocess.Popen[bytes]] = []
    try:
        for words in starts:
            with (folder / f"node-{len(started)}.out").open("wb") as out:
                command = [str(BIN / "ray"), "start", *words, *common]
                started.append(subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True))
            _wait_for_nodes(found, len(started), started)
        yield found
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)  # with --block it ends what it started, and no other Ray of this machine
        for process in started:
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
        for pid in found.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        proxy.remove()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_nodes(nodes: Nodes, n: int, started: list[subprocess.Popen[bytes]]) -> None:
    def alive() -> bool:
        if any(each.poll() is not None for each in started):
            pytest.fail((nodes.folder / f"node-{n - 1}.out").read_text())
        states = [each["state"] for each in nodes.asked("/api/v0/nodes")["data"]["result"]["result"]]
        return states.count("ALIVE") == n

    soon(f"{n} nodes are not up", _START_S, alive)


def _configured(store: Served, nodes: Nodes, folder: Path, name: str, port: int) -> Path:
    """cluster/'s own files with this machine's paths and ports; Serve's one, called `name`."""
    spec = yaml.safe_load((FOLDER / "triage.yaml").read_text(encoding="utf-8"))
    deployment = {**spec["deployments"]["triage"], "shadow": ["refunds@2"]}
    encoders = {"tiny": {**spec["encoders"]["minilm"], "cpus": 1}}
    spec |= {"store": str(store.root), "port": port, "encoders": encoders, "deployments": {"triage": deployment}}
    file = folder / f"triage-{port}.yaml"
    file.write_text(yaml.safe_dump(spec), encoding="utf-8")
    config = yaml.safe_load((FOLDER / "serve-config.yaml").read_text(encoding="utf-8"))
    # Two nodes of one machine cannot both have a proxy at one port.
    config |= {"proxy_location": "HeadOnly", "http_options": {"host": spec["host"], "port": nodes.port}}
    config["applications"][0]["args"] = {"file": str(file), "revision": name}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_a_cluster_serves_the_file_shows_a_shadow_promotes_it_rolls_back_and_is_deployed_again(
    store: Served, nodes: Nodes, tmp_path: Path
) -> None:
    store.rooms.heads.set_alias("refunds", "live", 1)
    at = ("--store", str(store.root))
    key = nodes.run("raystore", *at, "key", "create", "shop", "--verb", "predict", "--verb", "deploy").split()[-1]

    def deploy(name: str, port: int = nodes.port) -> None:
        nodes.run("serve", "deploy", str(_configured(store, nodes, tmp_path, name, port)), "--address", nodes.dashboard)

    def status() -> str:
        """What `serve status` shows of it."""
        application = nodes.asked("/api/serve/applications/")["applications"]["raystore"]
        return " ".join(f"{application['status']} {application['message']}".split())

    deploy("first")
    url = f"http://127.0.0.1:{nodes.port}"
    with httpx.Client(base_url=url, trust_env=False, timeout=30, headers={"authorization": f"Bearer {key}"}) as client:
        heads: list[str] = []

        def head(text: str) -> str:
            answer = client.post("/v1/predict/triage", json={"text": text, "columns": {"product": "card"}})
            assert answer.status_code == 200, answer.text
            heads.append(str(answer.json()["lineage"]["head"]))
            return heads[-1]

        served = lambda: client.get("/readyz").json()["deployments"]["triage"]["head"]  # noqa: E731
        soon("it is not ready", _READY_S, lambda: served() == "refunds@1")
        assert httpx.post(f"{url}/v1/predict/triage", json={"text": "a card"}, trust_env=False).status_code == 401
        assert {head(f"the card number {i} never arrived") for i in range(20)} == {"refunds@1"}
        counted = client.get("/metrics").text
        assert "raystore_requests_total{" in counted
        assert "raystore_predictions_total{" in counted
        paired = soon(
            "the shadow saw nothing",
            60,
            lambda: [each for each in client.get("/v1/shadow/triage").json()["reports"] if each["n_paired"] >= 20],
        )
        assert paired[0]["shadow"] == "refunds@2"

        told = nodes.run("raystore", *at, "promote", "refunds@2", "--if", "n_paired >= 20")
        assert "triage: refunds@2 answers now, refunds@1 before" in told
        soon("the promotion is not taken up", 30, lambda: head("the money is blue") == "refunds@2")
        assert "refunds@1 answers now" in nodes.run("raystore", *at, "rollback", "triage")
        soon("the roll-back is not taken up", 30, lambda: head("the money is long") == "refunds@1")

        deploy("wrong", port=nodes.port - 1)
        said = soon(
            "the wrong port is not refused", _READY_S, lambda: (told := status()).startswith("DEPLOY_FAILED") and told
        )
        assert f"Serve answers at 0.0.0.0:{nodes.port}, and the file says 0.0.0.0:{nodes.port - 1}" in said
        assert head("what ran goes on") == "refunds@1"

        replicas = nodes.replicas()
        assert len(replicas) == 4  # two orchestrators, an encoder, the recording process
        deploy("second")
        soon("replicas are not replaced", _READY_S, lambda: head("red and blue") and not nodes.replicas() & replicas)
        soon("it does not come to rest", _READY_S, lambda: head("red and blue") and status().startswith("RUNNING"))
        assert head("hello world") == "refunds@1"

    nodes.run("serve", "shutdown", "--yes", "--address", nodes.dashboard)
