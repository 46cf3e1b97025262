"""Vector expressions of SQL: `vector_of(minilm, 'king') - vector_of(minilm, 'man') + t.minilm`, read as weighted sums.

Sums, differences, and products and quotients with numbers keep an expression linear, so it is a weight for each of its
terms: a text, an image, an item, or the vector of the row at hand. The dot product of two such sums is made of the dot
products of their terms; that is all SQL needs for a cosine or a norm. Knows no encoder and no row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlglot import exp

from raystore.data.query.rewrite import Place, parameter
from raystore.errors import SqlRefused

SIMILARITY_FORM = "similarity(encoder, 'text'), similarity(encoder, item('id')) or similarity(encoder, $image)"
VECTOR_FORM = "A vector is vector_of(encoder, 'text'), an encoder (the row's own), or sums of them with numbers as weights."


@dataclass(frozen=True)
class Given:
    """The vector of a text (str) or an image (bytes)."""

    encoder: str
    content: str | bytes


@dataclass(frozen=True)
class ItemOf:
    """The vector of one row of the collection that stands at the place, by its id."""

    encoder: str
    place: Place
    id: str


@dataclass(frozen=True)
class RowOf:
    """The vector of the row at hand."""

    encoder: str
    place: Place


Term = Given | ItemOf | RowOf
Linear = dict[Term, float]
PlaceOf = Callable[[exp.Expression, str, str], Place]


@dataclass(frozen=True)
class Reader:
    """Reads the arguments of one call of `function`.

    `encoder` and `place` are what vector_of() and item() mean where they do not say.
    """

    function: str
    params: Any
    place_of: PlaceOf
    encoder: str | None
    place: Place | None

    def asked(self, node: exp.Expression) -> Linear:
        """What similarity() and nearest() compare with: a text, an image, an item, or a vector expression."""
        node = _bare(node)
        if isinstance(node, exp.Literal) and not node.is_string:
            raise self._refused("asks for neither a text, an image, an item nor a vector")
        if isinstance(node, exp.Literal | exp.Placeholder) or _is_item(node):
            return {self._term(node, None): 1.0}
        return self.vector(node)

    def vector(self, node: exp.Expression) -> Linear:
        found = self._read(node)
        if isinstance(found, float):
            raise self._refused("was given a number, expected a vector")
        return found

    def _read(self, node: exp.Expression) -> Linear | float:
        node = _bare(node)
        if isinstance(node, exp.Neg):
            return _scaled(self._read(node.this), -1.0)
        if isinstance(node, exp.Add | exp.Sub):
            left, right = self._read(node.this), self._read(node.expression)
            right = _scaled(right, -1.0) if isinstance(node, exp.Sub) else right
            if isinstance(left, float) and isinstance(right, float):
                return left + right
            if isinstance(left, float) or isinstance(right, float):
                raise self._refused("adds a number to a vector")
            return {term: left.get(term, 0.0) + right.get(term, 0.0) for term in left | right}
        if isinstance(node, exp.Mul):
            left, right = self._read(node.this), self._read(node.expression)
            if isinstance(left, float):
                return _scaled(right, left)
            if isinstance(right, float):
                return _scaled(left, right)
            raise self._refused("multiplies two vectors")
        if isinstance(node, exp.Div):
            left, right = self._read(node.this), self._read(node.expression)
            if not isinstance(right, float) or right == 0:
                raise self._refused("divides by something other than a number, or by 0")
            return _scaled(left, 1 / right)
        if isinstance(node, exp.Literal) and not node.is_string:
            return float(node.this)
        if isinstance(node, exp.Placeholder):
            value = parameter(node, self.params, self.function)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        if isinstance(node, exp.Column) and isinstance(node.this, exp.Identifier):
            return {RowOf(node.name.lower(), self.place_of(node, self.function, node.table)): 1.0}
        if isinstance(node, exp.Anonymous) and str(node.this).lower() == "vector_of":
            return self._vector_of(node)
        raise self._refused("holds something that is no vector")

    def _vector_of(self, node: exp.Anonymous) -> Linear:
        given = node.expressions
        named = given[0] if len(given) == 2 and isinstance(given[0], exp.Column) else None
        if len(given) not in (1, 2) or (len(given) == 2 and named is None):
            raise self._refused("holds a vector_of() that is not as it is defined")
        if named is None and self.encoder is None:
            raise self._refused("holds a vector_of() that names no encoder")
        return {self._term(given[-1], named): 1.0}

    def _term(self, node: exp.Expression, named: exp.Column | None) -> Term:
        encoder = named.name.lower() if named is not None else self.encoder or ""
        node = _bare(node)
        inner = node.expressions[0] if _is_item(node) else node
        if not isinstance(inner, exp.Literal | exp.Placeholder):
            raise self._refused("asks for neither a text, an item nor a named parameter")
        value = parameter(inner, self.params, self.function)
        if _is_item(node):
            if not isinstance(value, str):
                raise self._refused(f"was given a {type(value).__name__} as an item, expected its id as a string")
            place = self.place
            if place is None or (named is not None and named.table):
                place = self.place_of(node, self.function, named.table if named is not None else "")
            return ItemOf(encoder, place, value)
        if isinstance(value, Path):
            try:
                value = value.read_bytes()
            except OSError as error:
                raise self._refused(f"was given a file that cannot be read ({type(error).__name__})") from None
        if not isinstance(value, str | bytes):
            expected = "expected a string, or an image as bytes or as a path"
            raise self._refused(f"was given a {type(value).__name__}, {expected}")
        return Given(encoder, value)

    def _refused(self, problem: str) -> SqlRefused:
        form = f"Write {SIMILARITY_FORM}. " if self.function == "similarity" else ""
        return SqlRefused(reason=f"{self.function}() {problem}", advice=form + VECTOR_FORM)


def named_encoder(node: exp.Expression) -> str | None:
    """The encoder that the arguments of a call name first."""
    for column in node.find_all(exp.Column):
        if isinstance(column.this, exp.Identifier):
            return str(column.name).lower()
    return None


def _bare(node: exp.Expression) -> exp.Expression:
    while isinstance(node, exp.Paren):
        node = node.this
    return node


def _is_item(node: exp.Expression) -> bool:
    return isinstance(node, exp.Anonymous) and str(node.this).lower() == "item" and len(node.expressions) == 1


def _scaled(found: Linear | float, by: float) -> Linear | float:
    return found * by if isinstance(found, float) else {term: weight * by for term, weight in found.items()}
