"""SQL's LIKE without a regular expression over the whole text: % is any run of characters, _ is one, case counts, nothing escapes.

Each piece between two % is looked for once, from the left, so a long text that somebody sends in costs its length, and not a power
of it as `.*a.*b` would. As DuckDB, which the tests compare it with.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Matches = Callable[[str], bool]


def like(pattern: str) -> Matches:
    """Whether a text is like the pattern."""
    pieces = pattern.split("%")
    if len(pieces) == 1:
        return _whole(pattern)
    if "_" not in pattern and len(pieces) == 3 and not pieces[0] and not pieces[2]:
        middle = pieces[1]
        return lambda text: middle in text
    first, *between, last = pieces
    starts, ends = _whole(first), _whole(last)
    finds = [_finder(piece) for piece in between if piece]

    def matches(text: str) -> bool:
        if not starts(text[: len(first)]):
            return False
        place = len(first)
        for find in finds:
            place = find(text, place)
            if place < 0:
                return False
        end = len(text) - len(last)
        return end >= place and ends(text[end:])

    return matches


def _whole(piece: str) -> Matches:
    if "_" not in piece:
        return lambda text: text == piece
    matches = _compiled(piece).fullmatch
    return lambda text: matches(text) is not None


def _finder(piece: str) -> Callable[[str, int], int]:
    """Where the leftmost match from a place on ends; -1 without one."""
    if "_" not in piece:
        size = len(piece)

        def find(text: str, place: int) -> int:
            found = text.find(piece, place)
            return found + size if found >= 0 else -1

        return find
    search = _compiled(piece).search

    def find_dots(text: str, place: int) -> int:
        found = search(text, place)
        return found.end() if found else -1

    return find_dots


def _compiled(piece: str) -> re.Pattern[str]:
    """Single characters only, no repetition: as many steps as the text and the piece are long."""
    return re.compile(".".join(re.escape(part) for part in piece.split("_")), re.DOTALL)
