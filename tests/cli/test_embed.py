"""`raystore embed`: a job that is only tried, how many workers it may have, and collections that keep their content."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Made

JOB = ("--text", "body", "--id", "ticket")


def test_a_dry_run_says_what_the_job_would_be_and_writes_nothing(cli: Cli, made: Made) -> None:
    store = ("--store", made.root)
    assert cli(*store, "collection", "create", "tried", "--encoder", "tiny").code == 0
    shown = cli(*store, "embed", "tried", made.file, *JOB, "--dry-run")
    assert shown.code == 0
    assert shown.out.startswith("tried: 60 rows to embed; 60 tried at ")
    assert shown.out.rstrip().endswith(" of vectors; nothing was written")
    facts = cli(*store, "--json", "embed", "tried", made.file, *JOB, "--dry-run").json
    assert (facts["rows"], facts["sampled"], facts["vector_bytes"]) == (60, 60, 60 * 32 * 4)
    rows = {row["collection"]: row["rows"] for row in cli(*store, "--json", "collection", "list").json}
    assert rows["tried"] == 0


def test_a_dry_run_tells_of_a_collection_that_is_not_there_and_makes_none(cli: Cli, made: Made) -> None:
    before = sorted(made.root.rglob("*"))
    store = ("--store", made.root)
    tried = cli(*store, "embed", "nowhere", made.file, *JOB, "--encoder", "tiny", "--keep", "product", "--dry-run")
    assert (tried.code, tried.err) == (0, "")
    assert tried.out.startswith("nowhere: 60 rows to embed; 60 tried at ")
    assert sorted(made.root.rglob("*")) == before
    unnamed = cli(*store, "embed", "nowhere", made.file, *JOB, "--dry-run")
    assert unnamed.code == 3
    assert unnamed.err.startswith("CollectionNotFound: no collection 'nowhere'")


def test_a_call_that_cannot_be_leaves_no_collection_behind(cli: Cli, made: Made) -> None:
    store = ("--store", made.root)
    refused = cli(*store, "embed", "mistaken", made.file, "--text", "nothing", "--encoder", "tiny")
    assert (refused.code, refused.err.partition(":")[0]) == (2, "InvalidArguments")
    assert "mistaken" not in {row["collection"] for row in cli(*store, "--json", "collection", "list").json}
    assert not (made.root / "collections" / "mistaken").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("No Name",), 2, "InvalidName: "),
        (("outcomes",), 4, "AlreadyExists: "),
        (("nowhere", "--keep", "price"), 2, "InvalidArguments: embed into 'nowhere': "),
        (("nowhere", "--workers", "many"), 2, "InvalidArguments: embed: --workers is 'many'"),
        (("nowhere", "--encoder", "nobody"), 3, "EncoderNotFound: "),
    ],
)
def test_a_dry_run_of_a_new_collection_refuses_what_the_job_would(
    cli: Cli, made: Made, arguments: tuple[str, ...], code: int, said: str
) -> None:
    name, *options = arguments
    refused = cli("--store", made.root, "embed", name, made.file, *JOB, "--encoder", "tiny", *options, "--dry-run")
    assert (refused.code, refused.err[: len(said)]) == (code, said)


def test_a_dry_run_makes_no_store(cli: Cli, made: Made, tmp_path: Path) -> None:
    refused = cli("--store", tmp_path / "none", "embed", "new", made.file, *JOB, "--encoder", "tiny", "--dry-run")
    assert (refused.code, refused.err.partition(":")[0]) == (3, "StoreNotFound")
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_the_problems_of_the_sample(cli: Cli, made: Made, tmp_path: Path) -> None:
    (tmp_path / "some.jsonl").write_text('{"id": "s-1", "body": "hello"}\n{"id": "s-2", "body": ""}\n')
    shown = cli(
        "--store", made.root, "embed", "tickets", tmp_path / "some.jsonl", "--text", "body", "--id", "id", "--dry-run"
    )
    assert "2 tried (1 would be set aside)" in shown.out
    assert "the text is empty" in shown.out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--workers", "many"), "--workers is 'many', expected a number like 4, or two like 1-8"),
        (("--workers", "-2"), "--workers is '-2', expected a number like 4, or two like 1-8"),
        (("--gpu-workers", "1-"), "--gpu-workers is '1-', expected a number like 4, or two like 1-8"),
    ],
)
def test_workers_that_are_no_numbers_are_refused(cli: Cli, made: Made, options: tuple[str, str], problem: str) -> None:
    refused = cli("--store", made.root, "embed", "tickets", made.file, *JOB, *options)
    assert (refused.code, refused.err) == (2, f"InvalidArguments: embed: {problem}.\n")


def test_two_numbers_are_a_pool_that_grows(cli: Cli, made: Made) -> None:
    refused = cli("--store", made.root, "embed", "tickets", made.file, *JOB, "--workers", "8-1", "--gpus-per-worker", "2")
    assert (refused.code, refused.err) == (
        2,
        "InvalidArguments: embed into 'tickets': workers is (8, 1), expected (least, most) with 1 <= least <= most; "
        "gpus_per_worker is 2, expected more than 0 and at most 1.\n",
    )


def test_a_collection_is_made_to_keep_its_content(cli: Cli, made: Made) -> None:
    store = ("--store", made.root)
    about = cli(*store, "--json", "collection", "create", "kept", "--encoder", "tiny", "--keep-source").json
    assert about["keeps_source"] is True
    assert cli(*store, "--json", "collection", "create", "plain", "--encoder", "tiny").json["keeps_source"] is False


def test_a_row_gets_vectors_of_every_encoder_of_the_collection_or_of_those_that_are_named(
    cli: Cli, made: Made, tiny_model: Path
) -> None:
    store = ("--store", made.root)
    assert cli(*store, "encoder", "register", "brief", "--model", tiny_model, "--max-length", "8").code == 0
    both = ("--encoder", "tiny", "--encoder", "brief")
    tried = cli(*store, "--json", "embed", "dual", made.file, *JOB, *both, "--dry-run").json
    assert tried["vector_bytes"] == 60 * 2 * 32 * 4
    first = cli(*store, "--json", "embed", "dual", made.file, *JOB, *both, "--workers", "0").json
    assert (first["added"], len(first["fingerprints"])) == (60, 2)
    assert first["fingerprint"] == first["fingerprints"][0]
    again = cli(*store, "--json", "embed", "dual", made.file, *JOB, "--workers", "0").json
    assert (again["known"], again["fingerprints"]) == (60, first["fingerprints"])
    alone = cli(*store, "embed", "dual", made.file, *JOB, "--id-prefix", "b/", "--encoder", "brief", "--workers", "0")
    assert alone.out.startswith("dual: 60 rows embedded, 0 known already; ")
    filled = cli(*store, "embed", "dual", made.file, *JOB, "--id-prefix", "b/", "--workers", "0")
    assert filled.out.startswith("dual: 0 rows embedded with 2 encoders, 60 filled, 0 known already; ")
