"""AdamW over what learns, and its state by the parameters' names, so that a checkpoint outlives the order they stand in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raystore.fine_tune.loop.learns import Learns
from raystore.fine_tune.loop.micro import is_out_of_memory, too_little_for_adamw
from raystore.fine_tune.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

_HALVES, _DOUBLES_AFTER, _START_SCALE = 0.5, 1_000, 2.0**14


class Optimiser:
    """The model's groups, each with its own learning rate, and the objective's class vectors with theirs.

    The gradient of either is clipped to the recipe's norm. In float16 the loss is scaled (`scale`), and a step whose gradient
    is not finite is left out and lowers the scale. Source: Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2.
    """

    def __init__(self, model: Learns, objective: nn.Module, recipe: Recipe, *, half: bool = False) -> None:
        import torch

        groups: list[dict[str, Any]] = [dict(group) for group in model.groups(recipe)]
        if proxies := list(objective.parameters()):
            groups.append({"params": proxies, "lr": recipe.proxy_learning_rate, "weight_decay": 0.0})
        self._rates = [float(group["lr"]) for group in groups]
        self._clip = recipe.clip
        self._names = {f"model.{name}": p for name, p in model.learning_parameters().items()}
        self._names |= {f"objective.{name}": p for name, p in objective.named_parameters()}
        self._adam = torch.optim.AdamW(groups)
        self._half = half
        self._scale, self._good = (_START_SCALE if half else 1.0), 0

    @property
    def scale(self) -> float:
        return self._scale

    def step(self, share: float) -> bool:
        """Whether a step was taken, at this share of the learning rates: not where a gradient is not finite.

        Raises JobFailed where its state does not fit into memory, which it takes at the first step.
        """
        learned: dict[str, list[nn.Parameter]] = {"model": [], "objective": []}
        for name, parameter in self._names.items():
            if parameter.grad is not None:
                learned[name.partition(".")[0]].append(parameter)
        finite = self._clipped(learned["model"]) & self._clipped(learned["objective"])
        if finite:
            for group, rate in zip(self._adam.param_groups, self._rates, strict=True):
                group["lr"] = rate * share
            try:
                self._adam.step()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                raise too_little_for_adamw(sum(p.numel() for p in self._names.values())) from None
        self._rescale(finite)
        return finite

    def _clipped(self, parameters: list[nn.Parameter]) -> bool:
        """The gradients unscaled and clipped; whether they are finite."""
        import torch

        if not parameters:
            return True
        if self._scale != 1.0:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], 1 / self._scale)
        return math.isfinite(float(torch.nn.utils.clip_grad_norm_(parameters, self._clip)))

    def _rescale(self, finite: bool) -> None:
        if not self._half:
            return
        self._good = self._good + 1 if finite else 0
        if not finite:
            self._scale = max(1.0, self._scale * _HALVES)
        elif self._good % _DOUBLES_AFTER == 0:
            self._scale /= _HALVES

    @property
    def may_skip(self) -> bool:
        """Whether a gradient that is not finite is a matter of the scale, which can go lower yet."""
        return self._half and self._scale > 1.0

    def tensors(self) -> dict[str, Tensor]:
        """The state by '<parameter>|<what>', on the CPU; parameters that have not learned yet have none."""
        found: dict[str, Tensor] = {}
        for name, parameter in self._names.items():
            for what, value in self._adam.state.get(parameter, {}).items():
                found[f"{name}|{what}"] = value.detach().to("cpu", copy=True).contiguous()
        return found

    def facts(self) -> dict[str, float]:
        return {"scale": self._scale, "good": self._good}

    def load(self, tensors: Mapping[str, Tensor], facts: Mapping[str, float]) -> None:
        """Go on from what `tensors` and `facts` gave."""
        for key, value in tensors.items():
            name, _, what = key.rpartition("|")
            parameter = self._names[name]
            # AdamW counts its steps on the CPU.
            self._adam.state[parameter][what] = value.clone() if what == "step" else value.to(parameter.device, copy=True)
        self._scale, self._good = float(facts["scale"]), int(facts["good"])
