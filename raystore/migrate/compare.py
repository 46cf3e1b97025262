"""What changes with the encoder, on rows that have a true vector of both: neighbours, and what heads say. Loads no model.

    recall      of the 10 rows nearest by true new vectors, the share found where the rows are bridged (without a bridge: the share
                that the old vectors find)
    kept        with labels: of the rows with the query's label that true new vectors find among the 10, the share found so
    agreement   how often a head of the old space says the same of the old vector and of the new one mapped back

Cost: 20 ms a 1,000 rows read, then matrix products of the sample with itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from raystore.catalog import Catalog
from raystore.data.collection import CollectionTable
from raystore.encoders.bridged import is_bridged, read_bridge
from raystore.encoders.registry import Encoder, Encoders
from raystore.errors import ColumnNotFound, InvalidArguments
from raystore.layout import bridged_column, vector_column
from raystore.markup import rows_html
from raystore.migrate.bridge.fidelity import K, Measured, Shares, halved, kept_of, nearest, of_label, recalls
from raystore.migrate.plan import find_bridge
from raystore.train.registry import Heads
from raystore.vectors import mark

SAMPLE = 2_000
_LEAST = 20  # rows below which shares say nothing
_ALL = "all rows"


@dataclass(frozen=True)
class Compared:
    """`rows` lists, for all rows and for each class: class, rows, recall, kept, and the agreement of each head by its label.

    `unseen`: the rows were bridged before they got their true vector, so the bridge was fitted without them.
    """

    collection: str
    old: str
    new: str
    bridge: str | None
    back: str | None
    n: int
    unseen: bool
    recall: float
    kept: float | None
    heads: dict[str, float]
    falls: float
    collection_rows: int
    rows: tuple[dict[str, Any], ...]

    @property
    def advice(self) -> str | None:
        """A sentence that says to re-embed, where recall@10 is below 90%."""
        measured = Measured(self.recall, self.kept, self.n, self.falls, self.collection_rows)
        if self.bridge is None or measured.good:
            return None
        return f"Re-embed where you can: rows bridged by {self.bridge} give {measured}, {measured.short}."

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "advice": self.advice}

    @property
    def title(self) -> str:
        by = f"rows bridged by {self.bridge}" if self.bridge else f"vectors of {self.old}, for there is no bridge"
        seen = "which the bridge was fitted without" if self.unseen else "some of which the bridge may have been fitted on"
        said = f", {seen}" if self.bridge else ""
        return f"{self.collection}: what {self.new} finds, found by {by}; {self.n:,} rows with both{said}"

    def __str__(self) -> str:
        lines = [self.title]
        for row in self.rows:
            agrees = "".join(f", {head} agrees {row[head]:.1%}" for head in self.heads if row[head] is not None)
            lines.append(f"  {row['class']}: {Measured(row['recall'], row['kept'])}{agrees} ({row['rows']:,} rows)")
        return "\n".join([*lines, *([self.advice] if self.advice else [])])

    def _repr_html_(self) -> str:
        return rows_html(self.rows, title=self.title, note=self.advice or "")


def compare_encoders(
    catalog: Catalog,
    table: CollectionTable,
    old: Encoder,
    new: Encoder,
    *,
    labels: str | Mapping[str, str] | None = None,
    heads: Sequence[str] | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
) -> Compared:
    """The work of `Collection.compare_encoders`; `new` may be a forward bridge, which then is the one compared."""
    call = f"compare_encoders of '{table.name}'"
    forward = None
    if is_bridged(new.passport):
        bridge = read_bridge(catalog.layout, new.fingerprint, new.label)
        if (bridge.direction, bridge.source) != ("forward", old.fingerprint):
            problem = f"{new.label} is no bridge that leads from {old.label}"
            raise InvalidArguments(call=call, problems=[problem])
        forward, new = (new, bridge), Encoders(catalog).get(bridge.target)
    forward = forward or find_bridge(catalog, old.fingerprint, new.fingerprint, "forward")
    back = find_bridge(catalog, new.fingerprint, old.fingerprint, "back")
    row_ids, unseen = _rows(table, old, new, forward[0].fingerprint if forward else None, sample, seed)
    if len(row_ids) < _LEAST:
        problem = f"{len(row_ids)} rows have a vector of both {old.label} and {new.label}, and {_LEAST} are needed"
        raise InvalidArguments(call=call, problems=[problem])
    (has_old, x), (has_new, y) = (table.vectors_at(each.fingerprint, row_ids) for each in (old, new))
    there = has_old & has_new  # a row may have been erased meanwhile
    x, y, row_ids = mark(x[there[has_old]], old.fingerprint), mark(y[there[has_new]], new.fingerprint), row_ids[there]
    gallery = np.asarray(forward[1].cross(x)) if forward else x
    own, k = np.arange(len(y)), min(K, len(y) - 1)
    wanted, found = nearest(y, y, own, k), nearest(y if forward else x, gallery, own, k)
    shares = recalls(wanted, found)
    agrees: dict[str, Shares] = {}
    if back is not None:
        mapped = back[1].as_target(back[1].cross(y))
        for head in _heads(catalog, old, heads):
            a, b = (head.predict(rows).labels for rows in (x, mapped))
            agrees[head.label] = np.array([one == other for one, other in zip(a, b, strict=True)], np.float64)
    classes = np.full(len(row_ids), "") if labels is None else _classes(table, row_ids, labels)
    codes = np.where(classes == "", -1, np.unique(classes, return_inverse=True)[1])
    true, through = (of_label(each, codes, codes) for each in (wanted, found))
    groups = {_ALL: np.ones(len(row_ids), np.bool_), **{str(c): classes == c for c in np.unique(classes) if c}}
    rows = tuple(
        {
            "class": name,
            "rows": int(part.sum()),
            "recall": float(shares[part].mean()),
            "kept": kept_of(true[part], through[part]),
        }
        | {head: float(same[part].mean()) for head, same in agrees.items()}
        for name, part in groups.items()
    )
    return Compared(
        collection=table.name,
        old=old.label,
        new=new.label,
        bridge=forward[0].label if forward else None,
        back=back[0].label if back else None,
        n=len(row_ids),
        unseen=unseen,
        recall=float(shares.mean()),
        falls=halved("forward", gallery, y, y, own) - float(shares.mean()) if forward else 0.0,
        collection_rows=table.count(),
        kept=kept_of(true, through),
        heads={head: float(same.mean()) for head, same in agrees.items()},
        rows=rows,
    )


def _rows(
    table: CollectionTable, old: Encoder, new: Encoder, forward: str | None, sample: int, seed: int
) -> tuple[npt.NDArray[np.int64], bool]:
    """Ascending row ids with both true vectors, and whether all of them were bridged first: those are taken where there are enough."""
    for encoder in (old, new):
        table.check_encoder(encoder.fingerprint, encoder.label)
    both = " AND ".join(f"{vector_column(each.fingerprint)} IS NOT NULL" for each in (old, new))
    dataset = table.rows.dataset()
    stamp = bridged_column(forward) if forward else ""
    for condition, unseen in ((f"{both} AND {stamp} IS NOT NULL", True), (both, False)):
        if unseen and stamp not in dataset.schema.names:
            continue
        found = dataset.scanner(columns=[], filter=condition, with_row_id=True).to_table().column("_rowid").to_numpy()
        if len(found) >= _LEAST or not unseen:
            drawn = np.random.default_rng(seed).permutation(len(found))[:sample]
            return np.sort(found.astype(np.int64)[drawn]), unseen
    raise AssertionError


def _heads(catalog: Catalog, old: Encoder, named: Sequence[str] | None) -> list[Any]:
    """The named heads, or the newest of each name that knows the old encoder and stands on arrays of its own."""
    registry = Heads(catalog)
    if named is not None:
        return [registry.get(each) for each in named]
    newest = (f"{name}@{registry.numbers(name)[-1]}" for name in registry.names())
    records = {label: registry.record(label) for label in newest}
    fits = [
        label for label, each in records.items() if each.fingerprint == old.fingerprint and each.kind in ("linear", "mlp")
    ]
    return [registry.get(label) for label in fits]


def _classes(
    table: CollectionTable, row_ids: npt.NDArray[np.int64], labels: str | Mapping[str, str]
) -> npt.NDArray[np.str_]:
    """(n,) the class of each row, "" where it has none."""
    column = labels if isinstance(labels, str) else "id"
    if isinstance(labels, str) and labels not in table.columns:
        raise ColumnNotFound(name=labels, where=f"collection '{table.name}'", existing=list(table.columns))
    found: dict[int, Any] = {}
    for start in range(0, len(row_ids), 2_000):
        rows = table.rows_by_row_id(row_ids[start : start + 2_000], [column])
        found.update(zip(rows.column("_rowid").to_pylist(), rows.column(column).to_pylist(), strict=True))
    said = [found.get(row) for row in row_ids.tolist()]
    if isinstance(labels, Mapping):
        said = [labels.get(str(id_)) for id_ in said]
    return np.array(["" if each is None else str(each) for each in said])
