"""Image files that hold a mark: in their metadata, their pixels and the bytes around them; and files that are none."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.pictures import png

_SIZE = (48, 36)
_PNG_HEADER = 8 + 25  # signature and IHDR


def marked_files(mark: Callable[[], str]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files that have a vector and files that are set aside, by name; `mark()` gives each a mark of its own."""
    good = {
        "exif.jpg": _photo("JPEG", mark()),
        "exif.webp": _photo("WEBP", mark()),
        "exif.png": _photo("PNG", mark()),
        "tags.tiff": _tags(mark()),
        "notes.png": _notes(mark()),
        "note.gif": _gif(mark()),
        "pixels.png": _pixels("PNG", mark()),
        "pixels.tiff": _pixels("TIFF", mark()),
        "after.jpg": _plain("JPEG") + mark().encode(),
        "after.png": _plain("PNG") + mark().encode(),
        "broken-exif.jpg": _with_app1(_plain("JPEG"), b"Exif\0\0II*\0\xff\xff\xff\x0f" + mark().encode()),
        "upright.jpg": _with_app1(_plain("JPEG"), _xmp(mark())),
    }
    bad = {
        "cut.jpg": _cut(_photo("JPEG", mark())),
        "cut.png": _cut(_with_chunk(_plain("PNG"), b"tEXt", b"Comment\0" + mark().encode())),
        "cut.tiff": _cut(_tags(mark())),
        "damaged.png": _damaged(_with_chunk(_plain("PNG"), b"tEXt", b"Comment\0" + mark().encode())),
        "chunk.png": _with_chunk(png((1, 2, 3)), b"tEXt", b"Comment\0" + mark().encode(), sum_of=b"another"),
        "bomb.png": _bomb(mark()),
        "metadata.png": _with_chunk(png((1, 2, 3)), b"zTXt", b"Comment\0\0" + zlib.compress(b" " * 2**21))
        + mark().encode(),
        "deep.tiff": _deep(mark()),
        "frames.gif": _many_frames(mark()),
        "page.jpg": f"<!doctype html><title>{mark()}</title>".encode(),
        "drawing.png": f'<svg xmlns="http://www.w3.org/2000/svg"><text>{mark()}</text></svg>'.encode(),
        "words.jpg": mark().encode(),
        "starts.jpg": b"\xff\xd8\xff\xe0" + mark().encode() * 3,
        "starts.gif": b"GIF89a" + mark().encode() * 3,
    }
    return good, bad


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _picture() -> Image.Image:
    """Of many colours, so that its compressed pixels are long enough to be cut in the middle."""
    image = Image.new("RGB", _SIZE)
    image.putdata([(5 * x % 256, 7 * y % 256, x * y % 256) for y in range(_SIZE[1]) for x in range(_SIZE[0])])
    return image


def _plain(kind: str) -> bytes:
    return _saved(_picture(), kind)


def _exif(mark: str) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation, so that it is read
    exif[0x010E], exif[0x013B], exif[0x8298] = f"shows {mark}", mark, mark  # description, artist, copyright
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + mark.encode()  # the user's comment
    exif.get_ifd(0x8825)[0x001D] = mark  # a place's date
    return exif


def _photo(kind: str, mark: str) -> bytes:
    more = {"comment": mark, "xmp": _xmp(mark).partition(b"\0")[2]} if kind == "JPEG" else {}
    return _saved(_picture(), kind, exif=_exif(mark), **more)


def _tags(mark: str) -> bytes:
    return _saved(_picture(), "TIFF", description=mark, artist=mark, software=mark, exif=_exif(mark))


def _notes(mark: str) -> bytes:
    notes = PngInfo()
    notes.add_text("Comment", mark)
    notes.add_text("Packed", mark, zip=True)
    notes.add_itxt("XML:com.adobe.xmp", _xmp(mark).partition(b"\0")[2].decode())
    return _saved(_picture(), "PNG", pnginfo=notes)


def _gif(mark: str) -> bytes:
    frames = [Image.new("P", _SIZE, n) for n in range(2)]
    return _saved(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=mark.encode())


def _pixels(kind: str, mark: str) -> bytes:
    """The mark over and over, three letters a pixel: rows of pixels in memory read as the mark."""
    width = len(mark) * 2
    return _saved(Image.frombytes("RGB", (width, 8), mark.encode() * (3 * width * 8 // len(mark))), kind)


def _xmp(mark: str) -> bytes:
    told = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="3" title="{mark}"/></x:xmpmeta>'
    return b"http://ns.adobe.com/xap/1.0/\0" + told.encode()


def _with_app1(jpeg: bytes, body: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


def _with_chunk(data: bytes, kind: bytes, body: bytes, sum_of: bytes | None = None) -> bytes:
    """A PNG with another chunk behind its header; `sum_of` are the bytes whose check sum it gets."""
    total = zlib.crc32(kind + (body if sum_of is None else sum_of))
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", total)
    return data[:_PNG_HEADER] + chunk + data[_PNG_HEADER:]


def _cut(data: bytes) -> bytes:
    return data[: len(data) * 3 // 4]


def _damaged(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 20
    return data[:at] + bytes(255 - byte for byte in data[at : at + 40]) + data[at + 40 :]


def _bomb(mark: str) -> bytes:
    """A PNG whose header says 30,000 by 30,000 pixels."""
    header = struct.pack(">II", 30_000, 30_000) + b"\x08\x02\0\0\0"
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    whole = _with_chunk(png((1, 2, 3)), b"tEXt", b"Comment\0" + mark.encode())
    return whole[:8] + chunk + whole[_PNG_HEADER:]


def _deep(mark: str) -> bytes:
    """A TIFF of pixels that are not read, with the mark in its tags."""
    return _saved(Image.new("F", _SIZE, 0.5), "TIFF", description=mark, artist=mark)


def _many_frames(mark: str) -> bytes:
    """A GIF of 1,001 frames of one pixel each, and the mark in a comment."""
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    comment = b"!\xfe" + bytes([len(mark)]) + mark.encode() + b"\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x4c\x01\0"
    return head + comment + frame * 1_001 + b";"
