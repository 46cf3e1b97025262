"""A map from one space of unit vectors into another, applied with NumPy alone and kept as safetensors.

    linear   unit(x W + b)                                one matrix product
    mlp      unit(x W + b + relu(x A + a) C)              two: W and A stand beside each other

What fitted it (`migrate/bridge`) folds means, scales and low ranks into these. A query of 384 numbers takes 11 to 32 us. Knows no
encoder, no store and no torch.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from raystore.errors import DimensionMismatch, InvalidVectors
from raystore.vectors import Matrix

MapKind = Literal["procrustes", "low-rank", "mlp"]
KINDS: tuple[MapKind, ...] = get_args(MapKind)

_ROWS = 4_096  # mapped at once: their hidden layer of 512 numbers takes 8 MiB


@dataclass(frozen=True, eq=False)
class VectorMap:
    """`weight` (d, m) and `bias` (m,); of kind mlp also `inner` (d, h), `inner_bias` (h,) and `outer` (h, m). All float32."""

    kind: MapKind
    weight: Matrix
    bias: Matrix
    inner: Matrix | None = None
    inner_bias: Matrix | None = None
    outer: Matrix | None = None

    @property
    def takes(self) -> int:
        """How long the vectors are that go in."""
        return int(self.weight.shape[0])

    @property
    def gives(self) -> int:
        return int(self.weight.shape[1])

    def apply(self, vectors: Matrix) -> Matrix:
        """The vectors in the other space.

        Args:
            vectors: (n, d) float32 unit rows, or one of d numbers, which becomes one row.

        Returns:
            (n, m) float32 unit rows, in the order given.

        Raises:
            DimensionMismatch: rows are not d long.
            InvalidVectors: a row came out without a direction.

        Cost: n d m multiply-adds, of kind mlp n (d m + d h + h m).
        """
        rows = np.asarray(vectors, dtype=np.float32)
        rows = rows[None, :] if rows.ndim == 1 else rows
        if rows.shape[1] != self.takes:
            raise DimensionMismatch(call="bridge", expected=self.takes, found=rows.shape[1])
        if len(rows) <= _ROWS:
            return self._apply(rows)
        found = np.empty((len(rows), self.gives), dtype=np.float32)
        for start in range(0, len(rows), _ROWS):
            found[start : start + _ROWS] = self._apply(rows[start : start + _ROWS])
        return found

    def _apply(self, rows: Matrix) -> Matrix:
        weight, bias = self._beside
        found = rows @ weight
        found += bias
        if self.outer is not None:
            m = self.gives
            hidden = np.maximum(found[:, m:], 0, out=found[:, m:])
            found = found[:, :m] + hidden @ self.outer
        norms = np.sqrt(np.einsum("nm,nm->n", found, found))
        if not (norms > 1e-9).all():  # NaN is not greater either
            bad = np.flatnonzero(~(norms > 1e-9))
            problems = [(int(i), "has no direction in the other space") for i in bad]
            raise InvalidVectors(call="bridge", n_vectors=len(rows), problems=problems)
        found /= norms[:, None]
        unit: Matrix = found
        return unit

    @cached_property
    def _beside(self) -> tuple[Matrix, Matrix]:
        """What every row is multiplied with first: one product, whatever the kind."""
        if self.inner is None or self.inner_bias is None:
            return self.weight, self.bias
        beside = np.concatenate([self.weight, self.inner], axis=1)
        return np.ascontiguousarray(beside), np.concatenate([self.bias, self.inner_bias])

    def pack(self) -> bytes:
        """The bytes of map.safetensors; the same map packs to the same bytes."""
        arrays = {
            "weight": self.weight, "bias": self.bias, "inner": self.inner, "inner_bias": self.inner_bias, "outer": self.outer
        }  # fmt: skip
        held = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items() if array is not None}
        data: bytes = save_safetensors(held, metadata={"kind": self.kind})
        return data


def unpack(data: bytes, kind: str) -> VectorMap:
    """The map in the bytes of `pack`.

    Raises:
        ValueError: they hold no map of that kind, or shapes that do not fit together.
    """
    try:
        held: dict[str, npt.NDArray[np.float32]] = load_safetensors(data)
    except SafetensorError:
        raise ValueError("no safetensors") from None
    expected = {"weight", "bias", *(("inner", "inner_bias", "outer") if kind == "mlp" else ())}
    if kind not in KINDS or held.keys() != expected or any(a.dtype != np.float32 for a in held.values()):
        raise ValueError(f"no map of kind '{kind[:20]}'")
    d, m = held["weight"].shape if held["weight"].ndim == 2 else (0, 0)
    shapes = {"weight": (d, m), "bias": (m,)}
    if kind == "mlp":
        h = held["inner_bias"].size
        shapes |= {"inner": (d, h), "inner_bias": (h,), "outer": (h, m)}
    if not d or {name: array.shape for name, array in held.items()} != shapes:
        raise ValueError("shapes that do not fit together")
    return VectorMap(kind, **held)


def digest_of_map(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
