"""sql: one SELECT, as a table, JSON, CSV or Parquet."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, TypeAlias

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import typer

from raystore.cli.files import new_file
from raystore.cli.options import AsOf, Parameters
from raystore.cli.state import STATE
from raystore.cli.words import pairs, query_text
from raystore.errors import InvalidArguments

if TYPE_CHECKING:
    from raystore.data.query.result import SqlResult

Format: TypeAlias = Literal["table", "csv", "parquet"]
_COUNTED = 1_000_000  # rows beyond those shown; a query of more is not run to its end for the sake of their number


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT; '-' reads standard input.")],
    param: Parameters = [],  # noqa: B006
    as_of: AsOf = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what would be done; run nothing.")] = False,
    format: Annotated[
        Format | None, typer.Option(help="By default a table; with --out what the file's name ends in, else csv.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write all rows there, batch by batch.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Rows of a table to show.")] = 50,
) -> None:
    """Ask the store in SQL; similarity(encoder, 'text') ranks a collection. CSV and Parquet may be larger than memory."""
    chosen = _chosen(format, out, explain=explain, as_of=as_of)
    text, params = query_text(query), pairs(param, "sql") or None
    store = STATE.open()
    if explain:
        plan = store.explain(text, params)
        STATE.out.emit({"plan": plan}, lambda: STATE.out.say(plan))
        return
    result = store.sql(text, params, as_of=as_of)
    if out is not None:
        with new_file(out, "sql") as file:
            n = _write(result, file, chosen)
        facts = {"file": out, "format": chosen, "rows": n, "columns": result.columns}
        STATE.out.emit(facts, lambda: STATE.out.say(f"{n:,} rows to {out}"))
    elif chosen == "csv":
        _write(result, sys.stdout.buffer, chosen)
        sys.stdout.buffer.flush()
    else:
        STATE.out.emit(result.to_dicts() if STATE.out.as_json else None, lambda: _draw(result, limit))


def _chosen(format: Format | None, out: str | None, *, explain: bool, as_of: str | None) -> Format:
    """The format, once the options fit each other."""
    problems = []
    if explain and (format is not None or out is not None or as_of is not None):
        problems.append("--explain runs nothing: it goes without --format, --out and --as-of")
    elif out is not None and format == "table":
        problems.append("--out writes csv or parquet; a table is for looking at")
    elif out is None and format == "parquet":
        problems.append("--format parquet needs --out FILE")
    elif out is None and format == "csv" and STATE.out.as_json:
        problems.append("--json and --format csv both want standard output: choose one, or write to --out FILE")
    if problems:
        raise InvalidArguments(call="sql", problems=problems)
    if format is not None:
        return format
    if out is None:
        return "table"
    return "parquet" if out.lower().endswith((".parquet", ".pq")) else "csv"


def _write(result: SqlResult, file: BinaryIO, format: Format) -> int:
    """How many rows were written; a few batches are in memory."""
    if format == "csv":
        _check_csv(result.schema)
    writer: Any = (pacsv.CSVWriter if format == "csv" else pq.ParquetWriter)(file, result.schema)
    n = 0
    with writer:
        for batch in result.batches():
            writer.write_batch(batch)
            n += len(batch)
    return n


def _check_csv(schema: pa.Schema) -> None:
    problems = []
    for field in schema:
        try:
            pacsv.CSVWriter(io.BytesIO(), pa.schema([field])).write_batch(
                pa.RecordBatch.from_pylist([], pa.schema([field]))
            )
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            problems.append(f"column '{field.name}' is {field.type}, which CSV cannot hold: CAST it, or write Parquet")
    if problems:
        raise InvalidArguments(call="sql", problems=problems)


def _draw(result: SqlResult, limit: int) -> None:
    shown: list[dict[str, Any]] = []
    more = 0
    for batch in result.batches():
        taken = batch.slice(0, limit - len(shown))
        shown += taken.to_pylist()
        more += len(batch) - len(taken)
        if more > _COUNTED:
            break
    STATE.out.table(shown, result.columns)
    if more:
        STATE.out.say(f"... {f'more than {_COUNTED:,}' if more > _COUNTED else f'{more:,}'} more rows (--limit)")
