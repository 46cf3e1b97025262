from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raystore.errors import DiskFull
from raystore.fine_tune.loop import checkpoints as module
from raystore.fine_tune.loop.checkpoints import Checkpoints, InMemory, OnDisk, Saved
from raystore.fine_tune.loop.points import Point, Suspect, Trained


def saved(step: int) -> Saved:
    tensors = {"a|exp_avg": torch.full((2,), float(step)), "n": torch.tensor([step])}
    return Saved(step, {"a": torch.full((3,), float(step))}, tensors, {"seen": step, "micro": [1, 2]})


TRAINED = Trained(
    steps=9, best_step=6, seconds=1.5, ended="all steps were taken", rows=90, first_accuracy=0.5, best_accuracy=0.75,
    points=(Point(0, 9, "train", 0.1, val_accuracy=0.5), Point(1, 9, "train", 0.2, loss=2.0)),
    suspects=(Suspect("row 'ä'", "a b", 0.9),), micro={"tokens": 64, "images": 1}, data={"digest": "ab"},
    notes=("there are 4 classes, so a batch holds 16 rows of each",),
    pretrained=Trained(2, 2, 0.1, "all steps were taken"),
)  # fmt: skip


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_what_was_saved_last_and_best_is_there_again(tmp_path: Path, kind: str) -> None:
    kept: Checkpoints = InMemory() if kind == "memory" else OnDisk(tmp_path / "run")
    assert kept.last() is None
    assert kept.best() is None
    assert kept.done() is None
    for step in (5, 10):
        kept.save(saved(step))
        kept.save_best(step, {"a": torch.full((3,), -float(step))})
    last, best = kept.last(), kept.best()
    assert last is not None
    assert best is not None
    assert (last.step, dict(last.facts)) == (10, {"seen": 10, "micro": [1, 2]})
    assert torch.equal(last.weights["a"], torch.full((3,), 10.0))
    assert torch.equal(last.optimiser["n"], torch.tensor([10]))
    assert (best[0], best[1]["a"].tolist()) == (10, [-10.0] * 3)
    assert kept.phase("pretrain").last() is None
    kept.finish(TRAINED, {"a": torch.ones(3)})
    done = kept.done()
    assert done is not None
    assert done[0] == TRAINED
    assert done[1]["a"].tolist() == [1.0] * 3


def test_on_the_disk_stands_one_of_each_and_in_the_end_the_result_alone(tmp_path: Path) -> None:
    kept = OnDisk(tmp_path)
    for step in (5, 10, 15):
        kept.save(saved(step))
        kept.save_best(step, {"a": torch.ones(1)})
    kept.save(saved(15))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-15", "last-15"]
    kept.finish(TRAINED, {"a": torch.ones(1)})
    assert [p.name for p in tmp_path.iterdir()] == ["done"]
    assert not list(tmp_path.rglob("*.pkl")) + list(tmp_path.rglob("*.pt"))


def test_a_worker_that_does_not_write_reads_what_the_first_wrote(tmp_path: Path) -> None:
    other = OnDisk(tmp_path, writes=False)
    other.save(saved(1))
    other.save_best(1, {})
    other.finish(TRAINED, {})
    assert not list(tmp_path.iterdir())
    OnDisk(tmp_path).save(saved(2))
    found = other.last()
    assert found is not None
    assert found.step == 2


@pytest.mark.parametrize("file", ["weights.safetensors", "optimiser.safetensors"])
def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    kept = OnDisk(tmp_path)
    kept.save(saved(5))
    write = module._write

    # A disk cannot be filled here without harm; safetensors says the system's error in words, as below.
    def full(path: Path, tensors: Any) -> None:
        write(path, tensors)
        if path.name == file:
            path.write_bytes(path.read_bytes()[:-8])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(DiskFull) as refused:
        kept.save(saved(10))
    assert str(refused.value) == (
        f"no space left on the disk of '{tmp_path}' while writing a checkpoint of a fine-tuning. What was acknowledged before is "
        "safe, the rest was not written. Free space and repeat the call; it goes on where it stopped."
    )
    found = OnDisk(tmp_path).last()
    assert found is not None
    assert found.step == 5
    assert [p.name for p in tmp_path.iterdir()] == ["last-5"]


def test_a_part_that_a_kill_left_is_no_checkpoint(tmp_path: Path) -> None:
    kept = OnDisk(tmp_path)
    kept.save(saved(5))
    (tmp_path / "last-10.part").mkdir()
    (tmp_path / "last-10.part" / "state.json").write_text("{")
    found = kept.last()
    assert found is not None
    assert found.step == 5


def test_a_result_is_json() -> None:
    assert Trained.from_dict(json.loads(json.dumps(TRAINED.to_dict()))) == TRAINED
