"""An encoder with its model in memory: chooses the backend, checks the weights and the golden vectors, encodes.

Cost of a load: about a second from a valid OpenVINO export, 3 to 6 s through torch. Knows no collection and no Ray;
`open_encoder` is what a worker calls, with nothing but the store's layout and a fingerprint.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

from raystore.catalog import Catalog
from raystore.encoders import golden
from raystore.encoders.backends import Backend, choose_backend
from raystore.encoders.openvino_backend import OpenVinoBackend, export_folder, export_problem, write_export
from raystore.encoders.passport import Passport
from raystore.encoders.records import StoredEncoder, open_source, read_encoder
from raystore.encoders.text import TextModel, load_text_model
from raystore.encoders.tokens import TextReader
from raystore.encoders.torch_backend import TorchBackend
from raystore.errors import GoldenMoved, InvalidArguments, InvalidVectors, ModelUnusable, RaystoreError
from raystore.layout import FP12, Layout, read_json, write_json
from raystore.vectors import Matrix, Vectors, mark

log = logging.getLogger("raystore")

MAX_CHARS = 100_000  # callers refuse longer texts; nothing beyond a model's few hundred tokens is read anyway


class LoadedEncoder:
    """A model in memory. `encode` may be called from several threads; they take turns."""

    max_chars = MAX_CHARS

    def __init__(self, passport: Passport, backend: Backend, reader: TextReader, label: str) -> None:
        self.passport = passport
        self.fingerprint = passport.fingerprint
        self.dim = passport.dim
        self.backend = backend.name
        self.device = backend.device
        self.label = label
        self._backend = backend
        self._reader = reader
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        return f"LoadedEncoder({self.label!r}, dim={self.dim}, backend={self.backend!r}, device={self.device!r})"

    def encode(self, texts: Sequence[str]) -> Vectors:
        """(n, dim) float32 unit rows in the order of `texts`, marked with the fingerprint; (0, dim) for none.

        Texts beyond max_length tokens are cut as the passport says; a lone surrogate is read as U+FFFD; an empty
        text has a vector too. A row may differ in its last bits with the texts it is batched with.

        Raises:
            InvalidArguments: a single text instead of a list, or something that is not a string.
            InvalidVectors: the model put out NaN or infinity, or a vector without direction.
        """
        vectors = self._encode(check_texts(texts))
        norms = np.linalg.norm(vectors, axis=1)
        bad = np.flatnonzero(~(norms > 0.5))
        if len(bad):
            problems = [(int(i), "is zero" if norms[i] == 0 else "holds NaN or infinity") for i in bad]
            raise InvalidVectors(call=f"encode with {self.label}", n_vectors=len(vectors), problems=problems)
        return mark(vectors, self.fingerprint)

    def _encode(self, texts: Sequence[str]) -> Matrix:
        found = np.empty((len(texts), self.dim), dtype=np.float32)
        for batch in self._reader.batches(texts, self._backend.batch_size):
            with self._turn:
                found[batch.rows] = self._backend.run(batch.inputs)
        return found

    def count_tokens(self, texts: Sequence[str]) -> int:
        """How many tokens `encode` reads of these texts; special tokens and the prompt count, what is cut off does not."""
        batches = self._reader.batches(check_texts(texts), self._backend.batch_size)
        return sum(int(batch.inputs["attention_mask"].sum()) for batch in batches)

    def check_golden(self, expected: Matrix) -> float:
        """The worst cosine over the golden inputs. Raises GoldenMoved below the passport's tolerance."""
        return golden.check(
            expected, self._encode, tolerance=self.passport.tolerance, label=self.label, backend=self.backend
        )


def check_texts(texts: object) -> Sequence[str]:
    """`texts` itself, if it is a list of strings. What stood there instead is named by place and type only."""
    if isinstance(texts, str):
        problem = "texts is one string, expected a list of them: encode([text])"
        raise InvalidArguments(call="encode", problems=[problem])
    if not hasattr(texts, "__len__") or not hasattr(texts, "__getitem__") or isinstance(texts, (bytes, dict)):
        problem = f"texts is a {type(texts).__name__}, expected a list of strings"
        raise InvalidArguments(call="encode", problems=[problem])
    found: list[str] = list(texts)  # type: ignore[call-overload]
    wrong = [i for i, text in enumerate(found) if not isinstance(text, str)]
    if wrong:
        problems = [f"text {i} is a {type(found[i]).__name__}, expected a string" for i in wrong[:5]]
        more = [f"and {len(wrong) - 5} more"] if len(wrong) > 5 else []
        raise InvalidArguments(call="encode", problems=problems + more)
    return found


def open_encoder(
    layout: Layout,
    fingerprint: str,
    *,
    threads: int | None = None,
    backend: str | None = None,
    name: str | None = None,
) -> LoadedEncoder:
    """The encoder of a full fingerprint, in memory and golden-checked; `threads` None is every core.

    Without a backend asked for (here or by RAYSTORE_BACKEND), OpenVINO runs where it is installed and exact
    enough, and torch where not, which is logged.

    Raises:
        EncoderNotFound, ModelUnusable (weights gone or changed), GoldenMoved, ExtraNotInstalled.
    """
    stored = read_encoder(layout, fingerprint)
    label = stored.passport.label(name) if name else fingerprint[:FP12]
    chosen, asked_for = choose_backend(backend)
    if chosen == "torch":
        return open_torch(layout, stored, label, threads, name)
    refused = None if asked_for else _refusal(layout, stored.passport)
    if refused is None:
        try:
            return _open_openvino(layout, stored, label, threads, name)
        except (GoldenMoved, _ExportError) as error:
            if asked_for:
                raise (error.said(label) if isinstance(error, _ExportError) else error) from None
            refused = str(error)  # not kept: another machine may do better
    log.warning("encoder %s runs on torch, not on openvino: %s", label, refused)
    return open_torch(layout, stored, label, threads, name)


def open_torch(
    layout: Layout, stored: StoredEncoder, label: str, threads: int | None = None, name: str | None = None
) -> LoadedEncoder:
    return _checked(stored, label, *_torch_parts(_load_source(layout, stored, label, name), threads))


def from_model(model: TextModel, label: str, threads: int | None = None) -> LoadedEncoder:
    """On torch, not checked against anything: what makes the golden vectors."""
    backend, reader = _torch_parts(model, threads)
    return LoadedEncoder(model.passport, backend, reader, label)


def golden_vectors(model: TextModel, label: str) -> Matrix:
    """What the probes encode to. Raises GoldenMoved where the model puts out NaN or infinity."""
    encoder = from_model(model, label)
    vectors = encoder._encode(golden.PROBES)
    golden.check(vectors, lambda _: vectors, tolerance=model.passport.tolerance, label=label, backend="torch")
    return vectors


def prepare_backend(layout: Layout, stored: StoredEncoder, model: TextModel, label: str) -> None:
    """Make and check the export that later loads will use, while the model is in memory anyway.

    Raises:
        GoldenMoved, ModelUnusable: OpenVINO was asked for and is not exact enough, or cannot run the model. When
            it was nobody's choice, that is logged and later loads take torch.
    """
    chosen, asked_for = choose_backend(None)
    if chosen != "openvino":
        return
    try:
        if export_problem(layout, stored.passport) is not None:
            make_export(layout, model)
        _run_export(layout, stored, label, None)
    except (GoldenMoved, _ExportError) as error:
        if asked_for:
            raise (error.said(label) if isinstance(error, _ExportError) else error) from None
        write_json(_refusal_file(layout, stored.passport), _refusal_of(str(error)), layout.tmp)
        log.warning("encoder %s runs on torch, not on openvino: %s", label, error)
    else:
        _refusal_file(layout, stored.passport).unlink(missing_ok=True)


def _checked(stored: StoredEncoder, label: str, backend: Backend, reader: TextReader) -> LoadedEncoder:
    encoder = LoadedEncoder(stored.passport, backend, reader, label)
    encoder.check_golden(stored.golden(label))
    return encoder


def _torch_parts(model: TextModel, threads: int | None) -> tuple[Backend, TextReader]:
    return TorchBackend(model, threads), TextReader(model.tokenizer_json, model.passport)


def _load_source(layout: Layout, stored: StoredEncoder, label: str, name: str | None) -> TextModel:
    """The model from its source. Raises ModelUnusable if it is not the one that was registered."""
    source, options = open_source(Catalog(layout), stored.passport.fingerprint, label, name)
    model = load_text_model(source, options)
    found, expected = model.passport, stored.passport
    if found.weights != expected.weights:
        raise ModelUnusable(
            model=source.model,
            found=f"its weights changed since {label} was registered: digest {found.weights}, expected {expected.weights}",
            advice="Put the old weights back, or register what is there now under a name of its own.",
        )
    if found.fingerprint != expected.fingerprint:
        changed = ", ".join(found.differences(expected))
        raise ModelUnusable(
            model=source.model,
            found=f"it changed since {label} was registered ({changed}): fingerprint {found.fingerprint}, "
            f"expected {expected.fingerprint}",
            advice="Put the old files back, or register what is there now under a name of its own.",
        )
    return model


class _ExportError(Exception):
    """OpenVINO could not convert or run the model; becomes a ModelUnusable where OpenVINO was asked for."""

    def __init__(self, doing: str, error: Exception) -> None:
        super().__init__(f"OpenVINO could not {doing} it ({type(error).__name__})")

    def said(self, label: str) -> ModelUnusable:
        return ModelUnusable(model=label, found=str(self), advice="Use the torch backend.")


def make_export(layout: Layout, model: TextModel) -> None:
    try:
        write_export(layout, model)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        if isinstance(error, RaystoreError):
            raise
        raise _ExportError("convert", error) from error


def _open_openvino(
    layout: Layout, stored: StoredEncoder, label: str, threads: int | None, name: str | None
) -> LoadedEncoder:
    problem = export_problem(layout, stored.passport)
    if problem is not None:
        log.warning("the OpenVINO export of encoder %s is made again: %s", label, problem)
        make_export(layout, _load_source(layout, stored, label, name))
    return _run_export(layout, stored, label, threads)


def _run_export(layout: Layout, stored: StoredEncoder, label: str, threads: int | None) -> LoadedEncoder:
    passport, folder = stored.passport, export_folder(layout, stored.passport)
    try:
        backend = OpenVinoBackend(folder, threads)
        reader = TextReader((folder / "tokenizer.json").read_text(encoding="utf-8"), passport)
        return _checked(stored, label, backend, reader)
    except RuntimeError as error:  # OpenVINO raises nothing more precise
        if isinstance(error, RaystoreError):
            raise
        raise _ExportError("run", error) from error


def _refusal(layout: Layout, passport: Passport) -> str | None:
    """Why this version of OpenVINO was found unfit for this encoder at registration, if it was."""
    try:
        about = read_json(_refusal_file(layout, passport))
    except (OSError, ValueError):
        return None
    reason = str(about.get("reason"))
    return reason if about == _refusal_of(reason) else None


def _refusal_file(layout: Layout, passport: Passport) -> Path:
    return export_folder(layout, passport).with_name("openvino-refused.json")


def _refusal_of(reason: str) -> dict[str, str]:
    return {"openvino": version("openvino"), "reason": reason}
