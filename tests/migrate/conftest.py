"""No test waits for readers that it does not have."""

from __future__ import annotations

import pytest

import raystore.migrate.retire as retiring


@pytest.fixture(autouse=True)
def _no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retiring, "GRACE_S", 0.0)
