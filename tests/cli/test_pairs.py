"""`collection graph` and `collection duplicates`, through `main`, in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import lance
import pytest

from tests.cli.conftest import Cli, Studied


@pytest.fixture
def root(studied: Studied, tmp_path: Path) -> Path:
    """A copy of a store with 240 rows."""
    return Path(shutil.copytree(studied.root, tmp_path / "store"))


def test_the_graph_of_a_collection_is_a_table_in_the_store(cli: Cli, root: Path) -> None:
    made = cli("--store", root, "collection", "graph", "items", "-k", "3")
    assert made.code == 0, made.err
    assert "\n3 nearest of 240 rows of items: 720 pairs, exact, encoder " in f"\n{made.out}"
    facts = cli("--store", root, "collection", "graph", "items", "-k", "3", "--json").json
    assert (facts["number"], facts["pairs"], facts["exact"], len(facts["head"])) == (2, 720, True, 20)
    assert lance.dataset(facts["table"]).count_rows() == 720


def test_duplicates_are_shown_as_groups_the_largest_first(cli: Cli, root: Path) -> None:
    facts = cli("--store", root, "collection", "duplicates", "items", "--threshold", "0.5", "--json").json
    sizes = [len(group) for group in facts["largest"]]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) <= facts["in_groups"] <= facts["rows"] == 240
    shown = cli("--store", root, "collection", "duplicates", "items", "--threshold", "0.5", "--exact")
    assert f"in {facts['groups']:,} groups of {facts['in_groups']:,} rows" in shown.out


def test_what_cannot_be_is_said(cli: Cli, root: Path) -> None:
    refused = cli("--store", root, "collection", "duplicates", "items", "--threshold", "2", "--approximate")
    assert refused.code == 2
    assert (
        "duplicates of collection 'items': threshold is 2.0, expected a cosine above 0 and at most 1; exact is False, but there "
        "is no index that could nominate neighbours, build one or leave exact out."
    ) in refused.err.replace("\n", " ")
