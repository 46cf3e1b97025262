"""Classes of a snapshot: those with too few rows, at most so many rows of each, how heavy its rows are."""

# ruff: noqa: S608  the SQL holds numbers of rows; labels come in as Arrow

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow as pa

from raystore.data.snapshots.made import Making

CAP_SALT = "raystore-cap-1"


def leave_out_small(m: Making, minimum: int) -> None:
    """Leave out the classes with fewer rows, then those with none on train; which and how many rows each is learned as
    `too_small` and `not_in_train`."""
    if m.known is None:
        counted = f"GROUP BY label HAVING count(*) < {minimum} ORDER BY label"
        small: dict[str, int] = dict(m.work.all(f"SELECT label, count(*) FROM rows WHERE out IS NULL {counted}"))
    else:
        small = dict(m.known["too_small"])
    m.learned["too_small"] = small
    with _classes(m, small, pa.int64()):
        m.leave_out(f"their class has fewer than {minimum} rows", "label IN (SELECT label FROM classes)")
    if m.known is None:
        counted = "GROUP BY label HAVING count(*) FILTER (side = 'train') = 0 ORDER BY label"
        absent: dict[str, int] = dict(m.work.all(f"SELECT label, count(*) FROM rows WHERE out IS NULL {counted}"))
    else:
        absent = dict(m.known["not_in_train"])
    m.learned["not_in_train"] = absent
    with _classes(m, absent, pa.int64()):
        m.leave_out("their class has no row on train", "label IN (SELECT label FROM classes)")


def leave_out_beyond(m: Making, cap: int) -> None:
    """Leave out rows of a class on train beyond `cap`: those with the largest SHA-256(salt + NUL + id).

    On train alone, since a test side that is thinned out by class does not say how often a head is right. The largest
    hash kept of each class that had more is learned as `cap_edges`.
    """
    place = f"sha256('{CAP_SALT}' || chr(0) || id)"
    if m.known is None:
        ranked = f"""SELECT label, {place} AS place, row_number() OVER (PARTITION BY label ORDER BY {place}) AS n,
                            count(*) OVER (PARTITION BY label) AS held FROM rows WHERE out IS NULL AND side = 'train'"""
        edges = f"SELECT label, max(place) FROM ({ranked}) WHERE held > {cap} AND n <= {cap} GROUP BY label ORDER BY label"
        found: dict[str, str] = dict(m.work.all(edges))
    else:
        found = dict(m.known["cap_edges"])
    m.learned["cap_edges"] = found
    with _classes(m, found, pa.string()):
        beyond = f"side = 'train' AND {place} > (SELECT c.value FROM classes c WHERE c.label = rows.label)"
        m.leave_out(f"their class has more than {cap} rows on train", beyond)


def balance(m: Making) -> None:
    """Multiply the weights on train by n / (classes * rows of the class), as scikit-learn's "balanced"."""
    if m.known is None:
        train = {label: sides["train"] for label, sides in m.by_class.items() if sides["train"]}
        n = sum(train.values())
        factors = {label: n / (len(train) * k) for label, k in train.items()}
    else:
        factors = dict(m.known["class_weights"])
    m.learned["class_weights"] = factors
    with _classes(m, factors, pa.float64()):
        m.work.connection.execute(
            "UPDATE rows SET weight = weight * c.value FROM classes c WHERE c.label = rows.label AND side = 'train'"
        )


@contextmanager
def _classes(m: Making, values: Mapping[str, object], kind: pa.DataType) -> Iterator[None]:
    """The classes as a relation: label, value."""
    columns = {"label": pa.array(list(values), pa.string()), "value": pa.array(list(values.values()), kind)}
    m.work.connection.register("classes", pa.table(columns))
    try:
        yield
    finally:
        m.work.connection.unregister("classes")
