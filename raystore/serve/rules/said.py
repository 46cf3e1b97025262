"""What rules say: that a request may pass, that it may not, and what became of an answer. What a hook takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Refuse:
    """Of a before hook: 403 with this sentence. It is shown to who asked: write nothing of the input into it."""

    sentence: str


@dataclass(frozen=True)
class Route:
    """Of a before hook: the deployment of this name answers."""

    to: str


@dataclass(frozen=True)
class Passed:
    """A request that the rules before the head let through; `route` is the deployment that is to answer in place of this one."""

    fired: tuple[str, ...] = ()
    route: str | None = None
    taken: tuple[Callable[[], None], ...] = field(default=(), repr=False, compare=False)

    def give_back(self) -> None:
        """Let the request not count in the quotas that it took from: it was not answered after all."""
        for give_back in self.taken:
            give_back()


@dataclass(frozen=True)
class Said:
    """What was said of one item: `label` by a head of classes, `labels` by one of many labels, `value` by one of numbers.

    `why` says why it abstained: 'threshold' (of the head), or a rule. `actions` are those that rules allow, None where none says;
    an answer that abstained allows nothing. `confidence` is None where a rule gave the label.
    """

    label: str | None = None
    labels: tuple[str, ...] | None = None
    value: float | None = None
    confidence: float | None = None
    abstained: bool = False
    why: str | None = None
    actions: tuple[str, ...] | None = None
    review: bool = False
    fired: tuple[str, ...] = ()
