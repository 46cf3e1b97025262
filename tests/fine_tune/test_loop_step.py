from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.errors import JobFailed
from raystore.fine_tune.batches import Batch, make_sampler
from raystore.fine_tune.loop.chance import Chance
from raystore.fine_tune.loop.group import Alone
from raystore.fine_tune.loop.micro import Micro, is_out_of_memory
from raystore.fine_tune.loop.step import Step, plan_chunks, take_step, trivial_loss, whole
from raystore.fine_tune.losses import make_objective

from .loop_toys import DIM, Toy, ToyTexts, clusters, pairs, recipe


def step_of(model: Toy, *, micro: Micro | None = None, step: int = 2, **options: Any) -> Step:
    chosen = recipe(**options.pop("recipe", {}))
    data = options.pop("data", None) or clusters()
    model.module.train()
    objective = make_objective(chosen, 6, DIM)
    batch = make_sampler(data.labels, chosen, n_views=len(data.views)).batch(step)
    return take_step(model, objective, data, batch, micro or Micro(4096, 32), Chance(0, step), group=Alone(), **options)


def gradients(model: Toy) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.module.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 1e-6) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=tolerance, msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_cached_gradients_are_those_of_one_pass_with_the_same_dropout(dropout: float) -> None:
    plain, cached = Toy(dropout), Toy(dropout)
    # The same chunks both times, so that each has the masks it had.
    first = step_of(plain, micro=Micro(40, 8), cached=False)
    second = step_of(cached, micro=Micro(40, 8), cached=True)
    assert first.chunks == second.chunks > 2
    assert len(cached.forwards) == 2 * len(plain.forwards)  # every chunk once more
    assert first.loss == pytest.approx(second.loss, abs=1e-6)
    assert_same(gradients(cached), gradients(plain))


def test_however_small_the_chunks_the_gradient_is_that_of_the_whole_batch() -> None:
    whole_batch = Toy()
    step_of(whole_batch)
    for tokens in (200, 40, 9, 1):
        model = Toy()
        step_of(model, micro=Micro(tokens, 1))
        assert_same(gradients(model), gradients(whole_batch))


def test_pairs_of_pictures_and_texts_learn_with_both_towers_in_chunks_or_not() -> None:
    chosen = {"losses": "softmax", "per_class": 1, "classes_per_batch": 12}
    one, many = Toy(), Toy()
    step_of(one, data=pairs(), recipe=chosen)
    step = step_of(many, data=pairs(), recipe=chosen, micro=Micro(10, 3))
    assert step.chunks > 6
    assert {"words.weight", "seen.weight"} <= gradients(one).keys()
    assert_same(gradients(many), gradients(one))


def test_crops_of_a_picture_are_the_same_in_both_passes_and_others_in_the_next_step() -> None:
    chosen = {"losses": "softmax", "per_class": 1, "classes_per_batch": 12}
    plain, cached = Toy(), Toy()
    first = step_of(plain, data=pairs(), recipe=chosen, micro=Micro(10, 3), cached=False, augmented=True)
    second = step_of(cached, data=pairs(), recipe=chosen, micro=Micro(10, 3), cached=True, augmented=True)
    assert_same(gradients(cached), gradients(plain))
    assert not torch.equal(first.rows, step_of(Toy(), data=pairs(), recipe=chosen, micro=Micro(10, 3)).rows)
    assert torch.equal(first.rows, second.rows)


def test_a_step_leaves_the_chance_of_others_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    step_of(Toy(0.5))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gradients_are_scaled_as_asked() -> None:
    plain, scaled = Toy(), Toy()
    step_of(plain)
    step_of(scaled, scale=1024.0)
    assert_same({name: g / 1024 for name, g in gradients(scaled).items()}, gradients(plain))


def test_a_teacher_and_weights_of_rows_reach_the_loss() -> None:
    data = clusters()
    teacher = [
        torch.nn.functional.normalize(torch.randn(len(data), DIM, generator=torch.Generator().manual_seed(1)), dim=1)
    ]
    plain = step_of(Toy())
    assert step_of(Toy(), recipe={"distill": 1.0}, teacher=teacher).loss > plain.loss
    weights = np.ones(len(data), np.float32)
    assert step_of(Toy(), weights=weights).loss == pytest.approx(plain.loss)
    weights[::3] = 0.01
    assert step_of(Toy(), weights=weights).loss != pytest.approx(plain.loss)


def test_each_item_has_its_row_label_and_loss() -> None:
    step = step_of(Toy())
    assert (tuple(step.rows.shape), len(step.labels), len(step.each)) == ((24, DIM), 24, 24)
    assert step.loss == pytest.approx(float(np.mean(step.each)), rel=1e-5)
    assert not step.rows.requires_grad


def test_where_memory_runs_out_the_chunks_are_halved_and_without_dropout_the_gradient_is_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plain, small = Toy(), Toy(most_tokens=30)
    step_of(plain)
    micro = Micro(4096, 32)
    with caplog.at_level(logging.WARNING, logger="raystore"):
        step_of(small, micro=micro)
    assert micro.tokens <= 30
    assert_same(gradients(small), gradients(plain))
    assert caplog.messages[-1] == (
        f"Memory ran out in a fine-tuning: from now on {micro.tokens:,} tokens or 32 images go through the model at once. A step takes "
        "longer; its gradient is the same, but for what dropout leaves out and how pictures are cropped: each pass draws its own."
    )


def test_where_memory_runs_out_dropout_leaves_out_other_numbers() -> None:
    plain, small = Toy(0.3), Toy(0.3, most_tokens=30)
    step_of(plain)
    step_of(small)
    with pytest.raises(AssertionError):
        assert_same(gradients(small), gradients(plain))


def test_a_row_that_does_not_fit_alone_is_said() -> None:
    with pytest.raises(JobFailed) as refused:
        step_of(Toy(most_tokens=1))
    assert str(refused.value) == (
        "fine-tuning failed: a single row needs more memory than there is. Set max_tokens= lower, mode='last-n', or "
        "gradient_checkpointing=True."
    )


def test_only_an_error_of_memory_is_taken_for_one() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_another_error_of_a_step_is_not_taken_for_one_of_memory() -> None:
    with pytest.raises(RuntimeError, match=r"must match|multiplied"):
        step_of(Toy(), recipe={"distill": 1.0}, teacher=[torch.ones(5, DIM)[:, :0].expand(200, 0)])


def test_the_trivial_loss_is_that_of_rows_on_one_point() -> None:
    chosen = recipe()
    batch = make_sampler(clusters().labels, chosen).batch(0)
    assert trivial_loss(Toy(), make_objective(chosen, 6, DIM), batch, None) == pytest.approx(np.log(23), rel=1e-5)


def test_what_workers_cannot_share_evenly_is_left_out() -> None:
    batch = Batch(np.arange(7), np.arange(7), np.zeros(7, np.int64))
    assert [len(part) for part in whole(batch, 3) if part is not None] == [6, 6, 6]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 200))
def test_chunks_hold_every_item_once_and_no_more_tokens_than_allowed(lengths: list[int], tokens: int) -> None:
    content = ToyTexts(tuple(tuple([1] * n) for n in lengths))
    own = Batch(np.arange(len(lengths)), np.zeros(len(lengths), np.int64))
    parts, fits = plan_chunks([content], own, Micro(tokens, 1))
    assert sorted(np.concatenate([p.places for p in parts]).tolist()) == list(range(len(lengths)))
    for part in parts:
        assert part.tokens == max(lengths[i] for i in part.rows) * len(part.rows)
        assert part.tokens <= max(tokens, max(lengths))
    assert fits == (sum(part.tokens for part in parts) <= tokens)
