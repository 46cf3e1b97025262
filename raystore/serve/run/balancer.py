"""Speaks with the HAProxy of this node, over its admin socket: how much a replica takes, what was refused for it, who is let finish,
which certificate it shows.

One replica of a node counts what HAProxy refused and hands on its certificate: which one, a lock on a file says, and another goes on
where it ends. What a HAProxy
counted that was replaced since the last look, 2 s ago at most, is lost. Each call costs a millisecond and blocks. Knows no Ray.
"""

from __future__ import annotations

import csv
import fcntl
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from raystore.serve.door.certificate import Pair, as_one
from raystore.serve.run.haproxy_door import COPIED_FROM, MOST, SHED, certificate_of

log = logging.getLogger("raystore.serve")

_ANSWER_S = 2.0
_RENEW_S = 60.0  # between two looks at the certificate's files
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
        self._pair: Pair | None = None
        self._shown: tuple[bytes, ...] | None = None  # what HAProxy was given last by this process
        self._refused = ""

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

    def keep_renewed(self) -> None:
        """From now on, `renew` once a minute."""
        threading.Thread(target=self._renew_often, name="raystore-certificate", daemon=True).start()

    def renew(self) -> None:
        """Let HAProxy show the certificate that its files hold now, to every connection after this. Those that are open stay open."""
        with self._lock:
            at = certificate_of(self._admin.parent)
            if at is None or not self._counts():
                return
            links = [Path(at).with_name(name) for name in COPIED_FROM]
            copied = links[0].is_symlink()
            if self._pair is None:
                self._pair = Pair(*(link.readlink() for link in links)) if copied else Pair(Path(at))
            pair = self._pair.newest()
            if pair is None or pair == self._shown:
                return
            if copied:  # before HAProxy is told: Serve may start another at any time, which reads it
                copy_pair(pair, Path(at))
            told = self._ask(f"set ssl cert {at} <<\n{as_one(pair)}")  # an empty line ends it
            if told.startswith("Transaction"):
                told = self._ask(f"commit ssl cert {at}")
            if "Success!" in told:
                self._shown, self._refused = pair, ""
            elif told != self._refused:
                self._refused = told
                log.warning("HAProxy does not take the certificate that was renewed: %s", " ".join(told.split()))

    def _renew_often(self) -> None:
        while True:
            time.sleep(_RENEW_S)
            try:
                self.renew()
            except Exception as error:  # noqa: BLE001 - none runs now, or a file cannot be written: looked at again
                log.info("HAProxy's certificate could not be renewed now: %s", type(error).__name__)

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


def copy_pair(pair: Iterable[bytes], to: Path) -> None:
    """Certificate and key in one file, which only this user reads and nobody finds half written."""
    written = to.with_name(f"{to.name}.{os.getpid()}")
    written.touch(mode=0o600)
    written.write_text(as_one(pair), encoding="ascii")
    written.replace(to)
