"""Whose votes a classifier counts: a collection, the place its labels stand in, descriptions, how many neighbours. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import BaseModel, ConfigDict

from raystore.errors import InvalidArguments

K = 20  # neighbours, where nothing else says how many


class Voters(BaseModel):
    """`labels` is "table.column" or a kept column; `described` the classes' descriptions. One of the two may be empty."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    collection: str
    labels: str | None = None
    described: dict[str, str] = {}
    k: int = K
    probes: int | None = None

    def __str__(self) -> str:
        """'tickets, labels outcomes.outcome and 3 descriptions, 20 neighbours'."""
        places = [f"labels {self.labels}"] if self.labels else []
        places += [f"{len(self.described)} descriptions"] if self.described else []
        return f"{self.collection}, {' and '.join(places)}" + (f", {self.k} neighbours" if self.labels else "")


def voters_of(
    call: str,
    collection: str,
    labels: object,
    *,
    labelled: object = None,
    k: object = K,
    probes: object = None,
    nlist: int | None = None,
) -> Voters:
    """The voters that the arguments of `collection.classify` mean.

    Args:
        labels: "table.column", "column", or a description for each class.
        labelled: beside descriptions, where the labels of labelled rows stand.
        nlist: lists of the index's largest shard, or None where it has none.

    Raises:
        InvalidArguments: with everything that is wrong.
    """
    problems = []
    described: dict[str, str] = {}
    given = labels if isinstance(labels, str) else labelled
    place = given if isinstance(given, str) and given else None
    if isinstance(labels, str):
        if labelled is not None:
            problems.append("labelled= goes with descriptions in labels=: the place of the labels alone is labels=")
    elif isinstance(labels, Mapping):
        if not all(isinstance(text, str) for pair in labels.items() for text in pair) or not all(map(str.strip, labels)):
            problems.append("labels= is no mapping of classes to descriptions, both text")
        elif len(labels) < 2 and labelled is None:
            problems.append(f"labels= describes {len(labels)} class{'' if labels else 'es'}, expected two or more")
        else:
            described = dict(labels)
    else:
        problems.append(
            f"labels= is {type(labels).__name__}, expected 'table.column', a kept column, or descriptions by class"
        )
    if given is not None and place is None:
        problems.append(f"{'labels' if isinstance(labels, str) else 'labelled'}= is no 'table.column' and no kept column")
    if not _whole(k):
        problems.append(f"k is {_shown(k)}, expected a number from 1")
    if probes is not None and not (_whole(probes) and (nlist is None or int(probes) <= nlist)):  # type: ignore[call-overload]
        expected = "a number from 1" if nlist is None else f"a number from 1 to {nlist}, the lists of its largest shard"
        problems.append(f"probes is {_shown(probes)}, expected {expected}, or None")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return Voters(
        collection=collection,
        labels=place,
        described=described,
        k=int(k),  # type: ignore[call-overload]
        probes=None if probes is None else int(probes),  # type: ignore[call-overload]
    )


def check_threshold(call: str, threshold: object) -> None:
    """Raise InvalidArguments unless it is None or a probability above 0."""
    number = isinstance(threshold, (int, float, np.integer, np.floating)) and not isinstance(threshold, bool)
    if threshold is not None and not (number and 0 < threshold <= 1):  # type: ignore[operator]
        problem = f"threshold is {_shown(threshold)}, expected a number above 0, 1 at most, or None"
        raise InvalidArguments(call=call, problems=[problem])


def _whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(value >= 1)


def _shown(value: object) -> str:
    """A number as it is; of anything else only the type, since it may be a text that was put into the wrong argument."""
    return str(value) if isinstance(value, (int, float, np.integer, np.floating)) else f"a {type(value).__name__}"
