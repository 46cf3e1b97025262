"""`index list`, `index use`, `index fold` and `recommend`, through `main`, in this process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Made, Studied


@pytest.fixture
def root(studied: Studied, tmp_path: Path) -> Path:
    """A copy of a store with 240 rows of 120 subjects and no index."""
    return Path(shutil.copytree(studied.root, tmp_path / "store"))


def test_without_an_index_there_is_none_to_list_use_or_fold(cli: Cli, made: Made, root: Path) -> None:
    store = ("--store", root)
    assert cli(*store, "index", "list", "items", "--json").json == []
    none = "No index: searches read the collection."
    assert cli(*store, "index", "list", "items").out == f"{none} Build one: raystore index build items\n"
    assert (cli(*store, "index", "show", "items").out, cli(*store, "index", "show", "items", "--json").json) == (
        f"{none}\n",
        None,
    )
    assert cli(*store, "index", "fold", "items").out == "Nothing to fold.\n"
    assert cli(*store, "index", "fold", "items", "--json").json is None
    refused = cli(*store, "index", "use", "items", "1")
    assert (refused.code, "Build one: " in refused.err) == (3, True)
    other = cli("--store", made.root, "index", "use", "tickets", "77")
    assert (other.code, other.err.startswith("IndexNotFound: no index '77' over collection 'tickets' for encoder ")) == (
        3,
        True,
    )
    assert other.err.endswith(". It has: '1'.\n")


def test_rows_are_folded_and_an_older_index_is_used_again(cli: Cli, root: Path) -> None:
    store = ("--store", root)
    built = cli(*store, "index", "build", "items", "--workers", "0")
    assert built.out.startswith("240 rows in 1 shard (exact), 0 bytes of memory, ")
    assert cli(*store, "log", "items", stdin='{"id": "i-new", "text": "a card", "subject": "c-new"}').code == 0
    folded = cli(*store, "index", "fold", "items", "--json").json
    assert (folded["number"], folded["made_by"], folded["made_from"], len(folded["shards"])) == (2, "fold", 1, 2)
    used = cli(*store, "index", "use", "items", "1", "--json").json
    assert (used["number"], used["made_by"], used["made_from"], len(used["shards"])) == (3, "rollback", 1, 1)
    found = cli(*store, "index", "list", "items", "--json").json
    assert [(row["number"], row["live"], row["rows"]) for row in found] == [
        (3, True, 240),
        (2, False, 241),
        (1, False, 240),
    ]
    heading, _, *lines = cli(*store, "index", "list", "items").out.splitlines()
    wanted = ["number", "in use", "kind", "rows", "shards", "recall", "memory", "disk", "version", "made by"]
    assert [word.strip() for word in heading.split("┃")] == wanted
    cells = [[cell.strip() for cell in line.split("│")] for line in lines]
    assert [(row[0], row[1], row[-1]) for row in cells] == [
        ("3", "yes", "rollback of 1"),
        ("2", "", "fold of 1"),
        ("1", "", "build"),
    ]
    assert all(row[7].endswith(("kB", "MB")) for row in cells)
    shown = cli(*store, "index", "show", "items").out
    assert [cell.strip() for cell in shown.splitlines()[2].split("│")] == ["number", "3"]
    assert "_bytes" not in shown
    assert cli(*store, "search", "items", "--item", "i-new", "-k", "1", "--json").json["hits"][0]["id"] == "i-new"


def test_a_profile_of_items_or_of_a_subject_finds_other_rows(cli: Cli, root: Path) -> None:
    asked = ("--store", root, "recommend", "items")
    of_items = cli(*asked, "--item", "i-000", "--item", "i-120", "-k", "4", "--json").json
    assert len(of_items["hits"]) == 4
    assert not {"i-000", "i-120"} & {hit["id"] for hit in of_items["hits"]}
    of_subject = cli(*asked, "--subject", "c-0", "-k", "4", "--json").json  # whose rows are these two
    assert of_subject["hits"] == of_items["hits"]
    where = ("--where", "product = 'card'", "--column", "product", "--distinct", "subject", "--diversity", "0.5")
    some = cli(*asked, "--subject", "c-0", "--half-life-days", "7", *where, "--json").json["hits"]
    assert (len(some), {hit["product"] for hit in some}) == (10, {"card"})
    shown = cli(*asked, "--subject", "c-0", "-k", "2")
    assert (shown.code, len(shown.out.splitlines())) == (0, 4)  # no page is promised: there is no --after
    nothing = cli(*asked, "--subject", "c-0", "--where", "price > 1e9")
    assert nothing.out == "No row is found.\n"


WRONG = [
    ((), 2, "expected one of items and subject, found none"),
    (("--item", "i-000", "--subject", "c-0"), 2, "expected one of items and subject, found both"),
    (("--subject", "nobody"), 3, "no item 'nobody' in the subjects of collection 'items'"),
    (("--item", "nothing"), 3, "nothing"),
    (("--subject", "c-0", "--half-life-days", "-1"), 2, "half_life is "),
]


@pytest.mark.parametrize(
    "arguments, code, said", WRONG, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_a_profile_that_cannot_be_is_refused(
    cli: Cli, studied: Studied, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = cli("--store", studied.root, "recommend", "items", *arguments)
    assert (ended.code, said in ended.err) == (code, True)
