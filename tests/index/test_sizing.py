"""A plan of an index, from made-up trials whose arithmetic can be done by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raystore.errors import InvalidArguments
from raystore.index.kinds import code_bytes
from raystore.index.shards.ivf import list_count
from raystore.index.sizing import ACTOR_MS, BUSY, HOP_MS, PROCESS_BYTES, Nodes, plan_index
from raystore.index.tune.model import GROWTH, compared, fit, grown, probes_for
from raystore.index.tune.table import Trial

NODE = Nodes(memory_bytes=64 * 2**30, cores=8, measured_cores=8)
RECALLS = {8: 0.85, 16: 0.9, 32: 0.94, 64: 0.965, 128: 0.985}


def trial(kind: str, rows: int, **facts: Any) -> Trial:
    known = {
        "kind": kind, "rows": rows, "dim": 384, "recall": 1.0, "recall_low": 1.0, "recall_high": 1.0, "p50_ms": rows * 1e-4,
        "p95_ms": rows * 1.2e-4, "queries_per_s": 2e8 / rows, "memory_bytes": 0.0, "disk_bytes": 1_570.0, "build_s": rows * 1e-5,
    }  # fmt: skip
    return Trial(**{**known, **facts})


def pqfs(rows: int, times: float = 1.0) -> list[Trial]:
    """Trials that follow the model to the letter: 0.02 ms, 1e-4 ms a centroid, 1e-5 ms a code; `times` as many probes."""
    found = []
    for probes, recall in RECALLS.items():
        lists = list_count(rows)
        held = code_bytes("ivf_pqfs", 384) + 4.0 * 384 * lists / rows
        each = trial("ivf_pqfs", rows, nlist=lists, probes=round(probes * times), refine=10, recall=recall, recall_low=recall,
                     recall_high=recall, memory_bytes=held, build_s=1e-4 * rows**1.2)  # fmt: skip
        ms = 0.02 + lists * 1e-4 + compared(each) * 1e-5
        found.append(each.model_copy(update={"p50_ms": ms, "p95_ms": 1.5 * ms, "queries_per_s": 3_000 / ms}))
    return found


AT_100K = [trial("exact", 100_000), *pqfs(100_000)]
BOTH = [*AT_100K, trial("exact", 25_000), *pqfs(25_000, times=0.5)]


def test_the_model_finds_the_parts_it_was_made_of() -> None:
    model = fit(AT_100K, "ivf_pqfs", 10, 0.95)
    assert (model.fixed_ms, model.row_ms, model.centroid_ms) == pytest.approx((0.02, 1e-5, 1e-4), rel=1e-6)
    assert (model.growth, model.sizes) == (GROWTH, 1)


def test_two_sizes_tell_how_probes_and_builds_grow() -> None:
    model = fit(BOTH, "ivf_pqfs", 10, 0.95)
    assert model.growth == pytest.approx(0.5)  # half the probes over a quarter of the rows
    assert model.build_growth == pytest.approx(1.2)
    assert (
        fit([*BOTH, trial("ivf_sq8", 100_000, nlist=1_264, probes=9, refine=2)], "ivf_sq8", 2, 0.95).growth == model.growth
    )


def test_a_measured_point_is_foretold_as_it_was_measured() -> None:
    for each in AT_100K:
        assert grown(each, fit(AT_100K, each.kind, each.refine, 0.95), each.rows) == each


def test_ten_times_the_rows_are_scaled_by_the_model() -> None:
    (one,) = [each for each in AT_100K if each.probes == 64]
    model = fit(AT_100K, "ivf_pqfs", 10, 0.95)
    ten = grown(one, model, 1_000_000)
    assert (ten.nlist, ten.probes) == (4_000, round(64 * 10**0.25))
    assert ten.p50_ms == pytest.approx(0.02 + 4_000 * 1e-4 + compared(ten) * 1e-5)
    assert ten.memory_bytes == pytest.approx(code_bytes("ivf_pqfs", 384) + 4 * 384 * 4_000 / 1e6)
    assert ten.disk_bytes == one.disk_bytes


def test_on_a_busy_machine_the_centroids_are_never_all_of_a_search() -> None:
    slowed = [trial("exact", 100_000, p50_ms=500.0), *pqfs(100_000)]
    model = fit(slowed, "ivf_pqfs", 10, 0.95)
    assert min(each.p50_ms - model.centroid_ms * each.nlist for each in slowed if each.nlist) > 0


def test_probes_between_two_trials_are_found_on_a_logarithmic_scale() -> None:
    tried = pqfs(100_000)
    assert probes_for(tried, 0.94) == 32
    assert probes_for(tried, (0.94 + 0.965) / 2) == pytest.approx(math.sqrt(32 * 64))
    assert probes_for(tried, 0.5) == 8
    assert probes_for(tried, 0.99) is None


def test_a_billion_rows_are_cut_so_that_each_part_fits_a_node() -> None:
    plan = plan_index(10**9, BOTH, NODE, qps=200, recall=0.95)
    cut = plan.chosen
    room = 0.8 * NODE.memory_bytes - PROCESS_BYTES
    assert cut.trial.kind == "ivf_pqfs"
    assert cut.trial.rows == math.ceil(10**9 / cut.shards)
    assert cut.trial.memory_bytes * cut.trial.rows <= room
    assert cut.replicas == math.ceil(200 * cut.shard_ms / 1000 / BUSY)
    assert cut.p95_ms <= 100
    assert cut.p95_ms == pytest.approx(cut.trial.p95_ms + cut.read_ms + HOP_MS + ACTOR_MS * cut.shards)
    assert cut.disk_bytes == pytest.approx(cut.nodes * cut.trial.rows * 1_570)


def test_every_line_says_how_it_was_reckoned() -> None:
    plan = plan_index(10_000_000, BOTH, Nodes(16 * 2**30, 4, 8, price=0.2), qps=50, recall=0.95, replicas=2)
    lines = {line.name: (line.said, line.how) for line in plan.lines}
    assert list(lines) == [
        "kind", "shards", "memory of one", "probes", "one query", "replicas", "nodes", "p95", "asking", "memory", "disk", "build",
        "money",
    ]  # fmt: skip
    assert lines["nodes"] == ("2", "1 shards x 2 replicas")
    assert lines["money"] == ("292 a month", "2 nodes x 0.2 an hour x 730 hours")
    assert all(how for _, how in lines.values())
    assert str(plan).splitlines()[0] == "10,000,000 rows of 384 numbers at recall 0.95, 50 queries a second"
    assert plan.facts["chosen"]["nodes"] == 2
    assert "<table>" in plan._repr_html_()


def test_half_the_cores_build_in_twice_the_time_and_search_in_the_same() -> None:
    """One query is searched on one core: more of them make no query quicker."""
    eight = plan_index(1_000_000, AT_100K, NODE, qps=1).chosen
    four = plan_index(1_000_000, AT_100K, Nodes(64 * 2**30, 4, 8), qps=1).chosen
    assert four.build_s == pytest.approx(2 * eight.build_s)
    assert (four.shard_ms, four.p95_ms) == (eight.shard_ms, eight.p95_ms)


def test_the_sums_a_plan_shows_come_to_what_it_says() -> None:
    plan = plan_index(10**9, BOTH, NODE, qps=200, recall=0.95)
    how = {line.name: line.how for line in plan.lines}
    said = {line.name: line.said for line in plan.lines}
    in_shard, hop, each, shards = (float(number) for number in re.findall(r"[\d.]+", how["p95"]) if number != ".")
    assert float(said["p95"].split()[0]) == pytest.approx(in_shard + hop + each * shards, rel=0.01)
    measured = re.search(r"([\d,]+) s by the point", how["build"])
    assert measured is not None
    assert plan.chosen.build_s == pytest.approx(float(measured[1].replace(",", "")), rel=0.01)
    rows = re.search(r"/ ([\d,]+) = ([\d,]+) a shard", how["shards"])
    assert rows is not None
    assert math.ceil(10**9 / int(rows[1].replace(",", ""))) == int(rows[2].replace(",", ""))


def test_files_that_do_not_fit_in_memory_are_read_from_disk() -> None:
    warm = plan_index(10_000_000, AT_100K, NODE, qps=1, recall=0.95).chosen
    cold = plan_index(10_000_000, AT_100K, Nodes(2 * 2**30, 8, 8), qps=1, recall=0.95).chosen
    assert warm.read_ms == 0
    assert cold.read_ms > 0


def test_demands_that_nothing_keeps_are_said_with_the_nearest() -> None:
    with pytest.raises(InvalidArguments) as refused:
        plan_index(10**9, pqfs(100_000), NODE, qps=10, recall=0.99)
    assert str(refused.value) == (
        "plan: nothing measured reaches recall 0.99, the nearest is ivf_pqfs, 128 of 1,264 lists, 10 x refined with "
        "0.985 (0.985 to 0.985)."
    )
    with pytest.raises(InvalidArguments) as refused:
        plan_index(10**6, AT_100K, NODE, qps=10, p95_ms=0.5)
    assert str(refused.value).startswith("plan: no placement answers within 0.5 ms at p95, the nearest is ivf_pqfs, ")
    with pytest.raises(InvalidArguments) as refused:
        plan_index(10**6, AT_100K, Nodes(2**29, 8, 8), qps=10)
    assert str(refused.value) == (
        "plan: a node with 536.9 MB holds no shard: 80% of it less 536.9 MB of a process leaves 0 bytes; take larger nodes."
    )


def test_all_that_makes_no_sense_is_named_at_once() -> None:
    with pytest.raises(InvalidArguments) as refused:
        plan_index(0, [], Nodes(2**30, 0, 1), qps=0, dim=0, recall=1.5, p95_ms=0, replicas=0)
    assert str(refused.value) == (
        "plan: rows is 0, expected a number from 1; dim is 0, expected a number from 1; recall is 1.5, expected more than 0 and at "
        "most 1; qps is 0, expected more than 0; p95_ms is 0, expected more than 0; replicas is 0, expected a number from 1; a node "
        "has 0 cores, expected at least one; there is no tuning to reckon from, run `raystore index tune COLLECTION` first."
    )


@settings(max_examples=60)
@given(st.integers(1_000, 10**10), st.floats(0.1, 5_000), st.integers(1, 4), st.sampled_from([8, 64, 512]))
def test_a_plan_keeps_what_was_asked(rows: int, qps: float, replicas: int, gib: int) -> None:
    node = Nodes(gib * 2**30, 8, 8)
    try:
        cut = plan_index(rows, BOTH, node, qps=qps, recall=0.95, replicas=replicas).chosen
    except InvalidArguments:
        assume(False)
    assert cut.shards * cut.trial.rows >= rows
    assert cut.trial.memory_bytes * cut.trial.rows + PROCESS_BYTES <= 0.8 * node.memory_bytes + 1
    assert cut.replicas >= replicas
    assert cut.replicas * 1000 / cut.shard_ms * BUSY >= qps * (1 - 1e-9)
    assert cut.p95_ms <= 100
    more = plan_index(rows, BOTH, node, qps=2 * qps, recall=0.95, replicas=replicas).chosen
    assert more.nodes >= cut.nodes
