"""A map from one space into another: what it puts out, what it costs, how it is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.encoders.vector_map import VectorMap, unpack
from raystore.errors import DimensionMismatch, InvalidVectors
from raystore.vectors import Matrix

from .spaces import clustered


def made(kind: str, d: int = 6, m: int = 4, h: int = 5) -> VectorMap:
    rng = np.random.default_rng(0)

    def some(*shape: int) -> Matrix:
        return rng.normal(size=shape).astype(np.float32)

    more = (some(d, h), some(h), some(h, m)) if kind == "mlp" else ()
    return VectorMap(kind, some(d, m), some(m), *more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["procrustes", "low-rank", "mlp"])
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9))
def test_rows_come_out_one_by_one_as_they_come_out_together(kind: str, n: int) -> None:
    map_, rows = made(kind), clustered(n, 6)
    together = map_.apply(rows)
    assert (together.dtype, together.shape) == (np.float32, (n, 4))
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.concatenate([map_.apply(row) for row in rows]), together, atol=1e-6)


def test_more_rows_than_one_block_come_out_in_their_order() -> None:
    map_, rows = made("mlp"), clustered(9_000, 6)
    np.testing.assert_allclose(
        map_.apply(rows)[[0, 4_095, 4_096, 8_999]], map_.apply(rows[[0, 4_095, 4_096, 8_999]]), atol=1e-6
    )


@pytest.mark.parametrize(("kind", "products"), [("low-rank", 1), ("mlp", 2)])
def test_a_linear_map_is_one_matrix_product_and_the_mlp_two(kind: str, products: int) -> None:
    counted = 0

    class Counting(np.ndarray):  # type: ignore[type-arg]  # counts the products, and is otherwise the array it views
        def __array_ufunc__(self, ufunc, method, *inputs, **options):  # type: ignore[no-untyped-def]
            nonlocal counted
            counted += ufunc is np.matmul
            plain = [np.asarray(i) for i in inputs]
            out = tuple(np.asarray(o) for o in options.pop("out", ()))
            found = getattr(ufunc, method)(*plain, **({"out": out} if out else {}), **options)
            return found.view(Counting) if isinstance(found, np.ndarray) else found

    map_ = made(kind)
    for array in (*map_._beside, map_.outer):
        assert array is None or array.flags.c_contiguous
    watched = VectorMap(map_.kind, *(None if a is None else a.view(Counting) for a in _arrays(map_)))  # type: ignore[arg-type]
    watched.__dict__["_beside"] = tuple(a.view(Counting) for a in map_._beside)
    watched.apply(clustered(1, 6))
    assert counted == products


@pytest.mark.parametrize("kind", ["procrustes", "low-rank", "mlp"])
def test_a_map_is_kept_to_the_last_bit(kind: str) -> None:
    map_ = made(kind)
    data = map_.pack()
    found = unpack(data, kind)
    assert (found.kind, found.takes, found.gives, found.pack()) == (kind, 6, 4, data)
    assert (found.apply(clustered(3, 6)) == map_.apply(clustered(3, 6))).all()


@pytest.mark.parametrize(
    ("kind", "said"),
    [("mlp", "no map of kind 'mlp'"), ("other", "no map of kind 'other'"), ("no", "no safetensors")],
)
def test_bytes_that_hold_no_such_map_are_refused(kind: str, said: str) -> None:
    data = made("low-rank").pack() if kind != "no" else b"abc"
    with pytest.raises(ValueError, match=f"^{said}$"):
        unpack(data, kind)
    wrong = VectorMap("low-rank", np.ones((3, 2), np.float32), np.ones(3, np.float32))
    with pytest.raises(ValueError, match="shapes that do not fit together"):
        unpack(wrong.pack(), "low-rank")


def test_a_row_that_loses_its_direction_is_said_and_so_is_a_wrong_length() -> None:
    flat = VectorMap("low-rank", np.zeros((2, 2), np.float32), np.zeros(2, np.float32))
    with pytest.raises(InvalidVectors) as lost:
        flat.apply(np.eye(2, dtype=np.float32))
    assert lost.value.problems == [(0, "has no direction in the other space"), (1, "has no direction in the other space")]
    with pytest.raises(DimensionMismatch) as wrong:
        flat.apply(np.ones((1, 3), np.float32))
    assert (wrong.value.expected, wrong.value.found) == (2, 3)


def _arrays(map_: VectorMap) -> tuple[Matrix | None, ...]:
    return map_.weight, map_.bias, map_.inner, map_.inner_bias, map_.outer
