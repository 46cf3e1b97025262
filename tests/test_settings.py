"""Every variable is one of the list, read in one file, and written down for the reader."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from raystore.settings import SETTINGS, setting

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", [s.name for s in SETTINGS])
def test_the_readme_names_every_setting(name: str) -> None:
    assert name in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / "raystore").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_other_file_reads_a_raystore_variable_from_the_environment(path: Path) -> None:
    if path.name == "settings.py":
        return
    source = path.read_text(encoding="utf-8")
    assert re.findall(r"(?:environ|getenv)[^\n]{0,20}RAYSTORE_\w+", source) == []
    asked = {
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "setting"
        and isinstance(node.args[0], ast.Constant)
    }
    assert asked <= {s.name for s in SETTINGS}


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSTORE_ROOT", "")
    assert setting("RAYSTORE_ROOT") == "./store"
    monkeypatch.setenv("RAYSTORE_ROOT", "/elsewhere")
    assert setting("RAYSTORE_ROOT") == "/elsewhere"


def test_each_setting_says_what_it_is_for() -> None:
    assert len({s.name for s in SETTINGS}) == len(SETTINGS)
    assert all(s.name.startswith("RAYSTORE_") and s.help.endswith(".") for s in SETTINGS)
