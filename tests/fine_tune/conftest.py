"""Fixtures of this room."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import raystore
from tests.fine_tune.tickets import QUICK, write_tickets
from tests.fine_tune.tuned import ASKED, Tuned


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Tuned]:
    """A store whose 'tiny' was fine-tuned to 'tiny-tickets' on 360 tickets."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSTORE_BACKEND", "torch")  # an export of each encoder would take most of the time
        store = raystore.open(folder / "store")
        store.encoders.register("tiny", model=tiny_model)
        data = write_tickets(folder / "tickets.parquet")
        yield Tuned(store, store.fine_tune("tiny-tickets", data=data, **ASKED, **QUICK), data)
