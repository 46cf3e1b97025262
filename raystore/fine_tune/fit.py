"""A fine-tuning run to its end: inline, or on Ray Train workers. RAY, a thin shell around loop/work.py.

Every worker opens the base and reads the files itself, so no content and no gradient passes through Ray. Checkpoints are files under
the store's tmp, which all workers see; Ray Train is told where they are. They outlive workers and driver: whoever runs the same work
again goes on from the last one, with any number of workers.
Cost on Ray: 13 to 23 s before the first step, and once more for each restart.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raystore import errors
from raystore.errors import RaystoreError
from raystore.fine_tune.loop.checkpoints import OnDisk, Saved
from raystore.fine_tune.loop.group import ANOTHER_STOPPED, TorchGroup
from raystore.fine_tune.loop.log import Logs, read_points
from raystore.fine_tune.loop.points import Point, Report, Trained, nobody
from raystore.fine_tune.loop.work import Work, run_training
from raystore.session import start_ray, thread_count
from raystore.train.ray_train import (
    GROUP_TIMEOUT_S,
    MAX_FAILURES,
    cause_of,
    cpu_share,
    interruptible,
    run_again_after_early_deaths,
)

if TYPE_CHECKING:
    from torch import Tensor

_LISTEN_S = 0.5
_POINTS = "points.csv"


class Fitted(NamedTuple):
    """`weights` is what `loop.work.load_trained` takes; `folder` holds points.csv and may go when both are published."""

    trained: Trained
    weights: dict[str, Tensor]
    folder: Path


def fit(work: Work, *, workers: int = 0, use_gpu: bool | None = None, report: Report = nobody) -> Fitted:
    """The finished run. Where it was begun before it goes on; where it was finished it is read. For who holds its folder (`loop.held`).

    Args:
        workers: 0 trains in this process, more on as many Ray Train workers, which have the same gradients together.
        use_gpu: a GPU for each worker, and nccl between them; None is yes where this machine and the cluster have them.
        report: hears every point, in this process.

    Raises:
        As `run_training`; JobFailed where a worker failed three times.
    """
    checkpoints = OnDisk(work.folder)
    if checkpoints.done() is None:
        if workers == 0:
            _inline(work, work.folder, report)
        else:
            _on_ray(work, work.folder, workers, use_gpu, report)
    done = checkpoints.done()
    assert done is not None
    return Fitted(done[0], done[1], work.folder)


def _inline(work: Work, folder: Path, report: Report) -> None:
    logs = Logs(folder, report)
    try:
        run_training(work, checkpoints=OnDisk(folder), report=logs)
    finally:
        logs.close()


def _on_ray(work: Work, folder: Path, workers: int, use_gpu: bool | None, report: Report) -> None:
    ray: Any = start_ray("ray.train", "ray.train.torch")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    gpus = _has_gpus(ray, workers) if use_gpu is None else use_gpu
    resources = {"CPU": cpu_share(workers), **({"GPU": 1} if gpus else {})}
    folder.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix="ray-", dir=folder))
    job = f"fine-tuning on {workers} workers"

    def run(attempt: int) -> Any:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"work": work, "folder": str(folder), "threads": thread_count(workers), "gpu": gpus},
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=gpus, resources_per_worker=resources),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=GROUP_TIMEOUT_S),
            run_config=RunConfig(
                name=f"attempt-{attempt}",
                storage_path=str(stage),
                failure_config=FailureConfig(max_failures=MAX_FAILURES),
                callbacks=[_make_callback(folder)],
            ),
        )
        with interruptible(trainer):
            return trainer.fit()

    _clear_failures(folder)
    try:
        with _heard(folder / _POINTS, report):
            run_again_after_early_deaths(run)
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        raise cause_of(error, job) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    if failure := _failure(folder):
        raise failure


def _has_gpus(ray: Any, workers: int) -> bool:
    import torch

    return torch.cuda.is_available() and ray.cluster_resources().get("GPU", 0) >= workers


def _make_callback(folder: Path) -> Any:
    """Ray Train's own callback, which hears every report in its controller: it writes the logs.

    It is told of no end, so nothing closes them; they have every point on the disk by then. What it raises ends the training, and
    arrives with the driver.
    """
    from ray.train import UserCallback

    class PointsCallback(UserCallback):  # type: ignore[misc]
        logs: Logs | None = None

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:  # noqa: ARG002
            if self.logs is None:
                self.logs = Logs(folder)
            self.logs(Point.from_dict(metrics[0]))

    return PointsCallback()


@contextmanager
def _heard(path: Path, report: Report) -> Iterator[None]:
    """`report` is told each new point of a CSV file while the block runs."""
    over = threading.Event()
    told: set[tuple[str, int]] = {(point.phase, point.step) for point in read_points(path)}

    def listen() -> None:
        while True:
            last = over.wait(_LISTEN_S)
            for point in read_points(path):
                if (point.phase, point.step) not in told:
                    told.add((point.phase, point.step))
                    report(point)
            if last:
                return

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        yield
    finally:
        over.set()
        listener.join()


class _TellingRay(OnDisk):
    """Checkpoints that remember which of them Ray Train has not been told of."""

    untold: int | None = None

    def save(self, saved: Saved) -> None:
        super().save(saved)
        self.untold = saved.step


def _worker(config: dict[str, Any]) -> None:
    """One worker: the run with its group. What it raises on purpose is put down for the driver, since Ray Train would try it again."""
    import torch
    from ray import train
    from ray.train import Checkpoint
    from ray.train.torch import get_device

    torch.set_num_threads(config["threads"])
    folder, rank = Path(config["folder"]), train.get_context().get_world_rank()
    device = get_device() if config["gpu"] else torch.device("cpu")
    checkpoints = _TellingRay(folder, writes=rank == 0)

    def report(point: Point) -> None:
        """All workers report together; the first says where the newest checkpoint stands: Ray Train's way for files that are there."""
        with tempfile.TemporaryDirectory() as pointer:
            told = None
            if rank == 0 and checkpoints.untold is not None:
                about = {"folder": str(folder), "step": checkpoints.untold}
                Path(pointer, "checkpoint.json").write_text(json.dumps(about), encoding="utf-8")
                told, checkpoints.untold = Checkpoint.from_directory(pointer), None
            train.report(point.to_dict(), checkpoint=told)

    try:
        run_training(config["work"], TorchGroup(device), checkpoints, report, device=str(device))
    except RaystoreError as error:
        about = {"kind": type(error).__name__, "facts": error.facts}
        (folder / f"failed-{rank}.json").write_text(json.dumps(about), encoding="utf-8")


def _clear_failures(folder: Path) -> None:
    for path in folder.glob("failed-*.json"):
        path.unlink()


def _failure(folder: Path) -> RaystoreError | None:
    """What a worker put down; of several the one that the others stopped for."""
    found: list[RaystoreError] = []
    for path in sorted(folder.glob("failed-*.json")):
        about: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found.append(getattr(errors, about["kind"])(**about["facts"]))
    own = [error for error in found if getattr(error, "reason", None) != ANOTHER_STOPPED]
    return next(iter(own or found), None)
