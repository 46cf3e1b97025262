"""similarity(), cosine(), norm() as expressions DuckDB can run: numbers, hidden score columns, and products of vector columns.

Each argument is a weighted sum of texts, images, items and rows' vectors (`vectors.py`). What is the same for all rows is computed
here, once; the product of a row's vector with a constant is a hidden column of scores; only the product of two rows'
vectors is left to DuckDB. Rows' vectors are unit vectors, so a row's product with itself is 1.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import sqlglot
from sqlglot import exp

from raystore.data.query.rewrite import Place, calls_of, place_of
from raystore.data.query.vectors import SIMILARITY_FORM, Given, ItemOf, Linear, Reader, RowOf, Term, named_encoder
from raystore.errors import SqlRefused
from raystore.vectors import Matrix

FUNCTIONS = ("similarity", "cosine", "norm")
_FORMS = {
    "similarity": f"Write {SIMILARITY_FORM}; an encoder with '-' in its name stands in double quotes.",
    "cosine": "Write cosine(vector, vector).",
    "norm": "Write norm(vector).",
}
Constant = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Call:
    """One call: similarity and cosine of `left` and `right`, or the norm of `left`."""

    node: exp.Anonymous
    name: str
    left: Linear
    right: Linear | None

    @property
    def terms(self) -> list[Term]:
        return [*self.left, *(self.right or {})]


def read_calls(
    query: exp.Expression, places: Sequence[Place], is_collection: Callable[[str], bool], params: Any
) -> list[Call]:
    """The calls of the query, each with its arguments.

    Raises:
        SqlRefused: one is not as it is defined, or a vector stands where no function takes it.
    """

    def resolve(node: exp.Expression, function: str, qualifier: str) -> Place:
        return place_of(node, function, qualifier, places, is_collection)

    found, inside = [], {id(n) for p in places if p.nearest for n in p.nearest[1].walk()}
    for name, node in calls_of(query, FUNCTIONS):
        given = node.expressions
        expected = 1 if name == "norm" else 2
        encoder = given[0] if given and isinstance(given[0], exp.Column) else None
        if len(given) != expected or (name == "similarity" and encoder is None):
            raise SqlRefused(reason=f"{name}() was called otherwise than it is defined", advice=_FORMS[name])
        inside |= {id(n) for n in node.walk()}
        if name == "similarity" and encoder is not None:
            place = resolve(node, name, encoder.table)
            reader = Reader(name, params, resolve, encoder.name.lower(), place)
            found.append(Call(node, name, {RowOf(encoder.name.lower(), place): 1.0}, reader.asked(given[1])))
        else:
            reader = Reader(name, params, resolve, named_encoder(node), None)
            right = reader.vector(given[1]) if name == "cosine" else None
            found.append(Call(node, name, reader.vector(given[0]), right))
    for name, node in calls_of(query, ["vector_of", "item"]):
        if id(node) not in inside:
            raise SqlRefused(
                reason=f"{name}() stands where no vector is taken",
                advice="A vector is no column: put it into similarity(), cosine(), norm() or nearest().",
            )
    return found


@dataclass
class Hidden:
    """What stands beside the rows of one place, by the name of its hidden column."""

    scores: dict[str, tuple[str, Matrix]] = field(default_factory=dict)  # Lance's column, and what it is multiplied with
    vectors: dict[str, str] = field(default_factory=dict)  # Lance's column
    labels: dict[str, Any] = field(default_factory=dict)
    _named: dict[Any, str] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [*self.scores, *self.vectors, *self.labels]

    def score(self, column: str, vector: Constant | None) -> str:
        """The column of products with the vector; None is the zero vector: 0, and null where a row has no vector."""
        single = (np.empty(0) if vector is None else vector).astype(np.float32)
        name = self._named.setdefault((column, single.tobytes()), _new_name())
        self.scores[name] = (column, single)
        return name

    def vector(self, column: str) -> str:
        name = self._named.setdefault(column, _new_name())
        self.vectors[name] = column
        return name

    def label(self, values: Any) -> str:
        name = _new_name()
        self.labels[name] = values
        return name


def _new_name() -> str:
    return f"_{secrets.token_hex(8)}"


@dataclass(frozen=True)
class _Side:
    """A weighted sum, read: what is the same for all rows, and the weights of the rows' own vectors."""

    constant: Constant | None
    rows: list[tuple[Place, float]]

    @property
    def lone_row(self) -> tuple[Place, float] | None:
        return self.rows[0] if len(self.rows) == 1 and self.constant is None else None


class Expressions:
    """Makes the SQL of calls; tells `hidden` what has to stand beside the rows.

    Args:
        constants: the vector of each text, image and item.
        column_of: Lance's vector column for an encoder's name.
        reference: the SQL that reads a hidden column of a place.
    """

    def __init__(
        self,
        constants: Mapping[Term, Constant],
        column_of: Callable[[str], str],
        hidden: Mapping[Place, Hidden],
        reference: Callable[[Place, str], str],
    ) -> None:
        self._constants, self._column_of, self._hidden, self._reference = constants, column_of, hidden, reference

    def of(self, call: Call) -> tuple[exp.Expression, str | None]:
        """(the expression, the hidden score column that it is alone)."""
        column = self._column_of(call.terms[0].encoder)
        left = self._side(call.left)
        if call.right is None:
            return _parsed(f"CAST({self._norm(left, column)} AS FLOAT)"), None
        right = self._side(call.right)
        for row, other in ((left, right), (right, left)):
            if row.lone_row and not other.rows:
                place, weight = row.lone_row
                if other.constant is None or not (length := float(np.linalg.norm(other.constant))) or not weight:
                    return _parsed("CAST(NULL AS FLOAT)"), None
                # A text's own vector is taken as the encoder made it, as everywhere else.
                unit = other.constant if abs(length - 1) < 1e-5 else other.constant / length
                name = self._hidden[place].score(column, unit * np.sign(weight))
                return _parsed(self._reference(place, name)), name
        if left.lone_row and right.lone_row and left.lone_row[0] is not right.lone_row[0]:
            sign = np.sign(left.lone_row[1] * right.lone_row[1])
            return _parsed(f"CAST({sign:.0f} * {self._pair(left.lone_row[0], right.lone_row[0], column)} AS FLOAT)"), None
        both = f"({self._norm(left, column)} * {self._norm(right, column)})"
        return _parsed(f"CAST({self._dot(left, right, column)} / nullif({both}, 0) AS FLOAT)"), None

    def _side(self, linear: Linear) -> _Side:
        constant: Constant | None = None
        rows: list[tuple[Place, float]] = []
        for term, weight in linear.items():
            if isinstance(term, RowOf):
                rows.append((term.place, weight))
            elif isinstance(term, Given | ItemOf):
                value = self._constants[term] * weight
                constant = value if constant is None else constant + value
        return _Side(constant, rows)

    def _dot(self, left: _Side, right: _Side, column: str) -> str:
        parts = []
        if left.constant is not None and right.constant is not None:
            parts.append(_number(float(left.constant @ right.constant)))
        for one, other in ((left, right), (right, left)):
            if one.constant is not None:
                parts += [
                    f"{_number(w)} * {self._reference(p, self._hidden[p].score(column, one.constant))}"
                    for p, w in other.rows
                ]
        for p, v in left.rows:
            for q, w in right.rows:
                parts.append(f"{_number(v * w)} * {self._pair(p, q, column)}")
        return f"({' + '.join(parts) or '0'})"

    def _pair(self, p: Place, q: Place, column: str) -> str:
        if p is q:  # null where the row has no vector
            return f"(1 + {self._reference(p, self._hidden[p].score(column, None))})"
        one, other = (self._reference(x, self._hidden[x].vector(column)) for x in (p, q))
        return f"array_inner_product({one}, {other})"

    def _norm(self, side: _Side, column: str) -> str:
        if side.constant is None and len(side.rows) == 2 and side.rows[0][1] == -side.rows[1][1]:
            (p, weight), (q, _) = side.rows  # sums of products would lose the distance of near vectors
            one, other = (self._reference(x, self._hidden[x].vector(column)) for x in (p, q))
            return f"({_number(abs(weight))} * array_distance({one}, {other}))"
        return f"sqrt(abs({self._dot(side, side, column)}))"  # what rounding makes negative is 0


def _number(value: float) -> str:
    return f"CAST({value!r} AS DOUBLE)"


def _parsed(sql: str) -> exp.Expression:
    return sqlglot.parse_one(sql, dialect="duckdb")
