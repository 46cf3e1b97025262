"""Whole runs on every kind of data: pictures, pairs, pictures with their texts, and what stands beside the labels."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import raystore
from raystore.errors import CollectionNotFound, InvalidArguments
from raystore.store import Store
from tests.fine_tune.example_files import write
from tests.fine_tune.tickets import QUICK, TOPICS, write_tickets
from tests.fine_tune.tuned import ASKED, Tuned

pytestmark = pytest.mark.model
COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
NAMES = list(COLOURS)
# Without val the last step's weights are kept; the few rows here would choose those of the base.
OF_COLOURS: dict[str, Any] = {
    "base": "vit", "image": "seen", "label": "colour", "id": "photo", "recipe": "image", "steps": 6, "classes_per_batch": 3,
    "per_class": 4, "precision": "fp32", "split": {"train": 0.8, "val": 0.0, "test": 0.2},
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_vit: Path, tiny_clip: Path) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYSTORE_BACKEND", "torch")
        made = raystore.open(tmp_path_factory.mktemp("kinds") / "store")
        for name, model in (("tiny", tiny_model), ("vit", tiny_vit), ("clip", tiny_clip)):
            made.encoders.register(name, model=model)
        yield made


def picture(colour: str, chance: np.random.Generator) -> bytes:
    """Noise with a tint, so that no two are nearly the same."""
    pixels = np.clip(np.array(COLOURS[colour]) + chance.normal(0, 60, (32, 32, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 of three colours, each with a text that names it among others of its kind."""
    chance, words = np.random.default_rng(3), list(TOPICS.values())
    rows = [
        {
            "photo": f"p-{i:03}",
            "seen": picture(NAMES[i % 3], chance),
            "said": f"{words[i % 3][i % 2]} {i % 10} {i // 10} {i % 7}",
            "colour": NAMES[i % 3],
        }
        for i in range(120)
    ]
    return write(tmp_path_factory.mktemp("pictures") / "pictures.parquet", rows)


def test_pictures_are_tuned_and_their_augmentations_stand_in_the_training_not_in_the_passport(
    store: Store, pictures: Path
) -> None:
    made = store.fine_tune("vit-colours", data=pictures, **OF_COLOURS)
    assert (made.record.training.steps, made.record.data["rows"]["train"] > 60) == (6, True)
    assert made.record.data["set_aside"] == {}
    training = made.encoder.card.training
    assert training is not None
    assert training["augmentations"] == ["crop", "flip", "colour"]
    assert training["data"] == made.record.data["digest"]
    assert made.encoder.passport.image == store.encoders["vit"].passport.image
    assert made.encoder.encode([picture("red", np.random.default_rng(0))]).shape == (1, made.encoder.dim)


def test_two_texts_that_belong_together_need_no_label_and_are_proven_by_finding_each_other(
    store: Store, tmp_path: Path
) -> None:
    rng = random.Random(1)
    letters = [f"{a}{b}" for a in "abcdefgh" for b in "0123456789"]
    rows = []
    for i in range(240):
        told = rng.sample(letters, 4)
        rows.append({"id": f"q-{i:03}", "asks": " ".join(told), "answer": " ".join([*reversed(told), "is"])})
    data = write(tmp_path / "pairs.parquet", rows)
    settings: dict[str, Any] = {
        "losses": "softmax", "classes_per_batch": 32, "per_class": 1, "steps": 40, "learning_rate": 2e-3, "precision": "fp32",
    }  # fmt: skip
    made = store.fine_tune("tiny-pairs", base="tiny", data=data, text="asks", pair="answer", id="id", **settings)
    assert set(made.proof.metrics) >= {"knn_accuracy", "precision"}
    assert "head_accuracy" not in made.proof.metrics
    assert made.proof.metrics["knn_accuracy"].after > made.proof.metrics["knn_accuracy"].before
    assert made.record.data["columns"] == {"text": "asks", "pair": "answer", "id": "id"}
    done = store.improve(data, name="pairs", base="tiny", text="asks", pair="answer", id="id", steps=2, precision="fp32")
    assert (done.run.record.recipe.losses, len(store.collection("pairs"))) == ({"softmax": 1.0}, 240)


def test_pictures_without_labels_are_learned_from_first_each_as_two_crops(
    store: Store, pictures: Path, tmp_path: Path
) -> None:
    chance = np.random.default_rng(8)
    pool = write(tmp_path / "pool.parquet", [{"photo": f"u-{i}", "seen": picture(NAMES[i % 3], chance)} for i in range(30)])
    made = store.fine_tune("vit-pooled", data=pictures, pool=pool, pretrain_steps=3, **OF_COLOURS)
    before = made.record.training.pretrained
    assert before is not None
    assert (before.steps, before.data["rows"], before.data["set_aside"]) == (3, 30, {})
    assert {point.phase for point in before.points} == {"pretrain"}
    assert made.record.training.steps == 6


def test_pictures_and_their_texts_are_tuned_into_one_space(store: Store, pictures: Path) -> None:
    settings: dict[str, Any] = {
        "losses": "softmax", "classes_per_batch": 32, "per_class": 1, "steps": 5, "learning_rate": 1e-3, "precision": "fp32",
    }  # fmt: skip
    made = store.fine_tune("clip-said", base="clip", data=pictures, image="seen", text="said", id="photo", **settings)
    assert made.encoder.passport.modalities == store.encoders["clip"].passport.modalities
    assert made.record.training.steps == 5
    assert made.encoder.encode(["the blue card"]).shape == (1, 16)
    assert made.encoder.encode([picture("blue", np.random.default_rng(0))]).shape == (1, 16)
    done = store.improve(
        pictures, name="said", base="clip", image="seen", text="said", id="photo", steps=2, precision="fp32"
    )
    assert (done.run.record.recipe.losses, len(store.collection("said"))) == ({"softmax": 1.0}, 120)


def test_test_files_are_the_test_side_and_classes_may_have_parents_and_strangers(store: Store, tmp_path: Path) -> None:
    above = {"cards": "money", "cash": "money", "colours": "other", "none": "other"}

    def with_parents(path: Path, strangers: int) -> Path:
        rows = pq.read_table(path).to_pylist()
        odd = [
            {"ticket": f"{path.stem}-{i}", "shop": f"odd-{i}", "body": f"z {i} y x w", "topic": "none"}
            for i in range(strangers)
        ]
        return write(path, [{**row, "area": above[row["topic"]]} for row in [*rows, *odd]])

    data = with_parents(write_tickets(tmp_path / "tickets.parquet", 240), 20)
    test = with_parents(write_tickets(tmp_path / "judged.parquet", 90, seed=5, first=5_000), 30)
    asked: dict[str, Any] = {"text": "body", "label": "topic", "parent": "area", "id": "ticket", "subject": "shop"}
    made = store.fine_tune(
        "tiny-strangers", base="tiny", data=data, test=test, out_of_scope="none", require=["oos_neighbours"],
        force="a trial", **asked, **QUICK,
    )  # fmt: skip
    proof = made.proof
    assert proof.data == "judged.parquet, test"
    assert made.record.data["split"] == {"train": 0.9, "val": 0.1}
    assert proof.rows == 90
    assert (proof.out_of_scope, "oos_neighbours" in proof.metrics) == ("none", True)
    assert proof.out_of_scope_rows >= 30
    assert made.live
    assert [d["reason"] for d in store.runs.decisions(made.record)] == ["a trial"]


def test_the_report_shows_items_only_from_a_collection_that_keeps_them(tuned: Tuned) -> None:
    store, made = tuned.store, tuned.made
    store.create_collection("kept", encoder="tiny", keep_source=True).embed(tuned.data, text="body", id="ticket")
    store.create_collection("bare", encoder="tiny").embed(tuned.data, text="body", id="ticket")
    store.create_collection("other", encoder="tiny", keep_source=True).log([{"id": "x", "text": "a card"}])
    first = made.proof.neighbours[0]
    [item] = store.collection("kept").source([first.id])
    assert str(item) not in made.to_html() + made.to_text()
    assert str(item) in made.to_html(collection="kept")
    assert str(item) in made.to_text(collection="kept")
    with pytest.raises(InvalidArguments) as refused:
        made.to_html(collection="bare")
    assert str(refused.value) == (
        "show the items: collection 'bare' keeps no content; only one made with keep_source=True does."
    )
    with pytest.raises(InvalidArguments, match="collection 'other' has none of the rows"):
        made.to_html(collection="other")
    with pytest.raises(CollectionNotFound):
        made.to_html(collection="none")


def test_pictures_stand_small_in_the_report(store: Store, pictures: Path) -> None:
    kept = store.create_collection("seen", encoder="vit", keep_source=True)
    kept.embed(pictures, image="seen", id="photo")
    maps = store.fine_tune("vit-colours", data=pictures, **OF_COLOURS).proof.maps
    assert maps is not None
    made = store.fine_tune("vit-colours", data=pictures, show=maps.ids[:1], **OF_COLOURS)
    assert made.record.number == 1
    assert made.to_html(collection="seen").count("src='data:image/jpeg;base64,") == 1 + 2 * made.proof.k


def test_the_page_says_how_the_encoder_was_made_what_was_left_out_and_the_recipe(tuned: Tuned) -> None:
    record = tuned.made.record
    page = tuned.made.to_html()
    assert "<h2>How was it made?</h2>" in page
    assert f"<td>learning_rate</td><td>{record.recipe.learning_rate}</td>" in page
    assert "<td>losses</td><td>arcface</td>" in page
    assert "<td>weight_decay</td>" not in page
    leaks = record.data["leaks"]["train"]
    assert ("<h3>Left out by the leak guard</h3>" in page) == any(leaks.values())


def test_rows_that_could_not_be_used_are_counted_and_named_by_reason_on_the_page(tuned: Tuned, tmp_path: Path) -> None:
    rows = pq.read_table(write_tickets(tmp_path / "whole.parquet", 240)).to_pylist()
    lacking = [{**row, "ticket": f"e-{i}", "body": None} for i, row in enumerate(rows[:3])]
    made = tuned.store.fine_tune(
        "lacking", data=write(tmp_path / "some.parquet", rows + lacking), **{**ASKED, **QUICK, "steps": 2}
    )
    page = made.to_html()
    [(reason, count)] = made.record.data["set_aside"].items()
    assert count == 3
    assert f"<td>{reason}</td><td>3</td>" in page
    assert f"<td>{reason}</td><td>e-0, e-1, e-2</td>" in page
    assert f"3 rows were set aside: {reason}." in str(made)


def test_what_the_data_did_not_allow_of_the_recipe_is_said(tuned: Tuned) -> None:
    made = tuned.again("wide", steps=2, classes_per_batch=8)
    notes = made.record.training.notes
    assert notes
    assert f"Other than the recipe says: {notes[0]}." in str(made)
    assert notes[0] in made.to_html()
