"""The wheel is whole: built, installed with its dependencies into an empty environment, used from another folder.

The environment is filled from the package index, pinned by constraints.txt; without an index the tests skip, in CI
they fail. It holds no extra, so what runs here runs on torch and without the test tools.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from raystore import __version__
from tests.promises.kills import CHECKOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return next(folder.glob("raystore-*.whl"))


@pytest.fixture(scope="module")
def empty(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and what it asks for, and nothing else."""
    folder = tmp_path_factory.mktemp("empty") / "an environment"
    venv.create(folder, with_pip=True, symlinks=True)
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--constraint",
        str(CHECKOUT / "constraints.txt"),
    ]
    for wanted in ("torch", str(wheel)):  # torch first: a looser request finds a build with gigabytes beside it
        done = subprocess.run([*pip, wanted], capture_output=True, text=True, check=False, env=_environment())
        if done.returncode and os.environ.get("CI") != "true" and "No matching distribution" in done.stderr:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr
    return folder / "bin"


def _environment() -> dict[str, str]:
    """This process's, without what would let the checkout or its environment in."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    return {name: value for name, value in os.environ.items() if name not in hidden and not name.startswith("RAYSTORE")}


def _run(programs: Path, folder: Path, *command: str) -> str:
    env = {**_environment(), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [str(programs / command[0]), *command[1:]],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_module_and_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        extra = {name for name in archive.namelist() if ".dist-info/" in name}
    package = CHECKOUT / "raystore"
    expected = {
        path.relative_to(CHECKOUT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == expected
    assert any(name.endswith("LICENSE") for name in extra)
    assert any(name.endswith("entry_points.txt") for name in extra)


def test_the_command_line_runs_from_the_wheel_alone(empty: Path, tmp_path: Path) -> None:
    assert __version__ in _run(empty, tmp_path, "raystore", "--version")
    where = "import raystore; print(raystore.__file__)"
    assert str(empty.parent.resolve()) in _run(empty, tmp_path, "python", "-c", where)
    (tmp_path / "tickets.csv").write_text(
        "ticket,body\n"
        + "\n".join(f"t-{n},my card number {n} never arrived" for n in range(20))
        + "\nt-20,where is my money\n"
    )
    _run(empty, tmp_path, "raystore", "encoder", "register", "minilm", "--model", "minilm")
    told = ["--text", "body", "--id", "ticket", "--encoder", "minilm"]
    report = json.loads(_run(empty, tmp_path, "raystore", "--json", "embed", "tickets", "tickets.csv", *told))
    assert (report["added"], report["set_aside"]) == (21, 0)
    found = json.loads(_run(empty, tmp_path, "raystore", "--json", "search", "tickets", "my cash is gone", "-k", "1"))
    assert "t-20" in json.dumps(found)
    _run(empty, tmp_path, "raystore", "doctor", "--no-ray")


def test_the_readme_runs_from_the_wheel_alone(empty: Path, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", (CHECKOUT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    assert "assert" in found[1]
    _run(empty, tmp_path, "python", "-c", found[1])
