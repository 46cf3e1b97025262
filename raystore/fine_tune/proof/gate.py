"""The gate before an encoder is live: what stands against it, in sentences. Pure; live.py is what keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raystore.errors import InvalidArguments, listed
from raystore.fine_tune.proof import words
from raystore.fine_tune.proof.changes import Change
from raystore.fine_tune.proof.proof import METRICS, Proof

TOLERANCE = 0.01


@dataclass(frozen=True)
class Fall:
    """A stated metric that fell."""

    metric: str
    name: str  # as people call it, 'P@10'
    change: Change
    against: str = ""  # what it was compared with, where that is not the base: the label of what the name means

    def __str__(self) -> str:
        c, m = self.change, self.metric
        beside = f" against {self.against}, which the name means" if self.against else ""
        return f"{self.name} fell from {words.value(m, c.before)} to {words.value(m, c.after)} ({words.difference(m, c)}){beside}"


@dataclass(frozen=True)
class Judgement:
    """What stands against an encoder; false where it may be live. `unmeasured`: required figures that its rows cannot say."""

    falls: tuple[Fall, ...] = ()
    unmeasured: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.falls or self.unmeasured)

    @property
    def said(self) -> tuple[str, ...]:
        """A sentence each."""
        lacking = (f"{name} is required, and these rows cannot say it" for name in self.unmeasured)
        return (*map(str, self.falls), *lacking)


def weigh(proof: Proof, require: Sequence[str] = (), standing: Proof | None = None) -> Judgement:
    """What fell against the base and, by `standing`, against what the name means; and what is required and was not measured.

    Args:
        require: names of metrics that must not fall; none is what the proof states.
        standing: the same rows, from the encoder that the name means to this one.

    Raises:
        InvalidArguments: a name is no metric.
    """
    measured = [name for name in require if name in proof.metrics or name not in METRICS]
    names = measured if require else None
    falls = judge(proof, names)
    if standing is not None:
        falls += [replace(fall, against=standing.before) for fall in judge(standing, names)]
    return Judgement(tuple(falls), tuple(name for name in require if name in METRICS and name not in proof.metrics))


def judge(proof: Proof, require: Sequence[str] | None = None, *, tolerance: float = TOLERANCE) -> list[Fall]:
    """The metrics that fell, the largest fall first; none where the encoder may be live.

    A metric fell where the 95% interval of its difference lies wholly below 0; where there are too few rows for an interval,
    where it is lower by more than `tolerance`.

    Args:
        require: names of metrics that must not fall; None is what the proof states.

    Raises:
        InvalidArguments: a name is no metric, or was not measured.
    """
    names = list(proof.stated if require is None else require)
    problems = []
    if unknown := [name for name in names if name not in METRICS]:
        problems.append(f"there is no figure {listed(unknown)}; there are: {', '.join(METRICS)}")
    if missing := [name for name in names if name in METRICS and name not in proof.metrics]:
        problems.append(f"{listed(missing)} was not measured; the proof has: {', '.join(proof.metrics)}")
    if problems:
        raise InvalidArguments(call="judge a proof", problems=problems)
    fell = [Fall(name, words.name_of(name, proof.k), c) for name in names if _fell(c := proof.metrics[name], tolerance)]
    return sorted(fell, key=lambda fall: fall.change.value)


def _fell(c: Change, tolerance: float) -> bool:
    return c.fell if c.low is not None else c.value < -tolerance
