"""One small store a test, under a path with a quote, a space and a letter beyond ASCII."""

from __future__ import annotations

from pathlib import Path

import pytest

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.layout import Layout
from tests.data.toy import make_store, make_tickets


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_store(tmp_path / "Lenas 'störe'")


@pytest.fixture
def catalog(layout: Layout) -> Catalog:
    return Catalog(layout)


@pytest.fixture
def tickets(layout: Layout) -> CollectionTable:
    return make_tickets(layout, {"product": "string", "price": "float64", "n": "int64", "paid": "bool", "due": "date"})
