"""Verbs that make encoders better."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.fine_tune.tickets import QUICK, write_tickets

pytestmark = pytest.mark.model
COLUMNS = ("--text", "body", "--label", "topic", "--id", "ticket", "--subject", "shop")
SETTINGS = tuple(
    word
    for name, value in QUICK.items()
    if name != "losses"
    for word in ("--set", f"{name}={str(value).lower() if value is True else value}")
)


def test_a_labelled_file_becomes_a_live_encoder_whose_run_is_listed_and_shown(
    cli: Cli, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    store, data, page = (
        str(tmp_path / "store"),
        str(write_tickets(tmp_path / "tickets.parquet")),
        str(tmp_path / "proof.html"),
    )
    cli("--store", store, "encoder", "register", "tiny", "--model", str(tiny_model))
    tune = ("fine-tune", "tiny-tickets", data, "--base", "tiny", *COLUMNS, "--set", "losses=arcface", *SETTINGS)
    dry = cli("--store", store, "--json", *tune, "--dry-run").json
    assert (dry["steps"], dry["rows"]["train"]) == (60, 314)
    made = cli("--store", store, "--json", *tune, "--html", page).json
    assert (made["run"], made["live"], made["proof"]["before"].split("@")[0]) == ("tiny-tickets@1", True, "tiny")
    assert Path(page).read_text(encoding="utf-8").startswith("<!doctype html>")
    [run] = cli("--store", store, "--json", "encoder", "runs").json
    assert (run["run"], run["steps"], run["proof"], run["live"]) == ("tiny-tickets@1", 60, "better", True)
    shown = cli("--store", store, "encoder", "run", "tiny-tickets")
    assert shown.out.startswith("Run tiny-tickets@1: tiny@")
    assert "Live: 'tiny-tickets' means" in shown.out
    assert cli("--store", store, "encoder", "make-live", "tiny-tickets@1").code == 0
    assert cli("--store", store, "encoder", "run", "tiny-tickets@2").code == 3


def test_settings_are_tried_in_a_table(cli: Cli, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    store, data = str(tmp_path / "store"), str(write_tickets(tmp_path / "tickets.parquet"))
    cli("--store", store, "encoder", "register", "tiny", "--model", str(tiny_model))
    swept = cli(
        *(
            "--store",
            store,
            "--json",
            "fine-tune",
            "tiny-tickets",
            data,
            "--base",
            "tiny",
            *COLUMNS,
            "--set",
            "losses=arcface",
            *SETTINGS,
        ),
        *("--set", "steps=4", "--try", "learning_rate=1e-5", "--try", "learning_rate=3e-3", "--budget-minutes", "1"),
    )
    assert swept.code == 0, swept.err
    assert len(swept.json["tried"]) == 2


def test_two_names_of_labelled_files_without_a_pool_are_refused(cli: Cli, tmp_path: Path) -> None:
    refused = cli(
        "--store", str(tmp_path / "store"), "improve", "a.parquet", "b.parquet", "--text", "body", "--label", "topic"
    )
    assert refused.code == 2
    assert "improve: expected one name or quoted pattern of labelled files, found 2." in refused.err
