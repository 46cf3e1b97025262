"""From the content of an image file to a picture in RGB, or one short reason why there is none. Pillow and NumPy only.

What comes out of what:

    EXIF or XMP orientation     turned upright first
    grey, 1-bit                 the value three times
    grey or colour with alpha   alpha is dropped, the colours stay (a palette's transparent entry too)
    palette                     its colours
    CMYK                        Pillow's plain conversion; JPEGs are read as Adobe writes them, inverted
    16-bit grey                 value // 257 (Pillow's own convert() cuts everything over 255 off)
    16-bit colour               the high byte, as Pillow reads it
    32-bit, float, Lab          refused
    animation, several pages    the first
    embedded colour profile     not applied
    SVG, HEIC, AVIF, ..         refused: JPEG, PNG, GIF, WebP, BMP and TIFF are read

Size and frames are looked at before a pixel is decoded. A reason quotes nothing of the file, so it may stand in a
table or an answer. Files are opened by Pillow's classes for these formats and not by `Image.open`, whose limit on
pixels is one for the whole process and warns below it. Every function here may run in several threads.
"""

from __future__ import annotations

import logging
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

# Pillow writes the values of a TIFF's and an EXIF's tags (names, places) into its log at level DEBUG.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.INFO)

NO_IMAGE = "is no image file"
UNREAD_FORMAT = "is in a format that is not read: JPEG, PNG, GIF, WebP, BMP and TIFF are"
CUT_OFF = "is cut off"
DAMAGED = "is damaged"

_MOST_COUNTED = 100_000  # frames; a hostile file of 50 MB holds four million, seconds of counting
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CONVERTED = frozenset({"1", "L", "LA", "P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr"})
# What Pillow raises over bytes that are not what they claim to be; Warning, for whoever turned warnings into errors.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, AttributeError, Warning),
    *(AssertionError, NotImplementedError, RuntimeError, struct.error, zlib.error, UnidentifiedImageError),
)
_BOMB = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # bytes


class BadImage(ValueError):
    """A file that no image was read from. `reason` ends a sentence: 'is cut off'."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ImageLimits:
    """What is refused unread. A picture of n pixels takes 4 to 12 n bytes of memory while it is read."""

    max_bytes: int = 50_000_000
    max_pixels: int = 100_000_000
    max_frames: int = 1_000


LIMITS = ImageLimits()


def read_image(data: bytes, limits: ImageLimits = LIMITS) -> Image.Image:
    """The file's picture in mode RGB, its first frame, upright.

    Raises:
        BadImage: it is none, is damaged, or is over a limit; see the table above.
    """
    image = _open(data, limits)
    try:
        image.load()
        return _as_rgb(_upright(image))
    except BadImage:
        raise
    except _BOMB:
        raise _too_many_pixels(limits) from None
    except _BROKEN as error:
        raise BadImage(_why(data, error)) from None


def check_image(data: bytes, limits: ImageLimits = LIMITS) -> None:
    """Look at the header alone: format, bytes, pixels, frames. A file that passes may still turn out to be damaged.

    Raises:
        BadImage: as `read_image` does.
    """
    _open(data, limits)


def _open(data: bytes, limits: ImageLimits) -> ImageFile:
    if not data:
        raise BadImage("is empty")
    if len(data) > limits.max_bytes:
        raise BadImage(f"is {len(data):,} bytes, at most {limits.max_bytes:,}")
    reader = _reader(data)
    if reader is None:
        raise BadImage(UNREAD_FORMAT if _is_other_format(data) else NO_IMAGE)
    canvas = _canvas(reader, data)  # Pillow's class would take the memory of the whole canvas at once
    if canvas is not None:
        _check_pixels(*canvas, limits)
    try:
        image = reader(BytesIO(data))
        frames = _count_frames(image, data)
    except _BOMB:
        raise _too_many_pixels(limits) from None
    except _BROKEN as error:
        raise BadImage(_why(data, error)) from None
    _check_pixels(*image.size, limits)
    if frames > limits.max_frames:
        raise BadImage(f"has {frames:,} frames, at most {limits.max_frames:,}")
    return image


def _check_pixels(width: int, height: int, limits: ImageLimits) -> None:
    if width * height > limits.max_pixels:
        raise BadImage(f"has {width * height:,} pixels, at most {limits.max_pixels:,} are read")


def _too_many_pixels(limits: ImageLimits) -> BadImage:
    """For what Pillow itself found too large within a file whose canvas was not: a frame, a tile."""
    return BadImage(f"has a frame or tile of too many pixels, at most {limits.max_pixels:,} are read")


def _reader(data: bytes) -> type[ImageFile] | None:
    """Pillow's class for the format that the first bytes name."""
    found: type[ImageFile] | None = None
    if data.startswith(b"\xff\xd8\xff"):
        found = JpegImageFile
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        found = PngImageFile
    elif data.startswith((b"GIF87a", b"GIF89a")):
        found = GifImageFile
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        found = WebPImageFile
    elif data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        found = TiffImageFile
    elif data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        found = BmpImageFile
    return found


def _is_other_format(data: bytes) -> bool:
    """HEIC, AVIF, JPEG XL and 2000, ICO, PSD, SVG."""
    magic = (b"\xff\x0a", b"\0\0\0\x0cJXL ", b"\0\0\0\x0cjP  ", b"\0\0\x01\0", b"8BPS")
    return data[4:8] == b"ftyp" or data.startswith(magic) or b"<svg" in data[:1000]


def _canvas(reader: type[ImageFile], data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP or GIF from its header; None where that does not say."""
    if reader is GifImageFile and len(data) >= 10:
        width, height = struct.unpack_from("<HH", data, 6)
        return width, height
    if reader is not WebPImageFile or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _count_frames(image: ImageFile, data: bytes) -> int:
    """Frames or pages, from headers alone; Pillow decodes its way through a GIF and parses every page of a TIFF."""
    if isinstance(image, GifImageFile):
        return _gif_frames(data)
    if isinstance(image, TiffImageFile):
        return _tiff_pages(data)
    return int(getattr(image, "n_frames", 1))


def _gif_frames(data: bytes) -> int:
    """Image descriptors in the chain of blocks, as far as it goes."""
    frames, at = 0, 13 + _gif_colours(data[10])
    while at + 10 < len(data) and frames < _MOST_COUNTED:
        if data[at] == 0x2C:
            frames += 1
            at += 11 + _gif_colours(data[at + 9])
        elif data[at] == 0x21:
            at += 2
        else:
            break
        while at < len(data) and data[at]:  # sub-blocks, each after its length, up to one of length 0
            at += 1 + data[at]
        at += 1
    return frames


def _gif_colours(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _tiff_pages(data: bytes) -> int:
    """Directories in the chain of offsets; one that leads back ends it."""
    end = "<" if data.startswith(b"II") else ">"
    big = struct.unpack_from(f"{end}H", data, 2)[0] == 43
    count_type, offset_type, entry = ("Q", "Q", 20) if big else ("H", "I", 12)
    seen: set[int] = set()
    at = struct.unpack_from(f"{end}{offset_type}", data, 8 if big else 4)[0]
    while at and at not in seen and len(seen) < _MOST_COUNTED:
        seen.add(at)
        after = at + struct.calcsize(f"{end}{count_type}")
        if after > len(data):
            break
        after += entry * int(struct.unpack_from(f"{end}{count_type}", data, at)[0])
        if after + struct.calcsize(f"{end}{offset_type}") > len(data):
            break
        at = struct.unpack_from(f"{end}{offset_type}", data, after)[0]
    return len(seen)


def _upright(image: ImageFile) -> Image.Image:
    """Turned as its EXIF or XMP says; one that cannot be read says nothing."""
    if isinstance(image, TiffImageFile):
        return image  # Pillow turned it while loading
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except _BROKEN:
        return image
    return image if turn is None else image.transpose(turn)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):
        grey = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
        return grey.convert("RGB")
    if image.mode == "RGBa":  # premultiplied
        image = image.convert("RGBA")
    if image.mode not in _CONVERTED:
        kind = {"LAB": "Lab"}.get(image.mode, "32-bit")
        raise BadImage(f"has {kind} pixels, which are not read")
    image.info.pop("transparency", None)  # convert() would look for a colour to stand for it, and warn
    return image.convert("RGB")


def _why(data: bytes, error: BaseException) -> str:
    message = str(error).lower()
    if "decompressed data too large" in message or "too much memory used in text" in message:
        return "holds more metadata than is read"
    return CUT_OFF if "truncated" in message or _lacks_its_end(data) else DAMAGED


def _lacks_its_end(data: bytes) -> bool:
    """Whether the bytes stop before what their format ends with. A TIFF has no end."""
    reader = _reader(data)
    if reader is PngImageFile:
        return b"IEND" not in data[-1000:]
    if reader is JpegImageFile:
        return b"\xff\xd9" not in data[-1000:]
    if reader is GifImageFile:
        return not data.rstrip(b"\0").endswith(b";")
    if reader is WebPImageFile:
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    return reader is BmpImageFile and int.from_bytes(data[2:6], "little") > len(data)
