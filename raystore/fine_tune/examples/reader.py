"""How a base reads items: what is made of a text or of a picture while its row is read. Keeps tokens and files, no text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raystore.encoders.images import BadImage, read_image
from raystore.encoders.passport import ImagePart, Modality, Passport
from raystore.encoders.pixels import pixels
from raystore.fine_tune.examples.leaks import Marks
from raystore.fine_tune.examples.marks.perceptual import ImageMarker, Look, look_of
from raystore.fine_tune.examples.marks.shingles import TextMarker
from raystore.fine_tune.examples.pictures import Pictures, in_threads
from raystore.fine_tune.examples.text import Tokeniser, tokens_of_most
from raystore.fine_tune.examples.types import Content, IntArray


class Collector(Protocol):
    """Takes the items of one view, block by block."""

    def look(self, items: Sequence[Any]) -> list[Any]:
        """For each item what `add` wants beside it, or a str: the end of a sentence that says why it cannot be used."""
        ...

    def add(self, items: Sequence[Any], looks: Sequence[Any]) -> None: ...

    def finish(self, train: IntArray) -> Content:
        """All items so far; `train` are the rows that will be learned from."""
        ...

    def marks(self) -> Marks: ...


@dataclass(frozen=True)
class ItemReader:
    """How a base reads.

    Attributes:
        passport, tokenizer_json: of the base; the JSON is needed where texts are read.
        max_tokens: where texts are cut; None is what 99% of train have, at most what the base reads.
        augment: names of `Recipe.augment`, for pictures.
    """

    passport: Passport
    tokenizer_json: str | None = None
    max_tokens: int | None = None
    augment: tuple[str, ...] = ()

    def collector(self, modality: Modality) -> Collector:
        """What takes the items of one view."""
        if modality == "image":
            assert self.passport.image is not None, "the plan checks what the base takes"
            return _PictureCollector(self.passport.image, self.augment)
        part = self.passport.text
        assert part is not None, "the plan checks what the base takes"
        assert self.tokenizer_json is not None, "a base that takes texts has a tokenizer"
        if self.max_tokens is not None and self.max_tokens < part.max_length:
            part = part.model_copy(update={"max_length": self.max_tokens})
        return _TextCollector(Tokeniser(self.tokenizer_json, part), cut=self.max_tokens is None)


class _TextCollector:
    def __init__(self, tokeniser: Tokeniser, *, cut: bool) -> None:
        self._tokeniser = tokeniser
        self._marker = TextMarker()
        self._cut = cut

    def look(self, items: Sequence[str]) -> list[Any]:
        return [None] * len(items)

    def add(self, items: Sequence[str], looks: Sequence[Any]) -> None:  # noqa: ARG002
        self._tokeniser.add(items)
        self._marker.add(items)

    def finish(self, train: IntArray) -> Content:
        return self._tokeniser.finish(tokens_of_most(self._tokeniser.lengths()[train]) if self._cut else None)

    def marks(self) -> Marks:
        return self._marker.finish()


class _PictureCollector:
    """Every picture is decoded once here, so that none turns out to be damaged in the middle of a training."""

    def __init__(self, part: ImagePart, augment: tuple[str, ...]) -> None:
        self._part, self._augment = part, augment
        self._files: list[bytes] = []
        self._marker = ImageMarker()

    def look(self, items: Sequence[bytes]) -> list[Any]:
        return in_threads(self._look, items)

    def _look(self, file: bytes) -> Look | str:
        try:
            return look_of(pixels(read_image(file), self._part))
        except BadImage as error:
            return error.reason

    def add(self, items: Sequence[bytes], looks: Sequence[Any]) -> None:
        self._files += items
        self._marker.add(items, looks)

    def finish(self, train: IntArray) -> Content:  # noqa: ARG002
        return Pictures(self._part, tuple(self._files), self._augment)

    def marks(self) -> Marks:
        return self._marker.finish()
