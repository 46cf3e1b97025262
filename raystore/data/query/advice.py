"""What to do where DuckDB does not find a column or a function of a query. Pure: it knows names, no row."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

from raystore.data.query.calls import FUNCTIONS

_OURS = (*FUNCTIONS, "nearest", "knn_label", "bridged", "vector_of", "item")
_CONTENT = ("text", "image", "content", "body")
_COLUMN = re.compile(r'column "([^"]*)" not found|not have a column named "([^"]*)"')
_FUNCTION = re.compile(r"Function with name \"?(\w+)\"? does not exist")


def advice_on(said: str, columns: Callable[[], Mapping[str, Sequence[str]]], is_encoder: Callable[[str], bool]) -> str:
    """Sentences, or nothing where DuckDB's words are about something else.

    Args:
        said: DuckDB's words.
        columns: of each relation of the store that stands in FROM.
    """
    if found := _FUNCTION.search(said):
        near = difflib.get_close_matches(found[1].lower(), _OURS, n=1, cutoff=0.7)
        return f"Did you mean {near[0]}()?" if near else ""
    if not (found := _COLUMN.search(said)):
        return ""
    name = (found[1] or found[2] or "").lower()
    told = []
    if is_encoder(name):
        told.append(
            f"{name} is an encoder: its vectors are shown with vectors=True and used through similarity({name}, 'text')."
        )
    elif name in _CONTENT:
        told.append(
            "Raw content is no column, SQL never shows it: similarity(encoder, 'text') asks for what is like a text."
        )
    return " ".join([*told, *(f"{relation} has: {', '.join(has)}." for relation, has in columns().items())])
