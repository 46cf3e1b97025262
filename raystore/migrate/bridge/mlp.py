"""The residual map: the linear one and a small layer beside it, trained so that neighbours stay neighbours. Torch, on the processor.

Cost: 800 steps of at most 512 pairs, with 384 numbers some 30 s on two idle cores. Deterministic for one number of threads.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from raystore.encoders.bridged import Direction
from raystore.encoders.vector_map import VectorMap
from raystore.migrate.bridge.fidelity import look
from raystore.vectors import Matrix

if TYPE_CHECKING:
    from torch import Tensor

# Which side of a comparison is bridged: rows that true queries look for (forward), or queries of true rows (back).
Side = Literal["rows", "queries"]

HIDDEN = 512  # with 384 numbers in and out 2.2 MB, which a core's cache holds: a query stays under 50 us
_BATCH, _LEAST_BATCH = 512, 64
_STEPS = 800  # however few the pairs: what is kept is chosen by the validation pairs, round by round
_VALIDATED = 1_000  # of the validation pairs, asked after each round
_NEAR = 3.0  # the weight of the cosine beside that of the neighbourhoods
_RATE, _DECAY = 5e-4, 0.01
_LINEAR_RATE = 0.3  # of the linear part, which begins where ridge regression ended
_SHARP = 0.4  # the temperature, in standard deviations of the cosines between different rows


class _Net(NamedTuple):
    weight: Tensor
    bias: Tensor
    inner: Tensor
    inner_bias: Tensor
    outer: Tensor


def residual_mlp(
    start: VectorMap, x: Matrix, y: Matrix, val_x: Matrix, val_y: Matrix, *, side: Side, seed: int, steps: int = _STEPS
) -> VectorMap:
    """The map of kind "mlp" that did best on the validation pairs, of those after each round; it begins as `start`.

    The loss is the mean of two, each as a share of what it was at the start: 1 - cosine, and the divergence of each row's
    neighbourhood in its batch (softmax of cosines) from the true one.

    Args:
        start: a linear map from x's space into y's.
        x, y: (n, d), (n, m) float32 unit rows to fit; val_x, val_y: to choose the round by.

    Source: the residual map of arXiv 2509.23471; the second term is stochastic neighbour embedding's (Hinton and Roweis 2002,
        eq. 4), with the true neighbourhoods as what is to be met.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    x_t, y_t = torch.from_numpy(np.array(x)), torch.from_numpy(np.array(y))
    middle = x_t.mean(0)
    spread = float((x_t - middle).square().sum(1).mean().sqrt()) or 1.0
    d, m = start.weight.shape
    inner = torch.randn((d, HIDDEN), generator=generator) / spread  # a row's hidden numbers begin with variance 1
    net = _Net(
        torch.from_numpy(start.weight.copy()),
        torch.from_numpy(start.bias.copy()),
        inner,
        torch.rand(HIDDEN, generator=generator) - 0.5 - middle @ inner,
        torch.zeros((HIDDEN, m)),
    )
    for part in net:
        part.requires_grad_(True)
    temperature = _temperature(y_t)
    batch = min(max(len(x_t) // 8, _LEAST_BATCH), _BATCH, len(x_t))
    a_round = len(x_t) // batch
    optimiser = torch.optim.AdamW(
        [{"params": net[:2], "lr": _RATE * _LINEAR_RATE, "weight_decay": 0.0}, {"params": net[2:], "lr": _RATE}],
        weight_decay=_DECAY,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _rate(step / steps))
    some = slice(0, _VALIDATED)
    with torch.no_grad():
        first = [max(float(part), 1e-9) for part in _losses(net, x_t[some], y_t[some], temperature, side)]
    kept, best = start, _recall(start, val_x[some], val_y[some], side)
    for _ in range(max(1, round(steps / a_round))):
        order = torch.randperm(len(x_t), generator=generator)
        for begin in range(0, len(order) - batch + 1, batch):
            rows = order[begin : begin + batch]
            parts = _losses(net, x_t[rows], y_t[rows], temperature, side)
            loss = _NEAR * parts[0] / first[0] + parts[1] / first[1]
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        now = VectorMap("mlp", *(part.detach().numpy().copy() for part in net))
        reached = _recall(now, val_x[some], val_y[some], side)
        if reached > best:
            kept, best = now, reached
    return kept


def _recall(map_: VectorMap, x: Matrix, y: Matrix, side: Side) -> float:
    direction: Direction = "forward" if side == "rows" else "back"
    return float(look(direction, map_.apply(x), y, y, np.arange(len(x))).recalls.mean())


def _rate(done: float) -> float:
    """A twentieth of warm-up, then a cosine to nothing."""
    return min(1.0, 20 * done + 0.05) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _forward(net: _Net, x: Tensor) -> Tensor:
    import torch.nn.functional as F  # noqa: N812 - its own documentation's name

    return F.normalize(x @ net.weight + net.bias + F.relu(x @ net.inner + net.inner_bias) @ net.outer, dim=1)


def _losses(net: _Net, x: Tensor, y: Tensor, temperature: float, side: Side) -> tuple[Tensor, Tensor]:
    mapped = _forward(net, x)
    off = (1 - (mapped * y).sum(1)).mean()
    cosines = y @ mapped.T if side == "rows" else mapped @ y.T
    true = _others(y @ y.T / temperature).log_softmax(1)
    found = _others(cosines / temperature).log_softmax(1)
    return off, (true.exp() * (true - found)).sum(1).mean()


def _others(logits: Tensor) -> Tensor:
    """(b, b - 1): without each row's own place."""
    b = len(logits)
    return logits.flatten()[1:].view(b - 1, b + 1)[:, :-1].reshape(b, b - 1)


def _temperature(y: Tensor) -> float:
    some = y[:2_000]
    return max(_SHARP * float(_others(some @ some.T).std()), 1e-4)
