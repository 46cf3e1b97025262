"""The README runs: its Python, its shell lines and its curl lines, in order, on one store; and it names every setting."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from raystore.serve.run.proxy import free_port

pytestmark = pytest.mark.model
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(marker: str, language: str) -> str:
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```{language}\n(.*?)```", README, re.DOTALL)
    assert found, f"the README has no block '{marker}'"
    return found[1]


def shell(lines: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run as a user would, with the command line of this environment on the path; fails on the first line that fails."""
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the README's Python block has run."""
    here = tmp_path_factory.mktemp("readme")
    (here / "quick.py").write_text(block("run: python", "python"), encoding="utf-8")
    done = subprocess.run([sys.executable, "quick.py"], cwd=here, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return here


def test_the_python_block_runs_and_its_assertion_holds(folder: Path) -> None:
    assert (folder / "store" / "store.json").is_file()


def test_no_file_of_the_store_holds_a_text_that_the_python_block_embedded(folder: Path) -> None:
    texts = [b"my card never arrived", b"my wire was declined", b"my card is gone"]
    holding = [p for p in (folder / "store").rglob("*") if p.is_file() and any(t in p.read_bytes() for t in texts)]
    assert holding == []
    assert texts[0] in (folder / "tickets.csv").read_bytes()


def test_the_shell_block_runs_after_it(folder: Path) -> None:
    done = shell(block("run: shell", "sh"), folder)
    assert done.returncode == 0, done.stderr
    assert "0 rows embedded, 36 known already" in done.stdout
    assert "BROKEN" not in done.stdout


@pytest.mark.ray
def test_the_app_file_serves_and_every_curl_line_gets_an_answer(folder: Path) -> None:
    port = free_port()
    (folder / "app.yaml").write_text(block("file: app.yaml", "yaml").replace("8000", str(port)), encoding="utf-8")
    server = subprocess.Popen(
        [Path(sys.executable).parent / "raystore", "serve", "app.yaml"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and server.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        lines = block("run: curl", "sh").replace("8000", str(port)).replace("\\\n", " ").strip().splitlines()
        answers = [json.loads(shell(line, folder).stdout) for line in lines]
    finally:
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=60)[0].decode()
    assert server.returncode == 0, said
    predicted, logged, found, embedded, healthy, ready = answers
    assert predicted["predictions"][0]["label"] == "card"
    assert predicted["lineage"]["head"].startswith("topics@")
    assert (logged["added"], logged["known"]) == (1, 0)
    assert found["hits"][0]["id"] == "t-100"
    assert embedded["object"] == "list"
    assert healthy == {"status": "ok"}
    assert list(ready["deployments"]) == ["triage"]


def test_the_map_is_drawn_by_the_example_from_vectors_and_labels_alone(folder: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import draw_map;"
        "draw_map.main('store', 'map.svg', 'tickets', table='topics', key='ticket', label='topic')"
    )
    args = [sys.executable, "-c", code, str(ROOT / "examples")]
    done = subprocess.run(args, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    drawn = (folder / "map.svg").read_text(encoding="utf-8")
    assert drawn.count("<path") == 2
    assert ">card</text>" in drawn


def test_links_of_the_docs_lead_to_files_that_are_there() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_rooms_and_promises_pages_name_files_that_are_there() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)`", page)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []
