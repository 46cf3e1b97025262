"""The deployments of a store as a user meets them: `store.deployments`. The work stands in `serve/operate`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from raystore.errors import DeploymentNotFound

if TYPE_CHECKING:
    from raystore.serve.operate.operations import Operations
    from raystore.serve.operate.promote import Promoted
    from raystore.serve.review.queue import ReviewQueue
    from raystore.serve.shadow.report import ShadowReport
    from raystore.serve.spec.records import DeploymentRecord
    from raystore.store import Store


class Deployments:
    """What answers under which name, and what was. A running service follows a promotion within a second or two."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._made: Operations | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getitem__(self, name: str) -> DeploymentRecord:
        return self.get(name)

    def __repr__(self) -> str:
        return f"Deployments({', '.join(self.names()) or 'none'})"

    def names(self) -> list[str]:
        from raystore.serve.spec.records import deployment_records

        return sorted(deployment_records(self._store.catalog))

    def get(self, name: str) -> DeploymentRecord:
        """The record that answers under a name. DeploymentNotFound with the names there are."""
        return self.history(name)[-1]

    def history(self, name: str) -> list[DeploymentRecord]:
        """Every record of a deployment, the first one first; `why` says what a promotion or a roll-back did."""
        from raystore.serve.spec.records import deployment_history

        found = deployment_history(self._store.catalog, name) if name in self.names() else []
        if not found:
            raise DeploymentNotFound(name=name, where=f"store '{self._store.root}'", existing=self.names())
        return found

    def reports(
        self,
        name: str,
        *,
        labels: str | pa.Table | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[ShadowReport]:
        """A report for each shadow or canary beside the live head, of the requests that both saw.

        Args:
            labels: where labels have arrived: 'outcomes.outcome', SQL that gives `id` and `label`, or an Arrow table of both.
            since, until: when it was predicted; UTC where they have no zone.

        Raises:
            DeploymentNotFound, TableNotFound, ColumnNotFound, SqlRefused, InvalidArguments.
        """

        def run(query: str) -> pa.Table:
            return self._store.sql(query).to_arrow()

        return self._operations.reports(name, labels=labels, since=since, until=until, sql=run)

    def promote(
        self,
        head: str,
        *,
        deployment: str | None = None,
        gate: str | None = None,
        labels: str | pa.Table | None = None,
        since: datetime | None = None,
    ) -> Promoted:
        """Let a shadow or canary answer; the head that answered becomes its shadow.

        Args:
            head: 'refunds@3'.
            deployment: by default the only one that has it as a shadow or canary.
            gate: a condition on the report: "agreement > .97 and accuracy_gain.low > 0". One that cannot be told does not hold.
            labels, since: of the report, as for `reports`.

        Raises:
            GateHeld: nothing was changed. HeadNotFound, DeploymentNotFound, InvalidArguments, PassportMismatch.
        """
        from raystore.serve.answer.loading import Rooms
        from raystore.serve.operate.promote import promote

        reports = lambda name: self.reports(name, labels=labels, since=since)  # noqa: E731
        return promote(Rooms(self._store.root), head, deployment=deployment, gate=gate, reports=reports)

    def rollback(self, name: str, *, to: int | None = None) -> Promoted:
        """Let what answered before answer again; `to` is the number of a record."""
        from raystore.serve.answer.loading import Rooms
        from raystore.serve.operate.promote import rollback

        return rollback(Rooms(self._store.root), name, to=to)

    def review(self, name: str) -> ReviewQueue:
        """The review queue of a deployment. What is claimed here, a running service does not know of."""
        return self._operations.queue(name)

    @property
    def _operations(self) -> Operations:
        from raystore.serve.answer.loading import Rooms
        from raystore.serve.operate.operations import Operations

        if self._made is None:
            self._made = Operations(Rooms(self._store.root))
        return self._made
