"""Build each kind once over rows of a collection, measure it with every number of probes, choose, and keep what was found.

Nothing of it is served: the shards are written under tmp/ and removed. The shards, their files and their search are those
of a real build.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from raystore.errors import InvalidArguments
from raystore.index.kinds import KINDS, TABLE, KindName
from raystore.index.metric import METRICS, Metric, as_queries
from raystore.index.shards.exact import Scores
from raystore.index.shards.shard import Shard, ShardFacts
from raystore.index.shards.write import write_shard
from raystore.index.source import ROW_ID_END, Scanned, VectorSource
from raystore.index.tune.choose import Budget, Choice, choose
from raystore.index.tune.measure import interval, pace_of, recall_of, steps
from raystore.index.tune.model import fit, grown
from raystore.index.tune.sample import draw
from raystore.index.tune.table import Trial, Tuning, write_tuning
from raystore.layout import Layout, staging
from raystore.progress import Progress
from raystore.vectors import Matrix, check_fingerprint

QUERIES = 1_000
LEAST_ROWS = 100
_ENOUGH = 0.99  # recall above which no more probes are tried, once the target is reached
_GAIN = 0.001  # what more probes must add, or no more are tried: what is missing was not nominated
_NEAR = 0.15  # below the target by more than this a setting is not worth timing
_SECONDS = 0.4  # of each of the two paces
_SMALLER = 4  # the chosen kind is tried over so many times fewer rows too: it tells how probes grow
_GROWS_FROM = 4_000  # rows


def tune(
    source: VectorSource,
    layout: Layout,
    collection: str,
    fingerprint: str,
    *,
    recall: float = 0.95,
    memory_bytes: int | None = None,
    p95_ms: float | None = None,
    k: int = 10,
    queries: object = None,
    kinds: Sequence[str] | None = None,
    metric: Metric = "cosine",
    sample_rows: int = 200_000,
    progress: Progress | None = None,
) -> Tuning:
    """What each kind of index reaches on this collection's vectors, and which of them to build; kept in the store.

    Args:
        recall: of the `k` nearest, to be reached by the low end of the 95% interval.
        memory_bytes: that an index over the whole collection may hold in private memory.
        p95_ms: within which 95 of 100 single queries are answered, in one process.
        queries: (m, d) vectors as users ask them; without, rows of the collection, left out of what is indexed.
        kinds: to try; all by default. "exact" is always among them: it is the truth.
        sample_rows: of a larger collection so many rows are drawn, and what the whole takes is foretold from them.
        progress: called with the kinds measured so far and the kinds in all.

    Raises:
        InvalidArguments: every argument that cannot be, a collection with fewer than 100 vectors.
        PassportMismatch, DimensionMismatch, InvalidVectors: queries that cannot be compared, no vectors of this encoder.

    Cost: of 200,000 rows and all kinds some minutes, 300 MB of memory at d = 384, and the files of one index at a time.
    """
    began = time.monotonic()
    call = f"tune of collection '{collection}'"
    wanted = list(dict.fromkeys(["exact", *(KINDS if kinds is None else kinds)]))
    _check(call, recall, memory_bytes, p95_ms, k, wanted, metric, sample_rows)
    version = source.version
    sample, asked, rows = draw(source, fingerprint, sample_rows, QUERIES if queries is None else 0)
    if len(sample.vectors) < LEAST_ROWS:
        problem = (
            f"collection '{collection}' has {rows} vectors of this encoder, expected at least {LEAST_ROWS} to measure on"
        )
        raise InvalidArguments(call=call, problems=[problem])
    if queries is not None:
        check_fingerprint(queries, fingerprint, call, "Encode the queries with the collection's encoder.")
        asked = as_queries(queries, sample.dim(fingerprint), metric, call)
    budget = Budget(recall, rows, memory_bytes, p95_ms)
    bench = Bench(layout, metric, k, recall, asked)
    trials: list[Trial] = []
    for done, kind in enumerate(TABLE[name].name for name in wanted):
        if progress is not None:
            progress(done, len(wanted) + 1)
        trials += bench.trials(sample, kind)
    foretold = tuple(_foretold(trial, trials, rows, recall) for trial in trials)
    choice = choose(foretold, budget)
    if progress is not None:
        progress(len(wanted), len(wanted) + 1)
    taken = None if choice.at is None else trials[choice.at]
    if taken is not None and taken.kind != "exact" and len(sample.vectors) >= _GROWS_FROM:
        smaller = sample.part(_SMALLER)
        trials += [*bench.trials(smaller, "exact"), *bench.trials(smaller, taken.kind)]
    if progress is not None:
        progress(len(wanted) + 1, len(wanted) + 1)
    return write_tuning(
        layout,
        Tuning(
            collection=collection,
            fingerprint=fingerprint,
            metric=metric,
            dim=sample.dim(fingerprint),
            version=version,
            collection_rows=rows,
            rows=len(sample.vectors),
            k=k,
            queries=len(asked),
            held_out=queries is None,
            target_recall=recall,
            memory_bytes=memory_bytes,
            p95_ms=p95_ms,
            cores=max(1, os.cpu_count() or 1),
            trials=tuple(trials),
            foretold=foretold,
            chosen=choice.at,
            explanation=_explained(choice, rows, len(sample.vectors)),
            unmet=choice.unmet,
            seconds=round(time.monotonic() - began, 1),
        ),
    )


class Bench:
    """Tries kinds over samples; the exact kind of each sample comes first and is the truth of the others."""

    def __init__(self, layout: Layout, metric: Metric, k: int, target: float, queries: Matrix) -> None:
        self._layout = layout
        self._metric = metric
        self._k = k
        self._target = target
        self._queries = queries
        self._truth: Scores | None = None

    def trials(self, sample: Scanned, kind: KindName) -> list[Trial]:
        """One kind over one sample, with each setting worth measuring, fewest probes first."""
        with staging(self._layout.tmp) as stage:
            began = time.perf_counter()
            shard = self._built(sample, kind, stage)
            build_s = time.perf_counter() - began
            if kind == "exact":
                self._truth = shard.search(self._queries, self._k).scores
            found = [trial for refine in _refines(kind) for trial in _orderly(self._measured(shard, kind, refine, build_s))]
            del shard
            shutil.rmtree(stage)
        return found

    def _built(self, sample: Scanned, kind: KindName, stage: Path) -> Shard:
        record = write_shard(
            sample,
            stage,
            0,
            fingerprint="",
            row_ids=(0, ROW_ID_END),
            since=0,
            as_of=0,
            kind=kind,
            metric=self._metric,
            target_recall=self._target,
        )
        return Shard.load(stage, record, ShardFacts(kind, self._metric, sample.dim("")))

    def _measured(self, shard: Shard, kind: KindName, refine: int, build_s: float) -> Iterator[Trial]:
        assert self._truth is not None
        if shard.kind != kind:  # too few rows for it: it was made an exact one
            return
        settings, before = _settings(kind, shard.nlist), 0.0
        for probes in settings:

            def ask(queries: Matrix, probes: int | None = probes) -> Scores:
                return shard.search(queries, self._k, probes=probes, refine=refine).scores

            shares = recall_of(ask(self._queries), self._truth)
            mean, low, high = float(shares.mean()), *((1.0, 1.0) if kind == "exact" else interval(shares))
            if mean < self._target - _NEAR and probes != settings[-1]:
                continue
            pace = pace_of(ask, self._queries, seconds=_SECONDS)
            yield Trial(
                kind=kind,
                rows=shard.rows,
                dim=shard.dim,
                nlist=shard.nlist,
                probes=probes,
                refine=refine,
                recall=mean,
                recall_low=low,
                recall_high=high,
                p50_ms=pace.p50_ms,
                p95_ms=pace.p95_ms,
                queries_per_s=pace.queries_per_s,
                memory_bytes=shard.memory_bytes / shard.rows,
                disk_bytes=shard.disk_bytes / shard.rows,
                build_s=build_s,
            )
            if (low >= self._target and mean >= _ENOUGH) or mean < before + _GAIN:
                break
            before = mean


def _orderly(trials: Iterable[Trial]) -> list[Trial]:
    """The trials of one ladder, none slower than one with more probes: whatever else runs on the machine only adds time."""
    found: list[Trial] = []
    for trial in reversed(list(trials)):
        if found:
            last = found[-1]
            faster = {name: min(getattr(trial, name), getattr(last, name)) for name in ("p50_ms", "p95_ms")}
            rate = max(trial.queries_per_s, last.queries_per_s)
            found.append(trial.model_copy(update={**faster, "queries_per_s": rate}))
        else:
            found.append(trial)
    return found[::-1]


def _refines(kind: str) -> list[int]:
    """A code that keeps little is tried with fewer and with more rows to refine than usual."""
    usual = TABLE[kind].refine
    return [usual * 2 // 5, usual, usual * 3] if usual >= 10 else [usual]


def _settings(kind: str, nlist: int | None) -> list[int | None]:
    if kind == "exact":
        return [None]
    if nlist is None:
        return [round(16 * 2 ** (step / 2)) for step in range(12)]  # ef, 16 to 724
    return [*steps(nlist)]


def _foretold(trial: Trial, trials: Sequence[Trial], rows: int, recall: float) -> Trial:
    return grown(trial, fit(trials, trial.kind, trial.refine, recall), rows)


def _explained(choice: Choice, rows: int, measured: int) -> str:
    if choice.at is None or rows <= 1.2 * measured:
        return choice.explanation
    return f"{choice.explanation} These are foretold for {rows:,} rows from what was measured at {measured:,}."


def _check(
    call: str,
    recall: object,
    memory_bytes: object,
    p95_ms: object,
    k: object,
    kinds: Sequence[str],
    metric: object,
    sample_rows: object,
) -> None:
    def number(value: object, least: float = 0.0, most: float = math.inf) -> bool:
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and math.isfinite(value)
            and least < value <= most
        )

    problems = []
    if not number(recall, most=1.0):
        problems.append(f"recall is {recall!r}, expected more than 0 and at most 1")
    if memory_bytes is not None and not number(memory_bytes):
        problems.append(f"memory_bytes is {memory_bytes!r}, expected more than 0, or None")
    if p95_ms is not None and not number(p95_ms):
        problems.append(f"p95_ms is {p95_ms!r}, expected more than 0, or None")
    if not isinstance(k, int) or not number(k):
        problems.append(f"k is {k!r}, expected a number from 1")
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        problems.append(f"kinds has {', '.join(map(repr, unknown))}, expected some of {', '.join(map(repr, KINDS))}")
    if metric not in METRICS:
        problems.append(f"metric is {metric!r}, expected {', '.join(map(repr, METRICS))}")
    if not isinstance(sample_rows, int) or not number(sample_rows, LEAST_ROWS - 1):
        problems.append(f"sample_rows is {sample_rows!r}, expected a number from {LEAST_ROWS}")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
