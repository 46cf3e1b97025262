"""The command in a process of its own: what a terminal and a script see, Ctrl-C among it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import raystore
from raystore.store import Store
from tests.cli.conftest import Made

RAYSTORE = [str(Path(sys.executable).with_name("raystore"))]
ROWS = 30_000  # some seconds of a tiny encoder: an interrupt after the first commit finds it at work


@pytest.fixture
def store(made: Made, tmp_path: Path) -> Store:
    """An empty collection, and a file of ROWS texts beside the store."""
    (tmp_path / "many.csv").write_text("id,body\n" + "".join(f"m-{i},the card never arrived {i}\n" for i in range(ROWS)))
    store = raystore.open(tmp_path / "store")
    store.encoders.register("tiny", model=str(made.model))
    store.create_collection("many", encoder="tiny")
    return store


@pytest.fixture
def sessions() -> Iterator[str]:
    """A short folder for Ray's sockets."""
    folder = tempfile.mkdtemp(prefix="rst", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.ray, pytest.mark.slow])])
def test_ctrl_c_during_embed_ends_with_130_and_the_same_command_goes_on(store: Store, sessions: str, workers: int) -> None:
    file = store.root.parent / "many.csv"
    embed = [
        "--store",
        str(store.root),
        "embed",
        "many",
        str(file),
        "--text",
        "body",
        "--id",
        "id",
        "--workers",
        str(workers),
    ]
    table = store.collection("many")
    process = subprocess.Popen(
        [*RAYSTORE, *embed],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RAYSTORE_RAY_TMP": sessions},
        start_new_session=True,
    )
    while len(table) == 0 and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    out, err = process.communicate(timeout=60)
    before = len(table)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "interrupted; what was committed is safe, and the same command goes on from there"
    assert "Traceback" not in err
    assert 0 < before < ROWS
    done = subprocess.run([*RAYSTORE, *embed[:-1], "0"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"many: {ROWS - before:,} rows embedded, {before:,} known already" in done.stdout
    assert sorted(table.to_arrow(["id"])["id"].to_pylist()) == sorted(f"m-{i}" for i in range(ROWS))


def test_the_installed_command_prints_one_document_and_exits_with_its_code(made: Made) -> None:
    store = {**os.environ, "RAYSTORE_ROOT": str(made.root)}
    listed = subprocess.run([*RAYSTORE, "--json", "table", "list"], env=store, capture_output=True, text=True)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert '"outcomes"' in listed.stdout
    failed = subprocess.run([*RAYSTORE, "head", "show", "nobody", "--json"], env=store, capture_output=True, text=True)
    assert (failed.returncode, failed.stdout) == (3, "")
    assert failed.stderr.startswith('{"error": {"type": "HeadNotFound"')


def test_a_reader_that_goes_away_is_no_error(made: Made) -> None:
    command = f"'{RAYSTORE[0]}' --store \"$STORE\" sql 'SELECT * FROM range(200000)' --json | head -1"
    run = subprocess.run(
        ["bash", "-c", command], env={**os.environ, "STORE": str(made.root)}, capture_output=True, text=True, timeout=60
    )
    assert (run.stdout, run.stderr) == ("[\n", "")
