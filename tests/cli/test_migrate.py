"""encoder migrate: plan, bridge and cut over, roll back, retire."""

from __future__ import annotations

import itertools
from pathlib import Path

import raystore
from tests.cli.conftest import Cli

WORDS = ("card", "money", "blue", "hello", "world", "text", "sentence", "limit")
TEXTS = [f"{a} {b} {c}" for a, b, c in itertools.product(WORDS, WORDS, WORDS[:2])]


def test_a_collection_is_planned_migrated_rolled_back_and_its_old_encoder_retired(
    cli: Cli, tiny_model: Path, tmp_path: Path
) -> None:
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
