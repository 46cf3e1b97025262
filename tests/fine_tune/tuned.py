"""A store with a tiny base that was fine-tuned on tickets, for tests of runs; the fixture stands in conftest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystore.fine_tune.result import FineTuned
from raystore.store import Store
from tests.fine_tune.tickets import QUICK

ASKED: dict[str, Any] = {"base": "tiny", "text": "body", "label": "topic", "id": "ticket", "subject": "shop"}


@dataclass(frozen=True)
class Tuned:
    """`made`: 'tiny-tickets@1', from 'tiny', on 360 tickets."""

    store: Store
    made: FineTuned
    data: Path

    def again(self, name: str = "tiny-tickets", **more: Any) -> FineTuned:
        """The call that made it, with whatever else."""
        made: FineTuned = self.store.fine_tune(name, data=self.data, **{**ASKED, **QUICK, **more})
        return made
