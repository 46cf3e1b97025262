"""Queries that ask for the best by one score: ORDER BY similarity(...) DESC LIMIT n over one collection and nothing else.

Their answer holds no row that scores below the n-th best, so those rows need not be read at all. Only shapes in which each
row of the answer comes from one row of the collection are recognised; every other query takes the general way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlglot import exp

from raystore.data.query.rewrite import Place, calls_of
from raystore.data.query.row_table import Positions

# What an answer's columns may be made of: nothing that joins, groups, numbers or multiplies rows.
_PLAIN = (
    exp.Column, exp.Identifier, exp.Star, exp.Alias, exp.Literal, exp.Null, exp.Boolean, exp.Placeholder, exp.Paren, exp.Neg,
    exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Round, exp.Cast, exp.DataType, exp.DataTypeParam, exp.Coalesce, exp.Upper,
    exp.Lower, exp.Concat, exp.DPipe, exp.Length, exp.Ordered, exp.Order, exp.Limit, exp.Offset, exp.Case, exp.If, exp.EQ, exp.NEQ,
    exp.GT, exp.GTE, exp.LT, exp.LTE, exp.And, exp.Or, exp.Not, exp.Is, exp.In, exp.Between, exp.Like, exp.ILike,
)  # fmt: skip
_PARTS = {"expressions", "from_", "order", "limit", "offset", "kind", "with_"}


@dataclass(frozen=True)
class Top:
    """Of the rows at `place` the n with the highest value of `call` are all that the query can answer."""

    place: Place
    call: exp.Expression
    n: int


def top_of(select: exp.Select, place: Place, params: Any, columns: list[str]) -> Top | None:
    """The top that a select asks for, or None where it is of another shape.

    Args:
        place: the only collection or table that stands in the select's own FROM.
        columns: what the collection shows.
    """
    order, limit = select.args.get("order"), select.args.get("limit")
    if place.nearest or not order or not limit:
        return None
    if any(value for name, value in select.args.items() if name not in _PARTS):
        return None
    if place.table.parent is not select.args["from_"] or any(
        place.table.args.get(k) for k in ("pivots", "sample", "joins")
    ):
        return None
    first = order.expressions[0]
    call = _ranking(select, first.this, columns)
    if call is None or not first.args.get("desc") or first.args.get("nulls_first"):
        return None
    own = ["similarity", "cosine", "vector_of", "item"]
    inside = {id(n) for _, node in calls_of(select, own) for n in node.walk()}
    parts = [*select.expressions, *order.expressions, limit, select.args.get("offset")]
    for part in parts:
        if part is not None and any(id(n) not in inside and not isinstance(n, _PLAIN) for n in part.walk()):
            return None
    n = _number(limit.expression, params)
    skipped = 0 if not select.args.get("offset") else _number(select.args["offset"].expression, params)
    return None if n is None or skipped is None else Top(place, call, n + skipped)


def _ranking(select: exp.Select, node: exp.Expression, columns: list[str]) -> exp.Expression | None:
    """The call that the rows are ordered by, which may be named by its alias or its number."""
    if isinstance(node, exp.Column) and not node.table:
        named = [e.this for e in select.expressions if isinstance(e, exp.Alias) and e.alias.lower() == node.name.lower()]
        if len(named) != 1 or node.name.lower() in {c.lower() for c in columns}:
            return None
        node = named[0]
    elif isinstance(node, exp.Literal) and node.is_int and not any(e.is_star for e in select.expressions):
        place = int(node.this) - 1
        node = select.expressions[place] if 0 <= place < len(select.expressions) else node
        node = node.this if isinstance(node, exp.Alias) else node
    return node if isinstance(node, exp.Anonymous) and str(node.this).lower() in ("similarity", "cosine") else None


def _number(node: exp.Expression, params: Any) -> int | None:
    value = int(node.this) if isinstance(node, exp.Literal) and node.is_int else None
    if isinstance(node, exp.Placeholder) and isinstance(params, Mapping):
        value = params.get(node.name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def best_positions(scores: npt.NDArray[np.float32], n: int) -> Positions | None:
    """The positions of all rows that score no less than the n-th best; None where fewer than n have a score (nulls come last, but
    they come), or where it would be most rows. NaN is no score."""
    negated = np.where(np.isnan(scores), np.inf, -scores)
    if not 0 < n <= len(scores) // 4:
        return None
    bound = np.partition(negated, n - 1)[n - 1]
    if np.isinf(bound):
        return None
    found = np.flatnonzero(negated <= bound)
    return found if len(found) <= len(scores) // 2 else None
