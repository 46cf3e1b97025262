"""Verbs on heads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Cli, Studied


def test_options_reach_the_head_as_numbers_lists_and_text(cli: Cli, studied: Studied) -> None:
    train = ("head", "train", "opted", "--snapshot", "topics@1", "--workers", "0")
    made = cli(
        *("--store", studied.root, "--json", *train, "--precision", ".8"),
        *("-o", "l2=1,10", "-o", "class_weight=balanced", "--option", "loss=ovr"),
    ).json
    settings = made["report"]["settings"]
    assert (settings["class_weight"], settings["loss"], settings["precision"]) == ("balanced", "ovr", 0.8)
    assert [l2 for l2, _ in settings["l2_tried"]] == [1, 10]
    assert made["threshold"] is not None
    knn = cli("--store", studied.root, *train[:-2], "--kind", "knn", "-o", "k=5")
    assert (knn.code, knn.out.splitlines()[0].split(", on")[0]) == (0, "Head(opted@2, knn, 3 classes")


@pytest.mark.parametrize(
    "option, problem",
    [
        ("k=5", "a linear head has no option 'k', it has l2, loss, class_weight, max_iter, tol"),
        ("l2", "'l2' is not NAME=VALUE"),
        ("seed=3", "'seed' is no option of a head: say --seed"),
        ("name=x", "'name' is no option of a head: it is the first argument"),
        ("progress=x", "'progress' is no option of a head: it is shown on a terminal"),
        ("l2=much", "l2 must be a number, found str"),
    ],
)
def test_options_that_a_head_does_not_have_are_refused(cli: Cli, studied: Studied, option: str, problem: str) -> None:
    said = cli("--store", studied.root, "head", "train", "refused", "--snapshot", "topics@1", "-o", option)
    assert said.code == 2
    assert said.err.endswith(f": {problem}.\n")


def test_a_sweep_lists_what_was_tried_and_publishes_the_best(cli: Cli, studied: Studied, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("- {kind: linear, l2: 1}\n- {kind: knn, k: x}\n")
    sweep = ("head", "sweep", "swept", "--snapshot", "topics@1", "--workers", "0", "--settings", tmp_path / "settings.yaml")
    told = cli("--store", studied.root, "--json", *sweep, "--try", "kind=linear,l2=10,100").json
    assert (told["head"], len(told["tried"])) == ("swept@1", 3)
    assert told["tried"][-1]["failed"] == "k must be a number, found str"
    shown = cli("--store", studied.root, *sweep).out
    assert shown.splitlines()[0] == "2 settings on val, 1 failed; the best is swept@2"
    assert shown.splitlines()[-1].startswith("On test: accuracy ")
    assert shown.splitlines()[-1].endswith(" More: raystore head report swept@2")


def test_compare_tells_gains_and_writes_one_html_file(cli: Cli, studied: Studied, tmp_path: Path) -> None:
    store = ("--store", studied.root)
    told = cli(*store, "--json", "head", "compare", "topics@1", "topics@2").json
    assert (told["a"], told["b"], told["better"]) == ("topics@1", "topics@2", None)
    shown = cli(*store, "head", "compare", "topics@1", "topics@2").out
    assert shown.startswith(f"topics@1 and topics@2, on {told['rows']} rows of test of topics@1\n")
    said = cli(*store, "head", "compare", "topics@1", "topics@2", "--html", tmp_path / "c.html")
    assert said.out == f"topics@1 and topics@2 to {tmp_path / 'c.html'}\n"
    assert (tmp_path / "c.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    other = cli(*store, "head", "compare", "topics@1", "price")
    assert (other.code, other.err) == (
        2,
        "InvalidArguments: compare: head 'topics@1' predicts classes, head 'price@1' predicts number.\n",
    )


@pytest.mark.parametrize("name, score", [("topics", "accuracy"), ("tags", "micro-F1"), ("price", "mean absolute error")])
def test_a_head_of_every_task_is_listed_shown_reported_and_healthy(
    cli: Cli, studied: Studied, tmp_path: Path, name: str, score: str
) -> None:
    store = ("--store", studied.root)
    row = next(r for r in cli(*store, "--json", "head", "list").json if r["head"].startswith(f"{name}@"))
    assert row["score"].startswith(f"{score} ")
    assert row["score"] in cli(*store, "head", "list").out
    assert f"{row['score']} on " in cli(*store, "head", "show", name).out
    assert cli(*store, "head", "report", name).out.startswith(f"Head {name}@")
    said = cli(*store, "head", "report", name, "--html", tmp_path / "report.html")
    assert said.out == f"{row['head']} ({row['score']}) to {tmp_path / 'report.html'}\n"
    assert "<script" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"head {row['head']}" in cli(*store, "lineage", name).out


def test_doctor_looks_at_heads_of_every_task(cli: Cli, studied: Studied) -> None:
    checks = {c["what"]: c for c in cli("--store", studied.root, "--json", "doctor", "--no-ray").json}
    found = [checks[f"head {name}@1"] for name in ("topics", "tags", "price")]
    assert [c["ok"] for c in found] == [True] * 3
    assert [c["found"].split(", ")[1] for c in found] == ["3 classes", "4 labels", "numbers"]
    assert found[2]["found"].split(", ")[2].startswith("mean absolute error ")


def test_predictions_have_the_form_of_their_task(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root, "--json", "head", "predict")
    assert set(cli(*store, "topics", "a card").json[0]) == {"label", "confidence", "abstained"}
    several = cli(*store, "tags", stdin="a card\n\nhello\n").json
    assert (len(several), set(several[0]), type(several[0]["labels"])) == (2, {"labels", "confidence"}, list)
    assert [type(row["number"]) for row in cli(*store, "price", "a card").json] == [float]


def test_an_alias_moves_is_dropped_and_remembers(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root, "head")
    alias = (*store, "alias", "topics", "live")
    assert cli(*alias, "1").out == "topics@live means topics@1 now\n"
    assert cli(*alias, "2").out == "topics@live means topics@2 now; it was topics@1\n"
    assert cli(*alias, "2").out == "topics@live means topics@2 already\n"
    assert cli("--json", *store, "show", "topics@live").json["aliases"] == ["live"]
    assert [(v["head"], v["aliases"]) for v in cli("--json", *store, "versions", "topics").json] == [
        ("topics@2", ["live"]),
        ("topics@1", []),
    ]
    assert cli("--json", *alias, "--drop").json == {"head": "topics", "alias": "live", "number": None, "before": 2}
    history = [line.split("│")[1].strip() for line in cli(*alias).out.splitlines()[2:]]
    assert history == ["topics@1", "topics@2", "no version"]
    gone = cli(*alias, "--drop")
    assert gone.code == 3
    assert gone.err.startswith("HeadNotFound: no head 'topics@live' in store")
    both = cli(*alias, "1", "--drop")
    assert both.err == "InvalidArguments: head alias: NUMBER and --drop are two things: give one.\n"


def test_notes_are_added_and_read(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root, "head")
    assert cli(*store, "notes", "price").out == "price has no notes\n"
    assert cli(*store, "note", "price", "too dear").out == "price@1 has 1 note\n"
    assert cli("--json", *store, "note", "price", "-", stdin="really").json == {"head": "price@1", "notes": 2}
    assert [n["text"] for n in cli("--json", *store, "notes", "price@1").json] == ["too dear", "really"]
    assert "too dear" in cli(*store, "show", "price").out


def test_an_exported_head_predicts_without_raystore(cli: Cli, studied: Studied, tmp_path: Path) -> None:
    said = cli("--store", studied.root, "head", "export", "topics@1", tmp_path / "out")
    assert said.out == f"topics@1 to {tmp_path / 'out'}: head.json, head.safetensors, predict.py\n"
    np.save(tmp_path / "vectors.npy", np.eye(32, dtype=np.float32)[:2])
    done = subprocess.run(
        [sys.executable, tmp_path / "out" / "predict.py", tmp_path / "vectors.npy"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == 2


def test_impact_lists_what_stands_on_an_encoder_and_on_a_snapshot(cli: Cli, studied: Studied) -> None:
    store = ("--store", studied.root)
    told = cli(*store, "--json", "impact", "tiny").json
    assert {"collection", "snapshot", "head"} <= {fact["noun"] for fact in told["impact"]}
    assert told["unreadable"] == []
    shown = cli(*store, "impact", "price").out
    assert shown.splitlines()[0].startswith("head price@1 (")
