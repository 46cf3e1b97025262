"""publish and drift of collections."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from tests.cli.conftest import Cli, Studied


def test_publish_writes_a_copy_with_labels_predictions_and_vectors_and_once(
    cli: Cli, studied: Studied, tmp_path: Path
) -> None:
    publish = (
        "collection", "publish", "items", tmp_path / "copy", "--column", "product", "--labels", "labels",
        "--predictions", "topics@1", "--vectors",
    )  # fmt: skip
    done = cli("--store", studied.root, "--json", *publish).json
    assert done["rows"] == {"rows": 240, "labels/labels": 240, "predictions/topics": 240}
    schema = pq.read_schema(next((tmp_path / "copy" / "rows").glob("*.parquet")))
    assert {"id", "product", "vector"} <= set(schema.names)
    assert "price" not in schema.names
    again = cli("--store", studied.root, *publish)
    assert (again.code, "0 rows came, 0 left, 0 files written, 0 removed" in again.out) == (0, True)


def test_republish_brings_every_copy_up_to_date(cli: Cli, studied: Studied, tmp_path: Path) -> None:
    store = ("--store", studied.root)
    assert cli(*store, "collection", "publish", "items", tmp_path / "copy", "--predictions", "topics@1").code == 0
    lost = next((tmp_path / "copy" / "predictions" / "topics").glob("*.parquet"))
    lost.unlink()
    done = cli(*store, "--json", "collection", "republish", "items").json
    mine = next(each for each in done if each["uri"] == (tmp_path / "copy").as_uri())
    assert (mine["rows"], len(mine["written"])) == ({"rows": 240, "predictions/topics": 240}, 1)
    again = cli(*store, "collection", "republish", "items")
    assert (again.code, "0 rows came, 0 left, 0 files written, 0 removed" in again.out) == (0, True)


def test_a_collection_that_was_never_published_says_so(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    encoder = cli(*store, "--json", "encoder", "list").json[0]["encoder"]
    assert cli(*store, "collection", "create", "unpublished", "--encoder", encoder).code == 0
    assert cli(*store, "collection", "republish", "unpublished").out == "'unpublished' was never published\n"


def test_drift_since_a_time_and_since_a_version(cli: Cli, studied: Studied) -> None:
    drift = ("--store", studied.root, "collection", "drift", "items", "--since")
    found = cli("--json", *drift, "2026-02-01", "--label", "product").json
    assert found["rows"] == [124, 116]
    assert {c["label"] for c in found["balance"]["changes"]} == {"card", "login", "money"}
    shown = cli(*drift, "2026-02-01", "--fail-on-drift")
    assert shown.code == int(found["alarm"])
    never = cli(*drift, "nonsense")
    assert (never.code, never.err.split(":")[0]) == (2, "InvalidArguments")
