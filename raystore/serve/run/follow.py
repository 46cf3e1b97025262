"""Follows the catalog: a promotion is a record there, and every process of the service takes it up by itself."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from raystore.catalog import Catalog
from raystore.errors import RaystoreError
from raystore.serve.spec.records import DeploymentRecord, deployment_records

log = logging.getLogger("raystore.serve")

# Between two looks: a promotion is everywhere within that and what loading its head takes. A look reads a small file a deployment.
_LOOK_S = 1.0
_LONGEST_S = 60.0  # between two tries of what could not be taken up: it may load an encoder each time

Records = dict[str, DeploymentRecord]


class Follower:
    """Tells `changed` of the newest records of the deployments that are served, whenever one is newer.

    `changed` returns the records that hold from then on. Where those are others, as one could not be taken up, it is told again, ever
    more rarely.
    """

    def __init__(
        self, catalog: Catalog, changed: Callable[[Records], Mapping[str, DeploymentRecord]], look_s: float = _LOOK_S
    ) -> None:
        self._look_s = self._pause_s = look_s
        self._catalog = catalog
        self._changed = changed
        self._wanted: Records = {}  # of the last call
        self._taken: Records | None = None  # None: it raised
        self._next = 0.0  # when it is tried again
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def follow(self, records: Mapping[str, DeploymentRecord]) -> None:
        """Tell of these, or of newer ones, now; and go on looking. Raises what `changed` raises."""
        with self._lock:
            newest = self._newest(records)
            self._taken = dict(self._changed(newest))
            self._wanted, self._pause_s = newest, self._look_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="raystore-follow", daemon=True)
                self._thread.start()

    def _newest(self, records: Mapping[str, DeploymentRecord]) -> Records:
        known = deployment_records(self._catalog)
        return {name: max(record, known.get(name, record), key=lambda r: r.number) for name, record in records.items()}

    def _run(self) -> None:
        while True:
            time.sleep(self._look_s)
            try:
                with self._lock:
                    self._look()
            except Exception as error:  # noqa: BLE001 - the store cannot be read now, or a record is another version's: looked at again
                log.error(
                    "the newest deployments are not taken up: %s",
                    error if isinstance(error, RaystoreError) else type(error).__name__,
                )

    def _look(self) -> None:
        newest = self._newest(self._wanted)
        if newest != self._wanted:
            self._pause_s = self._look_s
        elif self._taken == self._wanted or time.monotonic() < self._next:
            return
        else:
            self._pause_s = min(2 * self._pause_s, _LONGEST_S)
        self._wanted, self._taken = newest, None
        try:
            self._taken = dict(self._changed(newest))
        finally:
            self._next = time.monotonic() + self._pause_s
