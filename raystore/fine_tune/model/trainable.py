"""A base model opened for training: what it computes with gradients, what of it learns, and how it is saved.

Opening costs a load (3 to 6 s, most of it importing torch and transformers) and one pass over two tiny inputs. Knows
no loss, no data and no Ray: the loop feeds it arrays and moves the parameters that it names.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raystore.encoders.load import load_model
from raystore.encoders.model import Arrays, Options
from raystore.encoders.passport import Modality, Passport
from raystore.encoders.source import Source
from raystore.errors import InvalidArguments
from raystore.fine_tune.model.adapter import adapter_nets
from raystore.fine_tune.model.modes import make_learning, mode_problems, plain_state
from raystore.fine_tune.model.precision import Arithmetic, autocast, choose_precision, precision_problem
from raystore.fine_tune.model.saving import save_folder
from raystore.fine_tune.model.student import shrink, student_problem
from raystore.fine_tune.model.towers import Towers, checkpoint_problem, save_memory, set_dropout
from raystore.fine_tune.recipe import Recipe


class Trainable:
    """A base model in memory, in float32, made by `open_trainable`.

    `passport` is the base's. `module.train()` and `module.eval()` switch dropout; batch norm stays in eval mode, since
    its running averages would drift with batches of one class. With `precision` "fp16" the loop scales the loss.
    """

    def __init__(
        self,
        *,
        source: Source,
        options: Options,
        recipe: Recipe,
        passport: Passport,
        module: Towers,
        learning: Mapping[str, int],
        tokenizer_json: str | None,
        device: torch.device,
        precision: Arithmetic,
    ) -> None:
        self.source = source
        self.options = options
        self.recipe = recipe
        self.passport = passport
        self.module = module
        self.tokenizer_json = tokenizer_json
        self.device = device
        self.precision: Arithmetic = precision
        self._learning = learning
        self._at_once: frozenset[str] | None = None
        self.stage(0.0)
        self.to(device)

    def embed(self, modality: Modality, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Tensor:
        """(n, dim) float32 unit rows on `device`, with gradients where torch keeps them.

        Args:
            modality: one that the passport names.
            inputs: the passport's inputs of that modality by name, (n, tokens) integers or (n, 3, h, w) float32.
        """
        tensors = self._tensors(inputs)
        with autocast(self.precision, self.device):
            rows = self.module(modality, tensors)
        # Half precision leaves rows a little off the sphere.
        return rows if rows.dtype == torch.float32 else nn.functional.normalize(rows.float(), p=2.0, dim=1)

    def _tensors(self, inputs: Arrays) -> dict[str, Tensor]:
        # torch warns of arrays it may not write to, such as Ray's; only a copy is silent.
        owned = {name: np.require(array, requirements="W") for name, array in inputs.items()}
        return {name: torch.from_numpy(array).to(self.device) for name, array in owned.items()}

    def to(self, device: str | torch.device) -> Trainable:
        """Itself, with the whole module on another device; an optimiser is made after that."""
        self.device = torch.device(device)
        self.module.to(self.device)
        return self

    def parameters_that_learn(self) -> list[nn.Parameter]:
        """Those that learn at present (see `stage`), in one order on every worker."""
        return [p for p in self.learning_parameters().values() if p.requires_grad]

    def learning_parameters(self) -> dict[str, nn.Parameter]:
        """By name, every parameter that learns at some stage."""
        return {name: p for name, p in self.module.named_parameters() if name in self._learning}

    def groups(self, recipe: Recipe | None = None) -> list[dict[str, Any]]:
        """Groups for a torch optimiser, over every stage: a parameter that does not learn yet has no gradient, and
        optimisers leave it alone.

        A layer `k` below the last learns at learning_rate * layer_decay ** k; what stands above the layers learns like the last.
        Biases and norms (vectors) have no weight decay. Source: Howard and Ruder 2018 (arXiv 1801.06146), section 3.2.
        """
        recipe = recipe or self.recipe
        found: dict[tuple[int, bool], list[nn.Parameter]] = {}
        for name, parameter in self.learning_parameters().items():
            below = self._learning[name]
            found.setdefault((below, parameter.ndim > 1), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": recipe.learning_rate * recipe.layer_decay**below,
                "weight_decay": recipe.weight_decay if decays else 0.0,
                "name": f"{below} below the last layer{'' if decays else ', without decay'}",
            }
            for (below, decays), parameters in sorted(found.items())
        ]

    def stage(self, progress: float) -> bool:
        """Whether the set of parameters that learn changed, at this share of the steps.

        Until `recipe.unfreeze_after` only the last layer and what stands above it learn.
        """
        names = frozenset(self._learning)
        if progress < self.recipe.unfreeze_after:
            names = frozenset(name for name in names if self._learning[name] == 0) or names
        changed = names != self._at_once
        if changed:
            for name, parameter in self.module.named_parameters():
                parameter.requires_grad_(name in names)
                if name not in names:
                    parameter.grad = None
        self._at_once = names
        return changed

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU of what learns at some stage, by name: what a checkpoint needs."""
        return {name: p.detach().to("cpu", copy=True).contiguous() for name, p in self.learning_parameters().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` gave. Raises ValueError where names or shapes are another model's."""
        mine = self.learning_parameters()
        if {n: p.shape for n, p in mine.items()} != {n: t.shape for n, t in state.items()}:
            raise ValueError("the state is of another model, or of another recipe")
        with torch.no_grad():
            for name, parameter in mine.items():
                parameter.copy_(state[name])

    def save(self, folder: Path, *, keep_base: float = 0.0) -> None:
        """Write a folder that `find_source` and `load_model` take, and that encodes as this does now.

        A text model becomes a sentence-transformers folder, a vision model a transformers folder with its processor.
        LoRA is merged into the weights. The model itself is not changed.

        Args:
            folder: where to; made if it is not there.
            keep_base: share of the base's weights in what is written. Source: WiSE-FT, Wortsman 2022 (arXiv 2109.01903), eq. 3.

        Raises:
            ModelUnusable: the base's files are gone, or are no longer what was opened.

        Cost: the base is loaded once more.
        """
        save_folder(
            folder,
            source=self.source,
            options=self.options,
            passport=self.passport,
            layers=self.recipe.layers,
            state=plain_state(self.module),
            nets=adapter_nets(self.module),
            keep_base=keep_base,
        )


def open_trainable(source: Source, options: Options, recipe: Recipe, *, device: str | None = None) -> Trainable:
    """The base model, with what the recipe names learning and all else frozen.

    Args:
        source, options: as `encoders.records.open_source` gives them for a registered encoder.
        device: torch's name of one; None is the GPU where torch sees one, else the CPU.

    Raises:
        ModelUnusable: the base cannot be loaded.
        InvalidArguments: what the recipe asks for this model or device cannot do, all of it.
        ExtraNotInstalled: mode lora without peft.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = load_model(source, options)
    graphs = dict(model.graphs)
    problems = mode_problems(graphs, recipe)
    for problem in (
        precision_problem(recipe.precision, where),
        student_problem(graphs, recipe.layers),
        checkpoint_problem(graphs) if recipe.gradient_checkpointing else None,
    ):
        problems += [problem] if problem else []
    if problems:
        raise InvalidArguments(call="fine_tune", problems=problems)
    if recipe.layers is not None:
        for graph in graphs.values():
            shrink(graph, recipe.layers)
    module = Towers(graphs)
    learning = make_learning(module, model.passport, recipe)
    set_dropout(module, recipe.dropout)
    if recipe.gradient_checkpointing:
        save_memory(module)
    return Trainable(
        source=source,
        options=options,
        recipe=recipe,
        passport=model.passport,
        module=module,
        learning=learning,
        tokenizer_json=model.tokenizer_json,
        device=where,
        precision=choose_precision(recipe.precision, where),
    )
