"""The encoders of a store: register a model under a name, find it again by name or fingerprint, encode with it.

An encoder is never edited: a name is an alias that may come to point at another one, and what was encoded with
the old one keeps its fingerprint. Importing this imports neither torch nor transformers.
"""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raystore.catalog import Catalog, Record
from raystore.encoders import golden
from raystore.encoders.backends import choose_backend
from raystore.encoders.bridged import is_bridged
from raystore.encoders.card import read_card
from raystore.encoders.items import Item
from raystore.encoders.load import load_model, refuse_random_weights
from raystore.encoders.loaded import LoadedEncoder, check_items
from raystore.encoders.model import Options
from raystore.encoders.opening import (
    from_model,
    golden_vectors,
    open_encoder,
    open_torch,
    prepare_backend,
)
from raystore.encoders.passport import Card, Passport
from raystore.encoders.records import (
    KIND,
    check_encoder_name,
    find_fingerprint,
    name_of,
    open_source,
    publish_encoder,
    read_encoder,
    source_record,
)
from raystore.encoders.source import Source, find_source
from raystore.errors import EncoderNotFound, InvalidArguments, ItemsUnusable, ModelUnusable
from raystore.layout import FP12
from raystore.markup import facts_html, rows_html
from raystore.vectors import Vectors

if TYPE_CHECKING:
    from PIL.Image import Image

    from raystore.encoders.derive import Derived

__all__ = ["Encoder", "Encoders", "LoadedEncoder", "Passport", "open_encoder"]

log = logging.getLogger("raystore")

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


class Encoder:
    """A cheap handle on a registered encoder; the model is loaded at the first `encode`. Pickles without it."""

    def __init__(self, catalog: Catalog, passport: Passport, name: str) -> None:
        self.name = name
        self.passport = passport
        self.fingerprint = passport.fingerprint
        self.dim = passport.dim
        self.label = passport.label(name)
        self._catalog = catalog
        self._loaded: LoadedEncoder | None = None
        self._loading = threading.Lock()

    def __repr__(self) -> str:
        p = self.passport
        facts = [f"dim={p.dim}", p.architecture]
        if p.text:
            facts += [f"max_length={p.text.max_length}", f"pooling={p.text.pooling!r}"]
        if p.image:
            facts.append(f"image={p.image.shape[1]}x{p.image.shape[0]}")
        if p.equivalence != "torch-fp32":
            facts.append(p.equivalence)
        return f"Encoder({self.label!r}, {', '.join(facts)}{', loaded' if self._loaded else ''})"

    def _repr_html_(self) -> str:
        return facts_html(f"Encoder {self.label}", {"fingerprint": self.fingerprint, **self.passport.flat()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoder) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._catalog, self.passport, self.name)

    def encode(self, items: Sequence[Item | Path | Image]) -> Vectors:
        """(n, dim) float32 unit rows marked with the fingerprint; see `LoadedEncoder.encode`.

        Items are texts (str) or images: a path, a file's bytes, or a Pillow image (taken as the PNG it would be saved as).
        """
        with self._loading:
            if self._loaded is None:
                self._loaded = self.load()
        return self._loaded.encode(_items(items, self.label))

    def load(self, threads: int | None = None, backend: str | None = None) -> LoadedEncoder:
        """A new copy in memory, golden-checked; see `open_encoder`."""
        return open_encoder(self._catalog.layout, self.fingerprint, threads=threads, backend=backend, name=self.name)

    @property
    def card(self) -> Card:
        """Licence, training data, objective, what it was derived from: known of it, and outside its fingerprint."""
        return read_encoder(self._catalog.layout, self.fingerprint).card

    def golden(self) -> golden.Golden:
        """By modality, the vectors (number of probes, dim) of the fixed probe inputs, as they were at registration."""
        return read_encoder(self._catalog.layout, self.fingerprint).golden(self.label)

    def verify(self) -> float:
        """The worst cosine to the golden vectors, over torch (weights read and digested again) and the backend in use.

        Raises:
            ModelUnusable: the source is gone or is no longer the model that was registered.
            GoldenMoved: the output moved.
        """
        stored = read_encoder(self._catalog.layout, self.fingerprint)
        expected = stored.golden(self.label)
        if stored.passport.equivalence != "torch-fp32" or is_bridged(stored.passport):
            return self.load().check_golden(expected)
        reference = open_torch(self._catalog.layout, stored, self.label, name=self.name)
        worst = reference.check_golden(expected)
        if choose_backend(None)[0] == "torch":
            return worst
        return min(worst, (self._loaded or self.load()).check_golden(expected))


class Encoders:
    """The encoders of one store: `register`, `get`, `names`; `encoders["minilm"]`; iterating gives the names."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def __repr__(self) -> str:
        return f"Encoders({', '.join(self.names()) or 'none'})"

    def _repr_html_(self) -> str:
        found = [self.get(name) for name in self.names()]
        columns = ("encoder", "takes", "dim", "model", "class")
        rows = [(e.label, e.passport.modalities, e.dim, e.passport.architecture, e.passport.equivalence) for e in found]
        return rows_html([dict(zip(columns, row, strict=True)) for row in rows], columns, title=f"{len(found)} encoders")

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __getitem__(self, name_or_fingerprint: str) -> Encoder:
        return self.get(name_or_fingerprint)

    def names(self) -> list[str]:
        return self._catalog.alias_names(KIND)

    def resolve(self, name_or_fingerprint: str) -> Passport:
        """The passport behind a name, a label 'name@fp12', a fingerprint, or its first 12 or more hex digits.

        Raises:
            EncoderNotFound: with the names there are.
        """
        fingerprint = find_fingerprint(self._catalog, name_or_fingerprint)
        return read_encoder(self._catalog.layout, fingerprint).passport

    def get(self, name_or_fingerprint: str) -> Encoder:
        """The encoder a name means now, or the one of a fingerprint; loads nothing."""
        passport = self.resolve(name_or_fingerprint)
        asked = str(name_or_fingerprint)
        return Encoder(self._catalog, passport, asked if asked in self else name_of(self._catalog, passport.fingerprint))

    def register(
        self,
        name: str,
        model: str | Path,
        *,
        max_length: int | None = None,
        pooling: str | None = None,
        prompt: str | None = None,
        dimensions: int | None = None,
        resize: int | None = None,
        kernel: str | None = None,
        revision: str | None = None,
        licence: str | None = None,
        trained_on: Sequence[str] = (),
        objective: Literal["supervised", "contrastive", "self-supervised"] | None = None,
    ) -> Encoder:
        """The encoder, known to the store under `name` from now on.

        The same model again changes nothing. Another model under a known name makes the name mean that one; what
        it meant before stays, under its fingerprint.

        Args:
            model: `minilm` (the packaged all-MiniLM-L6-v2), a folder, or a hub name; a text model (sentence-transformers
                or transformers), a vision model (ViT, DINOv2, ResNet, MobileNetV2 ...), or CLIP, which takes both.
            max_length: tokens read of a text; None is the model's own limit.
            pooling: of a text model mean, cls, max, lasttoken ...; of a vision model cls, mean, pooler; None is the model's
                own, mean for a plain transformers text folder.
            prompt: put before every text; None is the model's default prompt.
            dimensions: keep only so many numbers of a text's vector (Matryoshka); None is what the model's files say.
            resize, kernel: the edge in pixels and the resampling of images; None is what the model's files say.
            revision: commit, tag or branch of a hub model.
            licence, trained_on, objective: kept beside the passport; None is what the model card says.

        Raises:
            InvalidName, InvalidArguments, ModelUnusable, GoldenMoved.

        Cost: 10 to 20 s the first time (torch, golden vectors, an export compared with torch on 1,000 sentences), 0.3 s
        when the files are unchanged.
        """
        check_encoder_name(name)
        choose_backend(None)  # a wrong RAYSTORE_BACKEND is said before anything is loaded
        problems = [
            f"{option}= is a whole number of {unit}"
            for option, value, unit in (
                ("max_length", max_length, "tokens"),
                ("dimensions", dimensions, "numbers"),
                ("resize", resize, "pixels"),
            )
            if value is not None and (isinstance(value, bool) or not isinstance(value, int))
        ]
        if problems:
            raise InvalidArguments(call="register", problems=problems)
        source = find_source(model, revision, root=self._catalog.layout.root)
        options = Options(
            max_length=max_length, pooling=pooling, prompt=prompt, dimensions=dimensions, resize=resize, kernel=kernel
        )
        about = source_record(source, options)
        if unchanged := self._unchanged(name, about):
            return unchanged
        card = read_card(source.folder, licence=licence, trained_on=tuple(trained_on), objective=objective)
        return self._register(name, source, options, about, card)

    def derive(
        self,
        name: str,
        *,
        base: str | Encoder,
        precision: Literal["int8", "bf16", "fp16"],
        sample: Sequence[Item] | None = None,
        labels: Sequence[str] | None = None,
    ) -> Derived:
        """The encoder `base` in another precision, registered under a name of its own, and what that costs and gains.

        Args:
            sample: items of the kind it will encode: int8 is calibrated on them, and all is measured with them; None is
                sentences of Python's documentation, or generated pictures.
            labels: one for each item of the sample; then the change in a linear head's accuracy is measured.

        Raises:
            InvalidName, EncoderNotFound, ExtraNotInstalled; InvalidArguments, where the result is the same encoder among others.

        Cost: half a minute for all-MiniLM-L6-v2.
        """
        from raystore.encoders.derive import derive

        check_encoder_name(name)
        chosen = self.get(base) if isinstance(base, str) else base
        return derive(self._catalog, name, chosen, precision, sample=sample, labels=labels)

    def _unchanged(self, name: str, about: Record) -> Encoder | None:
        """The encoder of `name`, if it was made of these very files with these options: then there is nothing to do."""
        record = self._catalog.alias(KIND, name)
        if record is None or record.get("source") != about:
            return None
        try:
            return Encoder(self._catalog, read_encoder(self._catalog.layout, record["fingerprint"]).passport, name)
        except EncoderNotFound:  # the folder was removed: register again
            return None

    def _register(self, name: str, source: Source, options: Options, about: Record, card: Card) -> Encoder:
        encoder = self.admit(name, source, options, card)
        self._point(name, encoder.passport, about)
        return encoder

    def admit(self, name: str, source: Source, options: Options, card: Card) -> Encoder:
        """The encoder, kept with its golden vectors and its export, while no name means it yet; its label says `name`."""
        layout = self._catalog.layout
        model = load_model(source, options)
        passport, label = model.passport, model.passport.label(name)
        reference = from_model(model, label, device="cpu")  # the golden vectors are the CPU's, wherever they are made
        try:
            stored = read_encoder(layout, passport.fingerprint)
        except EncoderNotFound:
            refuse_random_weights(source, model)
            publish_encoder(layout, passport, golden_vectors(reference), card)
            stored = read_encoder(layout, passport.fingerprint)
        reference.check_golden(stored.golden(label))
        prepare_backend(layout, stored, model, label)
        return Encoder(self._catalog, passport, name)

    def _point(self, name: str, passport: Passport, about: Record) -> None:
        """Let the name mean this encoder. No new record where it does so already and its source can still be had."""
        record = self._catalog.alias(KIND, name)
        if record is not None and record.get("fingerprint") == passport.fingerprint:
            try:
                open_source(self._catalog, passport.fingerprint, passport.label(name), name)
            except ModelUnusable:
                log.info("encoder '%s' keeps its fingerprint and has a new source, the old one is gone", name)
            else:
                return
        elif record is not None:
            before = str(record.get("fingerprint"))[:FP12]
            said = "encoder '%s' means %s from now on; it meant %s, whose vectors are kept under that fingerprint"
            log.warning(said, name, passport.fingerprint[:FP12], before)
        self._catalog.set_alias(KIND, name, {"fingerprint": passport.fingerprint, "source": about})


def _items(items: object, label: str) -> Sequence[Item]:
    """Paths and Pillow images become file contents."""
    from PIL.Image import Image

    if not isinstance(items, (list, tuple)):
        return check_items(items)
    found: list[Any] = []
    problems: list[tuple[int, str]] = []
    for place, item in enumerate(items):
        if isinstance(item, Path):
            try:
                found.append(item.read_bytes())
            except OSError as error:
                problems.append((place, f"cannot be read ({type(error).__name__})"))
        elif isinstance(item, Image):
            buffer = io.BytesIO()
            (item if item.mode in _PNG_MODES else item.convert("RGB")).save(buffer, "PNG")
            found.append(buffer.getvalue())
        else:
            found.append(item)
    if problems:
        raise ItemsUnusable(call=f"encode with {label}", n_items=len(items), problems=problems)
    return check_items(found)
