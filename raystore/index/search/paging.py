"""The place in a ranking where a page ended, as a short string that is handed to the next search. Pure.

A cursor holds numbers alone: how far down the ranking the page went, its last score and its last row id. The next page
begins behind that score and row, so rows that were added or erased meanwhile neither repeat nor shift what follows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from typing import NamedTuple

_LAYOUT = struct.Struct("<qfq")
_DIGEST_BYTES = 10  # 30 bytes in all: 40 characters without a bit to spare


class Place(NamedTuple):
    """Behind the first `rank` rows of a ranking, of which the last was `row`, with that score."""

    rank: int
    score: float
    row: int


def to_cursor(place: Place, search: str) -> str:
    """The place as 40 letters, digits, - and _; `search` says of which search, all that must be the same on the next page."""
    packed = _LAYOUT.pack(*place)
    return base64.urlsafe_b64encode(_digest(packed, search) + packed).decode("ascii")


def from_cursor(cursor: str, search: str) -> Place | None:
    """The place; None where the string is no cursor of this search."""
    try:
        held = base64.b64decode(cursor, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    digest, packed = held[:_DIGEST_BYTES], held[_DIGEST_BYTES:]
    if len(packed) != _LAYOUT.size or digest != _digest(packed, search):
        return None
    return Place(*_LAYOUT.unpack(packed))


def _digest(packed: bytes, search: str) -> bytes:
    return hashlib.blake2b(packed + search.encode(), digest_size=_DIGEST_BYTES).digest()
