"""What is asked for, from liked, unliked and many rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.errors import DimensionMismatch, InvalidArguments, InvalidVectors, ItemNotFound, PassportMismatch
from raystore.index.search.question import check_given, decayed_mean, profile, question, rocchio
from raystore.vectors import Vectors, mark

from .conftest import DIM, FINGERPRINT, OTHER, World, clustered, unit


class Held:
    """Rows by id in memory, in place of a collection: what question.py reads is a vector and a time an id."""

    def __init__(self, vectors: np.ndarray, times: list[datetime | None] | None = None) -> None:
        self.vectors = vectors
        self.times = times or [None] * len(vectors)

    def vectors_of(self, ids: list[str], fingerprint: str) -> Vectors:
        return mark(self.vectors[[int(id_) for id_ in ids]], fingerprint)

    def to_arrow(self, columns: list[str] | None = None, where: str | None = None) -> pa.Table:
        return pa.table(
            {"id": [str(i) for i in range(len(self.times))], "time": pa.array(self.times, pa.timestamp("us", "UTC"))}
        )


def ask(held: Held, base: object, like: list[str], unlike: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    vectors, without = question(held, FINGERPRINT, base, like, unlike, "search")
    return np.asarray(vectors), without


def test_without_examples_the_question_is_what_was_given() -> None:
    given = [[3.0, 4.0]]
    assert question(Held(np.eye(2)), FINGERPRINT, given, [], [], "search") == (given, ())


def test_liked_rows_pull_and_unliked_rows_push_as_rocchio_says() -> None:
    held = Held(np.eye(4, dtype=np.float32))
    found, without = ask(held, [[1.0, 0, 0, 0]], ["1", "2"], ["3"])
    expected = np.array([[1.0, 0.75 / 2, 0.75 / 2, -0.15]])
    np.testing.assert_allclose(found, unit(expected), atol=1e-6)
    assert without == ("1", "2", "3")
    assert mark(found, FINGERPRINT).fingerprint == FINGERPRINT


def test_every_query_moves_the_same_way() -> None:
    held = Held(np.eye(4, dtype=np.float32))
    base = clustered(5, 1, 4)
    together, _ = ask(held, base, ["1"], ["2"])
    np.testing.assert_array_equal(together, np.concatenate([ask(held, row, ["1"], ["2"])[0] for row in base]))


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(0, 6))
def test_the_order_of_the_examples_does_not_matter(seed: int, liked: int, unliked: int) -> None:
    rng = np.random.default_rng(seed)
    base, like, unlike = (unit(rng.normal(size=(n, DIM)) + 1e-9) for n in (1, liked, max(1, unliked)))
    moved = rocchio(base, like, unlike[:unliked])
    shuffled = rocchio(base, rng.permutation(like), rng.permutation(unlike[:unliked]))
    np.testing.assert_allclose(moved, shuffled, atol=1e-6)


def test_items_that_cancel_out_say_so() -> None:
    held = Held(np.array([[1.0, 0], [-1.0, 0]], dtype=np.float32))
    with pytest.raises(InvalidArguments) as nothing:
        ask(held, None, ["0", "1"], [])
    assert str(nothing.value) == "search: what is asked, liked and unliked cancel out: nothing is left to search by."


def test_a_base_that_cannot_be_compared_is_refused() -> None:
    held = Held(np.eye(4, dtype=np.float32))
    with pytest.raises(PassportMismatch):
        ask(held, mark(np.eye(4)[:1], OTHER), ["1"], [])
    with pytest.raises(DimensionMismatch):
        ask(held, [[1.0, 0]], ["1"], [])
    with pytest.raises(InvalidVectors):
        ask(held, [[np.nan, 0, 0, 0]], ["1"], [])


CHECKED = {
    "nothing": ({}, [], [], "expected exactly one of text, image, item and vector, found none"),
    "two": (
        {"text": "a", "item": "b"},
        [],
        [],
        "expected exactly one of text, image, item and vector, found text and item",
    ),
    "two and liked": (
        {"text": "a", "vector": [1]},
        ["x"],
        [],
        "expected at most one of text, image, item and vector, found text and vector",
    ),
    "unliked alone": (
        {},
        [],
        ["x"],
        "unlike= alone says nothing to search by: expected like, or one of text, image, item and vector",
    ),
    "a string": ({"text": "a"}, "x", [], "like= is not a list of ids"),
    "both": ({}, ["a", "b", "c"], ["c", "b"], "2 ids are both in like= and in unlike="),
    "several problems": (
        {"text": "a", "item": "b"},
        [],
        [3],
        "expected exactly one of text, image, item and vector, found text and item; unlike= is not a list of ids",
    ),
}


@pytest.mark.parametrize("case", CHECKED)
def test_one_thing_is_asked(case: str) -> None:
    given, like, unlike, problem = CHECKED[case]
    queries = {"text": None, "image": None, "item": None, "vector": None} | given
    with pytest.raises(InvalidArguments) as refused:
        check_given("search in 'tickets'", queries, like, unlike)
    assert str(refused.value) == f"search in 'tickets': {problem}."


def test_liked_rows_are_enough_and_go_with_anything() -> None:
    nothing = {"text": None, "item": None}
    check_given("search", nothing, ["a"], ["b"])
    check_given("search", {**nothing, "text": "a"}, ["a"], ["b"])
    check_given("search", {**nothing, "text": []}, [], [])


NOW = datetime(2026, 1, 31, tzinfo=UTC)


def test_a_profile_is_the_mean_of_its_rows() -> None:
    held = Held(clustered(9, 3))
    found = profile(held, FINGERPRINT, ["1", "4", "4", "8"])
    np.testing.assert_allclose(found, unit(held.vectors[[1, 4, 4, 8]].mean(axis=0, keepdims=True)), atol=1e-6)
    assert found.fingerprint == FINGERPRINT


def test_a_row_one_half_life_older_counts_half() -> None:
    held = Held(np.eye(3, dtype=np.float32), [NOW - timedelta(days=14), NOW - timedelta(days=7), NOW])
    found = profile(held, FINGERPRINT, ["0", "1", "2"], half_life=timedelta(days=7))
    np.testing.assert_allclose(np.asarray(found), unit(np.array([[0.25, 0.5, 1.0]])), atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(-1e9, 1e9))
def test_a_profile_does_not_move_while_nothing_is_added(seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    rows, seconds = clustered(6, 2), rng.integers(0, 10**6, 6).astype(np.float64)
    np.testing.assert_allclose(
        decayed_mean(rows, seconds, 86_400.0), decayed_mean(rows, seconds + np.floor(shift), 86_400.0), atol=1e-9
    )


def test_a_profile_of_bad_arguments_names_them_all() -> None:
    held = Held(np.eye(3, dtype=np.float32), [NOW, None, None])
    with pytest.raises(InvalidArguments) as both:
        profile(held, FINGERPRINT, [], half_life=timedelta(0))
    assert str(both.value) == "profile: expected one id or more; half_life is 0:00:00, expected a time above 0."
    with pytest.raises(InvalidArguments) as timeless:
        profile(held, FINGERPRINT, ["0", "1"], half_life=timedelta(days=1))
    assert str(timeless.value) == "profile: 1 of 2 rows have no time, so half_life= cannot weigh them."


def test_questions_of_a_collection_find_what_is_like_and_not_what_they_were_made_from(world: World) -> None:
    like = [world.ids[0], world.ids[7]]
    vectors, without = question(world.table, FINGERPRINT, None, like, [world.ids[3]], "search")
    found = world.searcher().search(vectors, 20, without=without)
    asked = 0.75 * (world.vectors[0] + world.vectors[7]) / 2 - 0.15 * world.vectors[3]
    best = world.truth(unit(asked[None, :]), 40)[0]
    assert found.ids[0][:10] == [id_ for id_ in best if id_ not in without][:10]
    with pytest.raises(ItemNotFound):
        question(world.table, FINGERPRINT, None, ["nobody"], [], "search")


def test_a_profile_reads_the_times_of_a_collection(world: World) -> None:
    with pytest.raises(InvalidArguments) as timeless:
        profile(world.table, FINGERPRINT, world.ids[:1_200], half_life=timedelta(days=1))
    assert str(timeless.value) == "profile: 600 of 600 rows have no time, so half_life= cannot weigh them."
