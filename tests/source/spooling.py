"""Appends rows to a spool until it is killed, and says each id once it is kept. Run as a program: folder, first number."""

from __future__ import annotations

import sys

import numpy as np

from raystore.source.record import Record
from raystore.source.spool import Spool

FINGERPRINT = "ab" * 32


def record(number: int, collection: str = "tickets", dim: int = 8) -> Record:
    return Record(collection, FINGERPRINT, {"id": f"r-{number}", "product": "card"}, np.full(dim, number / 7, np.float32))


def main(folder: str, first: int) -> None:
    spool = Spool(folder, 2**30, segment_bytes=4096)
    number = first
    while True:
        spool.append([record(number), record(number + 1)])
        sys.stdout.write(f"{number} {number + 1}\n")
        sys.stdout.flush()
        number += 2


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
