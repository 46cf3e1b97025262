"""The encoders of a store: register a model under a name, find it again by name or fingerprint, encode with it.

An encoder is never edited: a name is an alias that may come to point at another one, and what was encoded with
the old one keeps its fingerprint. Importing this imports neither torch nor transformers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raystore.catalog import Catalog, Record
from raystore.encoders.backends import choose_backend
from raystore.encoders.loaded import (
    LoadedEncoder,
    from_model,
    golden_vectors,
    open_encoder,
    open_torch,
    prepare_backend,
)
from raystore.encoders.passport import Passport
from raystore.encoders.records import (
    KIND,
    find_fingerprint,
    name_of,
    publish_encoder,
    read_encoder,
    source_record,
)
from raystore.encoders.source import Source, find_source
from raystore.encoders.text import Options, TextModel, load_text_model
from raystore.errors import EncoderNotFound, InvalidArguments, ModelUnusable, listed
from raystore.layout import check_name
from raystore.vectors import Vectors

__all__ = ["Encoder", "Encoders", "LoadedEncoder", "Passport", "open_encoder"]

log = logging.getLogger("raystore")


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
        about = f"dim={p.dim}, max_length={p.max_length}, pooling={p.pooling!r}, {p.architecture}"
        return f"Encoder({self.label!r}, {about}{', loaded' if self._loaded else ''})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Encoder) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._catalog, self.passport, self.name)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, dim) float32 unit rows marked with the fingerprint; see `LoadedEncoder.encode`."""
        with self._loading:
            if self._loaded is None:
                self._loaded = self.load()
        return self._loaded.encode(texts)

    def load(self, threads: int | None = None, backend: str | None = None) -> LoadedEncoder:
        """A new copy in memory, golden-checked; see `open_encoder`."""
        return open_encoder(self._catalog.layout, self.fingerprint, threads=threads, backend=backend, name=self.name)

    def verify(self) -> float:
        """The worst cosine to the golden vectors, over torch (weights read and digested again) and the backend in use.

        Raises:
            ModelUnusable: the source is gone or is no longer the model that was registered.
            GoldenMoved: the output moved.
        """
        stored = read_encoder(self._catalog.layout, self.fingerprint)
        expected = stored.golden(self.label)
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
        revision: str | None = None,
    ) -> Encoder:
        """The encoder, known to the store under `name` from now on.

        The same model again changes nothing. Another model under a known name makes the name mean that one; what
        it meant before stays, under its fingerprint.

        Args:
            model: `minilm` (the packaged all-MiniLM-L6-v2), a folder, or a hub name.
            max_length: tokens read of a text; None is the model's own limit.
            pooling: mean, cls, max, lasttoken ...; None is the model's own, mean for a plain transformers folder.
            prompt: put before every text; None is the model's default prompt.
            revision: commit, tag or branch of a hub model.

        Raises:
            InvalidName, InvalidArguments, ModelUnusable, GoldenMoved.

        Cost: 5 to 10 s the first time (torch, golden vectors, OpenVINO export), 0.3 s when the files are unchanged.
        """
        check_name("an encoder", name, dashes=True)
        choose_backend(None)  # a wrong RAYSTORE_BACKEND is said before anything is loaded
        if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int)):
            raise InvalidArguments(call="register", problems=["max_length= is a whole number of tokens"])
        source = find_source(model, revision)
        options = Options(max_length=max_length, pooling=pooling, prompt=prompt)
        about = source_record(source, options)
        return self._unchanged(name, about) or self._register(name, source, options, about)

    def _unchanged(self, name: str, about: Record) -> Encoder | None:
        """The encoder of `name`, if it was made of these very files with these options: then there is nothing to do."""
        record = self._catalog.alias(KIND, name)
        if record is None or record.get("source") != about:
            return None
        try:
            return Encoder(self._catalog, read_encoder(self._catalog.layout, record["fingerprint"]).passport, name)
        except EncoderNotFound:  # the folder was removed: register again
            return None

    def _register(self, name: str, source: Source, options: Options, about: Record) -> Encoder:
        layout = self._catalog.layout
        model = load_text_model(source, options)
        passport, label = model.passport, model.passport.label(name)
        try:
            stored = read_encoder(layout, passport.fingerprint)
        except EncoderNotFound:
            _refuse_random_weights(source, options, model)
            publish_encoder(layout, passport, golden_vectors(model, label))
            stored = read_encoder(layout, passport.fingerprint)
        from_model(model, label).check_golden(stored.golden(label))
        prepare_backend(layout, stored, model, label)
        self._point(name, passport, about)
        return Encoder(self._catalog, passport, name)

    def _point(self, name: str, passport: Passport, about: Record) -> None:
        """Let the name mean this encoder. No new record where it does so already and its source can still be had."""
        record = self._catalog.alias(KIND, name)
        if record is not None and record.get("fingerprint") == passport.fingerprint:
            try:
                find_source(record["source"]["model"], record["source"]["revision"])
            except ModelUnusable:
                log.info("encoder '%s' keeps its fingerprint and has a new source, the old one is gone", name)
            else:
                return
        self._catalog.set_alias(KIND, name, {"fingerprint": passport.fingerprint, "source": about})


def _refuse_random_weights(source: Source, options: Options, model: TextModel) -> None:
    """Raise ModelUnusable where weights are missing from the files: transformers draws those at random at each load."""
    again = load_text_model(source, options).tensors
    drawn = [name for name, digest in model.tensors.items() if again.get(name) != digest]
    if drawn:
        raise ModelUnusable(
            model=source.model,
            found=f"{len(drawn)} of its {len(model.tensors)} tensors are missing from its files ({listed(drawn, 3)})",
            advice="Download or save the model again, whole.",
        )
