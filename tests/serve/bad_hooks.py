"""Hooks of rules that run in shadow, and do what no shadow should."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raystore.serve.rules import Said


def sleep(facts: Mapping[str, Any], said: Said) -> None:
    time.sleep(30)


def fail(facts: Mapping[str, Any], said: Said) -> None:
    raise ValueError(f"cannot look at {facts}")


def fill_memory(facts: Mapping[str, Any], said: Said) -> None:
    held = []
    while True:
        held.append(bytearray(2**24))
