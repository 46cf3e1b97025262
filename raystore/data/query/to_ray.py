"""A query's rows as a Ray Dataset. A thin shell: the rows are made in `result.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from raystore.session import start_ray

if TYPE_CHECKING:
    from raystore.data.query.result import SqlResult


def to_ray(result: SqlResult) -> Any:
    """The Dataset, one block a batch; the rows are columns of a query, never raw content."""
    ray = start_ray()
    blocks = [ray.put(pa.Table.from_batches([batch])) for batch in result.batches()]
    return ray.data.from_arrow_refs(blocks or [ray.put(result.schema.empty_table())])
