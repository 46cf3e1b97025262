from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from raystore.fine_tune.loop.checkpoints import InMemory, OnDisk
from raystore.fine_tune.loop.evaluate import embed_all
from raystore.fine_tune.loop.group import Alone
from raystore.fine_tune.loop.micro import Micro
from raystore.fine_tune.loop.points import Point
from raystore.fine_tune.loop.work import load_trained, open_work, run_training

from .small_work import work
from .test_loop_train import Killed, killed_at


def test_a_run_opens_reads_trains_and_says_what_it_read(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model)
    checkpoints = InMemory()
    trained = run_training(asked, checkpoints=checkpoints)
    assert trained.best_accuracy is not None
    assert trained.first_accuracy is not None
    assert trained.best_accuracy >= trained.first_accuracy
    assert trained.data["rows"]["train"] + trained.data["rows"]["val"] == 160 - sum(
        trained.data["leaks"]["val"].values()
    ) - sum(trained.data["leaks"]["train"].values())
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
    other = asked.changed(learning_rate=1e-4)
    assert other.digest != asked.digest
    assert asked.folder == Path(asked.root) / "tmp" / "fine_tune" / asked.digest[:12]
    assert asked.recipe == asked.changed().recipe


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
    asked = work(tmp_path, tiny_model, layers=1, distill=1.0, steps=6, losses="supcon")
    trained = run_training(asked)
    assert trained.steps == 6
    far = run_training(asked.changed(distill=0.0))
    assert trained.points[1].loss != far.points[1].loss
