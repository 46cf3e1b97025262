"""An encoder with its model in memory: items in, unit rows out, in the order they came.

Reads items through `tokens.py` and `pictures.py`, runs them on whatever backends it was given. Knows no store, no
file and no collection; `opening.py` makes one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from raystore.encoders import golden
from raystore.encoders.ahead import ahead
from raystore.encoders.backends import Backend
from raystore.encoders.items import Encoded, Item
from raystore.encoders.passport import Modality, Passport
from raystore.encoders.tokens import Batch, TextReader
from raystore.errors import InvalidArguments, InvalidVectors, ItemsUnusable
from raystore.vectors import Matrix, Vectors, mark

MAX_CHARS = 100_000  # callers refuse longer texts; nothing beyond a model's few hundred tokens is read anyway
_NAMES: dict[Modality, str] = {"text": "texts", "image": "images"}


class LoadedEncoder:
    """A model in memory. `encode` may be called from several threads; they take turns batch by batch, `at_once` at a time."""

    max_chars = MAX_CHARS

    def __init__(
        self,
        passport: Passport,
        backends: Mapping[Modality, Backend],
        label: str,
        *,
        tokenizer_json: str | None = None,
        threads: int | None = None,
    ) -> None:
        self.passport = passport
        self.fingerprint = passport.fingerprint
        self.dim = passport.dim
        self.label = label
        self._backends = backends
        first = next(iter(backends.values()))
        self.backend = first.name
        self.device = first.device
        self._texts = TextReader(tokenizer_json, passport.text) if passport.text and tokenizer_json else None
        self._images = None
        if passport.image:
            from raystore.encoders.pictures import ImageReader

            self._images = ImageReader(passport.image, threads)
        self.at_once = 1  # batches
        self._turn: AbstractContextManager[object] = threading.Lock()

    def __repr__(self) -> str:
        return f"LoadedEncoder({self.label!r}, dim={self.dim}, backend={self.backend!r}, device={self.device!r})"

    def share_cores(self) -> int:
        """Let several batches be encoded at once from now on, each on a part of the cores where it is not alone; how many.

        Two small batches on a core each are done sooner than the same rows in one batch on both. Once, before it is used by several.
        """
        self.at_once = min(backend.share_cores() for backend in self._backends.values())
        self._turn = threading.BoundedSemaphore(self.at_once)
        return self.at_once

    def encode(self, items: Sequence[Item]) -> Vectors:
        """(n, dim) float32 unit rows in the order of `items`, marked with the fingerprint; (0, dim) for none.

        Items are texts (str) or the contents of image files (bytes), as the encoder takes them. Texts beyond
        max_length tokens are cut as the passport says; a lone surrogate is read as U+FFFD; an empty text has a vector
        too. A row may differ in its last bits with the items it is batched with.

        Raises:
            InvalidArguments: one item instead of a list, or something that is no item.
            ItemsUnusable: images that cannot be read, items of a kind this encoder does not take.
            InvalidVectors: the model put out NaN or infinity, or a vector without direction.
        """
        given = check_items(items)
        vectors, problems = self._encode(given)
        if problems:
            raise ItemsUnusable(call=f"encode with {self.label}", n_items=len(given), problems=sorted(problems.items()))
        if directionless := self._directionless(vectors, range(len(given))):
            problem = sorted(directionless.items())
            raise InvalidVectors(call=f"encode with {self.label}", n_vectors=len(vectors), problems=problem)
        return mark(vectors, self.fingerprint)

    def encode_each(self, items: Sequence[Item]) -> Encoded:
        """The vectors of the items that have one, and why the others have none; no item stops the others.

        Raises:
            InvalidArguments: one item instead of a list, or something that is no item.
        """
        given = check_items(items)
        vectors, problems = self._encode(given)
        good = [place for place in range(len(given)) if place not in problems]
        for place, reason in self._directionless(vectors, good).items():
            problems[place] = f"its vector {reason}"
        places = np.array([place for place in good if place not in problems], dtype=np.int64)
        return Encoded(mark(vectors[places], self.fingerprint), places, dict(sorted(problems.items())))

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens `encode` reads of these texts; special tokens and the prompt count, what is cut off does not."""
        if self._texts is None:
            return 0
        batches = self._texts.batches(list(texts), self._backends["text"].batch_size)
        return sum(int(batch.inputs["attention_mask"].sum()) for batch in batches)

    def check_golden(self, expected: golden.Golden) -> float:
        """The worst cosine over the golden inputs. Raises GoldenMoved below the passport's tolerance."""
        return golden.check(
            expected, self.encode_unchecked, tolerance=self.passport.tolerance, label=self.label, backend=self.backend
        )

    def encode_unchecked(self, items: Sequence[Item]) -> Matrix:
        """What the model puts out for good items, whatever it is."""
        return self._encode(items)[0]

    def _encode(self, items: Sequence[Item]) -> tuple[Matrix, dict[int, str]]:
        """(n, dim), rows without an item's vector left as they are, and the items without one."""
        found = np.empty((len(items), self.dim), dtype=np.float32)
        problems: dict[int, str] = {}
        texts = [i for i, item in enumerate(items) if isinstance(item, str)]
        images = [i for i, item in enumerate(items) if isinstance(item, bytes)]
        if texts and self._texts is not None:
            batches = self._texts.batches([str(items[i]) for i in texts], self._backends["text"].batch_size)
            self._run("text", batches, texts, found)
        elif texts:
            problems |= dict.fromkeys(texts, self._other("text"))
        if images and self._images is not None:
            size = self._backends["image"].batch_size
            bad: dict[int, str] = {}
            batches = self._images.batches([bytes(items[i]) for i in images], size, bad)  # type: ignore[arg-type]
            self._run("image", ahead(batches) if len(images) > size.images else batches, images, found)
            problems |= {images[place]: reason for place, reason in bad.items()}
        elif images:
            problems |= dict.fromkeys(images, self._other("image"))
        return found, problems

    def _run(self, modality: Modality, batches: Iterator[Batch], places: Sequence[int], found: Matrix) -> None:
        where = np.asarray(places)
        for batch in batches:
            with self._turn:
                found[where[batch.rows]] = _unit(self._backends[modality].run(batch.inputs))

    def _other(self, given: Modality) -> str:
        taken = " and ".join(_NAMES[m] for m in self.passport.modalities)
        return f"is {'an image' if given == 'image' else 'a text'}, and this encoder takes {taken}"

    @staticmethod
    def _directionless(vectors: Matrix, places: Sequence[int] | range) -> dict[int, str]:
        with np.errstate(all="ignore"):
            norms = np.linalg.norm(vectors, axis=1)
        return {i: "is zero" if norms[i] == 0 else "holds NaN or infinity" for i in places if not norms[i] > 0.5}


def _unit(rows: Matrix) -> Matrix:
    """The rows at length 1. A graph in int8 has its last division quantised with the rest: MobileNetV2's came out at
    0.998 to 1.126. Rows that are unit to rounding stay bit for bit; what has no direction stays what it is."""
    with np.errstate(all="ignore"):
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
    off = (np.abs(norms - 1) > 1e-5) & np.isfinite(norms) & (norms > 1e-6)
    return (rows / np.where(off, norms, 1)).astype(np.float32) if off.any() else rows


def check_items(items: object) -> Sequence[Item]:
    """`items` itself, if it is a list of texts and image contents. What stood there instead is named by place and type."""
    if isinstance(items, (str, bytes)):
        what = "string" if isinstance(items, str) else "image"
        problem = f"the items are one {what}, expected a list of them: encode([{'text' if what == 'string' else what}])"
        raise InvalidArguments(call="encode", problems=[problem])
    if not hasattr(items, "__len__") or not hasattr(items, "__getitem__") or isinstance(items, dict):
        problem = f"the items are a {type(items).__name__}, expected a list of texts (str) or image files (bytes)"
        raise InvalidArguments(call="encode", problems=[problem])
    found: list[Item] = list(items)  # type: ignore[call-overload]
    wrong = [i for i, item in enumerate(found) if not isinstance(item, (str, bytes))]
    if wrong:
        problems = [f"item {i} is a {type(found[i]).__name__}, expected a string or bytes" for i in wrong[:5]]
        more = [f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []
        raise InvalidArguments(call="encode", problems=problems + more)
    return found
