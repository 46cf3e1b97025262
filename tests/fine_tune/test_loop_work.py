from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from raystore.errors import DiskFull, TrainingCollapsed, TrainingDiverged
from raystore.fine_tune.loop.checkpoints import InMemory, OnDisk
from raystore.fine_tune.loop.evaluate import embed_all
from raystore.fine_tune.loop.group import Alone
from raystore.fine_tune.loop.micro import Micro
from raystore.fine_tune.loop.points import Point, Trained
from raystore.fine_tune.loop.work import Opened, load_trained, open_work, run_training
from raystore.vectors import Matrix

from .small_work import work
from .test_loop_train import Killed, killed_at


def test_a_run_opens_reads_trains_and_says_what_it_read(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model)
    checkpoints = InMemory()
    trained = run_training(asked, checkpoints=checkpoints)
    assert trained.best_accuracy is not None
    assert trained.first_accuracy is not None
    assert trained.best_accuracy >= trained.first_accuracy
    left_out = sum(trained.data["leaks"]["val"].values()) + sum(trained.data["leaks"]["train"].values())
    assert sum(trained.data["rows"].values()) == 160 - left_out
    assert (trained.data["classes"], trained.data["set_aside"], len(trained.data["digest"])) == (4, {}, 64)
    done = checkpoints.done()
    assert done is not None
    again = load_trained(asked, done[1])
    opened = open_work(asked)
    opened.model.load_state(done[1])
    view = opened.sides.val.views[0]
    both = [embed_all(model, view, Micro(4096, 8), Alone()) for model in (again, opened.model)]
    np.testing.assert_array_equal(*both)
    assert run_training(asked, checkpoints=checkpoints) == trained  # a run that is done is read


def test_work_travels_and_is_known_by_its_digest(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model)
    assert pickle.loads(pickle.dumps(asked)) == asked
    assert pickle.loads(pickle.dumps(asked)).digest == asked.digest
    other = replace(asked, recipe=asked.recipe.model_copy(update={"learning_rate": 1e-4}))
    assert other.digest != asked.digest
    assert asked.folder == Path(asked.root) / "tmp" / "fine_tune" / f"tiny-tickets-{asked.digest[:12]}"
    renamed = replace(asked, name="other-tickets")
    assert renamed.digest == asked.digest
    assert renamed.folder != asked.folder


def test_a_run_whose_result_had_no_space_ends_as_it_would_have_had_and_says_meanwhile_what_it_read(
    tmp_path: Path, tiny_model: Path
) -> None:
    asked = work(tmp_path, tiny_model, dropout=0.1, steps=60, evaluate_every=1, patience=1)

    class Full(OnDisk):
        def finish(self, trained: Trained, weights: Mapping[str, torch.Tensor]) -> None:
            raise DiskFull(folder=str(self.folder), doing="writing a checkpoint of a fine-tuning")

    whole, kept = InMemory(), OnDisk(tmp_path / "run")
    expected = run_training(asked, checkpoints=whole)
    assert expected.ended == "val was no better in 1 looks"
    assert expected.steps < 60
    with pytest.raises(DiskFull):
        run_training(asked, checkpoints=Full(kept.folder))
    assert kept.noted() == expected.data
    found = run_training(asked, checkpoints=kept)
    assert (found.steps, found.best_step, found.ended) == (expected.steps, expected.best_step, expected.ended)
    first, second = whole.done(), kept.done()
    assert first is not None
    assert second is not None
    for name, tensor in first[1].items():
        assert torch.equal(second[1][name], tensor), name
    assert kept.noted() == {}  # the result says it now


def test_a_pool_is_learned_from_first_and_goes_on_after_a_kill_in_either_phase(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model, pool=60, pretrain_steps=12, dropout=0.1, steps=10)
    heard: list[Point] = []
    whole = InMemory()
    expected = run_training(asked, checkpoints=whole, report=heard.append)
    assert expected.pretrained is not None
    assert (expected.pretrained.steps, expected.steps) == (12, 10)
    assert [p.phase for p in heard] == ["pretrain"] * 12 + ["train"] * 11
    for phase, step in (("pretrain", 8), ("train", 0), ("train", 6)):
        with pytest.raises(Killed):
            run_training(asked, checkpoints=OnDisk(tmp_path / "run"), report=killed_at(step, phase))
    found = run_training(asked, checkpoints=OnDisk(tmp_path / "run"))
    assert found.best_step == expected.best_step
    first, second = whole.done(), OnDisk(tmp_path / "run").done()
    assert first is not None
    assert second is not None
    for name, tensor in first[1].items():
        assert torch.equal(second[1][name], tensor), name


def test_a_student_of_fewer_layers_stays_near_the_whole_base(tmp_path: Path, tiny_model: Path) -> None:
    near = work(tmp_path, tiny_model, layers=1, distill=1.0, steps=20, losses="supcon")
    far = replace(near, recipe=near.recipe.model_copy(update={"distill": 0.0}))
    base = open_work(replace(near, recipe=near.recipe.model_copy(update={"layers": None})))

    def vectors(opened: Opened) -> Matrix:
        return embed_all(opened.model, opened.sides.train.views[0], Micro(4096, 8), Alone())

    teacher = vectors(base)

    def cosine(rows: Matrix) -> float:
        return float((rows * teacher).sum(axis=1).mean())

    cosines: dict[str, tuple[float, float]] = {}
    for name, asked in (("near", near), ("far", far)):
        student, kept = open_work(asked), InMemory()
        before = vectors(student)
        run_training(asked, checkpoints=kept, opened=student)
        last = kept.last()
        assert last is not None
        assert last.step == 20
        student.model.load_state(last.weights)
        cosines[name] = (cosine(before), cosine(vectors(student)))
    assert cosines["near"][1] > cosines["near"][0] + 0.2
    assert cosines["near"][1] > cosines["far"][1] + 0.2


@pytest.mark.parametrize("rate", [0.3, 1e6])
def test_a_real_model_at_an_absurd_learning_rate_stops_and_keeps_its_last_good_checkpoint(
    tmp_path: Path, tiny_model: Path, rate: float
) -> None:
    asked = work(tmp_path, tiny_model, learning_rate=rate, steps=60, warmup=0.5, evaluate_every=1)
    kept = OnDisk(tmp_path / "run")
    with pytest.raises((TrainingCollapsed, TrainingDiverged)) as stopped:
        run_training(asked, checkpoints=kept)
    last = kept.last()
    assert last is not None
    assert last.step == stopped.value.facts["kept"] > 0
    opened = open_work(asked)
    variances = []
    for weights in (opened.model.state(), last.weights):
        opened.model.load_state(weights)
        rows = embed_all(opened.model, opened.sides.val.views[0], Micro(4096, 8), Alone())
        variances.append(float(rows.var(axis=0).sum()))
    assert variances[1] > min(0.02, 0.1 * variances[0])  # no single point, and numbers all of them


def test_a_restart_counts_the_pre_training_once(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model, pool=60, pretrain_steps=4, steps=10, budget_minutes=40_000.0)
    opened, kept = open_work(asked), InMemory()
    long_ago = Trained(4, 4, 1e6, "all steps were taken")  # 12 days
    kept.phase("pretrain").finish(long_ago, opened.model.state())
    with pytest.raises(Killed):
        run_training(asked, checkpoints=kept, report=killed_at(6), opened=opened)
    trained = run_training(asked, checkpoints=kept)
    assert trained.pretrained == long_ago
    assert round(trained.seconds / 1e6) == 1
    assert (trained.steps, trained.ended) == (10, "all steps were taken")
