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
            window = [self._part.prompt + clean(text) for text in texts[start : start + WINDOW]]
            yield self._tokenizer.encode_batch_fast(window)

    def _matrices(self, encodings: Sequence[Any], multiple: int) -> dict[str, Integers]:
        part = self._part
        # A tokenizer without special tokens reads an empty text as no token at all; a model wants one position.
        longest = max(1, *(len(e) for e in encodings))
        width = -(-longest // multiple) * multiple
        width = max(longest, min(width, part.max_length))
        shape = (len(encodings), width)
        ids = np.full(shape, part.pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        types = np.zeros(shape, dtype=np.int64) if "token_type_ids" in part.inputs else None
        for i, encoding in enumerate(encodings):
            n = len(encoding)
            place = slice(width - n, width) if part.padding_side == "left" else slice(0, n)
            ids[i, place] = encoding.ids
            mask[i, place] = 1
            if types is not None:
                types[i, place] = encoding.type_ids
        found = {"input_ids": ids, "attention_mask": mask}
        if types is not None:
            found["token_type_ids"] = types
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
