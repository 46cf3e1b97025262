"""Choosing within a budget, and what is said where none is kept."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raystore.index.kinds import TABLE
from raystore.index.tune.choose import Budget, choose
from raystore.index.tune.table import Trial


def trial(kind: str = "ivf_sq8", **facts: Any) -> Trial:
    known = {
        "kind": kind, "rows": 100_000, "dim": 384, "nlist": 1_264, "probes": 64, "refine": 2, "recall": 0.96, "recall_low": 0.955,
        "recall_high": 0.965, "p50_ms": 0.4, "p95_ms": 0.6, "queries_per_s": 9_000.0, "memory_bytes": 400.0, "disk_bytes": 1_960.0,
        "build_s": 4.0,
    }  # fmt: skip
    return Trial(**{**known, **facts})


EXACT = trial("exact", nlist=None, probes=None, refine=1, recall=1.0, recall_low=1.0, recall_high=1.0, p50_ms=14.0, p95_ms=16.0,
              queries_per_s=2_300.0, memory_bytes=0.0, disk_bytes=1_560.0, build_s=0.5)  # fmt: skip
SQ8 = trial()
PQFS = trial("ivf_pqfs", refine=10, queries_per_s=22_000.0, memory_bytes=62.0, p50_ms=0.1, p95_ms=0.2)
HNSW = trial("hnsw", nlist=None, probes=32, refine=1, queries_per_s=20_000.0, memory_bytes=1_800.0)
ALL = [EXACT, SQ8, PQFS, HNSW]


def test_the_fastest_is_taken_and_of_those_as_fast_the_one_that_holds_least() -> None:
    choice = choose([EXACT, SQ8, HNSW, PQFS], Budget(0.95, 100_000))
    assert (choice.at, choice.unmet) == (3, None)
    assert choice.explanation == (
        f"ivf_pqfs, 64 of 1,264 lists, 10 x refined: {TABLE['ivf_pqfs'].says}. "
        "Recall 0.960 (0.955 to 0.965), 0.20 ms at p95, 22,000 queries a second in batches, 6.2 MB of memory; of the 4 kinds that "
        "keep the budget none is more than 25% faster, and hnsw (20,000 a second) holds 1.8 kB a vector."
    )


def test_a_recall_is_reached_by_the_low_end_of_the_interval() -> None:
    assert choose([SQ8], Budget(0.955, 1)).at == 0
    assert choose([SQ8], Budget(0.956, 1)).at is None


def test_memory_and_latency_are_kept() -> None:
    assert choose([HNSW, SQ8], Budget(0.95, 100_000, memory_bytes=50_000_000)).at == 1
    assert choose([EXACT, SQ8], Budget(0.95, 100_000, memory_bytes=1_000)).at == 0
    assert choose([EXACT, SQ8], Budget(0.95, 100_000, p95_ms=1.0)).at == 1


def test_what_cannot_be_kept_is_said_with_the_nearest_and_what_would_do() -> None:
    budget = Budget(0.99, 100_000, memory_bytes=8_000_000, p95_ms=5.0)
    choice = choose([EXACT, PQFS], budget)
    assert choice.at is None
    assert choice.unmet == (
        "Nothing measured keeps recall 0.99, 8.0 MB of memory, 5 ms at p95. Nearest is exact: recall 1.000 (1.000 to 1.000), 0 bytes, "
        "16.00 ms at p95. It would do to ask for recall 0.955 (ivf_pqfs, 64 of 1,264 lists, 10 x refined), or 16 ms at p95 (exact)."
    )


def test_nothing_measured_is_said() -> None:
    assert choose([], Budget(0.95, 1)).unmet == "Nothing was measured."


trials = st.builds(
    trial,
    recall_low=st.floats(0.5, 1.0),
    p95_ms=st.floats(0.1, 50.0),
    memory_bytes=st.floats(0.0, 2_000.0),
    queries_per_s=st.floats(10.0, 1e5),
)
budgets = st.builds(
    Budget,
    recall=st.floats(0.5, 1.0),
    rows=st.integers(1, 10**9),
    memory_bytes=st.none() | st.integers(1, 10**12),
    p95_ms=st.none() | st.floats(0.1, 50.0),
)


@given(st.lists(trials, min_size=1, max_size=12), budgets)
def test_what_is_chosen_keeps_the_budget_and_something_is_chosen_where_anything_does(
    tried: list[Trial], budget: Budget
) -> None:
    choice = choose(tried, budget)
    keeping = [i for i, each in enumerate(tried) if not budget.over(each)]
    assert (choice.at in keeping) if keeping else (choice.at is None)
    assert (choice.unmet is None) == bool(keeping)
