"""docs/deployments.md names every key of the deployment file with its default, and its examples are such files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.read import parse_spec

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGE = (DOCS / "deployments.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]*?) \| ([^|]+?) \|$", re.MULTILINE)


def keys(model: type[BaseModel] = AppSpec, at: str = "") -> Iterator[tuple[str, str]]:
    """Every key as a path and its default, as the page writes them. A section that may be left out has a row of its own."""
    for name, field in model.model_fields.items():
        path = f"{at}{field.alias or name}"
        found = list(_models(field.annotation))
        if not found or field.is_required() or not isinstance(field.get_default(call_default_factory=True), BaseModel):
            yield path, _default(field)
        kind = str(field.annotation)
        step = ".<name>." if kind.startswith("dict") else "[]." if "list[" in kind else "."
        for each in found:
            yield from keys(each, path + step)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for inner in get_args(annotation):
            yield from _models(inner)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    if value in ([], {}):
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return (
        f"{value:,}"
        if isinstance(value, int) and value >= 10_000
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def test_every_key_stands_on_the_page_with_its_default_and_a_meaning() -> None:
    rows = {path: default for path, default, _ in _ROW.findall(PAGE) if default != "default"}
    assert rows == dict(keys())


@pytest.mark.parametrize(
    "page",
    ["deployments.md", "operate.md", "shadows.md", "rules.md", "review.md", "watch.md", "security.md", "../README.md"],
)
def test_the_deployment_files_of_a_page_are_read(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)]
    files = [block for block in blocks if set(block) <= set(AppSpec.model_fields)]
    assert files
    for block in files:
        parse_spec(block, "serve")
