from __future__ import annotations

import errno
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raystore.errors import DiskFull, JobFailed, TrainingCollapsed, TrainingDiverged
from raystore.fine_tune.loop import checkpoints as files
from raystore.fine_tune.loop import optimiser
from raystore.fine_tune.loop.checkpoints import Checkpoints, InMemory, OnDisk, Saved
from raystore.fine_tune.loop.evaluate import look
from raystore.fine_tune.loop.group import Alone
from raystore.fine_tune.loop.micro import Micro
from raystore.fine_tune.loop.points import Point, Trained
from raystore.fine_tune.loop.train import train
from raystore.fine_tune.losses.proxy import ClassVectors

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


WORSE_LATER = {"learning_rate": 0.1, "steps": 40, "evaluate_every": 2}  # its best step is followed by worse ones


def test_one_killed_there_and_again_after_a_worse_checkpoint_still_has_its_best_weights(tmp_path: Path) -> None:
    whole = Toy()
    expected = run(whole, recipe=WORSE_LATER)
    best = expected.best_step
    assert 0 < best <= 34

    class Torn(OnDisk):
        def save_best(self, step: int, weights: Any) -> None:
            if step == best:
                raise Killed
            super().save_best(step, weights)

    with pytest.raises(Killed):
        run(Toy(), checkpoints=Torn(tmp_path), recipe=WORSE_LATER)
    with pytest.raises(Killed):  # two looks later, of which each wrote a checkpoint
        run(Toy(), checkpoints=OnDisk(tmp_path), report=killed_at(best + 4), recipe=WORSE_LATER)
    last = OnDisk(tmp_path).last()
    assert last is not None
    assert (last.step, last.facts["best_step"]) == (best + 4, best)
    again = Toy()
    found = run(again, checkpoints=OnDisk(tmp_path), recipe=WORSE_LATER)
    assert (found.best_step, found.best_accuracy) == (best, expected.best_accuracy)
    assert_same_weights(whole, again)


@pytest.mark.parametrize("kept", ["memory", "disk"])
@pytest.mark.parametrize(
    ("asked", "ended"),
    [
        ({"recipe": {"steps": 300, "evaluate_every": 5, "patience": 2}}, "val was no better in 2 looks"),
        ({"recipe": {**WORSE_LATER, "patience": 1}}, "val was no better in 1 looks"),
        ({"recipe": WORSE_LATER}, "all steps were taken"),
        ({"val": None}, "all steps were taken"),
    ],
    ids=["stopped", "stopped at once", "every step", "no val"],
)
def test_a_run_that_was_killed_after_its_last_look_takes_no_step_more(
    tmp_path: Path, asked: dict[str, Any], ended: str, kept: str
) -> None:
    checkpoints: Checkpoints = InMemory() if kept == "memory" else OnDisk(tmp_path)
    whole, again = Toy(0.3), Toy(0.3)
    expected = run(whole, checkpoints=checkpoints, **asked)
    assert expected.ended == ended
    heard: list[Point] = []
    found = run(again, checkpoints=checkpoints, report=heard.append, **asked)  # its result was never written
    assert heard == []
    assert replace(found, seconds=0.0) == replace(expected, seconds=0.0)
    assert_same_weights(whole, again)


def test_one_whose_best_weights_were_removed_claims_none_that_it_has_not(tmp_path: Path) -> None:
    expected = run(Toy(), recipe=WORSE_LATER)
    at = expected.best_step + 4
    with pytest.raises(Killed):
        run(Toy(), checkpoints=OnDisk(tmp_path), report=killed_at(at), recipe=WORSE_LATER)
    shutil.rmtree(tmp_path / f"best-{expected.best_step}")
    model = Toy()
    found = run(model, checkpoints=OnDisk(tmp_path), recipe=WORSE_LATER)
    looks = {p.step: p.val_accuracy for p in found.points if p.val_accuracy is not None}
    assert found.best_step != expected.best_step
    assert (
        found.best_accuracy == looks[found.best_step] == max(looks[step] for step in looks if step in (0, at) or step > at)
    )
    val = clusters(60, seed=1)
    seen = look(model, clusters(180), val, rows=50, micro=Micro(4096, 32), group=Alone())
    assert seen.accuracy == found.best_accuracy


def test_seconds_go_on_after_a_restart_and_count_what_came_before_it_once() -> None:
    now = [0.0]

    def clock() -> float:
        return now[0]

    def slowly(at: int) -> Any:
        def report(point: Point) -> None:
            now[0] += 1.0
            killed_at(at)(point)

        return report

    kept = InMemory()
    before = {
        "spent_s": 10.0,
        "earlier_s": 600.0,
        "clock": clock,
    }  # opened for 10 s, pre-trained for 600 s by another process
    with pytest.raises(Killed):
        run(Toy(), checkpoints=kept, report=slowly(15), **before)
    last = kept.last()
    assert last is not None
    assert (last.step, last.facts["seconds"]) == (15, 625.0)
    trained = run(Toy(), checkpoints=kept, report=slowly(99), **before)
    assert trained.seconds == 625.0 + 10.0 + 15.0


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
        f"fine-tuning stopped at step {step}: its loss is not a number. Try learning_rate=0.01 (it was 0.05), or a longer warmup: that "
        f"begins anew. The same call would go on from the weights of step {step - 1} and most likely stop again; they stay for a week "
        f"under the store's tmp/fine_tune, as last-{step - 1}/weights.safetensors."
    )
    assert (tmp_path / f"last-{step - 1}" / "weights.safetensors").is_file()
    found = OnDisk(tmp_path).last()
    assert found is not None
    assert found.step == step - 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in found.weights.values())


def test_in_float16_the_loss_is_scaled_and_a_scale_that_is_too_high_comes_down(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half(Toy):
        def embed(self, modality: Any, inputs: Any) -> torch.Tensor:
            with torch.autocast("cpu", dtype=torch.float16):
                rows = super().embed(modality, inputs)
            return torch.nn.functional.normalize(rows.float(), dim=1)

    kept, plain, half = InMemory(), Toy(), Half(precision="fp16")
    run(plain)
    trained = run(half, checkpoints=kept)
    for name, tensor in plain.state().items():
        torch.testing.assert_close(half.state()[name], tensor, rtol=0.05, atol=0.05, msg=name)
    last = kept.last()
    assert last is not None
    assert last.facts["optimiser"] == {"scale": 2.0**14, "good": 30}
    monkeypatch.setattr(optimiser, "_START_SCALE", 2.0**28)
    trained = run(Half(precision="fp16"), checkpoints=(kept := InMemory()))
    last = kept.last()
    assert last is not None
    assert 1 < last.facts["optimiser"]["scale"] < 2.0**28
    assert 0 < last.facts["optimiser"]["good"] < 30
    assert trained.first_accuracy is not None
    assert trained.best_accuracy is not None
    assert trained.best_accuracy > trained.first_accuracy


def test_a_first_step_whose_moments_do_not_fit_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    model = Toy()
    weights = sum(p.numel() for p in model.module.parameters())
    with pytest.raises(JobFailed) as refused:
        run(model, checkpoints=OnDisk(tmp_path))
    assert str(refused.value) == (
        f"fine-tuning failed: AdamW keeps two numbers for each of the {weights:,} weights that learn, which is more memory than there "
        "is. Let fewer learn: mode='last-n', 'lora' or 'adapter'; or take a smaller base."
    )
    assert OnDisk(tmp_path).last() is None


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
    # Nothing of it is on the disk, so nothing is said of what stays.
    assert stopped.value.kept == 0
    assert str(stopped.value).endswith(
        "Try a lower learning_rate, a higher temperature, or larger batches: that begins anew."
    )


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


def started(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The means that class vectors begin with from now on."""
    starts: list[torch.Tensor] = []
    given = ClassVectors.start

    def start(self: ClassVectors, means: torch.Tensor) -> None:
        starts.append(means)
        given(self, means)

    monkeypatch.setattr(ClassVectors, "start", start)
    return starts


def test_class_vectors_begin_at_the_means_of_their_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    starts = started(monkeypatch)
    model, data = Toy(), clusters(120)
    rows = model.embed("text", data.views[0].inputs(np.arange(120))).detach()
    train(model, data, None, recipe(losses="proxy-anchor", steps=1))
    assert tuple(starts[0].shape) == (6, 8)
    for code, mean in enumerate(starts[0]):
        own = rows[torch.from_numpy(data.labels == code)].mean(0)
        assert float(torch.cosine_similarity(own, mean, dim=0)) > 0.7


@pytest.mark.parametrize("losses", ["arcface", "proxy-anchor"])
def test_a_class_without_a_row_to_learn_from_has_no_class_vector(monkeypatch: pytest.MonkeyPatch, losses: str) -> None:
    starts = started(monkeypatch)
    data = clusters(180)
    given: dict[str, Any] = {
        "losses": losses, "classes_per_batch": 4, "hard_classes": 0.5, "mine_every": 5, "noisy_labels": "report"
    }  # fmt: skip
    some = replace(data.take(np.flatnonzero(~np.isin(data.labels, (1, 4)))), parents=np.array([0, 0, 0, 1, 1, 1]))
    scattered, packed = Toy(), Toy()
    found = run(scattered, data=some, recipe=given)
    assert [tuple(means.shape) for means in starts] == [(4, 8)]
    assert all(float(mean.norm()) > 0 for mean in starts[0])
    # As if the two labels had never been there.
    codes = np.array([0, -1, 1, 2, -1, 3])
    names = ("class 0", "class 2", "class 3", "class 5")
    without = replace(some, labels=codes[some.labels], classes=names, parents=np.array([0, 0, 1, 1]))
    val = clusters(60, seed=1)
    unknown = np.where(codes[val.labels] < 0, 5, codes[val.labels])
    expected = run(packed, data=without, val=replace(val, labels=unknown, classes=names), recipe=given)
    assert_same_weights(scattered, packed)
    assert found.best_accuracy == expected.best_accuracy
    assert found.suspects == expected.suspects


def test_what_memory_allowed_is_said_in_the_end() -> None:
    model = Toy(most_tokens=30)
    trained = run(model, recipe={"steps": 3}, val=None)
    tokens = trained.micro["tokens"]
    assert tokens <= 30
    assert trained.notes == (
        f"memory did not suffice for micro_tokens=4,096, so {tokens} tokens went through the model at once in the end",
    )
    assert run(Toy(), recipe={"steps": 3}, val=None).notes == ()


def test_what_the_data_did_not_allow_is_said_in_the_end() -> None:
    once = replace(clusters(40), labels=np.arange(40), classes=tuple(f"class {i}" for i in range(40)))
    trained = run(Toy(), data=once, val=None, recipe={"steps": 2})
    assert trained.notes == ("every class has one row, so each row stands twice in its batch",)


def test_rows_without_labels_are_learned_from_as_strangers() -> None:
    chosen = recipe(views=2, per_class=1, steps=4)
    unlabelled = replace(clusters(60), labels=np.full(60, -1), classes=())
    trained = train(Toy(0.2), unlabelled, None, chosen, phase="pretrain")
    assert trained.points[-1].phase == "pretrain"
    assert trained.rows == 4 * 12
