"""Pictures changed at random for training, by stated names; never for encoding. Pillow and NumPy only.

    crop     a part of .5 to 1 of the area, edges 3:4 to 4:3, at the model's size (Szegedy et al. 2015; SimCLR takes .08 to 1)
    flip     left and right, half of the time
    colour   brightness, contrast and saturation, each by .7 to 1.3
    grey     one of five
    blur     three of ten, Gaussian with a radius of .1 to 1.5 pixels

Everything is drawn before anything is changed, so a picture's change follows from the generator's state and its place in the
batch, however many threads there are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance, ImageFilter

from raystore.encoders.passport import ImagePart
from raystore.encoders.pixels import KERNELS, pixels

_LEAST_AREA = 0.5
_EDGES = (3 / 4, 4 / 3)
_COLOUR = (0.7, 1.3)
_GREY, _BLUR = 0.2, 0.3
_RADIUS = (0.1, 1.5)


@dataclass(frozen=True)
class Change:
    """What happens to one picture; a None does not happen."""

    crop: tuple[float, float, float, float] | None = None  # share of the area, edges, place across, place down
    flip: bool = False
    colour: tuple[float, float, float] | None = None  # brightness, contrast, saturation
    grey: bool = False
    blur: float | None = None


def draw(names: Collection[str], generator: np.random.Generator) -> Change:
    """One picture's change. As many numbers are drawn whatever the names, so that one name more leaves the others as they were."""
    area, edges, across, down, flip, bright, contrast, colour, grey, blur, radius = generator.random(11).tolist()
    crop = (_LEAST_AREA + area * (1 - _LEAST_AREA), _EDGES[0] * (_EDGES[1] / _EDGES[0]) ** edges, across, down)
    low, high = _COLOUR
    factors = (low + bright * (high - low), low + contrast * (high - low), low + colour * (high - low))
    return Change(
        crop=crop if "crop" in names else None,
        flip="flip" in names and flip < 0.5,
        colour=factors if "colour" in names else None,
        grey="grey" in names and grey < _GREY,
        blur=_RADIUS[0] + radius * (_RADIUS[1] - _RADIUS[0]) if "blur" in names and blur < _BLUR else None,
    )


def changed(image: Image.Image, change: Change, part: ImagePart) -> npt.NDArray[np.uint8]:
    """(height, width, 3) of `part.shape`, 0 to 255: the RGB picture changed and brought to the model's size.

    Raises:
        BadImage: too long and thin to be resized.
    """
    if change.crop is not None:
        height, width = part.shape
        image = image.resize((width, height), KERNELS[part.kernel], box=_box(image.width, image.height, change.crop))
    else:
        image = Image.fromarray(pixels(image, part))
    if change.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if change.colour is not None:
        bright, contrast, saturation = change.colour
        image = ImageEnhance.Brightness(image).enhance(bright)
        image = ImageEnhance.Contrast(image).enhance(contrast)
        image = ImageEnhance.Color(image).enhance(saturation)
    if change.grey:
        image = image.convert("L").convert("RGB")
    if change.blur is not None:
        image = image.filter(ImageFilter.GaussianBlur(change.blur))
    return np.asarray(image)


def _box(width: int, height: int, crop: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the part, within the picture."""
    area, edges, across, down = crop
    wide = min(float(width), (area * width * height * edges) ** 0.5)
    high = min(float(height), (area * width * height / edges) ** 0.5)
    left, top = across * (width - wide), down * (height - high)
    return left, top, min(float(width), left + wide), min(float(height), top + high)
