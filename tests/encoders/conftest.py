"""What the encoder tests share: an empty store, the tiny model registered, and copies of its folder to spoil."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raystore.catalog import Catalog, open_root
from raystore.encoders.registry import Encoders


@pytest.fixture(scope="module", autouse=True)
def exports_are_made_once() -> None:
    """Not here: how they are made is what is tested."""


@pytest.fixture
def encoders(tmp_path: Path) -> Encoders:
    layout, _ = open_root(tmp_path / "a store", create=True)
    return Encoders(Catalog(layout))


@pytest.fixture
def on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")


@pytest.fixture
def copy_of_tiny(tiny_model: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(tiny_model, tmp_path / name))

    return copy
