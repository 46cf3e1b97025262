"""Train a head and publish it: inline, or on Ray Train workers. The Ray shell around recipe.py.

Each worker loads its own slice of the training rows through the source, so neither vectors nor labels pass
through Ray's object store, and raw content is never near. Cost on Ray: 13 to 23 s before the first step.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from raystore.layout import Layout, staging
from raystore.progress import Progress
from raystore.session import start_ray, thread_count
from raystore.train.arguments import check_arguments
from raystore.train.finish import KNN_TRAIN_ROWS, Rows, finish
from raystore.train.heads import Head, HeadRecord, Kind
from raystore.train.ray_train import (
    GROUP_TIMEOUT_S,
    MAX_FAILURES,
    cause_of,
    cpu_share,
    interruptible,
    run_again_after_early_deaths,
)
from raystore.train.recipe import Fitted, Recipe, fit_arrays, make_recipe
from raystore.train.source import Floats, Task, VectorSource


class _Fit(NamedTuple):
    fitted: Fitted
    n_train: int
    seconds: float


def train_head(
    layout: Layout,
    *,
    name: str,
    kind: Kind,
    classes: Sequence[str],
    source: VectorSource,
    fingerprint: str,
    encoder_label: str,
    snapshot: Mapping[str, Any],
    task: Task = "classes",
    workers: int = 0,
    seed: int = 0,
    precision: float | None = None,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Head:
    """The published head: fitted on train, calibrated on val, its report on test (else val, else train).

    Args:
        name: `heads/<name>/<n>` is written, n the next number.
        kind: "linear" (logistic or ridge regression), "mlp", or "knn", for which nothing is fitted.
        classes: label i of the source is `classes[i]`; none for the task "number".
        source: picklable where workers >= 1.
        fingerprint: the encoder's, whose vectors the source gives; `encoder_label` is its readable form.
        snapshot: {"name", "number", "hash"}.
        task: "classes" (one a row), "labels" (any number a row) or "number".
        workers: 0 fits in this process, 1 or more on as many Ray Train workers.
        seed: fixes an MLP's initial weights, batches and dropout; the other kinds have no chance in them.
        precision: the head abstains below the lowest confidence from which on this share of val is right ("classes"), or
            gives each label from the lowest probability that reaches it ("labels", else by F1). Where no threshold
            reaches it on val there is none, and `settings["not_reached"]` says the best there is.
        options: linear: l2 (scikit-learn's C, for numbers 1 / alpha; of a list the best on val is taken), loss ("multinomial"
            or "ovr"), class_weight ("balanced" or {class: weight}), max_iter, tol. mlp: hidden, dropout, learning_rate,
            weight_decay, batch_rows, max_epochs, patience, class_weight, seeds (a number of fits or a list; the best on
            val is taken). knn: k, power (a vote is the cosine to this power).
        progress: called with the steps done and the steps there are at most; on Ray once, at the end.

    Raises:
        InvalidName, InvalidArguments: everything that is wrong with the call, at once; nothing was run.
        JobFailed: a worker failed three times.
    """
    chosen = dict(options or {})
    check_arguments(name, kind, classes, source, workers, chosen, task=task, precision=precision)
    recipe = make_recipe(kind, classes, source, task, seed, chosen)
    n_train = len(source.labels("train"))
    val, test = source.load("val", 0, 1), source.load("test", 0, 1)
    if workers == 0 or kind == "knn":
        train = source.load("train", 0, 1)
        start = time.perf_counter()
        fit = _Fit(fit_arrays(recipe, train, val, progress=progress), len(train.labels), time.perf_counter() - start)
    else:
        fit = _fit_on_ray(layout, name, recipe, workers)
        train = source.load("train", 0, -(-n_train // KNN_TRAIN_ROWS))
        if progress is not None:
            progress(1, 1)
    settings = {**chosen, "seed": seed, "workers": workers, **fit.fitted.found}
    draft = HeadRecord(
        name=name,
        kind=kind,
        task=task,
        classes=tuple(classes),
        fingerprint=fingerprint,
        encoder=encoder_label,
        dim=train.vectors.shape[1],
        snapshot=dict(snapshot),
        settings=settings,
    )
    rows = Rows(source, fit.n_train, train, val, test)
    return finish(layout, draft, fit.fitted.arrays, rows, precision=precision, seconds=fit.seconds)


def _fit_on_ray(layout: Layout, name: str, recipe: Recipe, workers: int) -> _Fit:
    """The same fit on Ray Train workers; what they write lies under the store's tmp and is removed."""
    ray: Any = start_ray("ray.train", "ray.train.torch")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError
    from safetensors.numpy import load_file

    share = cpu_share(workers)
    with staging(layout.tmp) as stage:

        def run(attempt: int) -> Any:
            trainer = TorchTrainer(
                _train_loop,
                train_loop_config={"recipe": recipe, "threads": thread_count(workers)},
                scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": share}),
                torch_config=TorchConfig(backend="gloo", timeout_s=GROUP_TIMEOUT_S),
                run_config=RunConfig(
                    name=f"{name}-{attempt}",
                    storage_path=str(stage),
                    failure_config=FailureConfig(max_failures=MAX_FAILURES),
                ),
            )
            with interruptible(trainer):
                return trainer.fit()

        try:
            result = run_again_after_early_deaths(run)
        except (TrainingFailedError, ray.exceptions.RayError) as error:
            raise cause_of(error, f"training head '{name}' on {workers} workers") from None
        arrays = load_file(Path(result.checkpoint.path) / "head.safetensors")
    metrics = result.metrics
    return _Fit(Fitted(arrays, dict(metrics["found"])), int(metrics["n_train"]), float(metrics["seconds"]))


def _train_loop(config: dict[str, Any]) -> None:
    """One worker: its slice, the pure fit with sums over the group, and from rank 0 the arrays as a checkpoint."""
    import torch
    import torch.distributed as dist
    from ray import train
    from ray.train import Checkpoint
    from safetensors.numpy import save_file

    recipe: Recipe = config["recipe"]
    torch.set_num_threads(config["threads"])
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()

    def sum_over_workers(array: Floats) -> Floats:
        shared = torch.from_numpy(np.array(array, dtype=np.float64))
        dist.all_reduce(shared)
        summed: Floats = shared.numpy()
        return summed

    own, val = (recipe.source.load(split, rank, world) for split in ("train", "val"))
    start = time.perf_counter()
    arrays, found = fit_arrays(recipe, own, val, rank=rank, reduce=sum_over_workers)
    n_train = int(sum_over_workers(np.array([len(own.labels)]))[0])
    metrics = {"n_train": n_train, "seconds": time.perf_counter() - start, "found": found}
    with tempfile.TemporaryDirectory() as folder:
        if rank == 0:
            save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, f"{folder}/head.safetensors")
        train.report(metrics, checkpoint=Checkpoint.from_directory(folder) if rank == 0 else None)
