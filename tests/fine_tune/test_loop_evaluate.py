from __future__ import annotations

import numpy as np
import pytest
import torch

from raystore.fine_tune.loop.evaluate import embed_all, look, match_pairs, sampled, vote
from raystore.fine_tune.loop.group import Alone
from raystore.fine_tune.loop.micro import Micro
from raystore.fine_tune.loop.mining import class_means, confused

from .loop_toys import Toy, clusters, pairs, recipe


def units(rows: list[list[float]]) -> np.ndarray:
    found = np.array(rows, np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_the_vote_of_the_nearest_is_weighted_by_similarity() -> None:
    references = units([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.2, 1]])
    known = np.array([0, 0, 1, 1, 1])
    seen = vote(units([[1, 0.05], [0.05, 1]]), np.array([0, 1]), references, known, n_classes=2)
    assert seen.accuracy == 1.0  # three of five neighbours say 1, but those of 0 stand nearer
    assert seen.precision == pytest.approx((2 / 5 + 3 / 5) / 2)
    assert vote(units([[1, 0]]), np.array([1]), references[:2], known[:2], n_classes=2).accuracy == 0.0


def test_pairs_count_whose_partner_stands_first_and_whose_is_among_ten() -> None:
    chance = np.random.default_rng(0)
    rows = units(chance.normal(size=(40, 6)).tolist())
    assert match_pairs(rows, rows, np.arange(40)) == (1.0, 1.0)
    other = match_pairs(rows, units(chance.normal(size=(40, 6)).tolist()), np.arange(40))
    assert other.accuracy < other.precision < 0.8


def test_rows_come_back_in_order_in_eval_mode_and_without_graphs() -> None:
    model = Toy(0.5)
    model.module.train()
    content = clusters(23).views[0]
    found = embed_all(model, content, Micro(20, 4), Alone())
    assert model.module.training
    model.module.eval()
    expected = model.embed("text", content.inputs(np.arange(23))).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert max(model.forwards[:-1]) <= 20
    picture = pairs(9).views[0]
    np.testing.assert_allclose(
        embed_all(model, picture, Micro(20, 4), Alone()),
        model.embed("image", picture.inputs(np.arange(9))).detach().numpy(),
        atol=1e-6,
    )


def test_a_look_takes_samples_of_both_sides_and_leaves_the_weights_alone() -> None:
    model = Toy()
    before = model.state()
    seen = look(model, clusters(300), clusters(100, seed=1), rows=20, micro=Micro(4096, 8), group=Alone(), seed=1)
    assert 0 < seen.accuracy <= 1
    assert seen.accuracy * 20 == pytest.approx(round(seen.accuracy * 20))
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in before.items())
    again = look(model, clusters(300), clusters(100, seed=1), rows=20, micro=Micro(9, 8), group=Alone(), seed=1)
    assert again == pytest.approx(seen)


def test_rows_without_a_label_are_nobodys_neighbours() -> None:
    data = clusters(60)
    unlabelled = data.take(np.arange(60))
    object.__setattr__(unlabelled, "labels", np.where(np.arange(60) < 30, -1, data.labels))
    seen = look(Toy(), unlabelled, clusters(30, seed=1), rows=30, micro=Micro(4096, 8), group=Alone())
    assert 0 <= seen.accuracy <= 1


def test_a_sample_is_sorted_and_the_same_for_a_seed() -> None:
    assert sampled(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    drawn = sampled(1000, 50, 3)
    assert drawn.tolist() == sorted(set(drawn.tolist())) == sampled(1000, 50, 3).tolist()
    assert drawn.tolist() != sampled(1000, 50, 4).tolist()


def test_classes_that_stand_near_are_confused_and_a_class_without_rows_has_no_mean() -> None:
    data = clusters(60)
    chosen = recipe(hard_classes=0.5, classes_per_batch=4)
    found = confused(Toy(), data, chosen, Micro(4096, 8), Alone())
    assert found is not None
    assert found.shape == (6, 2)
    assert all(code not in row for code, row in enumerate(found.tolist()))
    assert confused(Toy(), pairs(), chosen, Micro(4096, 8), Alone()) is None
    some = data.take(np.flatnonzero(data.labels != 3))
    means = class_means(Toy(), some, chosen, Micro(4096, 8), Alone())
    assert tuple(means.shape) == (6, 8)
    assert float(means[3].norm()) == 0.0
    assert float(means[2].norm()) > 0.0
