"""Model cards as people write them: what is taken over, what stays open, what is no card at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from raystore.encoders.card import MAX_CARD_BYTES, read_card
from raystore.encoders.source import find_source
from raystore.errors import InvalidArguments


def card(folder: Path, head: str, prose: str = "") -> Path:
    (folder / "README.md").write_text(f"---\n{head}\n---\n{prose}", encoding="utf-8")
    return folder


def test_the_packaged_model_says_licence_data_and_objective() -> None:
    found = read_card(find_source("minilm").folder)
    assert (found.licence, found.objective, found.base_model, found.derived_from) == (
        "apache-2.0",
        "contrastive",
        None,
        None,
    )
    assert len(found.trained_on) == 21
    assert found.trained_on[0] == "s2orc"
    assert sorted(found.libraries) == ["tokenizers", "torch", "transformers"]


def test_a_real_image_model_says_supervised_and_names_pillow(datasets: Path) -> None:
    found = read_card(datasets / "encoders" / "mobilenet_v2")
    assert (found.licence, found.objective, found.trained_on) == ("apache-2.0", "supervised", ())
    assert "pillow" in found.libraries


def test_a_folder_without_a_card_leaves_all_open(tmp_path: Path) -> None:
    found = read_card(tmp_path)
    assert (found.licence, found.trained_on, found.objective, found.base_model) == (None, (), None, None)


@pytest.mark.parametrize("name", ["LICENSE", "LICENSE.txt", "LICENCE"])
def test_a_licence_file_is_pointed_at_only_where_nothing_else_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("as is")
    assert read_card(tmp_path).licence == f"see {name}"
    card(tmp_path, "license: mit")
    assert read_card(tmp_path).licence == "mit"


def test_what_the_caller_says_comes_before_the_card(tmp_path: Path) -> None:
    card(tmp_path, "license: mit\ndatasets: [one, two]\npipeline_tag: image-classification")
    found = read_card(tmp_path, licence="bsd", trained_on=["three"], objective="contrastive")
    assert (found.licence, found.trained_on, found.objective) == ("bsd", ("three",), "contrastive")


@pytest.mark.parametrize(
    "head, prose, objective",
    [
        ("pipeline_tag: sentence-similarity\ntags: [sentence-transformers]", "", None),
        ("pipeline_tag: sentence-similarity", "We use a Contrastive objective.", "contrastive"),
        ("pipeline_tag: feature-extraction\ntags: ['loss:MultipleNegativesRankingLoss']", "", "contrastive"),
        ("tags: [sentence-similarity, simcse]", "", "contrastive"),
        ("tags: [vision]", "We compare with contrastive learning.", None),
        ("pipeline_tag: zero-shot-image-classification", "trained with a contrastive loss", "contrastive"),
        ("pipeline_tag: image-classification", "", "supervised"),
        ("pipeline_tag: image-classification\ntags: [dino]", "", "supervised"),
        ("pipeline_tag: image-feature-extraction\ntags: [dino, vision]", "", "self-supervised"),
        ("tags: [mae]", "", "self-supervised"),
        ("tags: mae", "", "self-supervised"),
        ("license: mit", "contrastive", None),
    ],
)
def test_an_objective_is_taken_only_where_the_card_says_it(
    tmp_path: Path, head: str, prose: str, objective: str | None
) -> None:
    assert read_card(card(tmp_path, head, prose)).objective == objective


def test_an_unnamed_licence_is_given_by_its_own_name(tmp_path: Path) -> None:
    assert read_card(card(tmp_path, "license: other\nlicense_name: research-only")).licence == "research-only"
    assert read_card(card(tmp_path, "license: other")).licence == "other"
    assert read_card(card(tmp_path, "license: [mit, apache-2.0]\nbase_model: [org/a, org/b]")).licence == "mit, apache-2.0"
    assert read_card(tmp_path).base_model == "org/a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "---\nlicense: mit",  # never closed
        "# a page without a head\nlicense: mit",
        "---\n: : [\n---\n",
        "---\n- a list\n---\n",
        "---\nlicense: 7\ndatasets: {a: 1}\npipeline_tag: [1]\ntags: 3\n---\n",
        "---\nlicense: 2026-13-45\ndate: 2026-13-45\ndatasets: 2026-13-45T99:00:00\n---\n",
        "---\nlicense: !!python/object/apply:os.getcwd []\n---\n",
    ],
    ids=["empty", "open", "no head", "no yaml", "a list", "other types", "no date", "an object"],
)
def test_a_card_that_says_nothing_usable_is_no_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text, encoding="utf-8")
    found = read_card(tmp_path)
    assert found.licence in (None, "2026-13-45")
    assert (found.objective, found.base_model) == (None, None)


def test_bytes_that_are_no_text_and_endless_cards_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(
        b"\xef\xbb\xbf---\r\nlicense: mit\r\n---\r\n\xff\xfe" + b"x" * (2 * MAX_CARD_BYTES)
    )
    assert read_card(tmp_path).licence == "mit"


def test_wrong_arguments_are_named_together(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as caught:
        read_card(tmp_path, licence=3, trained_on="imagenet", objective="guessed")  # type: ignore[arg-type]
    assert str(caught.value) == (
        "register: licence= is a text such as 'apache-2.0'; trained_on= is a list of names of data sets; "
        "objective= is one of supervised, contrastive, self-supervised."
    )
