"""A fine-tuned model in a store: found under its fingerprint, under no name, and wherever the store is moved to."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import raystore
from raystore.catalog import Catalog
from raystore.encoders.load import load_registered
from raystore.encoders.records import read_encoder, sources_of
from raystore.encoders.registry import Encoders
from raystore.encoders.source import find_source
from raystore.errors import InvalidName, ModelUnusable
from raystore.fine_tune.model.publish import publish_model
from raystore.fine_tune.model.trainable import Trainable
from raystore.layout import Layout
from tests.fine_tune.models import disturb, opened, worst_cosine
from tests.pictures import PICTURES


@pytest.fixture(autouse=True)
def on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYSTORE_BACKEND", "torch")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    raystore.open(tmp_path / "store")
    return Catalog(Layout(tmp_path / "store"))


@pytest.fixture
def tuned(tiny_model: Path) -> Trainable:
    return disturb(opened(tiny_model))


def test_a_published_model_is_an_encoder_that_no_name_means_yet(catalog: Catalog, tuned: Trainable) -> None:
    training = {"data": "d" * 64, "augmentations": ["flip"]}
    encoder, number = publish_model(catalog, "banking", tuned, base_name="tiny@123", training=training)
    assert number == 1
    assert catalog.alias_names("encoder") == []
    assert encoder.label == f"banking@{encoder.fingerprint[:12]}"
    found = Encoders(catalog).get(encoder.fingerprint)
    assert found == encoder
    assert encoder.verify() > 0.9999
    card = found.card
    assert (card.base_model, card.objective, card.tuned_from) == ("tiny@123", "contrastive", tuned.passport.fingerprint)
    assert card.training == {"recipe": tuned.recipe.model_dump(mode="json"), **training}
    assert [about["model"] for about in sources_of(catalog, encoder.fingerprint)] == ["store:models/banking/1"]
    assert (catalog.layout.models("banking") / "1" / "modules.json").is_file()
    assert not list(catalog.layout.tmp.iterdir())


def test_it_loads_after_the_store_was_moved(catalog: Catalog, tuned: Trainable, tmp_path: Path) -> None:
    encoder, _ = publish_model(catalog, "banking", tuned)
    before = encoder.encode(["hello world"])
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    moved = Catalog(Layout(tmp_path / "elsewhere"))
    assert np.array_equal(Encoders(moved).get(encoder.fingerprint).encode(["hello world"]), before)


def test_it_encodes_what_the_trainable_computed(catalog: Catalog, tiny_clip: Path) -> None:
    trainable = disturb(opened(tiny_clip, mode="lora"))
    encoder, _ = publish_model(catalog, "pictures", trainable)
    loaded = load_registered(catalog.layout, read_encoder(catalog.layout, encoder.fingerprint), "pictures", None)
    assert loaded.passport == encoder.passport
    assert encoder.passport.modalities == trainable.passport.modalities
    assert encoder.encode([PICTURES[0], "hello world"]).shape == (2, 16)


def test_another_model_under_the_name_gets_the_next_number(catalog: Catalog, tuned: Trainable) -> None:
    first, one = publish_model(catalog, "banking", tuned)
    other, two = publish_model(catalog, "banking", disturb(tuned))
    assert (one, two) == (1, 2)
    assert other.fingerprint != first.fingerprint


def test_a_publishing_that_was_killed_is_repeated_without_a_second_folder(
    catalog: Catalog, tuned: Trainable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:  # after the folder stands, before any encoder is it
        patch.setattr(Encoders, "admit", killed)
        with pytest.raises(Killed):
            publish_model(catalog, "banking", tuned)
    encoder, number = publish_model(catalog, "banking", tuned)
    assert publish_model(catalog, "banking", tuned) == (encoder, number)
    assert number == 1
    assert [path.name for path in catalog.layout.models("banking").iterdir()] == ["1"]
    assert [about["model"] for about in sources_of(catalog, encoder.fingerprint)] == ["store:models/banking/1"]
    assert encoder.verify() > 0.9999


def test_its_first_dimensions_can_be_registered_alone(catalog: Catalog, tuned: Trainable) -> None:
    whole, number = publish_model(catalog, "banking", tuned)
    short = Encoders(catalog).register("short", f"store:models/banking/{number}", dimensions=8)
    assert short.dim == 8
    vectors = np.asarray(whole.encode(["hello world"]))[:, :8]
    assert worst_cosine(vectors / np.linalg.norm(vectors), np.asarray(short.encode(["hello world"]))) > 0.9999


def test_a_base_of_fewer_dimensions_is_published_with_as_many(catalog: Catalog, tiny_model: Path) -> None:
    encoder, _ = publish_model(catalog, "short", disturb(opened(tiny_model, {"dimensions": 8})))
    assert encoder.dim == 8


def test_the_recipe_says_how_much_of_the_base_is_kept(catalog: Catalog, tiny_model: Path) -> None:
    half, _ = publish_model(catalog, "half", disturb(opened(tiny_model, keep_base=0.5)))
    none, _ = publish_model(catalog, "none", disturb(opened(tiny_model)))
    assert half.fingerprint != none.fingerprint


def test_a_model_that_is_gone_from_the_store_is_said_so(catalog: Catalog, tuned: Trainable) -> None:
    import shutil

    encoder, _ = publish_model(catalog, "banking", tuned)
    shutil.rmtree(catalog.layout.models("banking"))
    with pytest.raises(ModelUnusable) as caught:
        encoder.verify()
    assert str(pickle.loads(pickle.dumps(caught.value))) == (
        f"model 'store:models/banking/1' cannot be used: the store '{catalog.layout.root}' has no such folder. "
        "Models that were fine-tuned are named 'store:models/<name>/<number>', in their own store."
    )


@pytest.mark.parametrize(
    "path", ["store:models/../../etc/1", "store:/etc", "store:encoders/x/1", "store:models/a/0", "store:"]
)
def test_a_store_path_leads_nowhere_else(catalog: Catalog, path: str) -> None:
    with pytest.raises(ModelUnusable):
        find_source(path, root=catalog.layout.root)
    with pytest.raises(ModelUnusable, match="it is in no store"):
        find_source(path)


def test_a_bad_name_is_refused_before_anything_is_written(catalog: Catalog, tuned: Trainable) -> None:
    with pytest.raises(InvalidName):
        publish_model(catalog, "Not A Name", tuned)
    assert not catalog.layout.models().exists()
