"""What a string of a request means: a text, or an image as a data URL. One rule for every route.

    data:image/png;base64,iVBORw0KGgo...      an image file, whole
    anything else                             a text; an address is a text too, nothing is ever fetched

A row to be logged says which it is by its key, since its keys are columns: `text` or `image`.

Limits are looked at before anything is decoded: characters, bytes, and an image's pixels and frames from its header.
Pure, and quotes nothing: a problem names the field. Knows no encoder, so whether one takes images is asked later.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any

from raystore.encoders.images import BadImage, ImageLimits, check_image
from raystore.encoders.items import Item
from raystore.errors import BodyTooLarge
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.spec.app import Limits

# The scheme and the type are written in any case; parameters (";charset=..") may stand before ";base64".
_IMAGE = re.compile(r"data:image/", re.IGNORECASE)
_HEAD = re.compile(r"data:image/[a-z0-9.+-]{1,60}(;[a-z0-9=._+-]{1,60}){0,4};base64", re.IGNORECASE)
_HEAD_CHARS = 400
HOW_TO_SEND = "send an image as data:image/png;base64,..."


def is_image(value: str) -> bool:
    return _IMAGE.match(value) is not None


def check_count(n: int, path: str, limits: Limits) -> None:
    if n > limits.max_items:
        raise BodyTooLarge(what=path, found=n, limit=limits.max_items, unit="items")


def read_items(strings: Mapping[str, str], limits: Limits) -> list[Item]:
    """The texts and images of a request, in order.

    Args:
        strings: by the path of their field: 'body.input[3]'.

    Raises:
        BodyTooLarge: too many items, a text with too many characters, an image of too many bytes.
        InvalidRequestError: texts without a character, data URLs that are none, images of too many pixels or frames
            or of no format that is read; all of them are named.
    """
    check_count(len(strings), next(iter(strings), "body").partition("[")[0], limits)
    items: list[Item] = []
    problems: list[tuple[str, str]] = []
    for path, value in strings.items():
        if is_image(value):
            try:
                items.append(read_image_url(value, path, limits))
            except BadImage as error:
                problems.append((path, error.reason))
            continue
        check_chars(value, path, limits)
        if not value.strip():
            problems.append((path, "is empty"))
        items.append(value)
    if problems:
        raise InvalidRequestError(problems)
    return items


def read_rows(rows: Sequence[Mapping[str, Any]], limits: Limits) -> list[dict[str, Any]]:
    """The rows of a log with their images as bytes. Raises as `read_items`; the store's own checks are left to the store."""
    check_count(len(rows), "body.rows", limits)
    found: list[dict[str, Any]] = []
    problems: list[tuple[str, str]] = []
    for i, row in enumerate(rows):
        text, image = row.get("text"), row.get("image")
        found.append(dict(row))
        if text is not None and is_image(text):
            problems.append((f"body.rows[{i}].text", "is an image: send it as image"))
        elif text is not None:
            check_chars(text, f"body.rows[{i}].text", limits)
        if isinstance(image, str) and is_image(image):  # anything else is a kept column that happens to be called so
            try:
                found[i]["image"] = read_image_url(image, f"body.rows[{i}].image", limits)
            except BadImage as error:
                problems.append((f"body.rows[{i}].image", error.reason))
    if problems:
        raise InvalidRequestError(problems)
    return found


def check_chars(text: str, path: str, limits: Limits) -> None:
    if len(text) > limits.max_chars:
        raise BodyTooLarge(what=path, found=len(text), limit=limits.max_chars, unit="characters")


def read_image_url(value: str, path: str, limits: Limits) -> bytes:
    """The image file in a data URL, not decoded further than its header.

    Raises:
        BodyTooLarge: it has more bytes than the limit.
        BadImage: the URL is none, or the file's header says it is not to be read; the reason is a sentence's end.
    """
    comma = value.find(",", 0, _HEAD_CHARS)
    if comma < 0 or not _HEAD.fullmatch(value, 0, comma):
        raise BadImage(f"is no data URL in base64: {HOW_TO_SEND}")
    n_bytes = (len(value) - comma - 1) // 4 * 3 - value[-2:].count("=")
    if n_bytes > limits.max_image_bytes:
        raise BodyTooLarge(what=path, found=n_bytes, limit=limits.max_image_bytes)
    try:
        data = base64.b64decode(value[comma + 1 :], validate=True)
    except (binascii.Error, ValueError):  # ValueError: characters beyond ASCII
        raise BadImage("is no valid base64 after the comma") from None
    check_image(data, ImageLimits(limits.max_image_bytes, limits.max_image_pixels, limits.max_image_frames))
    return data
