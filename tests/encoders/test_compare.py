"""What differs between encoders, said in words and measured on the golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raystore.encoders.compare import Difference, differences, distance, passport_differences
from raystore.encoders.passport import TOLERANCES, ImagePart, Passport, Step, TextPart
from raystore.encoders.registry import Encoders

from .test_text import change_one_weight

D1, D2 = "1" * 64, "2" * 64
TEXT = TextPart(pooling="mean", tokenizer=D1, max_length=256)
IMAGE = ImagePart(
    pooling="cls",
    resize="exact",
    size=(224, 224),
    kernel="bicubic",
    rescale=1 / 255,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
BASE = Passport(weights=D1, architecture="BertModel", config=D1, text=TEXT, image=IMAGE, dim=384)


def changed(**fields: object) -> Passport:
    """BASE with other fields, by their dotted names written with __."""
    found = BASE.model_dump()
    for name, value in fields.items():
        part, _, inner = name.rpartition("__")
        (found[part] if part else found)[inner] = value
    return Passport.model_validate(found)


SENTENCES = [
    ({"weights": D2}, f"weights: digest {D1[:12]} against digest {D2[:12]}"),
    ({"architecture": "ViTModel"}, "architecture: BertModel against ViTModel"),
    ({"config": D2}, f"configuration of the model: digest {D1[:12]} against digest {D2[:12]}"),
    ({"dim": 768}, "dimension: 384 numbers against 768 numbers"),
    ({"text__max_length": 128}, "max_length: 256 tokens against 128 tokens"),
    ({"text__pooling": "cls"}, "pooling of texts: mean against cls"),
    ({"text__prompt": "query: "}, "prompt before every text: none against 'query: '"),
    ({"text__prompts": {"query": "q: "}}, "the model's prompts: none against query 'q: '"),
    ({"text__tokenizer": D2}, f"tokenizer: digest {D1[:12]} against digest {D2[:12]}"),
    ({"text__inputs": ("input_ids",)}, "inputs of the text model: input_ids, attention_mask against input_ids"),
    ({"text__truncation_side": "left"}, "side that is cut off: right against left"),
    ({"text__padding_side": "left"}, "side that is padded: right against left"),
    ({"text__pad_id": 1}, "padding token: 0 against 1"),
    ({"image__kernel": "nearest"}, "resize kernel: bicubic against nearest"),
    ({"image__size": (256, 192)}, "resize to (height x width): 224x224 against 256x192"),
    ({"image__crop": (196, 196)}, "crop (height x width): none against 196x196"),
    ({"image__resize": "shortest"}, "way of resizing: exact against shortest"),
    ({"image__pooling": "mean"}, "pooling of images: cls against mean"),
    ({"image__rescale": 1.0}, f"rescale factor: {1 / 255} against 1.0"),
    ({"image__mean": (0.4, 0.5, 0.5)}, "mean of the colours: 0.5, 0.5, 0.5 against 0.4, 0.5, 0.5"),
    ({"image__std": (0.4, 0.5, 0.5)}, "spread of the colours: 0.5, 0.5, 0.5 against 0.4, 0.5, 0.5"),
    ({"image__input": "pixels"}, "input of the image model: pixel_values against pixels"),
    (
        {"equivalence": "openvino-int8", "tolerance": TOLERANCES["openvino-int8"]},
        "arithmetic: float32 as torch computes it against 8-bit integers on OpenVINO",
    ),
    ({"tolerance": 0.99}, "tolerance of the golden check: 0.9999 against 0.99"),
    ({"image": None}, "takes: texts and images against texts"),
    ({"text": None}, "takes: texts and images against images"),
]


@pytest.mark.parametrize("fields, sentence", SENTENCES, ids=[next(iter(f)) for f, _ in SENTENCES])
def test_each_field_has_a_sentence(fields: dict[str, object], sentence: str) -> None:
    assert passport_differences(BASE, changed(**fields)) == [sentence]


def test_modules_after_the_transformer_are_compared_by_kind_and_then_by_setting() -> None:
    mean = [Step(type="Pooling", config={"pooling_mode": "mean", "dim": 4}), Step(type="Dense", config={"bias": True})]
    cls = [Step(type="Pooling", config={"pooling_mode": "cls", "dim": 4}), Step(type="Dense", config={"bias": True})]
    one, other = changed(text__steps=[s.model_dump() for s in mean]), changed(text__steps=[s.model_dump() for s in cls])
    assert passport_differences(one, other) == [
        "modules after the transformer: the same, configured otherwise (Pooling in pooling_mode)"
    ]
    assert passport_differences(one, BASE) == ["modules after the transformer: Pooling, Dense against none"]


def test_every_field_that_can_differ_has_words_of_its_own() -> None:
    from raystore.encoders.compare import _FIELDS

    # These have one value only, so far.
    single = {"normalize", "metric", "dtype", "text.surrogates", "image.decoder", "image.frame", "image.orientation"}
    single |= {"image.colour", "image.alpha", "image.antialias", "text.steps"}
    assert set(BASE.flat()) - single == set(_FIELDS)


def test_distances_name_the_worst_input() -> None:
    a = np.eye(6, 8, dtype=np.float32)
    b = a.copy()
    b[3] = [0, 0, 0, 0.6, 0, 0, 0.8, 0]
    found = distance(a, b)
    assert (found.inputs, found.k, found.worst_input) == (6, 5, 3)
    assert found.worst_cosine == pytest.approx(0.6)
    assert found.mean_cosine == pytest.approx((5 + 0.6) / 6)
    assert str(found) == (
        "mean cosine 0.933333, worst 0.600000 (input 3); 100% of each input's 5 nearest among the 6 are the same"
    )


def test_vectors_of_different_length_are_compared_by_their_neighbours_alone() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(12, 8)).astype(np.float32)
    wide = np.concatenate([rows, np.zeros((12, 4), dtype=np.float32)], axis=1)
    found = distance(rows, wide)
    assert (found.overlap, found.mean_cosine, found.worst_input) == (1.0, None, None)
    assert str(found) == (
        "100% of each input's 5 nearest among the 12 are the same; vectors of different length have no cosine"
    )


@pytest.mark.usefixtures("on_torch")
class TestRegistered:
    def test_an_encoder_is_itself(self, encoders: Encoders, tiny_model: Path) -> None:
        one, other = encoders.register("one", tiny_model), encoders.register("two", tiny_model)
        found = differences(one, other)
        assert found == Difference(one.label, other.label, same=True)
        assert str(found) == f"{one.label} and {other.label} are the same encoder."

    def test_another_max_length_moves_only_the_inputs_that_are_cut(self, encoders: Encoders, tiny_model: Path) -> None:
        long, short = encoders.register("long", tiny_model), encoders.register("short", tiny_model, max_length=8)
        found = differences(long, short)
        golden = found.golden["text"]
        assert f"{golden.overlap:.0%}" in golden._repr_html_()
        assert found.sentences == ("max_length: 64 tokens against 8 tokens",)
        assert golden.inputs == 16
        assert golden.worst_cosine is not None
        assert golden.worst_cosine < 0.9999
        said = str(found).splitlines()
        assert said[0] == f"{long.label} against {short.label}: two encoders, their vectors are never compared."
        assert said[2] == "  max_length: 64 tokens against 8 tokens"
        assert said[4].startswith("golden texts: mean cosine 0.")
        assert f"(input {golden.worst_input})" in said[4]

    def test_one_changed_weight_is_another_encoder(self, encoders: Encoders, copy_of_tiny) -> None:  # type: ignore[no-untyped-def]
        folder = copy_of_tiny("model")
        one = encoders.register("one", folder)
        change_one_weight(folder)
        other = encoders.register("two", folder)
        assert differences(one, other).sentences == (
            f"weights: digest {one.passport.weights[:12]} against digest {other.passport.weights[:12]}",
        )

    def test_facts_are_ready_for_json(self, encoders: Encoders, tiny_model: Path) -> None:
        import json

        one, other = encoders.register("one", tiny_model), encoders.register("two", tiny_model, pooling="cls")
        facts = json.loads(json.dumps(differences(one, other).facts))
        assert facts["same"] is False
        assert set(facts["golden"]["text"]) == {"inputs", "overlap", "k", "mean_cosine", "worst_cosine", "worst_input"}
        assert "pooling of texts: mean against cls" in facts["sentences"]
