"""The laws of batches: pure in (seed, step), every row before any again, balanced or by size, families, confused classes."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import InvalidArguments
from raystore.fine_tune.batches import Batch, Sampler, chunks, make_sampler, make_unlabelled_sampler, share
from raystore.fine_tune.recipe import Recipe


def labels_of(sizes: list[int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


def recipe(P: int, K: int, **options: Any) -> Recipe:
    return Recipe(losses={"proxy-anchor": 1.0}, classes_per_batch=P, per_class=K, **options)


def draws(sampler: Sampler, steps: int) -> list[Batch]:
    return [sampler.batch(step) for step in range(steps)]


def same(one: Batch, other: Batch) -> bool:
    return np.array_equal(one.rows, other.rows) and np.array_equal(one.labels, other.labels)


shapes = st.tuples(
    st.lists(st.integers(1, 9), min_size=2, max_size=12),
    st.integers(2, 7),
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.booleans(),
)


@settings(deadline=None, max_examples=30)
@given(shape=shapes, steps=st.lists(st.integers(0, 150), min_size=1, max_size=5))
def test_a_batch_depends_on_seed_and_step_alone_not_on_what_was_asked_before(
    shape: tuple[list[int], int, int, int, bool], steps: list[int]
) -> None:
    sizes, P, K, seed, balanced = shape
    labels, how = labels_of(sizes), recipe(P, K, seed=seed, balanced=balanced)
    walked = make_sampler(labels, how)
    expected = {step: walked.batch(step) for step in range(max(steps) + 1)}
    worker = make_sampler(labels, how)
    assert all(same(worker.batch(step), expected[step]) for step in steps)


@settings(deadline=None, max_examples=30)
@given(shape=shapes)
def test_every_row_of_a_class_is_drawn_before_any_is_drawn_again(shape: tuple[list[int], int, int, int, bool]) -> None:
    sizes, P, K, seed, balanced = shape
    labels = labels_of(sizes)
    sampler = make_sampler(labels, recipe(P, K, seed=seed, balanced=balanced))
    half = sampler.batch_rows // (2 if sampler.notes and "twice" in sampler.notes[0] else 1)
    by_class: dict[int, list[int]] = {}
    for batch in draws(sampler, 60):
        assert np.array_equal(labels[batch.rows], batch.labels)
        for row, label in zip(batch.rows[:half].tolist(), batch.labels[:half].tolist(), strict=True):
            by_class.setdefault(label, []).append(row)
    for label, rows in by_class.items():
        size = sizes[label]
        for start in range(0, len(rows), size):
            whole = rows[start : start + size]
            assert len(set(whole)) == len(whole)


@settings(deadline=None, max_examples=30)
@given(shape=shapes)
def test_a_balanced_batch_holds_p_different_classes_and_draws_all_equally_often(
    shape: tuple[list[int], int, int, int, bool],
) -> None:
    sizes, P, K, seed, _ = shape
    sampler = make_sampler(labels_of(sizes), recipe(P, K, seed=seed))
    drawn: Counter[int] = Counter()
    for batch in draws(sampler, 40):
        classes, rows = np.unique(batch.labels, return_counts=True)
        assert len(set(rows.tolist())) == 1
        assert len(classes) * rows[0] == sampler.batch_rows
        drawn.update(classes.tolist())
    counts = [drawn[code] for code in range(len(sizes))]
    assert max(counts) - min(counts) <= 1


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(4, 9), min_size=2, max_size=12), seed=st.integers(0, 2**31), K=st.integers(2, 4))
def test_no_row_stands_twice_in_a_balanced_batch_where_its_class_has_k(sizes: list[int], seed: int, K: int) -> None:
    sampler = make_sampler(labels_of(sizes), recipe(2, K, seed=seed))
    for batch in draws(sampler, 60):
        assert len(set(batch.rows.tolist())) == len(batch.rows)


def test_classes_drawn_by_size_come_as_often_as_their_rows() -> None:
    sizes = [400, 100, 20, 4]
    labels = labels_of(sizes)
    sampler = make_sampler(labels, recipe(4, 2, balanced=False))
    rows = Counter(np.concatenate([batch.rows for batch in draws(sampler, 655)]).tolist())  # 5,240 rows: ten passes of 524
    assert set(rows) == set(range(524))
    assert set(rows.values()) == {10}
    assert sampler.steps_per_epoch == 66


def test_a_class_of_fewer_than_k_rows_repeats_them() -> None:
    batch = make_sampler(np.array([0, 1, 1, 1, 1]), recipe(2, 4)).batch(0)
    assert np.bincount(batch.rows).tolist() == [4, 1, 1, 1, 1]


def test_classes_meet_ever_other_classes() -> None:
    sampler = make_sampler(labels_of([2] * 21), recipe(8, 2))
    met = {(a, b) for batch in draws(sampler, 60) for a in set(batch.labels.tolist()) for b in set(batch.labels.tolist())}
    assert len(met) == 21 * 21


def test_other_seeds_draw_other_batches() -> None:
    labels = labels_of([9] * 9)
    assert not same(
        make_sampler(labels, recipe(4, 2, seed=1)).batch(0), make_sampler(labels, recipe(4, 2, seed=2)).batch(0)
    )


def test_unlabelled_rows_and_codes_without_rows_are_never_drawn() -> None:
    labels = np.array([-1, 0, 0, 2, 2, -1, 5, 5])
    sampler = make_sampler(labels, recipe(2, 2))
    assert set(np.concatenate([batch.rows for batch in draws(sampler, 9)]).tolist()) == {1, 2, 3, 4, 6, 7}


def test_with_two_views_the_second_half_of_a_batch_is_the_first_again() -> None:
    batch = make_sampler(labels_of([5] * 6), recipe(3, 2, views=2)).batch(0)
    assert np.array_equal(batch.rows[:6], batch.rows[6:])
    assert np.array_equal(batch.labels[:6], batch.labels[6:])
    assert batch.sides is None


def test_pairs_stand_in_the_batch_as_both_their_parts() -> None:
    sampler = make_sampler(np.arange(50), recipe(8, 2), n_views=2)
    batch = sampler.batch(3)
    assert batch.sides is not None
    assert batch.sides.tolist() == [0] * 16 + [1] * 16
    assert np.array_equal(batch.rows[:16], batch.rows[16:])
    assert len(set(batch.rows.tolist())) == 16
    assert sampler.notes == ()


def test_unlabelled_rows_stand_twice_and_are_their_own_class() -> None:
    sampler = make_unlabelled_sampler(100, recipe(8, 2, views=2))
    seen = [sampler.batch(step) for step in range(25)]
    for batch in seen:
        assert np.array_equal(batch.rows[:16], batch.rows[16:])
        assert np.array_equal(batch.labels, batch.rows)
    counts = Counter(np.concatenate([batch.rows[:16] for batch in seen]).tolist())
    assert set(counts.values()) == {4}
    assert same(make_sampler(np.full(100, -1), recipe(8, 2, views=2)).batch(7), seen[7])


def test_what_the_data_do_not_allow_is_changed_and_said() -> None:
    once = make_sampler(np.arange(40), recipe(8, 2))
    assert once.notes == ("every class has one row, so each row stands twice in its batch",)
    assert once.batch_rows == 32
    few = make_sampler(labels_of([100] * 4), recipe(32, 2))
    assert few.notes == ("there are 4 classes, so a batch holds 16 rows of each",)
    assert few.batch_rows == 64
    small = make_sampler(labels_of([3] * 100), recipe(6, 8))
    assert small.notes == ("no class has more than 3 rows, so a batch holds 3 of each instead of 8",)
    assert small.batch_rows == 48
    assert make_sampler(labels_of([8] * 77), recipe(32, 2)).notes == ()


def test_no_row_at_all_is_refused() -> None:
    with pytest.raises(InvalidArguments) as error:
        make_sampler(np.zeros(0, dtype=np.int64), recipe(2, 2))
    assert str(error.value) == "fine_tune: there is no row to train on."


def test_about_half_of_a_batch_are_siblings() -> None:
    parents = np.arange(60) // 6
    plain, family = (make_sampler(labels_of([4] * 60), recipe(12, 2), parents=each) for each in (None, parents))

    def largest_family(sampler: Sampler) -> float:
        return float(np.mean([np.bincount(parents[np.unique(batch.labels)]).max() for batch in draws(sampler, 50)]))

    assert largest_family(family) >= 4.5  # 6 of 12 are of whole families, cut where a batch ends
    assert largest_family(plain) <= 4
    drawn = Counter(np.concatenate([np.unique(batch.labels) for batch in draws(family, 50)]).tolist())
    assert set(drawn.values()) == {10}


def test_confused_classes_come_along_and_no_class_comes_more_often() -> None:
    n, neighbours = 60, np.arange(60)[:, None] ^ np.array([[1, 2]])  # each class with three others that know each other
    sampler = make_sampler(labels_of([4] * n), recipe(12, 2, hard_classes=0.5))

    def together(first: int) -> float:
        batches = [np.unique(sampler.batch(step).labels) for step in range(first, first + 50)]
        return float(np.mean([np.isin(classes ^ 1, classes).mean() for classes in batches]))

    before = together(0)
    sampler.confuse(neighbours, step=50)
    assert before < 0.35
    assert together(50) > 0.7
    drawn = Counter(np.concatenate([np.unique(batch.labels) for batch in draws(sampler, 100)]).tolist())
    assert set(drawn.values()) == {20}


def test_being_told_of_confused_classes_changes_no_batch_before() -> None:
    labels, how = labels_of([4] * 17), recipe(5, 2, hard_classes=1.0)
    told, untold = make_sampler(labels, how), make_sampler(labels, how)
    told.batch(40)
    told.confuse(np.arange(17)[:, None] - 1, step=33)
    assert all(same(told.batch(step), untold.batch(step)) for step in range(34))
    assert not all(same(told.batch(step), untold.batch(step)) for step in range(34, 60))
    resumed = make_sampler(labels, how)
    resumed.load_state(told.state())
    assert all(same(told.batch(step), resumed.batch(step)) for step in range(70))


def test_a_share_of_hard_classes_of_zero_listens_to_nobody() -> None:
    labels = labels_of([4] * 17)
    told, untold = make_sampler(labels, recipe(5, 2)), make_sampler(labels, recipe(5, 2))
    told.confuse(np.arange(17)[:, None] - 1)
    assert all(same(told.batch(step), untold.batch(step)) for step in range(20))


def test_a_sampler_keeps_a_few_numbers_a_row() -> None:
    labels = labels_of([2_439] * 41)
    tracemalloc.start()
    sampler = make_sampler(labels, Recipe())
    for step in range(0, 600, 15):
        sampler.batch(step)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * len(labels)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(0, 70), max_size=40),
    tokens=st.integers(1, 200),
    most=st.one_of(st.none(), st.integers(1, 8)),
)
def test_chunks_hold_every_row_once_within_the_budget(lengths: list[int], tokens: int, most: int | None) -> None:
    given_lengths = np.array(lengths, dtype=np.int64)
    groups = chunks(given_lengths, tokens, most)
    rows = np.concatenate([np.zeros(0, np.int64), *groups])
    assert sorted(rows.tolist()) == list(range(len(lengths)))
    assert (np.diff(given_lengths[rows]) <= 0).all()
    for group in groups:
        assert len(group) == 1 or len(group) * given_lengths[group].max() <= tokens
        assert most is None or len(group) <= most


@settings(deadline=None)
@given(b=st.integers(1, 40), world=st.integers(1, 6), sided=st.booleans())
def test_shares_are_equally_long_and_together_the_batch_but_for_less_than_one_row_a_worker(
    b: int, world: int, sided: bool
) -> None:
    batch = Batch(np.arange(b), np.arange(b) % 3, np.arange(b) % 2 if sided else None)
    if b < world:
        with pytest.raises(InvalidArguments):
            share(batch, 0, world)
        return
    parts = [share(batch, rank, world) for rank in range(world)]
    assert {len(part.rows) for part in parts} == {b // world}
    rows = np.concatenate([part.rows for part in parts])
    assert np.array_equal(rows, batch.rows[: len(rows)])
    assert all(np.array_equal(part.labels, part.rows % 3) for part in parts)
    assert all((part.sides is not None) == sided for part in parts)


def test_a_batch_smaller_than_the_workers_are_many_is_said() -> None:
    with pytest.raises(InvalidArguments) as error:
        share(Batch(np.arange(2), np.arange(2)), 0, 4)
    assert str(error.value) == "fine_tune: a batch of 2 rows cannot be shared by 4 workers."
