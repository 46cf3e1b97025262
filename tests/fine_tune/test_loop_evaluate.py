from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from raystore.errors import JobFailed
from raystore.fine_tune.batches import make_sampler
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
    assert match_pairs(rows, rows, np.arange(40))[:2] == (1.0, 1.0)
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


class Short(Toy):
    """One whose memory runs out in eval mode too."""

    def embed(self, modality: Any, inputs: Any) -> torch.Tensor:
        training, self.module.training = self.module.training, True
        try:
            return super().embed(modality, inputs)
        finally:
            self.module.training = training


@pytest.mark.parametrize("kind", ["text", "image"])
def test_where_memory_runs_out_in_a_look_the_chunks_are_halved_and_the_rows_are_the_same(kind: str) -> None:
    content = clusters(23).views[0] if kind == "text" else pairs(23).views[0]
    micro = Micro(4096, 32)
    found = embed_all(Short(most_tokens=20), content, micro, Alone())
    np.testing.assert_allclose(found, embed_all(Toy(), content, Micro(4096, 32), Alone()), atol=1e-6)
    if kind == "text":
        assert (micro.tokens < 40, micro.images) == (True, 32)
    else:
        assert (micro.tokens, micro.images) == (4096, 11)


def test_a_row_that_does_not_fit_alone_is_said_in_a_look_too() -> None:
    with pytest.raises(JobFailed) as refused:
        embed_all(Short(most_tokens=1), clusters(23).views[0], Micro(4096, 32), Alone())
    assert str(refused.value) == (
        "fine-tuning failed: a single row needs more memory than there is. Set max_tokens= lower, mode='last-n', or "
        "gradient_checkpointing=True."
    )


def test_another_error_of_a_look_is_not_taken_for_one_of_memory() -> None:
    class Wrong(Toy):
        def embed(self, modality: Any, inputs: Any) -> torch.Tensor:
            return super().embed(modality, {"input_ids": inputs["input_ids"] + 1000})

    with pytest.raises(IndexError):
        embed_all(Wrong(), clusters(23).views[0], Micro(4096, 32), Alone())


def test_a_look_takes_samples_of_both_sides_and_leaves_the_weights_alone() -> None:
    model = Toy()
    before = model.state()
    seen = look(model, clusters(300), clusters(100, seed=1), rows=20, micro=Micro(4096, 8), group=Alone(), seed=1)
    assert 0 < seen.accuracy <= 1
    assert seen.accuracy * 20 == pytest.approx(round(seen.accuracy * 20))
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in before.items())
    again = look(model, clusters(300), clusters(100, seed=1), rows=20, micro=Micro(9, 8), group=Alone(), seed=1)
    assert again == pytest.approx(seen)
    assert 0 < seen.variance < 1
    few = look(model, clusters(7), clusters(100, seed=1), rows=20, micro=Micro(9, 8), group=Alone(), seed=1)
    assert few.variance == 1.0


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
    some = data.take(np.flatnonzero(data.labels != 3))
    means = class_means(Toy(), some, chosen, Micro(4096, 8), Alone())
    assert tuple(means.shape) == (6, 8)
    assert float(means[3].norm()) == 0.0
    assert float(means[2].norm()) > 0.0


def test_of_pairs_the_nearest_rows_are_hard_negatives_and_come_into_one_batch() -> None:
    data, chosen = pairs(), recipe(hard_classes=0.5, classes_per_batch=8, per_class=1, losses="softmax")
    found = confused(Toy(), data, chosen, Micro(4096, 8), Alone())
    assert found is not None
    vectors = embed_all(Toy(), data.views[0], Micro(4096, 8), Alone())
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -2.0)
    assert found.tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :4].tolist()
    sampler = make_sampler(data.labels, chosen, n_views=2)
    sampler.confuse(found)
    batch = sampler.batch(0)
    drawn = batch.rows[: len(batch.rows) // 2].tolist()
    assert sum(any(other in found[row] for other in drawn) for row in drawn) >= len(drawn) // 2
