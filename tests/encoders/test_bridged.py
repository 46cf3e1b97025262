"""An encoder that is a bridge between two others: what it encodes, what it may be compared with, and how it is opened."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from raystore.catalog import Catalog, open_root
from raystore.encoders.bridged import Bridge, bridged_passport, host_of, publish_bridge, read_bridge
from raystore.encoders.derive import derive
from raystore.encoders.opening import open_encoder
from raystore.encoders.passport import Passport
from raystore.encoders.records import KIND, read_encoder
from raystore.encoders.registry import Encoders
from raystore.encoders.together import open_together
from raystore.encoders.vector_map import VectorMap
from raystore.errors import InvalidArguments, ModelUnusable, PassportMismatch
from raystore.layout import Layout
from raystore.vectors import check_fingerprint, mark
from tests.pictures import PICTURES, save_clip

TEXTS = ["the card never arrived", "hello world", ""]
FACTS = {
    "pairs": 500,
    "fidelity": {"kind": "low-rank", "pairs": 500, "n": 500, "gallery": 500, "recall": 0.93, "kept": None, "cosine": 0.99},
}


def linear(d: int, m: int, seed: int = 0) -> VectorMap:
    rng = np.random.default_rng(seed)
    return VectorMap("low-rank", rng.normal(size=(d, m)).astype(np.float32), rng.normal(size=m).astype(np.float32))


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A store with `old` (16 numbers), `new` (32 numbers), and the two directions between them."""
    layout, _ = open_root(tmp_path_factory.mktemp("bridged") / "a store", create=True)
    catalog = Catalog(layout)
    encoders = Encoders(catalog)
    old = encoders.register("old", tiny_model, dimensions=16)
    new = encoders.register("new", tiny_model, pooling="cls", licence="mit")
    for name, direction, map_ in (("there", "forward", linear(16, 32)), ("back", "back", linear(32, 16))):
        passport = publish_bridge(layout, old.passport, new.passport, map_, direction, FACTS, new.card)  # type: ignore[arg-type]
        catalog.set_alias(KIND, name, {"fingerprint": passport.fingerprint})
    return layout.root


@pytest.fixture
def encoders(registered: Path) -> Encoders:
    return Encoders(Catalog(Layout(registered)))


@pytest.fixture
def spoiled(registered: Path, tmp_path: Path) -> Encoders:
    return Encoders(Catalog(Layout(Path(shutil.copytree(registered, tmp_path / "copy")))))


def bridge(encoders: Encoders, name: str) -> Bridge:
    encoder = encoders[name]
    return read_bridge(encoders._catalog.layout, encoder.fingerprint, encoder.label)


def test_forward_encodes_as_the_new_encoder_does_under_its_own_fingerprint(encoders: Encoders) -> None:
    found = encoders["there"].encode(TEXTS)
    assert found.fingerprint == encoders["there"].fingerprint
    assert (np.asarray(found) == np.asarray(encoders["new"].encode(TEXTS))).all()


def test_back_encodes_with_the_new_encoder_and_maps_into_the_old_space(encoders: Encoders) -> None:
    found = encoders["back"].encode(TEXTS)
    assert (found.shape, found.fingerprint) == ((3, 16), encoders["back"].fingerprint)
    crossed = bridge(encoders, "back").cross(encoders["new"].encode(TEXTS))
    np.testing.assert_allclose(np.asarray(found), np.asarray(crossed), atol=1e-6)
    loaded = encoders["back"].load()
    assert loaded.count_tokens(TEXTS) == encoders["new"].load().count_tokens(TEXTS)
    assert loaded.encode([]).shape == (0, 16)


def test_items_that_the_new_encoder_does_not_take_are_said_as_it_says_them(encoders: Encoders) -> None:
    found = encoders["back"].load().encode_each(["hello world", b"no image"])
    assert (found.places.tolist(), found.problems) == ([0], {1: "is an image, and this encoder takes texts"})
    assert found.vectors.fingerprint == encoders["back"].fingerprint


def test_a_bridged_vector_is_never_mistaken_for_a_true_one(encoders: Encoders) -> None:
    four = [encoders[name] for name in ("old", "new", "there", "back")]
    assert len({e.fingerprint for e in four}) == 4
    for mine in four:
        for other in four:
            if mine is not other:
                with pytest.raises(PassportMismatch):
                    check_fingerprint(mark(np.eye(2, dtype=np.float32), mine.fingerprint), other.fingerprint, "a", "b")


def test_only_as_target_turns_bridged_vectors_into_the_others(encoders: Encoders) -> None:
    back, old, new = bridge(encoders, "back"), encoders["old"], encoders["new"]
    ours = encoders["back"].encode(TEXTS)
    asked = back.as_target(ours)
    assert asked.fingerprint == old.fingerprint
    assert (np.asarray(asked) == np.asarray(ours)).all()
    with pytest.raises(PassportMismatch):
        back.as_target(new.encode(TEXTS))
    with pytest.raises(PassportMismatch):
        back.cross(old.encode(TEXTS))
    for given in (ours, new.encode(TEXTS), np.asarray(new.encode(TEXTS))):
        assert back.ask(given).fingerprint == old.fingerprint
        np.testing.assert_allclose(np.asarray(back.ask(given)), np.asarray(ours), atol=1e-6)
    true = old.encode(TEXTS)
    assert (np.asarray(back.ask(true)) == np.asarray(true)).all()
    with pytest.raises(PassportMismatch):
        back.ask(encoders["there"].encode(TEXTS))


def test_the_passport_is_over_the_map_and_both_encoders(encoders: Encoders) -> None:
    old, new, back = (encoders[name].passport for name in ("old", "new", "back"))
    assert (back.architecture, back.dim, back.text, back.equivalence) == ("Bridged", 16, new.text, "torch-fp32")
    assert back.tolerance == pytest.approx(0.999)

    def fingerprint(host: Passport = new, target: Passport = old, sha: str = "a" * 64, direction: str = "back") -> str:
        source = host.fingerprint
        return bridged_passport(host, target, sha, direction, source, "mlp").fingerprint  # type: ignore[arg-type]

    others = {fingerprint(sha="b" * 64), fingerprint(direction="forward"), fingerprint(target=new), fingerprint(host=old)}
    assert len(others | {fingerprint()}) == 5


def test_the_card_says_between_which_encoders_and_how_well(encoders: Encoders) -> None:
    card = encoders["back"].card
    assert card.licence == "mit"
    assert card.bridge is not None
    assert card.bridge == FACTS | {
        "direction": "back", "from": encoders["new"].fingerprint, "to": encoders["old"].fingerprint, "kind": "low-rank"
    }  # fmt: skip
    assert bridge(encoders, "back").said == {"encoder": encoders["back"].label, "fidelity": FACTS["fidelity"]}
    assert host_of(bridge(encoders, "back")) == host_of(bridge(encoders, "there")) == encoders["new"].fingerprint


def test_it_verifies_and_travels_like_any_encoder(encoders: Encoders) -> None:
    assert encoders["back"].verify() > 0.999
    there = pickle.loads(pickle.dumps(encoders["there"]))
    assert there.verify() > 0.999


def test_new_and_forward_are_one_model_in_memory(encoders: Encoders) -> None:
    layout = encoders._catalog.layout
    there, new, back = (encoders[name].fingerprint for name in ("there", "new", "back"))
    opened = open_together(layout, [there, new, back])
    assert opened[there] is opened[new]
    assert opened[back] is not opened[new]


@pytest.mark.parametrize("file", ["map.safetensors", "bridge.json"])
def test_a_map_that_is_not_the_one_that_was_registered_is_refused(spoiled: Encoders, file: str) -> None:
    stored = read_encoder(spoiled._catalog.layout, spoiled["back"].fingerprint)
    path = stored.folder / "bridge" / file
    if file == "bridge.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"to": "e" * 64}))
    else:
        path.write_bytes(linear(32, 16, seed=5).pack())
    with pytest.raises(ModelUnusable) as refused:
        spoiled["back"].load()
    error = refused.value
    assert (error.model, error.found, error.advice) == (
        spoiled["back"].label,
        f"its map in '{stored.folder / 'bridge'}' is not the one that was registered",
        "Restore that folder from a backup, or build the bridge again under a name of its own.",
    )


def test_what_is_no_bridge_is_not_opened_as_one_and_a_bridge_is_not_derived_from(encoders: Encoders) -> None:
    with pytest.raises(InvalidArguments) as none:
        bridge(encoders, "old")
    problem = f"encoder {encoders['old'].label} is no bridge between two encoders; build one with build_bridge"
    assert none.value.problems == [problem]
    with pytest.raises(InvalidArguments) as derived:
        derive(encoders._catalog, "smaller", encoders["back"], "bf16")
    assert derived.value.problems == [
        f"{encoders['back'].label} is a bridge between two encoders; derive from the one that reads its items"
    ]


def test_a_bridge_from_an_encoder_of_texts_and_images_takes_both(tmp_path: Path, tiny_model: Path) -> None:
    layout, _ = open_root(tmp_path / "store", create=True)
    encoders = Encoders(Catalog(layout))
    old = encoders.register("old", tiny_model)
    clip = encoders.register("clip", save_clip(tmp_path / "clip", tiny_model))
    passport = publish_bridge(layout, old.passport, clip.passport, linear(clip.dim, 32), "back", FACTS, clip.card)
    loaded = open_encoder(layout, passport.fingerprint)
    assert loaded.passport.modalities == ("text", "image")
    assert loaded.encode(["hello", *PICTURES[:2]]).shape == (3, 32)
