from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from raystore.data import fence as fence_module
from raystore.data.collection import CollectionTable
from raystore.data.fence import Fence
from raystore.errors import LeaseLost, WriterBlocked
from tests.data.children import DEADLINE_S, Child
from tests.data.toy import some_rows

SHORT_S = 0.3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "table" / "fence"


def ids_of(table: CollectionTable) -> list[str]:
    return table.to_arrow(["id"]).column("id").to_pylist()


def test_one_process_at_a_time_holds_the_lease(folder: Path, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    children = [Child("count", folder, counter, 25) for _ in range(4)]
    assert [child.ends() for child in children] == [0, 0, 0, 0]
    assert counter.read_text() == "100"


def test_one_thread_at_a_time_holds_the_lease(folder: Path) -> None:
    fence, inside, most = Fence(folder), [0], [0]

    def work() -> None:
        for _ in range(10):
            with fence.hold():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert most == [1]


def test_each_lease_has_a_higher_token(folder: Path) -> None:
    fence, tokens = Fence(folder), []
    for _ in range(30):
        with fence.hold() as lease:
            tokens.append(lease.token)
    assert tokens == list(range(1, 31))


def test_old_tokens_are_swept_and_a_few_are_kept(folder: Path) -> None:
    (folder).mkdir(parents=True)
    (folder / "1.released").touch()  # of a writer that let go long after its token was swept
    fence = Fence(folder)
    for _ in range(30):
        with fence.hold():
            pass
    left = {name.partition(".")[0] for name in os.listdir(folder)} - {"commit"}
    assert left == {str(n) for n in range(22, 31)}


def test_a_lease_is_released_when_its_work_fails(folder: Path) -> None:
    fence = Fence(folder, lease_s=600, wait_s=5)
    with pytest.raises(ZeroDivisionError), fence.hold():
        1 / 0  # noqa: B018
    with fence.hold() as lease:
        assert lease.token == 2


def test_after_a_killed_holder_the_next_goes_on_at_once(folder: Path) -> None:
    with Child("hold", folder, 600) as child:
        assert child.says() == "1"
        child.kill()
        with Fence(folder, lease_s=600, wait_s=30).hold() as lease:  # its lease would have run for ten minutes
            assert lease.token == 2


def test_a_running_holder_is_waited_for(folder: Path) -> None:
    taken = threading.Event()

    def take() -> None:
        with Fence(folder).hold():
            taken.set()

    with Child("hold", folder, 600) as child:
        child.says()
        thread = threading.Thread(target=take)
        thread.start()
        assert not taken.wait(0.2)
        child.tell()
        assert child.says() == "released"
        thread.join(DEADLINE_S)
    assert taken.is_set()


def test_a_holder_that_outlived_its_lease_commits_nothing(tickets: CollectionTable) -> None:
    table = tickets.rows
    with Child("commit_once", table.path, table.fence.folder, SHORT_S, "late", "shared") as child:
        assert child.says() == "committing"  # its rows are written, it is about to commit them
        child.stop()
        table.fence.lease_s = 600
        (ours,) = table.commit([some_rows(["ours", "shared"])], refuse_differing=True)
        child.resume()
        child.tell()
        said = child.says()
    assert said == (
        f"LeaseLost the writer lease 1 on '{table.fence.folder.parent}' ran out and writer 2 took over; "
        "nothing was committed. Repeat the call."
    )
    assert ours.added == 2
    assert sorted(ids_of(tickets)) == ["ours", "shared"]
    assert sorted(table.known(["late", "ours", "shared"])) == ["ours", "shared"]


def test_a_late_holder_repeats_its_commit_and_loses_nothing(tickets: CollectionTable) -> None:
    table = tickets.rows
    with Child("commit_stalled", table.path, table.fence.folder, SHORT_S, "late", "shared") as child:
        assert child.says() == "committing"
        child.stop()
        table.commit([some_rows(["ours", "shared"])], refuse_differing=True)
        child.resume()
        child.tell()
        assert child.says() == "added 1"
    assert sorted(ids_of(tickets)) == ["late", "ours", "shared"]


def test_a_holder_stopped_inside_its_commit_is_killed_and_the_next_goes_on(
    tickets: CollectionTable, caplog: pytest.LogCaptureFixture
) -> None:
    table = tickets.rows
    with Child("hold_inside_commit", table.fence.folder, SHORT_S) as child:
        assert child.says() == "inside"
        child.stop()
        table.fence.lease_s = SHORT_S
        with caplog.at_level(logging.WARNING, "raystore"):
            table.commit([some_rows(["ours"])], refuse_differing=True)
        assert child.ends() == -9
    assert ids_of(tickets) == ["ours"]
    killed = f"killing process {child.pid}: it was stopped inside a commit to {table.fence.folder.parent}"
    assert killed in caplog.messages


def test_who_is_stopped_between_commits_holds_up_nobody_who_commits(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Fence(folder, lease_s=SHORT_S).hold() as lease, Child("hold_between_commits", folder) as child:
        assert child.says() == "inside"
        child.stop()
        with caplog.at_level(logging.WARNING, "raystore"), lease.committing(1):
            assert child.ends() == -9
    assert caplog.messages == [f"killing process {child.pid}: it was stopped inside a commit to {folder.parent}"]


def test_who_has_left_its_commit_is_not_taken_for_one_who_is_inside(folder: Path) -> None:
    with Fence(folder).between_commits():
        assert json.loads((folder / "commit.lock").read_text())["pid"] == os.getpid()
    assert (folder / "commit.lock").read_text().strip() == ""


def test_a_holder_busy_inside_its_commit_is_waited_for_and_not_killed(tickets: CollectionTable) -> None:
    table = tickets.rows
    with Child("hold_inside_commit", table.fence.folder, SHORT_S) as child:
        assert child.says() == "inside"
        thread = threading.Thread(target=table.commit, args=([some_rows(["ours"])],), kwargs={"refuse_differing": True})
        thread.start()
        thread.join(1.0)  # beyond its lease and our patience
        assert thread.is_alive()
        child.tell()
        assert child.says() == "left"
        assert child.ends() == 0
        thread.join(DEADLINE_S)
    assert ids_of(tickets) == ["ours"]


def cut_off(folder: Path, token: int, expires: float) -> None:
    """The token of a writer on another machine, which nobody here can look at and which never lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"host": "elsewhere", "pid": 1, "started": "5", "expires": expires}
    (folder / f"{token}.json").write_text(json.dumps(record))


def test_a_holder_that_is_cut_off_is_waited_out_and_then_overtaken(folder: Path) -> None:
    expires = time.time() + SHORT_S
    cut_off(folder, 7, expires)
    with Fence(folder).hold() as lease:
        assert lease.token == 8
        assert time.time() > expires


def test_a_holder_that_comes_back_after_it_was_cut_off_commits_nothing(folder: Path) -> None:
    with Fence(folder, lease_s=0.0).hold() as late, Fence(folder / ".." / "fence").hold() as now:
        with pytest.raises(LeaseLost) as lost, late.committing(1):
            raise AssertionError("it committed")
        with now.committing(1):
            pass
    assert (lost.value.token, lost.value.found) == (late.token, now.token) == (1, 2)


@pytest.mark.parametrize("torn", [b"", b'{"host": "else', b"\0" * 64, b"\xff\xfe"])
def test_a_token_torn_by_a_power_cut_is_waited_out(folder: Path, torn: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "3.json").write_bytes(torn)
    written = (folder / "3.json").stat().st_mtime
    with Fence(folder, lease_s=SHORT_S).hold() as lease:
        assert lease.token == 4
        assert time.time() > written + SHORT_S


def test_a_waiter_with_an_old_listing_does_not_become_the_holder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fence = Fence(folder)
    for _ in range(20):
        with fence.hold():
            pass
    listings = iter([[3]])  # what it saw before it was put to sleep; token 3 and 4 are long swept
    real = fence_module._tokens
    monkeypatch.setattr(fence_module, "_tokens", lambda f: next(listings, None) or real(f))
    with fence.hold() as lease:
        assert lease.token == 21
        with lease.committing(1):
            pass


def test_who_waits_too_long_is_told_whom_to_end(folder: Path) -> None:
    with Child("hold", folder, 600) as child:
        child.says()
        with pytest.raises(WriterBlocked) as blocked, Fence(folder, wait_s=0.2).hold():
            raise AssertionError("two hold it")
    assert str(blocked.value) == (
        f"waited 0.2 s to write to '{folder.parent}', held by process {child.pid} on {socket.gethostname()}. "
        "Nothing was written. Repeat the call; if it stays so, end that process."
    )


def test_who_waits_for_a_torn_token_is_not_told_of_a_process_that_never_was(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "1.json").touch()
    with pytest.raises(WriterBlocked, match="held by an unknown process"), Fence(folder, lease_s=600, wait_s=0.1).hold():
        raise AssertionError("two hold it")


def test_who_waits_for_another_thread_is_told_so(folder: Path) -> None:
    fence = Fence(folder, wait_s=0.1)
    with fence.hold(), pytest.raises(WriterBlocked, match="held by another thread of this process"), fence.hold():
        raise AssertionError("two hold it")


def test_a_process_with_the_number_of_a_dead_holder_does_not_inherit_its_lease(folder: Path) -> None:
    folder.mkdir(parents=True)
    record = {"host": socket.gethostname(), "pid": os.getpid(), "started": "1", "expires": time.time() + 600}
    (folder / "1.json").write_text(json.dumps(record))
    with Fence(folder, wait_s=30).hold() as lease:
        assert lease.token == 2


def test_a_lease_that_is_renewed_outlasts_itself_and_nobody_else_gets_in(folder: Path) -> None:
    with Fence(folder, lease_s=SHORT_S).hold() as lease:
        until = time.monotonic() + 3 * SHORT_S
        while time.monotonic() < until:
            lease.renew()
            time.sleep(SHORT_S / 20)
        with pytest.raises(WriterBlocked), Fence(folder / ".." / "fence", wait_s=SHORT_S / 10).hold():
            pass
        with lease.committing(1):
            pass


def test_renewing_a_lease_that_was_taken_over_says_so(folder: Path) -> None:
    with Fence(folder, lease_s=0.0).hold() as late, Fence(folder / ".." / "fence").hold():
        with pytest.raises(LeaseLost) as lost:
            late.renew()
        assert (lost.value.token, lost.value.found) == (1, 2)
