"""The proof of one run: both encoders read the same rows again, those of train as reference and those of test as questions.

So does a third, where the run's name means another encoder than the base. Rows are read by reference, encoded, and forgotten block
by block. Cost: encoding at most 20,000 rows of train and 10,000 of test with each encoder, which for long texts takes longer than
the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

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


class Proven(NamedTuple):
    """`proof`: from the base to the tuned encoder. `standing`: figures alone, from what the name means to the tuned encoder."""

    proof: Proof
    standing: Proof | None


def prove(
    asked: Asked,
    sides: Sides,
    base: LoadedEncoder,
    tuned: LoadedEncoder,
    standing: LoadedEncoder | None = None,
    *,
    curve: Sequence[TrainingPoint] = (),
    advance: Advance,
) -> Proven:
    """What changed from the base to the tuned encoder on the test side, and from `standing`, which the name means, if that is another.

    Of pairs without labels each row of one view asks for its other half among those of the test side. Where `standing` was trained
    with another split, it may have seen rows of this test side, and looks better than it is.

    Args:
        advance: told rows encoded and rows to encode, over all encoders.

    Raises:
        InvalidArguments: the test side holds no row.
    """
    pairs = asked.data.is_pairs and not asked.data.columns.label
    reference = _some(sides.test if pairs else sides.train, REFERENCE_ROWS, asked.recipe.seed)
    queries = reference if pairs else _some(sides.test, QUERY_ROWS, asked.recipe.seed)
    if not len(queries) or not len(reference):
        problem = "no row is left to prove it by: give test= files, or a split with a test side"
        raise InvalidArguments(call=f"fine_tune('{asked.name}')", problems=[problem])
    encoders = [base, tuned] + ([standing] if standing is not None else [])
    total = len(encoders) * (len(reference) + len(queries))
    done = 0

    def count(rows: int) -> None:
        nonlocal done
        done += rows
        advance(done, total)

    before, after, *others = (
        Space(
            encoder.label,
            encode_rows(asked.data, reference, encoder, 0, count),
            encode_rows(asked.data, queries, encoder, 1 if pairs else 0, count),
            encoder.fingerprint,
        )
        for encoder in encoders
    )
    labels = np.arange(len(queries)) if pairs else None
    known = set(queries.ids)
    rows: dict[str, Any] = {
        "reference_labels": reference.labels if labels is None else labels,
        "query_labels": queries.labels if labels is None else labels,
        "classes": reference.ids if pairs else asked.data.classes,
        "entities": queries.entities,
        "ids": queries.ids,
        "reference_ids": reference.ids,
        "out_of_scope": asked.data.out_of_scope,
        "data": _named(asked.data),
        "head": not pairs,
    }
    shown = [id_ for id_ in asked.show if id_ in known] or None
    proof = measure(before, after, ask=shown, curve=curve, **rows)
    second = measure(others[0], after, ask=[], maps="none", **rows) if others else None
    return Proven(proof, second and second.model_copy(update={"classes": (), "per_class": (), "mcnemar": {}}))


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
