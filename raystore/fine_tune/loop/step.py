"""One gradient of one batch, the same however many chunks and workers it is spread over. Leaves it on the parameters.

Rows are embedded in chunks sorted by length, since padding is most of a step on short texts. Where the chunks together fit the
limits of micro.py their graphs are kept: one forward and one backward pass. Else gradient caching: all chunks are embedded without
graphs, the loss gives the gradient with respect to the rows, and each chunk is embedded again, with the same dropout masks and
crops, and sent backward with its rows' part. That costs one more forward pass, and as much memory as the largest chunk.
Source: Gao et al. 2021, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup (arXiv 2101.06983), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from raystore.fine_tune.batches import Batch, chunks, share
from raystore.fine_tune.loop.chance import Chance
from raystore.fine_tune.loop.group import Group
from raystore.fine_tune.loop.learns import Learns
from raystore.fine_tune.loop.micro import Micro, free_memory, is_out_of_memory, too_little_memory

if TYPE_CHECKING:
    from torch import Tensor

    from raystore.fine_tune.examples.types import Content, Examples
    from raystore.fine_tune.losses import Objective

T = TypeVar("T")
IntArray = npt.NDArray[np.int64]
_SPLIT = 4  # into so many lengths at most, where all chunks fit at once
_KEPT_BYTES = 256 * 2**20  # of inputs between the two passes of gradient caching; the others are made again


class Step(NamedTuple):
    """What a step was: its loss, and of each item of the whole batch its row, label and loss (NaN where it has none)."""

    loss: float
    rows: Tensor  # (b, d) on the device
    labels: IntArray
    each: npt.NDArray[np.float32]
    chunks: int  # through the model, on this worker


class Part(NamedTuple):
    """A chunk: one forward pass. `places` are its items' in the worker's share of the batch, `rows` in the examples."""

    view: int
    places: IntArray
    rows: IntArray
    tokens: int  # padding included


@dataclass
class _Feeder:
    """The chunks' inputs: made when asked for, kept while they are small, the same every time."""

    views: Sequence[Content]
    chance: Chance
    augmented: bool
    _kept: dict[int, dict[str, Any]] = field(default_factory=dict)
    _bytes: int = 0

    def inputs(self, number: int, part: Part) -> dict[str, Any]:
        if number in self._kept:
            return self._kept[number]
        content = self.views[part.view]
        draws = self.augmented and content.modality == "image"
        made = content.inputs(part.rows, self.chance.augment(number) if draws else None)
        size = sum(array.nbytes for array in made.values())
        if self._bytes + size <= _KEPT_BYTES:
            self._kept[number] = made
            self._bytes += size
        return made


def take_step(
    model: Learns,
    objective: Objective,
    examples: Examples,
    batch: Batch,
    micro: Micro,
    chance: Chance,
    *,
    group: Group,
    augmented: bool = False,
    teacher: Sequence[Tensor] | None = None,
    weights: npt.NDArray[np.float32] | None = None,
    scale: float = 1.0,
    cached: bool | None = None,
) -> Step:
    """The gradient of the loss of `batch` (of all workers) on what learns, times `scale`; what was there before is gone.

    Args:
        batch: the whole one, the same on every worker; each embeds its share.
        micro: limits of a forward pass; halved here where memory runs out, and the step is taken again.
        teacher: for each view the (n, t) rows of the examples that the student stays near.
        weights: (n,) of the examples, in the loss.
        scale: for float16, whose small gradients vanish.
        cached: True caches gradients, False keeps graphs; None decides by the limits.

    Raises:
        JobFailed: a single row does not fit into memory.
    """
    own = share(batch, group.rank, group.world)
    batch = whole(batch, group.world)
    while True:
        feeder = _Feeder(examples.views, chance, augmented)
        attempt = _Attempt(model, objective, examples.views, batch, own, micro, feeder, group, cached)
        step = attempt.run(teacher, weights, scale)
        if step is not None:
            return step


@dataclass
class _Attempt:
    """One try at a step. Before each word between the workers, all ask whether memory ran out with any of them."""

    model: Learns
    objective: Objective
    views: Sequence[Content]
    batch: Batch
    own: Batch
    micro: Micro
    feeder: _Feeder
    group: Group
    cached: bool | None

    def __post_init__(self) -> None:
        self.parts, fits = plan_chunks(self.views, self.own, self.micro)
        self.keeps_graphs = fits if self.cached is None else not self.cached

    def run(self, teacher: Sequence[Tensor] | None, weights: npt.NDArray[np.float32] | None, scale: float) -> Step | None:
        """The step, or None where memory ran out and the limits were halved."""
        for parameter in (*self.model.parameters_that_learn(), *self.objective.parameters()):
            parameter.grad = None
        embedded = self._together(self._embed_all)
        if embedded is None:
            return None
        own = self._in_order([rows.detach() for rows in embedded]).requires_grad_()
        gathered = self.group.gather(own)
        step = self._together(lambda: self._backward(embedded, gathered, own, teacher, weights, scale))
        if step is not None:
            self.group.sum_gradients(self.model.parameters_that_learn())
        return step

    def _together(self, work: Callable[[], T]) -> T | None:
        """What `work` gave, or None where memory ran out with any worker; there the limits are halved."""
        done: T | None = None
        hopeless = False
        try:
            done = work()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        if failed := done is None:
            self._free()
            hopeless = not self.micro.halve(*self._largest())
        if self.group.any(hopeless):
            raise too_little_memory()
        return None if self.group.any(failed) else done

    def _largest(self) -> tuple[int, int]:
        """Tokens and images that were held at once, 0 where that was a single row."""
        held = {"text": [0], "image": [0]}
        for part in self.parts:
            size = part.tokens if self.views[part.view].modality == "text" else len(part.rows)
            held[self.views[part.view].modality].append(size if len(part.rows) > 1 or self.keeps_graphs else 0)
        tokens, images = (sum(each) if self.keeps_graphs else max(each) for each in held.values())
        return (0, 0) if self.keeps_graphs and len(self.own.rows) == 1 else (tokens, images)

    def _free(self) -> None:
        for parameter in self.model.parameters_that_learn():
            parameter.grad = None
        free_memory(self.model.device)

    def _embed(self, number: int) -> Tensor:
        part = self.parts[number]
        inputs = self.feeder.inputs(number, part)
        with self.feeder.chance.dropout(number, self.model.device):
            return self.model.embed(self.views[part.view].modality, inputs)

    def _embed_all(self) -> list[Tensor]:
        import torch

        with torch.set_grad_enabled(self.keeps_graphs):
            return [self._embed(number) for number in range(len(self.parts))]

    def _in_order(self, embedded: list[Tensor]) -> Tensor:
        """(b, d) rows of the chunks as they stand in the share."""
        import torch

        places = torch.from_numpy(np.concatenate([part.places for part in self.parts])).to(self.model.device)
        rows = torch.cat(embedded)
        return torch.empty_like(rows).index_copy_(0, places, rows)

    def _backward(
        self,
        graphs: list[Tensor],
        gathered: Tensor,
        own: Tensor,
        teacher: Sequence[Tensor] | None,
        weights: npt.NDArray[np.float32] | None,
        scale: float,
    ) -> Step:
        import torch

        device, batch = self.model.device, self.batch
        sides = None if batch.sides is None else torch.from_numpy(batch.sides).to(device)
        value = self.objective(
            gathered,
            torch.from_numpy(batch.labels).to(device),
            sides=sides,
            teacher=None if teacher is None else taught(teacher, batch).to(device),
            weights=None if weights is None else torch.from_numpy(weights[batch.rows]).to(device),
        )
        # All of `objective` gets its whole gradient here, on every worker alike: it is not summed over them.
        torch.autograd.backward(value.total * scale)
        assert own.grad is not None
        for number, part in enumerate(self.parts):
            rows = graphs[number] if self.keeps_graphs else self._embed(number)
            if rows.requires_grad:  # what learns may be the proxies alone, or one of two towers
                torch.autograd.backward(rows, own.grad[torch.from_numpy(part.places).to(device)])
            graphs[number] = rows.detach()  # its graph may go
        each = value.each.float().cpu().numpy()
        return Step(float(value.total.detach()), gathered.detach(), batch.labels, each, len(self.parts))


def whole(batch: Batch, world: int) -> Batch:
    """The batch that the workers' equal shares make together: without the last rows where it cannot be cut evenly."""
    n = world * (len(batch.rows) // world)
    return Batch(batch.rows[:n], batch.labels[:n], None if batch.sides is None else batch.sides[:n])


def trivial_loss(model: Learns, objective: Objective, batch: Batch, teacher: Sequence[Tensor] | None) -> float:
    """The loss of a batch if all of its rows were one point."""
    import torch

    sides = None if batch.sides is None else torch.from_numpy(batch.sides).to(model.device)
    near = None if teacher is None else taught(teacher, batch).to(model.device)
    return objective.trivial(torch.from_numpy(batch.labels).to(model.device), sides, near)


def plan_chunks(views: Sequence[Content], own: Batch, micro: Micro) -> tuple[list[Part], bool]:
    """The chunks of a worker's share, and whether all of them fit the limits at once (then they are smaller, and pad less)."""
    parts: list[Part] = []
    room = 0.0  # of the limits, that all chunks together take
    for view, content in enumerate(views):
        places = np.flatnonzero(own.sides == view) if own.sides is not None else np.arange(len(own.rows))
        if not len(places) or (own.sides is None and view > 0):
            continue
        rows, lengths = own.rows[places], content.lengths()[own.rows[places]]
        is_text = content.modality == "text"
        limit, at_once = (micro.tokens, len(places)) if is_text else (len(places), micro.images)
        found: list[Part] = []
        for finer in (_SPLIT, 1):
            cut = chunks(lengths, max(1, limit // finer) if is_text else limit, at_once)
            found = [Part(view, places[c], rows[c], int(lengths[c].max()) * len(c)) for c in cut]
            used = sum(part.tokens for part in found) / micro.tokens if is_text else len(places) / micro.images
            if used <= 1:
                break
        room += used
        parts += found
    return parts, room <= 1


def taught(teacher: Sequence[Tensor], batch: Batch) -> Tensor:
    """(b, t) the teacher's rows of a batch."""
    import torch

    if batch.sides is None or len(teacher) == 1:
        return teacher[0][torch.from_numpy(batch.rows)]
    stacked = torch.stack([rows[torch.from_numpy(batch.rows)] for rows in teacher])
    return stacked[torch.from_numpy(batch.sides), torch.arange(len(batch.rows))]
