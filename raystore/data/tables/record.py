"""What the catalog's record of a table version says, and when two versions are the same. Pure; knows no disk.

rows, added, columns     what the version holds, what it brought, and name and type of its columns in their order
id, subject, time        its key columns; chosen: the columns asked for, None for all
mode, since              replace or append, and the first version whose rows it still holds
digest                   of the rows it brought
stored, commit           every column that this or an earlier version has, and Lance's number of the commit
source                   where the rows can be read again from
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from raystore.catalog import Record
from raystore.data.tables.columns import Keys
from raystore.errors import InvalidArguments


def same_keys(record: Record, keys: Keys, call: str) -> Keys:
    """The table's own keys, which an append may repeat and not change."""
    own = Keys(record["id"], record["subject"], record["time"])
    problems = [
        f"{key}='{given}', but the table's {key} column is {has!r}: an append keeps it"
        for key in ("id", "subject", "time")
        if (given := getattr(keys, key)) is not None and given != (has := getattr(own, key))
    ]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return own


def next_record(
    before: Record | None,
    number: int,
    keys: Keys,
    columns: Sequence[str] | None,
    mode: str,
    schema: pa.Schema,
    added: int,
    digest: str,
) -> Record:
    """The record of version `number` + 1, but where its rows came from and Lance's number of the commit."""
    appended = before if mode == "append" else None
    own = {field.name: str(field.type) for field in schema}
    held = {**dict(appended["columns"]), **own} if appended else own
    chosen = list(columns) if columns is not None else None
    if chosen is None and appended:
        chosen = appended["chosen"]
    return {
        "rows": added + (appended["rows"] if appended else 0),
        "added": added,
        "columns": [[name, kind] for name, kind in held.items()],
        "chosen": chosen,
        "id": keys.id,
        "subject": keys.subject,
        "time": keys.time,
        "mode": mode,
        "since": appended["since"] if appended else number + 1,
        "digest": digest,
        "stored": list(dict.fromkeys([*(before["stored"] if before else ()), *own])),
    }


def is_same(before: Record, number: int, record: Record) -> bool:
    """Whether the newest version holds what the record would announce."""
    if any(before[key] != record[key] for key in ("digest", "added", "id", "subject", "time")):
        return False
    if record["mode"] == "append":
        return bool(before["mode"] == "append")
    return bool(before["since"] == number and before["columns"] == record["columns"])
