"""What `raystore plan --rows` foretells of an index against the same index built and measured, at 100,000, 1,000,000 and 5,000,000.

    python benchmarks/index_plan.py [--tuned 25000 100000] [--foretold 1000000 5000000] [--kinds ivf_pqfs disk]

Sentence vectors as in benchmarks/index_disk.py. The first sizes are what a tuning measures; the model of tune/model.py is
fitted to their trials, and tells what one shard of each further size takes at recall 0.95: lists, probes, milliseconds of a
query, memory, disk and build time. Then that shard is built and tried with every number of probes. Times are compared at
equal recall: the measured time at the recall of the trial that was scaled, between the two trials around it. The largest
tuned size is foretold too, from the smaller ones alone, and the plan of the whole (sizing.py) is printed for a billion rows.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import CACHE, write_result
from benchmarks.index_disk import Sentences, neighbours
from raystore.index.sizing import Nodes, plan_index
from raystore.index.tune.model import fit, grown, probes_for
from raystore.index.tune.run import Bench
from raystore.index.tune.table import Trial
from raystore.layout import Layout

K, RECALL = 10, 0.95
WITHIN = 2.0  # a plan that is off by more than twice is no plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tuned", type=int, nargs="+", default=[25_000, 100_000])
    parser.add_argument("--foretold", type=int, nargs="+", default=[1_000_000, 5_000_000])
    parser.add_argument("--kinds", nargs="+", default=["ivf_pqfs", "disk"])
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=CACHE))  # on the disk of the cache: 5,000,000 vectors are 8 GB, twice
    try:
        sizes = [*sorted(asked.tuned), *sorted(asked.foretold)]
        measured = {size: measure(size, asked.kinds, Layout(root)) for size in sizes}
    finally:
        shutil.rmtree(root)
    points = []
    for number, size in enumerate(sizes[1:], start=1):
        known = [trial for before in sizes[:number] if before in asked.tuned for trial in measured[before]]
        points += [point(known, measured[size], kind) for kind in asked.kinds]
    for each in points:
        print(each, flush=True)
    tuned = [trial for size in asked.tuned for trial in measured[size]]
    cores = os.cpu_count() or 1
    plan = plan_index(10**9, tuned, Nodes(64 * 2**30, 16, cores), qps=200, recall=RECALL)
    print(plan)
    ratios = [value for each in points for name, value in each.items() if name.endswith("_ratio")]
    write_result(
        "index_plan",
        {
            "what": "foretold over measured, of one shard",
            "tuned": asked.tuned,
            "points": points,
            "spread": [min(ratios), max(ratios)],
            "goal": [1 / WITHIN, WITHIN],
            "met": all(1 / WITHIN <= each <= WITHIN for each in ratios),
            "billion": str(plan).splitlines(),
        },
        ["faiss-cpu", "numpy"],
        "python benchmarks/index_plan.py",
    )


def measure(size: int, kinds: Sequence[str], layout: Layout) -> list[Trial]:
    sentences = Sentences(size)
    if size > sentences.real:
        sentences.near = neighbours(sentences, fresh=False)
    bench = Bench(layout, "cosine", K, RECALL, sentences.queries())
    trials = [trial for kind in ("exact", *kinds) for trial in bench.trials(sentences, kind)]
    for trial in trials:
        print(
            f"{size:>9,}  {trial.setting}: {trial.said_recall}, {trial.p50_ms:.3f} ms, built in {trial.build_s:.0f} s",
            flush=True,
        )
    return trials


def point(known: Sequence[Trial], measured: Sequence[Trial], kind: str) -> dict[str, object]:
    """One kind at one size, foretold from the trials `known`, beside what was measured at equal recall."""
    there = [each for each in measured if each.kind == kind]
    size = max(each.rows for each in known)
    reaching = [each for each in known if each.kind == kind and each.rows == size and each.recall >= RECALL]
    base = min(reaching, key=lambda each: each.p50_ms)
    told = grown(base, fit(known, kind, base.refine, RECALL), there[0].rows)
    same = [each for each in there if each.refine == base.refine]
    probes = probes_for(same, base.recall)
    found = {"p50_ms": ms_at(same, probes), "memory_bytes": there[0].memory_bytes, "disk_bytes": there[0].disk_bytes}
    found |= {"build_s": there[0].build_s, "nlist": there[0].nlist, "probes": probes}
    told_of = {name: getattr(told, name) for name in found}
    ratios = {
        f"{name}_ratio": round(told_of[name] / value, 3)
        for name, value in found.items()
        if value and told_of[name] is not None
    }
    facts = {name: [told_of[name], value] for name, value in found.items()}
    return {"kind": kind, "from_rows": size, "rows": told.rows, "recall": round(base.recall, 4), **facts, **ratios}


def ms_at(trials: Sequence[Trial], probes: float | None) -> float | None:
    """The time of one query with so many probes, between the two trials around it."""
    if probes is None:
        return None
    ordered = sorted(trials, key=lambda each: each.probes or 0)
    after = next(each for each in ordered if (each.probes or 0) >= probes)
    before = max(
        (each for each in ordered if (each.probes or 0) <= probes), key=lambda each: each.probes or 0, default=after
    )
    if before.probes == after.probes:
        return after.p50_ms
    share = math.log(probes / (before.probes or 1)) / math.log((after.probes or 1) / (before.probes or 1))
    return before.p50_ms ** (1 - share) * after.p50_ms**share


if __name__ == "__main__":
    main()
