"""A training put down into a checkpoint, and taken up from one.

What is saved: the weights that learn, the objective's, AdamW's moments, what is known of each row's loss, what the sampler was told,
and the counts. Nothing of a random generator: see chance.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raystore.fine_tune.loop.checkpoints import Saved
from raystore.fine_tune.loop.evaluate import Look
from raystore.fine_tune.loop.group import together
from raystore.fine_tune.loop.points import Point

if TYPE_CHECKING:
    from torch import Tensor

    from raystore.fine_tune.loop.train import Run

_OBJECTIVE, _ADAM, _SAMPLER = "objective.", "adam.", "sampler."


def saved(run: Run) -> Saved:
    """Where it stands."""
    import torch

    rest = {f"{_OBJECTIVE}{name}": t.detach().cpu().clone() for name, t in run.objective.state_dict().items()}
    rest |= {f"{_ADAM}{name}": tensor for name, tensor in run.optimiser.tensors().items()}
    rest |= {f"{_SAMPLER}{name}": torch.from_numpy(array) for name, array in run.sampler.state().items()}
    # Copies: the run goes on writing into its own.
    rest |= {"losses.mean": torch.tensor(run.losses.mean), "losses.seen": torch.tensor(run.losses.seen)}
    if run.weights is not None:
        rest["row_weights"] = torch.tensor(run.weights)
    facts = {
        "seen": run.seen,
        "seconds": run.seconds,
        "look_s": run.look_s,
        "best_step": run.best_step,
        "best": list(run.best) if run.best else None,
        "first_accuracy": run.first_accuracy,
        "worse": run.worse,
        "micro": [run.micro.tokens, run.micro.images],
        "optimiser": run.optimiser.facts(),
        "watch": run.watch.facts(),
        "points": [point.to_dict() for point in run.points],
    }
    return Saved(run.step, run.model.state(), rest, facts)


def restore(run: Run, found: Saved) -> None:
    """Make a run that has just begun stand where `found` was saved. Raises DiskFull where the best weights had no space."""
    facts, rest = found.facts, found.optimiser

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in rest.items() if name.startswith(prefix)}

    run.model.load_state(found.weights)
    run.objective.load_state_dict(part(_OBJECTIVE))
    run.optimiser.load(part(_ADAM), facts["optimiser"])
    run.sampler.load_state({name: tensor.numpy().copy() for name, tensor in part(_SAMPLER).items()})
    run.losses.mean, run.losses.seen = rest["losses.mean"].numpy().copy(), rest["losses.seen"].numpy().copy()
    run.weights = rest["row_weights"].numpy().copy() if "row_weights" in rest else None
    run.watch.load(facts["watch"])
    run.step = run.kept = found.step
    run.seen, run.worse, run.look_s = facts["seen"], facts["worse"], facts["look_s"]
    run.earlier_s = facts["seconds"]
    run.first_accuracy = facts["first_accuracy"]
    run.micro.tokens, run.micro.images = facts["micro"]
    run.points = [Point.from_dict(point) for point in facts["points"]]
    run.best = Look(*facts["best"]) if facts["best"] else None
    run.best_step = facts["best_step"]
    if run.best is not None and run.best_step > 0:
        _restore_best(run, found)


def _restore_best(run: Run, found: Saved) -> None:
    """The weights of `run.best_step`, which is not the base."""
    if run.best_step == found.step:
        # They are written after the checkpoint that names them, and a kill or a full disk may have come between the two. The
        # next checkpoint will not have them, so they are put in their place now.
        run.best_state = dict(found.weights)
        together(run.group, lambda: run.checkpoints.save_best(found.step, run.best_state))
        return
    best = run.checkpoints.best()
    if best is not None and best[0] == run.best_step:
        run.best_state = best[1]
        return
    # Somebody removed them. Of what is left, the base and the checkpoint, the better one stands for them.
    looks = {p.step: Look(p.val_accuracy, p.val_precision or 0.0) for p in run.points if p.val_accuracy is not None}
    run.best_step = max((step for step in (0, found.step) if step in looks), key=lambda step: looks[step])
    run.best = looks[run.best_step]
    if run.best_step:
        run.best_state = dict(found.weights)
