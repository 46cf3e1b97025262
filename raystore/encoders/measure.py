"""How fast an encoder is, and what a head makes of its vectors. Pure: an encode function in, numbers out.

Knows no store and no backend, and reads no clock but a steady one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.encoders.items import Item
from raystore.encoders.passport import Modality
from raystore.errors import InvalidArguments
from raystore.vectors import Matrix

Encode = Callable[[Sequence[Item]], Matrix]

BATCH_ROWS = 1_024  # as an embedding job hands them to an encoder
FOLDS = 5
_C = 10.0  # of unit rows, what heads are trained with
_WARM_ROWS = 64
_ONES = 20


class Speed(NamedTuple):
    """`rows` were encoded in `seconds`; `one_ms` is the median over single items."""

    rows: int
    seconds: float
    one_ms: float

    @property
    def rows_per_s(self) -> float:
        return self.rows / self.seconds


def measure_speed(encode: Encode, items: Sequence[Item], seconds: float = 3.0) -> Speed:
    """The pace over `items`, in batches of 1,024 as a job has them, and the time of a single item.

    Args:
        items: at least one; all of them are encoded at least once, then again until `seconds` have passed.
        seconds: at least so long; a few seconds, since machines are noisy.

    Cost: a warm-up of 64 items, `seconds`, and 20 single items.
    """
    if not items:
        raise InvalidArguments(call="measure speed", problems=["there are no items"])
    encode(items[:_WARM_ROWS])  # compiled kernels, allocated memory
    began = time.perf_counter()
    rows = 0
    while not rows or time.perf_counter() - began < seconds:
        for start in range(0, len(items), BATCH_ROWS):
            rows += len(encode(items[start : start + BATCH_ROWS]))
    took = time.perf_counter() - began
    return Speed(rows, took, _one_ms(encode, items))


def _one_ms(encode: Encode, items: Sequence[Item]) -> float:
    """The median over single items, spread over all of them."""
    found = []
    for item in items[:: max(1, len(items) // _ONES)][:_ONES]:
        began = time.perf_counter()
        encode([item])
        found.append(time.perf_counter() - began)
    return 1000 * float(np.median(found))


def cost_per_million(rows_per_s: float, price_per_hour: float) -> float:
    """What a million rows cost on a machine of this price that does nothing else."""
    return price_per_hour / 3600 * 1_000_000 / rows_per_s


def kind_of(sample: Sequence[Item]) -> Modality:
    return "text" if isinstance(sample[0], str) else "image"


def check_sample(call: str, sample: Sequence[Item] | None, labels: Sequence[str] | None) -> None:
    """Refuse a sample too small to have neighbours, and labels that are not one for each of its items.

    Raises:
        InvalidArguments: naming counts and classes' sizes, never an item or a label.
    """
    problems = []
    if sample is not None and (isinstance(sample, (str, bytes)) or len(sample) < 2):
        problems.append("sample= takes a list of at least 2 items")
    elif sample is not None and len({isinstance(item, str) for item in sample}) > 1:
        problems.append("sample= takes texts or images, not both")
    if labels is not None:
        if sample is None or len(labels) != len(sample):
            n = 0 if sample is None else len(sample)
            problems.append(f"labels= has {len(labels):,} labels for {n:,} items, expected one for each")
        elif min(np.unique(np.asarray(labels, dtype=str), return_counts=True)[1], default=0) < 2 or len(set(labels)) < 2:
            problems.append("labels= needs two classes or more, and 2 items or more of each")
    if problems:
        raise InvalidArguments(call=call, problems=problems)


def head_accuracy(vectors: Matrix, labels: Sequence[str]) -> float:
    """The share of rows a linear head predicts right when it has not seen them: cross-validated, 5 folds.

    Args:
        vectors: (n, d) unit rows.
        labels: n of them; each class at least twice. A class with fewer than 5 rows lowers the number of folds.

    Cost: 5 fits of scikit-learn's logistic regression, one second for 1,000 rows of 384 numbers and 10 classes.
    Source: sklearn.linear_model.LogisticRegression; the folds are stratified and the same at each call.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    target: npt.NDArray[Any] = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    folds = min(FOLDS, int(np.bincount(target).min()))
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    predicted = cross_val_predict(LogisticRegression(C=_C, max_iter=1_000), np.asarray(vectors), target, cv=split)
    return float((predicted == target).mean())


def points(change: float | None) -> str:
    """A change of a share in words: '-0.3 points'."""
    if change is None:
        return "not measured"
    rounded = round(100 * change, 1)
    return f"{math.copysign(rounded, change):+.1f} points" if rounded else "0.0 points"
