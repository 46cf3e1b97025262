"""A call to fine-tune, checked and made whole: base, data, recipe. Nothing is trained here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystore.encoders.records import check_encoder_name
from raystore.encoders.registry import Encoder
from raystore.errors import InvalidArguments
from raystore.fine_tune.examples.plan import plan_data
from raystore.fine_tune.examples.spec import DataSpec
from raystore.fine_tune.proof.proof import METRICS
from raystore.fine_tune.recipe import Recipe, named

Files = str | Path | Sequence[str | Path]
COLUMNS = ("text", "image", "pair", "label", "parent", "id", "subject", "test", "pool", "split", "out_of_scope")


@dataclass(frozen=True)
class Asked:
    """Everything that decides what comes out. `show`: ids of test rows whose neighbours the proof shows."""

    name: str
    base: Encoder
    data: DataSpec
    recipe: Recipe
    recipe_name: str | None = None
    workers: int = 0
    require: tuple[str, ...] = ()
    show: tuple[str, ...] = ()


def make_asked(
    name: str,
    base: Encoder,
    data: Files,
    *,
    recipe: str | None = None,
    budget_minutes: float | None = None,
    workers: int = 0,
    require: Sequence[str] | None = None,
    show: Sequence[str] | None = None,
    **asked: Any,
) -> Asked:
    """The call, or InvalidArguments with everything that is wrong with it and its data.

    Args:
        asked: what names the data's columns and files (COLUMNS); whatever else is a setting of the recipe.
    """
    call = f"fine_tune('{name}')"
    check_encoder_name(name)
    problems: list[str] = []
    columns = {name: value for name, value in asked.items() if name in COLUMNS}
    numbers = {name: value for name, value in asked.items() if name not in COLUMNS}
    if budget_minutes is not None:
        numbers["budget_minutes"] = budget_minutes
    chosen = _collected(problems, lambda: named(recipe, numbers, call=call))
    if workers < 0:
        problems.append(f"workers= is 0 (this process) or more, not {workers}")
    if unknown := [m for m in require or () if m not in METRICS]:
        problems.append(f"require= names {', '.join(map(repr, unknown))}, expected some of {', '.join(METRICS)}")
    if base.passport.equivalence != "torch-fp32":
        problems.append(
            f"{base.label} is another precision of an encoder ({base.passport.equivalence}); fine-tune that encoder"
        )
    planned = _collected(
        problems, lambda: plan_data(data, passport=base.passport, base=f"encoder {base.label}", call=call, **columns)
    )
    if chosen is not None and planned is not None:
        problems += _apart(chosen, planned)
    if problems or chosen is None or planned is None:
        raise InvalidArguments(call=call, problems=problems)
    return Asked(name, base, planned, chosen, recipe, workers, tuple(require or ()), tuple(show or ()))


def _apart(recipe: Recipe, data: DataSpec) -> list[str]:
    """What the recipe and the data, each right by itself, cannot be together."""
    problems = []
    pictures = data.columns.image is not None
    if recipe.augment and not pictures:
        problems.append(
            f"augment= ({', '.join(recipe.augment)}) is of images, and the data has none (image= names no column)"
        )
    if data.pool and not recipe.pretrain_steps:
        problems.append("pool= is read by pretrain_steps=, which is 0: set so many steps, or leave the pool out")
    if recipe.pretrain_steps and not data.pool:
        problems.append(f"pretrain_steps={recipe.pretrain_steps} trains on unlabelled rows, and pool= names none")
    if recipe.pretrain_steps and pictures and not data.is_pairs and not recipe.augment:
        problems.append("pretrain_steps= compares two views of a picture, and without augment= they are the same")
    if "softmax" in recipe.losses and not data.is_pairs and recipe.per_class * recipe.views < 2:
        problems.append("per_class times views is 1, and single rows have no second one in a batch for the loss 'softmax'")
    return problems


def _collected(problems: list[str], make: Any) -> Any:
    try:
        return make()
    except InvalidArguments as error:
        problems += error.problems
        return None
