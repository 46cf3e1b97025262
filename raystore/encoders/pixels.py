"""From a picture to the numbers a vision model reads: resize, crop, rescale, normalise. Pillow and NumPy only.

Says what transformers' image processors on Pillow say, value by value, for the processors named here; reads which one
from a model's preprocessor_config.json. Knows no model and no file format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from raystore.encoders.images import BadImage
from raystore.encoders.model import Options
from raystore.encoders.passport import ImagePart, Kernel
from raystore.encoders.source import Source
from raystore.errors import InvalidArguments, ModelUnusable

Pooling = Literal["cls", "mean", "pooler", "projection"]
Edges = tuple[int, int]  # height, width

KERNELS: dict[Kernel, Image.Resampling] = {name: Image.Resampling[name.upper()] for name in get_args(Kernel)}
SMALLEST, LARGEST = 32, 2048  # pixels, of options.resize
# A picture of 1 x 100,000 pixels would become one of 256 x 25,600,000 before its middle is cut out.
MAX_RESIZED_PIXELS = 25_000_000

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
_WARPED_FROM = 384  # pixels: from this edge on, ConvNeXT's processor warps instead of cutting the middle out


@dataclass(frozen=True)
class _Processor:
    """What one of transformers' processors does where its JSON is silent. Source: its class in transformers."""

    size: dict[str, int]
    resample: int
    crop: int | None = None
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF
    square: bool = False  # a size of one number is a square, else the shorter edge
    crop_pct: float | None = None


_SQUARE, _SHORTEST = {"height": 224, "width": 224}, {"shortest_edge": 224}
_CLIP = _Processor(size=_SHORTEST, resample=3, crop=224, mean=_CLIP_MEAN, std=_CLIP_STD)
_MOBILENET = _Processor(size={"shortest_edge": 256}, resample=2, crop=224)
_PROCESSORS = {
    "BitImageProcessor": _CLIP,
    "CLIPImageProcessor": _CLIP,
    "ConvNextImageProcessor": _Processor(size={"shortest_edge": 384}, resample=3, crop_pct=224 / 256),
    "DeiTImageProcessor": _Processor(size={"height": 256, "width": 256}, resample=3, crop=224, square=True),
    "MobileNetV1ImageProcessor": _MOBILENET,
    "MobileNetV2ImageProcessor": _MOBILENET,
    "SiglipImageProcessor": _Processor(size=_SQUARE, resample=3),
    "ViTImageProcessor": _Processor(size=_SQUARE, resample=2, square=True),
}


def pixels(image: Image.Image, part: ImagePart) -> npt.NDArray[np.uint8]:
    """(height, width, 3) of `part.shape`, 0 to 255: the RGB picture resized and cut to its middle.

    What is smaller than the crop stands in the middle of black.

    Raises:
        BadImage: so long and thin that resizing it would take more than MAX_RESIZED_PIXELS.
    """
    height, width = _resized(image.height, image.width, part)
    if height * width > MAX_RESIZED_PIXELS:
        raise BadImage(f"is {image.width:,} by {image.height:,} pixels, too long and thin to be resized")
    if part.resize != "none":
        image = image.resize((width, height), KERNELS[part.kernel])
    if part.crop is not None:
        top, left = (height - part.crop[0]) // 2, (width - part.crop[1]) // 2
        image = image.crop((left, top, left + part.crop[1], top + part.crop[0]))  # black where there is no image
    return np.asarray(image)


def _resized(height: int, width: int, part: ImagePart) -> Edges:
    if part.resize == "none":
        return height, width
    if part.resize == "exact":
        return part.size
    short, long = min(height, width), max(height, width)
    long = int(part.size[0] * long / short)  # cut, not rounded, as transformers does
    return (long, part.size[0]) if width <= height else (part.size[0], long)


def normalised(stack: npt.NDArray[np.uint8], part: ImagePart) -> npt.NDArray[np.float32]:
    """(n, h, w, 3) of 0 to 255 -> (n, 3, h, w) float32, (value * rescale - mean) / std by channel; a new array."""
    n, height, width, _ = stack.shape
    found = np.empty((n, 3, height, width), dtype=np.float32)
    for channel in range(3):
        of = found[:, channel]
        np.multiply(stack[..., channel], np.float32(part.rescale), out=of)
        of -= np.float32(part.mean[channel])
        of /= np.float32(part.std[channel])
    return found


def image_part(source: Source, options: Options, pooling: Pooling, processor: str) -> ImagePart:
    """What the model's preprocessor_config.json asks for, with the caller's edge and kernel.

    Args:
        processor: the class to assume where the JSON names none, as older ones do.

    Raises:
        ModelUnusable: no such file, another processor, or one that leaves pictures of different sizes.
        InvalidArguments: a resize or a kernel that cannot be.
    """
    _check(options)
    about = _preprocessor(source)
    name = str(about.get("image_processor_type") or about.get("feature_extractor_type") or processor)
    name = name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    known = _PROCESSORS.get(name)
    if known is None:
        raise ModelUnusable(
            model=source.model,
            found=f"its image processor is '{name[:60]}'",
            advice=f"raystore runs {', '.join(_PROCESSORS)}.",
        )
    try:
        return _part(about, known, options, pooling)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        reason = str(error) if type(error) is ValueError else "its values make no sense"
        raise ModelUnusable(
            model=source.model,
            found=f"its preprocessor_config.json asks for what raystore does not do: {reason}",
            advice="Choose a model whose processor resizes or crops to one size.",
        ) from error


def _check(options: Options) -> None:
    problems: list[str] = []
    if options.resize is not None and not SMALLEST <= options.resize <= LARGEST:
        problems.append(f"resize= is {SMALLEST} to {LARGEST} pixels")
    if options.kernel is not None and options.kernel not in KERNELS:
        problems.append(f"kernel= is one of {', '.join(KERNELS)}, not '{options.kernel[:40]}'")
    if problems:
        raise InvalidArguments(call="register", problems=problems)


def _preprocessor(source: Source) -> Mapping[str, Any]:
    """The JSON, from within processor_config.json where that has one (a whole CLIP processor is saved so)."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        about = _read(source, source.folder / name)
        if name == "processor_config.json":
            about = about.get("image_processor")
        if isinstance(about, dict) and about:
            return about
    raise ModelUnusable(
        model=source.model,
        found="it has no preprocessor_config.json, so nobody knows how its pictures are to be resized",
        advice="Add the file its authors published, or save one: AutoImageProcessor.from_pretrained(..).save_pretrained(path).",
    )


def _read(source: Source, path: Path) -> Any:
    if not path.is_file():
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        about = None
    if not isinstance(about, dict):
        raise ModelUnusable(
            model=source.model, found=f"its {path.name} cannot be read", advice="Download or save the model again."
        )
    return about


def _part(about: Mapping[str, Any], known: _Processor, options: Options, pooling: Pooling) -> ImagePart:
    """Raises ValueError with a sentence's end for what is not done here."""

    def said(key: str, default: Any) -> Any:  # null is as good as silent
        return default if about.get(key) is None else about[key]

    if said("do_pad", False):
        raise ValueError("it pads pictures")
    resize, size = _resize(said("size", known.size), known) if said("do_resize", True) else ("none", (0, 0))
    crop = _edges(said("crop_size", known.crop)) if said("do_center_crop", known.crop is not None) else None
    if known.crop_pct is not None and resize != "none":
        if resize != "shortest" or crop is not None:
            raise ValueError("it gives more than the shorter edge")
        resize, size, crop = _convnext(options.resize or size[0], float(said("crop_pct", known.crop_pct)))
    elif options.resize is not None:
        resize, size, crop = _scaled(options.resize, resize, size, crop)
    if crop is None and resize != "exact":
        raise ValueError("it leaves pictures of different shapes different")
    normal = said("do_normalize", True)
    return ImagePart(
        pooling=pooling,
        resize=resize,
        size=crop if resize == "none" and crop is not None else size,
        kernel=_kernel(options, said("resample", known.resample)),
        crop=crop,
        rescale=float(said("rescale_factor", 1 / 255)) if said("do_rescale", True) else 1.0,
        mean=_three(said("image_mean", known.mean)) if normal else (0.0, 0.0, 0.0),
        std=_three(said("image_std", known.std)) if normal else (1.0, 1.0, 1.0),
    )


Resize = Literal["exact", "shortest", "none"]


def _resize(size: Any, known: _Processor) -> tuple[Resize, Edges]:
    if isinstance(size, int) and not known.square:
        return "shortest", (size, size)
    if isinstance(size, dict) and set(size) == {"shortest_edge"}:
        return "shortest", (int(size["shortest_edge"]), int(size["shortest_edge"]))
    return "exact", _edges(size)


def _edges(size: Any) -> Edges:
    """224, [224, 224] or {"height": 224, "width": 224}."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, (list, tuple)) and len(size) == 2:
        return int(size[0]), int(size[1])
    if isinstance(size, dict) and set(size) == {"height", "width"}:
        return int(size["height"]), int(size["width"])
    raise ValueError("its sizes are neither a height and a width nor the shorter edge")


def _convnext(edge: int, crop_pct: float) -> tuple[Resize, Edges, Edges | None]:
    """Source: ConvNextImageProcessorPil.resize."""
    if edge >= _WARPED_FROM:
        return "exact", (edge, edge), None
    return "shortest", (int(edge / crop_pct),) * 2, (edge, edge)


def _scaled(edge: int, resize: Resize, size: Edges, crop: Edges | None) -> tuple[Resize, Edges, Edges | None]:
    """A square of `edge` for the model, with as much of the picture around it cut off as before."""
    if crop is None or resize == "none":
        return resize, (edge, edge), crop and (edge, edge)
    return resize, (int(size[0] * edge / crop[0]), int(size[1] * edge / crop[1])), (edge, edge)


def _kernel(options: Options, resample: Any) -> Kernel:
    for name, number in KERNELS.items():
        if name == options.kernel or (options.kernel is None and number == resample):
            return name
    raise ValueError("its resample is no kernel of Pillow's")


def _three(values: Any) -> tuple[float, float, float]:
    if isinstance(values, (int, float)):
        values = [values] * 3
    if len(values) != 3:
        raise ValueError("its mean and std are not those of three colours")
    return float(values[0]), float(values[1]), float(values[2])
