"""How an encoder is fine-tuned: every number of it, and the named recipes that set them. Pure; knows no torch and no Ray.

A recipe is what a run's record keeps, so that the run can be repeated. What was measured for each stands in docs/fine-tuning.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from raystore.errors import InvalidArguments

LossName = Literal[
    "supcon", "supcon-in", "triplet-hard", "triplet-semi", "multi-similarity", "softmax", "proxy-anchor", "arcface"
]
Mode = Literal["full", "last-n", "lora", "adapter"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
NoisyLabels = Literal["off", "report", "down-weight"]
Augmentation = Literal["crop", "flip", "colour", "grey", "blur"]
LOSSES: tuple[LossName, ...] = get_args(LossName)


class Recipe(BaseModel):
    """Every setting of a fine-tuning. `Recipe()` is SupCon with sane numbers; `named` gives the measured ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # --- what is minimised
    losses: dict[LossName, float] = Field(default={"supcon": 1.0}, description="names and weights; they are summed")
    temperature: float = Field(default=0.05, gt=0, description="of supcon and softmax")
    margin: float = Field(
        default=0.2, ge=0, description="of triplet and proxy-anchor (cosine), of arcface (radians; 0 is softmax)"
    )
    scale: float = Field(default=20.0, gt=0, description="of proxy-anchor, arcface (logits are scale * cosine)")
    matryoshka: tuple[int, ...] = Field(default=(), description="leading dimensions that are trained to stand alone")
    distill: float = Field(default=0.0, ge=0, description="weight of staying near a teacher's vectors")
    # --- batches
    classes_per_batch: int = Field(default=32, ge=2, description="P")
    per_class: int = Field(default=2, ge=1, description="K rows of each")
    balanced: bool = Field(default=True, description="classes equally often; else as often as their rows")
    views: int = Field(
        default=1, ge=1, le=2, description="2: each row stands twice in its batch, with another dropout or crop"
    )
    hard_classes: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of a batch taken from the classes (of pairs: the rows) nearest to the others, by raystore's own index",
    )
    mine_every: int = Field(
        default=0,
        ge=0,
        description="steps between looks for hard_classes with the model as it then is; 0: once, at the start",
    )
    max_tokens: int | None = Field(default=None, ge=4, description="texts are cut there in training; None: what 99% have")
    micro_tokens: int = Field(default=4096, ge=64, description="tokens (padding included) of one forward pass")
    micro_images: int = Field(default=32, ge=1, description="pictures of one forward pass")
    # --- steps
    steps: int | None = Field(default=None, ge=1, description="None: epochs decides")
    epochs: float = Field(default=1.0, gt=0, description="times the training rows are gone through")
    budget_minutes: float | None = Field(
        default=None, gt=0, description="training ends its cosine in this time, with fewer steps where it must"
    )
    pretrain_steps: int = Field(default=0, ge=0, description="on unlabelled rows (two views, InfoNCE) before the labels")
    # --- optimiser
    learning_rate: float = Field(default=5e-5, gt=0, description="of AdamW, at the last layer")
    pretrain_learning_rate: float = Field(default=1e-5, gt=0, description="of AdamW in those steps")
    proxy_learning_rate: float = Field(default=1e-2, gt=0, description="of the class vectors of proxy-anchor and arcface")
    layer_decay: float = Field(default=1.0, gt=0, le=1, description="each layer below the last learns so much slower")
    weight_decay: float = Field(default=0.01, ge=0, description="of matrices; biases and norms have none")
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps; then a cosine to 0")
    clip: float = Field(default=1.0, gt=0, description="of the gradient's norm")
    dropout: float | None = Field(default=None, ge=0, lt=1, description="None: the model's own")
    # --- what learns
    mode: Mode = Field(default="full", description="full, last-n, lora (needs the extra) or adapter")
    last_n: int = Field(default=2, ge=1, description="layers that learn in mode last-n")
    lora_rank: int = Field(default=8, ge=1, description="of mode lora")
    adapter_width: int = Field(default=64, ge=1, description="of mode adapter")
    unfreeze_after: float = Field(
        default=0.0, ge=0, lt=1, description="share of the steps in which only the last layer learns"
    )
    layers: int | None = Field(default=None, ge=1, description="a student of so many of the base's layers, evenly spread")
    keep_base: float = Field(default=0.0, ge=0, lt=1, description="share of the base's weights in the end (WiSE-FT)")
    # --- how
    precision: Precision = Field(default="auto", description="auto: bf16 where the processor or GPU has it, else fp32")
    gradient_checkpointing: bool = Field(default=False, description="activations are computed twice to save memory")
    augment: tuple[Augmentation, ...] = Field(default=(), description="of images, in training alone")
    noisy_labels: NoisyLabels = Field(default="report", description="off, report suspects, or down-weight them too")
    # --- looking
    evaluate_every: int | None = Field(default=None, ge=1, description="steps; None: ten times in all")
    patience: int = Field(default=4, ge=1, description="evaluations without a better kNN accuracy until it stops")
    evaluate_rows: int = Field(default=500, ge=2, description="of val, against so many rows of train times four")
    seed: int = Field(default=0, ge=0, description="same seed, same result on one worker")

    @field_validator("matryoshka", "augment", mode="before")
    @classmethod
    def _one_alone(cls, value: Any) -> Any:
        return (value,) if type(value) in (int, str) else value  # not of a bool

    @field_validator("losses", mode="before")
    @classmethod
    def _one_loss(cls, value: Any) -> Any:
        return {value: 1.0} if isinstance(value, str) else value

    @field_validator("losses")
    @classmethod
    def _some_loss(cls, value: dict[LossName, float]) -> dict[LossName, float]:
        if not value or any(weight <= 0 for weight in value.values()):
            raise ValueError("expected one loss or more, each with a weight above 0")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.per_class * self.views < 2 and set(self.losses) - {"proxy-anchor", "arcface", "softmax"}:
            raise ValueError("per_class times views is 1, and without a second row of a class this loss has no positive")
        if self.mine_every and not self.hard_classes:
            raise ValueError("mine_every is how often hard_classes are looked for, and hard_classes is 0")
        return self

    @property
    def batch_rows(self) -> int:
        return self.classes_per_batch * self.per_class * self.views

    @property
    def changed(self) -> dict[str, str]:
        """By name, in words: every setting that differs from what it is by itself; losses always."""
        usual = Recipe()
        return {name: _words(value) for name, value in self if name == "losses" or value != getattr(usual, name)}


RECIPES: dict[str, Mapping[str, Any]] = {
    "few-shot": {
        "losses": {"supcon": 1.0},
        "learning_rate": 2e-4,
        "layer_decay": 0.75,
        "steps": 120,
        "evaluate_every": 20,
        "patience": 3,
    },
    "many-classes": {
        "losses": {"arcface": 1.0},
        "margin": 0.0,
        "learning_rate": 2e-4,
        "proxy_learning_rate": 3e-3,
        "layer_decay": 0.8,
        "epochs": 4,
        "classes_per_batch": 64,
        "per_class": 1,
        "balanced": False,
    },
    "domain": {
        "losses": {"arcface": 1.0},
        "margin": 0.0,
        "learning_rate": 1e-4,
        "proxy_learning_rate": 3e-3,
        "layer_decay": 0.8,
        "epochs": 2,
        "classes_per_batch": 32,
        "per_class": 4,
        "balanced": False,
    },
    "image": {"losses": {"supcon": 1.0}, "learning_rate": 2e-4, "steps": 150, "augment": ("crop", "flip", "colour")},
}


def named(name: str | None, options: Mapping[str, Any] | None = None, *, call: str = "fine_tune") -> Recipe:
    """The recipe of that name with `options` on top of it.

    Raises:
        InvalidArguments: an unknown name, unknown options (with the nearest known one), values that cannot be; all at once.
    """
    problems: list[str] = []
    chosen = dict(options or {})
    if name is not None and name not in RECIPES:
        problems.append(f"recipe= is one of {', '.join(RECIPES)}, not '{str(name)[:40]}'")
    merged = {**(RECIPES.get(name, {}) if name else {}), **chosen}
    try:
        recipe = Recipe.model_validate(merged)
    except ValidationError as error:
        problems += [_said(each) for each in error.errors(include_input=False, include_url=False)]
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return recipe


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in value.items())
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _said(error: Any) -> str:
    from difflib import get_close_matches

    where = ".".join(str(part) for part in error["loc"]) or "the settings"
    if error["type"] == "extra_forbidden":
        near = get_close_matches(where, Recipe.model_fields, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else f"; there are: {', '.join(Recipe.model_fields)}"
        return f"there is no setting '{where[:40]}'{hint}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}"
