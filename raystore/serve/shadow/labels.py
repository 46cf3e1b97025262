"""The labels that a shadow report is held against: from a source table, a kept column, SQL, or a table at hand.

They join predictions by the item's id, which is also the id of the row that the deployment logged. Reads the store; decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable, collection_names
from raystore.data.tables.table import open_table, table_names
from raystore.errors import ColumnNotFound, InvalidArguments, TableNotFound
from raystore.train.classify.labels import labels_of_ids

_PLACE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
_CALL = "labels of a shadow report"


def is_place(labels: str) -> bool:
    """Whether it is 'outcomes.outcome' and no SQL."""
    return bool(_PLACE.fullmatch(labels))


def check_relation(catalog: Catalog, labels: str, among: Sequence[str]) -> None:
    """Return where the relation of 'outcomes.outcome' is among those, and there. TableNotFound with those of them that are there."""
    relation = labels.partition(".")[0]
    existing = sorted({*table_names(catalog), *collection_names(catalog.layout)}.intersection(among))
    if relation not in existing:
        raise TableNotFound(name=relation, where="this service", existing=existing)


def live_labels(catalog: Catalog, labels: str | pa.Table, sql: Callable[[str], pa.Table] | None = None) -> pa.Table:
    """(id, label): each id once, as the labels stand now; a null takes a label away.

    Args:
        labels: 'outcomes.outcome', a source table with an id key, of whose rows of an id the latest counts (by the table's time, else
            as registered), or a collection's kept column; or a query that gives `id` and `label`; or an Arrow table of both.
        sql: runs a query; without it, queries are refused.

    Raises:
        TableNotFound, ColumnNotFound: names what there is.
        InvalidArguments: no id key, no columns id and label, an id with several labels. SqlRefused.
    """
    if isinstance(labels, pa.Table):
        return _checked(labels)
    if is_place(labels):
        return _placed(catalog, *labels.split("."))
    if not re.search(r"\s", labels):  # a word, as a table without its column: not even a query
        raise InvalidArguments(call=_CALL, problems=["expected 'table.column', or a SELECT that gives id and label"])
    if sql is None:
        raise InvalidArguments(call=_CALL, problems=["labels is no 'table.column', and no query is run here"])
    return _checked(sql(labels))


def _placed(catalog: Catalog, relation: str, column: str) -> pa.Table:
    if relation in collection_names(catalog.layout):
        rows = CollectionTable.open(catalog.layout, relation).to_arrow(["id", column])
        return pa.table({"id": rows.column("id"), "label": rows.column(column)})
    if relation not in table_names(catalog):
        existing = sorted([*table_names(catalog), *collection_names(catalog.layout)])
        raise TableNotFound(name=relation, where=f"store '{catalog.layout.root}'", existing=existing)
    table = open_table(catalog, relation)
    if column not in table.columns:
        raise ColumnNotFound(name=column, where=f"table '{relation}'", existing=list(table.columns))
    if table.id is None:
        problem = f"table '{relation}' has no id key, by which its labels would join predictions: register it with id="
        raise InvalidArguments(call=_CALL, problems=[problem])
    ids, found, last = labels_of_ids(table, column)
    return pa.table({"id": ids, "label": found.take(pa.array(last))})


def _checked(rows: pa.Table) -> pa.Table:
    missing = [name for name in ("id", "label") if rows.column_names.count(name) != 1]
    if missing:
        has = ", ".join(rows.column_names)
        raise InvalidArguments(
            call=_CALL, problems=[f"they need one column '{name}' each; there are: {has}" for name in missing]
        )
    rows = rows.select(["id", "label"])
    rows = rows.set_column(0, "id", rows.column("id").cast(pa.string())).filter(pc.is_valid(rows.column("id")))
    if (several := len(rows) - pc.count_distinct(rows.column("id")).as_py()) > 0:
        how = "make one row each, as with arg_max(label, time) and GROUP BY id"
        raise InvalidArguments(call=_CALL, problems=[f"{several:,} rows repeat an id; {how}"])
    return rows
