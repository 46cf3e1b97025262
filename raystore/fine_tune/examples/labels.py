"""A label as a file holds it, and as it is called: strings as they are, integers and truth values as words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from raystore.data.readers import Reference, read
from raystore.data.rows import is_unicode

TYPES = ("string", "int64", "bool")  # of a column of labels
_ROWS = 16_384


def label_of(value: Any, noun: str = "label") -> tuple[str, None] | tuple[None, str]:
    """The label and no reason, or no label and the reason why; never quotes it. What is empty (CSV's null) or blank is null."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None, f"the {noun} is null"
    if isinstance(value, bool):
        return str(value).lower(), None
    if not isinstance(value, (str, int)):
        return None, f"the {noun} is {type(value).__name__}, expected a string, an integer or a truth value"
    if not is_unicode(str(value)):
        return None, f"the {noun} is not valid Unicode"
    return str(value), None


@dataclass
class LabelCounts:
    """What the label columns of some slices hold."""

    rows: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    parents: dict[str, set[str]] = field(default_factory=dict)  # of each class


def count_labels(references: Sequence[Reference], label: str, parent: str | None = None) -> LabelCounts:
    """Every label with its rows, and every parent it stands beside. Reads these two columns and keeps no row."""
    found = LabelCounts(rows=sum(reference.n_rows for reference in references))
    for value, above in _values(references, label, parent):
        name, _ = label_of(value)
        if name is not None:
            found.classes[name] += 1
            over, _ = label_of(above)
            if over is not None:
                found.parents.setdefault(name, set()).add(over)
    return found


def _values(references: Sequence[Reference], label: str, parent: str | None) -> Iterator[tuple[Any, Any]]:
    columns = [label, parent] if parent else [label]
    for reference in references:
        for block in read(reference, columns, _ROWS):
            above = block.columns[parent] if parent else [None] * block.n_rows
            yield from zip(block.columns[label], above, strict=True)
