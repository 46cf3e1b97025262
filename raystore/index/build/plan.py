"""What an index is to be: the arguments checked, and cut into shards. A build pins the plan, a later call goes on with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from raystore.index.build.budget import MOST_SHARDS, fewest_shards, over_budget
from raystore.index.kinds import KINDS, KindName
from raystore.index.manifest import IndexManifest, ShardRecord
from raystore.index.metric import METRICS, Metric
from raystore.index.source import ROW_ID_END, RowIds
from raystore.layout import FP12

SERVED = ("inline", "actors")


class BuildPlan(BaseModel):
    """What is built: shard i holds the rows of `ranges[i]` that had a vector at `version`, about `counts[i]` of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: str
    fingerprint: str
    dim: int
    kind: KindName
    metric: Metric
    target_recall: float
    memory: int | None
    home: str | None
    version: int
    ranges: tuple[tuple[int, int], ...]
    counts: tuple[int, ...]

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def numbers_but(self, done: Collection[ShardRecord]) -> list[int]:
        """The shards that are still to be written."""
        finished = {record.number for record in done}
        return [number for number in range(len(self.ranges)) if number not in finished]

    def manifest(self, records: Sequence[ShardRecord], facts: Mapping[str, Any], build_s: float) -> IndexManifest:
        """The manifest of the finished shards; `facts` are those that no shard depends on: how it is served and folded."""
        return IndexManifest(
            kind=self.kind,
            metric=self.metric,
            collection=self.collection,
            fingerprint=self.fingerprint,
            dim=self.dim,
            version=self.version,
            shards=tuple(sorted(records, key=lambda record: record.number)),
            target_recall=self.target_recall,
            home=self.home,
            build_s=build_s,
            **facts,
        )


def split_row_ids(row_ids: RowIds, shards: int) -> list[tuple[int, int]]:
    """Half-open ranges of row ids that hold equally many of the (ascending) rows, give or take one.

    The first starts at 0 and the last is open to the end, so that together they hold any row id.
    """
    cuts = [int(part[0]) for part in np.array_split(row_ids, shards)[1:]]
    return list(zip([0, *cuts], [*cuts, ROW_ID_END], strict=True))


def plan_build(row_ids: RowIds, version: int, shaping: Mapping[str, Any]) -> BuildPlan:
    """The plan over the rows (ascending) that have a vector; `shaping` are the checked arguments that shape the shards."""
    facts = dict(shaping)
    shards, memory = facts.pop("shards"), facts["memory"]
    if shards is None:
        shards = 1 if memory is None else fewest_shards(facts["kind"], facts["dim"], len(row_ids), memory)
    counts = tuple(len(part) for part in np.array_split(row_ids, shards))
    return BuildPlan(version=version, ranges=tuple(split_row_ids(row_ids, shards)), counts=counts, **facts)


def problems_of(
    shaping: Mapping[str, Any], facts: Mapping[str, Any], *, workers: object, rows: int, empty: bool
) -> list[str]:
    """Every argument of build_index that cannot be, for a collection with so many rows that have a vector."""
    problems = []
    shards, memory, kind, home = (shaping[name] for name in ("shards", "memory", "kind", "home"))
    if shards is not None and not _number(shards, 1):
        problems.append(f"shards is {shards!r}, expected a number from 1, or None for as many as memory asks for")
    elif rows and shards is not None and shards > min(rows, MOST_SHARDS):
        most = f"the collection's {rows:,} rows" if rows <= MOST_SHARDS else f"{MOST_SHARDS:,}"
        problems.append(f"shards is {shards:,}, more than {most}")
    if kind not in KINDS:
        problems.append(f"kind is {kind!r}, expected {_either(KINDS)}")
    if shaping["metric"] not in METRICS:
        problems.append(f"metric is {shaping['metric']!r}, expected {_either(METRICS)}")
    if memory is not None and not _number(memory, 1):
        problems.append(f"memory is {memory!r}, expected a number of bytes from 1, or None for no limit")
    if not _share(shaping["target_recall"]):
        problems.append(f"target_recall is {shaping['target_recall']!r}, expected more than 0 and at most 1")
    if home is not None and (not isinstance(home, str) or not home or kind != "disk"):
        problems.append(f"home is {home!r}, expected an address such as 's3://bucket/indexes' with kind='disk', or None")
    if not _number(workers, 0):
        problems.append(f"workers is {workers!r}, expected a number from 0 (0 is this process)")
    if facts["served"] not in SERVED:
        problems.append(f"served is {facts['served']!r}, expected {_either(SERVED)}")
    if not _number(facts["replicas"], 1):
        problems.append(f"replicas is {facts['replicas']!r}, expected a number from 1")
    elif facts["replicas"] > 1 and facts["served"] == "inline":
        problems.append(f"replicas is {facts['replicas']}, but served='inline' has one, use served='actors'")
    if not _number(facts["fold_rows"], 1):
        problems.append(f"fold_rows is {facts['fold_rows']!r}, expected a number from 1")
    age = facts["fold_after_s"]
    if isinstance(age, bool) or not isinstance(age, (int, float)) or not age > 0:
        problems.append(f"fold_after_s is {age!r}, expected more than 0 seconds")
    if not _number(facts["cache_bytes"], 0):
        problems.append(f"cache_bytes is {facts['cache_bytes']!r}, expected a number from 0")
    if empty:
        problems.append(f"collection '{shaping['collection']}' has no rows yet, embed some first")
    elif not rows:
        problems.append(no_vectors(shaping["collection"], shaping["fingerprint"]))
    if not problems and memory is not None:
        over = over_budget(kind, shaping["dim"], rows, shards, memory)
        problems += [over] if over else []
    return problems


def no_vectors(collection: str, fingerprint: str) -> str:
    return f"collection '{collection}' has no vectors of encoder {fingerprint[:FP12]} yet, embed some first"


def _number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _share(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1


def _either(names: Sequence[str]) -> str:
    return " or ".join(map(repr, names))
