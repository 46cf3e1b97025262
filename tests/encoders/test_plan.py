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
    assert "16.67 at 0.2 a machine and hour" in report._repr_html_()
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


EVEN = [(3.0 + at, 100 * at) for at in range(11)]


def test_the_pace_is_that_of_the_work_without_the_start() -> None:
    found = pace_of(EVEN, 13.0, 1_000, 3.0, 0.1)
    assert (found.rows_per_s, found.steady_s) == (100.0, 10.0)
    assert found.margin == pytest.approx(0.01)
    assert str(found) == "the pace is sure to about 1% after 10.0 s of work"


def test_rows_that_were_not_embedded_have_no_pace() -> None:
    assert pace_of(EVEN, 13.0, 500, 3.0, 0.1).rows_per_s == 50.0


def test_uneven_work_and_starts_that_differ_make_it_less_sure() -> None:
    slowing = [(0.0, 0), (1.0, 100), (2.0, 200), (3.0, 300), (5.0, 400), (7.0, 500)]
    assert pace_of(slowing, 7.0, 500, 0.0, 0.1).margin == pytest.approx(0.4)
    assert pace_of(EVEN, 13.0, 1_000, 3.0, 2.0).margin == pytest.approx(0.2)
    of_a_pair = [(7.8, 250), (8.1, 500), (12.7, 750), (13.0, 1_000)]  # two workers, who commit at about the same time
    assert pace_of(of_a_pair, 13.0, 1_000, 3.0, 0.1).margin == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("points", [[], [(0.0, 0), (6.0, 100)]], ids=["nothing seen", "one commit"])
def test_work_that_was_committed_at_once_is_taken_for_roughly_even(points: list[tuple[float, int]]) -> None:
    found = pace_of(points, 6.0, 100, 1.0, 0.1)
    assert (found.rows_per_s, str(found)) == (20.0, "the pace is sure to about 25% after 5.0 s of work")


@pytest.mark.parametrize(
    "seconds, noise", [(2.9, 0.1), (13.0, 8.0), (13.0, 10.0)], ids=["shorter than a start", "half noise", "all noise"]
)
def test_work_as_short_as_starts_differ_tells_no_sure_pace(seconds: float, noise: float) -> None:
    found = pace_of(EVEN, seconds, 100, 3.0, noise)
    assert str(found) == f"the pace is not sure after {found.steady_s:.1f} s of work: a larger sample tells more"
    assert found.rows_per_s > 0


@given(pace=st.floats(1, 1e5), startup=st.floats(0, 100), items=st.integers(100, 10**6), steps=st.integers(3, 50))
def test_a_job_of_even_pace_is_foretold_as_it_was(pace: float, startup: float, items: int, steps: int) -> None:
    total = startup + items / pace
    points = [(startup + items * i / steps / pace, items * i // steps) for i in range(steps + 1)]
    found = pace_of(points, total, items, startup, 0.0)
    if found.steady_s > 0.051 * total:  # else the start is all of it
        assert plan_embed(items, found.rows_per_s, startup, 1, 8).seconds == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    "seconds, said", [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7_300, "2.0 hours"), (200_000, "2.3 days")]
)
def test_times_are_said_in_a_unit_that_fits(seconds: float, said: str) -> None:
    assert said_time(seconds) == said


def test_bytes_are_said_in_decimal_units() -> None:
    assert [said_bytes(n) for n in (12, 1_500, 2e6, 3.25e9, 4e12)] == ["12 bytes", "1.5 kB", "2.0 MB", "3.2 GB", "4.0 TB"]
