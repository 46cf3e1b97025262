"""From texts to the integer matrices a model eats: cleaning, tokens, batches of like length. `tokenizers` and NumPy only.

All backends read texts through here, so they cannot differ in it. Texts are never stored or quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raystore.encoders.ahead import ahead
from raystore.encoders.backends import BatchSize
from raystore.encoders.passport import TextPart

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Integers = npt.NDArray[np.int64]

_SURROGATE = re.compile("[\ud800-\udfff]")
# Texts tokenised at a time: bounds the memory of a long list, and is plenty to find texts of like length in.
WINDOW = 4096


@dataclass(frozen=True)
class Batch:
    """`rows` (n,) are places in the list of items; `inputs` (n, ..) are named as the model names its arguments."""

    rows: Integers
    inputs: dict[str, npt.NDArray[Any]]


def clean(text: str) -> str:
    """The text with each lone surrogate (half a character, not encodable) replaced by U+FFFD, as decoders do."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


class TextReader:
    """Turns texts into batches as a passport's text part says. Holds no text; safe to use from several threads."""

    def __init__(self, tokenizer_json: str, part: TextPart) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(part.max_length, direction=part.truncation_side)
        self._part = part

    def batches(self, texts: Sequence[str], size: BatchSize) -> Iterator[Batch]:
        """Every text once, batched with texts of like length, longest first in each window.

        A window is tokenised while the one before it is encoded.
        """
        windows = self._windows(texts)
        start = 0
        for encodings in ahead(windows) if len(texts) > WINDOW else windows:
            lengths = np.fromiter((len(e) for e in encodings), dtype=np.int64, count=len(encodings))
            for rows in split(lengths, size):
                yield Batch(rows=rows + start, inputs=self._matrices([encodings[i] for i in rows], size.multiple))
            start += len(encodings)

    def _windows(self, texts: Sequence[str]) -> Iterator[list[Any]]:
        for start in range(0, len(texts), WINDOW):
            yield self.encodings(texts[start : start + WINDOW])

    def encodings(self, texts: Sequence[str]) -> list[Any]:
        """The tokenizer's encoding of each text (`ids`, `type_ids`, ..), behind the prompt and cut as the model reads it."""
        encodings: list[Any] = self._tokenizer.encode_batch_fast([self._part.prompt + clean(text) for text in texts])
        return encodings

    def _matrices(self, encodings: Sequence[Any], multiple: int) -> dict[str, Integers]:
        types = [e.type_ids for e in encodings] if "token_type_ids" in self._part.inputs else None
        return matrices([e.ids for e in encodings], types, self._part, multiple)


def matrices(rows: Sequence[Any], types: Sequence[Any] | None, part: TextPart, multiple: int = 1) -> dict[str, Integers]:
    """(n, width) each, named as the model names its inputs: the token ids of `rows` padded to the longest of them.

    Args:
        types: the type ids of each row; None is zeros.
        multiple: the width is one of it, as far as the model's length allows.
    """
    # A tokenizer without special tokens reads an empty text as no token at all; a model wants one position.
    longest = max([1, *(len(row) for row in rows)])
    width = -(-longest // multiple) * multiple
    width = max(longest, min(width, part.max_length))
    shape = (len(rows), width)
    ids = np.full(shape, part.pad_id, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    kinds = np.zeros(shape, dtype=np.int64) if "token_type_ids" in part.inputs else None
    for i, row in enumerate(rows):
        n = len(row)
        place = slice(width - n, width) if part.padding_side == "left" else slice(0, n)
        ids[i, place] = row
        mask[i, place] = 1
        if kinds is not None and types is not None:
            kinds[i, place] = types[i]
    found = {"input_ids": ids, "attention_mask": mask}
    if kinds is not None:
        found["token_type_ids"] = kinds
    return {name: found[name] for name in part.inputs}


def split(lengths: Integers, size: BatchSize) -> list[Integers]:
    """Rows in batches, longest first; equal lengths keep their order. Each row stands in exactly one batch."""
    order = np.argsort(-lengths, kind="stable")
    found: list[Integers] = []
    start = 0
    while start < len(order):
        width = max(1, int(lengths[order[start]]))
        stop = start + max(1, min(size.rows, size.tokens // width))
        found.append(order[start:stop].astype(np.int64))
        start = stop
    return found
