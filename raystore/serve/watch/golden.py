"""Does a loaded encoder still encode what it did? Its golden inputs again, while it serves. Knows no store, no HTTP and no Ray.

Cost: 16 short texts or a dozen pictures for each encoder, tens of milliseconds, through the same batches as the requests.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from raystore.encoders import golden
from raystore.encoders.golden import Golden
from raystore.encoders.items import Item
from raystore.encoders.passport import Passport
from raystore.errors import GoldenMoved, InvalidVectors, ItemsUnusable, RaystoreError
from raystore.serve.watch import table
from raystore.serve.watch.metrics import Metrics
from raystore.vectors import Vectors

log = logging.getLogger("raystore.serve")


class Watched(Protocol):
    """An encoder in memory, `BatchingEncoder` for one."""

    @property
    def label(self) -> str: ...
    @property
    def passport(self) -> Passport: ...
    def encode(self, items: Sequence[Item]) -> Vectors: ...


def lowest_cosine(encoder: Watched, expected: Golden) -> float:
    """The lowest cosine between the golden vectors and what the encoder makes of their inputs now; 0 where that is no vector at all.

    Args:
        expected: as the encoder was registered with them, `read_encoder(layout, fingerprint).golden(label)`.
    """
    try:
        return golden.check(expected, encoder.encode, tolerance=-2, label=encoder.label, backend="serving")
    except (GoldenMoved, InvalidVectors, ItemsUnusable):  # NaN, no direction, another length
        return 0.0


def watch_golden(metrics: Metrics, encoders: Iterable[tuple[Watched, Golden]]) -> dict[str, float]:
    """The lowest cosine of each encoder by its label, as metrics and, below its tolerance, in the log. What cannot be checked now (a
    replica that is gone) is left as it was, and its age shows."""
    found: dict[str, float] = {}
    for encoder, expected in encoders:
        try:
            found[encoder.label] = cosine = lowest_cosine(encoder, expected)
        except RaystoreError as error:
            log.warning("the golden inputs of encoder %s were not checked: %s", encoder.label, error)
            continue
        metrics.set(table.GOLDEN_COSINE, cosine, encoder.label)
        metrics.set(table.GOLDEN_TOLERANCE, encoder.passport.tolerance, encoder.label)
        metrics.set(table.GOLDEN_CHECKED, time.time(), encoder.label)
        if cosine < encoder.passport.tolerance:
            log.error("encoder %s moved: a golden input's cosine is %.6f", encoder.label, cosine)
    return found
