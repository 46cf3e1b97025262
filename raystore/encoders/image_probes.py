"""Pictures that lie on every machine: a dozen image files for the golden check, and any number to compare backends on.

Made by integer arithmetic, so the pixels are the same with every NumPy and Pillow; only the two JPEGs are kept as bytes,
because encoders differ and decoders are to be checked. Nothing is made at import.
"""

from __future__ import annotations

import base64
from functools import cache
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

# 72 x 56 pixels: a disc on a gradient, and coloured squares whose EXIF says: turn by 90 degrees.
_JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEYIx8lJCIfIiEmKzcvJik0KSEiMEExNDk7Pj4+JS5ESUM8SDc9"
    "Pjv/2wBDAQoLCw4NDhwQEBw7KCIoOzs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozv/wAARCAA4AEgDASIAAhEB"
    "AxEB/8QAGQAAAwEBAQAAAAAAAAAAAAAAAAMFBAYC/8QAJRAAAgIBAwMEAwAAAAAAAAAAAAIBAxEEEmExQVEGIXGxFDKh/8QAGgEBAQADAQEAAAAAAAAA"
    "AAAABQYCAwQAB//EACkRAAEEAgEBBgcAAAAAAAAAAAMAAQIEESESBRMxQZGh8QZRYXGBweH/2gAMAwEAAhEDEQA/AKS28jktJi2jVt5I+Q189EBU0tHL"
    "aTFtNumWHje3TtHkyBTJYJ2Y22khhZmy62pZLThYmfgdDsuN0TGfMC0siIxGIjgctuYxIy/w63Hc9/bS7hR+i9LaOS0y2LGN6e2OsHhbSbuUSVZ8J+6Y"
    "AFpNpU1tAxLbyAe40lEGlwiWjUtJi2jlt5KiQ1IiAqldm5oiJ6zgrV2REREdIOcqv2tDeJyVkuzGYkoehDjgj+OvJdvYdyprbyOW0mJaNS0ekNdogKmt"
    "pmZ9ljL4kWtpne/da0x5Jnr449jB378+mN/pMVQbW9bQMSWgRrjTEQaXCLaOW0mLaOS0qJDUiICprbybtLrIxCPOMdJkiJaNW3kzrGJWJzh7pGFZpNhd"
    "KtvI1bTnq9U6fq8xwO/LsaMS8/Q4/Wg8cvB8/jHn/F3CpurdmshY2rOWnx2EraTVtGpbyTN6wS0TlLu8G+SYBWaLKmtoEvVa2NLo7b8xlF9sxmM9v7gD"
    "jHUmRsxXrV2tTk0Cvt96ZcWto5bQAfkzKfFBk5beRqWgBplFkmKDJyWjltADRKLJMUGTltGrbyAGmUWSgoMpXqLXbaKtMre7zubDdo6Zj5+gABStBmEy"
    "gutvzvTz4Yb0X//Z"
)
_TURNED_JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/4QAiRXhpZgAATU0AKgAAAAgAAQESAAMAAAABAAYAAAAAAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEY"
    "Ix8lJCIfIiEmKzcvJik0KSEiMEExNDk7Pj4+JS5ESUM8SDc9Pjv/2wBDAQoLCw4NDhwQEBw7KCIoOzs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7"
    "Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozv/wAARCAA4AEgDASIAAhEBAxEB/8QAGwAAAgMBAQEAAAAAAAAAAAAAAAMCBAUBBgf/xAA5EAABAwIEAwUEBwkAAAAA"
    "AAABAgMRAAQFEiExEyJBFBVRcdEGQmGhRJGSk6LB8CMkQ1NVgaPh8f/EABoBAAIDAQEAAAAAAAAAAAAAAAAEAQMGAgX/xAAwEQABAgUCBAQEBwAAAAAA"
    "AAABAAIDERIhMQRBEzJRYQUiI/AzQoGRBhQlUnGCsf/aAAwDAQACEQMRAD8A+Upwy6H0V77s16i0fYatGW1vNpWhtKVJKgCCBsakMQtTs7+E+lZ7lg86"
    "8t1CJStRUkyNQaXLqsrQQqdJfTHiE5leX2Sb+2cuL5x1ptTiFRCkiQdB1q/hgFtbKQ6Q2orJhWhiBTbZaLZhLLhyrTMiJ6zUX2jcuBbYzACJ2oqmJJlh"
    "DDxWGbzlu4nm2bKN+jtBb4XPlmcusbVyxZLLpUtJSCmJIin27ZYzZxGbamrAcSAPGaKrSTLXA+obO6e7rj0ONFKSCT0FJaYKVAkEQasIag6b00Nq3I06"
    "0B0rBNMfO7rFRopyS0N1fKiokFcCsdOGOD3kfWatodS2gNkKlIjT4UwOE+7865whM+NV1TwsjAdCB/SjU7efT+0ktTPFWXBAB8aa2jInLTUNEpEbVIjh"
    "GCJ60TTMN7KvQM4/zDafzZtnullO01NCM/Knf401tvtMgcuX+9TLPYxxTzzyxt+tqJ7Jpr21ef43T/O2O6UGVNftFxlG8UwOtrHDSFZlaCR1NTQ6LxQt"
    "wjJn96ZiNfyp3dZYBf4ubhc+XLExr41E+qZD7+vZ23sd1XGGvn3kfWfSirAxgD6N+P8A1RUzKZDo24WYNOgqwi2C0hUnUTVlNk2d0fM1VW+604pCVQEk"
    "gCBVIdVyLHaaNC15LfCRw3DmnaY+lSFrLCy2ACB409i3F6kuLkEHLy/r41YtLNu6YS86jMtUyZI6x0pV6peHvJatzkSpOYiJ1k+PlQHTNIymoUWHFiHT"
    "6cUxxzO2JHNe5ue32UXk93ZeHzcSZz67f9qVso4m4WHQEpSM8o0M7dfOn4Y33pxO1jicOMvSJmdvIU7EbZGFWybi0TwnFLCCZnSCevkKKr0nKZEVrYn5"
    "d94/7tp5F84kMJbuHow5lV20VKW3sF6jXT86Q1ib106i2WhsJeUG1FIMgHTTWp4fdP4let2d0viMuTmTlAmASNRruK2H8FsrW1duWWMrrKFOIVnUYUBI"
    "ME0F1NnZTXEEFwh6nzPOCOm3TeeyrJ9mbU/xHvtD0orLGP4mNrn/ABp9KK6pidU2IOr3ePf0VLjvfzl/aNb9rZMuWzS1soUpSASSkEkxRRVWo8oElmPx"
    "YBp4MIwfLMnFtuyy8Rcdtr5xplxbaExCUKIA0B2rTwO3Re2i3LhCXlBwpCnBmIEDTXzoooiWhAjsmNf5PBYUVtnEMvvcXuoY8ju8W/Zf3fPmzcLlzRET"
    "HnUPZ4rxC/WzdqVcNhoqCHTnAMjWD5miigfAnurtNfwXinmkb78x3WxjNkxZYQ/c2zDbDqMuVxtISoSoAwR8DXnMOvbt/ErVl26ecbceQlaFOEhQJAII"
    "6iiiiBeGSVf4OeJonufczOf4C96nBMO/p9t9yn0ooopOt3VeS2PElzFf/9k="
)


@cache
def image_probes() -> tuple[bytes, ...]:
    """Twelve image files: PNGs in every kind of pixel, from 1 x 1 to 500 x 375, and two JPEGs, one to be turned.

    Never edited: the golden vectors of every registered encoder belong to exactly these pictures, in this order.
    """
    return (
        _png(_gradient(64, 48)),
        _png(_gradient(40, 160)[::-1]),
        _png(_stripes(300, 20)),
        _png(_squares(128, 128)),
        _png(_noise(96, 96)),
        _png(np.full((1, 1, 3), (200, 100, 50), dtype=np.uint8)),
        _png(_discs(250, 250)[..., 0]),  # grey
        _png(np.dstack([_discs(500, 375), _gradient(500, 375)[..., 0]])),  # with alpha
        _png(_gradient(224, 224)[..., 2] // 64, palette=True),
        _png(_gradient(320, 240).astype(np.uint16)[..., 0] * 257),  # 16-bit grey
        base64.b64decode(_JPEG),
        base64.b64decode(_TURNED_JPEG),
    )


def sample_images(n: int, seed: int = 0) -> list[bytes]:
    """`n` different pictures, PNG and JPEG in turn: a gradient, up to six shapes and some noise; 48 to 320 pixels wide.

    The same at every call with the same NumPy. Cost: about 5 ms each.
    """
    return [_sample(np.random.default_rng([seed, i]), "PNG" if i % 2 == 0 else "JPEG") for i in range(n)]


def _sample(random: np.random.Generator, kind: str) -> bytes:
    height, width = (int(edge) for edge in random.integers(48, 321, 2))
    y, x = np.mgrid[0:height, 0:width]
    first, last = random.integers(0, 256, (2, 3))
    share = (x * int(random.integers(0, 2)) + y)[..., None] / (height + width)
    picture = first + (last - first) * share
    for _ in range(int(random.integers(1, 7))):
        (top, left), edge = random.integers(0, (height, width)), int(random.integers(8, 120))
        if random.integers(0, 2):
            inside = (y - top) ** 2 + (x - left) ** 2 < edge * edge // 4
        else:
            inside = (abs(y - top) < edge // 2) & (abs(x - left) < edge)
        picture[inside] = random.integers(0, 256, 3)
    picture = picture + random.integers(-1, 2, picture.shape) * int(random.integers(0, 25))
    return _file(Image.fromarray(picture.clip(0, 255).astype(np.uint8)), kind)


def _grid(width: int, height: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    return y, x


def _rgb(red: npt.NDArray[np.int64], green: npt.NDArray[np.int64], blue: npt.NDArray[np.int64]) -> Pixels:
    return np.stack([red % 256, green % 256, blue % 256], axis=-1).astype(np.uint8)


def _gradient(width: int, height: int) -> Pixels:
    y, x = _grid(width, height)
    return _rgb(x * 255 // width, y * 255 // height, 255 - (x + y) * 255 // (width + height))


def _stripes(width: int, height: int) -> Pixels:
    y, x = _grid(width, height)
    return _rgb((x // 5 % 2) * 255, (x // 11 % 2) * 180 + y, x * 0 + 30)


def _squares(width: int, height: int) -> Pixels:
    y, x = _grid(width, height)
    return _rgb(((x // 16 + y // 16) % 2) * 220, (x // 32 % 2) * 255, (y // 24 % 3) * 100)


def _noise(width: int, height: int) -> Pixels:
    y, x = _grid(width, height)
    number = (y * width + x + 1) * 2_654_435_761 % 2**32  # Knuth's multiplicative hash
    number = (number ^ number >> 15) * 40_503 % 2**32
    return _rgb(number >> 24, number >> 16, number >> 8)


def _discs(width: int, height: int) -> Pixels:
    y, x = _grid(width, height)
    near = [(x - width * a // 8) ** 2 + (y - height * b // 8) ** 2 for a, b in ((2, 3), (5, 5), (6, 2))]
    red, green, blue = (np.where(d < (width // r) ** 2, 240, 35) for d, r in zip(near, (4, 5, 7), strict=True))
    return _rgb(red, green, blue)


def _png(values: npt.NDArray[np.uint8] | npt.NDArray[np.uint16], *, palette: bool = False) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(values))
    if palette:
        image = Image.frombytes("P", image.size, image.tobytes())
        image.putpalette([250, 240, 20, 20, 40, 200, 180, 20, 90, 10, 160, 60])
    return _file(image, "PNG")


def _file(image: Image.Image, kind: str) -> bytes:
    out = BytesIO()
    image.save(out, kind, compress_level=1)  # of PNG alone
    return out.getvalue()
