"""A small store to freeze snapshots of: tickets of customers over a spring, refunds and account changes as events."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.data.query.engine import SqlEngine
from raystore.data.tables.table import register_table
from tests.data.toy import ToyEncoder, make_log, make_tickets

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def day(n: float) -> datetime:
    """Midnight, n days after the first of March."""
    return MARCH + n * DAY


def engine_of(catalog: Catalog) -> SqlEngine:
    return SqlEngine(catalog, lambda name: ToyEncoder())


def log_tickets(catalog: Catalog, rows: list[dict[str, Any]]) -> CollectionTable:
    """Tickets with id, subject, time and further columns; the collection is made where it is not there."""
    table = CollectionTable(catalog.layout, "tickets")
    if not table.rows.exists():
        table = make_tickets(catalog.layout)
    texts = [{"text": "e" * (i % 5 + 1), **row} for i, row in enumerate(rows)]
    make_log(table).log(texts, add_columns=True)
    return table


def spring(n: int = 60) -> list[dict[str, Any]]:
    """Ticket i comes on day i, of one of 20 customers."""
    return [{"id": f"t-{i:02}", "subject": f"c-{i % 20:02}", "time": day(i), "n": i} for i in range(n)]


def register_events(catalog: Catalog, name: str, rows: list[dict[str, Any]], **options: Any) -> None:
    """Events with `customer` and `at`."""
    register_table(catalog, name, rows, **{"subject": "customer", "time": "at", **options})
