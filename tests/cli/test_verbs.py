"""Each verb through `main`, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raystore import __version__
from tests.cli.conftest import Cli, Made

SQL = "SELECT t.id, o.label FROM tickets t JOIN outcomes o ON o.item = t.id"


def test_raw_file_to_a_prediction_by_commands_alone(cli: Cli, made: Made, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "new store")
    assert cli(*store, "encoder", "register", "tiny", "--model", made.model).code == 0
    assert cli(*store, "collection", "create", "empty", "--encoder", "tiny", "--column", "product=string").code == 0
    command = ("embed", "tickets", made.file, "--text", "body", "--id", "ticket", "--keep", "product", "--encoder", "tiny")
    first = cli(*store, *command)
    assert (first.code, first.out.splitlines()[0].split(";")[0]) == (0, "tickets: 60 rows embedded, 0 known already")
    again = cli(*store, *command, "--json").json
    assert (again["added"], again["known"], again["set_aside"]) == (0, 60, 0)
    logged = cli(*store, "log", "tickets", stdin='{"id": "t-new", "text": "hello card", "product": "card"}\n\n')
    assert (logged.code, logged.out.split(";")[0]) == (0, "1 added, 0 known already")
    (tmp_path / "labels.csv").write_text("item,label\n" + "".join(f"t-{i},{'ab'[i % 2]}\n" for i in range(60)))
    assert cli(*store, "table", "register", "outcomes", tmp_path / "labels.csv", "--id", "item").code == 0
    frozen = cli(*store, "--json", "snapshot", "create", "refunds", "--sql", "-", "--split", ".7,.1,.2", stdin=SQL).json
    assert (frozen["snapshot"], sum(frozen["counts"].values())) == ("refunds@1", 60)
    trained = cli(*store, "head", "train", "refunds", "--snapshot", "refunds")
    assert (trained.code, "Head refunds@1, on" in trained.out, "accuracy" in trained.out) == (0, True, True)
    assert cli(*store, "index", "build", "tickets", "--shards", "2").out.startswith(
        "61 rows in 2 shards (exact), 0 bytes of memory, "
    )
    predicted = cli(*store, "--json", "head", "predict", "refunds", "the card never arrived", "money").json
    assert [set(row) for row in predicted] == [{"label", "confidence", "abstained"}] * 2


LISTS = {
    "encoder": {"encoder", "fingerprint", "dim", "takes", "class", "model"},
    "collection": {"collection", "rows", "version", "encoders", "columns"},
    "table": {"table", "version", "rows", "keys", "columns"},
    "snapshot": {"snapshot", "collection", "train", "val", "test", "classes", "hash"},
    "head": {"head", "aliases", "kind", "task", "score", "snapshot", "encoder", "note"},
}


@pytest.mark.parametrize("noun", LISTS)
def test_list_shows_what_there_is(cli: Cli, made: Made, noun: str) -> None:
    rows = cli("--store", made.root, "--json", noun, "list").json
    assert rows
    assert set(rows[0]) == LISTS[noun]
    shown = cli("--store", made.root, noun, "list").out
    assert all(str(row[noun]) in shown for row in rows)


READS = [
    ("encoder", "show", "tiny"),
    ("encoder", "verify", "tiny"),
    ("encoder", "diff", "tiny", "tiny"),
    ("collection", "list"),
    ("collection", "set-aside", "tickets"),
    ("table", "list"),
    ("table", "show", "outcomes"),
    ("table", "versions", "outcomes"),
    ("sql", "SELECT count(*) AS n FROM tickets"),
    ("snapshot", "list"),
    ("snapshot", "show", "refunds"),
    ("snapshot", "report", "refunds"),
    ("snapshot", "rebuild", "refunds@1"),
    ("snapshot", "diff", "refunds", "refunds@1"),
    ("snapshot", "leaks", "refunds"),
    ("head", "list"),
    ("head", "show", "refunds@1"),
    ("head", "versions", "refunds"),
    ("head", "report", "refunds"),
    ("head", "notes", "refunds"),
    ("head", "compare", "refunds", "refunds@1"),
    ("head", "predict", "refunds", "a card"),
    ("index", "show", "tickets"),
    ("index", "list", "tickets"),
    ("search", "tickets", "the card"),
    ("recommend", "tickets", "--subject", "c-1"),
    ("lineage", "refunds"),
    ("impact", "tiny"),
    ("key", "list"),
    ("doctor", "--no-ray"),
    ("--version",),
]


@pytest.mark.parametrize("verb", READS, ids=" ".join)
def test_json_before_and_after_the_verb_is_one_and_the_same_document(cli: Cli, made: Made, verb: tuple[str, ...]) -> None:
    before = cli("--store", made.root, "--json", *verb)
    after = cli(*verb, f"--store={made.root}", "--json")
    assert (before.code, after.code, before.err, after.err) == (0, 0, "", "")
    if verb[0] == "doctor":  # the free space on the disk moves
        assert [row["what"] for row in before.json] == [row["what"] for row in after.json]
    else:
        assert before.json == after.json


@pytest.mark.parametrize("verb", [v for v in READS if v[0] != "doctor"], ids=" ".join)  # it stands in test_doctor.py
def test_people_get_words_and_no_json(cli: Cli, made: Made, verb: tuple[str, ...]) -> None:
    shown = cli("--store", made.root, *verb)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out
    with pytest.raises(json.JSONDecodeError):
        json.loads(shown.out)


def test_version_is_said(cli: Cli) -> None:
    assert cli("--version").out == f"raystore {__version__}\n"
    assert cli("--version", "--json").json == {"raystore": __version__}


def test_search_by_text_and_by_item_with_columns_and_a_predicate(cli: Cli, made: Made) -> None:
    found = cli("--store", made.root, "--json", "search", "tickets", "the card", "-k", "3", "--column", "product").json
    assert len(found["hits"]) == 3
    assert (found["exact"], found["coverage"], found["index_version"]) == (True, 1.0, 1)
    assert set(found["hits"][0]) == {"rank", "id", "score", "product"}
    near = cli(
        *("--store", made.root, "--json", "search", "tickets"),
        *("--item", "t-3", "-k", "2", "--where", "product = 'money'", "--column", "product"),
    ).json
    assert near["hits"][0]["id"] == "t-3"
    assert {hit["product"] for hit in near["hits"]} == {"money"}


def test_search_pages_by_score_and_likeness_and_says_what_comes_next(cli: Cli, made: Made) -> None:
    asked = ("--store", made.root, "search", "tickets", "the card", "-k", "2")
    first, second = cli(*asked, "--json").json, cli(*asked, "-k", "4", "--json").json
    shown = cli(*asked).out.splitlines()
    assert shown[-1] == f"next page: --after {first['cursor']}"
    next_page = cli(*asked, "--after", first["cursor"], "--json").json
    assert [hit["id"] for hit in first["hits"] + next_page["hits"]] == [hit["id"] for hit in second["hits"]]
    best, other = (hit["id"] for hit in first["hits"])
    like = cli("--store", made.root, "--json", "search", "tickets", "--like", best, "--unlike", other, "-k", "3").json
    assert not {best, other} & {hit["id"] for hit in like["hits"]}
    near = cli(*asked[:-2], "--min-score", "0.0", "--limit", "3", "--json").json
    assert (len(near["hits"]), near["truncated"]) == (3, True)
    one_each = cli(*asked[:-2], "--distinct", "product", "--diversity", "0.5", "--column", "product", "--json").json
    products = [hit["product"] for hit in one_each["hits"]]
    assert len(set(products)) == len(products)


def test_sql_takes_parameters_and_standard_input_and_says_how_much_it_left_out(cli: Cli, made: Made) -> None:
    query = "SELECT id FROM tickets WHERE product = $product ORDER BY id"
    rows = cli("--store", made.root, "--json", "sql", "-", "--param", "product=card", stdin=query).json
    assert len(rows) == 20
    shown = cli("--store", made.root, "sql", query, "--param", "product=card", "--limit", "2").out
    assert shown.splitlines()[-1] == "... 18 more rows (--limit)"
    assert len(shown.splitlines()) == 5
    number = cli(
        "--store", made.root, "--json", "sql", "SELECT count(*) AS n FROM tickets WHERE len(id) > $n", "--param", "n=3"
    )
    assert number.json == [{"n": 50}]


def test_numbers_that_json_has_no_word_for_are_null(cli: Cli, made: Made) -> None:
    asked = (
        "SELECT 'nan'::FLOAT AS a, ['inf'::DOUBLE, 1.5] AS b, DATE '2026-01-02' AS c, 1.25::DECIMAL(9,2) AS d, NULL AS e"
    )
    assert cli("--store", made.root, "--json", "sql", asked).json == [
        {"a": None, "b": [None, 1.5], "c": "2026-01-02", "d": "1.25", "e": None}
    ]


def test_rows_set_aside_are_counted_and_listed(cli: Cli, made: Made, tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text('{"id": "s-1", "body": "hello"}\n{"id": "s-2", "body": ""}\n')
    store = ("--store", made.root)
    shown = cli(*store, "embed", "aside", tmp_path / "some.jsonl", "--text", "body", "--id", "id", "--encoder", "tiny")
    assert shown.code == 0
    assert "1 rows embedded, 0 known already, 1 set aside" in shown.out
    assert "Which rows: raystore collection set-aside aside" in shown.out
    rows = cli(*store, "--json", "collection", "set-aside", "aside").json
    assert [(row["id"], row["row"]) for row in rows] == [("s-2", 1)]


def test_lineage_reads_from_the_head_back_to_the_encoder(cli: Cli, made: Made) -> None:
    links = cli("--store", made.root, "--json", "lineage", "refunds@1").json
    assert [link["noun"] for link in links] == ["head", "snapshot", "collection", "encoder"]
    assert links[1]["sql"] == SQL
    shown = cli("--store", made.root, "lineage", "refunds@1").out
    assert shown.splitlines()[0] == "head refunds@1"
    assert f"sql: {SQL}" in shown
