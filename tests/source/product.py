"""A product with a source in it that logs until it is killed, and says each id once it is kept. Run as a program."""

from __future__ import annotations

import sys

from raystore.source import Source


def main(url: str, encoder: str, spool: str, collection: str, first: int) -> None:
    with Source(url, encoder, columns=["product"], spool=spool, threads=1) as source:
        number = first
        while True:
            logged = source.log(collection, [{"id": f"r-{number}", "text": f"card {number}", "product": "card"}])
            sys.stdout.write(f"{' '.join(logged.ids)}\n")
            sys.stdout.flush()
            number += 1


if __name__ == "__main__":
    main(*sys.argv[1:5], first=int(sys.argv[5]))
