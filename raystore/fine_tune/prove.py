"""The proof of one run: both encoders read the same rows again, those of train as reference and those of test as questions.

Rows are read by reference, encoded, and forgotten block by block. Cost: encoding at most 20,000 rows of train and 10,000 of test
with each encoder, which for long texts takes longer than the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from raystore.encoders.loaded import LoadedEncoder
from raystore.errors import InvalidArguments
from raystore.fine_tune.ask import Asked
from raystore.fine_tune.examples.items import stream_items
from raystore.fine_tune.examples.spec import DataSpec
from raystore.fine_tune.examples.types import Examples, Sides
from raystore.fine_tune.proof.measuring import measure
from raystore.fine_tune.proof.proof import Proof, TrainingPoint
from raystore.fine_tune.proof.space import Space
from raystore.vectors import Matrix

REFERENCE_ROWS, QUERY_ROWS = 20_000, 10_000

Advance = Callable[[int, int], None]


def prove(
    asked: Asked, sides: Sides, encoders: Sequence[LoadedEncoder], *, curve: Sequence[TrainingPoint] = (), advance: Advance
) -> Proof:
    """What changed from the first encoder to the second, on the test side.

    Of pairs without labels each row of one view asks for its other half among those of the test side.

    Args:
        advance: told rows encoded and rows to encode, over both encoders.

    Raises:
        InvalidArguments: the test side holds no row.
    """
    pairs = asked.data.is_pairs and not asked.data.columns.label
    reference = _some(sides.test if pairs else sides.train, REFERENCE_ROWS, asked.recipe.seed)
    queries = reference if pairs else _some(sides.test, QUERY_ROWS, asked.recipe.seed)
    if not len(queries) or not len(reference):
        problem = "no row is left to prove it by: give test= files, or a split with a test side"
        raise InvalidArguments(call=f"fine_tune('{asked.name}')", problems=[problem])
    total = 2 * (len(reference) + len(queries))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        advance(done, total)

    spaces = [
        Space(
            encoder.label,
            encode_rows(asked.data, reference, encoder, 0, count),
            encode_rows(asked.data, queries, encoder, 1 if pairs else 0, count),
            encoder.fingerprint,
        )
        for encoder in encoders
    ]
    labels = np.arange(len(queries)) if pairs else None
    known = set(queries.ids)
    return measure(
        *spaces,
        reference_labels=reference.labels if labels is None else labels,
        query_labels=queries.labels if labels is None else labels,
        classes=reference.ids if pairs else asked.data.classes,
        entities=queries.entities,
        ids=queries.ids,
        reference_ids=reference.ids,
        out_of_scope=asked.data.out_of_scope,
        ask=[id_ for id_ in asked.show if id_ in known] or None,
        data=_named(asked.data),
        curve=curve,
        head=not pairs,
    )


def encode_rows(
    data: DataSpec, rows: Examples, encoder: LoadedEncoder, view: int = 0, count: Callable[[int], None] = lambda _: None
) -> Matrix:
    """(n, dim) float32 unit rows of one view's items, in the order of `rows`."""
    found = np.empty((len(rows), encoder.dim), dtype=np.float32)
    for places, items in stream_items(data, rows, view):
        found[places] = encoder.encode(items)
        count(len(items))
    return found


def _named(data: DataSpec) -> str:
    """'tickets.parquet, test'; of many files the first and how many more."""
    files = list(dict.fromkeys(Path(each.path).name for each in data.test or data.references))
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{files[0]}{more}, test"


def _some(side: Examples, most: int, seed: int) -> Examples:
    """All of a side, or `most` of its rows drawn by the seed."""
    if len(side) <= most:
        return side
    return side.take(np.sort(np.random.default_rng(seed).permutation(len(side))[:most]))
