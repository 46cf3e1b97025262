"""One behaviour suite over every way a collection is searched."""

from __future__ import annotations

import gc
import logging

import numpy as np
import pytest

from raystore.errors import (
    ColumnNotFound,
    DimensionMismatch,
    InvalidArguments,
    InvalidVectors,
    PassportMismatch,
    SqlRefused,
)
from raystore.index.build.run import build_index
from raystore.index.manifest import latest
from raystore.index.search.searcher import IndexSearcher
from raystore.vectors import mark

from .conftest import DIM, FINGERPRINT, OTHER, ROWS, World, clustered, unit

Served = tuple[World, IndexSearcher, bool]


def recall(found: list[list[str]], truth: list[list[str]]) -> float:
    return float(np.mean([len(set(f) & set(t)) / len(t) for f, t in zip(found, truth, strict=True)]))


def test_finds_the_nearest_rows_in_order(served: Served, queries: np.ndarray) -> None:
    world, searcher, exact = served
    result = searcher.search(queries, 10)
    truth = world.truth(queries, 10)
    assert result.ids == truth if exact else recall(result.ids, truth) >= 0.8
    assert result.exact is exact
    assert (result.coverage, result.missing, result.fingerprint) == (1.0, [], FINGERPRINT)
    assert all((np.diff(scores) <= 0).all() and scores.dtype == np.float32 for scores in result.scores)


def test_filter_then_search_is_search_then_filter(served: Served, queries: np.ndarray) -> None:
    world, searcher, exact = served
    result = searcher.search(queries, 7, where="product = 'card'", columns=("product",))
    truth = world.truth(queries, 7, lambda i: world.products[i] == "card")
    assert result.ids == truth if exact else recall(result.ids, truth) >= 0.8
    assert result.rows is not None
    assert set(result.rows.column("product").to_pylist()) == {"card"}
    assert result.rows.column("id").to_pylist() == [id_ for ids in result.ids for id_ in ids]


def test_k_beyond_the_rows_gives_every_row_once(served: Served, queries: np.ndarray) -> None:
    world, searcher, _ = served
    result = searcher.search(queries[0], 10 * ROWS)
    assert sorted(result.ids[0]) == sorted(world.ids)


def test_a_filter_that_selects_nothing_gives_nothing(served: Served, queries: np.ndarray) -> None:
    _, searcher, _ = served
    result = searcher.search(queries, 3, where="product = 'none'", columns=("product",))
    assert result.ids == [[]] * len(queries)
    assert result.to_dicts() == []


def test_rows_added_later_are_found_at_once(served: Served, queries: np.ndarray) -> None:
    world, searcher, exact = served
    searcher.search(queries, 5)
    added = world.add(unit(np.asarray(queries[:1]) + 1e-4))
    world.add(clustered(30, 8))
    result = searcher.search(queries, 5)
    if exact:
        assert result.ids == world.truth(queries, 5)
    assert searcher.search(world.vectors[-31], 1).ids == [added]
    assert result.collection_version == world.table.version


def test_erased_rows_do_not_come_back_and_others_take_their_place(served: Served, queries: np.ndarray) -> None:
    world, searcher, exact = served
    gone = searcher.search(queries[:1], 1).ids[0][0]
    world.delete(gone)
    result = searcher.search(queries[:1], 5)
    assert gone not in result.ids[0]
    assert len(result.ids[0]) == 5
    if exact:
        assert result.ids == world.truth(queries[:1], 5, lambda i: world.ids[i] != gone)


def test_one_query_answers_as_it_does_among_many(served: Served, queries: np.ndarray) -> None:
    _, searcher, _ = served
    many = np.repeat(np.asarray(queries), 5, axis=0)
    together = searcher.search(many, 6)
    for i, query in enumerate(many):
        alone = searcher.search(query, 6)
        assert alone.ids[0] == together.ids[i]
        assert alone.scores[0].tobytes() == together.scores[i].tobytes()


def test_bad_input_gets_a_sentence(served: Served, queries: np.ndarray) -> None:
    world, searcher, _ = served
    with pytest.raises(InvalidArguments) as both:
        searcher.search(queries, 0, probes=0)
    found = latest(world.layout, "tickets", FINGERPRINT)
    nlist = max((s.nlist or 0 for s in found[1].shards), default=0) if found else 0
    probes = f"a number from 1 to {nlist}, the lists of its largest shard" if nlist else "a number from 1"
    assert str(both.value) == (
        f"search of collection 'tickets': k is 0, expected a number from 1; probes is 0, expected {probes}, or None."
    )
    if nlist:
        with pytest.raises(InvalidArguments):
            searcher.search(queries, 3, probes=nlist + 1)
        assert len(searcher.search(queries, 3, probes=nlist).ids[0]) == 3
    with pytest.raises(InvalidVectors) as nan:
        searcher.search(np.full((2, DIM), np.nan))
    assert str(nan.value) == (
        "search of collection 'tickets': 2 of 2 vectors are unusable: "
        "vector 0 holds NaN or infinity; vector 1 holds NaN or infinity."
    )
    with pytest.raises(DimensionMismatch) as wrong:
        searcher.search(np.ones(3))
    assert str(wrong.value) == "search of collection 'tickets': expected vectors of 16 numbers, found 3."
    with pytest.raises(PassportMismatch) as foreign:
        searcher.search(mark(np.asarray(queries), OTHER))
    assert str(foreign.value) == (
        f"collection 'tickets' expects {FINGERPRINT[:12]}, but was given {OTHER[:12]}. "
        "Encode the query with the collection's encoder."
    )
    with pytest.raises(SqlRefused):
        searcher.search(queries, where="product = 'card' OR 1 IN (SELECT 1)")
    with pytest.raises(ColumnNotFound):
        searcher.search(queries, columns=("no_such",))
    assert len(searcher.search(queries, 1).ids) == len(queries)


def test_a_query_too_long_for_float32_is_refused_and_not_answered_with_nothing(world: World, queries: np.ndarray) -> None:
    build_index(world.table, world.layout, "tickets", FINGERPRINT, metric="l2")
    searcher = world.searcher()
    assert len(searcher.search(np.asarray(queries[:1]) * 9e17, 3).ids[0]) == 3
    with pytest.raises(InvalidVectors) as long:
        searcher.search(np.asarray(queries[:1]) * 1e20)
    assert str(long.value) == (
        "search of collection 'tickets': 1 of 1 vectors are unusable: vector 0 is longer than 1e+18."
    )


def test_an_empty_collection_answers_with_nothing(empty_world: World, queries: np.ndarray) -> None:
    result = empty_world.searcher().search(queries, 3, columns=("product",))
    assert result.ids == [[]] * len(queries)
    assert (result.coverage, result.index_version, result.exact) == (1.0, None, True)


def test_a_row_without_a_vector_is_left_out_and_not_fatal(world: World, queries: np.ndarray) -> None:
    before = world.truth(queries, 4)
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2)
    world.add(clustered(3), fingerprint=None)
    assert world.searcher().search(queries, 4).ids == before
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2)
    assert world.searcher().search(queries, 4).ids == before


def test_a_searcher_follows_the_newest_index(world: World, queries: np.ndarray) -> None:
    searcher = world.searcher()
    assert searcher.search(queries).index_version is None
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=1)
    assert searcher.search(queries).index_version == 1
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=4)
    assert searcher.search(queries).index_version == 2
    assert searcher.search(queries, 10).ids == world.truth(queries, 10)


HARMED = [
    ("exact", "rows.arrow", "flip"),
    ("exact", "vectors.blocks", "flip"),
    ("exact", "vectors", "flip"),
    ("exact", "vectors", "cut"),
    ("exact", "vectors", "remove"),
    ("ivf", "faiss", "flip"),
    ("ivf", "faiss", "cut"),
    ("ivf", "rows.arrow", "remove"),
]


@pytest.mark.parametrize(("kind", "file", "harm"), HARMED)
def test_a_bad_shard_file_is_rebuilt_and_said(
    world: World, queries: np.ndarray, kind: str, file: str, harm: str, caplog
) -> None:
    number, manifest = build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=3, kind=kind)
    good = world.searcher().search(queries, 10).ids
    path = world.layout.indexes("tickets", FINGERPRINT) / str(number) / f"shard-0001.{file}"
    content = bytearray(path.read_bytes())
    path.unlink()
    if harm != "remove":
        content[-20] ^= 1
        path.write_bytes(content[: len(content) // 2] if harm == "cut" else content)
    with caplog.at_level(logging.WARNING, "raystore"):
        result = world.searcher().search(queries, 10)
    assert result.ids == good
    assert (result.coverage, result.index_version) == (1.0, 2)
    assert "shard 1 of index 1 was rebuilt from the collection and published as index 2" in caplog.text
    caplog.clear()
    assert world.searcher().search(queries, 10).ids == good
    assert not caplog.records
    newest = latest(world.layout, "tickets", FINGERPRINT)
    assert newest is not None
    assert (newest[1].made_by, newest[1].made_from) == ("repair", 1)
    assert newest[1].shards[0] == manifest.shards[0]


def test_a_result_shows_itself_and_escapes(world: World, queries: np.ndarray) -> None:
    result = world.searcher().search(queries[:1], 2, columns=("product",))
    about = "1 query against the collection itself, exact, coverage 1, encoder 5f3c1a2b9d0e"
    assert repr(result).splitlines()[0] == f"SearchResult: {about}, version {world.table.version}"
    assert "&#x27;" in result._repr_html_()
    first = result.to_dicts()[0]
    assert list(first) == ["query", "rank", "id", "score", "product"]
    assert first["id"] == result.ids[0][0]
    assert list(result.to_pandas()["id"]) == result.ids[0]


def test_close_lets_go_and_a_later_search_loads_anew(world: World, queries: np.ndarray) -> None:
    searcher = world.searcher()
    before = searcher.search(queries, 3).ids
    searcher.close()
    gc.collect()
    assert searcher.search(queries, 3).ids == before


def test_many_small_commits_stay_exact(world: World, queries: np.ndarray) -> None:
    """More commits than the tail keeps apart, a row of the tail erased, and one whose vector came late."""
    build_index(world.table, world.layout, "tickets", FINGERPRINT, shards=2)
    searcher = world.searcher()
    gone: set[str] = set()
    for turn in range(12):
        added = world.add(clustered(7, 50 + turn))
        if turn % 4 == 3:
            world.delete(added[0])
            gone.add(added[0])
        truth = world.truth(queries, 9, lambda i: world.ids[i] not in gone)
        assert searcher.search(queries, 9).ids == truth
    assert searcher.search(np.empty((0, DIM), np.float32)).ids == []


def test_every_bad_argument_is_named_at_once_and_none_is_repeated(world: World, queries: np.ndarray) -> None:
    secret = "my card never arrived"
    with pytest.raises(InvalidArguments) as many:
        world.searcher().search(
            queries,
            secret,
            where=3,
            columns=secret,
            refine=0,
            min_score=np.nan,
            limit=0,
            after=secret,
            distinct=7,
            diversity=2,
        )
    assert str(many.value) == (
        "search of collection 'tickets': k is a str, expected a number from 1; where is 3, expected text; "
        "distinct is 7, expected text; columns is not a list of names; refine is 0, expected a number from 1, or None; "
        "min_score is nan, expected a finite number, or None; limit is 0, expected a number from 1; "
        "diversity is 2, expected a number from 0 to 1, or None; after is no cursor of this search: "
        "its where, min_score, distinct, like and unlike must be the same as on the page before; "
        f"after continues one query, found {len(queries)}; "
        "after and diversity do not go together: a diverse answer has no next page."
    )


def test_ten_thousand_queries_at_once_are_answered_as_one_by_one(world: World) -> None:
    many = clustered(10_000, 12)
    found = world.searcher().search(many, 3, columns=("product",))
    assert len(found.ids) == 10_000
    assert len(found.to_dicts()) == 30_000
    for i in (0, 1_023, 1_024, 9_999):
        assert world.searcher().search(many[i], 3).ids[0] == found.ids[i]


def test_a_predicate_is_read_once_a_version(world: World, queries: np.ndarray, monkeypatch) -> None:
    read, row_ids = [], world.table.row_ids
    monkeypatch.setattr(world.table, "row_ids", lambda where=None, as_of=None: read.append(where) or row_ids(where, as_of))
    searcher = world.searcher()
    for _ in range(3):
        searcher.search(queries, 3, where="product = 'card'")
    assert read == ["product = 'card'"]
    added = world.add(unit(np.asarray(queries[:1])))
    assert added[0] in searcher.search(queries[:1], ROWS, where="product = 'card'").ids[0]
    assert read == ["product = 'card'"] * 2
