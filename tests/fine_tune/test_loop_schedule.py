from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raystore.fine_tune.loop.optimiser import Optimiser
from raystore.fine_tune.loop.schedule import Schedule
from raystore.fine_tune.losses import make_objective

from .loop_toys import DIM, Toy, recipe


def test_steps_are_those_asked_for_else_those_of_the_epochs() -> None:
    assert Schedule.of(recipe(steps=7), 100).steps == 7
    assert Schedule.of(recipe(steps=None, epochs=2.5), 101).steps == 253
    assert Schedule.of(recipe(steps=None, epochs=0.001), 100).steps == 1


def test_the_rate_warms_up_and_falls_along_a_cosine() -> None:
    schedule = Schedule(steps=100, warmup=0.1)
    rates = [schedule.rate(schedule.progress(step, 0.0)) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates == sorted(rates[:11]) + sorted(rates[11:], reverse=True)
    assert 0 < rates[-1] < 0.001


@given(st.integers(1, 500), st.floats(0, 0.9), st.integers(0, 499))
def test_no_step_has_a_rate_of_nothing_or_more_than_asked(steps: int, warmup: float, step: int) -> None:
    schedule = Schedule(steps, warmup)
    assert 0 < schedule.rate(schedule.progress(min(step, steps - 1), 0.0)) <= 1


def test_a_budget_ends_it_in_time_with_the_cosine_at_its_end() -> None:
    schedule = Schedule(steps=1000, warmup=0.1, budget_s=60.0)
    assert schedule.progress(10, 30.0) == 0.5
    assert schedule.progress(10, 30.0, reserved=10.0) == 0.6
    assert schedule.progress(10, 61.0) == schedule.progress(1000, 1.0) == 1.0
    assert schedule.progress(900, 6.0) == 0.9  # never more steps than asked for
    assert schedule.steps_by(10, 0.5) == 20
    assert schedule.steps_by(900, 0.9) == 1000
    assert Schedule(1000, 0.1).steps_by(10, 0.5) == 1000


def test_val_is_looked_at_ten_times_or_as_often_as_asked() -> None:
    schedule = Schedule(37, 0.1)
    looks = [step for step in range(1, 38) if schedule.looks_at_val(step, (step - 1) / 37, step / 37)]
    assert len(looks) == 10
    assert looks[-1] == 37
    often = Schedule(10, 0.1, evaluate_every=4)
    assert [step for step in range(1, 11) if often.looks_at_val(step, (step - 1) / 10, step / 10)] == [4, 8, 10]


def learned(**changes: object) -> tuple[Toy, Optimiser]:
    model = Toy()
    chosen = recipe(**changes)
    return model, Optimiser(model, make_objective(chosen, 6, DIM), chosen, half=bool(changes.get("clip") == 9.0))


def test_the_optimisers_state_goes_on_by_name() -> None:
    first, one = learned()
    second, two = learned()
    for _ in range(3):
        for model, adam in ((first, one), (second, two)):
            model.module.two.weight.grad = torch.ones_like(model.module.two.weight)
            adam.step(1.0)
    assert sorted(one.tensors()) == [f"model.two.weight|{what}" for what in ("exp_avg", "exp_avg_sq", "step")]
    third, three = learned()
    third.load_state(first.state())
    three.load(one.tensors(), one.facts())
    for model, adam in ((second, two), (third, three)):
        model.module.two.weight.grad = torch.full_like(model.module.two.weight, 0.5)
        adam.step(0.5)
    assert torch.equal(second.module.two.weight, third.module.two.weight)


def test_a_gradient_that_is_no_number_changes_nothing_and_lowers_the_scale_of_halves() -> None:
    model, adam = learned(clip=9.0)
    before = model.state()
    assert adam.may_skip
    scale = adam.scale
    model.module.two.weight.grad = torch.full_like(model.module.two.weight, float("inf"))
    assert not adam.step(1.0)
    assert adam.scale == scale / 2
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in before.items())
    _, plain = learned()
    assert (plain.scale, plain.may_skip) == (1.0, False)
