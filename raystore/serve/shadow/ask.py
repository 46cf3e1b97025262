"""A deployment's shadow reports, from its store: the window's predictions read, labels joined, one report a head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

import pyarrow as pa

from raystore.catalog import Catalog
from raystore.serve.kept.predictions import Predictions
from raystore.serve.shadow.labels import live_labels
from raystore.serve.shadow.pairs import COLUMNS
from raystore.serve.shadow.report import ShadowReport, shadow_reports


def report_deployment(
    catalog: Catalog,
    deployment: str,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    live: str | None = None,
    heads: Sequence[str] | None = None,
    labels: str | pa.Table | None = None,
    sql: Callable[[str], pa.Table] | None = None,
) -> list[ShadowReport]:
    """A report for each head that was seen beside the live one, in the order of their names.

    Args:
        since, until: of predictions, in UTC where they have no zone; by default all.
        live: the head to hold the others against; by default the one that answered last.
        labels, sql: as of `live_labels`.

    Raises:
        CollectionNotFound: the deployment keeps no predictions. HeadNotFound, and what `live_labels` raises.

    Cost: one pass over eleven columns of the predictions, and the reports.
    """
    rows = Predictions.open(catalog, deployment).read(since, until, columns=COLUMNS)
    joined = None if labels is None else live_labels(catalog, labels, sql)
    return shadow_reports(deployment, rows, live=live, heads=heads, labels=joined)
