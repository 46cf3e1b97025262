from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.fine_tune.loop.noisy import LIGHT, Losses, higher_hill, suspects

from .loop_toys import clusters


def two_hills(n: int, wrong: float, *, apart: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    is_wrong = np.arange(n) < round(wrong * n)
    return chance.normal(np.where(is_wrong, apart, 0.0), 0.5), is_wrong


def test_the_higher_of_two_hills_is_found() -> None:
    values, is_wrong = two_hills(1000, 0.15, apart=4.0)
    found = higher_hill(values) > 0.5
    assert (found == is_wrong).mean() > 0.99


@pytest.mark.parametrize("seed", range(5))
def test_one_hill_is_not_split(seed: int) -> None:
    values, _ = two_hills(1000, 0.0, apart=0.0, seed=seed)
    assert not higher_hill(values).any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.floats(0.1, 10), st.floats(-10, 10))
def test_probabilities_lie_between_0_and_1_for_any_values(values: list[float], scale: float, shift: float) -> None:
    found = higher_hill(np.array(values) * scale + shift)
    assert np.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_a_row_is_judged_against_its_batches_and_only_when_it_was_seen_twice() -> None:
    losses = Losses.of(100)
    chance = np.random.default_rng(0)
    for step in range(40):
        rows = chance.choice(90, 30, replace=False)  # ten rows are never seen
        hard = chance.uniform(0, 50)  # batches differ, rows do not
        losses.add(rows, (hard + chance.normal(0, 0.2, 30) + 3 * (rows < 9)).astype(np.float32))
        if step == 0:
            assert not losses.wrong().any()
    wrong = losses.wrong()
    assert (wrong[:9] > 0.5).all()
    assert (wrong[9:] < 0.5).all()
    assert losses.weights()[:9] == pytest.approx(LIGHT, abs=0.05)
    assert losses.weights()[95] == 1.0


def test_items_without_a_loss_teach_nothing_and_a_row_that_stands_twice_counts_once() -> None:
    losses = Losses.of(4)
    losses.add(np.array([0, 1, 1, 2]), np.array([np.nan, 1.0, 3.0, 5.0], np.float32))
    assert losses.seen.tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(losses.mean, [0, -1, 2, 0])
    losses.add(np.array([0]), np.array([np.nan], np.float32))
    assert losses.seen.tolist() == [0, 1, 1, 0]


def test_suspects_are_named_by_id_and_label_surest_first() -> None:
    data = clusters(100, 4)
    losses = Losses(np.where(np.arange(100) < 6, 5.0, 0.0).astype(np.float32), np.full(100, 3))
    losses.mean += np.random.default_rng(0).normal(0, 0.2, 100).astype(np.float32)
    found = suspects(losses, data)
    assert {s.id for s in found} == {f"row-{i}" for i in range(6)}
    assert {s.label for s in found} == {f"class {i}" for i in range(4)}
    assert [s.probability for s in found] == sorted((s.probability for s in found), reverse=True)
