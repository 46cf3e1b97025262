"""What is near what in a collection: searches, profiles, classification by neighbours, pairs.

The work stands in the room `index`; each call here is a few lines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from raystore.data.collection import CollectionTable
from raystore.data.keyed import quoted
from raystore.encoders.bridged import Bridge, is_bridged, read_bridge
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments, ItemNotFound
from raystore.index.pairs.duplicates import duplicates
from raystore.index.pairs.knn_graph import knn_graph
from raystore.index.pairs.plan import PairKind
from raystore.index.pairs.table import PairTable, open_pairs
from raystore.index.search.asked import LIMIT
from raystore.index.search.question import check_given, profile, question
from raystore.index.search.result import SearchResult
from raystore.indexed import Indexed
from raystore.progress import Progress, shown
from raystore.session import INLINE_BELOW, choose_workers
from raystore.train.classify.register import Classifiers, register_classifier
from raystore.train.classify.result import Classified

if TYPE_CHECKING:
    from raystore.store import Store
    from raystore.train.heads import Head


class Searching(Indexed):
    """What is near what, in one collection."""

    def __init__(self, store: Store, table: CollectionTable) -> None:
        super().__init__(store, table)
        self._classifiers = Classifiers(store.catalog, table)
        self._bridges: dict[str, Bridge] = {}

    def search(
        self,
        text: str | Sequence[str] | None = None,
        *,
        image: bytes | Path | None = None,
        item: str | None = None,
        vector: object = None,
        like: Sequence[str] = (),
        unlike: Sequence[str] = (),
        k: int | None = None,
        where: str | None = None,
        columns: Sequence[str] = (),
        probes: int | None = None,
        refine: int | None = None,
        min_score: float | None = None,
        limit: int = LIMIT,
        after: str | None = None,
        distinct: str | None = None,
        diversity: float | None = None,
        encoder: str | None = None,
        through: str | None = None,
    ) -> SearchResult:
        """The rows nearest to a text (or several), an image, an item of the collection, or a vector; best first.

        The newest commit is in the answer, and nothing that was erased before. See docs/index.md.

        Args:
            image: an image file's path or bytes; with CLIP it finds texts, and a text finds images.
            vector: (d,) or (m, d) vectors of the encoder.
            like, unlike: ids to find more of and to keep away from (Rocchio), alone or with one of the others; they are no answer.
            k: rows a query, 10 by default; with `min_score` and no k, all of them.
            where: only rows that this predicate selects, e.g. "product = 'card'".
            columns: kept columns to return with each hit.
            probes: lists of the index to visit (of kind hnsw its ef), instead of the number chosen when it was built.
            refine: rows to nominate for each one that is answered, instead of the number chosen then.
            min_score: only rows that score at least so much.
            limit: rows of the ranking to look at where min_score, distinct or diversity ask for more than k.
            after: the `cursor` of the page before.
            distinct: a column ("subject"): of rows with one value in it only the nearest.
            diversity: 0 to 1: rows that are not all alike (maximal marginal relevance).
            through: a bridge (`store.build_bridge`) from the encoder that reads the query, or made `vector`, to the one that
                is searched; the answer's `bridged` says how well it finds. So it does where rows that are found were bridged into
                this encoder's space, and each hit says of itself whether it was.

        Raises:
            InvalidArguments: none or several of text, image, item and vector; numbers out of range; all are named.
            ItemNotFound, PassportMismatch, DimensionMismatch, InvalidVectors, SqlRefused, ColumnNotFound, ShardsMissing.
        """
        call = f"search in '{self.name}'"
        reader, bridge = self._bridge(through, item, call)
        asked = self.encoder(encoder if encoder is not None or bridge is None else bridge.target)
        _check_text(call, text)
        check_given(call, {"text": text, "image": image, "item": item, "vector": vector}, like, unlike)
        base = self._asked(reader or asked, text, image, item, vector)
        if bridge is not None and base is not None:
            base = bridge.ask(base)
        made = question(self._table, asked.fingerprint, base, like, unlike, call)
        found = self._searcher(asked.fingerprint).search(
            made.vectors, k, where=where, columns=columns, probes=probes, refine=refine, min_score=min_score,
            limit=limit, after=after, distinct=distinct, diversity=diversity, without=made.without,
        )  # fmt: skip
        return self._marked(asked, found) if bridge is None else replace(found, bridged=bridge.said)

    def recommend(
        self,
        items: Sequence[str] | None = None,
        *,
        subject: str | None = None,
        half_life: timedelta | None = None,
        k: int = 10,
        where: str | None = None,
        columns: Sequence[str] = (),
        distinct: str | None = None,
        diversity: float | None = None,
        encoder: str | None = None,
    ) -> SearchResult:
        """The rows nearest to a profile: the mean of many items, or of all rows of a subject; these are no answer themselves.

        Args:
            items: ids; or `subject`, whose rows are taken.
            half_life: a row counts half as much as one that is so much younger, by `time`.
            k, where, columns, distinct, diversity: as of `search`.

        Raises:
            InvalidArguments: neither or both of items and subject; rows without a time under a half life; rows that cancel out.
            ItemNotFound: an id, or a subject, that is not there.
        """
        call = f"recommend in '{self.name}'"
        if (items is None) == (subject is None):
            found = "none" if items is None else "both"
            raise InvalidArguments(call=call, problems=[f"expected one of items and subject, found {found}"])
        asked = self.encoder(encoder)
        if subject is not None:
            items = self._table.to_arrow(["id"], where=f"subject = {quoted(subject)}").column("id").to_pylist()
            if not items:
                raise ItemNotFound(name=subject, where=f"the subjects of collection '{self.name}'")
        ids = list(items or ())
        vector = profile(self._table, asked.fingerprint, ids, half_life=half_life, call=call)
        answer = self._searcher(asked.fingerprint).search(
            vector, k, where=where, columns=columns, distinct=distinct, diversity=diversity, without=ids
        )
        return self._marked(asked, answer)

    def classify(
        self,
        text: str | Sequence[str] | None = None,
        *,
        image: bytes | Path | None = None,
        item: str | None = None,
        vector: object = None,
        labels: str | Mapping[str, str],
        labelled: str | None = None,
        k: int = 20,
        probes: int | None = None,
        threshold: float | None = None,
        encoder: str | None = None,
    ) -> Classified:
        """The class of a text (or several), an image, an item or a vector, by the vote of the nearest labelled rows, which it names.

        Nothing is trained: a label counts in the next answer, and an erased row does not. It abstains where a row is far from all
        that is labelled, or less sure than `threshold`.

        Args:
            item: a row of the collection; it has no vote itself.
            labels: where the labels stand: "table.column" (a source table with an id key) or a kept column. Or {class: what it is
                about}: then no row needs a label, and `labelled` names where labels stand, if there are some.
            k: neighbours that vote.
            probes: lists of the index to visit.

        Raises:
            InvalidArguments: as of `search`; no row has a label. TableNotFound, ColumnNotFound, ShardsMissing.
        """
        call = f"classify in '{self.name}'"
        _check_text(call, text)
        check_given(call, {"text": text, "image": image, "item": item, "vector": vector}, (), ())
        asked = self.encoder(encoder)
        base = self._asked(asked, text, image, item, vector)
        classifier = self._classifiers.get(
            self._searcher(asked.fingerprint), asked, labels=labels, labelled=labelled, k=k, probes=probes
        )
        return classifier.classify(base, threshold=threshold, leave_out=[item] if item is not None else ())

    def classifier_head(
        self,
        name: str,
        *,
        labels: str | Mapping[str, str],
        labelled: str | None = None,
        k: int = 20,
        probes: int | None = None,
        threshold: float | None = None,
        encoder: str | None = None,
    ) -> Head:
        """`classify` as a published head: see `Store.register_classifier`."""
        asked = self.the_encoder(encoder, f"register_classifier('{name}')")
        classifier = self._classifiers.get(
            self._searcher(asked.fingerprint), asked, labels=labels, labelled=labelled, k=k, probes=probes
        )
        return register_classifier(self._store.layout, name, classifier, asked.label, threshold=threshold)

    def knn_graph(
        self,
        k: int = 10,
        *,
        where: str | None = None,
        exact: bool | None = None,
        workers: int | None = None,
        encoder: str | None = None,
        progress: Progress | None = None,
    ) -> PairTable:
        """A table of the k nearest neighbours of every row: id, rank, neighbour, score. Kept in the store; out of core; resumable.

        Args:
            where: only rows this predicate selects, on both sides.
            exact: True compares every row with every other; False has the index nominate; None takes the index, if there is one,
                above 50,000 rows.
            workers: 0 compares in this process, more on so many Ray workers; by default inline below 200,000 rows.

        Raises:
            InvalidArguments: arguments that cannot be, a collection without vectors. SqlRefused, ShardsMissing, JobFailed, DiskFull.
        """
        chosen = choose_workers(workers, len(self), INLINE_BELOW.pairs_rows, f"neighbours in '{self.name}'")
        with shown(progress, f"comparing {self.name}") as advance:
            return knn_graph(
                self._table, self._store.layout, self.name, self.encoder(encoder).fingerprint,
                k=k, where=where, exact=exact, workers=chosen, progress=advance,
            )  # fmt: skip

    def duplicates(
        self,
        threshold: float = 0.95,
        *,
        limit: int = 100,
        where: str | None = None,
        exact: bool | None = None,
        workers: int | None = None,
        encoder: str | None = None,
        progress: Progress | None = None,
    ) -> PairTable:
        """A table of the pairs of rows whose cosine is at least `threshold`, each once, and the groups they form: a, b, score, group.

        Args:
            limit: pairs a row that are looked for; of a row with more the nearest are taken, and `cut_short` counts such rows.
            where, exact, workers: as of `knn_graph`.
        """
        chosen = choose_workers(workers, len(self), INLINE_BELOW.pairs_rows, f"duplicates in '{self.name}'")
        with shown(progress, f"comparing {self.name}") as advance:
            return duplicates(
                self._table, self._store.layout, self.name, self.encoder(encoder).fingerprint,
                threshold=threshold, limit=limit, where=where, exact=exact, workers=chosen, progress=advance,
            )  # fmt: skip

    def pairs(self, kind: PairKind, number: int | None = None, *, encoder: str | None = None) -> PairTable:
        """A table that `knn_graph` ("knn") or `duplicates` ("duplicates") made before: the newest, or the one of that number.

        Raises:
            PairsNotFound: there is none.
        """
        return open_pairs(self._store.layout, self.name, self.encoder(encoder).fingerprint, kind, number)

    def close(self) -> None:
        """Let go of the vectors and shards this object holds in memory, and end the actors of its indexes."""
        for searcher in self._searchers.values():
            searcher.close(stop_actors=True)
        self._searchers.clear()
        self._classifiers.clear()

    def _bridge(self, name: str | None, item: str | None, call: str) -> tuple[Encoder | None, Bridge | None]:
        """The encoder of that name, which is a bridge, and its map; nothing where no bridge is asked for."""
        if name is None:
            return None, None
        if item is not None:
            problem = "item= has a vector of the encoder that is searched: leave through= out"
            raise InvalidArguments(call=call, problems=[problem])
        reader = self._store.encoder(name)
        return reader, read_bridge(self._store.layout, reader.fingerprint, reader.label)

    def _marked(self, asked: Encoder, found: SearchResult) -> SearchResult:
        """The answer; where the encoder is a bridge, with what says of each row whether its vector was mapped."""
        from raystore.migrate.bridge import mark_bridged

        if not is_bridged(asked.passport):
            return found
        if asked.fingerprint not in self._bridges:  # a map of some MB, which never changes
            self._bridges[asked.fingerprint] = read_bridge(self._store.layout, asked.fingerprint, asked.label)
        return mark_bridged(self._table, self._bridges[asked.fingerprint], found)

    def _asked(
        self,
        encoder: Encoder,
        text: str | Sequence[str] | None,
        image: bytes | Path | None,
        item: str | None,
        vector: object,
    ) -> object:
        """(m, d) what is asked about, of the one thing that was given; None where none was."""
        if text is not None:
            return encoder.encode([text] if isinstance(text, str) else list(text))
        if image is not None:
            return encoder.encode([image])
        return vector if item is None else self._table.vectors_of([item], encoder.fingerprint)


def _check_text(call: str, text: object) -> None:
    if isinstance(text, (bytes, Path)):
        problem = f"text= is {type(text).__name__}, expected a string or several: an image goes to image="
        raise InvalidArguments(call=call, problems=[problem])
