"""Every page under docs/ runs: its Python and shell blocks in their order, in an empty folder, the Python in one process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text(json.dumps(steps(page)), encoding="utf-8")
    folder = tmp_path / "here"
    folder.mkdir()
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", _RUNNER, str(tmp_path / "steps.json")]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_walk_through_leaves_no_python_block_out() -> None:
    page = DOCS / "walkthrough.md"
    text = page.read_text(encoding="utf-8")
    assert len(_ANY_PYTHON.findall(text)) == sum(kind == "run: python" for kind, _ in steps(page))
