from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from raystore.encoders.passport import Passport, Step, canonical_json

A, B = "a" * 64, "b" * 64
PLAIN = Passport(
    weights=A,
    architecture="BertModel",
    config=A,
    steps=(Step(type="Pooling", config={"pooling_mode": "mean"}),),
    pooling="mean",
    tokenizer=A,
    max_length=64,
    dim=32,
)
CHANGES: dict[str, Any] = {
    "weights": B,
    "architecture": "RobertaModel",
    "config": B,
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
    "dim": 33,
    "tolerance": 0.999,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_is_in_the_fingerprint(field: str) -> None:
    changed = PLAIN.model_copy(update={field: CHANGES[field]})
    changed.__dict__.pop("fingerprint", None)
    assert changed.fingerprint != PLAIN.fingerprint
    assert changed.differences(PLAIN) == [field]


def test_the_changes_above_cover_every_field_that_can_change() -> None:
    fixed = {"kind", "scheme", "layer", "normalize", "surrogates", "metric", "equivalence"}
    assert set(CHANGES) | fixed == set(Passport.model_fields)


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
