"""Verbs on embedding jobs: a second encoder, what was embedded from where, images."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Cli, Made


def test_a_second_encoder_is_added_and_its_job_is_listed(cli: Cli, made: Made, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    assert cli(*store, "encoder", "register", "tiny", "--model", made.model).code == 0
    assert cli(*store, "encoder", "register", "short", "--model", made.model, "--max-length", "8").code == 0
    embed = ("embed", "tickets", made.file, "--text", "body", "--id", "ticket", "--workers", "0")
    assert cli(*store, *embed, "--encoder", "tiny").code == 0
    added = cli(*store, "collection", "add-encoder", "tickets", "short", "--workers", "0")
    assert added.code == 0
    assert added.out.startswith("tickets: 60 of 60 rows got a vector of short@")
    again = cli(*store, "--json", "collection", "add-encoder", "tickets", "short").json
    assert (again["lacking"], again["filled"], again["left"]) == (0, 0, 0)
    known = cli(*store, "--json", *embed, "--encoder", "short").json
    assert (known["added"], known["filled"], known["known"]) == (0, 0, 60)
    jobs = cli(*store, "--json", "collection", "jobs", "tickets").json
    assert [(job["kind"], job["counts"]["added"], job["counts"]["filled"]) for job in jobs] == [
        ("embed", 60, 0), ("fill", 0, 60), ("embed", 0, 0),
    ]  # fmt: skip
    assert [file["path"] for file in jobs[0]["files"]] == [str(made.file)]
    shown = cli(*store, "collection", "jobs", "tickets").out
    assert all(word in shown for word in ("job", "started", "encoder", "short@"))


def test_a_column_that_the_encoder_does_not_take_ends_with_a_sentence(cli: Cli, made: Made, tmp_path: Path) -> None:
    store = ("--store", tmp_path / "store")
    assert cli(*store, "encoder", "register", "tiny", "--model", made.model).code == 0
    ended = cli(*store, "embed", "tickets", made.file, "--image", "body", "--encoder", "tiny")
    assert ended.code != 0
    assert "takes no images (image=): name a column with text=" in ended.err
    ended = cli(*store, "embed", "tickets", made.file, "--encoder", "tiny")
    assert "which column is to be embedded? Name it with text= or image=" in ended.err
