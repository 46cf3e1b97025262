from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raystore.encoders.passport import ImagePart, Passport, Step, TextPart, canonical_json

A, B = "a" * 64, "b" * 64
TEXT = TextPart(
    steps=(Step(type="Pooling", config={"pooling_mode": "mean"}),),
    pooling="mean",
    tokenizer=A,
    max_length=64,
)
IMAGE = ImagePart(pooling="cls", resize="shortest", size=(256, 256), kernel="bicubic", crop=(224, 224), rescale=1 / 255)
PLAIN = Passport(weights=A, architecture="BertModel", config=A, text=TEXT, dim=32)
BOTH = Passport(weights=A, architecture="CLIPModel", config=A, text=TEXT, image=IMAGE, dim=32)
CHANGES: dict[str, Any] = {
    "weights": B,
    "architecture": "RobertaModel",
    "config": B,
    "dim": 33,
    "equivalence": "torch-bf16",
    "tolerance": 0.999,
}
TEXT_CHANGES: dict[str, Any] = {
    "steps": (Step(type="Pooling", config={"pooling_mode": "cls"}),),
    "pooling": "cls",
    "prompts": {"query": "query: "},
    "prompt": "query: ",
    "tokenizer": B,
    "inputs": ("input_ids", "attention_mask", "token_type_ids"),
    "max_length": 65,
    "truncation_side": "left",
    "padding_side": "left",
    "pad_id": 1,
    "dimensions": 16,
}
IMAGE_CHANGES: dict[str, Any] = {
    "pooling": "mean",
    "resize": "exact",
    "size": (255, 256),
    "kernel": "nearest",
    "crop": None,
    "rescale": 1 / 127.5,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.5, 0.5, 0.5),
    "input": "pixels",
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_is_in_the_fingerprint(field: str) -> None:
    changed = BOTH.model_copy(update={field: CHANGES[field]})
    changed.__dict__.pop("fingerprint", None)
    assert changed.fingerprint != BOTH.fingerprint
    assert changed.differences(BOTH) == [field]


@pytest.mark.parametrize("part, field", [("text", f) for f in TEXT_CHANGES] + [("image", f) for f in IMAGE_CHANGES])
def test_every_field_of_a_part_is_in_the_fingerprint(part: str, field: str) -> None:
    value = (TEXT_CHANGES if part == "text" else IMAGE_CHANGES)[field]
    changed = BOTH.model_copy(update={part: getattr(BOTH, part).model_copy(update={field: value})})
    changed.__dict__.pop("fingerprint", None)
    assert changed.fingerprint != BOTH.fingerprint
    assert changed.differences(BOTH) == [f"{part}.{field}"]


def test_the_changes_above_cover_every_field_that_can_change() -> None:
    fixed = {"scheme", "normalize", "metric", "dtype", "text", "image"}
    assert set(CHANGES) | fixed == set(Passport.model_fields)
    assert set(TEXT_CHANGES) | {"layer", "surrogates"} == set(TextPart.model_fields)
    fixed = {"layer", "decoder", "decoder_class", "frame", "orientation", "colour", "alpha", "antialias"}
    assert set(IMAGE_CHANGES) | fixed == set(ImagePart.model_fields)


def test_an_encoder_takes_texts_images_or_both_and_never_nothing() -> None:
    assert (PLAIN.modalities, BOTH.modalities) == (("text",), ("text", "image"))
    assert PLAIN.model_copy(update={"text": None, "image": IMAGE}).modalities == ("image",)
    with pytest.raises(ValidationError, match="an encoder takes texts, images or both"):
        Passport(weights=A, architecture="BertModel", config=A, dim=32)


def test_a_part_that_only_one_passport_has_is_a_difference_field_by_field() -> None:
    assert "image.kernel" in BOTH.differences(PLAIN)
    assert "text.pooling" not in BOTH.differences(PLAIN)


def test_fingerprint_survives_json() -> None:
    again = Passport.model_validate(json.loads(json.dumps(PLAIN.model_dump(mode="json"))))
    assert again == PLAIN
    assert again.fingerprint == PLAIN.fingerprint
    assert len(PLAIN.fingerprint) == 64


def test_label_is_the_name_and_twelve_digits() -> None:
    assert PLAIN.label("minilm") == f"minilm@{PLAIN.fingerprint[:12]}"


def test_passport_refuses_fields_it_does_not_know_and_cannot_be_edited() -> None:
    with pytest.raises(ValidationError):
        Passport.model_validate({**PLAIN.model_dump(), "temperature": 1})
    with pytest.raises(ValidationError):
        PLAIN.dim = 5  # type: ignore[misc]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), json_values, max_size=6), st.randoms())
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: dict[str, Any], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    assert canonical_json({key: value[key] for key in keys}) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


@given(json_values, json_values)
def test_canonical_json_is_equal_only_for_equal_values(left: Any, right: Any) -> None:
    if canonical_json(left) == canonical_json(right):
        assert left == right
