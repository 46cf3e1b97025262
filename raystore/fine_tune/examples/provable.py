"""Whether a run on these sides can be proven: said before it is begun, not after hours of training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from raystore.errors import InvalidArguments
from raystore.fine_tune.examples.leaks import IntArray, NamedRow
from raystore.fine_tune.examples.spec import DataSpec
from raystore.fine_tune.examples.types import Sides

_REMEDY = "give test= files, a larger share to test in split=, or more rows"


def check_provable(spec: DataSpec, sides: Sides) -> None:
    """Raise InvalidArguments where nothing is left to train on, or nothing to measure on test."""
    problem = _problem(spec, sides)
    if problem is not None:
        raise InvalidArguments(call="fine_tune", problems=[problem])


def _problem(spec: DataSpec, sides: Sides) -> str | None:
    train, val, test = (len(side) for side in (sides.train, sides.val, sides.test))
    leaks = sides.leaks.removed
    if not train:
        return f"no row is left to train on: {val:,} stand on val, {test:,} on test{_left_out(sides.set_aside, leaks)}"
    if not test and spec.test:
        files = {reference.path for reference in spec.test}
        of_test = [row for row in sides.set_aside if row[0] in files]
        return f"no row of the test files (test=) can be used{_left_out(of_test)}"
    if not test:
        there = f"{train:,} stand on train, {val:,} on val{_left_out(sides.set_aside, leaks)}"
        return f"no row stands on test, where the proof is measured; {there}: {_REMEDY}"
    if not spec.columns.label:
        return None
    learned = np.unique(sides.train.labels)
    asked = np.unique(sides.test.labels[sides.test.labels < spec.n_learned])
    if np.isin(asked, learned).any():
        return None
    counts = f"{len(learned):,} {_classes(learned)} on train, {len(asked):,} on test"
    remedy = "give test= files of the classes on train" if spec.test else f"{_REMEDY} of each class"
    return f"no row on test has a label that a row on train has ({counts}): {remedy}"


def _classes(of: IntArray) -> str:
    return "class" if len(of) == 1 else "classes"


def _left_out(set_aside: Sequence[NamedRow], leaks: int = 0) -> str:
    """', 3 set aside (mostly: the label is null) and 2 removed as leaks', or nothing."""
    words = []
    if set_aside:
        reasons = Counter(reason for *_, reason in set_aside)
        (most, _), *_ = reasons.most_common(1)
        words.append(f"{len(set_aside):,} set aside ({'mostly: ' if len(reasons) > 1 else ''}{most})")
    if leaks:
        words.append(f"{leaks:,} removed as leaks")
    return f", {' and '.join(words)}" if words else ""
