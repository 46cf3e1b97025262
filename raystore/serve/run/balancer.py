"""Speaks with the HAProxy of this node, over its admin socket: how much a replica takes, what was refused for it, who is let finish.

One replica of a node counts what HAProxy refused: which one, a lock on a file says, and another goes on where it ends. What a HAProxy
counted that was replaced since the last look, 2 s ago at most, is lost. Each call costs a millisecond and blocks. Knows no Ray.
"""

from __future__ import annotations

import csv
import fcntl
import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from raystore.serve.run.haproxy_door import MOST, SHED

_ANSWER_S = 2.0
_REFUSED = re.compile(r"key=(\S+) .*gpc0=(\d+)")
_PID = re.compile(r"^Pid: (\d+)$", re.MULTILINE)


class Balancer:
    def __init__(self, admin: Path) -> None:
        """
        Args:
            admin: its socket.
        """
        self._admin = admin
        self._lock = threading.Lock()
        self._counting: int | None = None  # the file whose lock is held
        self._before: tuple[str, dict[str, int]] | None = None

    def limit(self, most: int) -> None:
        """From now on a replica gets so many requests at once: from this HAProxy, where it runs already, and from those after it."""
        folder = self._admin.parent
        folder.mkdir(mode=0o700, exist_ok=True)  # none runs on this node, or none yet
        written = folder / f"{MOST}.{os.getpid()}"
        written.write_text(str(most), encoding="ascii")
        written.replace(folder / MOST)
        with suppress(OSError):
            for backend, server in self._bounded():
                self._ask(f"set maxconn server {backend}/{server} {most}")

    def shed(self) -> dict[str, int]:
        """How many requests HAProxy refused since the last look, by the two parts of their paths after /v1/. Empty where another
        process of this node counts them."""
        with self._lock:
            try:
                if not self._counts():
                    return {}
                told = self._ask(f"show info; show table {SHED}")
            except OSError:  # none runs now
                return {}
            pid = found[1] if (found := _PID.search(told)) else ""
            now = {key: int(n) for key, n in _REFUSED.findall(told)}
            before, self._before = self._before, (pid, now)
            if before is None:
                return {}  # counted by who looked before this process did
            earlier = before[1] if before[0] == pid else {}
            # A path that HAProxy had no room for any more is counted from nothing when it comes again.
            rises = {key: n - earlier.get(key, 0) if n >= earlier.get(key, 0) else n for key, n in now.items()}
            return {key: n for key, n in rises.items() if n}

    def finish(self, within_s: float) -> None:
        """Send no replica anything more, and wait until what is under way is answered; what is not by then is cut off."""
        deadline = time.monotonic() + within_s
        with suppress(OSError):
            servers = self._bounded()
            for backend, server in servers:
                self._ask(f"set server {backend}/{server} state drain")
            while self._under_way():
                if time.monotonic() >= deadline:  # a stream, else a replica would wait for it
                    for backend, server in servers:
                        self._ask(f"shutdown sessions server {backend}/{server}")
                    return
                time.sleep(0.1)

    def _under_way(self) -> int:
        return sum(int(row["scur"]) for row in self._rows() if row["svname"] == "BACKEND")

    def _bounded(self) -> list[tuple[str, str]]:
        """Backend and name of the servers that `narrowed` bounded."""
        servers = ((row["pxname"], row["svname"]) for row in self._rows() if row["slim"])
        return [each for each in servers if each[1] not in ("FRONTEND", "BACKEND")]

    def _rows(self) -> Iterator[dict[str, str]]:
        return iter(csv.DictReader(self._ask("show stat").removeprefix("# ").splitlines()))

    def _counts(self) -> bool:
        if self._counting is None:
            opened = os.open(self._admin.parent / "counted", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(opened)
                return False
            self._counting = opened
        return True

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(_ANSWER_S)
            asking.connect(str(self._admin))
            asking.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: asking.recv(65_536), b"")).decode("utf-8", "replace")
