"""What waits for an encoder: the items of one caller, or a slice of them after the other where they are more than it takes at once.

Knows deadlines; no encoder, HTTP or Ray.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from raystore.encoders.items import Encoded, Item
from raystore.errors import DeadlineMissed
from raystore.serve.answer.deadline import present_until
from raystore.serve.answer.timer import Timer
from raystore.serve.spec.app import Batch
from raystore.vectors import mark

_CHARS_A_TOKEN = 4  # of a text that was not tokenized yet; English has 4 to 5
_IMAGE_TOKENS = 200  # a ViT of 224 pixels in patches of 16 has 197

Slices = deque[tuple[list[int], int]]  # places of items, and the tokens of the longest


class Job:
    """Items of one caller; `told` is called once, from the encoder's thread."""

    def __init__(self, items: Sequence[Item], tokens: int, told: Callable[[], object]) -> None:
        self.items = items
        self.tokens = tokens  # of the longest
        self.until = present_until()
        self.since = self.queued = time.monotonic()
        self.waited_s = 0.0  # for its batch
        self._told = told
        self._encoded: Encoded | None = None
        self._error: BaseException | None = None

    @property
    def left(self) -> float | None:
        """Seconds that its caller still waits; None: for ever."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())

    @property
    def done(self) -> bool:
        return self._encoded is not None or self._error is not None

    def missed(self) -> DeadlineMissed:
        given = (self.until or self.since) - self.since
        return DeadlineMissed(deadline_s=max(0.0, round(given, 3)), stage="before it was encoded")

    def finish(self, encoded: Encoded) -> None:
        self._encoded = encoded
        self._told()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._told()

    def outcome(self, timer: Timer | None) -> Encoded:
        if timer is not None:
            timer.waited(self.waited_s)
        if self._error is not None:
            # The encoder's own sentence would tell what was left of the time when it was asked.
            late = isinstance(self._error, DeadlineMissed) and self.until is not None
            raise self.missed() if late else self._error
        assert self._encoded is not None
        return self._encoded


class LargeJob(Job):
    """Items beyond a batch's limits: `items` are one slice of them after the other, and each waits behind all who came before it."""

    def __init__(
        self,
        items: Sequence[Item],
        slices: Slices,
        told: Callable[[], object],
        fingerprint: str,
        wait: Callable[[Job], None],
    ) -> None:
        """
        Args:
            wait: puts it behind all that wait.
        """
        self._whole = items
        self._slices = slices
        self._wait = wait
        self._fingerprint = fingerprint
        self._parts: list[Encoded] = []
        super().__init__((), 0, told)
        self._begin_slice()

    def _begin_slice(self) -> None:
        self._places, self.tokens = self._slices.popleft()
        self.items = [self._whole[place] for place in self._places]

    def finish(self, encoded: Encoded) -> None:
        """The slice is encoded; `told` is called after the last."""
        places = np.array(self._places)
        problems = {self._places[place]: reason for place, reason in encoded.problems.items()}
        self._parts.append(Encoded(encoded.vectors, places[encoded.places], problems))
        if self._slices:
            self._begin_slice()
            self.queued = time.monotonic()  # what it waits for is the sum of its waits
            self._wait(self)
            return
        vectors = mark(np.concatenate([part.vectors for part in self._parts]), self._fingerprint)
        problems = {place: reason for part in self._parts for place, reason in part.problems.items()}
        super().finish(Encoded(vectors, np.concatenate([part.places for part in self._parts]), problems))


def slices_of(items: Sequence[Item], most: int, limits: Batch) -> Slices:
    """Places of all items, each slice within the limits or one item alone. Like lengths stand together: padding counts."""
    tokens = [tokens_of(item, most) for item in items]
    slices: Slices = deque()
    taken: list[int] = []
    for place in sorted(range(len(items)), key=tokens.__getitem__):
        n = len(taken) + 1
        if taken and (n > limits.max_items or n * tokens[place] > limits.max_tokens):
            slices.append((taken, tokens[taken[-1]]))
            taken = []
        taken.append(place)
    slices.append((taken, tokens[taken[-1]]))
    return slices


def tokens_of(item: Item, most: int) -> int:
    """About how many the model reads of it; of a text `most`."""
    return min(len(item) // _CHARS_A_TOKEN + 2, most) if isinstance(item, str) else _IMAGE_TOKENS
