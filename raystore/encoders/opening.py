"""From a fingerprint to an encoder in memory: chooses the backend, checks weights, exports and golden vectors.

`open_encoder` is what a worker calls, with nothing but the store's layout and a fingerprint. Cost of a load: about
a second from a valid export, 3 to 6 s through torch. Knows no collection and no Ray.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from raystore.encoders import golden
from raystore.encoders.backends import ExportedBackend, choose_backend, exported_backends
from raystore.encoders.bridged import is_bridged, open_bridged
from raystore.encoders.equivalence import NotEquivalent, measure, sample_rows
from raystore.encoders.exports import (
    TOKENIZER,
    Equivalence,
    ExportFailed,
    export_folder,
    export_precisions,
    export_problem,
    write_export,
)
from raystore.encoders.load import load_registered
from raystore.encoders.loaded import LoadedEncoder
from raystore.encoders.model import Model
from raystore.encoders.openvino_backend import INT8_PRECISION, OpenVinoBackend
from raystore.encoders.passport import Passport
from raystore.encoders.records import StoredEncoder, graph_digest, read_encoder
from raystore.encoders.torch_backend import Precision, TorchBackend
from raystore.errors import GoldenMoved, InvalidArguments, ModelUnusable, RaystoreError
from raystore.layout import FP12, Layout, read_json, write_json

log = logging.getLogger("raystore")

Device = Literal["cpu", "cuda"]
_PRECISIONS: dict[str, Precision] = {"torch-fp32": "fp32", "torch-bf16": "bf16", "torch-fp16": "fp16"}


def open_encoder(
    layout: Layout,
    fingerprint: str,
    *,
    threads: int | None = None,
    backend: str | None = None,
    name: str | None = None,
) -> LoadedEncoder:
    """The encoder of a full fingerprint, in memory and golden-checked; `threads` None is every core.

    Without a backend asked for (here or by RAYSTORE_BACKEND), torch runs where there is a GPU, else OpenVINO where
    it is installed and exact enough, else torch; a choice that could not be kept is logged.

    Raises:
        EncoderNotFound, ModelUnusable (weights gone or changed), GoldenMoved, ExtraNotInstalled.
    """
    stored = read_encoder(layout, fingerprint)
    label = stored.passport.label(name) if name else fingerprint[:FP12]
    if is_bridged(stored.passport):
        return open_bridged(stored, label, lambda host: open_encoder(layout, host, threads=threads, backend=backend))
    if stored.passport.equivalence != "torch-fp32":
        return _open_derived(layout, stored, label, threads, backend)
    chosen, asked_for = choose_backend(backend)
    if chosen == "torch":
        return open_torch(layout, stored, label, threads=threads, name=name)
    exported = exported_backends()[chosen]
    refused = None if asked_for else refusal(layout, stored.passport, exported)
    if refused is None:
        try:
            return _open_exported(layout, stored, label, exported, threads, name)
        except (GoldenMoved, ExportFailed, NotEquivalent) as error:
            if asked_for:
                raise _said(error, label) from None
            refused = str(error)  # not kept: another machine may do better
    log.warning("encoder %s runs on torch, not on %s: %s", label, chosen, refused)
    return open_torch(layout, stored, label, threads=threads, name=name)


def open_torch(
    layout: Layout,
    stored: StoredEncoder,
    label: str,
    *,
    threads: int | None = None,
    device: Device | None = None,
    name: str | None = None,
) -> LoadedEncoder:
    """On torch, golden-checked; its weights are read and digested again."""
    model = load_registered(layout, stored, label, name)
    return _checked(stored, from_model(model, label, threads=threads, device=device))


def from_model(
    model: Model,
    label: str,
    *,
    passport: Passport | None = None,
    threads: int | None = None,
    device: Device | None = None,
    precision: Precision = "fp32",
) -> LoadedEncoder:
    """On torch, not checked against anything: what makes golden vectors. `passport`: of another precision of the model."""
    backends = {
        modality: TorchBackend(graph, threads=threads, device=device, precision=precision)
        for modality, graph in model.graphs.items()
    }
    return LoadedEncoder(passport or model.passport, backends, label, tokenizer_json=model.tokenizer_json, threads=threads)


def from_folder(
    folder: Path,
    passport: Passport,
    backend: type[ExportedBackend],
    label: str,
    threads: int | None = None,
    precision: str = "auto",
) -> LoadedEncoder:
    """From the files of an export, not checked. Raises ExportFailed where the backend cannot run them."""
    with _running(backend):
        backends = {
            modality: backend(folder, modality, threads=threads, precision=precision) for modality in passport.modalities
        }
    tokenizer = (folder / TOKENIZER).read_text(encoding="utf-8") if passport.text else None
    return LoadedEncoder(passport, backends, label, tokenizer_json=tokenizer, threads=threads)


def golden_vectors(encoder: LoadedEncoder) -> golden.Golden:
    """What the probes encode to. Raises GoldenMoved where the model puts out NaN or infinity."""
    found = {m: encoder.encode_unchecked(golden.probes(m)) for m in encoder.passport.modalities}
    for modality, rows in found.items():
        golden.check(
            {modality: rows},
            lambda _, rows=rows: rows,  # type: ignore[misc]
            tolerance=encoder.passport.tolerance,
            label=encoder.label,
            backend=encoder.backend,
        )
    return found


def prepare_backend(layout: Layout, stored: StoredEncoder, model: Model, label: str) -> None:
    """Make and check the export that later loads will use, while the model is in memory anyway.

    Raises:
        GoldenMoved, ModelUnusable: a backend was asked for and is not exact enough, or cannot run the model. When
            it was nobody's choice, that is logged and later loads take torch.
    """
    chosen, asked_for = choose_backend(None)
    if chosen == "torch":
        return
    backend = exported_backends()[chosen]
    try:
        if export_problem(layout, stored.passport, backend) is not None:
            make_export(layout, model, backend, label)
        _run_export(layout, stored, label, backend, None)
    except (GoldenMoved, ExportFailed, NotEquivalent) as error:
        if asked_for:
            raise _said(error, label) from None
        log.warning("encoder %s runs on torch, not on %s: %s", label, chosen, error)
        write_json(_refusal_file(layout, stored.passport, backend), _refusal_of(backend, str(error)), layout.tmp)


def make_export(layout: Layout, model: Model, backend: type[ExportedBackend], label: str) -> Path:
    """The folder of the export, whose rows were compared with torch's before it was put in place.

    Raises:
        ExportFailed: it could not be converted. NotEquivalent: it puts out other vectors.
    """

    def check(folder: Path) -> Equivalence:
        reference = sample_rows(from_model(model, label, device="cpu"))
        for precision in backend.precisions:
            with _running(backend):
                found = measure(reference, from_folder(folder, model.passport, backend, label, precision=precision))
            if found.holds(model.passport.tolerance):
                return found._replace(precision=precision)
        raise NotEquivalent(backend.name, found)

    return write_export(layout, model, backend, check=check)


def _open_exported(
    layout: Layout,
    stored: StoredEncoder,
    label: str,
    backend: type[ExportedBackend],
    threads: int | None,
    name: str | None,
) -> LoadedEncoder:
    problem = export_problem(layout, stored.passport, backend)
    if problem is not None:
        log.warning("the %s export of encoder %s is made again: %s", backend.name, label, problem)
        make_export(layout, load_registered(layout, stored, label, name), backend, label)
    return _run_export(layout, stored, label, backend, threads)


def _run_export(
    layout: Layout, stored: StoredEncoder, label: str, backend: type[ExportedBackend], threads: int | None
) -> LoadedEncoder:
    """In the precision that was found exact enough; on a processor that computes otherwise, in a stricter one."""
    folder = export_folder(layout, stored.passport.fingerprint, backend.name)
    *looser, strictest = export_precisions(layout, stored.passport, backend)
    with _running(backend):
        for precision in looser:
            try:
                return _checked(stored, from_folder(folder, stored.passport, backend, label, threads, precision))
            except GoldenMoved as error:
                log.warning("encoder %s is not exact enough in precision '%s' here: %s", label, precision, error)
        return _checked(stored, from_folder(folder, stored.passport, backend, label, threads, strictest))


def _open_derived(
    layout: Layout, stored: StoredEncoder, label: str, threads: int | None, backend: str | None
) -> LoadedEncoder:
    """An encoder that is another precision of one in this store."""
    passport = stored.passport
    runs_on = passport.equivalence.partition("-")[0]
    if backend is not None and backend != runs_on:
        problem = (
            f"encoder {label} is of the class {passport.equivalence}, which runs on {runs_on}, not on '{backend[:40]}'"
        )
        raise InvalidArguments(call="load an encoder", problems=[problem])
    if runs_on == "torch":
        base = read_encoder(layout, str(stored.card.derived_from))
        model = load_registered(layout, base, str(stored.card.derived_from)[:FP12], None)
        precision = _PRECISIONS[passport.equivalence]
        return _checked(stored, from_model(model, label, passport=passport, threads=threads, precision=precision))
    folder = stored.folder / "graph"
    tokenizer = folder / TOKENIZER
    sound = graph_digest(folder) == passport.weights
    if sound and passport.text is not None:
        text = tokenizer.read_text(encoding="utf-8") if tokenizer.is_file() else ""
        sound = hashlib.sha256(text.encode()).hexdigest() == passport.text.tokenizer
    if not sound:
        raise ModelUnusable(
            model=label,
            found=f"its graph in '{folder}' is not the one that was registered",
            advice="Restore that folder from a backup, or derive the encoder again under a name of its own.",
        )
    try:
        with _running(OpenVinoBackend):
            return _checked(stored, from_folder(folder, passport, OpenVinoBackend, label, threads, INT8_PRECISION))
    except ExportFailed as error:
        raise _said(error, label) from None


@contextmanager
def _running(backend: type[ExportedBackend]) -> Iterator[None]:
    """What the backend's library raises while it reads or runs a graph becomes ExportFailed; raystore's own errors pass."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, RaystoreError):
            raise
        raise ExportFailed(backend.name, "run", error) from error


def _checked(stored: StoredEncoder, encoder: LoadedEncoder) -> LoadedEncoder:
    encoder.check_golden(stored.golden(encoder.label))
    return encoder


def _said(error: GoldenMoved | ExportFailed | NotEquivalent, label: str) -> RaystoreError:
    if isinstance(error, GoldenMoved):
        return error
    return ModelUnusable(model=label, found=str(error), advice="Use the torch backend.")


def refusal(layout: Layout, passport: Passport, backend: type[ExportedBackend]) -> str | None:
    """Why this version of the backend was found unfit for this encoder at registration, if it was."""
    try:
        about = read_json(_refusal_file(layout, passport, backend))
    except (OSError, ValueError):
        return None
    reason = str(about.get("reason"))
    return reason if about == _refusal_of(backend, reason) else None


def _refusal_file(layout: Layout, passport: Passport, backend: type[ExportedBackend]) -> Path:
    return export_folder(layout, passport.fingerprint, backend.name).with_name(f"{backend.name}-refused.json")


def _refusal_of(backend: type[ExportedBackend], reason: str) -> dict[str, str]:
    return {"version": backend.version(), "reason": reason}
