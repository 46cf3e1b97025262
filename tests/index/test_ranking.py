"""What is answered of the ranking: rows above a score, one a value, none of the excluded, up to a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import ColumnNotFound
from raystore.index.search.asked import check_asked
from raystore.index.search.ranking import answer

from .conftest import FINGERPRINT, ROWS, World


class Found(NamedTuple):
    rows: np.ndarray
    scores: np.ndarray
    names: Mapping[int, str]
    missing: tuple[int, ...] = ()
    exact: bool = True
    coverage: float = 1.0
    version: int = 1
    number: int | None = None


class Ranking:
    """Scores by row id in place of vectors: query i asks for line i. What ranking.py sees of a view is a ranking's beginning."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = scores.astype(np.float32)
        self.rows = scores.shape[1]
        self.looks: list[tuple[int, int]] = []

    def search(self, queries: np.ndarray, k: int, *, allowed: Any = None, probes: Any = None, refine: Any = None) -> Found:
        self.looks.append((len(queries), k))
        lines = self.scores[queries[:, 0].astype(int)]
        order = np.lexsort((np.broadcast_to(np.arange(self.rows), lines.shape), -lines), axis=-1)[:, :k]
        rows, scores = order.astype(np.int64), np.take_along_axis(lines, order, 1)
        pad = ((0, 0), (0, k - rows.shape[1]))
        return Found(
            np.pad(rows, pad, constant_values=-1),
            np.pad(scores, pad, constant_values=-np.inf),
            {row: f"t{row}" for row in range(self.rows)},
        )


def ask(ranking: Ranking, values: Mapping[int, Any] | None = None, **given: Any) -> Any:
    m = len(ranking.scores)
    options: dict[str, Any] = dict.fromkeys(
        ("k", "where", "probes", "refine", "min_score", "after", "distinct", "diversity")
    )
    options |= {"limit": 10_000, "without": (), "columns": (), "distinct": "v" if values is not None else None} | given
    asked = check_asked("search", fingerprint=FINGERPRINT, metric="cosine", queries=m, nlist=None, **options)
    queries = np.arange(m, dtype=np.float32)[:, None]
    known = values or {}

    def looked_up(rows: np.ndarray) -> Mapping[int, Any]:
        return {row: known[row] for row in rows.tolist() if row in known}

    return answer(ranking, queries, asked, None, looked_up, lambda rows: (rows, np.ones((len(rows), 1), np.float32)))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 400),
    k=st.one_of(st.none(), st.integers(1, 500)),
    min_score=st.one_of(st.none(), st.floats(-1.2, 1.2)),
    groups=st.one_of(st.none(), st.integers(1, 40)),
    excluded=st.integers(0, 30),
)
def test_the_answer_is_what_a_plain_walk_down_the_ranking_finds(
    seed: int, n: int, k: int | None, min_score: float | None, groups: int | None, excluded: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = np.round(rng.uniform(-1, 1, size=(3, n)), 1)  # many ties
    values = (
        None if groups is None else {i: None if v == 0 else v for i, v in enumerate(rng.integers(0, groups, n).tolist())}
    )
    without = [f"t{i}" for i in rng.integers(0, n, excluded)]
    found = ask(Ranking(scores), values, k=k, min_score=min_score, without=without)
    for line, rows, ids in zip(scores.astype(np.float32), found.rows, found.ids, strict=True):
        expected, seen = [], set()
        for row in np.lexsort((np.arange(n), -line)).tolist():
            value = None if values is None else values[row]
            if (min_score is not None and line[row] < np.float32(min_score)) or f"t{row}" in without or value in seen:
                continue
            seen |= {value} - {None}
            expected.append(row)
        assert rows.tolist() == expected[: k or (10 if min_score is None else None)]
        assert ids == [f"t{row}" for row in rows]
    assert not found.truncated


def test_only_the_queries_that_lack_rows_look_farther() -> None:
    scores = np.stack([np.linspace(1, 0.9, 4_000), np.linspace(1, -200, 4_000)])
    ranking = Ranking(scores)
    found = ask(ranking, min_score=0.0)
    assert [len(rows) for rows in found.rows] == [4_000, (scores[1] >= 0).sum()]
    assert ranking.looks == [(2, 128), (1, 512), (1, 2_048), (1, 4_000)]


def test_a_limit_that_is_met_is_said() -> None:
    ranking = Ranking(np.linspace(1, 0, 1_000)[None, :])
    cut = ask(ranking, min_score=0.0, limit=100)
    assert (len(cut.rows[0]), cut.truncated) == (100, True)
    whole = ask(ranking, min_score=float(np.linspace(1, 0, 1_000)[99].astype(np.float32)), limit=100)
    assert (len(whole.rows[0]), whole.truncated) == (100, False)
    twins = dict.fromkeys(range(1_000), "same")
    some = ask(ranking, twins, k=3, limit=200)
    assert (some.rows[0].tolist(), some.truncated) == ([0], True)
    assert max(k for _, k in ranking.looks) <= 201
    assert not ask(ranking, twins, k=3).truncated


def test_k_is_never_cut_by_the_limit() -> None:
    found = ask(Ranking(np.linspace(1, 0, 1_000)[None, :]), k=700, limit=1)
    assert (len(found.rows[0]), found.truncated) == (700, False)


def test_many_queries_are_cut_into_parts_that_fit_memory() -> None:
    ranking = Ranking(np.tile(np.linspace(1, 0, 50), (2_500, 1)))
    assert len(ask(ranking, k=5).rows) == 2_500
    assert [m for m, _ in ranking.looks] == [1_024, 1_024, 452]


def test_every_row_above_a_score_is_found(world: World, queries: np.ndarray) -> None:
    result = world.searcher().search(queries, min_score=0.6)
    for query, ids, scores in zip(queries, result.ids, result.scores, strict=True):
        near = (world.vectors.astype(np.float64) * np.asarray(query)).sum(axis=1).astype(np.float32) >= np.float32(0.6)
        assert set(ids) == {world.ids[i] for i in np.flatnonzero(near)}
        assert (scores >= np.float32(0.6)).all()
    assert not result.truncated
    best = world.searcher().search(queries, 3, min_score=0.6)
    assert best.ids == [ids[:3] for ids in result.ids]


def test_a_score_of_an_answer_finds_that_answer_again(world: World, queries: np.ndarray) -> None:
    tenth = float(world.searcher().search(queries[0], 10).scores[0][-1])
    assert len(world.searcher().search(queries[0], min_score=tenth).ids[0]) >= 10


def test_a_value_is_answered_once_and_rows_without_one_all_count(world: World, queries: np.ndarray) -> None:
    found = world.searcher().search(queries, 5, distinct="product", columns=("product",))
    assert [len(ids) for ids in found.ids] == [2] * len(queries)
    assert world.searcher().search(queries, 5, distinct="subject").ids == world.truth(queries, 5)
    with pytest.raises(ColumnNotFound):
        world.searcher().search(queries, 5, distinct="nothing")


def test_excluded_ids_make_room_for_the_next(world: World, queries: np.ndarray) -> None:
    best = world.truth(queries[:1], ROWS)[0]
    found = world.searcher().search(queries[:1], 5, without=[best[0], best[3], "nobody"])
    assert found.ids[0] == [*best[1:3], *best[4:7]]
