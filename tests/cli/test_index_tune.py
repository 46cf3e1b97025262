"""`index tune`, `index check` and `plan --rows`, through `main`, in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Studied


@pytest.fixture
def root(studied: Studied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a store with 240 rows and no tuning, where each pace is measured no longer than it must."""
    monkeypatch.setattr("raystore.index.tune.run._SECONDS", 0.0)
    monkeypatch.setattr("raystore.index.tune.check._SECONDS", 0.0)
    return Path(shutil.copytree(studied.root, tmp_path / "store"))


def test_what_is_tuned_is_built_checked_and_planned_from(cli: Cli, root: Path) -> None:
    store = ("--store", root)
    tuned = cli(
        *store,
        "index",
        "tune",
        "items",
        "--kind",
        "ivf",
        "--recall",
        "0.8",
        "--memory",
        "1GiB",
        "--p95-ms",
        "1000",
        "--build",
    )
    assert tuned.code == 0, tuned.err
    assert "Tuning of items: 216 of 240 rows of 32 numbers, 24 queries held out of them, recall at 10, " in tuned.out
    assert "built: 240 rows in 1 shard (" in tuned.out
    checked = cli(*store, "index", "check", "items", "--sample", "50", "--json").json
    assert (checked["number"], checked["rows"], checked["tail"], checked["gone"], checked["coverage"]) == (
        1,
        240,
        0,
        0,
        1.0,
    )
    assert checked["recall_low"] <= checked["recall"] <= checked["recall_high"]
    planned = cli(
        *store, "plan", "--rows", "1e6", "--qps", "5", "--recall", "0.8", "--price", "cpu=0.2", "--memory-per-node", "64GiB"
    )
    assert planned.code == 0, planned.err
    assert "1,000,000 rows of 32 numbers at recall 0.8, 5 queries a second" in planned.out
    assert "nodes x 0.2 an hour x 730 hours" in planned.out
    facts = cli(*store, "plan", "--rows", "1e6", "--dim", "64", "--recall", "0.8", "--collection", "items", "--json").json
    assert (facts["rows"], facts["dim"], facts["tuning"]) == (1_000_000, 64, "items@1")
    assert facts["chosen"]["nodes"] == facts["chosen"]["shards"] * facts["chosen"]["replicas"]


def test_a_budget_that_cannot_be_met_ends_with_one_and_the_nearest(cli: Cli, root: Path) -> None:
    ended = cli("--store", root, "index", "tune", "items", "--kind", "ivf", "--p95-ms", "0.000001", "--build")
    assert ended.code == 1
    assert "Nothing measured keeps recall 0.95, 1e-06 ms at p95. Nearest is " in ended.out
    assert "built" not in ended.out


WRONG = [
    (("plan",), "plan: --rows is needed, as in `raystore plan --rows 1e9`, or a verb: `plan embed`."),
    (("plan", "--rows", "many"), "plan: --rows is 'many', expected a whole number such as 3e7."),
    (
        ("plan", "--rows", "1e9"),
        "plan: the store has no tuning to reckon from, run `raystore index tune COLLECTION` first.",
    ),
    (
        ("plan", "--rows", "1e9", "--collection", "items"),
        "plan: collection 'items' has no tuning to reckon from, run `raystore index tune items` first.",
    ),
    (("plan", "--rows", "1e9", "embed", "--items", "5"), "plan: --rows and --collection are of an index, without 'embed'."),
    (
        ("plan", "--rows", "1e9", "--memory-per-node", "much"),
        "plan --memory-per-node: 'much' is no size, expected one like 2GB or 500MB.",
    ),
    (
        ("index", "tune", "items", "--queries", "q.csv"),
        "index tune: --queries needs one of --text and --image, its column.",
    ),
    (("index", "tune", "items", "--memory", "much"), "'much' is no size, expected one like 2GB or 500MB."),
]


@pytest.mark.parametrize("arguments, said", WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_a_wrong_call_is_told_what_is_wrong(cli: Cli, root: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = cli("--store", root, *arguments)
    assert ended.code == 2
    assert said in " ".join(ended.err.split())


def test_a_collection_without_an_index_cannot_be_checked(cli: Cli, root: Path) -> None:
    ended = cli("--store", root, "index", "check", "items")
    assert (
        ended.code,
        "Build one: collection.build_index() or `raystore index build`." in " ".join(ended.err.split()),
    ) == (3, True)
