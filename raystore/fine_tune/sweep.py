"""Settings of a recipe side by side in short runs, judged by val: one after the other here, or through Ray Tune. RAY.

Each trial opens the base and trains with nothing on the disk; what comes back are points, no weights. On Ray a trial reads the files
itself, and has a GPU, or its share of one, where the cluster has some. Cost: a short run each; on Ray 10 to 20 s more before the first
is under way, and the data in memory a trial.
"""

from __future__ import annotations

import io
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raystore.errors import InvalidArguments, JobFailed, RaystoreError
from raystore.fine_tune.examples.types import Sides
from raystore.fine_tune.loop.points import Trained
from raystore.fine_tune.loop.work import Opened, Work, open_work, run_training
from raystore.fine_tune.recipe import named
from raystore.layout import staging
from raystore.markup import cells_html, page_html
from raystore.progress import Noted
from raystore.session import root_cause, start_ray, thread_count

# What a setting may fail by without ending the others; torch raises RuntimeError where a device refuses.
_ITS_OWN = (RaystoreError, MemoryError, RuntimeError, ValueError, ArithmeticError)


@dataclass(frozen=True)
class Tried:
    """One setting: its place in the list that was given, what it was, and how it did on val, or why it failed."""

    place: int
    setting: dict[str, Any]
    accuracy: float | None = None  # kNN accuracy of val, the best of its looks
    precision: float | None = None  # P@10 at that look
    loss: float | None = None  # its last
    steps: int = 0
    seconds: float = 0.0
    reason: str | None = None


@dataclass(frozen=True)
class Sweep:
    """What was tried, best first, then what failed. `before`: the kNN accuracy of val with the base."""

    tried: tuple[Tried, ...]
    before: float | None = None

    @property
    def best(self) -> dict[str, Any]:
        """The best setting, as it was given: for `fine_tune(..., **best)`."""
        return self.tried[0].setting

    def to_dicts(self) -> list[dict[str, Any]]:
        """A row a setting, best first."""
        names = list(dict.fromkeys(name for t in sorted(self.tried, key=lambda t: t.place) for name in t.setting))
        return [
            {
                **{name: t.setting.get(name) for name in names},
                "val accuracy": t.accuracy,
                "val P@10": t.precision,
                "loss": t.loss,
                "steps": t.steps or None,
                "seconds": round(t.seconds, 1),
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

    def to_html(self) -> str:
        """A page of its own."""
        return page_html("Settings tried", self._repr_html_())

    def _shown(self) -> tuple[list[str], list[list[str]], set[str]]:
        """The columns that hold something, their cells in words, and which of them are numbers."""
        rows = self.to_dicts()
        columns = [name for name in rows[0] if any(row[name] is not None for row in rows)]
        numeric = {name for name in columns if any(isinstance(row[name], (int, float)) for row in rows)}
        return columns, [[_cell(name, row[name]) for name in columns] for row in rows], numeric

    @property
    def _title(self) -> str:
        failed = sum(t.reason is not None for t in self.tried)
        base = "" if self.before is None else f"; the base has {self.before:.1%}"
        return (
            f"{len(self)} settings in short runs, by the kNN accuracy of val{base}{f'; {failed} failed' if failed else ''}"
        )


def sweep(
    work: Work,
    settings: Sequence[Mapping[str, Any]],
    *,
    minutes: float | None = 2.0,
    workers: int = 0,
    progress: Noted | None = None,
    call: str = "sweep",
) -> Sweep:
    """The settings by what they reach on val in `minutes` each.

    Args:
        settings: each some numbers of a recipe, over those of `work.recipe`. One that is given twice is tried once; one that fails
            is listed with its reason, the others go on.
        minutes: of each run, opening the base left out; None takes all of its steps.
        workers: 0 tries one after the other in this process, else so many at once through Ray Tune. The results are the same, as
            far as the minutes reach equally far.
        progress: called with the settings tried so far, all of them, and the best accuracy so far in words.

    Raises:
        InvalidArguments: what is wrong with all settings, such as an unknown name. JobFailed: every one failed.
    """
    trials = _trials(work, settings, minutes, call)
    told: Noted = progress or (lambda *_: None)
    told(0, len(trials), "")
    outcomes = _on_ray(trials, workers) if workers else _inline(trials)
    tried: list[Tried] = []
    before: float | None = None
    for one, base in outcomes:
        tried.append(one)
        before = base if before is None else before
        best = max((t.accuracy for t in tried if t.accuracy is not None), default=None)
        told(len(tried), len(trials), "" if best is None else f"best {best:.1%}")
    tried.sort(key=lambda t: (t.accuracy is None, -(t.accuracy or 0.0), -(t.precision or 0.0), t.place))
    if tried[0].accuracy is None:
        reasons = "; ".join(f"setting {t.place + 1}: {t.reason}" for t in tried)
        raise JobFailed(job=call, reason=f"no setting could be tried ({reasons})", advice="Change the settings.")
    return Sweep(tuple(tried), before)


@dataclass(frozen=True)
class Trial:
    """One setting as work of its own."""

    place: int
    setting: dict[str, Any]
    work: Work


def _trials(work: Work, settings: Sequence[Mapping[str, Any]], minutes: float | None, call: str) -> list[Trial]:
    problems: list[str] = []
    found: list[Trial] = []
    if not settings:
        problems.append("there are no settings to try")
    for place, given in enumerate(settings):
        setting = dict(given)
        if any(setting == other.setting for other in found):
            continue
        try:
            recipe = named(None, {**work.recipe.model_dump(), **setting}, call=call)
            short = recipe.model_copy(update={"budget_minutes": minutes} if minutes is not None else {})
            found.append(Trial(place, setting, replace(work, recipe=short)))
        except (InvalidArguments, ValidationError) as error:
            said = error.problems if isinstance(error, InvalidArguments) else ["it cannot be"]
            problems += [f"setting {place + 1}: {problem}" for problem in said]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return found


def try_setting(trial: Trial, open_it: Callable[[Work], Opened]) -> tuple[Tried, float | None]:
    """One short run, and what the base had on val. What it fails by is its reason."""
    tried, began = Tried(trial.place, trial.setting), time.perf_counter()
    try:
        trained = run_training(trial.work, opened=open_it(trial.work))
    except RaystoreError as error:
        return replace(tried, seconds=time.perf_counter() - began, reason=str(error)), None
    except _ITS_OWN as error:  # its text is not repeated: it may be long, and it is not ours
        reason = f"it ended with {type(error).__name__}"
        return replace(tried, seconds=time.perf_counter() - began, reason=reason), None
    if trained.best_accuracy is None:
        return replace(tried, reason="there are no rows of val to judge it by"), None
    return _scored(tried, trained, time.perf_counter() - began), trained.first_accuracy


def _scored(tried: Tried, trained: Trained, seconds: float) -> Tried:
    best = next(p for p in trained.points if p.step == trained.best_step and p.val_accuracy is not None)
    losses = [p.loss for p in trained.points if p.loss is not None]
    return replace(
        tried,
        accuracy=trained.best_accuracy,
        precision=best.val_precision,
        loss=losses[-1] if losses else None,
        steps=trained.steps,
        seconds=seconds,
    )


def _inline(trials: Sequence[Trial]) -> Iterator[tuple[Tried, float | None]]:
    """One after the other; the data is read once for all that read it alike."""
    read: dict[tuple[Any, ...], Sides] = {}

    def open_it(work: Work) -> Opened:
        alike = (work.recipe.max_tokens, work.recipe.augment)
        opened = open_work(work, sides=read.get(alike))
        read.setdefault(alike, opened.sides)
        return opened

    for trial in trials:
        yield try_setting(trial, open_it)


def _on_ray(trials: Sequence[Trial], workers: int) -> Iterator[tuple[Tried, float | None]]:
    """All of them through Ray Tune, `workers` at once."""
    # Tune's own handler takes a Ctrl-C for a wish to end with what is there (its documented switch; docs of Ray 2.60).
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    ray: Any = start_ray("ray.tune")
    from ray import tune

    threads = thread_count(min(workers, len(trials)))
    root = Path(trials[0].work.root)

    def run(config: dict[str, Any]) -> None:
        import torch

        torch.set_num_threads(threads)
        tried, before = try_setting(trials[config["place"]], open_work)
        tune.report({"tried": asdict(tried), "before": before})

    with staging(root / "tmp") as stage:
        tuner = tune.Tuner(
            tune.with_resources(run, {"cpu": 1, **_gpu_share(ray, min(workers, len(trials)))}),
            param_space={"place": tune.grid_search(list(range(len(trials))))},
            tune_config=tune.TuneConfig(max_concurrent_trials=workers),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=str(stage),
                failure_config=tune.FailureConfig(max_failures=1),
                verbose=0,
            ),
        )
        try:
            results = tuner.fit()
        except ray.exceptions.RayError as error:
            raise root_cause(error, "sweep", "Nothing was kept; try it with workers=0.") from None
        for result in results:
            metrics = result.metrics or {}
            if "tried" in metrics:
                yield Tried(**metrics["tried"]), metrics["before"]
                continue
            lost = trials[result.config["place"]]
            yield Tried(lost.place, lost.setting, reason="its worker died twice"), None


def _gpu_share(ray: Any, at_once: int) -> dict[str, float]:
    """So much of a GPU that as many trials as go on at once have their part; nothing where the cluster has none."""
    gpus = ray.cluster_resources().get("GPU", 0)
    return {"gpu": min(1.0, math.floor(1e4 * gpus / at_once) / 1e4)} if gpus else {}


def _cell(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1%}" if name.startswith("val ") else f"{value:.4g}"
    if isinstance(value, Mapping):
        return " + ".join(f"{weight:g} {loss}" if weight != 1 else str(loss) for loss, weight in value.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
