"""Source tables: labels and other events registered beside collections, in numbered versions.

A row lives from the version that brought it (`_added`) to the one that replaced it (`_until`), so every version can
be read as a filter on one Lance table. A version is announced by its record in the catalog, written last; rows of a
version that was never announced are cleared by the next writer. Knows no collection and no encoder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import lance
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raystore.catalog import Catalog
from raystore.data.collection import column_twins
from raystore.data.fence import Fence, Lease
from raystore.data.keyed import lost_lease_is_said
from raystore.data.readers import find_files
from raystore.errors import AlreadyExists, InvalidArguments, TableNotFound
from raystore.layout import check_name, disk_full_is_said, sync, sync_tree

ADDED = "_added"
UNTIL = "_until"
KIND = "table"


@dataclass(frozen=True)
class SourceTable:
    """One version of a source table, by name and number."""

    catalog: Catalog
    name: str
    version: int
    n_rows: int
    columns: dict[str, str]
    id: str | None
    subject: str | None

    def dataset(self) -> lance.LanceDataset:
        return lance.dataset(str(self.catalog.layout.table(self.name)))

    def filter(self) -> str:
        """What selects this version's rows, in the SQL of Lance and of DuckDB alike."""
        return f"{ADDED} <= {self.version} AND ({UNTIL} IS NULL OR {UNTIL} > {self.version})"

    def to_arrow(self) -> pa.Table:
        table: pa.Table = self.dataset().to_table(columns=list(self.columns), filter=self.filter())
        return table

    def __repr__(self) -> str:
        return f"<table {self.name} version {self.version}: {self.n_rows:,} rows, {', '.join(self.columns)}>"


def table_names(catalog: Catalog) -> list[str]:
    return catalog.alias_names(KIND)


def open_table(catalog: Catalog, name: str, version: int | None = None) -> SourceTable:
    """A table's newest version, or the one asked for."""
    folder = catalog.layout.aliases(KIND, name)
    latest = catalog.latest(folder)
    where = f"store '{catalog.layout.root}'"
    if latest is None:
        raise TableNotFound(name=name, where=where, existing=table_names(catalog))
    number = latest[0] if version is None else version
    record = catalog.record(folder, number)
    if record is None:
        existing = [f"{name} version {n}" for n in range(1, latest[0] + 1)]
        raise TableNotFound(name=f"{name} version {number}", where=where, existing=existing)
    return SourceTable(catalog, name, number, record["rows"], dict(record["columns"]), record["id"], record["subject"])


def register_table(
    catalog: Catalog,
    name: str,
    data: Any,
    *,
    id: str | None = None,
    subject: str | None = None,
    columns: Sequence[str] | None = None,
) -> SourceTable:
    """The table's new version, holding exactly `data`; the same data again makes no new version.

    Args:
        data: Parquet, CSV or JSONL path(s), an Arrow table, a pandas DataFrame, or a list of dicts.
        id, subject: the key columns; they are kept as strings, so that they join a collection's ids.
        columns: keep these beside the key columns; None keeps all. Name them where the data also holds protected text.

    Raises:
        InvalidArguments: unreadable data, missing key columns, columns that changed their type or cannot be kept.
        LeaseLost, WriterBlocked, DiskFull: no version was made; repeat the call.
    """
    call = f"register_table('{name}')"
    check_name("a table", name)
    layout = catalog.layout
    if layout.rows(name).exists():
        raise AlreadyExists(noun="collection", name=name, advice="Collections and tables share one SQL namespace.")
    keys = [c for c in (id, subject) if c]
    rows = _keyed(_chosen(_read(data, call), keys, columns, call), keys, call)
    record = {
        "rows": len(rows),
        "columns": [[f.name, str(f.type)] for f in rows.schema],
        "id": id,
        "subject": subject,
        "digest": _digest(rows),
    }
    with disk_full_is_said(layout.tables, f"registering table '{name}'"), Fence(layout.table_fence(name)).hold() as lease:
        latest = catalog.latest(layout.aliases(KIND, name))
        current = latest[0] if latest else 0
        if latest is None or any(latest[1][key] != value for key, value in record.items()):
            with lost_lease_is_said(lease):
                _write_version(catalog, name, rows, current, lease, call)
            sync_tree(layout.table(name))
            with lease.committing(current + 1):  # whoever took over has cleared these rows: they must not be announced
                catalog.set_alias(KIND, name, record)
    return open_table(catalog, name)


def _chosen(rows: pa.Table, keys: Sequence[str], columns: Sequence[str] | None, call: str) -> pa.Table:
    if columns is None:
        return rows
    has = ", ".join(rows.column_names)
    problems = [f"there is no column '{c}' (columns=); there are: {has}" for c in columns if c not in rows.column_names]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return rows.select([c for c in rows.column_names if c in {*keys, *columns}])


def _write_version(catalog: Catalog, name: str, rows: pa.Table, current: int, lease: Lease, call: str) -> None:
    layout, new = catalog.layout, current + 1
    stamped = rows.append_column(ADDED, pa.repeat(pa.scalar(new, pa.int64()), len(rows)))
    stamped = stamped.append_column(UNTIL, pa.nulls(len(rows), pa.int64()))
    path = layout.table(name)
    if current == 0:
        stage = layout.tmp / uuid.uuid4().hex
        stage.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        lance.write_dataset(stamped, str(stage), enable_stable_row_ids=True)
        with lease.committing(new):
            shutil.rmtree(path, ignore_errors=True)  # a first version that was never announced
            os.rename(stage, path)
        sync(path.parent)
        return
    dataset = lance.dataset(str(path), commit_lock=lease.committing)
    dataset.delete(f"{ADDED} > {current}")
    dataset.update({UNTIL: "NULL"}, where=f"{UNTIL} > {current}")
    stamped = _fitted(stamped, dataset, call)
    lance.write_dataset(stamped, str(path), mode="append", commit_lock=lease.committing)
    lance.dataset(str(path), commit_lock=lease.committing).update(
        {UNTIL: str(new)}, where=f"{UNTIL} IS NULL AND {ADDED} < {new}"
    )


def _fitted(rows: pa.Table, dataset: lance.LanceDataset, call: str) -> pa.Table:
    """The rows with the table's columns in its order; new columns are added to it, absent ones become null."""
    problems = [
        f"column '{f.name}' is {f.type}, but was {dataset.schema.field(f.name).type} in earlier versions"
        for f in rows.schema
        if f.name in dataset.schema.names and dataset.schema.field(f.name).type != f.type
    ]
    if problems:
        raise InvalidArguments(call=call, problems=[*problems, "register it under a new name, or cast the columns"])
    added = [f for f in rows.schema if f.name not in dataset.schema.names]
    if added:
        dataset.add_columns(pa.schema([pa.field(f.name, f.type) for f in added]))
    columns = {f.name: rows[f.name] if f.name in rows.column_names else pa.nulls(len(rows), f.type) for f in dataset.schema}
    return pa.table(columns)


def _read(data: Any, call: str) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    if isinstance(data, (str, Path)) or (isinstance(data, Sequence) and all(isinstance(p, (str, Path)) for p in data)):
        return pa.concat_tables([_read_file(path, call) for path in find_files(data, call)], promote_options="default")
    try:
        if isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
            columns = dict.fromkeys(key for row in data for key in row)
            return pa.table({name: [row.get(name) for row in data] for name in columns})
        if hasattr(data, "to_dict") and hasattr(data, "columns"):
            return pa.Table.from_pandas(data, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        problem = f"the rows do not make columns of one type each ({type(error).__name__})"
        raise InvalidArguments(call=call, problems=[problem]) from None
    expected = "a path, an Arrow table, a pandas DataFrame or a list of dicts"
    raise InvalidArguments(call=call, problems=[f"data is {type(data).__name__}, expected {expected}"])


def _read_file(path: str, call: str) -> pa.Table:
    try:
        if path.endswith((".parquet", ".pq")):
            return pq.read_table(path)
        # sample_size=-1: the types are those of all rows, so a late one does not fail the file.
        read = duckdb.read_json if path.endswith((".jsonl", ".ndjson")) else duckdb.read_csv
        relation = read(path, sample_size=-1, connection=duckdb.connect())
        rows = relation.to_arrow_table()
    except (pa.ArrowException, duckdb.Error) as error:
        # The reader's own words may quote a row.
        raise InvalidArguments(call=call, problems=[f"'{path}' cannot be read ({type(error).__name__})"]) from None
    # DuckDB gives values of several types as JSON text, quotes and all.
    mixed = [name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "JSON"]
    problems = [f"column '{c}' of '{path}' holds values of several types" for c in mixed if rows[c].null_count < len(rows)]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return rows


def _keyed(rows: pa.Table, keys: Sequence[str], call: str) -> pa.Table:
    problems = [
        f"there is no column '{key}'; there are: {', '.join(rows.column_names)}"
        for key in keys
        if key not in rows.column_names
    ]
    problems += [
        f"column '{name}' starts with '_', which is reserved" for name in rows.column_names if name.startswith("_")
    ]
    problems += [f"column '{name}' holds a '.', which is reserved" for name in rows.column_names if "." in name]
    problems += [
        f"columns '{one}' and '{other}' differ in case only or not at all, which SQL does not tell apart"
        for one, other in column_twins(rows.column_names)
    ]
    problems += [f"column '{f.name}' is {f.type}, which a table cannot keep" for f in rows.schema if not _can_keep(f.type)]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    for key in keys:
        kind = rows.schema.field(key).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_integer(kind) or _is_text(kind)):
            problems.append(f"key column '{key}' is {kind}, expected strings or integers")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    columns = {}
    for field in rows.schema:
        column = rows[field.name]
        if pa.types.is_dictionary(field.type):
            column = pc.cast(column, field.type.value_type)
        if pa.types.is_float16(column.type):
            column = pc.cast(column, pa.float32())  # DuckDB reads no half floats
        if field.name in keys or _is_text(column.type) or pa.types.is_null(column.type):
            column = pc.cast(column, pa.string())  # pandas 3 and DuckDB bring large and view strings
        columns[field.name] = column.combine_chunks()
    return pa.table(columns)


def _can_keep(kind: pa.DataType) -> bool:
    return not (pa.types.is_interval(kind) or pa.types.is_union(kind) or pa.types.is_run_end_encoded(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


class _Hasher:
    """A sink that hashes what Arrow writes."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None: ...
    def close(self) -> None: ...
    def writable(self) -> bool:
        return True


def _digest(rows: pa.Table) -> str:
    """SHA-256 of the rows as one Arrow IPC batch: equal for equal columns, types and row order."""
    hasher = _Hasher()
    with pa.ipc.new_stream(pa.PythonFile(hasher, mode="w"), rows.schema.remove_metadata()) as writer:
        writer.write_table(rows.replace_schema_metadata(None).combine_chunks())
    return hasher.hash.hexdigest()
