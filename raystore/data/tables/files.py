"""Files of a source table as one stream: Parquet page by page, CSV, TSV and JSON lines through DuckDB.

Types are those of all rows: a late one does not fail the file. Memory follows neither the size nor the number of the files:
Parquet is buffered by the megabyte, DuckDB keeps to `_MEMORY`. Knows no table of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.arrow import ArrowFSWrapper

from raystore.data.readers.files import filesystem, is_url, kind_of, look, open_input
from raystore.data.tables.columns import Rows, Stream, decoded, is_text, plain_type
from raystore.errors import InvalidArguments

BATCH_ROWS = 16_384
_BATCH_BYTES = 16 * 2**20
_BUFFER_BYTES = 2**20  # without a buffer a whole column chunk is read at once
# The sniffer, which looks at all rows, held 1.2 GB for a CSV of 550 MB; under this limit it took 0.6 GB, as fast.
_MEMORY = "512MB"
_URL_SCHEME = "source"
_NO_VALUE = '"NULL"'  # DuckDB's type of a JSON key that is null in every row


@dataclass(frozen=True)
class Part:
    """Files that are read by one reader: their name in a sentence, columns, and rows of the named columns.

    `is_empty` says of a text column without a type of its own (CSV) whether no row has a value in it.
    """

    label: str
    schema: pa.Schema
    read: Callable[[list[str]], Iterator[pa.RecordBatch]]
    is_empty: Callable[[str], bool] = lambda _: False


class _ArrowFiles(ArrowFSWrapper):  # type: ignore[misc]
    """What DuckDB reads a URL through: pyarrow's or fsspec's file system under a scheme of its own."""

    protocol = _URL_SCHEME


def file_rows(
    paths: Sequence[str], source: dict[str, Any], types: Mapping[str, pa.DataType], call: str, stack: ExitStack
) -> Rows:
    """The rows of the files (of `find_files`), one after the other.

    Args:
        types: of columns that are known; in CSV and JSON, text where text is expected is read as it stands there.
        stack: closes what is open.

    Raises:
        InvalidArguments: files that cannot be read, JSON values of several types, columns whose types do not go together;
            while the rows are read, what cannot be read then.
    """
    parts: list[Part] = []
    for kind, group in groupby(_not_empty(paths, call), kind_of):
        files = list(group)
        if kind == "parquet":
            parts += [_parquet(path, call) for path in files]
        else:
            headers = [] if kind == "jsonl" else [_header(path, kind, call) for path in files]
            if twice := _with_twins(headers):
                return Rows(twice, _unread, source)
            parts.append(_text(files, kind, headers, types, call, stack))
    if twice := _with_twins([part.schema.names for part in parts]):
        return Rows(twice, _unread, source)
    names = list(dict.fromkeys(name for part in parts for name in part.schema.names))
    return Rows(names, partial(_stream, parts, call), source)


def _not_empty(paths: Sequence[str], call: str) -> list[str]:
    """An empty CSV or JSONL file among others holds no rows and no columns."""
    found = [p for p in paths if kind_of(p) == "parquet" or (entry := look(p)) is None or entry.size_bytes != 0]
    if not found:
        raise InvalidArguments(call=call, problems=[f"'{path}' is empty" for path in paths])
    return found


def _with_twins(names: Sequence[list[str]]) -> list[str] | None:
    """The first of the lists that holds a name twice."""
    return next((listed for listed in names if len(set(listed)) < len(listed)), None)


def _unread(_: list[str]) -> Stream:
    raise AssertionError("rows of columns with one name")  # refused by their names before


def _united(parts: Sequence[Part], name: str, call: str) -> pa.DataType:
    """The column's type over all parts: numbers widen, nulls give way."""
    kinds = [(part, plain_type(part.schema.field(name).type)) for part in parts if name in part.schema.names]
    if len({str(kind) for _, kind in kinds}) > 1:
        kinds = [(part, pa.null() if is_text(kind) and part.is_empty(name) else kind) for part, kind in kinds]
    found, told = pa.null(), kinds[0][0]
    for part, kind in kinds:
        both = wider(found, kind)
        if both is None:
            problem = f"column '{name}' is {kind} in {part.label}, but {found} in {told.label}"
            raise InvalidArguments(call=call, problems=[problem])
        found, told = both, part if both != found else told
    return found


def wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both, or None."""
    if one == other:
        return one
    try:
        united = pa.unify_schemas([pa.schema([("c", one)]), pa.schema([("c", other)])], promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None
    return united.field("c").type


def _stream(parts: Sequence[Part], call: str, columns: list[str]) -> Stream:
    schema = pa.schema([(name, _united(parts, name, call)) for name in columns])

    def batches() -> Iterator[pa.RecordBatch]:
        for part in parts:
            present = [name for name in columns if name in part.schema.names]
            for batch in part.read(present):
                yield _fitted(batch, schema, part.label, call)

    return Stream(schema, batches())


def _fitted(batch: pa.RecordBatch, schema: pa.Schema, label: str, call: str) -> pa.RecordBatch:
    try:
        columns = [
            pc.cast(decoded(batch.column(f.name)), f.type) if f.name in batch.schema.names else pa.nulls(len(batch), f.type)
            for f in schema
        ]
    except pa.ArrowException as error:  # whose words may quote the value
        raise InvalidArguments(call=call, problems=[f"{label} cannot be read ({type(error).__name__})"]) from None
    return pa.record_batch(columns, schema=schema)


def _parquet(path: str, call: str) -> Part:
    try:
        with open_input(path) as source, pq.ParquetFile(source) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise InvalidArguments(call=call, problems=[f"'{path}' cannot be read ({type(error).__name__})"]) from None
    widest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1.0)
    rows = max(1, min(BATCH_ROWS, int(_BATCH_BYTES / max(widest, 1.0))))

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        with open_input(path) as source, pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=rows, columns=columns, use_threads=False)

    return Part(f"'{path}'", schema, lambda columns: guarded(read(columns), f"'{path}'", call))


def guarded(batches: Iterator[pa.RecordBatch], label: str, call: str, *more: type[Exception]) -> Iterator[pa.RecordBatch]:
    """The batches; what goes wrong while they are read is said by its type alone, since a reader's words may quote a row."""
    try:
        yield from batches
    except (pa.ArrowException, duckdb.Error, OSError, *more) as error:
        raise InvalidArguments(call=call, problems=[f"{label} cannot be read ({type(error).__name__})"]) from None


def _connection() -> Any:  # its type knows no list of files
    connection = duckdb.connect(config={"memory_limit": _MEMORY, "python_enable_replacements": False})
    connection.execute("SET temp_directory = ''")  # rows with columns that are not kept must not be spilled
    connection.execute("SET enable_progress_bar = false")
    connection.execute("SET TimeZone = 'UTC'")
    return connection


def _addresses(connection: Any, paths: Sequence[str]) -> list[str]:
    """What DuckDB is to open; URLs lie on one file system, which it is shown."""
    urls = [path for path in paths if is_url(path)]
    if not urls:
        return list(paths)
    connection.register_filesystem(_ArrowFiles(filesystem(urls[0])[0]))
    return [f"{_URL_SCHEME}://{filesystem(path)[1]}" if is_url(path) else path for path in paths]


def _header(path: str, kind: str, call: str) -> list[str]:
    """The names in the first line, as they stand there: DuckDB would rename the second of two that are equal."""
    connection = _connection()
    try:
        address = _addresses(connection, [path])
        options: dict[str, Any] = {"sep": "\t"} if kind == "tsv" else {}
        named = connection.read_csv(address, header=True, **options).columns
        first = connection.read_csv(address, header=False, all_varchar=True, **options).limit(1).fetchall()
    except (duckdb.Error, OSError) as error:
        raise InvalidArguments(call=call, problems=[f"'{path}' cannot be read ({type(error).__name__})"]) from None
    finally:
        connection.close()
    raw = [name or "" for row in first for name in row]
    same = len(raw) == len(named) and len(set(raw)) < len(raw)
    return raw if same and all(raw) else list(named)


def _text(
    paths: list[str],
    kind: str,
    headers: Sequence[Sequence[str]],
    types: Mapping[str, pa.DataType],
    call: str,
    stack: ExitStack,
) -> Part:
    label = f"'{paths[0]}'" + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    connection = _connection()
    stack.callback(connection.close)
    try:
        address = _addresses(connection, paths)
        # sample_size=-1: the types are those of all rows.
        if kind == "jsonl":
            relation = connection.read_json(address, sample_size=-1, union_by_name=True)
            relation = _with_texts(connection, address, relation, types)
        else:
            present = {name for header in headers for name in header}
            texts = {name: "VARCHAR" for name, k in types.items() if is_text(k) and name in present}
            options: dict[str, Any] = {"sep": "\t"} if kind == "tsv" else {}
            options |= {"dtype": texts} if texts else {}
            relation = connection.read_csv(address, sample_size=-1, header=True, union_by_name=True, **options)
        kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
        # JSON values of several types come as JSON text, quotes and all; a CSV column without a value as text.
        unsure = [n for n, k in kinds.items() if k == "JSON"]
        unsure += [n for n, k in kinds.items() if k == "VARCHAR" and n in types and not is_text(types[n])]
        held = dict(zip(unsure, _counted(relation, unsure), strict=True))
        schema = relation.limit(0).to_arrow_table().schema
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise InvalidArguments(call=call, problems=[f"{label} cannot be read ({type(error).__name__})"]) from None
    mixed = [name for name, n in held.items() if n and kinds[name] == "JSON"]
    if mixed:
        problems = [f"column '{name}' of {label} holds values of several types" for name in mixed]
        raise InvalidArguments(call=call, problems=problems)
    empty = {name for name, n in held.items() if not n}
    schema = pa.schema([pa.field(f.name, pa.null() if f.name in empty else f.type) for f in schema])

    def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
        for batch in relation.project(", ".join(map(_quoted, columns))).to_arrow_reader(BATCH_ROWS):
            arrays = [pa.nulls(len(batch)) if n in empty else batch.column(i) for i, n in enumerate(columns)]
            yield pa.record_batch(arrays, names=columns)

    def is_empty(column: str) -> bool:
        return kinds[column] == "VARCHAR" and not _counted(relation, [column])[0]

    return Part(label, schema, lambda columns: guarded(read(columns), label, call), is_empty)


def _with_texts(
    connection: Any,
    address: list[str],
    relation: duckdb.DuckDBPyRelation,
    types: Mapping[str, pa.DataType],
) -> duckdb.DuckDBPyRelation:
    """The JSON read once more where text is expected and numbers, dates or the like were found."""
    kinds = dict(zip(relation.columns, map(str, relation.types), strict=True))
    as_is = ("VARCHAR", "JSON", _NO_VALUE)
    texts = {n: "VARCHAR" for n, k in kinds.items() if n in types and is_text(types[n]) and k not in as_is}
    found = {n: "VARCHAR" if k == _NO_VALUE else k for n, k in kinds.items()}
    return connection.read_json(address, columns=found | texts) if texts else relation


def _counted(relation: duckdb.DuckDBPyRelation, names: Sequence[str]) -> tuple[int, ...]:
    """How many values each column holds. Cost: one pass over the files, where there is a column."""
    if not names:
        return ()
    counted: tuple[int, ...] = relation.aggregate(", ".join(f"count({_quoted(name)})" for name in names)).fetchall()[0]
    return counted


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
