"""Verbs that make encoders better."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raystore.errors import TrainingDiverged
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


def test_a_labelled_file_and_a_pool_become_a_collection_that_is_asked_by_the_better_encoder(
    cli: Cli, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    store, data, page = (
        str(tmp_path / "store"),
        str(write_tickets(tmp_path / "tickets.parquet")),
        str(tmp_path / "proof.html"),
    )
    pools = [
        str(write_tickets(tmp_path / f"raw{i}.parquet", 20, seed=i, label=None, first=1_000 * i)) for i in (1, 2)
    ]  # as a shell expands raw*
    cli("--store", store, "encoder", "register", "tiny", "--model", str(tiny_model))
    cli("--store", store, "collection", "create", "tickets", "--encoder", "tiny", "--keep-source")
    settings = (*COLUMNS, "--set", "losses=arcface", *SETTINGS, "--collection", "tickets", "--budget-minutes", "5")
    improve = ("improve", data, "--name", "tiny-tickets", "--base", "tiny", "--pool", *pools, *settings)
    made = cli("--store", store, "--json", *improve, "--require", "knn_accuracy", "--items", "tickets", "--html", page)
    assert made.code == 0, made.err
    assert (made.json["switched"], made.json["rows"], made.json["index"]) == (True, 400, 1)
    assert made.json["encoder"].startswith("tiny-tickets@")
    assert "arrived" in Path(page).read_text(encoding="utf-8")
    again = cli("--store", store, *improve)
    assert again.out.startswith("Better: on ")
    assert "Index 1 covers it." in again.out


def test_rows_to_show_sides_and_items_are_named_and_what_cannot_be_is_refused_before_the_training(
    cli: Cli, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    store, data = str(tmp_path / "store"), str(write_tickets(tmp_path / "tickets.parquet"))
    cli("--store", store, "encoder", "register", "tiny", "--model", str(tiny_model))
    cli("--store", store, "collection", "create", "bare", "--encoder", "tiny")
    tune = ("fine-tune", "tiny-tickets", data, "--base", "tiny", *COLUMNS, "--set", "losses=arcface", *SETTINGS)
    refused = cli("--store", store, *tune, "--split", "time:.8,.1,.1")
    assert refused.code == 2
    assert "fine-tune: --split is 'time:.8,.1,.1', expected fractions of train, val and test: .8,.1,.1." in refused.err
    refused = cli("--store", store, *tune, "--items", "bare")
    assert refused.code == 2
    assert "fine-tune: --items: collection 'bare' keeps no content; only one made with --keep-source does." in refused.err
    brief = (*tune, "--split", ".6,.1,.3", "--set", "steps=2")
    made = cli("--store", store, "--json", *brief).json
    assert made["data"]["split"] == {"train": 0.6, "val": 0.1, "test": 0.3}
    shown = made["proof"]["maps"]["ids"][0]
    found = cli("--store", store, "--json", *brief, "--show", shown).json
    assert [asked["id"] for asked in found["proof"]["neighbours"]] == [shown]
    assert (found["run"], found["show"]) == ("tiny-tickets@1", [shown])


def test_the_bar_says_how_the_training_goes(
    cli: Cli, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    store, data = str(tmp_path / "store"), str(write_tickets(tmp_path / "tickets.parquet"))
    cli("--store", store, "encoder", "register", "tiny", "--model", str(tiny_model))
    made = cli(
        "--store", store, "fine-tune", "tiny-tickets", data, "--base", "tiny", *COLUMNS, "--set", "losses=arcface", *SETTINGS,
        "--set", "steps=2",
    )  # fmt: skip
    assert "proving it" in made.err


def test_a_run_that_was_stopped_is_listed_with_the_others(
    cli: Cli, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise TrainingDiverged(step=1, found="its loss is not a number", learning_rate=3e-3, kept=0)

    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    monkeypatch.setattr("raystore.fine_tune.loop.watch.Watch.look", explode)
    store, data = str(tmp_path / "store"), str(write_tickets(tmp_path / "tickets.parquet"))
    cli("--store", store, "encoder", "register", "tiny", "--model", str(tiny_model))
    tune = ("fine-tune", "tiny-tickets", data, "--base", "tiny", *COLUMNS, "--set", "losses=arcface", *SETTINGS)
    assert "fine-tuning stopped at step 1: its loss is not a number." in cli("--store", store, *tune).err
    [run] = cli("--store", store, "--json", "encoder", "runs").json
    assert (run["run"], run["proof"], run["encoder"], run["live"]) == ("tiny-tickets@1", "stopped", "", False)
    shown = cli("--store", store, "encoder", "run", "tiny-tickets@1").out.splitlines()
    assert re.sub(r"\d+ s;", "# s;", shown[0]) == (
        f"Run tiny-tickets@1: {run['base']}, 1 step (0 rows seen) in # s; an alarm stopped it, so there is no encoder."
    )
    assert shown[1] == (
        "Fine-tuning stopped at step 1: its loss is not a number. Try learning_rate=0.0006 (it was 0.003), or a longer warmup: "
        "that begins anew."
    )
    assert shown[2] == "Data: 314 rows to train on, 24 to watch it, 22 to prove it."
    curve = shown.index("The end of its curve, which is runs/tiny-tickets/1/points.csv in the store:")
    assert re.fullmatch(r"  step 0 of 60: kNN of val \d+\.\d%", shown[curve + 1])
    assert shown[curve + 3 : curve + 5] == ["The recipe, without a name:", "  losses = arcface"]
    assert "  learning_rate = 0.003" in shown
    record = cli("--store", store, "--json", "encoder", "run", "tiny-tickets").json
    assert (record["run"], record["status"], record["live"], record["recipe"]["steps"]) == (
        "tiny-tickets@1",
        "stopped",
        False,
        60,
    )
    assert record["reason"].startswith("fine-tuning stopped at step 1: ")
    refused = cli("--store", store, "encoder", "run", "tiny-tickets@1", "--html", str(tmp_path / "page.html"))
    assert refused.code == 2
    assert "encoder run: tiny-tickets@1 was stopped by an alarm, so there is no proof for --html to show." in refused.err
    refused = cli("--store", store, "encoder", "make-live", "tiny-tickets@1")
    assert refused.code == 2
    assert (
        "tiny-tickets@1 has no encoder, only a record (runs.get('tiny-tickets@1')): fine-tuning stopped at" in refused.err
    )


def test_a_run_that_is_its_base_unchanged_is_listed_as_that_and_cannot_be_made_live(
    cli: Cli, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")
    store, data = str(tmp_path / "store"), str(write_tickets(tmp_path / "tickets.parquet"))
    cli("--store", store, "encoder", "register", "tiny", "--model", str(tiny_model))
    tune = (
        "fine-tune",
        "same",
        data,
        "--base",
        "tiny",
        *COLUMNS,
        "--set",
        'losses={"supcon": 1, "arcface": .5}',
        *SETTINGS,
    )
    never = ("--set", "steps=2", "--set", "learning_rate=1e-12", "--set", "proxy_learning_rate=1e-12")
    made = cli("--store", store, *tune, *never, "--set", "matryoshka=16", "--force", "to see it in use")
    assert made.code == 0, made.err
    assert "Unchanged: no step was better than the base itself, so there is nothing to switch to." in made.out
    assert "Live: " not in made.out
    [run] = cli("--store", store, "--json", "encoder", "runs").json
    assert (run["run"], run["proof"], run["live"]) == ("same@1", "unchanged", False)
    shown = cli("--store", store, "--json", "encoder", "run", "same").json
    assert (shown["live"], shown["recipe"]["losses"], shown["recipe"]["matryoshka"]) == (
        False,
        {"supcon": 1.0, "arcface": 0.5},
        [16],
    )
    refused = cli("--store", store, "encoder", "make-live", "same", "--force", "to see it in use")
    assert refused.code == 2
    assert f"make 'same' live: same@1 is its base, {run['base']}, unchanged: no step was better" in refused.err


@pytest.mark.parametrize("verb", ["fine-tune", "improve", "encoder run"])
def test_the_page_is_written_beside_the_text_and_the_help_says_so(cli: Cli, verb: str) -> None:
    said = " ".join(cli(*verb.split(), "--help").out.split())
    assert "Write the proof with its two maps as one HTML file too." in said


def test_what_is_said_of_a_run_is_refused_beside_settings_to_try(cli: Cli, tmp_path: Path) -> None:
    asked = (
        "fine-tune",
        "tiny-tickets",
        "tickets.parquet",
        *COLUMNS,
        "--try",
        "learning_rate=1e-5",
        "--dry-run",
        "--html",
        "page.html",
    )
    refused = cli("--store", str(tmp_path / "store"), *asked)
    assert refused.code == 2
    assert (
        "--dry-run and --html go with one run, and --sweep and --try make many short ones: leave one or the other out"
        in refused.err
    )
    assert not (tmp_path / "store").exists()
