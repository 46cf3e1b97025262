"""Source files as references: where a slice of rows lies, and how to read it back in any process.

A job hands references around, never content. Parquet is sliced by row group and rows, CSV and JSONL by byte
offsets found with the same parser that reads them later. Readers yield blocks of at most `batch_rows` rows, so memory
does not follow the size of a file. Knows nothing of encoders, collections or Ray. No error or reason quotes a row.
"""

from __future__ import annotations

import csv
import glob
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from raystore.errors import InvalidArguments

_MIN_SLICE_ROWS, _MAX_SLICE_ROWS = 1_024, 16_384
_SLICES_A_WORKER = 4
_INFER_ROWS = 1_000
# What reads as a number without losing what was written: '007' and '1_000' are codes.
_INT = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INT_DIGITS = 18  # that always fit 64 bits
_SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclass(frozen=True)
class Reference:
    """A slice of a file: `n_rows` rows from `first_row`; `start` and `stop` are rows of a row group, or byte offsets."""

    path: str
    kind: str
    first_row: int
    n_rows: int
    start: int
    stop: int
    row_group: int = -1


@dataclass
class Block:
    """Some rows of a slice, by column; a row that could not be read stands in `unreadable` with the reason."""

    first_row: int
    columns: dict[str, list[Any]]
    n_rows: int
    unreadable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceFile:
    path: str
    kind: str
    n_rows: int
    columns: dict[str, str]  # name -> type name of TYPES, or what it is instead


def find_files(paths: str | Path | Sequence[str | Path], call: str) -> list[str]:
    """Absolute paths of the files that `paths` (files, folders or glob patterns) name, sorted within each.

    Raises:
        InvalidArguments: a pattern that names nothing, or files of an unknown kind; all are listed.
    """
    patterns = [paths] if isinstance(paths, (str, Path)) else list(paths)
    found: list[str] = []
    problems = []
    for pattern in patterns:
        path = Path(pattern).expanduser()
        if path.is_dir():
            matches = sorted(str(p) for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
        elif path.is_file():
            matches = [str(path)]
        else:
            matches = sorted(glob.glob(str(path)))  # noqa: PTH207  patterns may be absolute
        if not matches:
            problems.append(f"no file matches '{pattern}'")
        # A row that is set aside is listed with its file's name, which Arrow keeps as UTF-8.
        unnamed = [match for match in matches if match.encode("utf-8", "replace").decode() != match]
        problems += [f"the name of {match!a} is not valid UTF-8" for match in unnamed]
        strange = [match for match in matches if Path(match).suffix.lower() not in _SUFFIXES and match not in unnamed]
        problems += [f"'{match}' is none of {', '.join(_SUFFIXES)}" for match in strange]
        found += [str(Path(m).absolute()) for m in matches]
    if not patterns:
        problems.append("no file was named")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return list(dict.fromkeys(found))


def plan(paths: Sequence[str], workers: int, call: str) -> tuple[list[SourceFile], list[Reference]]:
    """What the files hold and the slices to read them in. Cost: Parquet footers only; one pass over CSV and JSONL."""
    files, references = [], []
    for path in paths:
        kind = _SUFFIXES[Path(path).suffix.lower()]
        try:
            file, slices = _plan_parquet(path, workers) if kind == "parquet" else _plan_lines(path, kind, workers)
        except _OpenQuote as error:
            problem = f"a quote that opens in {error} of '{path}' never closes, so the rows behind it cannot be told apart"
            raise InvalidArguments(call=call, problems=[problem]) from None
        except (pa.ArrowException, csv.Error, ValueError, KeyError) as error:
            # The parser's own words may quote a row, so only what kind of mistake it was is said.
            problem = f"'{path}' cannot be read as {kind} ({type(error).__name__})"
            raise InvalidArguments(call=call, problems=[problem]) from None
        files.append(file)
        references += slices
    return files, references


def read(reference: Reference, columns: Sequence[str], batch_rows: int) -> Iterator[Block]:
    """The slice's rows, a block of at most `batch_rows` at a time, with the named columns only."""
    wanted = list(dict.fromkeys(columns))
    if reference.kind == "parquet":
        yield from _read_parquet(reference, wanted, batch_rows)
        return
    yield from _read_lines(reference, wanted, batch_rows)


def _slice_rows(total: int, workers: int) -> int:
    even = -(-total // (max(1, workers) * _SLICES_A_WORKER))
    return min(max(even, _MIN_SLICE_ROWS), _MAX_SLICE_ROWS)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _plan_parquet(path: str, workers: int) -> tuple[SourceFile, list[Reference]]:
    with pq.ParquetFile(path) as file:
        total = file.metadata.num_rows
        step = _slice_rows(total, workers)
        references, first = [], 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                references.append(Reference(path, "parquet", first + start, stop - start, start, stop, group))
            first += rows
        columns = {f.name: _type_name(f.type) for f in file.schema_arrow}
    return SourceFile(path, "parquet", total, columns), references


def _type_name(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    tests = (
        (pa.types.is_boolean, "bool"), (pa.types.is_integer, "int64"), (pa.types.is_floating, "float64"),
        (pa.types.is_timestamp, "timestamp"), (pa.types.is_date, "date"), (pa.types.is_null, "string"),
    )  # fmt: skip
    return next((name for test, name in tests if test(kind)), str(kind))


def _read_parquet(reference: Reference, columns: list[str], batch_rows: int) -> Iterator[Block]:
    with pq.ParquetFile(reference.path, memory_map=False) as file:
        position = 0
        step = min(batch_rows, max(1, reference.stop - reference.start))
        for batch in file.iter_batches(batch_size=step, row_groups=[reference.row_group], columns=columns):
            start, stop = max(reference.start - position, 0), min(reference.stop - position, len(batch))
            if start < stop:
                part = batch.slice(start, stop - start)
                values = {name: _values(part.column(name)) for name in columns}
                yield Block(reference.first_row + position + start - reference.start, values, stop - start)
            position += len(batch)
            if position >= reference.stop:
                return


def _values(column: pa.Array) -> list[Any]:
    """The column's values. Arrow hands out strings unchecked: what is not UTF-8 becomes lone surrogates, as in CSV."""
    try:
        found: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        raw = plain.cast(pa.large_binary()).to_pylist()
        found = [None if value is None else value.decode("utf-8", "surrogateescape") for value in raw]
    return found


# --- CSV and JSONL: records found and read by the same parser, one record at a time --------------------------------------


class _Lines:
    """The lines of a file as text, with the byte offset behind the last one handed out.

    Bytes that are not UTF-8 become lone surrogates, so that they spoil their own row and no other.
    """

    def __init__(self, file: IO[bytes], start: int, stop: int | None) -> None:
        file.seek(start)
        self._file = file
        self._stop = stop
        self.offset = start

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        if self._stop is not None and self.offset >= self._stop:
            raise StopIteration
        line = self._file.readline()
        if not line:
            raise StopIteration
        text = line.decode("utf-8", "surrogateescape")
        if self.offset == 0:
            text = text.removeprefix("\ufeff")
        self.offset += len(line)
        return text


def _records(lines: Iterable[str], kind: str) -> Iterator[Any]:
    """Each record: a list of CSV fields (None where the line is no CSV), or a line of JSON. Blank lines are no records."""
    if kind == "jsonl":
        yield from (line for line in lines if line.strip())
        return
    csv.field_size_limit(sys.maxsize)  # the default of 131,072 characters would stop the whole file
    reader = csv.reader(lines, delimiter="\t" if kind == "tsv" else ",")
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a carriage return outside quotes; the reader goes on with the next line
            yield None
        else:
            if record:
                yield record


class _OpenQuote(Exception):
    """The file's last record, which this names, was still inside quotes when the file ended."""


def _is_open(path: str, kind: str, start: int) -> bool:
    """True when the record from `start` to the file's end is inside quotes: it swallows the next line too."""
    with Path(path).open("rb") as file:
        lines = list(_Lines(file, start, None))
    return len(list(_records(lines, kind))) == len(list(_records([*lines, "x"], kind)))


def _header(path: str, kind: str) -> tuple[list[str], int]:
    """The column names of a CSV file and the offset of its first record."""
    with Path(path).open("rb") as file:
        lines = _Lines(file, 0, None)
        names: list[str] | None = next(_records(lines, kind), [])
        if names is None:
            raise csv.Error
        # What is not UTF-8 is shown by its bytes, so that an error can name the column.
        return [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in names], lines.offset


def _plan_lines(path: str, kind: str, workers: int) -> tuple[SourceFile, list[Reference]]:
    names, offset = ([], 0) if kind == "jsonl" else _header(path, kind)
    offsets = [offset]  # where record 1024*i begins
    begins, last = offset, 0
    sample: list[Any] = []
    total = 0
    with Path(path).open("rb") as file:
        lines = _Lines(file, offset, None)
        for record in _records(lines, kind):
            if total < _INFER_ROWS:
                sample.append(record)
            total += 1
            begins, last = lines.offset, begins
            if total % _MIN_SLICE_ROWS == 0:
                offsets.append(lines.offset)
        end = lines.offset
    if kind != "jsonl" and last < end and _is_open(path, kind, last):
        raise _OpenQuote(f"row {total - 1}" if total else "the header")
    step = -(-_slice_rows(total, workers) // _MIN_SLICE_ROWS)
    references = []
    for i in range(0, len(offsets), step):
        first = i * _MIN_SLICE_ROWS
        rows = min(step * _MIN_SLICE_ROWS, total - first)
        if rows > 0:
            stop = offsets[i + step] if i + step < len(offsets) else end
            references.append(Reference(path, kind, first, rows, offsets[i], stop))
    return SourceFile(path, kind, total, _infer(sample, names, kind)), references


def _infer(sample: list[Any], names: list[str], kind: str) -> dict[str, str]:
    """Column types from the first rows. CSV columns are numbers where every filled field reads as one."""
    values: dict[str, list[Any]] = {name: [] for name in names}
    for record in sample:
        fields = _json_object(record) if kind == "jsonl" else dict(zip(names, record or (), strict=False))
        for name, value in (fields or {}).items():
            values.setdefault(name, []).append(value)
    if kind == "jsonl":
        return {name: _json_type(found) for name, found in values.items()}
    return {name: _text_type([v for v in found if v != ""]) for name, found in values.items()}


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json_type(values: list[Any]) -> str:
    kinds = {type(v) for v in values if v is not None}
    if kinds and kinds <= {int, float}:
        return "int64" if kinds == {int} else "float64"
    if kinds == {bool}:
        return "bool"
    return "string" if kinds <= {str} else "of several types, a list or an object"


def _text_type(values: list[str]) -> str:
    if not values:
        return "string"
    if all(map(_INT.fullmatch, values)):
        return "int64" if all(len(v) <= _INT_DIGITS for v in values) else "string"
    if all(map(_FLOAT.fullmatch, values)):
        return "float64"
    return "bool" if {v.lower() for v in values} <= {"true", "false"} else "string"


def _read_lines(reference: Reference, columns: list[str], batch_rows: int) -> Iterator[Block]:
    names = [] if reference.kind == "jsonl" else _header(reference.path, reference.kind)[0]
    row = reference.first_row
    block = Block(row, {name: [] for name in columns}, 0)
    with Path(reference.path).open("rb") as file:
        for record in _records(_Lines(file, reference.start, reference.stop), reference.kind):
            values, problem = _fields(record, names, reference.kind)
            if problem:
                block.unreadable[row] = problem
            for name in columns:
                block.columns[name].append(values.get(name))
            block.n_rows += 1
            row += 1
            if block.n_rows == batch_rows:
                yield block
                block = Block(row, {name: [] for name in columns}, 0)
    if block.n_rows:
        yield block


def _fields(record: Any, names: list[str], kind: str) -> tuple[dict[str, Any], str | None]:
    if kind == "jsonl":
        values = _json_object(record)
        return (values, None) if values is not None else ({}, "the line is no JSON object")
    if record is None:
        return {}, "the row holds a carriage return outside quotes"
    if len(record) != len(names):
        return {}, f"the row has {len(record)} fields, the header {len(names)}"
    return dict(zip(names, record, strict=True)), None


def parse_text(value: Any, kind: str) -> Any:
    """A CSV field as the column's type, an empty one as null. ValueError (without the value) if it does not read."""
    if not isinstance(value, str) or kind == "string":
        return value
    if value == "":
        return None
    try:
        if kind == "bool":
            return {"true": True, "false": False}[value.lower()]
        return {"int64": int, "float64": float}.get(kind, str)(value)
    except (ValueError, KeyError):
        raise ValueError(f"does not read as {kind}") from None
