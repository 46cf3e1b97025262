"""Arithmetic of plans: what a job will take follows from a pace and a start."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.encoders.plan import pace_of, plan_embed, said_bytes, said_time
from raystore.errors import InvalidArguments


def test_thirty_million_images_in_words() -> None:
    report = plan_embed(30_000_000, 100.0, 20.0, 2, 512, 0.2)
    assert (report.seconds, report.vector_bytes) == (300_020.0, 61_440_000_000)
    assert report.cost == pytest.approx(16.67, abs=0.01)
    assert str(report) == (
        "30,000,000 items on 2 workers: 3.5 days\n"
        "  pace   100.0 items/s after 20 s to start\n"
        "  money  16.67 at 0.2 a machine and hour\n"
        "  disk   125.8 GB: rows 63.4 GB (of it vectors, float32 x 512, 61.4 GB), an index of them 62.4 GB"
    )


def test_several_machines_share_the_rows_and_are_all_paid() -> None:
    one = plan_embed(1_000_000, 100.0, 0.0, 8, 384, 1.0)
    four = plan_embed(1_000_000, 100.0, 0.0, 32, 384, 1.0, machines=4)
    assert four.seconds == one.seconds / 4
    assert four.cost == one.cost
    assert str(four).splitlines()[0] == "1,000,000 items on 32 workers, 4 machines like this one: 42 min"


def test_without_a_price_there_is_no_money_and_measured_bytes_are_taken() -> None:
    report = plan_embed(1_000, 100.0, 2.0, 0, 32, row_bytes=200.5, index_bytes=150.0)
    assert (report.cost, report.row_bytes, report.index_bytes) == (None, 200_500, 150_000)
    assert str(report) == (
        "1,000 items in one process: 12 s\n"
        "  pace   100.0 items/s after 2 s to start\n"
        "  disk   350.5 kB: rows 200.5 kB (of it vectors, float32 x 32, 128.0 kB), an index of them 150.0 kB"
    )
    assert report.facts["disk_bytes"] == 350_500


def test_numbers_that_make_no_sense_are_named_together() -> None:
    with pytest.raises(InvalidArguments) as caught:
        plan_embed(-1, 0.0, float("nan"), -1, 0, -1.0, machines=0)
    assert str(caught.value) == (
        "plan embed: items makes no sense; rows_per_s makes no sense; startup_s makes no sense; workers makes no sense; "
        "dim makes no sense; price makes no sense; machines makes no sense."
    )


def test_the_pace_is_that_between_the_first_commit_and_the_last() -> None:
    points = [(0.1, 0), (12.0, 1_000), (17.0, 2_000), (22.0, 3_000), (24.0, 3_000)]
    assert pace_of(points, 25.0, 3_000, 2.0) == (200.0, 10.0)


def test_where_all_was_committed_at_once_the_load_is_the_start() -> None:
    assert pace_of([(0.0, 0), (6.0, 100)], 6.0, 100, 1.0) == (20.0, 1.0)
    assert pace_of([], 6.0, 100, 1.0) == (20.0, 1.0)


@given(pace=st.floats(1, 1e5), startup=st.floats(0, 100), items=st.integers(100, 10**6), steps=st.integers(2, 50))
def test_a_job_of_even_pace_is_foretold_as_it_was(pace: float, startup: float, items: int, steps: int) -> None:
    points = [(startup + items * i / steps / pace, items * i // steps) for i in range(steps + 1)]
    total = points[-1][0]
    found, start = pace_of(points, total, items, 1.0)
    assert plan_embed(items, found, start, 1, 8).seconds == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    "seconds, said", [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7_300, "2.0 hours"), (200_000, "2.3 days")]
)
def test_times_are_said_in_a_unit_that_fits(seconds: float, said: str) -> None:
    assert said_time(seconds) == said


def test_bytes_are_said_in_decimal_units() -> None:
    assert [said_bytes(n) for n in (12, 1_500, 2e6, 3.25e9, 4e12)] == ["12 bytes", "1.5 kB", "2.0 MB", "3.2 GB", "4.0 TB"]
