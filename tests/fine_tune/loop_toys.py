"""Small real torch models and contents of the kinds that a training meets; a step takes a millisecond."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raystore.encoders.passport import Passport
from raystore.fine_tune.examples.types import Examples, IntArray
from raystore.fine_tune.recipe import Recipe

WORDS, WIDE, DIM = 40, 16, 8


@dataclass(frozen=True)
class ToyTexts:
    """Rows of word numbers of different lengths; 0 pads."""

    rows: tuple[tuple[int, ...], ...]
    modality: Any = "text"

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> IntArray:
        return np.array([len(row) for row in self.rows], dtype=np.int64)

    def inputs(self, rows: IntArray, augment: np.random.Generator | None = None) -> dict[str, Any]:
        chosen = [self.rows[int(i)] for i in rows]
        ids = np.zeros((len(chosen), max(map(len, chosen))), dtype=np.int64)
        for at, words in enumerate(chosen):
            ids[at, : len(words)] = words
        return {"input_ids": ids}

    def take(self, rows: IntArray) -> ToyTexts:
        return ToyTexts(tuple(self.rows[int(i)] for i in rows), self.modality)


@dataclass(frozen=True)
class ToyPictures:
    """Rows of numbers as pictures; `augment` shakes them."""

    pixels: Any
    modality: Any = "image"

    def __len__(self) -> int:
        return len(self.pixels)

    def lengths(self) -> IntArray:
        return np.ones(len(self.pixels), dtype=np.int64)

    def inputs(self, rows: IntArray, augment: np.random.Generator | None = None) -> dict[str, Any]:
        pixels = self.pixels[rows].astype(np.float32)
        if augment is not None:
            pixels = pixels + augment.normal(scale=0.1, size=pixels.shape).astype(np.float32)
        return {"pixel_values": pixels}

    def take(self, rows: IntArray) -> ToyPictures:
        return ToyPictures(self.pixels[rows])


class Towers(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDE, padding_idx=0)
        self.seen = nn.Linear(12, WIDE)
        self.drop = nn.Dropout(dropout)
        self.one = nn.Linear(WIDE, WIDE)
        self.two = nn.Linear(WIDE, DIM)
        self.unused = nn.Linear(2, 2)

    def forward(self, modality: str, inputs: Mapping[str, Tensor]) -> Tensor:
        if modality == "text":
            ids = inputs["input_ids"]
            mask = (ids > 0).float()[:, :, None]
            middle = (self.words(ids) * mask).sum(1) / mask.sum(1).clamp_min(1)
        else:
            middle = self.seen(inputs["pixel_values"])
        rows = self.two(torch.tanh(self.one(self.drop(middle))))
        return nn.functional.normalize(rows, dim=1)


@dataclass
class Toy:
    """What the loop needs of a model."""

    dropout: float = 0.0
    seed: int = 0
    precision: str = "fp32"
    most_tokens: int | None = None  # beyond which memory "runs out", as torch says it
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            self.module = Towers(self.dropout)
        self.forwards: list[int] = []
        self.only_last = False

    @property
    def passport(self) -> Passport:
        text = {"pooling": "mean", "tokenizer": "0" * 64, "max_length": 64}
        return Passport.model_validate(
            {"weights": "0" * 64, "architecture": "Toy", "config": "0" * 64, "text": text, "dim": DIM}
        )

    def embed(self, modality: Any, inputs: Mapping[str, Any]) -> Tensor:
        tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
        size = math.prod(next(iter(tensors.values())).shape[:2]) if modality == "text" else len(tensors["pixel_values"])
        if self.most_tokens is not None and size > self.most_tokens and self.module.training:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        self.forwards.append(size)
        rows: Tensor = self.module(modality, tensors)
        return rows

    def parameters_that_learn(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def learning_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    def groups(self, recipe: Recipe | None = None) -> list[dict[str, Any]]:
        assert recipe is not None
        return [{"params": list(self.module.parameters()), "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}]

    def stage(self, progress: float) -> bool:
        last = self.only_last and progress < 0.5
        changed = last == self.module.one.weight.requires_grad
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(not last or name.startswith("two"))
            if last and not name.startswith("two"):
                parameter.grad = None
        return changed

    def state(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict(dict(state))


def clusters(
    n: int = 120, n_classes: int = 6, *, seed: int = 0, noise: float = 0.3, wrong: float = 0.0, words: int = 9
) -> Examples:
    """Texts whose words are mostly their class's own; `wrong` of them are labelled as another class."""
    chance = np.random.default_rng(seed)
    true = np.arange(n) % n_classes
    own = (WORDS - 1) // n_classes
    rows = []
    for code in true:
        length = int(chance.integers(2, words + 1))
        mine = 1 + code * own + chance.integers(0, own, length)
        other = chance.integers(1, WORDS, length)
        rows.append(tuple(int(w) for w in np.where(chance.random(length) < noise, other, mine)))
    labels = true.copy()
    flipped = chance.choice(n, round(wrong * n), replace=False)
    labels[flipped] = (labels[flipped] + 1 + chance.integers(0, n_classes - 1, len(flipped))) % n_classes
    names = tuple(f"class {c}" for c in range(n_classes))
    ids = tuple(f"row-{i}" + ("-wrong" if labels[i] != true[i] else "") for i in range(n))
    return Examples((ToyTexts(tuple(rows)),), labels.astype(np.int64), names, ids, np.arange(n))


def pairs(n: int = 60, *, seed: int = 0) -> Examples:
    """A picture and a text that belong together, of as many things as there are rows."""
    chance = np.random.default_rng(seed)
    words = tuple(tuple(int(w) for w in chance.integers(1, WORDS, 5)) for _ in range(n))
    pixels = np.stack([np.bincount(row, minlength=WORDS)[:12] for row in words]).astype(np.float32)
    ids = tuple(f"pair-{i}" for i in range(n))
    return Examples((ToyPictures(pixels), ToyTexts(words)), np.arange(n), (), ids, np.arange(n))


def recipe(**changes: Any) -> Recipe:
    given = {
        "classes_per_batch": 6, "per_class": 4, "steps": 30, "learning_rate": 0.01, "temperature": 0.2, "evaluate_rows": 50,
        "micro_tokens": 4096, "precision": "fp32", "noisy_labels": "off", "patience": 99,
    }  # fmt: skip
    return Recipe.model_validate({**given, **changes})
