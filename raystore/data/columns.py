"""The columns of a collection's table: which there are, what they may be called, how vectors stand in them. Reads nothing.

    id (key), subject, tenant, time, declared columns..., _payload, _added, vec_<fp12>..., _filled_<fp12>...

The full fingerprint of a vector column stands in the column's metadata. Where rows got their vector after they were
added, `_filled_<fp12>` numbers the commit, so that a reader of an earlier version does not see it. Columns that begin
with "_" are shown to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raystore.data.keyed import ADDED, PAYLOAD, PRIMARY_KEY
from raystore.errors import InvalidArguments
from raystore.layout import filled_column, vector_column
from raystore.vectors import Matrix

FINGERPRINT = b"raystore:fingerprint"
KEEPS_SOURCE = b"raystore:keeps_source"
TYPES: dict[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", "UTC"),
    "date": pa.date32(),
}
SYSTEM = ("id", "subject", "tenant", "time")
_SYSTEM_FIELDS = [
    pa.field("id", pa.string(), nullable=False, metadata=PRIMARY_KEY),
    pa.field("subject", pa.string()),
    pa.field("tenant", pa.string()),
    pa.field("time", TYPES["timestamp"]),
]


def collection_schema(dims: Mapping[str, int], declared: Mapping[str, pa.DataType], *, keep_source: bool) -> pa.Schema:
    """The schema of a new collection's table; `dims` gives the dimension of each encoder, by full fingerprint."""
    return pa.schema(
        [
            *_SYSTEM_FIELDS,
            *(pa.field(column, kind) for column, kind in declared.items()),
            pa.field(PAYLOAD, pa.binary(32)),
            pa.field(ADDED, pa.int64()),
            *(vector_field(fingerprint, dim) for fingerprint, dim in dims.items()),
        ],
        metadata={KEEPS_SOURCE: b"yes"} if keep_source else None,
    )


def vector_field(fingerprint: str, dim: int) -> pa.Field:
    return pa.field(vector_column(fingerprint), pa.list_(pa.float32(), dim), metadata={FINGERPRINT: fingerprint})


def fingerprints_of(schema: pa.Schema) -> list[str]:
    """The full fingerprints of a collection's vector columns, in their order."""
    return [f.metadata[FINGERPRINT].decode() for f in schema if f.metadata and FINGERPRINT in f.metadata]


def stamps_of(schema: pa.Schema) -> dict[str, str]:
    """Vector column -> the column that numbers the commits which filled it, for those that were ever filled."""
    found = {vector_column(fingerprint): filled_column(fingerprint) for fingerprint in fingerprints_of(schema)}
    return {column: stamp for column, stamp in found.items() if stamp in schema.names}


def is_hidden(column: str) -> bool:
    """Whether it is the store's own, and shown to nobody; a kept column cannot be named so."""
    return column.startswith("_")


def vector_array(matrix: Matrix, has: npt.NDArray[np.bool_] | None = None) -> pa.FixedSizeListArray:
    """The matrix as a Lance vector column, without a copy where it is contiguous; null where `has` (n,) is False."""
    flat = np.ascontiguousarray(matrix, dtype=np.float32).reshape(-1)
    absent = None if has is None else pa.array(~has)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat), matrix.shape[1], mask=absent)


def vector_matrix(vectors: pa.FixedSizeListArray) -> Matrix:
    """The (n, d) vectors of a vector column that has no null, without a copy."""
    dim = vectors.type.list_size
    matrix: Matrix = vectors.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return matrix


def column_problem(name: object, others: Iterable[object]) -> str | None:
    """Why no column can have this name beside the others (itself may be among them), or None."""
    if name in SYSTEM:
        return f"is one of the store's own columns ({', '.join(SYSTEM)})"
    if not isinstance(name, str) or not name.isidentifier() or name.startswith(("_", "vec_")):
        return "is no column name: letters, digits and '_', not starting with '_' or 'vec_'"
    twin = next((o for o in (*SYSTEM, *others) if o != name and str(o).lower() == name.lower()), None)
    return f"differs from '{twin}' in case only, which SQL does not tell apart" if twin is not None else None


def column_twins(names: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs of names that SQL does not tell apart."""
    first: dict[str, str] = {}
    pairs = [(first.setdefault(name.lower(), name), name) for name in names]
    return [pair for place, pair in enumerate(pairs) if names.index(pair[0]) != place]


def check_columns(columns: Mapping[str, str], call: str, existing: Iterable[str] = ()) -> dict[str, pa.DataType]:
    """The declared columns as Arrow types; every bad one is named in one InvalidArguments."""
    problems = []
    others = [*existing, *columns]
    for name, kind in columns.items():
        reason = column_problem(name, others)
        if reason:
            problems.append(f"'{str(name)[:80]}' {reason}")
        if kind not in TYPES:
            problems.append(f"column '{name}' has type '{kind}', expected one of {', '.join(TYPES)}")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return {name: TYPES[kind] for name, kind in columns.items()}
