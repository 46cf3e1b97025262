"""What is measured, as processes: raystore's application, and the peers. Each is ready when it is entered and gone when it is left.

Readiness is that it answers. Nothing is left of one that was left, whatever became of it.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from common import ROOT, peer_python
from serving.load import Address, post
from serving.store import Kept

from raystore.serve.run.proxy import free_port

_READY_S = 240.0
_END_S = 60.0
_MAKING = ("__init__", "initialize_and_get_metadata")  # what Ray puts behind a process's name meanwhile


@dataclass
class Server:
    """A process that listens, and how it is asked."""

    name: str
    port: int
    process: subprocess.Popen[str]
    path: str  # of a prediction
    log: Path

    @property
    def address(self) -> Address:
        return ("127.0.0.1", self.port)

    def requests(self, texts: Iterable[str], path: str | None = None, **more: Any) -> list[bytes]:
        """A request for each text, with the fields of `more` beside it."""
        return [post(self.address, path or self.path, json.dumps({"text": text, **more}).encode()) for text in texts]

    def processes(self) -> list[psutil.Process]:
        return _family(self.process.pid)

    def replicas(self, named: str = "", *, ready: bool = False) -> list[psutil.Process]:
        """raystore's replicas of the deployments whose name begins so; with `ready` without those that are being made."""
        titles = [(each, _title(each)) for each in self.processes()]
        mine = [(each, title) for each, title in titles if f"ServeReplica:raystore:{named}" in title]
        return [each for each, title in mine if not (ready and title.endswith(_MAKING))]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    def send(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer's JSON; HTTPError where it is refused."""
        asked = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)


class Raystore(Server):
    """raystore's application, which can be changed in place."""

    def deploy(self, spec: Mapping[str, Any]) -> None:
        """Serve this from now on; returns when it is."""
        assert self.process.stdin is not None
        file = _spec_file(self.log.parent, self.port, spec)
        self.process.stdin.write(f"{file}\n")
        self.process.stdin.flush()
        self.wait_deployed()

    def wait_deployed(self) -> None:
        assert self.process.stdout is not None
        end = time.monotonic() + _READY_S
        while time.monotonic() < end and self.process.poll() is None:
            if select.select([self.process.stdout], [], [], 1)[0] and self.process.stdout.readline().strip() == "deployed":
                return
        raise RuntimeError(f"{self.name} was not deployed: {self.log.read_text(encoding='utf-8')[-2_000:]}")


@contextmanager
def raystore(kept: Kept, spec: Mapping[str, Any], path: str = "/v1/predict/intent") -> Iterator[Raystore]:
    """raystore's application on a Ray of its own, which listens on loopback."""
    folder = Path(tempfile.mkdtemp(prefix="rsb", dir="/tmp"))  # short: Ray's sockets stand in it
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYSTORE_RAY"))}
    # Replicas import the hooks of shadows that misbehave, which the tests have.
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    port, log = free_port(), folder / "log"
    program = Path(__file__).with_name("application.py")
    command = [sys.executable, str(program), str(kept.root), str(_spec_file(folder, port, spec))]
    try:
        with _process(command, log, env | {"RAYSTORE_RAY_TMP": str(folder)}, told=True) as process:
            server = Raystore("raystore", port, process, path, log)
            server.wait_deployed()
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _spec_file(folder: Path, port: int, spec: Mapping[str, Any]) -> Path:
    handle, name = tempfile.mkstemp(suffix=".json", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"port": port, **spec}, file)
    return Path(name)


@contextmanager
def fastapi(kept: Kept, kind: str) -> Iterator[Server]:
    """FastAPI with scikit-learn's head over sentence-transformers ("torch"), or over raystore's OpenVINO encoder ("openvino")."""
    python, model = (peer_python("serve"), kept.model) if kind == "torch" else (sys.executable, kept.root)
    port = free_port()
    worker = ROOT / "benchmarks" / "peers" / "serve_worker.py"
    command = [python, str(worker), str(port), str(kept.vectors), str(kept.labels), kind, str(model)]
    env = dict(os.environ) if kind == "openvino" else _foreign_env()
    with _listening(f"fastapi-{kind}", command, port, "/openapi.json", env) as server:
        server.path = "/predict/0"
        yield server


@contextmanager
def infinity(kept: Kept) -> Iterator[Server]:
    """infinity with the same weights under torch, at its defaults."""
    port = free_port()
    program = Path(peer_python("infinity")).with_name("infinity_emb")
    options = ["--engine", "torch", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    command = [str(program), "v2", "--model-id", str(kept.model), "--served-model-name", "minilm", *options]
    env = _foreign_env() | {"DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with _listening("infinity", command, port, "/health", env) as server:
        server.path = "/embeddings"
        yield server


def _foreign_env() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}


@contextmanager
def _listening(name: str, command: Sequence[str], port: int, ready: str, env: Mapping[str, str]) -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="rsb") as folder:
        log = Path(folder) / "log"
        with _process(command, log, env) as process:
            server = Server(name, port, process, "", log)
            end = time.monotonic() + _READY_S
            while True:
                try:
                    server.get(ready)
                    break
                except (OSError, urllib.error.URLError):
                    if process.poll() is not None or time.monotonic() > end:
                        raise RuntimeError(f"{name} does not listen: {log.read_text(encoding='utf-8')[-2_000:]}") from None
                time.sleep(0.2)
            yield server


@contextmanager
def _process(
    command: Sequence[str], log: Path, env: Mapping[str, str], *, told: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """The process; when it is left it is asked to end, and what is left of it and its children is killed.

    Args:
        told: it reads what to do, says when it is done, and ends with its input; others are sent SIGTERM.
    """
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, env=dict(env), text=True, start_new_session=True, stderr=errors,
            stdin=subprocess.PIPE if told else subprocess.DEVNULL, stdout=subprocess.PIPE if told else errors,
        )  # fmt: skip
    try:
        yield process
    finally:
        family = _family(process.pid)
        if process.stdin is not None:
            process.stdin.close()
        else:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        for each in family:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _family(pid: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def idle_cpu(server: Server, seconds: float = 5.0) -> float:
    """What its processes take of one core while nobody asks anything."""
    processes = server.processes()
    before = _cpu_seconds(processes)
    time.sleep(seconds)
    return round((_cpu_seconds(processes) - before) / seconds, 3)


def _cpu_seconds(processes: Iterable[psutil.Process]) -> float:
    taken = 0.0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            taken += times.user + times.system
    return taken


def memory_mb(processes: Iterable[psutil.Process]) -> float:
    held = 0
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            held += each.memory_info().rss
    return held / 2**20


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""
