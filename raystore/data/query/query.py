"""One query, from its text to what DuckDB runs: read its calls, encode what they name, score, and rewrite.

The steps are: `Query(...)` reads and checks; `compute` encodes and scores; `rewrite` shows the relations to a connection and gives the
text. Without `compute` the rewritten query has nulls for all that would have been computed: that is what is explained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sqlglot import exp

from raystore.data.collection import CollectionTable
from raystore.data.query.advice import advice_on
from raystore.data.query.bridged import BridgedFlags, encoder_of
from raystore.data.query.calls import Constant, Expressions, Hidden, read_calls
from raystore.data.query.compute import NamedEncoder, encode_terms, neighbours, products
from raystore.data.query.knn import KnnLabels, codes_by_position, labels_by_id
from raystore.data.query.places import Relations, hides, looks_up_ids, wanted_columns
from raystore.data.query.rewrite import Place, Relation, calls_of, label_tables, place_of, whole_number
from raystore.data.query.row_table import Positions
from raystore.data.query.rows import NoValues, ScoreValues, Values
from raystore.data.query.top import Top, best_positions, top_of
from raystore.data.query.vectors import Given, ItemOf, Linear, Reader, RowOf, Term
from raystore.errors import EncoderNotFound, PassportMismatch, SqlRefused, listed
from raystore.layout import bridged_column, vector_column
from raystore.vectors import Vectors

KNN_DEFAULT = 10


@dataclass(frozen=True)
class _Nearest:
    """A nearest() of the FROM clause: the k rows nearest to `asked`."""

    place: Place
    encoder: str
    asked: Linear
    k: int


class Query:
    """One query of a store.

    Raises (all of it):
        SqlRefused: a call is not as it is defined.
        PassportMismatch: a collection has no vectors of an encoder, or two encoders meet in one call.
        EncoderNotFound, ItemNotFound, TableNotFound, ItemsUnusable.
    """

    def __init__(
        self,
        query: exp.Query,
        standing: list[Place],
        relations: Relations,
        encoder: Callable[[str], NamedEncoder],
        nearest: Callable[[CollectionTable, Vectors, int, int | None], pa.Table] | None,
        params: Any,
    ) -> None:
        self._query, self._places, self._relations, self._params = query, standing, relations, params
        self.encoders: dict[str, str] = {}  # the fingerprint of each that is called, by its name

        def called(name: str) -> NamedEncoder:
            found = encoder(name)
            self.encoders[name] = found.fingerprint
            return found

        self._encoder, self._nearest_callable = cache(called), nearest
        self._wanted = None if looks_up_ids(query) else wanted_columns(query, standing)
        self._hidden = {place: Hidden() for place in standing}
        self._computed = False
        self._scored: dict[tuple[Place, str], npt.NDArray[np.float32]] = {}
        self._found: dict[Place, tuple[Positions, npt.NDArray[np.float32]]] = {}
        for place in standing:
            if place.nearest and not relations.is_collection(place.relation.name):
                raise SqlRefused(reason=f"nearest() ranks a collection, '{place.relation.name}' is a table")
        self._calls = read_calls(query, standing, relations.is_collection, params)
        self._nearests = [self._read_nearest(place) for place in standing if place.nearest]
        self._labels = self._read_labels()
        self._bridged = self._read_bridged()
        self._tops = self._read_tops()
        self._check_encoders()
        self._constants: dict[Term, Constant] = {
            term: np.random.default_rng(number).standard_normal(4) for number, term in enumerate(self._terms())
        }

    def _resolve(self, node: exp.Expression, function: str, qualifier: str) -> Place:
        return place_of(node, function, qualifier, self._places, self._relations.is_collection)

    def _read_nearest(self, place: Place) -> _Nearest:
        assert place.nearest is not None
        encoder, asked, k = place.nearest
        name = encoder.name.lower()
        reader = Reader("nearest", self._params, self._resolve, name, place)
        return _Nearest(place, name, reader.asked(asked), whole_number(k, self._params, "nearest"))

    def _read_labels(self) -> list[tuple[exp.Expression, Place, str, str, str, int]]:
        found = []
        for node, table, column in label_tables(self._query):
            encoder = node.expressions[0]
            place = self._resolve(node, "knn_label", encoder.table)
            k = whole_number(node.expressions[2], self._params, "knn_label") if len(node.expressions) == 3 else KNN_DEFAULT
            if self._relations.is_collection(table):
                raise SqlRefused(reason=f"knn_label() takes labels from a source table, '{table}' is a collection")
            found.append((node, place, encoder.name.lower(), table, column, k))
        return found

    def _read_bridged(self) -> list[tuple[exp.Expression, Place, str]]:
        named = [(node, encoder_of(node)) for _, node in calls_of(self._query, ["bridged"])]
        return [(node, self._resolve(node, "bridged", of.table), of.name.lower()) for node, of in named]

    def _read_tops(self) -> list[Top]:
        found = []
        for select in self._query.find_all(exp.Select):
            here = [p for p in self._places if p.table.find_ancestor(exp.Select) is select]
            if len(here) == 1 and self._relations.is_collection(here[0].relation.name):
                columns = self._relations.collection(here[0].relation.name).visible
                top = top_of(select, here[0], self._params, columns)
                found += [top] if top else []
        return found

    def _check_encoders(self) -> None:
        for call in self._calls:
            self._check_call(call.name, call.terms)
        for nearest in self._nearests:
            self._check_call("nearest", list(nearest.asked), (nearest.encoder, nearest.place))
        for _, place, encoder, *_ in self._labels:
            self._check_place(encoder, place)
        for _, place, encoder in self._bridged:
            self._check_place(encoder, place)

    def _check_call(self, function: str, terms: Sequence[Term], first: tuple[str, Place] | None = None) -> None:
        if first is not None:
            self._check_place(*first)
        for term in terms if first is not None else terms[1:]:
            if isinstance(term, RowOf):
                self._check_named(function, term.encoder)
        names = [*([first[0]] if first else []), *(term.encoder for term in terms)]
        for term in terms:
            if not isinstance(term, Given):
                self._check_place(term.encoder, term.place)
        encoders = [self._encoder(name) for name in names]
        for other in encoders[1:]:
            if other.fingerprint != encoders[0].fingerprint:
                raise PassportMismatch(
                    asker=f"{function}()",
                    expected=encoders[0].label,
                    found=other.label,
                    advice="Vectors of one encoder can be compared, of two they cannot.",
                )

    def _check_named(self, function: str, name: str) -> None:
        """A name where a text may stand is often one that lacks its quotes."""
        try:
            self._encoder(name)
        except EncoderNotFound as error:
            raise SqlRefused(
                reason=f"{function}() names '{name}', which is no encoder of the store ({listed(error.existing)})",
                advice=f"A text stands in single quotes: {function}(..., 'some text').",
            ) from None

    def _check_place(self, name: str, place: Place) -> None:
        encoder = self._encoder(name)
        self._relations.collection(place.relation.name).table.check_encoder(encoder.fingerprint, encoder.label)
        self._relations.moment(place.relation)

    def _terms(self) -> list[Term]:
        linears = [linear for call in self._calls for linear in (call.left, call.right or {})]
        linears += [nearest.asked for nearest in self._nearests]
        return list(dict.fromkeys(t for linear in linears for t in linear if isinstance(t, Given | ItemOf)))

    def _column(self, encoder: str) -> str:
        return vector_column(self._encoder(encoder).fingerprint)

    def compute(self) -> None:
        """Encode every text and image, each once and all of one encoder together, and find what nearest() asks for."""
        self._computed = True
        self._constants = encode_terms(self._constants, self._encoder, self._relations)
        for nearest in self._nearests:
            vector = sum(self._constants[term] * weight for term, weight in nearest.asked.items())
            encoder = self._encoder(nearest.encoder)
            self._found[nearest.place] = neighbours(
                self._relations, nearest.place, np.asarray(vector), encoder.fingerprint, nearest.k, self._nearest_callable
            )

    def rewrite(self, connection: duckdb.DuckDBPyConnection, *, vectors: bool) -> tuple[str, Any]:
        """(the text for DuckDB, its parameters): each call an expression, each relation a view of the connection."""
        self._name_columns()
        stars = {p: hides(s, p) for p in self._places if (s := p.table.find_ancestor(exp.Select)) is not None}
        joined: dict[Place, str] = {p: f"_values_{i}" for i, p in enumerate(self._places) if stars.get(p) is None}

        def reference(place: Place, name: str) -> str:
            alias, column = (str(exp.to_identifier(x, quoted=True)) for x in (place.alias, name))
            if place in joined:  # a star that cannot leave the column out: look the value up by the row's id
                view = joined[place]
                return f"(SELECT {view}.{column} FROM {view} WHERE {view}.id = {alias}.id)"  # noqa: S608  our own names
            return f"{alias}.{column}"

        expressions = Expressions(self._constants, self._column, self._hidden, reference)
        ranking: dict[int, str | None] = {}
        for call in self._calls:
            made, name = expressions.of(call)
            ranking[id(call.node)] = name
            call.node.replace(made)
        for node, place, encoder, table, column, k in self._labels:
            name = self._hidden[place].label(self._knn(place, encoder, table, column, k))
            node.replace(exp.maybe_parse(reference(place, name), dialect="duckdb"))
        for node, place, encoder in self._bridged:
            name = self._hidden[place].label(self._flags(place, encoder))
            node.replace(exp.maybe_parse(reference(place, name), dialect="duckdb"))
        if self._computed:
            self._scored = products(self._relations, self._hidden)
        best = {top.place: self._best(top, ranking.get(id(top.call))) for top in self._tops}
        for number, place in enumerate(self._places):
            hidden = self._hidden[place]
            if not self._relations.is_collection(place.relation.name):
                self._relations.show_source(connection, f"_relation_{number}", place)
                continue
            for star in stars.get(place) or []:
                if hidden.names:
                    left_out = [exp.column(n, quoted=True) for n in hidden.names]
                    star.set("except_", [*(star.args.get("except_") or []), *left_out])
            values: dict[str, Values] = {n: self._values(place, n) for n in hidden.scores} | hidden.labels
            positions, beside = best.get(place), None
            if place.nearest:
                positions, beside = self._shown_nearest(place)
            if place in joined and hidden.names:
                self._show_joined(connection, joined[place], place, hidden, values, positions)
                hidden, values = Hidden(), {}
            self._relations.show(
                connection,
                f"_relation_{number}",
                place,
                vectors=vectors,
                wanted=self._wanted,
                hidden=hidden,
                values=values,
                positions=positions,
                beside=beside,
            )
        left = {node.name for node in self._query.find_all(exp.Placeholder)}  # the functions may have used the others up
        params = self._params
        bound = {k: v for k, v in params.items() if k in left} if isinstance(params, Mapping) else params
        return self._query.sql("duckdb"), bound or None

    def advice(self, said: str) -> str:
        """What to do about words of DuckDB that speak of this query; nothing where they say enough."""

        def columns() -> dict[str, list[str]]:
            return {p.relation.name: self._relations.columns(p.relation) for p in self._places}

        return advice_on(said, columns, self._is_encoder)

    def _is_encoder(self, name: str) -> bool:
        try:
            self._encoder(name)
        except EncoderNotFound:
            return False
        return True

    def notes(self) -> list[str]:
        """What is computed before DuckDB runs, in words."""
        texts = sum(isinstance(term, Given) for term in self._constants)
        found = [f"{texts} {'text or image' if texts == 1 else 'texts or images'} encoded"] if texts else []
        counted: dict[tuple[str, str], set[bytes]] = {}
        for place, hidden in self._hidden.items():
            for column, vector in hidden.scores.values():
                counted.setdefault((place.relation.name, column), set()).add(vector.tobytes())
        for (name, _), vectors in counted.items():
            n, scores = self._relations.collection(name).table.count(), len(vectors)
            each = f"{scores} score{'' if scores == 1 else 's'}"
            found.append(f"one scan of the vectors of {n:,} rows of '{name}' for {each} each")
        found += [
            f"of '{t.place.relation.name}' only the rows that score no less than the {t.n} best are read"
            for t in self._tops
        ]
        for nearest in self._nearests:
            through = "the index or a scan" if self._nearest_callable is not None else "a scan"
            found.append(f"the {nearest.k} nearest rows of '{nearest.place.relation.name}' by {through}")
        found += [
            f"the {k} nearest labelled rows of each row of '{place.relation.name}' that is asked for, "
            "one scan of the vectors for a thousand rows"
            for _, place, _, _, _, k in self._labels
        ]
        return found

    def _values(self, place: Place, name: str) -> Values:
        return ScoreValues(self._scored[place, name]) if self._computed else NoValues(pa.float32())

    def _best(self, top: Top, name: str | None) -> Positions | None:
        scores = self._scored.get((top.place, name)) if name is not None else None
        if scores is None:
            return None
        mask = self._relations.moment(top.place.relation).mask(self._relations.collection(top.place.relation.name).rows)
        return best_positions(scores if mask is None else np.where(mask, scores, np.float32(np.nan)), top.n)

    def _shown_nearest(self, place: Place) -> tuple[Positions, pa.Table]:
        positions, scores = self._found.get(place, (np.empty(0, np.int64), np.empty(0, np.float32)))
        ranks = np.arange(1, len(positions) + 1)
        return positions, pa.table({"score": pa.array(scores, pa.float32()), "rank": pa.array(ranks, pa.int64())})

    def _show_joined(
        self,
        connection: duckdb.DuckDBPyConnection,
        view: str,
        place: Place,
        hidden: Hidden,
        values: dict[str, Values],
        positions: Positions | None,
    ) -> None:
        """A view of the hidden columns by id."""
        twin = Place(exp.Table(this=exp.to_identifier(view)), place.relation)
        self._relations.show(
            connection,
            view,
            twin,
            vectors=False,
            wanted=frozenset(["id"]),
            hidden=hidden,
            values=values,
            positions=positions,
        )

    def _knn(self, place: Place, encoder: str, table: str, column: str, k: int) -> Values:
        relation = Relation(table, None)
        ids, codes, names = labels_by_id(self._relations.source(relation), column, self._relations.until(relation))
        if not self._computed:
            return NoValues(names.type)
        opened, vectors = self._relations.collection(place.relation.name), self._column(encoder)
        moment = self._relations.moment(place.relation)
        labels = cache(lambda: codes_by_position(opened.rows.columns(["id"]).column("id"), ids, codes))
        return KnnLabels(lambda: opened.rows, vectors, k, labels, names, cache(lambda: opened.there(moment, vectors)))

    def _flags(self, place: Place, encoder: str) -> Values:
        opened, version = self._relations.collection(place.relation.name), self._relations.moment(place.relation).version
        return BridgedFlags(lambda: opened.rows, bridged_column(self._encoder(encoder).fingerprint), version)

    def _name_columns(self) -> None:
        """Columns of an answer that have no name are named as they are written, not as they are rewritten."""
        own = {id(call.node) for call in self._calls} | {id(node) for node, *_ in [*self._labels, *self._bridged]}
        for select in self._query.find_all(exp.Select):
            for column in list(select.expressions):
                if not isinstance(column, exp.Alias) and any(id(node) in own for node in column.find_all(exp.Anonymous)):
                    alias = exp.Alias(alias=exp.to_identifier(column.sql("duckdb", normalize_functions=False), quoted=True))
                    column.replace(alias)
                    alias.set("this", column)
