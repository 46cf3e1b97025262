"""What a label may be for a task, and the one label of an id. Types and SQL; knows no store."""

# ruff: noqa: S608  columns stand quoted; the expression of a rule was parsed and checked (label_rule.py)

from __future__ import annotations

import duckdb
import pyarrow as pa

from raystore.data.snapshots.label_rule import LabelRule
from raystore.data.snapshots.work import Work, few, quoted, utc

_NEAR = 1e-6  # what is this near to a whole number was one before some program made it a float


def is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_class(kind: pa.DataType) -> bool:
    """Text, integers, booleans; and the type of nothing but nulls, whose rows are refused one by one."""
    return is_text(kind) or bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind))


def is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def label_kind_problems(work: Work, kind: pa.DataType, task: str, table: str) -> list[str]:
    """Why labels of this type are none for the task; of floats, what they look like."""
    if task == "number":
        if is_number(kind) or pa.types.is_null(kind):
            return []
        return [f"its labels are {kind}, expected numbers with task='number'"]
    if task == "labels":
        if pa.types.is_list(kind) and is_class(kind.value_type):
            return []
        return [f"its labels are {kind}, expected a list of text a row with task='labels', as list(label) gives"]
    if is_class(kind):
        return []
    expected = f"its labels are {kind}, expected text, integers or booleans"
    if pa.types.is_list(kind):
        return [f"{expected}; task='labels' takes lists"]
    if not is_number(kind):
        return [f"{expected} (CAST them in the SQL)"]
    return [f"{expected}; {_floats_said(work, table)}"]


def _floats_said(work: Work, table: str) -> str:
    value = "CAST(label AS DOUBLE)"
    n, nan, whole = work.all(
        f"""SELECT count(label), count(*) FILTER (isnan({value})), count(*) FILTER (abs({value} - round({value})) < {_NEAR})
            FROM {table}"""
    )[0]
    said = [f"{nan:,} of them are NaN"] if nan else []
    if n and whole == n - nan:
        said.append("the others are" if nan else "all are")
        said[-1] += " near whole numbers: CAST(label AS INTEGER) makes classes of them"
    else:
        said.append("CASE or width_bucket makes classes of them")
    return "; ".join([*said, "task='number' predicts them as they are"])


def label_sql(task: str, label: str = "label") -> str:
    """The label as the snapshot keeps it; a list is a set, in byte order."""
    if task == "number":
        return f"CAST({label} AS DOUBLE) + 0.0"
    return f"list_sort(list_distinct(CAST({label} AS VARCHAR[])))" if task == "labels" else f"CAST({label} AS VARCHAR)"


def label_value_problems(work: Work, task: str, table: str) -> list[str]:
    """Rows of the table whose label cannot be: null, NaN, a list with a null in it."""
    n, shown = work.some("id", f"FROM {table} WHERE label IS NULL")
    problems = []
    if n:
        problems.append(f"{n:,} rows have no label ({few(n, shown)}); leave them out: WHERE label IS NOT NULL")
    if task == "number":
        n, shown = work.some("id", f"FROM {table} WHERE NOT isfinite(CAST(label AS DOUBLE))")
        if n:
            problems.append(f"{n:,} labels are NaN or infinite ({few(n, shown)}); leave them out: WHERE isfinite(label)")
    if task == "labels":
        n, shown = work.some("id", f"FROM {table} WHERE len(list_filter(label, lambda x: x IS NULL)) > 0")
        if n:
            problems.append(f"{n:,} lists of labels hold a null ({few(n, shown)}); list_filter takes them out")
    return problems


def rule_problems(rule: LabelRule, kind: pa.DataType | None, at: pa.DataType | None) -> list[str]:
    """What the rule cannot do with labels of this type, and with this type of `at`; None where the SQL gives none."""
    problems = []
    if rule.kind == "any" and kind is not None and not pa.types.is_boolean(kind):
        problems.append(f"label='any' takes booleans, its labels are {kind}; 'any:VALUE' asks for one of them")
    if rule.kind in ("value", "majority") and kind is not None and not is_class(kind):
        problems.append(f"label='{rule.text}' takes text, integers or booleans, its labels are {kind}")
    if rule.kind in ("first", "last") and at is not None and not (is_time(at) or is_number(at)):
        problems.append(f"its column at is {at}, expected a time or a number (CAST it AS TIMESTAMP in the SQL)")
    return problems


def gather(work: Work, rule: LabelRule, at: pa.DataType | None, others: list[str]) -> list[str]:
    """Make table `labelled` of `sampled`: one row an id with its label, whether its labels `differ` (null where that
    cannot be told), and the other columns.

    Returns what is wrong, as sentences: the expression of the rule fails, or an id has several values in another column.
    """
    order = '"at"'
    if at is not None and is_time(at):
        order = f"epoch_us({utc(order)})"
    chosen = rule.chooses
    differ = "CAST(NULL AS BOOLEAN)" if chosen is None else f"min({chosen}) IS DISTINCT FROM max({chosen})"
    each = [(quoted(c), quoted(f"{c}_differs")) for c in others]
    kept = "".join(f", min({c}) AS {c}, min({c}) IS DISTINCT FROM max({c}) AS {differs}" for c, differs in each)
    if rule.kind == "majority":
        votes = "(SELECT id, label, count(*) AS votes FROM sampled GROUP BY id, label)"
        make = f"""SELECT * FROM (SELECT id, {rule.aggregate("votes")} AS label, {differ} AS differ FROM {votes} GROUP BY id)
                   JOIN (SELECT id{kept} FROM sampled GROUP BY id) USING (id)"""
    else:
        make = f"SELECT id, {rule.aggregate(order)} AS label, {differ} AS differ{kept} FROM sampled GROUP BY id"
    try:
        work.connection.execute(f"CREATE TABLE labelled AS {make}")
    except duckdb.Error as error:
        # Of a plan DuckDB names columns and functions; of a row it may quote the value.
        planned = isinstance(error, (duckdb.BinderException, duckdb.CatalogException, duckdb.ParserException))
        reason = str(error).splitlines()[0].rstrip(".") if planned else type(error).__name__
        return [f"the label rule cannot be run: DuckDB says: {reason}"]
    problems = []
    for column in others:
        n, shown = work.some("id", f"FROM labelled WHERE {quoted(f'{column}_differs')}")
        if n:
            problems.append(f"{n:,} ids have several values of '{column}' ({few(n, shown)}); choose one an id in the SQL")
    return problems
