"""Changing a collection's encoder: which one it is asked by, how it moves to another. The work stands in `data` and `migrate`."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from raystore.data.current import before_of, current_of, cut_over, history, roll_back
from raystore.encoders.registry import Encoder
from raystore.searching import Searching

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
