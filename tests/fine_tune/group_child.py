"""What each of two gloo processes does for test_group.py: the same calls as one process, its results in a file of its own."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from raystore.errors import DiskFull, RaystoreError
from raystore.fine_tune.batches import make_sampler
from raystore.fine_tune.loop.chance import Chance
from raystore.fine_tune.loop.evaluate import embed_all
from raystore.fine_tune.loop.group import Alone, Group, TorchGroup, together
from raystore.fine_tune.loop.micro import Micro
from raystore.fine_tune.loop.step import take_step
from raystore.fine_tune.loop.train import train
from raystore.fine_tune.losses import make_objective
from raystore.fine_tune.recipe import Recipe
from tests.fine_tune.loop_toys import DIM, Toy, clusters, pairs, recipe

CASES: dict[str, dict[str, Any]] = {
    "supcon": {"recipe": {}},
    "cached": {"recipe": {}, "tokens": 20},
    "proxies": {"recipe": {"losses": {"arcface": 1.0, "supcon": 0.5, "proxy-anchor": 0.1}, "scale": 8.0}},
    "pairs": {"recipe": {"losses": "softmax", "per_class": 1, "classes_per_batch": 16}, "pairs": True},
    "short of memory": {"recipe": {}, "most_tokens": 40},
}


def gradients(case: dict[str, Any], group: Group) -> dict[str, torch.Tensor]:
    """Of everything that learns, after one step."""
    chosen: Recipe = recipe(**case["recipe"])
    data = pairs() if case.get("pairs") else clusters()
    model = Toy(most_tokens=case.get("most_tokens") if group.rank == group.world - 1 else None)
    model.module.train()
    objective = make_objective(chosen, 6, DIM)
    batch = make_sampler(data.labels, chosen, n_views=len(data.views)).batch(3)
    micro = Micro(case.get("tokens", 4096), 32)
    step = take_step(model, objective, data, batch, micro, Chance(0, 3, group.rank), group=group)
    named = {**dict(model.module.named_parameters()), **{f"o.{n}": p for n, p in objective.named_parameters()}}
    found = {name: p.grad.clone() for name, p in named.items() if p.grad is not None}
    return {**found, "loss": torch.tensor(step.loss), "rows": step.rows, "each": torch.from_numpy(step.each)}


def trained(group: Group) -> dict[str, torch.Tensor]:
    """The weights after ten steps with looks at val."""
    model = Toy()
    found = train(
        model, clusters(90), clusters(31, seed=1), recipe(steps=10, losses={"supcon": 1.0, "arcface": 0.2}), group=group
    )
    losses = torch.tensor([p.loss for p in found.points if p.loss is not None])
    return {**model.state(), "losses": losses}


def refused(group: Group) -> str:
    def write() -> None:
        if group.rank == 0:
            raise DiskFull(folder="/there", doing="writing a checkpoint")

    try:
        together(group, write)
    except RaystoreError as error:
        return str(error)
    return "nothing"


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=timedelta(seconds=120)
    )
    group = TorchGroup()
    for name, case in CASES.items():
        save_file(gradients(case, group), folder / f"{name}-{rank}.safetensors")
    save_file(trained(group), folder / f"trained-{rank}.safetensors")
    vectors = embed_all(Toy(), clusters(17).views[0], Micro(50, 8), group)
    save_file({"vectors": torch.from_numpy(vectors)}, folder / f"vectors-{rank}.safetensors")
    words = {"refused": refused(group), "first": group.first([rank + 0.5]), "any": [group.any(rank == 1), group.any(False)]}
    (folder / f"words-{rank}.json").write_text(json.dumps(words))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))


__all__ = ["CASES", "Alone", "gradients", "trained"]
