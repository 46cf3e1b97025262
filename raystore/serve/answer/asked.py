"""What a request asks for, item by item, once it was read; and what the deployment's rules may know of it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from raystore.encoders.items import Item


@dataclass(frozen=True)
class Asked:
    """A text or image, or a vector in its place; `columns` are what is known of it."""

    id: str
    item: Item | None = None
    vector: Sequence[float] | None = None
    subject: str | None = None
    tenant: str | None = None
    time: datetime | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def facts(self, who: str) -> dict[str, object]:
        """What a condition may name (`rules/facts.py`). The text stays in this process: rules answer with their names alone."""
        text = self.item if isinstance(self.item, str) else None
        return {
            "columns": self.columns,
            "text": text,
            "kind": "vector" if self.item is None else "image" if text is None else "text",
            "chars": None if text is None else len(text),
            "key": who,
            "subject": self.subject,
            "tenant": self.tenant,
            "time": self.time,
        }


def item_ids(request_id: str, given: Sequence[str | None]) -> list[str]:
    """The items' own ids; who has none gets the request's, with its place where there are several."""
    if len(given) == 1:
        return [given[0] or request_id]
    return [own or f"{request_id}-{i}" for i, own in enumerate(given)]


def share(salt: str, key: str) -> float:
    """A number in [0, 1) that is always the same for a key, and evenly spread over keys: what samples and canaries go by."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
