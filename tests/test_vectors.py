from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from raystore.errors import DimensionMismatch, InvalidVectors, PassportMismatch
from raystore.vectors import as_unit_rows, check_fingerprint, mark


def test_rows_become_unit_rows() -> None:
    np.testing.assert_allclose(as_unit_rows([[3, 4], [0, -2]], 2, "log"), [[0.6, 0.8], [0, -1]], rtol=1e-6)
    assert as_unit_rows([3, 4], 2, "log").shape == (1, 2)
    assert as_unit_rows(np.array([[3, 4]], np.float64), 2, "log").dtype == np.float32
    assert as_unit_rows(np.empty((0, 2)), 2, "log").shape == (0, 2)


def test_what_was_given_is_left_as_it_was() -> None:
    given = np.array([[3, 4]], np.float32)
    as_unit_rows(given, 2, "log")
    assert given.tolist() == [[3, 4]]


sane = st.floats(-1e3, 1e3, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=sane))
def test_unit_rows_have_length_one_and_are_kept_bit_for_bit(matrix: np.ndarray) -> None:
    matrix[:, 0] += np.where((matrix == 0).all(axis=1), np.float32(1), np.float32(0))
    once = as_unit_rows(matrix, matrix.shape[1], "log")
    np.testing.assert_allclose(np.linalg.norm(once.astype(np.float64), axis=1), 1, atol=1e-6)
    assert as_unit_rows(once, matrix.shape[1], "log").tobytes() == once.tobytes()
    assert as_unit_rows(once.tolist(), matrix.shape[1], "log").tobytes() == once.tobytes()


def test_every_unusable_row_is_named() -> None:
    rows = [[1, 0], [0, 0], [np.nan, 1], [1, np.inf], [1e300, 1], [0, 1], [-np.inf, np.nan]]
    with pytest.raises(InvalidVectors) as refused:
        as_unit_rows(rows, 2, "search")
    assert str(refused.value) == (
        "search: 5 of 7 vectors are unusable: vector 1 is zero; vector 2 holds NaN or infinity; "
        "vector 3 holds NaN or infinity; vector 4 holds NaN or infinity; vector 6 holds NaN or infinity."
    )


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("hello", "is not a list of numbers"),
        ([[1, 2], [3]], "is not a list of numbers"),
        ({"a": 1}, "is not a list of numbers"),
        ([["a", "b"]], "is not a list of numbers"),
        ([1 + 2j, 3], "is not a list of numbers"),
        (5, "has 0 axes, expected 1 or 2"),
        (np.ones((1, 2, 3)), "has 3 axes, expected 1 or 2"),
    ],
)
def test_what_is_no_matrix_is_refused(given: object, problem: str) -> None:
    with pytest.raises(InvalidVectors) as refused:
        as_unit_rows(given, 2, "search")
    assert str(refused.value) == f"search: 1 of 1 vectors are unusable: vector 0 {problem}."


@pytest.mark.parametrize(("given", "found"), [([1, 2, 3], 3), ([[1]], 1), ([], 0), (np.empty((0, 5)), 5)])
def test_another_dimension_is_refused(given: object, found: int) -> None:
    with pytest.raises(DimensionMismatch) as refused:
        as_unit_rows(given, 2, "search")
    assert str(refused.value) == f"search: expected vectors of 2 numbers, found {found}."


def test_marked_vectors_remember_their_encoder() -> None:
    vectors = mark(np.ones((3, 2), np.float32), "ab12")
    assert vectors.fingerprint == "ab12"
    assert vectors[:1].fingerprint == vectors[1].fingerprint == vectors.copy().fingerprint == "ab12"
    assert np.ones(3).view(type(vectors)).fingerprint is None


def test_marking_shares_the_memory() -> None:
    matrix = np.ones((3, 2), np.float32)
    assert np.shares_memory(mark(matrix, "ab12"), matrix)


def test_vectors_of_another_encoder_are_refused_and_unmarked_ones_pass() -> None:
    vectors = mark(np.ones((1, 2), np.float32), "cd34")
    check_fingerprint(np.ones((1, 2)), "ab12", "the head", "Encode again.")
    check_fingerprint(vectors, "cd34", "the head", "Encode again.")
    with pytest.raises(PassportMismatch) as refused:
        check_fingerprint(vectors[0], "ab12", "the head", "Encode again.")
    assert str(refused.value) == "the head expects ab12, but was given cd34. Encode again."


@pytest.mark.parametrize("protocol", [2, 5])
def test_the_mark_is_not_lost_between_processes(protocol: int) -> None:
    vectors = mark(np.arange(12, dtype=np.float32).reshape(4, 3), "ab12")
    for sent in (vectors, vectors[::2], vectors[0], np.ones(3, np.float32).view(type(vectors))):
        arrived = pickle.loads(pickle.dumps(sent, protocol))
        np.testing.assert_array_equal(arrived, sent)
        assert arrived.fingerprint == sent.fingerprint
        assert type(arrived) is type(sent)


def test_what_arithmetic_makes_of_vectors_is_no_encoders_vectors() -> None:
    a, b = mark(np.eye(2, dtype=np.float32), "a"), mark(np.eye(2, dtype=np.float32), "b")
    for found in (a + b, a * 2, np.add(a, 1), a.mean(axis=0)):
        assert getattr(found, "fingerprint", None) is None
    assert (a[:1].fingerprint, a.copy().fingerprint, a[0].fingerprint) == ("a", "a", "a")
