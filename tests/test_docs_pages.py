"""Every page under docs/ runs: its Python and shell blocks in their order, in an empty folder, the Python in one process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [pytest.mark.model, pytest.mark.slow]
DOCS = Path(__file__).parent.parent / "docs"
_BLOCK = re.compile(r"^<!-- (run: python|run: shell|file: \S+) -->\n```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
_ANY_PYTHON = re.compile(r"^```python\n", re.MULTILINE)

# Runs one step of a page after the other; Python steps share their names, like cells of a notebook.
_RUNNER = """
import json, subprocess, sys
names = {"__name__": "__main__"}
for kind, text in json.load(open(sys.argv[1])):
    print(f"--- {kind}\\n{text}", flush=True)
    if kind == "run: python":
        exec(compile(text, "<block>", "exec"), names)
    elif kind == "run: shell":
        subprocess.run(["bash", "-euo", "pipefail", "-c", text], check=True)
    else:
        open(kind.removeprefix("file: "), "w").write(text)
"""


def steps(page: Path) -> list[tuple[str, str]]:
    return [(found[1], found[2]) for found in _BLOCK.finditer(page.read_text(encoding="utf-8"))]


PAGES = [page for page in sorted(DOCS.glob("*.md")) if steps(page)]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, subprocess.CompletedProcess[str]]:
    """Every page, two at a time: much of a page is waiting for Ray. None takes a port that another takes."""
    folders = [tmp_path_factory.mktemp(page.stem) for page in PAGES]
    with ThreadPoolExecutor(2) as pool:
        return {page.stem: done for page, done in zip(PAGES, pool.map(run, PAGES, folders), strict=True)}


def run(page: Path, at: Path) -> subprocess.CompletedProcess[str]:
    (at / "steps.json").write_text(json.dumps(steps(page)), encoding="utf-8")
    folder = at / "here"
    folder.mkdir()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", _RUNNER, str(at / "steps.json")]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("page", [page.stem for page in PAGES])
def test_the_blocks_of_a_page_run_one_after_the_other(ran: dict[str, subprocess.CompletedProcess[str]], page: str) -> None:
    done = ran[page]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_walk_through_leaves_no_python_block_out() -> None:
    page = DOCS / "walkthrough.md"
    text = page.read_text(encoding="utf-8")
    assert len(_ANY_PYTHON.findall(text)) == sum(kind == "run: python" for kind, _ in steps(page))
