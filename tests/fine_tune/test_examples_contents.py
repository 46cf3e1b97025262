"""Texts and pictures in memory: what a batch of them is."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.encoders.backends import BatchSize
from raystore.encoders.passport import TextPart
from raystore.encoders.pictures import ImageReader
from raystore.encoders.tokens import TextReader
from raystore.fine_tune.examples.pictures import Pictures
from raystore.fine_tune.examples.text import TokenisedTexts, Tokeniser, tokens_of_most
from tests.fine_tune.example_files import IMAGE, text_part, tokenizer_json
from tests.pictures import PICTURES, png

TEXTS = ["my card never arrived", "hi", "", "ünï 😀 机器", "a much longer sentence, with several words!", "hello world"]


def tokenised(texts: list[str], part: TextPart, max_tokens: int | None = None, **options: Any) -> TokenisedTexts:
    tokeniser = Tokeniser(tokenizer_json(**options), part)
    tokeniser.add(texts)
    return tokeniser.finish(max_tokens)


def encoders(texts: list[str], part: TextPart, **options: Any) -> dict[str, Any]:
    """The batch that the base's encoder reads of the texts, in their order."""
    size = BatchSize(tokens=10**9, rows=10**6, images=1)
    batch = next(TextReader(tokenizer_json(**options), part).batches(texts, size))
    return {name: matrix[np.argsort(batch.rows)] for name, matrix in batch.inputs.items()}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return list(one) == list(other) and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"prompt": "query: "},
        {"truncation_side": "left", "max_length": 9},
        {"max_length": 7},
        {"padding_side": "left"},
        {"inputs": ("input_ids", "attention_mask"), "pad_id": 1},
    ],
    ids=lambda o: " ".join(o) or "plain",
)
def test_a_batch_of_texts_is_what_the_encoder_reads(options: dict[str, Any]) -> None:
    part = text_part(**options)
    found = tokenised(TEXTS, part).inputs(np.arange(len(TEXTS)))
    assert same(found, encoders(TEXTS, part))
    assert all(matrix.dtype == np.int64 for matrix in found.values())


def test_types_of_tokens_above_0_are_kept() -> None:
    part = text_part()
    found = tokenised(TEXTS, part, type_of_last=2).inputs(np.arange(len(TEXTS)))
    assert found["token_type_ids"].max() == 2
    assert same(found, encoders(TEXTS, part, type_of_last=2))


@given(st.lists(st.text(max_size=40), min_size=1, max_size=12), st.integers(3, 30), st.sampled_from(["left", "right"]))
@settings(max_examples=60, deadline=None)
def test_a_shorter_cut_for_training_is_the_tokenizer_s_own(texts: list[str], limit: int, side: str) -> None:
    whole = text_part(truncation_side=side)
    cut = tokenised(texts, whole, limit).inputs(np.arange(len(texts)))
    assert same(cut, encoders(texts, text_part(truncation_side=side, max_length=limit)))


@given(st.lists(st.integers(0, len(TEXTS) - 1), max_size=12))
@settings(max_examples=30, deadline=None)
def test_taken_texts_are_those_rows_in_that_order(rows: list[int]) -> None:
    texts, part = tokenised(TEXTS, text_part()), text_part()
    taken = texts.take(np.array(rows, np.int64))
    assert taken.lengths().tolist() == texts.lengths()[np.array(rows, np.int64)].tolist()
    assert len(taken) == len(rows)
    if rows:
        assert same(taken.inputs(np.arange(len(rows))), encoders([TEXTS[row] for row in rows], part))


def test_texts_are_batched_without_their_longest_unless_it_is_asked_for() -> None:
    found = tokenised(TEXTS, text_part()).inputs(np.array([1, 5]))
    assert found["input_ids"].shape == (2, 12)


def test_most_texts_say_where_training_cuts() -> None:
    assert tokens_of_most(np.array([5] * 990 + [60] * 10)) == 5
    assert tokens_of_most(np.array([5] * 980 + [60] * 20)) == 60
    assert tokens_of_most(np.empty(0, np.int64)) is None


def test_a_batch_of_pictures_is_what_the_encoder_reads() -> None:
    rows = np.array([3, 0, 0, 5])
    found = Pictures(IMAGE, tuple(PICTURES)).inputs(rows)
    batch = next(ImageReader(IMAGE).batches([PICTURES[row] for row in rows], BatchSize(1, 1, images=9), {}))
    assert np.array_equal(found["pixel_values"], batch.inputs["pixel_values"])


def test_pictures_change_by_the_generator_alone_and_only_where_names_are_given() -> None:
    rows = np.array([0, 4, 0])
    pictures = Pictures(IMAGE, tuple(PICTURES), ("crop", "flip", "colour", "grey", "blur"))
    plain = pictures.inputs(rows)["pixel_values"]
    once, again, other = (pictures.inputs(rows, np.random.default_rng(seed))["pixel_values"] for seed in (1, 1, 2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    assert not np.array_equal(once[0], once[2])
    assert np.array_equal(plain, Pictures(IMAGE, tuple(PICTURES)).inputs(rows, np.random.default_rng(1))["pixel_values"])


def test_no_row_is_an_empty_batch() -> None:
    none = np.empty(0, np.int64)
    assert Pictures(IMAGE, ()).inputs(none)["pixel_values"].shape == (0, 3, 16, 16)
    assert tokenised([], text_part()).inputs(none)["input_ids"].shape == (0, 1)
    assert len(tokenised(TEXTS, text_part()).take(none)) == 0


@pytest.mark.parametrize(
    "content", [tokenised(TEXTS, text_part()), Pictures(IMAGE, (png((1, 2, 3)),))], ids=["text", "image"]
)
def test_content_stays_in_its_process_and_is_not_shown(content: TokenisedTexts | Pictures) -> None:
    said = "examples stay in the process that read them: send the DataSpec, and read it there"
    for send in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=said):
            send(content)
    assert repr(content) in ("TokenisedTexts(6 texts, 85 tokens)", f"Pictures(1 files, {len(png((1, 2, 3)))} bytes)")
