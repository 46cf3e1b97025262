"""`raystore classify`."""

from __future__ import annotations

from tests.cli.conftest import Cli, Made


def test_a_text_is_classified_by_the_rows_near_it(cli: Cli, made: Made) -> None:
    told = cli(
        "--store", made.root, "--json", "classify", "tickets", "money is blue", "--labels", "outcomes.label", "-k", "5"
    ).json
    assert told["label"] in ("card", "money", "other")
    assert len(told["evidence"]) == 5
    assert set(told["evidence"][0]) == {"id", "score", "label"}
    assert (told["coverage"], told["labels_version"], told["missing"]) == (1.0, 1, [])
    shown = cli("--store", made.root, "classify", "tickets", "--item", "t-0", "--labels", "product")
    assert shown.code == 0
    assert "The nearest labelled rows" in shown.out
    assert "t-0 " not in shown.out


def test_described_classes_need_no_labels(cli: Cli, made: Made) -> None:
    words = ("--describe", "card=the card never arrived", "--describe", "money=money of the world")
    told = cli("--store", made.root, "--json", "classify", "tickets", "the card never arrived", *words).json
    assert {p["label"] for p in told["probabilities"]} == {"card", "money"}
    assert told["evidence"] == []
    both = cli(
        "--store", made.root, "--json", "classify", "tickets", "the card", *words, "--labels", "product", "-k", "3"
    ).json
    assert len(both["evidence"]) == 3


def test_what_cannot_be_classified_by_is_said(cli: Cli, made: Made) -> None:
    said = cli(
        "--store", made.root, "classify", "tickets", "x", "--describe", "card", "--describe", "a=b", "--describe", "a=c"
    )
    assert (said.code, said.err) == (
        2,
        "InvalidArguments: classify: --describe number 1 is not CLASS=WORDS; --describe names class 'a' twice.\n",
    )
    said = cli("--store", made.root, "classify", "tickets", "x")
    assert said.err == "InvalidArguments: classify: expected --labels, --describe, or both.\n"
    said = cli("--store", made.root, "classify", "tickets", "x", "--labels", "nowhere.label")
    assert (said.code, said.err.startswith("TableNotFound: no table 'nowhere'")) == (3, True)


def test_a_classification_is_published_as_a_head(cli: Cli, made: Made) -> None:
    told = cli(
        "--store", made.root, "--json", "head", "neighbours", "near", "tickets", "--labels", "product", "-k", "3"
    ).json
    assert (told["head"], told["kind"], told["voters"]["labels"]) == ("near@1", "neighbours", "product")
    shown = cli("--store", made.root, "head", "show", "near@1")
    assert (shown.code, "neighbours" in shown.out) == (0, True)
    said = cli("--store", made.root, "head", "neighbours", "near", "tickets")
    assert said.err == "InvalidArguments: head neighbours: expected --labels, --describe, or both.\n"
