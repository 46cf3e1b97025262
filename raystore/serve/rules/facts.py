"""What a condition may name: the facts of a request, those of its answer, and the request's own columns.

An unquoted name of `BEFORE` or `AFTER` is that fact. Any other name is a column of the request, NULL where the request has none of
it; so is every name in double quotes, also "label" or "key". A name that is nearly a fact's is refused rather than taken for a
column, since a condition over a column that is never there is never true. Knows names only, no rule.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, Literal

# The mapping that conditions and hooks are asked with: facts by name, and the request's own columns under "columns".
Facts = Mapping[str, Any]
Read = Callable[[Facts], Any]
Stage = Literal["before", "after", "shadow before", "shadow after"]

BEFORE = ("text", "kind", "chars", "key", "subject", "tenant", "time")
AFTER = ("label", "second", "confidence", "margin", "value", "abstained", "head")
_NEAR = 0.8  # difflib's ratio: 'confidnece' and 'labels' are near a fact, 'product' is not


def reader(name: str, stage: Stage, *, quoted: bool = False) -> Read:
    """Reads the fact or column of that name.

    Raises:
        ValueError: the rest of a sentence ("it names ..."): not known at this stage, or nearly a fact's name.
    """
    if is_column(name, stage, quoted=quoted):
        return lambda facts: facts["columns"].get(name)
    return lambda facts: facts.get(name)


def written_reader(name: str, stage: Stage) -> Read:
    """`reader` for a name that stands by itself in the file: quoted where it is in double quotes."""
    bare, quoted = unquoted(name)
    return reader(bare, stage, quoted=quoted)


def unquoted(name: str) -> tuple[str, bool]:
    """A name as it stands by itself in the file, without its double quotes, and whether it had them."""
    quoted = len(name) > 2 and name[0] == name[-1] == '"'
    return (name[1:-1] if quoted else name), quoted


def is_column(name: str, stage: Stage, *, quoted: bool = False) -> bool:
    """Whether it names a column of the request; otherwise a fact. Raises as `reader`."""
    if quoted:
        return True
    known = BEFORE if stage.endswith("before") else BEFORE + AFTER
    if name == "text" and stage.startswith("shadow"):
        raise ValueError("'text', which is gone when shadow rules are looked at, after the answer")
    if name in known:
        return False
    column = f'a column of that name is written "{name[:80]}", in double quotes'
    if name in AFTER:
        raise ValueError(f"'{name}', which is known only after the head has spoken; {column}")
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=_NEAR)
    if near:
        raise ValueError(f"'{name[:80]}', which is no fact: did you mean '{near[0]}'? Otherwise {column}")
    return True
