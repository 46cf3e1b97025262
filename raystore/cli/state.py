"""What the global options chose, for the verbs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raystore.cli.output import Output

if TYPE_CHECKING:
    from raystore.store import Store


@dataclass
class State:
    root: str = "./store"
    out: Output = field(default_factory=Output)

    def open(self, *, create: bool = False) -> Store:
        """The store; verbs that only read do not make one."""
        from raystore.store import open as open_store

        return open_store(self.root, create=create)


STATE = State()
