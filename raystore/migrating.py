"""Changing a collection's encoder: which one it is asked by, how it moves to another. The work stands in `data` and `migrate`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from raystore.data.current import before_of, current_of, cut_over, history, roll_back
from raystore.encoders.registry import Encoder
from raystore.progress import Progress, noted, shown
from raystore.searching import Searching

if TYPE_CHECKING:
    from raystore.data.pool_size import Workers
    from raystore.impact import Dependent
    from raystore.migrate.bridge import BridgeReport
    from raystore.migrate.compare import Compared
    from raystore.migrate.plan import MigrationPlan
    from raystore.migrate.retire import Retired
    from raystore.migrate.run import MigrationReport

log = logging.getLogger("raystore")


class Migrating(Searching):
    """What moves one collection from an encoder to another."""

    # --- the current encoder -----------------------------------------------------------------------------------------

    @property
    def encoder_labels(self) -> list[str]:
        """The labels of its encoders, the first one first; behind that of several which was made current stands "(current)"."""
        labels = {each.fingerprint: each.label for each in self.encoders}
        current = current_of(self._store.catalog, self._table) if len(labels) > 1 else None
        if current is not None and current.fingerprint in labels:
            labels[current.fingerprint] += " (current)"
        return list(labels.values())

    def use_encoder(self, encoder: str | Encoder, reason: str | None = None) -> Encoder:
        """The encoder that the collection is asked by from now on, wherever a call names none; in every process, at once.

        Searches, logs, indexes, heads and running deployments follow at their next call. Nothing else changes: its other
        encoders' vectors stay, new rows go on getting them too, and `roll_back_encoder()` takes the cut-over back. Rows
        that have no vector of it are not found by it: they are counted in a warning.

        Args:
            reason: kept with the record; see `encoder_history`.

        Raises:
            EncoderNotFound; PassportMismatch: the collection holds no vectors of it.
        """
        chosen = self.encoder(encoder.fingerprint if isinstance(encoder, Encoder) else encoder)
        cut_over(self._store.catalog, self._table, chosen.fingerprint, reason)
        if lacking := self._table.count_lacking(chosen.fingerprint):
            said = "'%s' is asked by %s from now on, and %d of its %d rows have no vector of it: they are not found"
            log.warning(said, self.name, chosen.label, lacking, len(self))
        return chosen

    def previous_encoder(self) -> Encoder | None:
        """The encoder that `roll_back_encoder` would go back to; None where there is nothing to take back."""
        standing = before_of(self._store.catalog, self._table)
        return None if standing is None else self._encoder_of(standing.before)

    def roll_back_encoder(self, reason: str | None = None) -> Encoder:
        """The encoder before the last cut-over, which the collection is asked by from now on; again, the one before that.

        Raises:
            InvalidArguments: there was no cut-over, or the collection holds no vectors of that encoder any more.
        """
        return self._encoder_of(roll_back(self._store.catalog, self._table, reason).fingerprint)

    def encoder_history(self) -> list[dict[str, Any]]:
        """Every cut-over, oldest first: number, fingerprint, before, reason, at (ISO 8601, UTC), undoes (the number taken back)."""
        return [asdict(each) for each in history(self._store.catalog, self.name)]

    # --- from one encoder to another ---------------------------------------------------------------------------------

    def plan_migration(self, to: str | Encoder) -> MigrationPlan:
        """What each of the five ways to another encoder would cover, take and cost, whether it is possible, and a recommendation.

        Re-embedding from kept content or from the original files, writing both from now on, a bridge for old rows, or queries
        through a bridge. The pace is measured on a few real items, or taken from a job record. Changes nothing.

        Raises:
            EncoderNotFound, ModelUnusable; InvalidArguments: a bridge, or the only encoder it has.
        """
        from raystore.migrate.plan import plan_migration

        return plan_migration(self._store.catalog, self._table, self._named(to))

    def migrate(
        self,
        to: str | Encoder,
        way: Literal["auto", "kept", "files", "dual", "bridge", "through"] = "auto",
        cut_over: bool = False,
        *,
        workers: Workers = None,
        progress: Progress | None = None,
    ) -> MigrationReport:
        """What was done to bring the collection to another encoder. May be killed and called again; requests go on meanwhile.

        Args:
            way: "auto" re-embeds what can be, then bridges the rest where the bridge has a recall@10 of 90% or label searches keep 90%;
                "kept" and "files" re-embed; "dual" has new rows get vectors of both; "bridge" maps old rows into the new space,
                marked as bridged; "through" builds what `search(through=)` and `deploy(through=)` ask old rows and heads with.
            cut_over: ask it by the new encoder (or by the bridge, which holds every row) at the end, if no row lacks its vector.
            workers: of the embedding, as for `embed`.

        Raises:
            EncoderNotFound, ModelUnusable; InvalidArguments: a way that cannot be; fewer than 100 rows with both for a bridge.
            DiskFull, JobFailed, WriterBlocked: what is committed is safe; call it again.
        """
        from raystore.migrate.run import migrate

        @contextmanager
        def step(title: str) -> Iterator[Progress | None]:
            if progress is None:
                with shown(None, title) as advance:
                    yield advance
            else:  # the caller's one bar says which step it is at
                with noted(progress, title) as told:
                    yield lambda done, total: told(done, total, title)

        store = self._store
        return migrate(
            store.catalog, self._table, self._named(to), store.key, way=way, cut_over=cut_over, workers=workers, shown=step
        )

    def bridge_rows(self, forward: str | Encoder, *, progress: Progress | None = None) -> BridgeReport:
        """What became of the rows that lacked a vector of a forward bridge (see `Store.build_bridge`): mapped from their old vector,
        or copied from their true one. May be killed and called again.

        Raises:
            InvalidArguments: it is no bridge, or the way back. PassportMismatch: the collection lacks what it leads from.
        """
        from raystore.migrate.bridge import bridge_rows

        with shown(progress, f"bridging {self.name}") as advance:
            return bridge_rows(self._store.layout, self._table, self._named(forward), progress=advance)

    def bridged(self, ids: Sequence[str], encoder: str | Encoder | None = None) -> npt.NDArray[np.bool_]:
        """(n,) which of the ids have a bridged vector, and not a true one, of the encoder (by default the current one)."""
        from raystore.migrate.bridge import bridged_ids

        chosen = self.encoder() if encoder is None else self._named(encoder)
        return bridged_ids(self._table, chosen.fingerprint, ids)

    def compare_encoders(
        self,
        old: str | Encoder,
        new: str | Encoder,
        *,
        labels: str | Mapping[str, str] | None = None,
        heads: Sequence[str] | None = None,
        sample: int = 2_000,
        seed: int = 0,
    ) -> Compared:
        """What changes with the encoder, on rows with a true vector of both: recall@10 of bridged against re-embedded rows, and how
        often heads of the old space say the same through the bridge back; of all rows and of each class.

        Args:
            new: the new encoder, or a bridge (`build_bridge`) that leads to it.
            labels: a kept column or {id: label}: then what label searches keep of re-embedding's is measured too.
            heads: by default the newest of each name that is of the old encoder, linear or MLP.
            sample: rows, drawn at random; of those that were bridged before they got their true vector where there are enough.

        Raises:
            EncoderNotFound, PassportMismatch, ColumnNotFound, HeadNotFound; InvalidArguments: fewer than 20 such rows.
        """
        from raystore.migrate.compare import compare_encoders

        first, second = self._named(old), self._named(new)
        return compare_encoders(
            self._store.catalog, self._table, first, second, labels=labels, heads=heads, sample=sample, seed=seed
        )

    def retire_encoder(
        self,
        name: str | Encoder,
        force: str | None = None,
        *,
        grace_s: float | None = None,
        progress: Progress | None = None,
    ) -> Retired:
        """What went: the encoder's vectors in this collection, its indexes and tables of pairs, with every byte they had.

        Refused while the collection is asked by it, while heads, indexes, deployments or published copies stand on it, and while
        rows have no other vector. The encoder, its heads and snapshots stay, and so does a record of this.

        Args:
            force: the reason for which it is done all the same; kept.
            grace_s: seconds that reads under way are given before the bytes go; None is 30.

        Raises:
            InvalidArguments: all that stands against it, named and counted. PassportMismatch, WriterBlocked, DiskFull.

        Cost: the collection is read and written once, and the grace is waited out. Requests and logs go on.
        """
        from raystore.migrate.retire import retire

        gone = self._named(name)
        standing = list(self._standing(gone))
        with shown(progress, f"rewriting {self.name}", "fragments") as advance:
            retired = retire(
                self._store.catalog, self._table, gone, standing=standing, force=force, grace_s=grace_s, progress=advance
            )
        searcher = self._searchers.pop(gone.fingerprint, None)  # only now: of a refused call nothing has changed
        if searcher is not None:
            searcher.close(stop_actors=True)
        return retired

    def _named(self, encoder: str | Encoder) -> Encoder:
        return self._store.encoder(encoder if isinstance(encoder, str) else encoder.fingerprint)

    def _standing(self, encoder: Encoder) -> Iterator[str]:
        """What stands on the encoder's vectors here, a sentence each."""
        from raystore.impact import impact
        from raystore.serve.spec.records import deployment_records

        top = impact(self._store.catalog, encoder).top
        mine = next((each for each in top.below if (each.noun, each.name) == ("collection", self.name)), None)
        told = {} if mine is None else {(each.noun, each.name): each for each in _under(mine)}
        for (noun, name), each in told.items():
            if noun == "index":
                yield f"index {name} ({each.about['rows']:,} rows) is in use over its vectors"
            elif noun == "publication":
                yield (
                    f"its vectors are published at {name}"
                    if each.about.get("holds") == "vectors"
                    else f"{each} is kept up to date"
                )
            elif noun == "head" and ("aliases" in each.about or each.about.get("kind") in ("knn", "neighbours")):
                why = f"is {each.about['aliases']}" if "aliases" in each.about else "asks these very rows"
                yield f"head {name} {why}"
            elif noun == "deployment":
                yield f"deployment {name} asks a head that stands on it"
        for record in deployment_records(self._store.catalog).values():
            label = f"{record.name}@{record.number}"
            logs_here = record.log is not None and record.log.collection == self.name
            if logs_here and encoder.fingerprint == record.reads and ("deployment", label) not in told:
                yield f"deployment {label} logs its vectors here"


def _under(thing: Dependent) -> Iterator[Dependent]:
    for each in thing.below:
        yield each
        yield from _under(each)
