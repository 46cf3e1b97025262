"""What is computed for a query before DuckDB runs: the vectors that it names, the scores of rows, and the nearest rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from raystore.data.collection import CollectionTable
from raystore.data.query.calls import Constant, Hidden
from raystore.data.query.places import Relations
from raystore.data.query.rewrite import Place, Relation
from raystore.data.query.row_table import Positions
from raystore.data.query.rows import Moment
from raystore.data.query.vector_files import Scores, gather
from raystore.data.query.vectors import Given, ItemOf, Term
from raystore.errors import SqlRefused
from raystore.layout import vector_column
from raystore.vectors import Vectors, mark, pair_scores, rounding_bound


class NamedEncoder(Protocol):
    @property
    def fingerprint(self) -> str: ...
    @property
    def label(self) -> str: ...
    def encode(self, items: Sequence[str | bytes], /) -> Vectors: ...


def encode_terms(
    terms: Iterable[Term], encoder: Callable[[str], NamedEncoder], relations: Relations
) -> dict[Term, Constant]:
    """The vector of each text, image and item. Each content is encoded once, all of one encoder in one call."""
    by_encoder: dict[str, tuple[NamedEncoder, dict[str | bytes, None]]] = {}
    listed = list(terms)
    for term in listed:
        if isinstance(term, Given):
            found = encoder(term.encoder)
            by_encoder.setdefault(found.fingerprint, (found, {}))[1][term.content] = None
    encoded: dict[tuple[str, str | bytes], Constant] = {}
    for fingerprint, (found, contents) in by_encoder.items():
        vectors = np.asarray(found.encode(list(contents)))
        encoded |= {(fingerprint, c): v.astype(np.float64) for c, v in zip(contents, vectors, strict=True)}
    constants: dict[Term, Constant] = {}
    for term in listed:
        fingerprint = encoder(term.encoder).fingerprint
        if isinstance(term, Given):
            constants[term] = encoded[fingerprint, term.content]
        elif isinstance(term, ItemOf):
            relation = term.place.relation
            vector = relations.collection(relation.name).vector_of(
                term.id, vector_column(fingerprint), relations.moment(relation)
            )
            constants[term] = vector.astype(np.float64)
    return constants


def neighbours(
    relations: Relations,
    place: Place,
    vector: Constant,
    fingerprint: str,
    k: int,
    through: Callable[[CollectionTable, Vectors, int, int | None], pa.Table] | None,
) -> tuple[Positions, Scores]:
    """The positions and scores of the k rows nearest to a vector, by (-score, position).

    Args:
        through: answers for the newest version of a collection, with columns id and score, best first. An older version, or a
            moment, is always scanned exactly.

    Raises:
        SqlRefused: the vector is zero.

    Cost of a scan: one pass over the vectors, and the exact score of the few that could be among the k.
    """
    length = float(np.linalg.norm(vector))
    if length == 0:
        raise SqlRefused(reason="nearest() was given a vector without direction")
    unit = (vector if abs(length - 1) < 1e-5 else vector / length).astype(np.float32)
    opened = relations.collection(place.relation.name)
    moment = relations.moment(place.relation)
    if through is not None and moment == Moment(None, None):
        answer = through(opened.table, mark(unit[None, :], fingerprint), k, None)
        positions = opened.positions_of_ids(answer.column("id").combine_chunks())
        here = positions >= 0
        return positions[here], answer.column("score").to_numpy().astype(np.float32)[here]
    column = vector_column(fingerprint)
    rough = opened.cache.scores(opened.rows, column, unit[None, :])[0]
    there = opened.there(moment, column)
    negated = np.where(np.isnan(rough) | (False if there is None else ~there), np.inf, -rough)
    n = min(k, int(np.isfinite(negated).sum()))
    if n == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32)
    positions = np.flatnonzero(negated <= np.partition(negated, n - 1)[n - 1] + 2 * rounding_bound(len(unit)))
    scores = pair_scores(np.broadcast_to(unit, (len(positions), len(unit))), gather(opened.rows, column, positions)[0])
    order = np.lexsort((positions, -scores))[:k]
    return positions[order], scores[order]


def products(relations: Relations, hidden: Mapping[Place, Hidden]) -> dict[tuple[Place, str], Scores]:
    """Each hidden score column by position, NaN where a row or its vector was not there; one pass over each column of vectors."""
    asked: dict[tuple[str, str], dict[bytes, Scores]] = {}
    for place, columns in hidden.items():
        for column, vector in columns.scores.values():
            asked.setdefault((place.relation.name, column), {})[vector.tobytes()] = vector
    found: dict[tuple[str, str, bytes], Scores] = {}
    for (name, column), vectors in asked.items():
        opened = relations.collection(name)
        dim = int(opened.dataset.schema.field(column).type.list_size)
        queries = np.stack([v if len(v) else np.zeros(dim, np.float32) for v in vectors.values()])
        scores = opened.cache.scores(opened.rows, column, queries)
        found |= {(name, column, key): s for key, s in zip(vectors, scores, strict=True)}
    there: dict[tuple[Relation, str], npt.NDArray[np.bool_] | None] = {}
    made: dict[tuple[Place, str], Scores] = {}
    for place, columns in hidden.items():
        for name, (column, vector) in columns.scores.items():
            key = (place.relation, column)
            if key not in there:
                there[key] = relations.collection(place.relation.name).there(relations.moment(place.relation), column)
            product, mask = found[place.relation.name, column, vector.tobytes()], there[key]
            made[place, name] = product if mask is None else np.where(mask, product, np.float32(np.nan))
    return made
