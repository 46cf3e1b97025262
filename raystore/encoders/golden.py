"""Golden vectors: what fixed inputs must encode to, kept beside the passport and re-encoded at every load.

An encoder whose output moved (another library version, a damaged file, a lossy backend) is noticed before
it writes a vector. Cost of a check: 16 short texts, tens of milliseconds, or a dozen
pictures. Knows no model.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from raystore.encoders.items import Item
from raystore.encoders.passport import Modality, Passport
from raystore.errors import GoldenMoved, ModelUnusable
from raystore.vectors import Matrix

Golden = Mapping[Modality, Matrix]

# Never edited: the golden vectors of every registered encoder belong to exactly these texts, in this order.
PROBES: tuple[str, ...] = (
    "hello world",
    "My card never arrived and I would like a replacement.",
    "a",
    "",
    "THE QUICK BROWN FOX jumps Over The Lazy DOG",
    "3.14159 2026-11-20 +44 20 7946 0958 0x5F3C 1e-12 99%",
    "def mean(xs: list[float]) -> float:\n    return sum(xs) / len(xs)  # ZeroDivisionError if empty",
    "  leading,   inner\t\tand trailing\n\nwhitespace   ",
    "Die Straße über den Fluß; l'été à Gênes; señor Núñez; Øresund; İstanbul",
    "机器学习模型把文本变成向量。東京は日本の首都です。",
    "Привет, мир! Γειά σου Κόσμε! مرحبا بالعالم שלום עולם",
    "I love it \U0001f600\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f",
    "e\u0301 versus \u00e9, \ufb01 versus fi, \u2460 versus 1, zero\u200bwidth, \ufffd",
    "https://example.org/a/b?c=d&e=f#g <b>bold</b> {'key': [1, 2]} foo_bar.baz@example.org !!!???",
    "pneumonoultramicroscopicsilicovolcanoconiosis" * 4,
    " ".join(f"sentence {i} of a long text that runs well past the limit of tokens." for i in range(600)),
)


def probes(modality: Modality) -> Sequence[Item]:
    """What the golden vectors of a modality belong to: the texts above, or the files of `image_probes.py`."""
    if modality == "text":
        return PROBES
    from raystore.encoders.image_probes import image_probes

    return image_probes()


def pack(vectors: Golden, fingerprint: str) -> bytes:
    """The bytes of golden.safetensors."""
    arrays = {modality: np.ascontiguousarray(rows) for modality, rows in vectors.items()}
    data: bytes = save_safetensors(arrays, metadata={"fingerprint": fingerprint})
    return data


def read(path: Path, sha256: str, passport: Passport, label: str) -> Golden:
    """The golden vectors (number of probes, dim) of each modality.

    Raises:
        ModelUnusable: the file is missing or is not the one whose digest was recorded.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    found: dict[Modality, Matrix] = {}
    if hashlib.sha256(data).hexdigest() == sha256:
        with contextlib.suppress(SafetensorError):
            found = load_safetensors(data)
    shapes = {modality: (len(probes(modality)), passport.dim) for modality in passport.modalities}
    if {modality: rows.shape for modality, rows in found.items()} != shapes:
        raise ModelUnusable(
            model=label,
            found=f"its golden vectors '{path}' are not those it was registered with",
            advice="Restore that folder from a backup; without them nobody can tell whether the encoder moved.",
        )
    return found


def check(
    expected: Golden, encode: Callable[[Sequence[Item]], Matrix], *, tolerance: float, label: str, backend: str
) -> float:
    """The worst cosine between the golden vectors and what `encode` makes of the probes now.

    Raises:
        GoldenMoved: one is below `tolerance`, not finite, or of another dimension; `worst_input` counts from 0.
    """
    worst_of_all = 1.0
    for modality, rows in expected.items():
        found = np.asarray(encode(probes(modality)), dtype=np.float64)
        if found.shape != rows.shape:
            cosines = np.full(len(rows), np.nan)
        else:
            with np.errstate(all="ignore"):
                lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(rows.astype(np.float64), axis=1)
                cosines = np.einsum("nd,nd->n", found, rows.astype(np.float64)) / lengths
        worst = int(np.argmin(np.where(np.isfinite(cosines), cosines, -np.inf)))
        cosine = float(min(cosines[worst], 1.0)) if np.isfinite(cosines[worst]) else float("nan")
        if not cosine >= tolerance:
            raise GoldenMoved(
                encoder=label, backend=backend, modality=modality, worst_input=worst, cosine=cosine, tolerance=tolerance
            )
        worst_of_all = min(worst_of_all, cosine)
    return worst_of_all
