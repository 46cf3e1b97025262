from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystore.errors import BodyTooLarge
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.spec.app import Limits
from raystore.serve.wire.content import is_image, read_items, read_rows
from tests.pictures import data_url, gif, png

LIMITS = Limits(max_items=6, max_chars=20, max_image_bytes=5_000, max_image_pixels=10_000, max_image_frames=3)
RED = png((200, 0, 0))


def read(*strings: str) -> list[str | bytes]:
    return read_items({f"body.input[{i}]": string for i, string in enumerate(strings)}, LIMITS)


def problems(*strings: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequestError) as raised:
        read(*strings)
    return list(raised.value.problems)


def test_a_data_url_becomes_the_files_bytes_and_anything_else_stays_a_text() -> None:
    url = data_url(RED)
    for spelling in (url, url.replace("data:image/png", "DATA:IMAGE/PNG"), url.replace(";", ";charset=utf-8;", 1)):
        assert read("a text", spelling) == ["a text", RED]
    texts = ["data:text/plain,a", " data:image/png;", "https://a.example/b", "image"]
    assert read(*texts) == texts


def test_the_declared_type_is_not_believed() -> None:
    assert read(data_url(RED, "jpeg")) == [RED]
    assert problems(data_url(b"<svg xmlns='a'/>", "svg+xml")) == [
        ("body.input[0]", "is in a format that is not read: JPEG, PNG, GIF, WebP, BMP and TIFF are")
    ]


@pytest.mark.parametrize(
    "url",
    [
        "data:image/",
        "data:image/png",
        "data:image/png,abcd",
        "data:image/png;base64",
        "data:image/;base64,abcd",
        "data:image/png;base64;base64x,abcd",
        "data:image/png" + ";a=b" * 200 + ";base64,abcd",
    ],
)
def test_a_url_without_type_base64_and_comma_is_refused_with_what_to_send(url: str) -> None:
    reason = "is no data URL in base64: send an image as data:image/png;base64,..."
    assert problems(url) == [("body.input[0]", reason)]


@pytest.mark.parametrize("data", ["a-_b", "abc", "ab cd", "abcd\n", "=abc", "ab=c", "%61bcd", "äbcd", "\ud800bcd"])
def test_what_is_not_base64_to_the_letter_is_refused(data: str) -> None:
    assert problems(f"data:image/png;base64,{data}") == [("body.input[0]", "is no valid base64 after the comma")]


def test_everything_wrong_is_told_together_with_its_field() -> None:
    found = problems(
        "fine", " ", data_url(b""), data_url(b"<html>"), data_url(png((1, 2, 3), (101, 100))), data_url(gif(4))
    )
    assert found == [
        ("body.input[1]", "is empty"),
        ("body.input[2]", "is empty"),
        ("body.input[3]", "is no image file"),
        ("body.input[4]", "has 10,100 pixels, at most 10,000 are read"),
        ("body.input[5]", "has 4 frames, at most 3"),
    ]


def test_what_is_too_large_is_said_before_it_is_decoded() -> None:
    for strings, sentence in [
        (["a", "x" * 21], "body.input[1] has 21 characters, over the limit of 20."),
        ([data_url(b"x" * 5_001)], "body.input[0] has 5001 bytes, over the limit of 5000."),
        (["data:image/png;base64," + "?" * 6_672], "body.input[0] has 5004 bytes, over the limit of 5000."),
        (["a"] * 7, "body.input has 7 items, over the limit of 6."),
    ]:
        with pytest.raises(BodyTooLarge) as raised:
            read(*strings)
        assert str(raised.value) == sentence
    assert problems(data_url(b"x" * 5_000)) == [("body.input[0]", "is no image file")]


def test_a_row_says_by_its_key_what_its_content_is() -> None:
    rows = [{"id": "a", "image": data_url(RED), "product": "card"}, {"id": "b", "text": "hello"}, {"id": "c"}]
    assert read_rows(rows, LIMITS) == [{"id": "a", "image": RED, "product": "card"}, *rows[1:]]
    kept = [{"id": "a", "text": "hello", "image": value} for value in ("a.png", 3, None)]
    assert read_rows(kept, LIMITS) == kept, "a kept column may be called image"
    with pytest.raises(InvalidRequestError) as raised:
        read_rows([{"id": "a", "text": data_url(RED)}, {"id": "b", "image": data_url(b"<html>")}], LIMITS)
    assert raised.value.problems == [
        ("body.rows[0].text", "is an image: send it as image"),
        ("body.rows[1].image", "is no image file"),
    ]
    with pytest.raises(BodyTooLarge, match=r"body\.rows\[0\]\.text has 21 characters"):
        read_rows([{"id": "a", "text": "x" * 21}], LIMITS)
    with pytest.raises(BodyTooLarge, match=r"body\.rows has 7 items"):
        read_rows([{}] * 7, LIMITS)


@given(st.binary(max_size=4_000), st.sampled_from(["png", "jpeg", "x-anything", "svg+xml"]))
def test_any_bytes_are_an_image_or_a_problem_that_quotes_none_of_them(data: bytes, kind: str) -> None:
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    assert is_image(url)
    try:
        assert read(url) == [data]
    except InvalidRequestError as error:
        ((path, reason),) = error.problems
        assert path == "body.input[0]"
        assert reason.isascii()


@given(st.text(max_size=20))
def test_a_text_comes_back_as_it_was_or_is_called_empty(text: str) -> None:
    if text.strip():
        assert read(text) == [text]
    else:
        assert problems(text) == [("body.input[0]", "is empty")]
