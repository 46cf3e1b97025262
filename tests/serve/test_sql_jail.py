"""What the process of a query cannot do, should somebody get further than SQL."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raystore.catalog import Catalog
from raystore.data.sandbox.jail import landlock_version
from raystore.data.sandbox.process import SandboxLimits, SqlSandbox
from raystore.layout import Layout
from tests.serve.sql_service import CANARY, make_sql_store

pytestmark = [
    pytest.mark.model,  # whole processes: seconds, not milliseconds
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the jail is the Linux kernel's"),
]

_JAILED = """
import json, socket, subprocess, sys, time
from pathlib import Path
from raystore.data.sandbox.jail import confine, enter
open_, secret, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
enter()
confine(memory_bytes=2**26, seconds=float(sys.argv[4]), readable=[Path(open_)])
def tried(what):
    try:
        what()
        return "done"
    except Exception as error:
        return type(error).__name__
def connect():
    socket.create_connection(("127.0.0.1", port), 2).close()
def write():
    with open(open_ + "/new", "w") as file:
        file.write("x")
print(json.dumps({
    "read what is named": tried(lambda: open(open_ + "/served").read()),
    "read the secret": tried(lambda: open(secret).read()),
    "list its folder": tried(lambda: list(Path(secret).parent.iterdir())),
    "write": tried(write),
    "connect": tried(connect),
    "run a program": tried(lambda: subprocess.run(["/bin/true"], check=True)),
    "take memory": tried(lambda: bytearray(2**27)),
}), flush=True)
while "forever" in sys.argv:
    pass
"""


def jailed(tmp_path: Path, port: int, seconds: float, *more: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "served").write_text("rows", encoding="utf-8")
    (tmp_path / "secret.key").write_text(CANARY, encoding="utf-8")
    given = [str(tmp_path / "open"), str(tmp_path / "secret.key"), str(port), str(seconds), *more]
    return subprocess.run([sys.executable, "-c", _JAILED, *given], capture_output=True, text=True, timeout=60, check=False)


def test_a_confined_process_reads_what_is_named_and_does_nothing_else(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended = jailed(tmp_path, server.getsockname()[1], 30)
    found = json.loads(ended.stdout)
    assert found["read what is named"] == "done"
    assert found["write"] in ("PermissionError", "OSError")
    assert found["take memory"] == "MemoryError"
    if landlock_version() >= 1:
        denied = ("read the secret", "list its folder", "write", "run a program")
        assert {what: found[what] for what in denied} == dict.fromkeys(denied, "PermissionError")
    if landlock_version() >= 4:
        assert found["connect"] != "done"


def test_the_kernel_ends_a_process_that_nobody_watches(tmp_path: Path) -> None:
    assert jailed(tmp_path, 1, 1.5, "forever").returncode in (-signal.SIGALRM, -signal.SIGXCPU)


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SqlSandbox:
    make_sql_store(tmp_path / "store")
    monkeypatch.setenv("RAYSTORE_TEST_CANARY", CANARY)
    return SqlSandbox(Catalog(Layout(tmp_path / "store")), SandboxLimits())


def test_a_process_inherits_no_environment_no_files_and_no_session(sandbox: SqlSandbox) -> None:
    assert sandbox.run("SELECT 1", {}, collections=[], limit=1).body == b"[[1]]"
    assert sandbox._spare is not None
    assert sandbox._spare.is_ready()
    process = Path("/proc") / str(sandbox._spare._popen.pid)
    environment = (process / "environ").read_bytes().decode()
    assert "PATH" not in environment
    assert CANARY not in environment
    opened = {str(fd.readlink()) for fd in (process / "fd").iterdir()}
    assert {name.partition(":")[0] for name in opened} == {"pipe", "/dev/null"}
    assert os.getsid(int(process.name)) == int(process.name)
    assert list((process / "cwd").iterdir()) == []
    sandbox.close()


def test_a_process_that_waits_ends_with_a_service_that_is_killed(tmp_path: Path) -> None:
    make_sql_store(tmp_path / "store")
    code = (
        "import sys; from pathlib import Path; from raystore.catalog import Catalog; from raystore.layout import Layout\n"
        "from raystore.data.sandbox.process import *\n"
        "sandbox = SqlSandbox(Catalog(Layout(Path(sys.argv[1]))), SandboxLimits())\n"
        "sandbox.run('SELECT 1', {}, collections=[], limit=1); print(sandbox._spare._popen.pid, flush=True)\n"
        "import os; os.kill(os.getpid(), 9)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert ran.returncode == -signal.SIGKILL
    pid, deadline = int(ran.stdout), time.monotonic() + 30
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z":
            assert list(tmp_path.glob("raystore-sql-*")) == []
            return
        time.sleep(0.05)
    pytest.fail("the process still waits")
