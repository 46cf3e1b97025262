"""Texts as token ids, one after the other in one array: 4 bytes a token, and no text.

Tokenised as the base's encoder does it (`encoders/tokens.py`: prompt, cleaning, truncation); a shorter limit for training cuts the same
way. Knows no label and no file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from raystore.encoders.passport import Modality, TextPart
from raystore.encoders.tokens import WINDOW, TextReader, matrices
from raystore.fine_tune.examples.types import IntArray, stays_here

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, repr=False)
class TokenisedTexts:
    """Text i is `ids[offsets[i] : offsets[i + 1]]`; `types` beside them only where a tokenizer numbers some above 0."""

    part: TextPart
    ids: Ids
    offsets: IntArray  # (n + 1,)
    types: Ids | None = None
    modality: Modality = "text"

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __repr__(self) -> str:
        return f"TokenisedTexts({len(self):,} texts, {len(self.ids):,} tokens)"

    def __reduce__(self) -> NoReturn:
        stays_here()

    def lengths(self) -> IntArray:
        """(n,) tokens of each, special ones included."""
        return np.diff(self.offsets)

    def inputs(
        self,
        rows: IntArray,
        augment: np.random.Generator | None = None,  # noqa: ARG002
    ) -> dict[str, npt.NDArray[Any]]:
        """int64 matrices (len(rows), longest of them), named as the passport's text part says. `augment` changes nothing."""
        spans = [slice(self.offsets[row], self.offsets[row + 1]) for row in rows.tolist()]
        types = None if self.types is None else [self.types[span] for span in spans]
        return dict(matrices([self.ids[span] for span in spans], types, self.part))

    def take(self, rows: IntArray) -> TokenisedTexts:
        """The rows in the order given; their tokens are copied."""
        lengths = self.lengths()[rows]
        offsets = _offsets(lengths)
        # Token t of the result is token t - (where its text starts there) + (where it starts here).
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        types = None if self.types is None else self.types[places]
        return replace(self, ids=self.ids[places], offsets=offsets, types=types)


class Tokeniser:
    """Collects texts block by block and keeps their tokens alone."""

    def __init__(self, tokenizer_json: str, part: TextPart) -> None:
        self._part = part
        self._reader = TextReader(tokenizer_json, part)
        self._lead, self._tail = _special(self._reader)
        self._ids: list[Ids] = []
        self._types: list[Ids] = []
        self._lengths: list[int] = []

    def add(self, texts: Sequence[str]) -> None:
        for start in range(0, len(texts), WINDOW):
            encodings = self._reader.encodings(texts[start : start + WINDOW])
            self._lengths += [len(each) for each in encodings]
            self._ids.append(_joined([each.ids for each in encodings]))
            if "token_type_ids" in self._part.inputs:
                self._types.append(_joined([each.type_ids for each in encodings]))

    def lengths(self) -> IntArray:
        """(n,) tokens of each text so far, before any shorter cut."""
        return np.array(self._lengths, np.int64)

    def finish(self, max_tokens: int | None = None) -> TokenisedTexts:
        """All texts so far, in order, cut at `max_tokens` where that is below the base's own limit."""
        types = _joined(self._types)
        whole = TokenisedTexts(
            part=self._part,
            ids=_joined(self._ids),
            offsets=_offsets(self.lengths()),
            types=types if types.any() else None,
        )
        return whole if max_tokens is None else self._cut(whole, max_tokens)

    def _cut(self, texts: TokenisedTexts, limit: int) -> TokenisedTexts:
        """As the tokenizer's own truncation does: special tokens at both ends stay, text goes from the side the model names."""
        limit = max(limit, self._lead + self._tail + 1)
        lengths = texts.lengths()
        if not (lengths > limit).any():
            return texts
        offsets = _offsets(np.minimum(lengths, limit))
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
        gone = np.repeat(np.maximum(lengths - limit, 0), np.diff(offsets))
        left = self._part.truncation_side == "left"
        jumped = within >= (self._lead if left else limit - self._tail)
        places = np.repeat(texts.offsets[:-1], np.diff(offsets)) + within + np.where(jumped, gone, 0)
        types = None if texts.types is None else texts.types[places]
        return replace(texts, ids=texts.ids[places], offsets=offsets, types=types)


def tokens_of_most(lengths: IntArray, share: float = 0.99) -> int | None:
    """The number of tokens that `share` of the texts do not pass; None for no text."""
    return int(np.quantile(lengths, share, method="inverted_cdf")) if len(lengths) else None


def _special(reader: TextReader) -> tuple[int, int]:
    """How many special tokens the tokenizer puts before a text and behind it."""
    mask = list(reader.encodings(["a"])[0].special_tokens_mask)
    text = [place for place, special in enumerate(mask) if not special]
    return (text[0], len(mask) - 1 - text[-1]) if text else (len(mask), 0)


def _offsets(lengths: IntArray) -> IntArray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _joined(parts: Iterable[Any]) -> Ids:
    return np.concatenate([np.empty(0, np.int32), *(np.asarray(part, np.int32) for part in parts)])
