"""CSV, TSV and JSONL: sliced at byte offsets, found with the same parser that reads the records later."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

from raystore.data.readers import reference as slices
from raystore.data.readers.files import open_input
from raystore.data.readers.reference import Block, Reference, Row, SourceFile, blocks, slice_rows

_INFER_ROWS = 1_000
_BUFFER_BYTES = 2**20
# What reads as a number without losing what was written: '007' and '1_000' are codes.
_INT = re.compile(r"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"-?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INT_DIGITS = 18  # that always fit 64 bits


def _open(path: str) -> IO[bytes]:
    return io.BufferedReader(open_input(path), _BUFFER_BYTES)


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


class OpenQuote(Exception):
    """The file's last record, which this names, was still inside quotes when the file ended."""


def _is_open(path: str, kind: str, start: int) -> bool:
    """True when the record from `start` to the file's end is inside quotes: it swallows the next line too."""
    with _open(path) as file:
        lines = list(_Lines(file, start, None))
    return len(list(_records(lines, kind))) == len(list(_records([*lines, "x"], kind)))


def _header(path: str, kind: str) -> tuple[list[str], int]:
    """The column names of a CSV file and the offset of its first record."""
    with _open(path) as file:
        lines = _Lines(file, 0, None)
        names: list[str] | None = next(_records(lines, kind), [])
        if names is None:
            raise csv.Error
        # What is not UTF-8 is shown by its bytes, so that an error can name the column.
        return [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in names], lines.offset


def plan(path: str, kind: str, workers: int) -> tuple[SourceFile, list[Reference]]:
    names, offset = ([], 0) if kind == "jsonl" else _header(path, kind)
    offsets = [offset]  # where record 1024*i begins
    begins, last = offset, 0
    sample: list[Any] = []
    total = 0
    with _open(path) as file:
        lines = _Lines(file, offset, None)
        for record in _records(lines, kind):
            if total < _INFER_ROWS:
                sample.append(record)
            total += 1
            begins, last = lines.offset, begins
            if total % slices.MIN_SLICE_ROWS == 0:
                offsets.append(lines.offset)
        end = lines.offset
    if kind != "jsonl" and last < end and _is_open(path, kind, last):
        raise OpenQuote(f"row {total - 1}" if total else "the header")
    step = -(-slice_rows(total, workers) // slices.MIN_SLICE_ROWS)
    references = []
    for i in range(0, len(offsets), step):
        first = i * slices.MIN_SLICE_ROWS
        rows = min(step * slices.MIN_SLICE_ROWS, total - first)
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


def read(reference: Reference, columns: list[str], batch_rows: int, batch_bytes: int) -> Iterator[Block]:
    return blocks(_rows(reference), reference.first_row, columns, batch_rows, batch_bytes)


def _rows(reference: Reference) -> Iterator[Row]:
    names = [] if reference.kind == "jsonl" else _header(reference.path, reference.kind)[0]
    with _open(reference.path) as file:
        lines = _Lines(file, reference.start, reference.stop)
        begins = reference.start
        for record in _records(lines, reference.kind):
            values, problem = _fields(record, names, reference.kind)
            yield Row(values, lines.offset - begins, problem)
            begins = lines.offset


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
