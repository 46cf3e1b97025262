from __future__ import annotations

import numpy as np
import pytest

from raystore.train.heads import logits
from raystore.train.mlp import fit_mlp
from raystore.train.source import Examples

from .examples import ThreadGroup, clusters, numbers, tagged


def rings(n: int, seed: int) -> Examples:
    """Two classes no plane divides: the sign of a product of two coordinates."""
    rows = np.random.default_rng(seed).normal(size=(n, 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return Examples(rows.astype(np.float32), (rows[:, 0] * rows[:, 1] > 0).astype(np.int64), np.ones(n, np.float32))


def score(fitted: object, examples: Examples) -> float:
    scores = logits("mlp", fitted._asdict(), examples.vectors)  # type: ignore[attr-defined]
    return float((scores.argmax(axis=1) == examples.labels).mean())


def test_it_learns_what_no_plane_divides() -> None:
    assert score(fit_mlp(rings(2_000, 0), rings(300, 1), 2, hidden=32)[0], rings(1_000, 2)) > 0.9


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    train, val = clusters(300), clusters(100, seed=1)
    one, two, other = (fit_mlp(train, val, 3, seed=seed, hidden=16, max_epochs=4)[0] for seed in (7, 7, 8))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.W1, other.W1)


def test_numpy_gives_the_logits_torch_gives() -> None:
    import torch
    from torch.nn import functional

    fitted, val_loss = fit_mlp(clusters(200), None, 3, hidden=16, max_epochs=2)
    assert np.isnan(val_loss)
    x = clusters(50, seed=5).vectors
    h = functional.gelu(functional.linear(*map(torch.from_numpy, (x, fitted.W1, fitted.b1))), approximate="tanh")
    expected = functional.linear(h, torch.from_numpy(fitted.W2), torch.from_numpy(fitted.b2)).numpy()
    np.testing.assert_allclose(logits("mlp", fitted._asdict(), x), expected, atol=1e-5)


def test_three_shards_agree_with_each_other_to_the_bit_and_score_as_one() -> None:
    train, val, test = rings(1_500, 0), rings(300, 1), rings(1_000, 2)

    def part(examples: Examples, rank: int) -> Examples:
        return Examples(*(array[rank::3] for array in examples))

    fits = ThreadGroup(3).run(
        lambda rank, reduce: fit_mlp(part(train, rank), part(val, rank), 2, hidden=32, rank=rank, reduce=reduce)[0]
    )
    for fitted in fits[1:]:
        for a, b in zip(fitted, fits[0], strict=True):
            np.testing.assert_array_equal(a, b)
    assert abs(score(fits[0], test) - score(fit_mlp(train, val, 2, hidden=32)[0], test)) < 0.05


def test_a_worker_without_rows_takes_part() -> None:
    train = clusters(100)
    none = Examples(*(array[:0] for array in train))
    shards = [train, none]
    one, two = ThreadGroup(2).run(
        lambda rank, reduce: fit_mlp(shards[rank], none, 3, hidden=8, max_epochs=2, rank=rank, reduce=reduce)[0]
    )
    np.testing.assert_array_equal(one.W1, two.W1)


def test_it_learns_several_labels_a_row() -> None:
    fitted, val_loss = fit_mlp(tagged(1_500), tagged(300, seed=1), 4, task="labels", hidden=32, max_epochs=20)
    test = tagged(500, seed=2)
    given = logits("mlp", fitted._asdict(), test.vectors) > 0
    assert (given == (test.labels != 0)).mean() > 0.85
    assert val_loss < 4 * np.log(2)


def test_it_learns_numbers_in_their_own_unit() -> None:
    train, val, test = numbers(1_500), numbers(300, seed=1), numbers(500, seed=2)
    fitted, val_loss = fit_mlp(train, val, 1, task="number", hidden=32, max_epochs=40)
    predicted = logits("mlp", fitted._asdict(), test.vectors)[:, 0]
    error = np.sqrt(((predicted - test.labels) ** 2).mean())
    assert error < 0.5 * test.labels.std()
    on_val = logits("mlp", fitted._asdict(), val.vectors)[:, 0]
    assert val_loss == pytest.approx(((on_val - val.labels) ** 2).mean(), rel=1e-3)
