from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raystore.errors import DiskFull, TrainingCollapsed, TrainingDiverged
from raystore.fine_tune.batches import make_sampler
from raystore.fine_tune.loop import checkpoints as files
from raystore.fine_tune.loop.checkpoints import Checkpoints, InMemory, OnDisk, Saved
from raystore.fine_tune.loop.points import Point, Trained
from raystore.fine_tune.loop.train import train

from .loop_toys import Toy, clusters, pairs, recipe


def run(model: Toy, **options: Any) -> Trained:
    chosen = recipe(**options.pop("recipe", {}))
    data = options.pop("data", None) or clusters(180)
    val = options.pop("val", "some")
    return train(model, data, clusters(60, seed=1) if val == "some" else val, chosen, **options)


def assert_same_weights(first: Toy, second: Toy) -> None:
    for name, tensor in first.state().items():
        assert torch.equal(second.state()[name], tensor), name


class Killed(Exception):
    pass


def killed_at(step: int, phase: str = "train") -> Any:
    """A report that ends the training at a step, as a kill does: in the middle, without a word."""

    def report(point: Point) -> None:
        if (point.phase, point.step) == (phase, step):
            raise Killed

    return report


def test_rows_of_a_class_come_together_and_the_best_weights_are_kept() -> None:
    model = Toy()
    points: list[Point] = []
    trained = run(model, report=points.append)
    assert trained.first_accuracy is not None
    assert trained.best_accuracy is not None
    assert trained.best_accuracy > trained.first_accuracy + 0.1
    assert (trained.steps, trained.rows, trained.ended) == (30, 30 * 24, "all steps were taken")
    assert tuple(points) == trained.points
    looks = [p for p in points if p.val_accuracy is not None]
    assert (len(looks), looks[0].step, looks[-1].step) == (11, 0, 30)
    assert max(p.val_accuracy for p in looks if p.val_accuracy is not None) == trained.best_accuracy
    assert [p.step for p in points] == list(range(31))
    assert not model.module.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, second, third = Toy(0.2), Toy(0.2), Toy(0.2)
    run(first, recipe={"seed": 3})
    torch.manual_seed(99)
    run(second, recipe={"seed": 3})
    run(third, recipe={"seed": 4})
    assert_same_weights(first, second)
    assert not torch.equal(first.state()["two.weight"], third.state()["two.weight"])


FEATURES: list[dict[str, Any]] = [
    {"recipe": {}},
    {"recipe": {"losses": {"arcface": 1.0, "supcon": 1.0}, "noisy_labels": "down-weight"}},
    {"recipe": {"hard_classes": 0.5, "mine_every": 7, "classes_per_batch": 3}},
    {"recipe": {"evaluate_every": 3}},
]


@pytest.mark.parametrize("kept", ["memory", "disk"])
@pytest.mark.parametrize("features", FEATURES, ids=lambda f: "-".join(f["recipe"]) or "plain")
def test_a_run_that_was_killed_ends_with_the_weights_it_would_have_had(
    tmp_path: Path, features: dict[str, Any], kept: str
) -> None:
    whole, parts = Toy(0.3), Toy(0.3)
    expected = run(whole, **features)
    checkpoints: Checkpoints = InMemory() if kept == "memory" else OnDisk(tmp_path)
    for step in (5, 14, 15, 28):
        with pytest.raises(Killed):
            run(Toy(0.3), checkpoints=checkpoints, report=killed_at(step), **features)
    found = run(parts, checkpoints=checkpoints, **features)
    assert_same_weights(whole, parts)
    assert (found.best_step, found.best_accuracy, found.rows) == (expected.best_step, expected.best_accuracy, expected.rows)
    timeless = [Point(**{**p.to_dict(), "seconds": 0.0}) for p in expected.points]
    assert [Point(**{**p.to_dict(), "seconds": 0.0}) for p in found.points] == timeless
    assert found.suspects == expected.suspects


def test_a_run_killed_between_its_checkpoint_and_its_best_weights_loses_neither(tmp_path: Path) -> None:
    whole = Toy()
    expected = run(whole)

    class Torn(OnDisk):
        def save_best(self, step: int, weights: Any) -> None:
            if step == expected.best_step:
                raise Killed
            super().save_best(step, weights)

    with pytest.raises(Killed):
        run(Toy(), checkpoints=Torn(tmp_path))
    again = Toy()
    assert run(again, checkpoints=OnDisk(tmp_path)).best_step == expected.best_step
    assert_same_weights(whole, again)


def test_it_stops_when_val_gets_no_better_and_keeps_the_best() -> None:
    model = Toy()
    states: dict[int, dict[str, torch.Tensor]] = {}

    class Remembering(InMemory):
        def save(self, saved: Saved) -> None:
            states[saved.step] = dict(saved.weights)
            super().save(saved)

    trained = run(model, recipe={"steps": 300, "evaluate_every": 5, "patience": 2}, checkpoints=Remembering())
    assert trained.ended == "val was no better in 2 looks"
    assert trained.steps == trained.best_step + 10
    for name, tensor in states[trained.best_step].items():
        assert torch.equal(model.state()[name], tensor)


def test_a_base_that_training_makes_worse_is_handed_back_as_it_was() -> None:
    model = Toy()
    run(model, recipe={"steps": 60})  # a good base
    before = model.state()
    wrong = clusters(180, wrong=1.0)
    trained = run(model, data=wrong, val=clusters(60, seed=1), recipe={"steps": 20, "evaluate_every": 20})
    assert trained.best_step == 0
    assert trained.best_accuracy == trained.first_accuracy
    for name, tensor in before.items():
        assert torch.equal(model.state()[name], tensor)


def test_without_rows_of_val_all_steps_are_taken_and_the_last_weights_kept(tmp_path: Path) -> None:
    whole, parts = Toy(), Toy()
    for val in (None, clusters(60).take(np.array([], dtype=np.int64))):
        trained = run(whole := Toy(), val=val)
        assert (trained.steps, trained.best_step, trained.best_accuracy) == (30, 30, None)
    with pytest.raises(Killed):
        run(Toy(), val=None, checkpoints=OnDisk(tmp_path), report=killed_at(17))
    run(parts, val=None, checkpoints=OnDisk(tmp_path))
    assert_same_weights(whole, parts)


def test_pairs_are_looked_at_by_whether_they_find_each_other() -> None:
    chosen = {"losses": "softmax", "per_class": 1, "classes_per_batch": 20, "steps": 60}
    trained = run(Toy(), data=pairs(200), val=pairs(50, seed=1), recipe=chosen)
    assert trained.first_accuracy is not None
    assert trained.best_accuracy is not None
    assert trained.best_accuracy > trained.first_accuracy + 0.1
    assert trained.suspects == ()


def test_a_budget_ends_it_in_time_with_its_cosine_at_the_end() -> None:
    now = [100.0]

    def clock() -> float:
        now[0] += 0.125  # a tick a look at the clock
        return now[0]

    heard: list[Point] = []
    trained = run(Toy(), recipe={"steps": 10_000}, budget_s=30.0, spent_s=5.0, clock=clock, report=heard.append)
    assert trained.ended == "the minutes were over"
    assert 20 < trained.steps < 200
    assert trained.seconds < 31.0
    rates = [p.learning_rate for p in heard if p.learning_rate is not None]
    assert rates[-1] < 0.1 * max(rates)
    assert heard[-1].steps < 1.2 * trained.steps


def test_a_learning_rate_that_diverges_stops_it_says_so_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    class Explodes(Toy):
        def embed(self, modality: Any, inputs: Any) -> torch.Tensor:
            rows = super().embed(modality, inputs)
            return rows * float("nan") if self.module.training and self.ten() else rows

        def ten(self) -> bool:
            return float((self.module.two.weight - self.was).detach().abs().max()) > 0.3

    model = Explodes()
    model.was = model.state()["two.weight"]  # type: ignore[attr-defined]
    with pytest.raises(TrainingDiverged) as stopped:
        run(model, recipe={"learning_rate": 0.05, "evaluate_every": 1, "patience": 99}, checkpoints=OnDisk(tmp_path))
    step = stopped.value.step
    assert step > 2
    assert str(stopped.value) == (
        f"fine-tuning stopped at step {step}: its loss is not a number. The weights of step {step - 1} are kept. "
        "Try learning_rate=0.01 (it was 0.05), or a longer warmup."
    )
    found = OnDisk(tmp_path).last()
    assert found is not None
    assert found.step == step - 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.weights.values())


def test_rows_that_collapse_stop_it_with_a_sentence() -> None:
    class Collapses(Toy):
        def embed(self, modality: Any, inputs: Any) -> torch.Tensor:
            rows = super().embed(modality, inputs)
            near = 1e-4 if self.module.training and len(self.forwards) > 25 else 1.0
            point = torch.ones_like(rows)
            return torch.nn.functional.normalize(near * rows + (1 - near) * point, dim=1)

    with pytest.raises(TrainingCollapsed, match="all rows have become nearly one point") as stopped:
        run(Collapses())
    assert stopped.value.variance < 0.001


def test_a_full_disk_stops_it_and_it_goes_on_when_there_is_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, model = Toy(), Toy()
    run(whole)
    write = files._write
    full = [False]

    # A disk cannot be filled here without harm.
    def sometimes(path: Path, tensors: Any) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, tensors)

    monkeypatch.setattr(files, "_write", sometimes)

    def fill(point: Point) -> None:
        full[0] = point.step >= 16

    with pytest.raises(DiskFull):
        run(Toy(), checkpoints=OnDisk(tmp_path), report=fill)
    found = OnDisk(tmp_path).last()
    assert found is not None
    assert found.step == 15
    full[0] = False
    run(model, checkpoints=OnDisk(tmp_path))
    assert_same_weights(whole, model)


def test_wrong_labels_are_suspected_and_clean_ones_are_not() -> None:
    noisy = clusters(360, noise=0.2, wrong=0.1, words=12)
    chosen = {"noisy_labels": "report", "steps": 120, "patience": 99, "learning_rate": 0.01}
    found = run(Toy(), data=noisy, val=None, recipe=chosen).suspects
    wrong = {id_ for id_ in noisy.ids if id_.endswith("-wrong")}
    named = {suspect.id for suspect in found}
    assert len(named & wrong) > 0.7 * len(wrong)
    assert len(named & wrong) > 0.7 * len(named)
    assert run(Toy(), data=noisy, val=None, recipe={**chosen, "noisy_labels": "off"}).suspects == ()


def test_doubted_labels_count_less_when_that_is_asked_for() -> None:
    noisy = clusters(360, noise=0.2, wrong=0.2, words=12)
    losses: dict[str, float] = {}
    for how in ("report", "down-weight"):
        chosen = {"noisy_labels": how, "steps": 150, "patience": 99, "learning_rate": 0.01}
        last = run(Toy(), data=noisy, recipe=chosen).points[-1].loss
        assert last is not None
        losses[how] = last
    assert losses["down-weight"] < losses["report"]  # what cannot be learned is not tried as hard


def test_layers_that_learn_later_learn_from_then_on(tmp_path: Path) -> None:
    def staged() -> Toy:
        model = Toy()
        model.only_last = True
        model.stage(0.0)
        return model

    seen: dict[int, bool] = {}
    model = staged()
    before = model.state()
    states = InMemory()

    def report(point: Point) -> None:
        found = states.last()
        if found is not None:
            seen[found.step] = not torch.equal(found.weights["one.weight"], before["one.weight"])

    run(model, val=None, checkpoints=states, report=report, recipe={"evaluate_every": 5})
    assert {step: seen[step] for step in (5, 10, 15)} == {5: False, 10: False, 15: False}
    assert seen[20]
    again = staged()
    with pytest.raises(Killed):
        run(staged(), val=None, checkpoints=OnDisk(tmp_path), report=killed_at(18), recipe={"evaluate_every": 5})
    run(again, val=None, checkpoints=OnDisk(tmp_path), recipe={"evaluate_every": 5})
    assert_same_weights(model, again)


def test_class_vectors_begin_at_the_means_of_their_classes() -> None:
    starts: list[torch.Tensor] = []
    chosen = recipe(losses="proxy-anchor", steps=1)
    from raystore.fine_tune.losses import make_objective

    objective = make_objective(chosen, 6, 8)
    given = objective.start
    objective.start = lambda means: (starts.append(means), given(means))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    model, data = Toy(), clusters(120)
    rows = model.embed("text", data.views[0].inputs(np.arange(120))).detach()
    train(model, data, None, chosen, objective=objective)
    assert tuple(starts[0].shape) == (6, 8)
    for code, mean in enumerate(starts[0]):
        own = rows[torch.from_numpy(data.labels == code)].mean(0)
        assert float(torch.cosine_similarity(own, mean, dim=0)) > 0.7


def test_what_memory_allowed_is_said_in_the_end() -> None:
    model = Toy(most_tokens=30)
    trained = run(model, recipe={"steps": 3}, val=None)
    assert trained.micro["tokens"] <= 30


def test_a_sampler_can_be_given() -> None:
    chosen = recipe(views=2, per_class=1, steps=4)
    data = clusters(60)
    unlabelled = data.take(np.arange(60))
    object.__setattr__(unlabelled, "labels", np.full(60, -1))
    sampler = make_sampler(unlabelled.labels, chosen)
    trained = train(Toy(0.2), unlabelled, None, chosen, sampler=sampler, phase="pretrain")
    assert trained.points[-1].phase == "pretrain"
    assert trained.rows == 4 * 12
