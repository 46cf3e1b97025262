"""A fine-tuned model as a folder that raystore, sentence-transformers and transformers load. Knows files; trains nothing.

The base is loaded anew and given the learned weights, so what training changed about the model besides (dropout, frozen
parts, low-rank additions) reaches no file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from torch import Tensor, nn

from raystore.encoders.card import read_card
from raystore.encoders.load import load_model
from raystore.encoders.model import Model, Options
from raystore.encoders.passport import Modality, Passport
from raystore.encoders.residual import FILE, write_residuals
from raystore.encoders.source import Source
from raystore.encoders.text import quiet
from raystore.errors import ModelUnusable
from raystore.fine_tune.model.adapter import as_dense, last_place
from raystore.fine_tune.model.layers import transformer_of
from raystore.fine_tune.model.student import shrink, shrink_model

# Of a vision model's folder: its processor, its tokenizer, its licence. The rest is written by transformers.
_COPIED = ("*.json", "*.txt", "*.model", "LICEN[SC]E*")
_WRITTEN = ("config.json", "*.safetensors.index.json", "*.bin.index.json")


def save_folder(
    folder: Path,
    *,
    source: Source,
    options: Options,
    passport: Passport,
    layers: int | None,
    state: Mapping[str, Tensor],
    nets: Mapping[Modality, nn.Module],
    keep_base: float,
) -> None:
    """Write the folder; see `Trainable.save`.

    Args:
        passport: of the base as it was opened.
        layers: of the student, None for all of the base's.
        state: tensors named `<modality>.<name in the graph>`, on the CPU.
        nets: residual nets that come after the pooling.
    """
    # transformers draws what a file lacks and nothing reads (a pooler): the same every time, and not from training's chance.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        base = load_model(source, options)
    if base.passport != passport:
        raise ModelUnusable(
            model=source.model,
            found="its files are not those that the fine-tuning began with",
            advice="Put the old files back, and run it again: it goes on where it was.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    learned = 1.0 - keep_base
    blended = {m: _blended_net(net, getattr(base.graphs[m], "residual", None), learned) for m, net in nets.items()}
    for modality, graph in base.graphs.items():
        if layers is not None:
            shrink(graph, layers)
        _blend(graph, {n.partition(".")[2]: t for n, t in state.items() if n.startswith(f"{modality}.")}, learned)
    with quiet():
        if passport.image is None:
            _save_text(folder, base, blended)
        else:
            _save_vision(folder, source, base, layers, blended)
    _write_readme(folder, source)


def _blend(graph: nn.Module, state: Mapping[str, Tensor], learned: float) -> None:
    """The graph's weights become base + learned * (state - base)."""
    with torch.no_grad():
        for name, tensor in graph.state_dict().items():
            if tensor.is_floating_point() and not name.startswith("residual."):
                tensor.copy_(_between(tensor, state[name], learned))


def _between(base: Tensor, learned: Tensor, share: float) -> Tensor:
    """base + share * (learned - base), and exactly `learned` where nothing of the base is kept."""
    return learned if share == 1.0 else torch.lerp(base, learned.to(base.dtype), share)


def _blended_net(net: nn.Module, base: nn.Module | None, learned: float) -> dict[str, Tensor]:
    """The residual net's tensors between the base's and its own. A base without one is a net that puts out nothing."""
    state = {name: t.detach().to("cpu", torch.float32, copy=True) for name, t in net.state_dict().items()}
    before = {} if base is None else base.state_dict()
    if not before:
        before = {name: torch.zeros_like(t) if name.startswith("up.") else t for name, t in state.items()}
    return {name: _between(before[name], t, learned) for name, t in state.items()}


def _save_text(folder: Path, base: Model, nets: Mapping[Modality, Mapping[str, Tensor]]) -> None:
    chain: Any = base.graphs["text"].chain
    if "text" in nets:
        place = last_place(list(chain))
        for dense in reversed(as_dense(nets["text"])):
            chain.insert(place, dense)
    chain.save_pretrained(str(folder), create_model_card=False, safe_serialization=True)


def _save_vision(
    folder: Path, source: Source, base: Model, layers: int | None, nets: Mapping[Modality, Mapping[str, Tensor]]
) -> None:
    model = transformer_of(base.graphs["image"])
    whole = _whole_clip(source, base, layers) if "text" in base.graphs else model
    whole.save_pretrained(str(folder))
    for path in {path for pattern in _COPIED for path in source.folder.glob(pattern) if path.is_file()}:
        if not any(path.match(pattern) for pattern in _WRITTEN):
            shutil.copyfile(path, folder / path.name)
    if nets:
        write_residuals(folder, nets)


def _whole_clip(source: Source, base: Model, layers: int | None) -> Any:
    """CLIP's two graphs as the one model they came from."""
    from transformers import CLIPModel

    whole: Any = CLIPModel.from_pretrained(
        str(source.folder), dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    for modality, half in (("text", "text"), ("image", "vision")):
        model = getattr(whole, f"{half}_model")
        if layers is not None:
            shrink_model(model, layers, getattr(whole.config, f"{half}_config"))
        graph: Any = base.graphs[cast("Modality", modality)]
        model.load_state_dict(graph.model.state_dict())
        projection = whole.text_projection if half == "text" else whole.visual_projection
        projection.load_state_dict(graph.projection.state_dict())
    return whole


def _write_readme(folder: Path, source: Source) -> None:
    """A model card with what is known; a base named by a path of this machine is not named."""
    about: dict[str, Any] = {"tags": ["sentence-similarity", "feature-extraction"]}
    if not Path(source.model).is_absolute() and ":" not in source.model:
        about["base_model"] = source.model
    licence = read_card(source.folder).licence
    if licence and not licence.startswith("see "):
        about["license"] = licence
    said = "Fine-tuned with a contrastive loss by raystore.\n"
    if (folder / FILE).is_file():
        said += f"\nIts vectors go through the small net in {FILE}, which raystore applies; other libraries do not.\n"
    text = f"---\n{yaml.safe_dump(about, sort_keys=True)}---\n\n{said}"
    (folder / "README.md").write_text(text, encoding="utf-8")
