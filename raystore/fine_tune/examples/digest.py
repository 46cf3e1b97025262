"""The name of the data that a run read: equal for equal rows, whatever the files are called.

Every row goes in as an HMAC-SHA256 of its id, label, entity and contents, with the side it stands on. Under a store's key
nobody without it can test guesses of a content; under the empty key the digest is the same everywhere, and who has all other
rows may guess at one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from raystore.encoders.items import Item
from raystore.encoders.passport import canonical_json
from raystore.fine_tune.examples.spec import DataSpec
from raystore.secret import keyed_digest


def row_digest(key: bytes, id_: str, entity: str, label: str | None, contents: Sequence[Item]) -> bytes:
    """32 bytes for a row."""
    parts = [each.encode() if isinstance(each, str) else each for each in contents]
    return keyed_digest(key, id_.encode(), entity.encode(), b"" if label is None else b"=" + label.encode(), *parts)


def data_digest(spec: DataSpec, rows: Iterable[tuple[int, bytes]]) -> str:
    """64 hex digits over (side, row digest) in the order read, the split, the classes and their parents."""
    about = {
        "views": [modality for _, modality in spec.columns.views],
        "split": dict(spec.split),
        "classes": spec.classes,
        "parents": spec.parents,
    }
    found = hashlib.sha256(canonical_json(about).encode())
    for side, digest in rows:
        found.update(bytes([side]) + digest)
    return found.hexdigest()
