"""bridged(): whether a row's vector of an encoder was mapped from an older encoder's, and is not the encoder's own. Reads no vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sqlglot import exp

from raystore.data.query.row_table import Positions, RowTable
from raystore.errors import SqlRefused

BRIDGED_FORM = "bridged(encoder)"


def encoder_of(call: exp.Anonymous) -> exp.Column:
    """The encoder that a call names. SqlRefused where it is called otherwise."""
    given = call.expressions
    if len(given) != 1 or not isinstance(given[0], exp.Column):
        advice = f"Write {BRIDGED_FORM}; an encoder with '-' in its name stands in double quotes."
        raise SqlRefused(reason="bridged() was called otherwise than it is defined", advice=advice)
    return given[0]


class BridgedFlags:
    """Of a row whether its vector was bridged: `Values` of a collection's rows, false where it has no vector.

    Args:
        stamp: the column that numbers the commits which bridged rows; there is none where none was bridged.
        version: as of which commit; None for the newest.
    """

    type = pa.bool_()

    def __init__(self, rows: Callable[[], RowTable], stamp: str, version: int | None) -> None:
        self._rows, self._stamp, self._version = rows, stamp, version
        self._flags: npt.NDArray[np.bool_] | None = None

    def at(self, positions: Positions) -> pa.Array:
        if self._flags is None:
            self._flags = self._read()
        return pa.array(self._flags[positions])

    def _read(self) -> npt.NDArray[np.bool_]:
        """(n,) by position. Cost: one scan of a number a row."""
        rows = self._rows()
        if self._stamp not in rows.dataset.schema.names:
            return np.zeros(len(rows), np.bool_)
        commits = rows.columns([self._stamp]).column(self._stamp).fill_null(-1).to_numpy()
        flags: npt.NDArray[np.bool_] = commits >= 0
        return flags if self._version is None else flags & (commits <= self._version)
