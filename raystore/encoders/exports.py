"""Converted graphs kept as files: made once, checked at each load, made again when wrong. A cache; it may be deleted.

One folder a backend: the graphs, their stems named after the modality, the tokenizer where texts are taken, and a
manifest with everyone's digest and with how close the graphs came to the reference. Knows no format: an
`ExportedBackend` writes and reads its own files.
"""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from raystore.encoders.backends import ExportedBackend
from raystore.encoders.model import Model, example_inputs
from raystore.encoders.passport import Modality, Passport
from raystore.encoders.source import file_digest
from raystore.errors import RaystoreError
from raystore.layout import Layout, disk_full_is_said, read_json, staging, sync, sync_tree, write_json
from raystore.vectors import Matrix

TOKENIZER = "tokenizer.json"
MANIFEST = "manifest.json"
_TIE = 1e-6
OVERLAP = 0.99  # of the 10 nearest; below it another encoder, whatever the cosines

# Converters and runtimes raise whatever Python's own machinery meets inside them. What is no one's failure to convert
# (KeyboardInterrupt, a full disk) is not in here.
_FOREIGN = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, AssertionError, ImportError, ArithmeticError)


class ExportFailed(Exception):
    """A backend's library could not do its work. `doing` is 'convert' or 'run'; of its error only the class is told."""

    def __init__(self, backend: str, doing: str, error: Exception) -> None:
        super().__init__(f"{backend} could not {doing} it ({type(error).__name__})")
        self.backend = backend
        self.doing = doing


class Equivalence(NamedTuple):
    """How close a backend's vectors of some rows are to the reference's."""

    rows: int
    worst_cosine: float
    overlap_at_10: float
    precision: str = "auto"  # what the backend was asked to compute in

    @classmethod
    def of(cls, reference: Matrix, found: Matrix) -> Equivalence:
        """Of two (n, d) matrices of unit rows, row by row and neighbourhood by neighbourhood."""
        return cls(len(reference), worst_cosine(reference, found), neighbour_overlap(reference, found))

    def holds(self, tolerance: float) -> bool:
        """Whether it is the same encoder. NaN is not."""
        return self.worst_cosine >= tolerance and self.overlap_at_10 >= OVERLAP

    @property
    def said(self) -> str:
        return (
            f"over {self.rows:,} rows the worst cosine to torch fp32 is {self.worst_cosine:.6f}, "
            f"and {self.overlap_at_10:.4f} of the 10 nearest rows are the same"
        )


def worst_cosine(a: Matrix, b: Matrix) -> float:
    """The lowest cosine between row i of `a` and row i of `b`, both (n, d): at most 1, NaN where one is not finite or zero.

    1.0 for no rows.
    """
    left, right = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.einsum("nd,nd->n", left, right) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))
    # np.minimum keeps a NaN, Python's min would make a perfect 1.0 of it.
    return float(np.minimum(1.0, cosines.min())) if len(cosines) else 1.0


def neighbour_overlap(a: Matrix, b: Matrix, k: int = 10) -> float:
    """The mean share of each row's k nearest by cosine in `b` that are among its k nearest in `a`, (n, d) unit rows.

    A row is not its own neighbour; with fewer than k others, all of them count. Rows that `a` itself holds equally near
    (within 1e-6: the same text twice, or cut to the same tokens) are each as good as the other. 1.0 for fewer than two rows.
    Cost: two (n, n) matrices, n*n*d multiply-adds each; for samples.
    """
    n = len(a)
    k = min(k, n - 1)
    if k < 1:
        return 1.0
    mine, theirs = _scores(a), _scores(b)
    last = np.partition(mine, n - k, axis=1)[:, n - k]
    nearest = np.argpartition(theirs, n - k, axis=1)[:, n - k :]
    return float((np.take_along_axis(mine, nearest, axis=1) >= last[:, None] - _TIE).mean())


def _scores(matrix: Matrix) -> Matrix:
    """(n, n) cosines, a row's with itself lowest of all."""
    scores: Matrix = matrix @ matrix.T
    np.fill_diagonal(scores, -np.inf)
    return scores


def export_folder(layout: Layout, fingerprint: str, backend_name: str) -> Path:
    return layout.encoder(fingerprint) / "exports" / backend_name


def export_problem(layout: Layout, passport: Passport, backend: type[ExportedBackend]) -> str | None:
    """Why the export cannot be used as it lies there, or None. Reads every byte of it: 0.1 s for 90 MB."""
    folder = export_folder(layout, passport.fingerprint, backend.name)
    try:
        about = read_json(folder / MANIFEST)
    except FileNotFoundError:
        return "there is none"
    except (ValueError, OSError):
        return "its manifest cannot be read"
    digests = about.get("files") if isinstance(about, dict) else None
    if not isinstance(digests, dict) or not all(Path(name).name == name for name in digests):
        return "its manifest cannot be read"
    if about.get("fingerprint") != passport.fingerprint:
        return "it was made of another encoder"
    if about.get("backend") != backend.name:
        return "it was made for another backend"
    for modality in passport.modalities:
        if not any(name.startswith(f"{modality}.") for name in digests):
            return f"it holds no graph for {modality}s"
    if passport.text is not None and TOKENIZER not in digests:
        return f"it holds no {TOKENIZER}"
    for name, digest in digests.items():
        try:
            found = file_digest(folder / name)
        except OSError:
            return f"{name} is missing"
        if digest != found:
            return f"{name} is not what the manifest says"
    return None


def export_precisions(layout: Layout, passport: Passport, backend: type[ExportedBackend]) -> tuple[str, ...]:
    """What a sound export may be run in: what it was found exact enough in, then what is stricter still."""
    about = read_json(export_folder(layout, passport.fingerprint, backend.name) / MANIFEST)
    found = (about.get("equivalence") or {}).get("precision")
    known = backend.precisions
    return known[known.index(found) :] if found in known else known


def write_export(
    layout: Layout,
    model: Model,
    backend: type[ExportedBackend],
    check: Callable[[Path], Equivalence] | None = None,
) -> Path:
    """The export's folder: every graph of the model converted, in place of whatever was there.

    `check` is handed the staged folder, whole but for its manifest; what it returns is kept in the manifest, what it
    raises leaves the old export where it was. The folder is synced and renamed whole: readers see the old one or the
    new one, and racing writers leave one of theirs.

    Raises:
        ExportFailed: the library could not convert it.
        DiskFull.

    Cost: 3 to 6 s for all-MiniLM-L6-v2, and its 90 MB of disk.
    """
    from raystore import __version__

    passport = model.passport
    folder = export_folder(layout, passport.fingerprint, backend.name)
    with disk_full_is_said(folder.parent, f"writing an export for {backend.name}"), staging(layout.tmp) as stage:
        for modality in passport.modalities:
            _convert(model, modality, backend, stage)
        if passport.text is not None:
            assert model.tokenizer_json is not None, "a model of texts comes with its tokenizer"
            (stage / TOKENIZER).write_text(model.tokenizer_json, encoding="utf-8")
        measured = check(stage) if check is not None else None
        manifest = {
            "backend": backend.name,
            "equivalence": measured._asdict() if measured is not None else None,
            "files": {path.name: file_digest(path) for path in sorted(stage.iterdir())},
            "fingerprint": passport.fingerprint,
            "raystore": __version__,
            backend.package: backend.version(),
        }
        write_json(stage / MANIFEST, manifest, layout.tmp)
        sync_tree(stage)
        replace_folder(stage, folder, layout.tmp)
    return folder


def _convert(model: Model, modality: Modality, backend: type[ExportedBackend], folder: Path) -> None:
    try:
        backend.export(model.graphs[modality], example_inputs(model.passport, modality), folder, modality)
    except RaystoreError:
        raise
    except _FOREIGN as error:
        raise ExportFailed(backend.name, "convert", error) from error


def replace_folder(stage: Path, folder: Path, tmp: Path) -> None:
    """Move `stage` to `folder`; an older one is moved out first, so no reader sees half of each."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(100):
        try:
            stage.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            old = tmp / uuid.uuid4().hex
            try:
                folder.rename(old)
            except FileNotFoundError:  # another writer moved it first
                continue
            shutil.rmtree(old, ignore_errors=True)
            continue
        sync(folder.parent)
        return
    raise TimeoutError(f"other processes keep replacing '{folder}'")
