"""A collection that was opened: its rows and its encoders. What `Collection` and `Searching` stand on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raystore.data.collection import CollectionTable
from raystore.data.current import current_of, default_first
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments

if TYPE_CHECKING:
    from raystore.store import Store


class Opened:
    """The facts of one collection of a store; every call reads the newest version."""

    def __init__(self, store: Store, table: CollectionTable) -> None:
        self._store = store
        self._table = table
        self._encoders: dict[str, Encoder] = {}

    @property
    def name(self) -> str:
        return self._table.name

    @property
    def table(self) -> CollectionTable:
        """The rows themselves, for the rooms."""
        return self._table

    @property
    def version(self) -> int:
        """Grows with every commit."""
        return self._table.version

    @property
    def keeps_source(self) -> bool:
        """Whether its raw content is kept beside the vectors: see `source`."""
        return self._table.keeps_source

    @property
    def columns(self) -> dict[str, str]:
        """The kept columns and their types, beside id, subject, tenant and time."""
        return self._table.columns

    @property
    def encoders(self) -> list[Encoder]:
        """The encoders whose vectors it holds, the first one first."""
        return [self._encoder_of(fingerprint) for fingerprint in self._table.fingerprints]

    def encoder(self, name: str | None = None) -> Encoder:
        """The named encoder; where none is, the one that `use_encoder` made current, or else the collection's first.

        Raises:
            EncoderNotFound; PassportMismatch: it holds no vectors of it. InvalidArguments: it holds no vectors at all.
        """
        if name is None:
            fingerprints = default_first(self._store.catalog, self._table)
            if not fingerprints:
                problem = "it holds no vectors, so no encoder reads it; ask it by SQL"
                raise InvalidArguments(call=f"collection '{self.name}'", problems=[problem])
            return self._encoder_of(fingerprints[0])
        encoder = self._store.encoder(name)
        self._table.check_encoder(encoder.fingerprint, encoder.label)
        return encoder

    def the_encoder(self, asked: str | Encoder | None, call: str) -> Encoder:
        """The encoder that is named; where none is, the one that `use_encoder` made current, or else the only one.

        Raises:
            InvalidArguments: there are several, and none of them was made current.
        """
        if asked is None and len(self.encoders) > 1 and current_of(self._store.catalog, self._table) is None:
            labels = ", ".join(e.label for e in self.encoders)
            problem = f"collection '{self.name}' holds vectors of several encoders ({labels}): choose one with encoder="
            raise InvalidArguments(call=call, problems=[problem])
        return self.encoder(asked.fingerprint if isinstance(asked, Encoder) else asked)

    def _encoder_of(self, fingerprint: str) -> Encoder:
        if fingerprint not in self._encoders:
            self._encoders[fingerprint] = self._store.encoder(fingerprint)
        return self._encoders[fingerprint]

    def __len__(self) -> int:
        return self._table.count()
