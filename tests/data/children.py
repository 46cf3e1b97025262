"""Writers in processes of their own, which the tests kill and stop: `Child("hold", folder, ...)`.

A child says words on its standard output and goes on when it is told to, so that no test guesses how long it takes.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raystore.data.fence import Fence, Lease

ROOT = Path(__file__).resolve().parent.parent.parent
DEADLINE_S = 60.0


class Child:
    """One child process running a function of this file; killed at the end, whatever happened."""

    def __init__(self, function: str, *arguments: object, wrapper: tuple[str, ...] = ()) -> None:
        command = [*wrapper, sys.executable, "-m", "tests.data.children", function, *map(str, arguments)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)
        self.pid = self.process.pid
        self._said = b""  # read and not yet handed on

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    def says(self) -> str:
        """The next word it says."""
        assert self.process.stdout is not None
        while b"\n" not in self._said:
            assert select.select([self.process.stdout], [], [], DEADLINE_S)[0], "the child said nothing in time"
            more = os.read(self.process.stdout.fileno(), 65_536)
            if not more:
                break
            self._said += more
        line, _, self._said = self._said.partition(b"\n")
        word = line.decode().strip()
        if not word and self.process.wait(DEADLINE_S) > 0:
            raise AssertionError(self.process.stderr.read() if self.process.stderr else "")
        return word

    def says_at_last(self) -> list[str]:
        """The words it says until it ends."""
        assert self.process.stdout is not None
        while more := os.read(self.process.stdout.fileno(), 65_536):
            self._said += more
        *whole, _ = self._said.decode().split("\n")
        return whole

    def tell(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(DEADLINE_S)

    def ends(self) -> int:
        return self.process.wait(DEADLINE_S)


def say(word: object) -> None:
    print(word, flush=True)


def listen() -> None:
    sys.stdin.readline()


class StallingFence(Fence):
    """The real fence; its first lease waits to be told, at the very moment before it is asked whether it may commit."""

    stalls = 1

    @contextmanager
    def hold(self, lease_s: float | None = None) -> Iterator[Lease]:
        with super().hold(lease_s) as lease:
            if self.stalls:
                self.stalls -= 1
                ask = lease.committing

                @contextmanager
                def committing(version: int) -> Iterator[None]:
                    say("committing")
                    listen()
                    with ask(version):
                        yield

                lease.committing = committing  # type: ignore[method-assign]
            yield lease


def hold(folder: str, lease_s: str) -> None:
    with Fence(Path(folder), lease_s=float(lease_s)).hold() as lease:
        say(lease.token)
        listen()
    say("released")


def hold_inside_commit(folder: str, lease_s: str) -> None:
    with Fence(Path(folder), lease_s=float(lease_s)).hold() as lease, lease.committing(1):
        say("inside")
        listen()
    say("left")


def count(folder: str, counter: str, times: str) -> None:
    """Add to a number in a file so that any two at once would lose one."""
    fence, path = Fence(Path(folder)), Path(counter)
    for _ in range(int(times)):
        with fence.hold():
            number = int(path.read_text())
            time.sleep(0.001)
            path.write_text(str(number + 1))


def commit_once(table: str, fence: str, lease_s: str, *ids: str) -> None:
    """One attempt at a commit, held up just before the end of it; says what became of it."""
    from raystore.data.keyed import KeyedTable
    from raystore.errors import RaystoreError
    from tests.data.toy import some_rows

    keyed = KeyedTable(Path(table), Path(fence), "id")
    try:
        with StallingFence(Path(fence), lease_s=float(lease_s)).hold() as lease:
            keyed._commit_held([some_rows(ids)], lease, True)
            say("committed")
    except RaystoreError as error:
        say(f"{type(error).__name__} {error}")


def commit_stalled(table: str, fence: str, lease_s: str, *ids: str) -> None:
    """The public commit, whose first attempt is held up."""
    from raystore.data.keyed import KeyedTable
    from tests.data.toy import some_rows

    keyed = KeyedTable(Path(table), Path(fence), "id")
    keyed.fence = StallingFence(Path(fence), lease_s=float(lease_s))
    (outcome,) = keyed.commit([some_rows(ids)], refuse_differing=True)
    say(f"added {outcome.added}")


def race(table: str, fence: str, payload: str, start: str, stop: str, step: str) -> None:
    """Commit ids start..stop, `step` at a time; says how many were added, known and differing in all."""
    from raystore.data.keyed import KeyedTable
    from tests.data.toy import some_rows

    keyed = KeyedTable(Path(table), Path(fence), "id")
    say("ready")
    listen()
    added = known = differing = 0
    for first in range(int(start), int(stop), int(step)):
        rows = some_rows([f"row-{i}" for i in range(first, first + int(step))], payload.encode() * 32)
        (outcome,) = keyed.commit([rows], refuse_differing=False)
        added, known, differing = added + outcome.added, known + outcome.known, differing + len(outcome.differing)
    say(f"{added} {known} {differing}")


def race_append(table: str, fence: str, journal: str, role: str, start: str, stop: str) -> None:
    """Append, or commit, ids start..stop, two at a time; says each row that is durable."""
    from raystore.data.journaled import JournaledTable
    from tests.data.toy import some_rows

    rows = JournaledTable(Path(table), Path(fence), "id", Path(journal))
    say("ready")
    listen()
    for first in range(int(start), int(stop), 2):
        ids = [f"row-{first}", f"row-{first + 1}"]
        if role == "append":
            rows.append([some_rows(ids)])
        else:
            rows.commit([some_rows(ids)], refuse_differing=True)
        for id_ in ids:
            say(id_)


def hold_between_commits(folder: str) -> None:
    with Fence(Path(folder)).between_commits():
        say("inside")
        listen()


def fork_between_commits(folder: str) -> None:
    """Leaves, and a process that it forked meanwhile lives on."""
    with Fence(Path(folder)).between_commits():
        if os.fork() == 0:
            time.sleep(DEADLINE_S)
            os._exit(0)
    say("left")
    listen()


def race_fill(table: str, fence: str, column: str, stop: str, step: str) -> None:
    """Fill the column of ids 0..stop, `step` at a time; says how many were filled and known in all."""
    from raystore.data.keyed import KeyedTable
    from tests.data.toy import some_values

    keyed = KeyedTable(Path(table), Path(fence), "id")
    say("ready")
    listen()
    filled = known = 0
    for first in range(0, int(stop), int(step)):
        outcome = keyed.fill(some_values([f"row-{i}" for i in range(first, first + int(step))], column), column)
        filled, known = filled + outcome.filled, known + outcome.known
    say(f"{filled} {known}")


def fill_stalled(table: str, fence: str, lease_s: str, column: str, *ids: str) -> None:
    """The public fill, whose first attempt is held up just before its end."""
    from raystore.data.keyed import KeyedTable
    from tests.data.toy import some_values

    keyed = KeyedTable(Path(table), Path(fence), "id")
    keyed.fence = StallingFence(Path(fence), lease_s=float(lease_s))
    outcome = keyed.fill(some_values(ids, column), column)
    say(f"filled {outcome.filled} known {outcome.known}")


def log_rows(root: str, *ids: str) -> None:
    """Open the store, which may not be there yet, and log a row for each id, one at a time."""
    from raystore.catalog import open_root
    from raystore.data.collection import CollectionTable
    from raystore.errors import AlreadyExists
    from tests.data.toy import make_log, make_tickets

    say("ready")
    listen()
    layout, about = open_root(root, create=True)
    try:
        table = make_tickets(layout)
    except AlreadyExists:
        table = CollectionTable.open(layout, "tickets")
    for id_ in ids:
        make_log(table).log([{"id": id_, "text": "hello"}])
    say(about["key_id"])


def fill_disk(folder: str, size: str) -> None:
    """In a mount namespace of its own: commit until a file system of `size` bytes is full, which it nearly is when the
    first merge is due: space for a few commits, but not for all rows once more.

    Says the first merge that failed, the error, and: rows acknowledged, rows there, fragments, rows added with space.
    """
    from raystore.errors import DiskFull
    from tests.data.toy import make_store, make_tickets, some_rows

    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    say("mounted")
    warnings: list[str] = []
    logging.getLogger("raystore").addHandler(listener := logging.Handler())
    listener.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    ballast = Path(folder) / "ballast"
    table = make_tickets(make_store(Path(folder) / "store")).rows
    acknowledged = 0
    try:
        while True:
            if acknowledged == 31 * 40:
                ballast.write_bytes(bytes(os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize - 300_000))
            rows = some_rows([f"{acknowledged + i} {os.urandom(240).hex()}" for i in range(40)])
            table.commit([rows], refuse_differing=True)
            acknowledged += 40
    except DiskFull as error:
        say(warnings[0] if warnings else "none")
        say(error)
    found = table.dataset()
    ballast.unlink()
    (outcome,) = table.commit([rows], refuse_differing=True)
    say(f"{acknowledged} {found.count_rows()} {len(found.get_fragments())} {outcome.added}")


def fill_journal(folder: str, size: str) -> None:
    """In a mount namespace of its own: append until a file system of `size` bytes is full; says the error, and how many rows were
    acknowledged and are there once there is space."""
    from raystore.errors import DiskFull
    from tests.data.toy import make_store, make_tickets, some_rows

    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    say("mounted")
    ballast = Path(folder) / "ballast"
    ballast.write_bytes(bytes(int(1.5 * 2**20)))
    table = make_tickets(make_store(Path(folder) / "store")).rows
    acknowledged = 0
    try:
        while True:
            table.append([some_rows([f"{acknowledged} {os.urandom(2_000).hex()}"])])
            acknowledged += 1
    except DiskFull as error:
        say(error)
    for i in range(20):
        try:
            table.append([some_rows([f"too much {i} {os.urandom(2_000).hex()}"])])
        except DiskFull:
            continue
        acknowledged += 1
    say(len(list((Path(folder) / "store" / "collections" / "tickets" / "journal").iterdir())))
    ballast.unlink()
    table.take_in()
    say(f"{acknowledged} {table.dataset().count_rows()}")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
