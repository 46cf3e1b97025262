"""Loads a model that takes images, or images and texts, with transformers, in float32 on torch, and reads its passport.

Knows what transformers calls its vision models. Importing it is cheap; loading imports torch and transformers. No
pickle, no code from the model, no network, and no weight that is not in the model's files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from raystore.encoders.model import Model, Options, example_inputs, tensor_digests
from raystore.encoders.passport import ImagePart, Passport, TextPart, digest_of
from raystore.encoders.pixels import Pooling, image_part
from raystore.encoders.residual import read_residuals
from raystore.encoders.source import Source
from raystore.encoders.text import config_digest, quiet
from raystore.encoders.tokenizer import canonical_tokenizer, check_files, check_tokenizer
from raystore.errors import InvalidArguments, ModelUnusable

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Kind:
    """One of transformers' model types. `poolings[0]` is the default; `tokens` stand before the patches."""

    model: str
    processor: str
    poolings: tuple[Pooling, ...] = ("pooler",)
    tokens: int = 0
    any_size: bool = False
    extra: Mapping[str, bool] = field(default_factory=dict)


# A ViT's own pooler is a dense layer that most files lack and transformers would then draw at random.
_NO_POOLER = {"add_pooling_layer": False}
_TOKENS: tuple[Pooling, ...] = ("cls", "mean")
KINDS = {
    "clip": _Kind("CLIPModel", "CLIPImageProcessor", ("projection",)),
    "convnext": _Kind("ConvNextModel", "ConvNextImageProcessor", any_size=True),
    "convnextv2": _Kind("ConvNextV2Model", "ConvNextImageProcessor", any_size=True),
    "deit": _Kind("DeiTModel", "DeiTImageProcessor", _TOKENS, tokens=2, extra=_NO_POOLER),
    "dinov2": _Kind("Dinov2Model", "BitImageProcessor", _TOKENS, tokens=1, any_size=True),
    "mobilenet_v1": _Kind("MobileNetV1Model", "MobileNetV1ImageProcessor", any_size=True),
    "mobilenet_v2": _Kind("MobileNetV2Model", "MobileNetV2ImageProcessor", any_size=True),
    "regnet": _Kind("RegNetModel", "ConvNextImageProcessor", any_size=True),
    "resnet": _Kind("ResNetModel", "ConvNextImageProcessor", any_size=True),
    "swin": _Kind("SwinModel", "ViTImageProcessor"),
    "vit": _Kind("ViTModel", "ViTImageProcessor", _TOKENS, tokens=1, extra=_NO_POOLER),
}
# Tensors that reach no output: a counter of training steps, what masked training puts in place of a patch, and the
# temperature of CLIP's loss.
_UNREAD = ("num_batches_tracked", "mask_token", "logit_scale", "position_ids")
_SHORTEST_TEXT = 3  # tokens: a start, one of the text, an end


def vision_kind(source: Source) -> Literal["image", "text+image"] | None:
    """What the model in this folder takes, by the model type in its config.json; None: no vision model that is known."""
    model_type = _model_type(source)
    if model_type not in KINDS or (source.folder / "modules.json").is_file():
        return None
    return "text+image" if model_type == "clip" else "image"


def load_vision_model(source: Source, options: Options) -> Model:
    """The model in float32, in eval mode, on the CPU, and its passport.

    The vector is the class token of the last layer (ViT, DeiT, DINOv2; 'mean' averages the patches instead), the
    global average of a convolutional model, or CLIP's projection, of length 1.

    Raises:
        ModelUnusable: transformers cannot load it, weights are missing from its files, or its processor is unknown.
        InvalidArguments: options that this model cannot take, all of them.
    """
    kind = KINDS.get(_model_type(source) or "")
    if kind is None:
        raise ModelUnusable(
            model=source.model, found="it is no vision model that is known", advice=f"raystore runs {', '.join(KINDS)}."
        )
    about = _config(source)
    is_clip = kind.model == "CLIPModel"
    positions = (about.get("text_config") or {}).get("max_position_embeddings", 77) if is_clip else 0
    _check(options, kind, positions)
    pooling = cast("Pooling", options.pooling or kind.poolings[0])
    part = image_part(source, options, pooling, kind.processor)
    with quiet():
        model = _load(source, kind)
        tokenizer = _tokenizer(source, model.config.text_config) if is_clip else None
    _check_shape(source, kind, model, part)
    graphs: dict[Any, Any] = {"image": _image_graph(model, kind, part)}
    text, tokenizer_json = None, None
    if tokenizer is not None:
        graphs["text"] = _text_graph(model)
        tokenizer_json = canonical_tokenizer(tokenizer.backend_tokenizer.to_str())
        text = _text_part(tokenizer, tokenizer_json, model.config.text_config, options)
    read = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(_UNREAD)}
    tensors = tensor_digests(read)
    for modality, net in read_residuals(source, tuple(graphs)).items():
        graphs[modality].residual = net
        tensors |= tensor_digests(net.state_dict(), f"residual.{modality}.")
    passport = Passport(
        weights=digest_of(tensors),
        architecture=type(model).__name__,
        config=_config_digest(model.config),
        text=text,
        image=part,
        dim=1,
    )
    passport = passport.model_copy(update={"dim": _dim(source, passport, graphs["image"])})
    return Model(passport=passport, graphs=graphs, tensors=tensors, tokenizer_json=tokenizer_json)


def _model_type(source: Source) -> str | None:
    found = _config(source).get("model_type")
    return found if isinstance(found, str) else None


def _config(source: Source) -> dict[str, Any]:
    try:
        about = json.loads((source.folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, OSError):
        return {}
    return about if isinstance(about, dict) else {}


def _check(options: Options, kind: _Kind, positions: int) -> None:
    problems: list[str] = []
    if options.pooling is not None and options.pooling not in kind.poolings:
        problems.append(f"pooling= is {' or '.join(kind.poolings)} for this model, not '{options.pooling[:40]}'")
    if options.dimensions is not None:
        problems.append("dimensions= is for text models")
    if not positions:
        problems += [
            f"{name}= is for text models" for name in ("max_length", "prompt") if getattr(options, name) is not None
        ]
    elif options.max_length is not None and not _SHORTEST_TEXT <= options.max_length <= positions:
        problems.append(f"max_length= is {_SHORTEST_TEXT} to {positions} tokens for this model")
    if options.resize is not None and not kind.any_size:
        problems.append("resize= is for models that take pictures of any size, and this one takes one size")
    if problems:
        raise InvalidArguments(call="register", problems=problems)


def _load(source: Source, kind: _Kind) -> Any:
    import torch
    import transformers
    from safetensors import SafetensorError

    try:
        model, info = getattr(transformers, kind.model).from_pretrained(
            str(source.folder),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **kind.extra,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError) as error:
        raise ModelUnusable(
            model=source.model,
            found=f"transformers could not load it ({type(error).__name__}: {' '.join(str(error).split())[:200]})",
            advice=f"Check that {kind.model}.from_pretrained(path) loads it.",
        ) from error
    missing = sorted(name for name in info["missing_keys"] if not name.endswith(_UNREAD))
    if missing:
        raise ModelUnusable(
            model=source.model,
            found=f"its files lack {len(missing)} of its weights, '{missing[0]}' first, which would be drawn at random",
            advice="Download or save the model again, whole.",
        )
    return model.float().eval()


def _check_shape(source: Source, kind: _Kind, model: Any, part: ImagePart) -> None:
    """A model of one size is given that size, whatever its processor was saved with."""
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None)
    if kind.any_size or size is None:
        return
    expected = (size, size) if isinstance(size, int) else tuple(size)
    if part.shape != expected:
        raise ModelUnusable(
            model=source.model,
            found=f"its processor makes pictures of {part.shape[0]} x {part.shape[1]} pixels, "
            f"and the model takes {expected[0]} x {expected[1]}",
            advice="Use the processor that was published with the model.",
        )


def _dim(source: Source, passport: Passport, graph: torch.nn.Module) -> int:
    """Of what the model puts out for a black picture."""
    import torch

    example = {name: torch.from_numpy(array) for name, array in example_inputs(passport, "image").items()}
    try:
        with torch.inference_mode():
            return int(graph(**example).shape[1])
    except (ValueError, RuntimeError) as error:
        raise ModelUnusable(
            model=source.model,
            found=f"it cannot be run on what its processor makes ({type(error).__name__})",
            advice="Use the processor that was published with the model, or another resize=.",
        ) from error


def _config_digest(config: Any) -> str:
    """CLIP's two halves each without their defaults, since the whole holds them with."""
    if not hasattr(config, "vision_config"):
        return config_digest(config)
    halves = [config_digest(config.text_config), config_digest(config.vision_config)]
    return digest_of({"model_type": config.model_type, "parts": halves, "projection_dim": config.projection_dim})


def _tokenizer(source: Source, config: Any) -> Any:
    from transformers import AutoTokenizer

    check_files(source, [source.folder])
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source.folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise ModelUnusable(
            model=source.model,
            found=f"its tokenizer could not be loaded ({type(error).__name__})",
            advice="Add the tokenizer files that its authors published.",
        ) from error
    check_tokenizer(source, tokenizer, config.vocab_size)
    return tokenizer


def _text_part(tokenizer: Any, tokenizer_json: str, config: Any, options: Options) -> TextPart:
    return TextPart(
        pooling="projection",
        prompt=options.prompt or "",
        tokenizer=hashlib.sha256(tokenizer_json.encode()).hexdigest(),
        max_length=options.max_length or int(config.max_position_embeddings),
        truncation_side=tokenizer.truncation_side,
        padding_side=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id or 0,
    )


def _image_graph(model: Any, kind: _Kind, part: ImagePart) -> torch.nn.Module:
    """pixel_values (n, 3, h, w) -> (n, dim) unit rows."""
    import torch

    tokens = kind.tokens

    class ImageRows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # CLIP's halves apart, so that an exported image graph does not carry the text model along.
            self.model = model.vision_model if part.pooling == "projection" else model
            self.projection = model.visual_projection if part.pooling == "projection" else torch.nn.Identity()
            self.residual = torch.nn.Identity()

        def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
            found = self.model(pixel_values=pixel_values)
            if part.pooling == "cls":
                rows = found.last_hidden_state[:, 0]
            elif part.pooling == "mean":
                rows = found.last_hidden_state[:, tokens:].mean(dim=1)
            else:
                rows = self.projection(found.pooler_output.flatten(1))
            return torch.nn.functional.normalize(self.residual(rows), p=2.0, dim=1)

    if kind.model == "Dinov2Model":
        _freeze_positions(model, part)
    return ImageRows().eval()


def _freeze_positions(model: Any, part: ImagePart) -> None:
    """The positions interpolated once, for the one size of the passport.

    Traced, the model would interpolate them at every call, and each backend's bicubic is its own.
    """
    import torch

    embeddings = model.embeddings
    height, width = part.shape
    patch_height, patch_width = embeddings.patch_embeddings.patch_size
    patches = torch.zeros(1, (height // patch_height) * (width // patch_width) + 1, model.config.hidden_size)
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(patches, height, width).clone()
    embeddings.register_buffer("frozen_positions", positions, persistent=False)
    embeddings.interpolate_pos_encoding = _frozen_positions.__get__(embeddings)


def _frozen_positions(embeddings: Any, _patches: Any, _height: int, _width: int) -> Any:
    return embeddings.frozen_positions


def _text_graph(model: Any) -> torch.nn.Module:
    """input_ids, attention_mask (n, tokens) -> (n, dim) unit rows, in the space of the images."""
    import torch

    class TextRows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model.text_model
            self.projection = model.text_projection
            self.residual = torch.nn.Identity()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            found = self.model(input_ids=input_ids, attention_mask=attention_mask)
            rows = self.residual(self.projection(found.pooler_output))
            return torch.nn.functional.normalize(rows, p=2.0, dim=1)

    return TextRows().eval()
