"""Folding takes the rows beside an index into it, changes no answer, and may be killed at any time."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raystore.data.columns import vector_array
from raystore.index.build.run import build_index
from raystore.index.live.fold import Written, fold_index, plan_fold
from raystore.index.live.view import Views
from raystore.index.manifest import IndexManifest, ShardRecord, latest, publish_again
from raystore.index.source import ROW_ID_END
from raystore.layout import numbers, vector_column
from tests.waiting import soon

from .conftest import DIM, FINGERPRINT, ROWS, World, clustered
from .test_view import ids_in, nearest, prepared


def fold(world: World, **options: object) -> tuple[int, IndexManifest] | None:
    return fold_index(world.table, world.layout, "tickets", FINGERPRINT, **options)


def build(world: World, **options: object) -> IndexManifest:
    return build_index(world.table, world.layout, "tickets", FINGERPRINT, **options)[1]


def views_of(world: World, **options: object) -> Views:
    return Views(world.table, world.layout, "tickets", FINGERPRINT, **options)


def folder_of(world: World, number: int) -> Path:
    return world.layout.indexes("tickets", FINGERPRINT) / str(number)


@pytest.mark.parametrize("kind", ["exact", "ivf"])
def test_a_fold_adds_one_shard_links_the_others_and_changes_no_answer(world: World, kind: str) -> None:
    built = build(world, shards=2, kind=kind)
    views = views_of(world)
    views.current()
    world.add(clustered(90, 5))
    world.delete(world.ids[1])
    before = views.current()
    queries = prepared(world.vectors[[2, 400, 620, 680]])
    answer = before.search(queries, 10, probes=10**6)
    number, manifest = fold(world)
    assert (number, manifest.made_by, manifest.made_from, manifest.version) == (2, "fold", 1, world.table.version)
    assert manifest.shards[:2] == built.shards
    added = manifest.shards[2]
    assert (added.rows, added.since, added.as_of) == (90, built.version, manifest.version)
    assert (added.row_id_lo, added.row_id_hi) == (0, ROW_ID_END)
    linked = folder_of(world, 2) / "shard-0001.vectors"
    assert linked.samefile(folder_of(world, 1) / "shard-0001.vectors")
    view = views.current()
    assert (view.number, view.tail_rows, view.rows) == (2, 0, before.rows)
    again = view.search(queries, 10, probes=10**6)
    assert ids_in(again) == ids_in(answer) == world.truth(queries, 10, lambda i: i != 1)
    assert again.scores.tobytes() == answer.scores.tobytes()
    assert nearest(views_of(world), world.vectors[650]) == world.truth(world.vectors[650], 1)


def test_the_shards_that_a_fold_left_are_not_opened_again(world: World) -> None:
    build(world, shards=2)
    views = views_of(world)
    opened = views.current().base.shards.shards
    world.add(clustered(90, 5))
    fold(world)
    now = views.current().base.shards.shards
    assert [now[0] is opened[0], now[1] is opened[1], len(now)] == [True, True, 3]


def test_there_is_nothing_to_fold_without_an_index_or_new_rows(world: World) -> None:
    assert fold(world) is None
    build(world)
    assert fold(world) is None
    world.add(clustered(3), fingerprint=None)
    world.delete(world.ids[0])
    assert fold(world) is None
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == [1]


def test_a_vector_that_came_late_is_folded_once(world: World) -> None:
    ids = world.add(np.eye(DIM, dtype=np.float32)[:2], fingerprint=None)
    build(world)
    for id_, vector in zip(ids, world.vectors[-2:], strict=True):
        row = {
            "id": pa.array([id_]),
            "_payload": pa.array([b"x" * 32], pa.binary(32)),
            vector_column(FINGERPRINT): vector_array(vector[None]),
        }
        assert world.table.fill(pa.table(row), FINGERPRINT).filled == 1
        number, manifest = fold(world)
        view = views_of(world).current()
        assert (view.number, view.rows, view.tail_rows) == (number, manifest.rows, 0)
        assert ids_in(view.search(prepared(vector), 1)) == [[id_]]
    assert manifest.rows == ROWS + 2


def a_shard(number: int, rows: int, since: int, as_of: int) -> ShardRecord:
    return ShardRecord(number=number, files={}, rows=rows, row_id_lo=0, row_id_hi=ROW_ID_END, since=since, as_of=as_of)


def an_index(*shards: tuple[int, int, int], version: int) -> IndexManifest:
    return IndexManifest(
        kind="ivf",
        collection="c",
        fingerprint="f" * 64,
        dim=4,
        version=version,
        shards=tuple(a_shard(number, *facts) for number, facts in enumerate(shards)),
        served="inline",
        fold_rows=100,
        build_s=1.0,
    )


def test_small_folded_shards_are_written_together_and_large_ones_stay() -> None:
    index = an_index((5_000, 0, 10), (2_000, 10, 20), (300, 20, 30), (90, 30, 40), version=40)
    stay, written = plan_fold(index, 50, 100, {})
    assert [record.number for record in stay] == [0, 1]
    assert written == [Written(2, 20, 50, (0, ROW_ID_END), 490, "ivf")]
    stay, written = plan_fold(index, 50, 100, {3: 90, 1: 100})
    assert written == [Written(2, 20, 50, (0, ROW_ID_END), 400, "ivf")]


def test_a_folded_shard_never_outgrows_the_shards_that_were_built() -> None:
    index = an_index((1_000, 0, 10), (900, 10, 20), version=20)
    assert plan_fold(index, 30, 300, {})[1] == [Written(2, 20, 30, (0, ROW_ID_END), 300, "ivf")]


def test_a_shard_of_which_much_is_gone_is_written_anew_and_with_drop_gone_any() -> None:
    index = an_index((100, 0, 10), (100, 0, 10), (100, 0, 10), version=10)
    stay, written = plan_fold(index, 12, 0, {0: 21, 1: 20})
    assert [record.number for record in stay] == [1, 2]
    assert written == [Written(0, 0, 10, (0, ROW_ID_END), 79, "ivf")]
    assert [w.number for w in plan_fold(index, 12, 0, {0: 21, 1: 1}, drop_gone=True)[1]] == [0, 1]
    assert plan_fold(index, 12, 0, {0: 20}) == (list(index.shards), [])


def test_many_folds_leave_few_shards_and_two_indexes(world: World) -> None:
    build(world)
    views = views_of(world)
    for number in range(12):
        world.add(clustered(20, number))
        fold(world)
        assert views.current().tail_rows == 0
    _, manifest = latest(world.layout, "tickets", FINGERPRINT)
    assert manifest.rows == ROWS + 240
    assert len(manifest.shards) <= 4
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == [1, 12, 13]  # what was built stays, to go back to
    assert nearest(views, world.vectors[::50], 10) == world.truth(world.vectors[::50], 10)


def test_drop_gone_leaves_no_file_that_holds_an_erased_row(world: World) -> None:
    build(world, shards=2)
    world.add(clustered(40, 5))
    fold(world)
    views = views_of(world)
    views.current()
    erased = [world.ids[i] for i in (3, 630)]
    for id_ in erased:
        world.delete(id_)
    assert fold(world) is None  # too few to write anything anew
    number, manifest = fold(world, drop_gone=True)
    assert (number, manifest.rows) == (3, ROWS + 40 - 2)
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == [3]
    content = b"".join(
        file.read_bytes() for file in world.layout.indexes("tickets", FINGERPRINT).rglob("*") if file.is_file()
    )
    for id_ in erased:
        assert id_.encode() not in content
        assert world.vectors[world.ids.index(id_)].tobytes() not in content
    assert world.vectors[4].tobytes() in content
    view = views.current()
    assert (view.number, len(view.gone), view.rows) == (3, 0, ROWS + 38)


def test_drop_gone_leaves_no_erased_row_at_a_home(world: World, tmp_path: Path) -> None:
    home = tmp_path / "away"
    build(world, kind="disk", home=f"file://{home}")
    views = views_of(world)
    views.current()
    world.delete(world.ids[3])
    world.add(clustered(100, 5))
    fold(world)
    kept = world.vectors[4].tobytes()
    assert world.vectors[3].tobytes() in b"".join(file.read_bytes() for file in home.rglob("*.vectors"))
    fold(world, drop_gone=True)
    content = b"".join(file.read_bytes() for file in home.rglob("*.vectors"))
    assert (world.vectors[3].tobytes() in content, kept in content) == (False, True)
    assert nearest(views, world.vectors[[4, 250]]) == world.truth(world.vectors[[4, 250]], 1)
    assert world.ids[3] not in nearest(views, world.vectors[3], 50)[0]


def test_a_fold_takes_away_what_nobody_can_read_and_misses_no_home_that_was_lost(world: World, tmp_path: Path) -> None:
    home = tmp_path / "home"
    build(world, kind="disk", home=f"file://{home}")
    build(world)
    (folder_of(world, 2) / "manifest.json").write_text("{")
    build(world)
    shutil.rmtree(home)
    world.delete(world.ids[3])
    number, manifest = fold(world, drop_gone=True)
    assert (number, manifest.rows) == (4, ROWS - 1)
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == [4]


def test_drop_gone_of_every_row_leaves_an_index_that_answers_nothing(world: World) -> None:
    build(world, shards=2)
    views = views_of(world)
    views.current()
    world.table.rows.dataset().delete("true")
    number, manifest = fold(world, drop_gone=True)
    assert (number, manifest.rows) == (2, 0)
    assert ids_in(views.current().search(prepared(world.vectors[:2]), 5)) == [[], []]
    world.add(clustered(5, 5))
    assert nearest(views, world.vectors[-1]) == world.truth(world.vectors[-1], 1, lambda i: i >= ROWS)


def test_after_going_back_to_an_older_index_the_rows_since_are_beside_it_again(world: World) -> None:
    build(world)
    views = views_of(world)
    world.add(clustered(30, 5))
    fold(world)
    assert views.current().tail_rows == 0
    publish_again(world.layout, "tickets", FINGERPRINT, 1)
    view = views.current()
    assert (view.number, view.tail_rows, view.rows) == (3, 30, ROWS + 30)
    assert nearest(views, world.vectors[-3:], 5) == world.truth(world.vectors[-3:], 5)


def test_searches_go_on_while_rows_come_and_are_folded(world: World) -> None:
    build(world)
    views = views_of(world, folds=False)
    far = np.eye(DIM, dtype=np.float32)
    target = world.add(far[:1])
    ended = threading.Event()
    wrong: list[object] = []

    def search() -> None:
        while not ended.is_set():
            view = views.current()
            found = view.search(prepared(far[0]), 1)
            if ids_in(found) != [target] or found.coverage != 1 or view.rows < ROWS + 1:
                wrong.append((ids_in(found), found))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(6):
        world.add(clustered(25, number))
        fold(world)
    ended.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert views.current().rows == ROWS + 1 + 150


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_fold_into_actors_keeps_those_of_the_shards_that_stay_and_no_search_waits(world: World) -> None:
    build(world, shards=2, served="actors")
    views = views_of(world, folds=False, deadline_s=30.0)
    try:
        pids = [line["pid"] for line in views.current().base.shards.status()]
        world.add(clustered(30, 5))
        fold(world)
        first = views.current()
        assert (first.number, first.tail_rows) == (1, 30)
        assert nearest(views, world.vectors[-2:], 5) == world.truth(world.vectors[-2:], 5)
        soon(lambda: views.current().number > 1, within_s=120)
        view = views.current()
        assert (view.number, view.tail_rows) == (2, 0)
        lines = view.base.shards.status()
        assert [line["pid"] for line in lines][:2] == pids
        assert len(lines) == 3
        assert nearest(views, world.vectors[-2:], 5) == world.truth(world.vectors[-2:], 5)
    finally:
        views.close(stop_actors=True)


_FOLD = """
import sys, json; sys.path[:] = json.loads(sys.argv[1])
from pathlib import Path
from raystore.index.live.fold import fold_index
from raystore.index.source import open_source
from raystore.layout import Layout
source = open_source(sys.argv[2], "tickets")
print("ready", flush=True); sys.stdin.readline()
print(fold_index(source, Layout(Path(sys.argv[2])), "tickets", sys.argv[3]) is not None, flush=True)
"""


def folding(world: World) -> subprocess.Popen[str]:
    arguments = [json.dumps(sys.path), str(world.layout.root), FINGERPRINT]
    child = subprocess.Popen(
        [sys.executable, "-c", _FOLD, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "ready\n"
    child.stdin.write("go\n")
    child.stdin.flush()
    return child


def test_a_fold_that_is_stopped_keeps_others_out_and_killed_leaves_nothing_behind(world: World) -> None:
    build(world, kind="ivf")
    world.add(clustered(200, 5))
    tmp = world.layout.tmp
    with folding(world) as child:
        while not list(tmp.glob("fold-tickets-*")):
            assert child.poll() is None
            time.sleep(0.001)
        child.send_signal(signal.SIGSTOP)
        assert fold(world) is None
        child.kill()
    assert numbers(world.layout.indexes("tickets", FINGERPRINT)) == [1]
    assert list(tmp.glob("fold-tickets-*"))
    number, manifest = fold(world)
    assert (number, manifest.rows) == (2, ROWS + 200)
    assert list(tmp.iterdir()) == []


def test_an_index_that_is_built_during_a_fold_is_not_overruled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import raystore.index.live.fold as module

    build(world)
    world.add(clustered(30, 5))
    write, built = module.write_part, []

    def meanwhile(*arguments: object, **options: object) -> ShardRecord:
        if not built:
            world.add(clustered(10, 6))
            built.append(build(world, shards=3))
        return write(*arguments, **options)

    monkeypatch.setattr(module, "write_part", meanwhile)
    assert fold(world) is None
    assert latest(world.layout, "tickets", FINGERPRINT) == (2, built[0])


@pytest.mark.parametrize("why", ["many rows", "old rows"])
def test_a_search_starts_the_fold_in_the_background(world: World, why: str) -> None:
    build(world, **({"fold_rows": 20} if why == "many rows" else {"fold_after_s": 0.2}))
    views = views_of(world)
    added = world.add(clustered(25, 5))
    deadline = time.monotonic() + 60
    while views.current().number == 1:
        assert time.monotonic() < deadline
        assert added[0] in nearest(views, world.vectors[ROWS], 25)[0]
        time.sleep(0.02)
    view = views.current()
    assert (view.number, view.tail_rows, view.manifest.made_by) == (2, 0, "fold")
    assert nearest(views, world.vectors[ROWS:], 3) == world.truth(world.vectors[ROWS:], 3)


def test_a_fold_that_fails_is_logged_and_searches_go_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    build(world, fold_rows=20)
    views = views_of(world)
    world.add(clustered(25, 5))
    world.layout.tmp.rmdir()
    world.layout.tmp.write_text("in the way")
    with caplog.at_level(logging.WARNING, "raystore"):
        deadline = time.monotonic() + 60
        while not caplog.records:
            assert time.monotonic() < deadline
            assert nearest(views, world.vectors[-1]) == world.truth(world.vectors[-1], 1)
            time.sleep(0.02)
    assert [record.getMessage() for record in caplog.records] == [
        "collection 'tickets': the fold of its index failed and is tried again: NotADirectoryError"
    ]
    assert nearest(views, world.vectors[-1]) == world.truth(world.vectors[-1], 1)


_EXIT = """
import sys, json; sys.path[:] = json.loads(sys.argv[1])
from pathlib import Path
from raystore.index.source import open_source
from raystore.index.live.view import Views
from raystore.layout import Layout
views = Views(open_source(sys.argv[2], "tickets"), Layout(Path(sys.argv[2])), "tickets", sys.argv[3])
views.current()
(process,) = [views._upkeep._process]
print(process.pid, flush=True)
"""


def test_a_process_that_ends_waits_for_no_fold(world: World) -> None:
    build(world, fold_rows=20)
    world.add(clustered(25, 5))
    arguments = [json.dumps(sys.path), str(world.layout.root), FINGERPRINT]
    done = subprocess.run([sys.executable, "-c", _EXIT, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
