"""raystore: an embedding store on Ray.

    store = raystore.open("./store")

Importing this imports neither ray nor torch; they come when a job needs them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raystore import errors
    from raystore.store import Store, open

__version__ = "0.1.0"
__all__ = ["Store", "__version__", "errors", "open"]

_LAZY = {"Store": "raystore.store", "open": "raystore.store"}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("raystore.errors")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'raystore' has no attribute '{name}'")
