"""What the service tells a SQL process of a relation the query reads: where its rows lie, which, and what is seen of them.

Runs in the service, which knows the store; the process opens what it is told and knows no store. No rows are read here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.columns import is_hidden
from raystore.data.keyed import ADDED
from raystore.data.tables.table import open_table
from raystore.errors import NotFound, QueryRefused
from raystore.layout import Layout


def folders(layout: Layout, collections: Sequence[str], tables: Sequence[str]) -> dict[str, Path]:
    """The Lance folder of each relation that may be read, by name: nothing else is opened for SQL over HTTP."""
    return {**{name: layout.table(name) for name in tables}, **{name: layout.rows(name) for name in collections}}


def shown(catalog: Catalog, name: str, version: int | None, *, collection: bool) -> dict[str, Any]:
    """What the process needs to show the relation, JSON-ready.

    Returns:
        `columns` that may be seen, vectors and hidden ones not among them; `lance`, the dataset's version to open;
        `condition`, the SQL that selects the rows of `version`, or empty; and `version`, the relation's own.

    Raises:
        QueryRefused: there is no such version.
    """
    try:
        if not collection:
            table = open_table(catalog, name, version)
            columns = [c for c in table.columns if not is_hidden(c)]
            lance = int(table.dataset().version)
            return {"columns": columns, "lance": lance, "condition": table.filter(), "version": table.version}
        rows = CollectionTable.open(catalog.layout, name)
        newest = rows.version
        if version is not None and not 1 <= version <= newest:
            raise QueryRefused(reason=f"'{name}' has no such version, its newest is {newest}")
        condition = "" if version in (None, newest) else f"{ADDED} <= {version}"
        return {"columns": rows.visible, "lance": newest, "condition": condition, "version": version or newest}
    except NotFound:
        raise QueryRefused(reason=f"'{name}' has no such version") from None
