"""Page after page of one search, while rows come and go."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.errors import InvalidArguments
from raystore.index.search.paging import Place, from_cursor, to_cursor
from raystore.index.search.searcher import IndexSearcher

from .conftest import ROWS, World, unit

Query = np.ndarray


@pytest.fixture
def query(queries: np.ndarray) -> Query:
    return queries[:1]


def pages(searcher: IndexSearcher, query: Query, **options: object) -> list[list[str]]:
    found, after = [], None
    while True:
        result = searcher.search(query, after=after, **options)
        found.append(result.ids[0])
        after = result.cursor
        if after is None:
            return found


@given(
    st.integers(0, 2**40), st.floats(-1e6, 1e6, width=32), st.integers(0, 2**62), st.text(max_size=20), st.text(max_size=20)
)
def test_a_cursor_is_read_by_its_own_search_alone(rank: int, score: float, row: int, search: str, other: str) -> None:
    place = Place(rank, score, row)
    cursor = to_cursor(place, search)
    assert len(cursor) == 40
    assert from_cursor(cursor, search) == place
    if other != search:
        assert from_cursor(cursor, other) is None


@given(st.text(max_size=50))
def test_no_other_string_is_a_cursor(text: str) -> None:
    assert from_cursor(text, "a search") is None


def test_a_cursor_that_was_changed_is_refused() -> None:
    cursor = to_cursor(Place(7, 0.5, 3), "s")
    for i in range(len(cursor)):
        assert from_cursor(cursor[:i] + ("A" if cursor[i] != "A" else "B") + cursor[i + 1 :], "s") is None


@pytest.mark.parametrize("k", [7, 100, ROWS // 2, ROWS, 2 * ROWS])
def test_pages_together_are_the_ranking(world: World, query: Query, k: int) -> None:
    found = pages(world.searcher(), query, k=k)
    assert [id_ for page in found for id_ in page] == world.truth(query, ROWS)[0]
    assert all(len(page) == k for page in found[:-1])


def test_pages_go_on_within_equal_scores(world: World, query: Query) -> None:
    """A hundred rows are one vector: every page ends among equals."""
    twin = world.vectors[ROWS // 2 // 3]
    found = pages(world.searcher(), twin[None, :], k=9, min_score=0.999)
    assert (
        len({id_ for page in found for id_ in page}) == sum(len(page) for page in found) == ROWS // 2 // 2 - ROWS // 2 // 3
    )


def test_rows_added_and_erased_meanwhile_neither_repeat_nor_shift(world: World, query: Query) -> None:
    searcher, before = world.searcher(), world.truth(query, 30)[0]
    first = searcher.search(query, 10)
    assert first.ids[0] == before[:10]
    world.add(unit(np.repeat(np.asarray(query), 5, axis=0)))  # nearer than all that were there
    world.delete(before[0])
    world.delete(before[12])
    second = searcher.search(query, 10, after=first.cursor)
    assert second.ids[0] == [*before[10:12], *before[13:21]]


def test_a_page_goes_on_behind_a_row_that_was_erased(world: World, query: Query) -> None:
    searcher, before = world.searcher(), world.truth(query, 20)[0]
    first = searcher.search(query, 10)
    world.delete(before[9])
    assert searcher.search(query, 10, after=first.cursor).ids[0] == before[10:]


def test_a_text_that_was_encoded_in_other_company_goes_on_where_it_was(world: World, query: Query) -> None:
    searcher = world.searcher()
    first = searcher.search(query, 10)
    nearly = unit(np.asarray(query) + 1e-7)
    second = searcher.search(nearly, 10, after=first.cursor)
    assert second.ids[0] == world.truth(query, 20)[0][10:]


def test_a_value_is_answered_on_one_page_only(world: World, query: Query) -> None:
    found = pages(world.searcher(), query, k=1, distinct="product")
    best = world.truth(query, ROWS)[0]
    product = dict(zip(world.ids, world.products, strict=True))
    expected = [next(id_ for id_ in best if product[id_] == p) for p in ("card", "loan")]
    assert [id_ for page in found for id_ in page] == sorted(expected, key=best.index)


def test_the_last_page_has_no_cursor(world: World, query: Query) -> None:
    searcher = world.searcher()
    assert searcher.search(query, ROWS + 1).cursor is None
    full = searcher.search(query, ROWS)
    assert full.cursor is not None
    assert searcher.search(query, 5, after=full.cursor).ids == [[]]
    assert searcher.search(np.concatenate([query, query]), 3).cursor is None
    assert searcher.search(query, 3, diversity=0.5).cursor is None


def test_a_cursor_of_another_search_is_refused(world: World, queries: np.ndarray, query: Query) -> None:
    searcher = world.searcher()
    cursor = searcher.search(query, 3).cursor
    same = "its where, min_score, distinct, like and unlike must be the same as on the page before"
    for changed in ({"where": "product = 'card'"}, {"min_score": 0.1}, {"distinct": "product"}, {"without": ["a"]}):
        with pytest.raises(InvalidArguments) as refused:
            searcher.search(query, 3, after=cursor, **changed)
        assert str(refused.value) == f"search of collection 'tickets': after is no cursor of this search: {same}."
    with pytest.raises(InvalidArguments) as other:
        searcher.search(-np.asarray(query), 3, after=cursor)
    assert str(other.value) == "search of collection 'tickets': after is the cursor of another query."
    with pytest.raises(InvalidArguments) as several:
        searcher.search(queries, 3, after=cursor, diversity=0.5)
    assert str(several.value) == (
        f"search of collection 'tickets': after continues one query, found {len(queries)}; "
        "after and diversity do not go together: a diverse answer has no next page."
    )
