"""Rows that are not all alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.index.search.diversity import most_marginal

from .conftest import World, clustered, unit


def plainly(relevance: np.ndarray, rows: np.ndarray, k: int, diversity: float) -> list[int]:
    """The definition, one row and one pair at a time."""
    chosen: list[int] = []
    while len(chosen) < min(k, len(rows)):
        worth = {
            i: (1 - diversity) * relevance[i] - diversity * max((float(rows[i] @ rows[j]) for j in chosen), default=-np.inf)
            if chosen
            else relevance[i]
            for i in range(len(rows))
            if i not in chosen
        }
        chosen.append(max(worth, key=lambda i: (worth[i], -i)))
    return chosen


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25), st.integers(1, 30), st.floats(0, 1))
def test_it_chooses_what_the_definition_chooses(seed: int, p: int, k: int, diversity: float) -> None:
    rng = np.random.default_rng(seed)
    rows = unit(rng.normal(size=(p, 8)))
    relevance = np.sort(rows @ unit(rng.normal(size=(1, 8)))[0])[::-1].copy()
    found = most_marginal(relevance, rows, k, diversity).tolist()
    assert len(set(found)) == min(k, p)
    assert found[0] == 0
    expected = plainly(relevance, rows, k, diversity)
    if found != expected:  # two rows worth the same but for rounding
        first = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
        nearest = (rows @ rows[expected[:first]].T).max(axis=1)
        worth = (1 - diversity) * relevance - diversity * nearest
        assert abs(worth[found[first]] - worth[expected[first]]) < 1e-5


def test_without_diversity_the_order_is_that_of_relevance() -> None:
    rows = clustered(30, 4)
    relevance = np.sort(rows @ rows[3])[::-1].copy()
    assert most_marginal(relevance, rows, 12, 0.0).tolist() == list(range(12))


def test_an_empty_pool_gives_nothing() -> None:
    assert most_marginal(np.empty(0, np.float32), np.empty((0, 4), np.float32), 3, 0.5).tolist() == []


def test_duplicates_make_room_for_others(world: World) -> None:
    """Fifty rows are one vector; asked for it, a plain search answers nothing else."""
    twin = world.vectors[110]
    plain = world.searcher().search(twin, 10)
    assert (plain.scores[0] > 0.999).all()
    diverse = world.searcher().search(twin, 10, diversity=0.9)
    assert diverse.ids[0][0] == plain.ids[0][0]
    assert (diverse.scores[0] > 0.999).sum() == 1
    assert len(set(diverse.ids[0])) == 10


def test_no_diversity_is_the_plain_answer(world: World, queries: np.ndarray) -> None:
    searcher = world.searcher()
    plain, none = searcher.search(queries, 8), searcher.search(queries, 8, diversity=0.0)
    assert none.ids == plain.ids
    assert [s.tobytes() for s in none.scores] == [s.tobytes() for s in plain.scores]


def test_a_diverse_answer_is_chosen_among_what_the_filter_and_the_score_allow(world: World, queries: np.ndarray) -> None:
    options = {"where": "product = 'card'", "min_score": 0.3}
    found = world.searcher().search(queries, 6, diversity=0.7, columns=("product",), **options)
    for i in range(len(queries)):
        allowed = world.searcher().search(queries[i], **options).ids[0]
        assert set(found.ids[i]) <= set(allowed)
        assert len(found.ids[i]) == min(6, len(allowed))
    assert set(found.rows.column("product").to_pylist()) <= {"card"}
