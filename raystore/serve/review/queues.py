"""The review queues of a process: one a deployment, so that claims, and the bound on open items, hold for all who ask there."""

from __future__ import annotations

import threading

from raystore.catalog import Catalog
from raystore.serve.kept.predictions import Predictions
from raystore.serve.review.queue import ReviewQueue
from raystore.serve.spec.records import DeploymentRecord


class ReviewQueues:
    """Safe in many threads."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._queues: dict[str, ReviewQueue] = {}
        self._lock = threading.Lock()

    def get(self, record: DeploymentRecord) -> ReviewQueue | None:
        """The queue of a deployment as its record says; None where it has none. Another table is another queue."""
        policy = record.review
        if policy is None:
            return None
        with self._lock:
            found = self._queues.get(record.name)
            if found is None or found.table != policy.table:
                kept = Predictions.of(self._catalog, record)
                found = self._queues[record.name] = ReviewQueue(self._catalog, record.name, kept, policy.table)
            elif found.predictions.keep != tuple(dict.fromkeys(record.keep)):
                found.predictions = Predictions.of(self._catalog, record)
            found.most = policy.most
            return found
