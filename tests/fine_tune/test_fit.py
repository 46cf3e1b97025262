from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from raystore.errors import DiskFull, JobFailed, TrainingDiverged
from raystore.fine_tune import fit as module
from raystore.fine_tune.fit import Fitted, fit
from raystore.fine_tune.loop.checkpoints import OnDisk
from raystore.fine_tune.loop.held import forget
from raystore.fine_tune.loop.log import read_points
from raystore.fine_tune.loop.points import Point
from raystore.train.ray_train import cause_of

from .small_work import work
from .test_loop_log import scalars
from .test_loop_train import Killed, killed_at

ROOT = Path(__file__).parents[2]


def assert_same_run(found: Fitted, expected: Fitted, tolerance: float = 1e-3) -> None:
    """Within what other sums of the same numbers differ by."""
    assert found.trained.steps == expected.trained.steps
    for point, other in zip(found.trained.points, expected.trained.points, strict=True):
        assert (point.step, point.phase) == (other.step, other.phase)
        assert point.loss == pytest.approx(other.loss, abs=tolerance)
    assert found.weights.keys() == expected.weights.keys()
    if found.trained.best_step == expected.trained.best_step:
        for name, tensor in expected.weights.items():
            # Attention does not depend on the bias of its keys: its gradient is rounding alone, which AdamW makes steps of.
            if not name.endswith("key.bias"):
                torch.testing.assert_close(found.weights[name], tensor, rtol=tolerance, atol=tolerance, msg=name)


def test_a_fit_leaves_its_points_and_its_result_and_is_read_the_next_time(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model)
    heard: list[Point] = []
    found = fit(asked, report=heard.append)
    assert tuple(heard) == found.trained.points
    assert read_points(found.folder / "points.csv") == heard
    assert sorted(p.name for p in found.folder.iterdir()) == ["done", "points.csv", "tensorboard"]
    again = fit(asked, workers=2, report=heard.append)  # no Ray is started for it
    assert again.trained == found.trained
    assert len(heard) == len(found.trained.points)
    forget(asked.folder)
    assert not asked.folder.exists()


def test_a_driver_that_was_killed_goes_on_from_its_checkpoint(tmp_path: Path, tiny_model: Path) -> None:
    asked = work(tmp_path, tiny_model, dropout=0.1)
    with pytest.raises(Killed):
        fit(asked, report=killed_at(7))
    heard: list[Point] = []
    found = fit(asked, report=heard.append)
    assert heard[0].step > 1
    assert [p.step for p in read_points(found.folder / "points.csv")] == list(range(13))
    forget(asked.folder)
    whole = fit(asked)
    for name, tensor in whole.weights.items():
        assert torch.equal(found.weights[name], tensor), name


def test_of_several_workers_errors_the_one_that_the_others_stopped_for_is_told(tmp_path: Path) -> None:
    stopped = {"job": "fine-tuning", "reason": "another worker stopped", "advice": "Its error says why."}
    diverged = {"step": 3, "found": "its loss is not a number", "learning_rate": 0.1, "kept": 0}
    (tmp_path / "failed-0.json").write_text(json.dumps({"kind": "JobFailed", "facts": stopped}))
    assert isinstance(module._failure(tmp_path), JobFailed)
    (tmp_path / "failed-1.json").write_text(json.dumps({"kind": "TrainingDiverged", "facts": diverged}))
    found = module._failure(tmp_path)
    assert isinstance(found, TrainingDiverged)
    assert found.facts == diverged
    module._clear_failures(tmp_path)
    assert module._failure(tmp_path) is None


def test_points_of_a_file_are_heard_while_it_grows(tmp_path: Path) -> None:
    from raystore.fine_tune.loop.log import CsvLog

    log, heard = CsvLog(tmp_path / "points.csv"), list[int]()
    log(Point(0, 9, "train", 0.0))
    with module._heard(tmp_path / "points.csv", lambda point: heard.append(point.step)):
        for step in (1, 2, 3):
            log(Point(step, 9, "train", 0.0))
    assert heard == [1, 2, 3]


def test_what_rays_controller_is_told_is_on_the_disk_at_once_since_it_is_told_of_no_end(tmp_path: Path) -> None:
    callback = module._make_callback(tmp_path)
    points = [Point(step, 2, "train", 1.0, loss=1.5 - step) for step in (1, 2)]
    for point in points:
        callback.after_report(None, [point.to_dict(), point.to_dict()], None)
    assert read_points(tmp_path / "points.csv") == points
    assert list(scalars(tmp_path / "tensorboard")) == [("train/loss", 1, 0.5), ("train/loss", 2, -0.5)]


def test_a_full_disk_under_the_curve_arrives_from_rays_controller(tmp_path: Path) -> None:
    from ray.train.v2.api.exceptions import ControllerError

    (tmp_path / "points.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull) as full:
        module._make_callback(tmp_path).after_report(None, [Point(1, 2, "train", 1.0).to_dict()], None)
    assert cause_of(ControllerError(full.value), "fine-tuning on 2 workers") is full.value


@pytest.mark.ray
def test_two_ray_workers_train_to_what_one_process_trains_to(tmp_path: Path, tiny_model: Path, ray_session: object) -> None:
    asked = work(tmp_path, tiny_model, losses={"supcon": 1.0, "arcface": 0.1})
    inline = fit(asked)
    forget(asked.folder)
    heard: list[Point] = []
    spread = fit(asked, workers=2, report=heard.append)
    assert_same_run(spread, inline)
    assert spread.trained.workers == 2
    assert heard[-1] == spread.trained.points[-1]
    assert [p.step for p in read_points(spread.folder / "points.csv")] == list(range(13))
    assert list((spread.folder / "tensorboard").glob("events.*"))
    assert sorted(p.name for p in spread.folder.iterdir()) == ["done", "points.csv", "tensorboard"]


def _workers() -> list[int]:
    """Processes of Ray that train at this moment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes()
        except OSError:
            continue
        if b"RayTrainWorker" in name:
            found.append(int(path.parent.name))
    return found


@pytest.mark.ray
@pytest.mark.slow
def test_a_ray_worker_that_is_killed_is_replaced_and_the_run_goes_on(
    tmp_path: Path, tiny_model: Path, ray_session: object
) -> None:
    asked = work(tmp_path, tiny_model, steps=40)
    inline = fit(asked)
    forget(asked.folder)
    killed: list[int] = []

    def kill(point: Point) -> None:
        if point.step >= 8 and not killed and (there := _workers()):
            killed.append(there[-1])
            os.kill(there[-1], signal.SIGKILL)

    found = fit(asked, workers=2, report=kill)
    assert len(killed) == 1
    assert_same_run(found, inline)


_DRIVER = """
import sys, pickle
from pathlib import Path
from raystore.fine_tune.fit import fit
work = pickle.loads(Path(sys.argv[1]).read_bytes())
fit(work, workers=2)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_driver_of_ray_workers_goes_on_with_another_number_of_them(tmp_path: Path, tiny_model: Path) -> None:
    import pickle

    asked = work(tmp_path, tiny_model, steps=400)
    (tmp_path / "work").write_bytes(pickle.dumps(asked))
    command = [sys.executable, "-c", _DRIVER, str(tmp_path / "work")]
    sockets = Path(tempfile.mkdtemp(prefix="rs-"))  # a short path
    driver = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "RAYSTORE_RAY_TMP": str(sockets)})
    try:
        while OnDisk(asked.folder).last() is None:
            assert driver.poll() is None
            time.sleep(0.2)
    finally:
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        shutil.rmtree(sockets, ignore_errors=True)
    points: list[Point] = []
    found = fit(asked, report=points.append)
    assert points[0].step >= 40
    assert found.trained.steps == 400


@pytest.mark.ray
@pytest.mark.slow
def test_what_ray_workers_raise_on_purpose_arrives_whole_and_at_once(
    tmp_path: Path, tiny_model: Path, ray_session: object
) -> None:
    asked = work(tmp_path, tiny_model, matryoshka=(500,))
    with pytest.raises(Exception, match="matryoshka= names 500, and the vectors have 32 dimensions"):
        fit(asked, workers=2)
    assert not list(asked.folder.glob("ray-*"))
