"""Sends what a spool holds, in order, from a thread of its own, until it is told to stop.

A failure that passes (no connection, 429, 5xx, a key that is not believed) is waited out with backoff, however long it takes: order is
kept and nothing is dropped. Rows that the service refuses for what they are (409, 413, 422) are found by halving their batch,
and set aside, so that they stop nothing behind them.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from raystore.errors import RaystoreError, ServiceDenied, ServiceError, ServiceRefused, ServiceUnreachable
from raystore.source.record import Record
from raystore.source.spool import Spool

log = logging.getLogger("raystore.source")

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 30.0
# Of what a service refuses, what lies with the rows. A 404 or 421 lies with the address or the service, and may pass.
OF_THE_ROWS = (409, 413, 422)


class Sender:
    """Started when it is made; `send` is handed rows of one collection and encoder and raises what the client raises."""

    def __init__(self, spool: Spool, send: Callable[[Sequence[Record]], None], batch_rows: int) -> None:
        self._spool = spool
        self._send = send
        self._batch_rows = batch_rows
        self._changed = threading.Condition()
        self._stopping = False
        self._hurry = False
        self._error: str | None = None
        self._sent = 0
        self._damaged = 0
        self._thread = threading.Thread(target=self._run, name="raystore-source", daemon=True)
        self._thread.start()

    @property
    def last_error(self) -> str | None:
        """Why the last attempt failed, while it is so; a sentence without content."""
        return self._error

    @property
    def sent_rows(self) -> int:
        return self._sent

    @property
    def damaged_rows(self) -> int:
        return self._damaged

    def wake(self) -> None:
        """There are new rows."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, timeout_s: float | None) -> bool:
        """Try now, whatever the backoff says; whether all was sent, or set aside, in time."""
        ends = None if timeout_s is None else time.monotonic() + timeout_s
        with self._changed:
            while self._spool.pending_rows and not self._stopping:
                left = None if ends is None else ends - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._hurry = True
                self._changed.notify_all()
                self._changed.wait(min(left, 1.0) if left is not None else 1.0)
        return self._spool.pending_rows == 0

    def stop(self, timeout_s: float) -> None:
        """No further attempt; the present one is waited for, at most so long."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        failures = 0
        while True:
            with self._changed:
                if failures and not self._hurry:
                    self._changed.wait_for(lambda: self._stopping or self._hurry, self._wait_s(failures))
                else:
                    self._changed.wait_for(lambda: self._stopping or self._spool.pending_rows > 0)
                self._hurry = False
                if self._stopping:
                    return
            try:
                self._send_next()
                failures, self._error = 0, None
            except RaystoreError as error:
                failures += 1
                self._say(str(error))
            except Exception as error:  # noqa: BLE001 - the spool's disk, or what nobody foresaw: the thread has to go on
                failures += 1
                self._say(f"the rows could not be read or sent ({type(error).__name__})")
            finally:
                with self._changed:
                    self._changed.notify_all()

    def _send_next(self) -> None:
        batch = self._spool.next(self._batch_rows)
        if batch is None:
            return
        if batch.damaged:
            log.error("%s rows of the spool in '%s' are damaged and were passed over", batch.damaged, self._spool.folder)
            self._damaged += batch.damaged
        refused = self._refused_of(batch.records)
        if refused:
            self._spool.refuse(refused)
        self._spool.sent(batch)
        self._sent += len(batch.records) - len(refused)

    def _refused_of(self, records: Sequence[Record]) -> list[Record]:
        """Send the records; those that the service will not take are returned. Raises what may pass."""
        if not records:
            return []
        try:
            self._send(records)
        except ServiceRefused as error:
            if error.status_code not in OF_THE_ROWS or error.type == "UnreadableAnswer":
                raise
            if len(records) == 1:
                log.error("a row was refused and set aside: %s", error)
                return list(records)
        else:
            return []
        half = len(records) // 2
        return self._refused_of(records[:half]) + self._refused_of(records[half:])

    def _wait_s(self, failures: int) -> float:
        return random.uniform(0.0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(failures, 16)))  # noqa: S311 - no secret

    def _say(self, error: str) -> None:
        if self._error is None:
            log.warning("rows wait in the spool '%s': %s", self._spool.folder, error)
        self._error = error


def may_pass(error: ServiceError | ServiceUnreachable) -> bool:
    """Whether rows are to wait for it to pass, where they were to be sent at once: it lies neither with them nor with a wrong name.

    A key that has ended is renewed; an answer that is not raystore's, such as a balancer's 404, comes from what stands there meanwhile.
    """
    if isinstance(error, (ServiceUnreachable, ServiceDenied)):
        return True
    return error.status_code == 429 or error.status_code >= 500 or error.type == "UnreadableAnswer"
