"""encoder migrate, bridge and compare: plan, bridge and cut over, roll back, retire; what a bridge finds; a search through it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import raystore
from tests.cli.conftest import Cli

WORDS = ("card", "money", "blue", "hello", "world", "text", "sentence", "limit")
TEXTS = [f"{a} {b} {c}" for a, b, c in itertools.product(WORDS, WORDS, WORDS[:2])]


def test_a_collection_is_planned_migrated_rolled_back_and_its_old_encoder_retired(
    cli: Cli, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raystore.migrate.retire.GRACE_S", 0.0)
    store = raystore.open(tmp_path / "store")
    store.encoders.register("old", tiny_model, dimensions=16)
    store.encoders.register("new", tiny_model)
    store.create_collection("tickets", encoder=["old", "new"]).log(
        [{"id": f"t-{i}", "text": text} for i, text in enumerate(TEXTS)]
    )
    verb = ("--store", tmp_path / "store", "encoder", "migrate", "tickets")
    shown = cli(*verb, "--to", "new", "--plan")
    assert (shown.code, "compare_encoders, then use_encoder cuts over" in " ".join(shown.out.split())) == (0, True)
    done = cli(*verb, "--to", "new", "--way", "bridge", "--cut-over", "--json").json
    assert (done["cut_over"], done["left"], done["plan"]["pairs"]) == (True, 0, len(TEXTS))
    old = store.encoder("old").label
    again = cli(*verb, "--to", "new", "--plan")
    assert f"--roll-back takes the last cut-over back: tickets is then asked by {old}." in again.out
    planned = cli(*verb, "--to", "new", "--plan", "--json").json
    assert (planned["roll_back_to"], set(planned["ways"][3]["measured"])) == (
        old,
        {"recall", "kept", "gallery", "falls", "rows"},
    )
    assert cli(*verb, "--roll-back", "--json").json["current"] == store.encoder("old").label
    assert "is asked by" in cli(*verb, "--to", "new", "--way", "bridge", "--cut-over").out
    assert cli(*verb, "--retire", "old", "--json").json["rows"] == len(TEXTS)
    wrong = cli(*verb, "--plan", "--force", "so")
    assert wrong.code != 0
    said = " ".join(wrong.err.split())
    for problem in (
        "give one of --to, --roll-back and --retire, found none",
        "--plan goes with --to",
        "--force goes with --retire",
    ):
        assert problem in said


def test_a_bridge_is_built_compared_and_searched_through(cli: Cli, tiny_model: Path, tmp_path: Path) -> None:
    root = ("--store", tmp_path / "store")
    store = raystore.open(tmp_path / "store")
    old = store.encoders.register("old", tiny_model, dimensions=16)
    store.encoders.register("new", tiny_model)
    tickets = store.create_collection("tickets", encoder=["old", "new"], columns={"topic": "string"})
    tickets.log([{"id": f"t-{i}", "text": text, "topic": text.split()[0]} for i, text in enumerate(TEXTS)])
    tickets.log([{"id": "gone", "vector": old.encode(["money money money"])}], fingerprint=old.fingerprint)
    verb = (*root, "encoder", "bridge", "tickets", "crossed", "--old", "old", "--new", "new", "--label", "topic")
    built = cli(*verb, "--kind", "procrustes", "--kind", "low-rank", "--json").json
    assert (built["forward"], built["back"]) == (store.encoder("crossed").label, store.encoder("crossed-back").label)
    assert [(each["direction"], each["kind"]) for each in built["tried"]] == [
        ("forward", "procrustes"),
        ("forward", "low-rank"),
        ("back", "procrustes"),
        ("back", "low-rank"),
    ]
    assert sum(each["chosen"] for each in built["tried"]) == 2
    assert all(each["us"] > 0 and each["labelled"] == len(TEXTS) for each in built["tried"])
    shown = cli(*verb, "--kind", "procrustes", "--kind", "low-rank").out
    lines = [line for line in shown.splitlines() if " us a query" in line]
    assert (len(lines), sum(", label searches keep " in line for line in lines)) == (4, 4)

    compared = cli(*root, "encoder", "compare", "tickets", "old", "new", "--label", "topic", "--json").json
    assert (compared["bridge"], compared["n"], len(compared["rows"])) == (built["forward"], len(TEXTS), 1 + len(WORDS))
    assert 0.5 < compared["recall"] <= 1
    table = cli(*root, "encoder", "compare", "tickets", "old", "new", "--label", "topic").out
    assert all(word in table for word in ("all rows", "recall", "kept", *WORDS))

    search = (*root, "search", "tickets", "money money card", "-k", "3")
    found = cli(*search, "--through", "crossed-back", "--json").json
    wanted = tickets.search("money money card", k=3, through="crossed-back")
    assert ([hit["id"] for hit in found["hits"]], found["bridged"]) == (wanted.ids[0], wanted.bridged)
    back = next(each for each in built["tried"] if each["direction"] == "back" and each["chosen"])
    said = f"recall@10 {back['recall']:.1%} among {back['gallery']} rows, label searches keep {back['kept']:.1%}"
    assert f"asked through {built['back']}: {said}" in cli(*search, "--through", "crossed-back").out

    tickets.bridge_rows("crossed")
    mapped = cli(*root, "search", "tickets", "money money money", "--encoder", "crossed", "-k", "200", "--json").json
    assert [hit["id"] for hit in mapped["hits"] if hit["bridged"]] == ["gone"]
    assert mapped["bridged"]["encoder"] == built["forward"]
    drawn = cli(*root, "search", "tickets", "money money money", "--encoder", "crossed", "-k", "200").out
    assert f"rows are bridged by {built['forward']}: recall@10 " in drawn
