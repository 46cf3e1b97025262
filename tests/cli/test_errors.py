"""How a command ends: exit codes, sentences on standard error, help."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from raystore.cli.main import app
from tests.cli.conftest import Cli, Made

WRONG = [
    (("search", "tickets"), 2, "InvalidArguments"),
    (("search", "tickets", "a", "--item", "t-1"), 2, "InvalidArguments"),
    (("search", "tickets", "a", "-k", "0"), 2, "InvalidArguments"),
    (("search", "tickets", "a", "--where", "product >"), 2, "SqlRefused"),
    (("search", "tickets", "--unlike", "t-1"), 2, "InvalidArguments"),
    (("search", "tickets", "a", "--after", "b"), 2, "InvalidArguments"),
    (("search", "tickets", "a", "--diversity", "2"), 2, "InvalidArguments"),
    (("sql", "DELETE FROM tickets"), 2, "SqlRefused"),
    (("sql", "SELECT"), 2, "SqlRefused"),
    (("sql", "SELECT 1", "--param", "nothing"), 2, "InvalidArguments"),
    (("snapshot", "create", "s", "--sql", "SELECT id FROM tickets"), 2, "SnapshotRefused"),
    (("sql", "SELECT 1", "--as-of", "yesterday"), 2, "InvalidArguments"),
    (("sql", "SELECT 1", "--format", "parquet"), 2, "InvalidArguments"),
    (("sql", "SELECT 1", "--format", "table", "--out", "a.csv"), 2, "InvalidArguments"),
    (("sql", "SELECT 1", "--explain", "--out", "a.csv"), 2, "InvalidArguments"),
    (("sql", "SELECT [1] AS a", "--out", "a.csv"), 2, "InvalidArguments"),
    (("sql", "SELECT 1", "--out", "nowhere/at/all.csv"), 2, "InvalidArguments"),
    (("table", "register", "t", "nowhere.db", "--query", "SELECT 1"), 2, "InvalidArguments"),
    (("table", "refresh", "outcomes"), 2, "InvalidArguments"),
    (("snapshot", "create", "s", "--sql", "SELECT 1", "--split", "half"), 2, "InvalidArguments"),
    (("snapshot", "create", "s", "--sql", "SELECT 1", "--split", ".5,.5,.2"), 2, "InvalidArguments"),
    (("snapshot", "create", "s", "--sql", "SELECT 1", "--feature", "plan"), 2, "InvalidArguments"),
    (("snapshot", "create", "s", "--sql", "SELECT id, random() AS label FROM tickets"), 2, "SnapshotRefused"),
    (("snapshot", "rule", "first", "last"), 2, "InvalidArguments"),
    (("snapshot", "rule", "own", "sql: nothing("), 2, "InvalidArguments"),
    (("snapshot", "leaks", "refunds", "--threshold", "2"), 2, "InvalidArguments"),
    (("snapshot", "leaks", "refunds", "--encoder", "nobody"), 3, "EncoderNotFound"),
    (("snapshot", "export", "refunds", ".."), 4, "AlreadyExists"),
    (("snapshot", "export", "refunds", "out", "--encoder", "tiny"), 2, "InvalidArguments"),
    (("collection", "publish", "tickets", "out", "--encoder", "tiny"), 2, "InvalidArguments"),
    (("head", "train", "h", "--snapshot", "refunds", "-o", "k=5"), 2, "InvalidArguments"),
    (("head", "train", "h", "--snapshot", "refunds", "-o", "k"), 2, "InvalidArguments"),
    (("head", "train", "h", "--snapshot", "refunds", "-o", "seed=5"), 2, "InvalidArguments"),
    (("head", "train", "h", "--snapshot", "refunds", "-o", "class_weight={"), 2, "InvalidArguments"),
    (("head", "train", "h", "--snapshot", "refunds", "--precision", "2"), 2, "InvalidArguments"),
    (("head", "sweep", "h", "--snapshot", "refunds"), 2, "InvalidArguments"),
    (("head", "sweep", "h", "--snapshot", "refunds", "--settings", "nowhere.yaml"), 2, "InvalidArguments"),
    (("head", "alias", "refunds", "live", "1", "--drop"), 2, "InvalidArguments"),
    (("head", "alias", "refunds", "Live!", "1"), 2, "InvalidName"),
    (("head", "note", "refunds", ""), 2, "InvalidArguments"),
    (("head", "report", "refunds", "--html", "nowhere/at/all.html"), 2, "InvalidArguments"),
    (("collection", "publish", "tickets", "out", "--column", "nothing"), 2, "InvalidArguments"),
    (("collection", "create", "Tickets", "--encoder", "tiny"), 2, "InvalidName"),
    (("collection", "create", "other", "--encoder", "tiny", "--column", "a=number"), 2, "InvalidArguments"),
    (("embed", "tickets", "nowhere/*.parquet", "--text", "body"), 2, "InvalidArguments"),
    (("log", "tickets", "nowhere.jsonl"), 2, "InvalidArguments"),
    (("key", "create", "k", "--verb", "everything"), 2, "InvalidArguments"),
    (("encoder", "register", "other", "--model", "/nowhere/at/all"), 2, "ModelUnusable"),
    (("collection", "list", "--store"), 2, "InvalidArguments"),
    (("encoder", "show", "nobody"), 3, "EncoderNotFound"),
    (("collection", "create", "other", "--encoder", "nobody"), 3, "EncoderNotFound"),
    (("search", "nobody", "a"), 3, "CollectionNotFound"),
    (("search", "tickets", "--item", "t-nobody"), 3, "ItemNotFound"),
    (("search", "tickets", "--like", "t-nobody"), 3, "ItemNotFound"),
    (("search", "tickets", "a", "--distinct", "nothing"), 3, "ColumnNotFound"),
    (("search", "tickets", "a", "--column", "nothing"), 3, "ColumnNotFound"),
    (("sql", "SELECT * FROM nothing"), 3, "TableNotFound"),
    (("snapshot", "show", "refunds@9"), 3, "SnapshotNotFound"),
    (("head", "show", "nobody"), 3, "HeadNotFound"),
    (("head", "train", "h", "--snapshot", "nobody"), 3, "SnapshotNotFound"),
    (("head", "alias", "refunds", "live", "9"), 3, "HeadNotFound"),
    (("head", "alias", "refunds", "never"), 3, "HeadNotFound"),
    (("head", "compare", "refunds", "refunds@live"), 3, "HeadNotFound"),
    (("head", "export", "nobody", "out"), 3, "HeadNotFound"),
    (("snapshot", "diff", "refunds", "nobody"), 3, "SnapshotNotFound"),
    (("snapshot", "drift", "refunds", "nobody"), 3, "SnapshotNotFound"),
    (("snapshot", "refresh", "nobody"), 3, "SnapshotNotFound"),
    (("table", "show", "nobody"), 3, "TableNotFound"),
    (("table", "show", "outcomes", "--version", "7"), 3, "TableNotFound"),
    (("table", "refresh", "nobody"), 3, "TableNotFound"),
    (("collection", "publish", "nobody", "out"), 3, "CollectionNotFound"),
    (("collection", "publish", "tickets", "out", "--labels", "nobody"), 3, "TableNotFound"),
    (("impact", "nobody"), 3, "EncoderNotFound"),
    (("lineage", "nobody"), 3, "DeploymentNotFound"),
    (("key", "revoke", "nobody"), 3, "KeyNotFound"),
    (("collection", "create", "tickets", "--encoder", "tiny"), 4, "AlreadyExists"),
]


@pytest.mark.parametrize("arguments, code, kind", WRONG, ids=[" ".join(a) for a, _, _ in WRONG])
def test_an_error_has_its_exit_code_and_one_sentence_on_standard_error(
    cli: Cli, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, kind: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    said = cli(f"--store={made.root}", *arguments)
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith(f"{kind}: ")
    assert said.err.count("\n") == 1
    as_json = cli(f"--store={made.root}", "--json", *arguments)
    assert (as_json.code, as_json.out) == (code, "")
    error = json.loads(as_json.err)["error"]
    assert error["type"] == kind
    assert said.err == f"{kind}: {error['message']}\n"
    assert list(Path.cwd().iterdir()) == []


def test_a_changed_row_under_a_known_id_is_a_conflict(cli: Cli, made: Made) -> None:
    said = cli("--store", made.root, "log", "tickets", stdin='{"id": "t-1", "text": "something else"}')
    assert (said.code, said.out) == (4, "")
    assert said.err.startswith("IdConflict: collection 'tickets' already holds 't-1' with another payload.")


@pytest.mark.parametrize(
    "stdin, sentence",
    [
        ('{"id": "n-1", "text": "SECRET', "log: line 1 is no JSON object."),
        ('\n{"id": "n-1", "text": "hello"}\nSECRET', "log: line 3 is no JSON object."),
    ],
)
def test_lines_that_are_no_json_are_named_and_not_quoted(cli: Cli, made: Made, stdin: str, sentence: str) -> None:
    said = cli("--store", made.root, "log", "tickets", stdin=stdin)
    assert (said.code, said.err) == (2, f"InvalidArguments: {sentence}\n")


@pytest.mark.parametrize("stdin", ['"SECRET"', "7", "[]"])
def test_lines_that_are_no_objects_are_refused(cli: Cli, made: Made, stdin: str) -> None:
    said = cli("--store", made.root, "log", "tickets", stdin=stdin)
    assert (said.code, "SECRET" in said.err) == (2, False)
    assert said.err.startswith("InvalidRows: ")


def test_reading_verbs_make_no_store(cli: Cli, tmp_path: Path) -> None:
    said = cli("--store", tmp_path / "nothing", "collection", "list")
    assert said.code == 3
    assert said.err.startswith(f"StoreNotFound: no store at '{tmp_path / 'nothing'}'")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_store_is_a_failure(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    said = cli("--store", tmp_path, "collection", "list")
    assert said.code == 1
    assert "holds 'letters.txt'" in said.err


@pytest.mark.parametrize(
    "arguments", [("collection", "list", "--nothing"), ("nothing",), ("embed",), ("index", "build", "t", "--shards", "two")]
)
def test_a_command_line_that_does_not_parse_ends_with_two(cli: Cli, arguments: tuple[str, ...]) -> None:
    said = cli(*arguments)
    assert (said.code, said.out) == (2, "")
    assert "Usage: raystore" in said.err
    as_json = cli(*arguments, "--json")
    assert (as_json.code, as_json.out) == (2, "")
    error = json.loads(as_json.err)["error"]
    assert error["type"] == "UsageError"
    assert error["message"] in said.err


def test_what_stands_after_two_dashes_is_no_option(cli: Cli, made: Made) -> None:
    said = cli("--store", made.root, "sql", "--", "--json")
    assert (said.code, said.err.split(":")[0]) == (2, "SqlRefused")


def _commands() -> Iterator[tuple[str, Any]]:
    waiting = [("raystore", typer.main.get_command(app))]
    while waiting:
        path, command = waiting.pop()
        yield path, command
        waiting += [(f"{path} {name}", inner) for name, inner in getattr(command, "commands", {}).items()]


@pytest.mark.parametrize("path, command", list(_commands()), ids=[path for path, _ in _commands()])
def test_every_command_option_and_argument_has_a_help_text(cli: Cli, path: str, command: Any) -> None:
    assert command.help, path
    assert [p.name for p in command.params if not getattr(p, "help", None)] == []
    shown = cli(*path.split()[1:], "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"Usage: {path} ")
