from __future__ import annotations

import logging
import pickle
import struct
import threading
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from raystore.encoders.images import LIMITS, BadImage, ImageLimits, check_image, read_image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")


def picture(width: int = 24, height: int = 16) -> Image.Image:
    """Four flat quarters, so that even JPEG keeps their middles: red, green / blue, white."""
    values = np.zeros((height, width, 3), dtype=np.uint8)
    values[: height // 2, : width // 2] = (255, 0, 0)
    values[: height // 2, width // 2 :] = (0, 255, 0)
    values[height // 2 :, : width // 2] = (0, 0, 255)
    values[height // 2 :, width // 2 :] = (255, 255, 255)
    return Image.fromarray(values)


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0} | options
    image.save(out, kind, **options)
    return out.getvalue()


def reason(data: bytes, limits: ImageLimits = LIMITS) -> str:
    with pytest.raises(BadImage) as caught:
        read_image(data, limits)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def values(data: bytes) -> list[object]:
    """The colours of the first row of a file's picture."""
    image = read_image(data)
    assert image.mode == "RGB"
    return [tuple(int(v) for v in colour) for colour in np.asarray(image)[0]]


def png(width: int, height: int, depth: int, kind: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """A PNG put together by hand, `chunks` before its data."""
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_is_read(kind: str) -> None:
    found = read_image(file_of(picture(), kind))
    assert (found.mode, found.size) == ("RGB", (24, 16))
    corners = [found.getpixel(at) for at in ((3, 3), (20, 3), (3, 12), (20, 12))]
    expected = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    assert np.abs(np.array(corners) - np.array(expected)).max() <= 8


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright_as_its_exif_says(kind: str, orientation: int) -> None:
    turns = [None, 0, 3, 1, 5, 2, 6, 4]  # the inverse of what the orientation asks for
    turn = turns[orientation - 1]
    stored = picture() if turn is None else picture().transpose(Image.Transpose(turn))
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(file_of(stored, kind, exif=exif))
    assert found.size == (24, 16)
    assert np.abs(np.asarray(found, dtype=int)[::15, ::23] - np.asarray(picture(), dtype=int)[::15, ::23]).max() <= 8


def test_a_compressed_tiff_is_turned_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = read_image(file_of(picture(), "TIFF", exif=exif, compression="tiff_lzw"))
    assert (found.size, found.getpixel((15, 0))) == ((16, 24), (255, 0, 0))


def test_an_orientation_in_xmp_is_followed() -> None:
    found = read_image(file_of(picture(), "WEBP", lossless=True, xmp=b'<x tiff:Orientation="6"/>'))
    assert (found.size, found.getpixel((15, 0))) == ((16, 24), (255, 0, 0))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"\0" * 40])
def test_exif_that_cannot_be_read_turns_nothing(exif: bytes) -> None:
    data = file_of(picture(), "PNG")
    with_exif = data[:33] + struct.pack(">I", len(exif)) + b"eXIf" + exif
    with_exif += struct.pack(">I", zlib.crc32(b"eXIf" + exif)) + data[33:]
    assert np.array_equal(read_image(with_exif), picture())


def test_what_stands_in_exif_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    exif = Image.Exif()
    exif[0x013B] = "Ada Lovelace"
    with caplog.at_level(logging.DEBUG):
        for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
            read_image(file_of(picture(), kind, exif=exif))
    assert "Ada" not in caplog.text


def test_an_orientation_out_of_range_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9
    assert np.array_equal(read_image(file_of(picture(), "PNG", exif=exif)), picture())


def test_grey_becomes_three_equal_colours() -> None:
    assert values(file_of(Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint8)))) == [
        (0, 0, 0),
        (100, 100, 100),
        (255, 255, 255),
    ]


def test_one_bit_becomes_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert values(file_of(image)) == [(0, 0, 0), (255, 255, 255)]


def test_alpha_is_dropped_and_the_colours_stay() -> None:
    grey = Image.fromarray(np.array([[[90, 0], [90, 255]]], dtype=np.uint8), "LA")
    colour = Image.fromarray(np.array([[[10, 20, 30, 0], [10, 20, 30, 128]]], dtype=np.uint8))
    assert values(file_of(grey)) == [(90, 90, 90)] * 2
    assert values(file_of(colour)) == [(10, 20, 30)] * 2


@pytest.mark.parametrize("options", [{}, {"transparency": 0}, {"transparency": b"\0\x80"}])
def test_a_palette_becomes_its_colours_transparent_or_not(options: dict[str, object]) -> None:
    image = Image.frombytes("P", (2, 1), b"\0\1")
    image.putpalette([10, 20, 30, 200, 100, 0])
    assert values(file_of(image, "PNG", **options)) == [(10, 20, 30), (200, 100, 0)]


@pytest.mark.parametrize("kind, transparency", [(0, b"\0\7"), (2, b"\0\7\0\7\0\7")])
def test_a_transparent_colour_without_palette_stays_what_it_is(kind: int, transparency: bytes) -> None:
    data = png(1, 1, 8, kind, (b"tRNS", transparency), data=b"\0\7\7\7"[: 4 if kind == 2 else 2])
    assert values(data) == [(7, 7, 7)]


def test_cmyk_is_converted_plainly() -> None:
    image = Image.new("CMYK", (1, 1), (255, 0, 0, 0))
    assert values(file_of(image, "TIFF")) == [(0, 255, 255)]


def test_a_cmyk_jpeg_is_read_as_adobe_writes_it() -> None:
    data = file_of(Image.new("CMYK", (8, 8), (0, 255, 0, 0)), "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(np.array(values(data)) - (255, 0, 255)).max() <= 4


def test_sixteen_bit_grey_is_scaled_and_not_cut() -> None:
    depth = np.array([[0, 256, 257, 32_768, 65_535]], dtype=np.uint16)
    expected = [(v, v, v) for v in (0, 0, 1, 127, 255)]
    assert values(file_of(Image.fromarray(depth))) == expected
    assert values(file_of(Image.fromarray(depth), "TIFF")) == expected


def test_sixteen_bit_colour_keeps_the_high_byte() -> None:
    assert values(png(1, 1, 16, 2, data=b"\0" + struct.pack(">HHH", 0x00FF, 0x8000, 0xFFFF))) == [(0, 128, 255)]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_32_bits_are_refused(mode: str) -> None:
    assert reason(file_of(Image.new(mode, (2, 2)), "TIFF")) == "has 32-bit pixels, which are not read"


def test_lab_pixels_are_refused() -> None:
    assert reason(file_of(Image.new("LAB", (2, 2)), "TIFF")) == "has Lab pixels, which are not read"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_an_animation_is_its_first_frame(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = file_of(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert set(values(data)) == {(255, 0, 0)}
    assert reason(data, ImageLimits(max_frames=2)) == "has 3 frames, at most 2"
    check_image(data, ImageLimits(max_frames=3))


def test_a_gif_of_very_many_frames_is_refused_from_its_headers() -> None:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\2\2\x4c\1\0"
    data = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff" + frame * 2_000 + b";"
    assert reason(data) == "has 2,000 frames, at most 1,000"


def test_a_tiff_whose_pages_lead_in_a_circle_is_one_page() -> None:
    data = bytearray(file_of(Image.new("L", (1, 1)), "TIFF"))
    start = struct.unpack_from("<I", data, 4)[0]
    after = start + 2 + 12 * struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, after, start)
    check_image(bytes(data), ImageLimits(max_frames=1))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_without_its_second_half_is_cut_off(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = file_of(Image.fromarray(noise), kind)
    assert reason(data[: len(data) // 2]) == "is cut off"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_anywhere_is_an_image_or_has_a_reason(kind: str) -> None:
    data = file_of(picture(), kind)
    found = set()
    for length in range(len(data)):
        try:
            read_image(data[:length])
        except BadImage as error:
            found.add(error.reason)
    assert found <= {"is empty", "is no image file", "is cut off", "is damaged", "has 32-bit pixels, which are not read"}
    assert "is cut off" in found


def test_a_damaged_file_is_said_to_be_damaged() -> None:
    data = bytearray(file_of(picture(), "PNG"))
    data[60] ^= 0xFF
    assert reason(bytes(data)) == "is damaged"


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><html><body>404</body></html>", b"hello", b"BMW", b"\0" * 100, b"II"])
def test_what_is_no_image_is_said_to_be_none(data: bytes) -> None:
    assert reason(data) == "is no image file"


@pytest.mark.parametrize(
    "data", [b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', b"\0\0\0\x1cftypheic\0\0", b"8BPS\0\1"]
)
def test_another_format_is_told_which_are_read(data: bytes) -> None:
    assert reason(data) == "is in a format that is not read: JPEG, PNG, GIF, WebP, BMP and TIFF are"


def test_an_empty_file_is_empty() -> None:
    assert reason(b"") == "is empty"


def test_a_file_over_the_limit_of_bytes_is_refused() -> None:
    assert reason(b"\xff\xd8\xff" + b"\0" * 1_000, ImageLimits(max_bytes=1_000)) == "is 1,003 bytes, at most 1,000"


def test_one_pixel_is_an_image() -> None:
    assert values(file_of(Image.new("RGB", (1, 1), (1, 2, 3)))) == [(1, 2, 3)]


def huge(kind: str) -> bytes:
    """A file whose header says 30,000 x 30,000 (WebP: 16,384 x 16,384) and that holds next to nothing."""
    side = 30_000
    if kind == "PNG":
        return png(side, side, 8, 2, data=b"\0" * 1_000)
    if kind == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + b";"
    if kind == "GIF frame":
        return (
            b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"\x2c" + struct.pack("<HHHHB", 0, 0, side, side, 0) + b";"
        )
    if kind == "WEBP":
        return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<IB", 10, 0) + b"\0" * 3 + b"\xff\x3f\0" * 2
    data = bytearray(file_of(Image.new("RGB", (3, 3)), kind))
    if kind == "BMP":
        struct.pack_into("<ii", data, 18, side, side)
    elif kind == "JPEG":
        at = data.index(b"\xff\xc0")
        struct.pack_into(">HH", data, at + 5, side, side)
    else:
        start = struct.unpack_from("<I", data, 4)[0]
        for tag in range(struct.unpack_from("<H", data, start)[0]):
            if struct.unpack_from("<H", data, start + 2 + 12 * tag)[0] in (256, 257):
                struct.pack_into("<HII", data, start + 4 + 12 * tag, 4, 1, side)
    return bytes(data)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_huge_picture_is_refused_from_its_header(kind: str) -> None:
    n_pixels = "268,435,456" if kind == "WEBP" else "900,000,000"
    expected = f"has {n_pixels} pixels, at most 100,000,000 are read"
    assert reason(huge(kind)) == expected
    with pytest.raises(BadImage) as caught:
        check_image(huge(kind))
    assert caught.value.reason == expected


def test_a_huge_frame_in_a_small_canvas_is_refused() -> None:
    assert reason(huge("GIF frame")) == "has a frame or tile of too many pixels, at most 100,000,000 are read"


def test_pillows_own_limit_for_the_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("JPEG", "PNG", "BMP"):
            assert read_image(file_of(picture(), kind)).size == (24, 16)


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_compressed_notes_that_explode_are_refused_or_left_out(name: bytes) -> None:
    body = b"a\0\0" + zlib.compress(b"\0" * 100_000_000)
    data = png(1, 1, 8, 0, (name, body), data=b"\0\7")
    assert len(data) < 200_000
    assert reason(data) == "holds more metadata than is read"


def test_a_bad_image_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BadImage("is empty")))
    assert (type(error), error.reason, str(error)) == (BadImage, "is empty", "is empty")


def test_eight_threads_read_the_same_as_one() -> None:
    files = [file_of(picture(24 + i, 16), kind) for i in range(5) for kind in FORMATS]
    expected = [read_image(data).tobytes() for data in files]
    found: list[list[bytes]] = [[] for _ in range(8)]

    def read(into: list[bytes]) -> None:
        into += [read_image(data).tobytes() for data in files]

    threads = [threading.Thread(target=read, args=(into,)) for into in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 8


SEEDS = [file_of(picture(), kind) for kind in FORMATS]


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.sampled_from([b"\xff\xd8\xff", b"GIF89a", b"II*\0", b"MM\0+"]).flatmap(
    lambda head: st.binary(max_size=200).map(lambda tail: head + tail)
))  # fmt: skip
def test_any_bytes_are_an_image_or_have_a_reason(data: bytes) -> None:
    look_at(data)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_damage_leaves_an_image_or_a_reason(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    look_at(bytes(damaged))


def look_at(data: bytes) -> None:
    try:
        image = read_image(data, ImageLimits(max_pixels=1_000_000))
    except BadImage as error:
        reason = error.reason
    else:
        reason = "is fine"
        assert (image.mode, image.width * image.height <= 1_000_000) == ("RGB", True)
    assert 0 < len(reason) < 100
