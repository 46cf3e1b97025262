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

Records = dict[str, DeploymentRecord]


class Follower:
    """Tells `changed` of the newest records of the deployments that are served, whenever one is newer."""

    def __init__(self, catalog: Catalog, changed: Callable[[Records], None], look_s: float = _LOOK_S) -> None:
        self._look_s = look_s
        self._catalog = catalog
        self._changed = changed
        self._records: Records = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def follow(self, records: Mapping[str, DeploymentRecord]) -> None:
        """Tell of these, or of newer ones, now; and go on looking. Raises what `changed` raises."""
        with self._lock:
            self._take(self._newest(records))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="raystore-follow", daemon=True)
                self._thread.start()

    def _newest(self, records: Mapping[str, DeploymentRecord]) -> Records:
        known = deployment_records(self._catalog)
        return {name: max(record, known.get(name, record), key=lambda r: r.number) for name, record in records.items()}

    def _take(self, records: Records) -> None:
        self._changed(records)
        self._records = records

    def _run(self) -> None:
        while True:
            time.sleep(self._look_s)
            try:
                with self._lock:
                    newest = self._newest(self._records)
                    if newest != self._records:
                        self._take(newest)
            except Exception as error:  # noqa: BLE001 - the store cannot be read now, or a record is another version's: looked at again
                log.error(
                    "the newest deployments are not taken up: %s",
                    error if isinstance(error, RaystoreError) else type(error).__name__,
                )
