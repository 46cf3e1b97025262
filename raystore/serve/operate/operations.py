"""Reports on shadows and the review queue: what the process that keeps predictions can tell, and do. Knows no HTTP and no Ray."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import pyarrow as pa

from raystore.errors import DeploymentNotFound, InvalidArguments
from raystore.layout import names
from raystore.serve.answer.loading import Rooms
from raystore.serve.kept.predictions import predictions_name
from raystore.serve.review.labels import Label, Labelled
from raystore.serve.review.queue import Order, ReviewItem, ReviewQueue
from raystore.serve.shadow.ask import report_deployment
from raystore.serve.shadow.labels import check_relation
from raystore.serve.shadow.report import ShadowReport
from raystore.serve.spec.records import DeploymentRecord, deployment_records


class Operations:
    """Over one store. Claims of the review queue are held in the process of its rooms."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def reports(
        self,
        deployment: str,
        *,
        labels: str | pa.Table | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        sql: Callable[[str], pa.Table] | None = None,
        among: Sequence[str] | None = None,
    ) -> list[ShadowReport]:
        """A report for each head that was seen beside the live one; none where nothing was kept yet.

        Args:
            labels: 'outcomes.outcome', or with `sql` a query that gives id and label.
            since, until: when it was predicted.
            sql: runs a query.
            among: the tables and collections that labels may be of, where not all of the store's are for who asks.

        Raises:
            DeploymentNotFound, TableNotFound, ColumnNotFound, InvalidArguments.
        """
        self._record(deployment)
        if predictions_name(deployment) not in names(self._rooms.layout.collections):
            return []
        if among is not None and isinstance(labels, str):
            check_relation(self._rooms.catalog, labels, among)
        return report_deployment(self._rooms.catalog, deployment, since=since, until=until, labels=labels, sql=sql)

    def queue(self, deployment: str) -> ReviewQueue:
        """The review queue. InvalidArguments where the deployment has none."""
        record = self._record(deployment)
        queue = self._rooms.reviews.get(record)
        if queue is None:
            problem = "it has no review queue: give it review: {table: ...} in its file"
            raise InvalidArguments(call=f"review '{deployment}'", problems=[problem])
        head = self._rooms.head(record.head)
        queue.task, queue.classes = head.task, tuple(head.classes)
        return queue

    def items(self, deployment: str, limit: int = 50, order: Order = "oldest") -> list[ReviewItem]:
        return self.queue(deployment).items(limit, order)

    def claim(self, deployment: str, reviewer: str, n: int, minutes: float, order: Order = "oldest") -> list[ReviewItem]:
        return self.queue(deployment).claim(reviewer, n, minutes, order)

    def release(self, deployment: str, reviewer: str) -> int:
        return self.queue(deployment).release(reviewer)

    def label(
        self, deployment: str, reviewer: str, labels: Sequence[tuple[str, Label]], allow_new: bool = False
    ) -> Labelled:
        return self.queue(deployment).label(reviewer, labels, allow_new=allow_new)

    def _record(self, deployment: str) -> DeploymentRecord:
        records = deployment_records(self._rooms.catalog)
        if deployment not in records:
            raise DeploymentNotFound(name=deployment, where="this store", existing=sorted(records))
        return records[deployment]
