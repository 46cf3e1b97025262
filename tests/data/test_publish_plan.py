from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from raystore.data.publish.plan import Commits, PartFile, Range, plan


def commits(counts: dict[int, int]) -> Commits:
    numbers = sorted(number for number, n in counts.items() if n)
    return Commits(np.array(numbers, np.int64), np.array([counts[n] for n in numbers], np.int64))


def stand(ranges: list[Range], now: Commits) -> list[PartFile]:
    """What publishing the ranges leaves."""
    return [r.kept or PartFile(r.first, r.last, now.rows(r.first, r.last), 0, 0, "") for r in ranges]


def spans(ranges: list[Range]) -> list[tuple[int, int, bool]]:
    return [(r.first, r.last, r.kept is not None) for r in ranges]


def test_the_first_call_makes_files_of_about_the_wanted_size() -> None:
    found = plan([], commits({2: 40, 3: 50, 5: 30, 6: 300, 9: 1}), target_rows=100)
    assert spans(found) == [(0, 3, False), (3, 5, False), (5, 6, False), (6, 9, False)]
    assert [r.name for r in found][:2] == [
        "part-000000000000-000000000003.parquet",
        "part-000000000003-000000000005.parquet",
    ]


def test_a_collection_without_rows_has_one_empty_file() -> None:
    empty = commits({})
    assert spans(plan([], empty, target_rows=100)) == [(0, 0, False)]
    files = stand(plan([], empty, target_rows=100), empty)
    assert spans(plan(files, empty, target_rows=100)) == [(0, 0, True)]
    assert spans(plan(files, commits({4: 2}), target_rows=100)) == [(0, 0, True), (0, 4, False)]


def test_files_stay_until_rows_leave_them_or_they_are_stale_or_lost() -> None:
    counts = {1: 60, 2: 60, 3: 60}
    files = stand(plan([], commits(counts), target_rows=60), commits(counts))
    assert spans(plan(files, commits(counts), target_rows=60)) == [(0, 1, True), (1, 2, True), (2, 3, True)]
    assert spans(plan(files, commits(counts | {2: 59}), target_rows=60))[1] == (1, 2, False)
    assert spans(plan(files, commits(counts), stale=[3, 9], target_rows=60))[2] == (2, 3, False)
    assert spans(plan(files, commits(counts), absent=[files[0].name], target_rows=60))[0] == (0, 1, False)
    assert [kept for *_, kept in spans(plan(files, commits(counts), all_stale=True, target_rows=60))] == [False] * 3


def test_many_small_neighbours_become_one() -> None:
    counts = {0: 0} | dict.fromkeys(range(1, 9), 1)
    files = [PartFile(n - 1, n, 1, 1, 0, "") for n in range(1, 9)]
    found = plan(files, commits(counts | {9: 5}), target_rows=1_000)
    assert spans(found) == [(0, 8, False), (8, 9, False)]
    assert found[0].replaces == tuple(files)
    assert spans(plan(files[:7], commits(counts | {8: 0}), target_rows=1_000)) == [(n - 1, n, True) for n in range(1, 8)]


@settings(max_examples=100, deadline=None)
@given(data=st.data(), target=st.sampled_from([1, 10, 2_000]))
def test_files_hold_every_commit_once_however_it_goes(data: st.DataObject, target: int) -> None:
    counts: dict[int, int] = {}
    files: list[PartFile] = []
    for _ in range(data.draw(st.integers(1, 25))):
        number = max(counts, default=0) + data.draw(st.integers(1, 3))
        counts[number] = data.draw(st.integers(0, 12))
        if data.draw(st.booleans()):
            erased = data.draw(st.sampled_from(sorted(counts)))
            counts[erased] = counts[erased] // 2
        now = commits(counts)
        found = plan(files, now, stale=data.draw(st.lists(st.sampled_from(sorted(counts)), max_size=2)), target_rows=target)
        assert all(one.last == other.first for one, other in pairwise(found))
        assert found[0].first == 0
        assert found[-1].last >= max((n for n, c in counts.items() if c), default=0)
        for r in found:
            if r.kept is not None:
                assert (r.kept.first, r.kept.last, r.kept.ids) == (r.first, r.last, now.rows(r.first, r.last))
        files = stand(found, now)
        assert all(r.kept is not None for r in plan(files, now, target_rows=target)) or target > 10
    assert sum(file.ids for file in files) == sum(counts.values())
