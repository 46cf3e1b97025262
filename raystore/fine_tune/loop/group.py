"""The workers of one training, as the training knows them: alone, or processes joined by torch.distributed. Knows no Ray.

Every worker embeds its share of a batch, gathers the rows of all, and takes the loss of the whole batch, so all of them have the
same loss. The gradient that reaches a worker's own rows is therefore whole already, and `gather` hands back just that part of it,
without a sum; what each worker's weights then get is summed. So k workers have exactly one process's gradient.
Cost: a batch's rows and the gradients of what learns over the network, each once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from raystore.errors import JobFailed, RaystoreError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

T = TypeVar("T")
ANOTHER_STOPPED = "another worker stopped"
_BUCKET_NUMBERS = 2**23  # of one sum over the workers: 32 MiB


class Group(Protocol):
    """Every method but the attributes is called by all workers, in the same order."""

    rank: int
    world: int

    def gather(self, rows: Tensor) -> Tensor:
        """(world * b, ...) of every worker's (b, ...), first worker first. Its gradient goes back to the own rows alone."""

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Each gradient becomes the sum over the workers; those that none of them has stay None."""

    def first(self, values: Sequence[float]) -> list[float]:
        """The first worker's values, for all: what hangs on a clock or on a rounding is decided once."""

    def any(self, flag: bool) -> bool:
        """Whether any worker says so."""


class Alone:
    """One process."""

    rank = 0
    world = 1

    def gather(self, rows: Tensor) -> Tensor:
        return rows

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        pass

    def first(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def any(self, flag: bool) -> bool:
        return flag


class TorchGroup:
    """The processes of torch.distributed's default group, which is up: gloo on CPUs, nccl on GPUs."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """`device`: where the tensors lie that are sent; nccl takes those of its GPU alone."""
        import torch.distributed as dist

        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self._device = device
        self._gather = _make_gather()

    def gather(self, rows: Tensor) -> Tensor:
        gathered: Tensor = self._gather(rows)
        return gathered

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        import torch
        import torch.distributed as dist

        listed = list(parameters)
        # A worker whose share held pictures alone has no gradient of the text tower; one that none has must stay without,
        # since AdamW decays whatever has a gradient, be it 0.
        held = torch.tensor([p.grad is not None for p in listed], dtype=torch.int32, device=self._device)
        dist.all_reduce(held)
        learned = [p for p, count in zip(listed, held.tolist(), strict=True) if count]
        for bucket in _buckets(learned):
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            flat = torch.cat([g.reshape(-1) for g in gradients])
            dist.all_reduce(flat)
            for parameter, summed in zip(bucket, torch.split(flat, [g.numel() for g in gradients]), strict=True):
                parameter.grad = summed.view_as(parameter).clone()

    def first(self, values: Sequence[float]) -> list[float]:
        import torch
        import torch.distributed as dist

        shared = torch.tensor(list(values), dtype=torch.float64, device=self._device)
        dist.broadcast(shared, src=0)
        told: list[float] = shared.tolist()
        return told

    def any(self, flag: bool) -> bool:
        import torch
        import torch.distributed as dist

        shared = torch.tensor([int(flag)], dtype=torch.int32, device=self._device)
        dist.all_reduce(shared)
        return bool(shared.item())


def together(group: Group, work: Callable[[], T]) -> T:
    """What `work` gave, or, where it raised a RaystoreError with any worker, an error with all of them: none is left waiting."""
    done: list[T] = []
    problem: RaystoreError | None = None
    try:
        done.append(work())
    except RaystoreError as error:
        problem = error
    if group.any(problem is not None):
        raise problem or JobFailed(job="fine-tuning", reason=ANOTHER_STOPPED, advice="Its error says why.")
    return done[0]


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> list[list[torch.nn.Parameter]]:
    """The parameters in order, in lists of one dtype and at most so many numbers (one that is larger stands alone)."""
    found: list[list[torch.nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        fits = found and found[-1][0].dtype == parameter.dtype and size + parameter.numel() <= _BUCKET_NUMBERS
        if not fits:
            found.append([])
            size = 0
        found[-1].append(parameter)
        size += parameter.numel()
    return found


def _make_gather() -> Any:
    """The autograd function behind `TorchGroup.gather`; made here so that importing this file imports no torch."""
    import torch
    import torch.distributed as dist

    class Gather(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, rows: Tensor) -> Tensor:
            context.n = len(rows)
            parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
            dist.all_gather(parts, rows.contiguous())
            return torch.cat(parts)

        @staticmethod
        def backward(context: Any, *gradients: Any) -> Any:
            own = dist.get_rank() * context.n
            return gradients[0][own : own + context.n]

    return Gather.apply
