"""What shadows may take of the machine."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.serve.recording.budget import Budget


@given(cores=st.floats(0.05, 64), lanes=st.integers(0, 25), calls=st.lists(st.floats(0, 0.5), max_size=20))
def test_lanes_that_are_never_idle_keep_no_more_cores_busy_than_they_may(
    cores: float, lanes: int, calls: list[float]
) -> None:
    budget = Budget(cores)
    budget.share_among(lanes)
    n = max(1, lanes)
    for worked_s in calls:
        rest_s = budget.rest_s(worked_s)
        assert 0 <= rest_s <= 5
        if rest_s < 5:
            assert n * worked_s <= (worked_s + rest_s) * cores * (1 + 1e-9) or (rest_s == 0 and n <= cores)


def test_an_eighth_of_the_machine_is_what_nobody_has_to_ask_for() -> None:
    budget = Budget()
    part = (os.cpu_count() or 1) / 8
    assert budget.rest_s(0.01) == pytest.approx(max(0.0, 0.01 * (1 / part - 1)))
    budget.allow(0.5)
    assert budget.rest_s(0.01) == pytest.approx(0.01)
    budget.share_among(5)
    assert budget.rest_s(0.01) == pytest.approx(0.09)
    assert budget.rest_s(60.0) == 5.0, "a head, or an encoder, was loaded"
    budget.allow(None)
    assert budget.rest_s(0.01) == pytest.approx(max(0.0, 0.01 * (5 / part - 1)))
