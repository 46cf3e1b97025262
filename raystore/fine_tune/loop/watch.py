"""The two ways in which a training goes wrong without an exception: all rows become one point, or it only gets worse.

Both are judged on what every step computes anyway, against what the model was at its start, since some bases put all rows into a
narrow cone (BERT's mean cosine is 0.9) and learn well from there.
Source: effective rank: Roy and Vetterli 2007, eq. 3; collapse in contrastive training: Jing et al. 2022 (arXiv 2110.09348).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from raystore.errors import TrainingCollapsed, TrainingDiverged

if TYPE_CHECKING:
    from torch import Tensor

_PATIENCE = 5  # steps in a row
_NARROW, _OF_START = 0.02, 0.1  # variance below both this and this part of the start's: one point
_NEAR_TRIVIAL, _GONE = 0.01, 0.5  # of the trivial loss, with less than this part of the start's variance
_LINE, _CLASSES = 1.5, 8  # effective rank below this with so many classes in a batch: one line
_WINDOW = 10  # steps whose mean loss is judged
_WORSE = 1.25  # times the worse of start and trivial loss


class Spread(NamedTuple):
    variance: float  # mean squared distance of unit rows from their middle: 1 - |middle|^2
    rank: float | None  # exp of the entropy of the eigenvalues' shares


def spread(rows: Tensor, *, ranked: bool = True) -> Spread:
    """Of (n, d) unit rows. The rank takes the eigenvalues of a matrix of at most 512 (of more rows and dimensions an even sample
    of the rows): some 15 ms on a CPU."""
    import torch

    rows = rows.detach().float()
    centred = rows - rows.mean(dim=0)
    variance = float(centred.square().sum(dim=1).mean())
    if not ranked or not math.isfinite(variance):
        return Spread(variance, None)
    if len(centred) > 512 < centred.shape[1]:
        centred = centred[:: -(-len(centred) // 512)]
    gram = centred.T @ centred if centred.shape[1] <= len(centred) else centred @ centred.T
    values = torch.linalg.eigvalsh(gram.double().cpu()).clamp_min(0)
    shares = values / values.sum().clamp_min(1e-30)
    entropy = -(shares * shares.clamp_min(1e-30).log()).sum()
    return Spread(variance, float(entropy.exp()))


@dataclass
class Watch:
    """Looks at every step; raises where it cannot go on. Its `facts` go into a checkpoint."""

    learning_rate: float
    start: float | None = None  # the first step's variance
    narrow: int = 0  # steps in a row
    flat: int = 0  # ranks in a row
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    first_losses: list[float] = field(default_factory=list)

    def look(
        self, step: int, loss: float, around: Spread, trivial: float, labels: npt.NDArray[np.int64], kept: int
    ) -> None:
        """After the forward pass of step `step` (from 1), before the weights change.

        Args:
            trivial: the loss if all rows were one point; NaN where nothing is known.
            labels: of the batch.
            kept: the step whose weights the last good checkpoint has that outlives this process; 0 where there is none.

        Raises:
            TrainingCollapsed, TrainingDiverged.
        """
        if not math.isfinite(loss) or not math.isfinite(around.variance):
            raise self._diverged(step, "its loss is not a number", kept)
        if self.start is None:
            self.start = around.variance
        self._look_for_one_point(step, loss, around, trivial, kept)
        self._look_for_one_line(step, around, len(np.unique(labels)), kept)
        self._look_for_divergence(step, loss, trivial, kept)

    def gradient_is_not_finite(self, step: int, kept: int) -> TrainingDiverged:
        return self._diverged(step, "its gradient is not a number", kept)

    @property
    def is_well(self) -> bool:
        """Whether a checkpoint of now would be a good one."""
        return self.narrow == self.flat == 0

    def is_one_point(self, variance: float) -> bool:
        """Whether rows of this variance have become nearly one point, against those of the first step."""
        return not variance >= min(_NARROW, _OF_START * (1.0 if self.start is None else self.start))

    def _look_for_one_point(self, step: int, loss: float, around: Spread, trivial: float, kept: int) -> None:
        assert self.start is not None
        one_point = self.is_one_point(around.variance)
        stuck = math.isfinite(trivial) and abs(loss - trivial) <= _NEAR_TRIVIAL * abs(trivial)
        gone = stuck and around.variance < _GONE * self.start
        self.narrow = self.narrow + 1 if one_point or gone else 0
        if self.narrow >= _PATIENCE:
            apart = "its loss is that of a model that tells nothing apart"
            found = "all rows have become nearly one point" if one_point else apart
            raise self._collapsed(step, found, around, kept)

    def _look_for_one_line(self, step: int, around: Spread, n_classes: int, kept: int) -> None:
        if around.rank is None:
            return
        self.flat = self.flat + 1 if n_classes >= _CLASSES and around.rank < _LINE else 0
        if self.flat >= _PATIENCE:
            raise self._collapsed(step, f"the rows of {n_classes} classes have come to lie on one line", around, kept)

    def _collapsed(self, step: int, found: str, around: Spread, kept: int) -> TrainingCollapsed:
        rank = 1.0 if around.rank is None else around.rank
        return TrainingCollapsed(step=step, found=found, variance=around.variance, rank=rank, kept=kept)

    def _look_for_divergence(self, step: int, loss: float, trivial: float, kept: int) -> None:
        if len(self.first_losses) < _PATIENCE:
            self.first_losses.append(loss)
        self.losses.append(loss)
        if len(self.losses) < _WINDOW or step <= _WINDOW:
            return
        began = sum(self.first_losses) / len(self.first_losses)
        worst = max(began, trivial) if math.isfinite(trivial) else 2 * began
        now = sum(self.losses) / len(self.losses)
        if worst > 0 and now > _WORSE * worst:
            than = f", and {trivial:.3g} is that of a model that tells nothing apart" if math.isfinite(trivial) else ""
            raise self._diverged(step, f"its loss rose from {began:.3g} to {now:.3g}{than}", kept)

    def _diverged(self, step: int, found: str, kept: int) -> TrainingDiverged:
        return TrainingDiverged(step=step, found=found, learning_rate=self.learning_rate, kept=kept)

    def facts(self) -> dict[str, Any]:
        return {
            "start": self.start,
            "narrow": self.narrow,
            "flat": self.flat,
            "losses": list(self.losses),
            "first_losses": self.first_losses,
        }

    def load(self, facts: Mapping[str, Any]) -> None:
        self.start, self.narrow, self.flat = facts["start"], int(facts["narrow"]), int(facts["flat"])
        self.losses = deque(facts["losses"], maxlen=_WINDOW)
        self.first_losses = list(facts["first_losses"])
