"""Many settings of a head side by side, inline or on Ray actors; the best is published. RAY, a thin shell around `try_setting`.

Each setting fits on train and is scored on val, after its own temperature. An actor loads the training rows itself, once,
so vectors pass through Ray never; what comes back are weights and scores.
Cost: a fit a setting; on Ray the training rows once in memory a worker.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from raystore.errors import InvalidArguments, JobFailed, RaystoreError
from raystore.layout import Layout, check_name
from raystore.markup import cells_html
from raystore.progress import Progress
from raystore.session import root_cause, start_ray, thread_count
from raystore.train import metrics
from raystore.train.arguments import check_arguments, option_problems
from raystore.train.calibration import fit_temperature
from raystore.train.finish import KNN_TRAIN_ROWS, Rows, finish
from raystore.train.heads import Head, HeadRecord, probabilities_of, scores
from raystore.train.knn import Neighbours
from raystore.train.losses import loss_sums
from raystore.train.recipe import Fitted, Recipe, fit_arrays, make_recipe
from raystore.train.source import Examples, Task, VectorSource

log = logging.getLogger("raystore")

# What a setting may fail by without ending the others: torch raises RuntimeError where memory runs out.
_ITS_OWN = (RaystoreError, MemoryError, RuntimeError, ValueError, ArithmeticError)
_SCORED = {"classes": ("log loss", "accuracy"), "labels": ("log loss", "micro-F1"), "number": ("RMSE", "mean error")}


@dataclass(frozen=True)
class Tried:
    """One setting: its place in the list that was given, what it was, and what it scored on val, or why it failed.

    `loss` is the log loss after temperature ("number": the root mean square error), lower is better; `score` is accuracy,
    micro-F1 from 0.5 on, or the mean absolute error; `found` is what the fit chose itself (l2 of a list, a seed).
    """

    place: int
    setting: dict[str, Any]
    loss: float | None = None
    score: float | None = None
    seconds: float = 0.0
    found: Mapping[str, Any] | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Sweep:
    """What was tried, best first, then what failed, in the order it was given; and the best setting's head, published."""

    head: Head
    tried: tuple[Tried, ...]

    @property
    def best(self) -> Tried:
        return self.tried[0]

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row a setting, best first: its settings, its loss and score on val by name, seconds, why it failed."""
        loss, score = _SCORED[self.head.task]
        by_place = sorted(self.tried, key=lambda t: t.place)
        options = [n for n in dict.fromkeys(name for t in by_place for name in t.setting) if n != "kind"]
        return [
            {
                "kind": t.setting.get("kind", "linear"),
                **{name: _short(t.setting.get(name), t.found, name) for name in options},
                f"val {loss}": t.loss,
                f"val {score}": t.score,
                "seconds": round(t.seconds, 2),
                "failed": t.reason,
            }
            for t in self.tried
        ]

    def __len__(self) -> int:
        return len(self.tried)

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        columns, rows, numeric = self._shown()
        table = Table(title=self._title, title_justify="left", title_style="", box=None, pad_edge=False)
        for name in columns:
            table.add_column(name, justify="right" if name in numeric else "left", no_wrap=name != "failed")
        for row in rows:
            table.add_row(*row)
        out = io.StringIO()
        Console(file=out, force_jupyter=False, width=120, color_system=None).print(table)
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        columns, rows, numeric = self._shown()
        return cells_html(columns, rows, title=self._title, right=numeric)

    def _shown(self) -> tuple[list[str], list[list[str]], set[str]]:
        """The columns that hold something, their cells in words, and which of them are numbers."""
        rows = self.to_dicts()
        columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        numeric = {name for name in columns if any(isinstance(row[name], (int, float)) for row in rows)}
        return columns, [[_cell(name, row[name]) for name in columns] for row in rows], numeric

    @property
    def _title(self) -> str:
        failed = sum(t.reason is not None for t in self.tried)
        return f"{len(self)} settings on val{f', {failed} failed' if failed else ''}; the best is {self.head.label}"


class Setting(NamedTuple):
    """All that a worker needs to try one: its place, the head's facts, the recipe."""

    place: int
    draft: HeadRecord
    recipe: Recipe


class Outcome(NamedTuple):
    tried: Tried
    fitted: Fitted | None


def sweep(
    layout: Layout,
    *,
    name: str,
    settings: Sequence[Mapping[str, Any]],
    classes: Sequence[str],
    source: VectorSource,
    fingerprint: str,
    encoder_label: str,
    snapshot: Mapping[str, Any],
    task: Task = "classes",
    workers: int = 0,
    seed: int = 0,
    precision: float | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """The settings by their loss on val, and the best one's head, published with its report.

    Args:
        settings: each {"kind": "linear", ...options of `train_head`}, perhaps with a "seed" of its own; kind is "linear" where
            it is not said. One that cannot be or fails is listed with its reason; the others go on. One that is given twice is
            tried once.
        workers: 0 tries one after the other in this process, else so many Ray actors try one each. The result is the same.
        progress: called with the settings tried so far and all of them.
        The rest as in `train_head`.

    Raises:
        InvalidName, InvalidArguments: what is wrong with every setting, such as no rows of val to score on; none that can be.
        JobFailed: every setting failed; the reasons are said.
    """
    call = f"sweep of head '{name}'"
    if not settings:
        check_name("a head", name, dashes=True)
        raise InvalidArguments(call=call, problems=["there are no settings to try"])
    check_arguments(name, "linear", classes, source, workers, {}, task=task, precision=precision, call=call)
    val = source.load("val", 0, 1)
    if not len(val.labels):
        raise InvalidArguments(call=call, problems=["settings are scored on rows of val, and there are none"])
    refused: list[Tried] = []
    jobs: list[Setting] = []
    once = _once(settings, seed)
    for place, given in once:
        kind, own_seed = given.get("kind", "linear"), given.get("seed", seed)
        options = {option: value for option, value in given.items() if option not in ("kind", "seed")}
        if problems := option_problems(kind, task, options, classes, has_val=True):
            refused.append(Tried(place, dict(given), reason="; ".join(problems)))
            continue
        draft = HeadRecord(
            name=name,
            kind=kind,
            task=task,
            classes=tuple(classes),
            fingerprint=fingerprint,
            encoder=encoder_label,
            dim=val.vectors.shape[1],
            snapshot=dict(snapshot),
            settings={**options, "seed": own_seed, "workers": 0, "sweep_of": len(once)},
        )
        jobs.append(Setting(place, draft, make_recipe(kind, classes, source, task, own_seed, options)))
    if not jobs:
        raise InvalidArguments(call=call, problems=[f"setting {t.place + 1}: {t.reason}" for t in refused])
    best: Outcome | None = None
    tried = list(refused)
    told: Progress = progress or (lambda *_: None)
    told(len(tried), len(once))
    outcomes = _on_ray(jobs, source, settings, workers) if workers else _inline(jobs, source, settings)
    with closing(outcomes):
        for outcome in outcomes:
            tried.append(outcome.tried)
            if outcome.fitted is not None and (best is None or _order(outcome.tried) < _order(best.tried)):
                best = outcome
            told(len(tried), len(once))
    tried.sort(key=_order)
    if best is None or best.fitted is None:
        reasons = "; ".join(f"setting {t.place + 1}: {t.reason}" for t in tried)
        raise JobFailed(job=call, reason=f"no setting could be fitted ({reasons})", advice="Change the settings.")
    draft = next(job.draft for job in jobs if job.place == best.tried.place)
    draft = draft.model_copy(update={"settings": {**draft.settings, **best.fitted.found}})
    n_train = len(source.labels("train"))
    slices = 1 if draft.kind == "knn" else -(-n_train // KNN_TRAIN_ROWS)
    rows = Rows(source, n_train, source.load("train", 0, slices), val, source.load("test", 0, 1))
    head = finish(layout, draft, best.fitted.arrays, rows, precision=precision, seconds=best.tried.seconds)
    return Sweep(head, tuple(tried))


def _once(settings: Sequence[Mapping[str, Any]], seed: int) -> list[tuple[int, Mapping[str, Any]]]:
    """The settings and their places, without those that say what an earlier one says."""
    seen: list[dict[str, Any]] = []
    kept = []
    for place, given in enumerate(settings):
        asked = {"kind": "linear", "seed": seed, **given}
        if asked not in seen:
            seen.append(asked)
            kept.append((place, given))
    return kept


def try_setting(job: Setting, given: Mapping[str, Any], train: Examples, val: Examples) -> Outcome:
    """One fit and its scores on val. Pure."""
    tried, start = Tried(job.place, dict(given)), time.perf_counter()
    try:
        fitted = fit_arrays(job.recipe, train, val)
        near = Neighbours(train) if job.draft.kind == "knn" else None
        seconds = time.perf_counter() - start
        draft = job.draft.model_copy(update={"settings": {**job.draft.settings, **fitted.found}})
        loss, score = _scores(draft, scores(draft, fitted.arrays, val.vectors, near), val)
    except RaystoreError as error:
        return Outcome(replace(tried, reason=str(error)), None)
    except _ITS_OWN as error:  # its text is not repeated: it may be long, and it is not ours
        return Outcome(replace(tried, reason=f"it ended with {type(error).__name__}"), None)
    if not np.isfinite(loss):
        return Outcome(replace(tried, seconds=seconds, reason="its loss on val is not finite"), None)
    return Outcome(replace(tried, loss=loss, score=score, seconds=seconds, found=fitted.found), fitted)


def _scores(draft: HeadRecord, found: Any, val: Examples) -> tuple[float, float]:
    if draft.task == "number":
        summed, mass = loss_sums("number", found, val.labels, val.weights).tolist()
        return float(np.sqrt(summed / mass)), float(np.abs(found[:, 0] - val.labels).mean())
    temperature = fit_temperature(found, val.labels, val.weights, draft.task)
    summed, mass = loss_sums(draft.task, found, val.labels, val.weights, scale=1 / temperature).tolist()
    probabilities = probabilities_of(draft.model_copy(update={"temperature": temperature}), found)
    if draft.task == "labels":
        counts = metrics.label_counts(val.labels != 0, probabilities >= 0.5)
        return summed / mass, float(metrics.micro_f1(counts))
    return summed / mass, metrics.accuracy(val.labels, probabilities.argmax(axis=1))


def _inline(
    jobs: Sequence[Setting], source: VectorSource, given: Sequence[Mapping[str, Any]]
) -> Generator[Outcome, None, None]:
    if jobs:
        train, val = source.load("train", 0, 1), source.load("val", 0, 1)
        yield from (try_setting(job, given[job.place], train, val) for job in jobs)


class _Fitter:
    """What a Ray worker runs: it loads the rows itself, at its first setting."""

    def __init__(self, source: VectorSource) -> None:
        self._source = source
        self._rows: tuple[Examples, Examples] | None = None

    def try_one(self, job: Setting, given: Mapping[str, Any], threads: int) -> Outcome:
        import torch

        torch.set_num_threads(threads)
        if self._rows is None:
            self._rows = (self._source.load("train", 0, 1), self._source.load("val", 0, 1))
        return try_setting(job, given, *self._rows)


def _on_ray(
    jobs: Sequence[Setting], source: VectorSource, given: Sequence[Mapping[str, Any]], workers: int
) -> Generator[Outcome, None, None]:
    """The settings' outcomes as they are there, by `workers` actors.

    Actors, because a sweep that is interrupted ends them by a kill (as index/build/run.py, which says why). One that dies is
    replaced and its setting tried once more; then the setting counts as failed.
    """
    ray = start_ray()
    at_once = min(workers, len(jobs))
    actor = ray.remote(_Fitter).options(num_cpus=1, max_restarts=-1, max_task_retries=1)
    waiting = list(reversed(jobs))
    fitters: list[Any] = []
    running: dict[object, tuple[Any, Setting]] = {}

    def start(fitter: Any) -> None:
        job = waiting.pop()
        running[fitter.try_one.remote(job, given[job.place], thread_count(at_once))] = (fitter, job)

    try:
        for _ in range(at_once):
            fitters.append(actor.remote(source))
            start(fitters[-1])
        while running:
            (done,), _ = ray.wait(list(running))
            fitter, job = running.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayActorError:
                outcome = Outcome(Tried(job.place, dict(given[job.place]), reason="its worker died twice"), None)
            if waiting:
                start(fitter)
            else:
                ray.kill(fitter)  # where there are more of them than CPUs, another waits for this one's
            yield outcome
    except ray.exceptions.RayError as error:
        raise root_cause(error, "sweep", "Nothing was published; try it with workers=0.") from None
    finally:
        for fitter in fitters:
            ray.kill(fitter)


def _order(tried: Tried) -> tuple[bool, float, int]:
    return (tried.loss is None, tried.loss or 0.0, tried.place)


def _short(value: Any, found: Mapping[str, Any] | None, name: str) -> Any:
    """An option as a cell: of a list also what was taken of it."""
    if isinstance(value, (list, tuple)):
        taken = (found or {}).get("seed" if name == "seeds" else name)
        return f"{', '.join(map(str, value))}" + (f" -> {taken}" if taken is not None else "")
    return "by class" if isinstance(value, Mapping) else value


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and name.startswith("val "):
        return f"{value:.1%}" if name.removeprefix("val ") in ("accuracy", "micro-F1") else f"{value:.4f}"
    return str(value)
