"""Who points at what: numbered records under a name, published atomically, never edited.

An alias (`minilm` -> a fingerprint, `refunds` -> its live head) and every other small record is a JSON
file `<folder>/<n>.json`. The highest number is the present; the lower ones are history. Knows no room.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raystore.errors import StoreNotFound, StoreUnusable
from raystore.layout import FORMAT, Layout, names, numbers, read_json, write_json
from raystore.secret import make_store_key

Record = dict[str, Any]


class Catalog:
    """Records and aliases of one store. Cheap to make, holds no state, safe in any process."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def put(self, folder: Path, record: Mapping[str, Any], *, only: int | None = None) -> int:
        """The number the record got. A racing writer gets another number; none is lost or overwritten.

        `published_at`, added to it, is ISO 8601 in UTC with microseconds. With `only`, that number or FileExistsError.
        """
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        stamped = {**record, "published_at": now}
        number = only or (numbers(folder) or [0])[-1] + 1
        while True:
            try:
                write_json(folder / f"{number}.json", stamped, self.layout.tmp, exclusive=True)
            except FileExistsError:
                if only is not None:
                    raise
                number += 1
                continue
            return number

    def latest(self, folder: Path) -> tuple[int, Record] | None:
        """The present record and its number, or None where nothing was ever put."""
        found = numbers(folder)
        return (found[-1], read_json(folder / f"{found[-1]}.json")) if found else None

    def record(self, folder: Path, number: int) -> Record | None:
        path = folder / f"{number}.json"
        return read_json(path) if path.is_file() else None

    def set_alias(self, kind: str, name: str, record: Mapping[str, Any]) -> int:
        return self.put(self.layout.aliases(kind, name), record)

    def alias(self, kind: str, name: str) -> Record | None:
        found = self.latest(self.layout.aliases(kind, name))
        return found[1] if found else None

    def alias_names(self, kind: str) -> list[str]:
        return names(self.layout.aliases(kind))


def open_root(root: str | Path, *, create: bool) -> tuple[Layout, Record]:
    """The layout of a store and its `store.json`.

    Raises:
        StoreUnusable: the root is an object-store address (none is tested yet), a file, a folder that
            holds something else, or a store of a newer format.
        StoreNotFound: there is no store and `create` is False.
    """
    if "://" in str(root):
        raise StoreUnusable(
            root=str(root),
            found="an object-store address, and raystore has not been tested on one yet",
            advice="Use a local folder, or a file system that all nodes mount.",
        )
    path = Path(root).expanduser().absolute()
    layout = Layout(path)
    if path.exists() and not path.is_dir():
        raise StoreUnusable(root=str(path), found="a file", advice="Name a folder.")
    # Listed before the look for store.json: another process may be making the store now, and makes these two first.
    foreign = sorted({p.name for p in path.iterdir()} - {layout.tmp.name, layout.keys.name})[:3] if path.is_dir() else []
    if not layout.store_file.is_file():
        if foreign:
            raise StoreUnusable(
                root=str(path),
                found=f"a folder that is no store (no store.json) and holds {', '.join(map(repr, foreign))}",
                advice="Name an empty or new folder, or the store's own root.",
            )
        if not create:
            raise StoreNotFound(name=str(path), where="nothing is there")
        _create(layout)
    try:
        about = read_json(layout.store_file)
        found, _ = int(about["format"]), str(about["key_id"])
    except (json.JSONDecodeError, KeyError, ValueError, TypeError):
        raise StoreUnusable(
            root=str(path),
            found="a store.json that cannot be read",
            advice='It is one line of JSON like {"format": 1, "key_id": "..."}; restore it from a backup.',
        ) from None
    if found > FORMAT:
        raise StoreUnusable(
            root=str(path),
            found=f"a store of format {found}, newer than this raystore's {FORMAT}",
            advice="Upgrade: pip install -U raystore",
        )
    return layout, about


def _create(layout: Layout) -> None:
    layout.root.mkdir(parents=True, exist_ok=True)
    key_id = make_store_key(layout)
    with suppress(FileExistsError):  # another process opened the same new root first: its key is the store's
        write_json(layout.store_file, {"format": FORMAT, "key_id": key_id}, layout.tmp, exclusive=True)
