"""The requests a client makes and the answers it hands back. Pure: nothing here opens a socket.

What a caller gives stays out of every error: a mistake is named by its place and its type. The answers are the models of
`raystore/serve/wire`, so both sides have the same messages; fields a newer service adds are passed over.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, TypedDict, TypeVar
from urllib.parse import quote

from pydantic import BaseModel

from raystore.client.flow import Call
from raystore.errors import InvalidArguments
from raystore.serve.wire.log import LogAnswer
from raystore.serve.wire.predict import PredictAnswer
from raystore.serve.wire.search import SearchAnswer

M = TypeVar("M", bound=BaseModel)
# A text, the bytes of an image file, a vector (anything with `tolist`, or numbers), or an item of fields.
Given = Any

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
_SCALARS = (str, int, float, bool, type(None))


class Item(TypedDict, total=False):
    """What is known of one item beside its content."""

    id: str
    subject: str
    tenant: str
    time: datetime | str
    columns: Mapping[str, str | int | float | bool | None]


class Asked(Item, total=False):
    """One item, and what is asked of it; see `PredictRequest`."""

    fingerprint: str
    top: int
    evidence: int


@dataclass(frozen=True)
class Embeddings:
    """Vectors in the order of the items, and the encoder that made them."""

    vectors: list[list[float]]
    model: str
    fingerprint: str
    tokens: int
    request_id: str


def predict_call(
    deployment: str, item: Given = None, *, items: Sequence[Given] | None = None, **asked: Any
) -> Call[PredictAnswer]:
    if (item is None) == (items is None):
        raise InvalidArguments(call="predict", problems=["expected one item (a text, image bytes or a vector), or items="])
    body: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if items is None:
        body |= fields_of(item, "the item")
        body.setdefault("fingerprint", getattr(item, "fingerprint", None))
    else:
        body["items"] = [fields_of(each, f"item {i}") for i, each in enumerate(items)]
        body.setdefault("fingerprint", fingerprint_of(items))
    if body["fingerprint"] is None:
        del body["fingerprint"]
    return Call("POST", f"/v1/predict/{segment(deployment)}", _reader(PredictAnswer), to_json(body, "predict"))


def log_call(collection: str, rows: Sequence[Any], fingerprint: str | None) -> Call[LogAnswer]:
    found: list[dict[str, Any]] = []
    problems: list[str] = []
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            problems.append(f"row {i} is {type(row).__name__}, expected a mapping")
            continue
        found.append(dict(row))
        if isinstance(row.get("image"), bytes):
            found[-1]["image"] = data_url(row["image"], f"the image of row {i}")
        if row.get("vector") is not None:
            found[-1]["vector"] = numbers_of(row["vector"], f"the vector of row {i}")
    if problems:
        raise InvalidArguments(call="log", problems=problems[:10])
    made_by = fingerprint or fingerprint_of([row.get("vector") for row in found])
    body = {"rows": found, **({"fingerprint": made_by} if made_by else {})}
    return Call("POST", f"/v1/collections/{segment(collection)}/log", _reader(LogAnswer), to_json(body, "log"))


def search_call(collection: str, item: Given = None, **asked: Any) -> Call[SearchAnswer]:
    body = {name: value for name, value in asked.items() if value is not None}
    if item is not None:
        body |= fields_of(item, "the item")
        if getattr(item, "fingerprint", None) is not None:
            body.setdefault("fingerprint", item.fingerprint)
    return Call("POST", f"/v1/collections/{segment(collection)}/search", _reader(SearchAnswer), to_json(body, "search"))


def embeddings_call(model: str, items: Sequence[str | bytes]) -> Call[Embeddings]:
    if isinstance(items, (str, bytes)) or not items:
        raise InvalidArguments(call="embeddings", problems=["expected a list of texts or image bytes, with one at least"])
    strings = [data_url(item, f"item {i}") if isinstance(item, bytes) else item for i, item in enumerate(items)]
    wrong = [i for i, item in enumerate(strings) if not isinstance(item, str)]
    if wrong:
        problems = [f"item {i} is {type(items[i]).__name__}, expected a text or image bytes" for i in wrong[:5]]
        raise InvalidArguments(call="embeddings", problems=problems)
    body = {"model": model, "input": strings, "encoding_format": "base64"}
    return Call("POST", "/v1/embeddings", _read_embeddings, to_json(body, "embeddings"))


def status_call() -> Call[dict[str, Any]]:
    return Call("GET", "/v1/status", _read_object)


def shadow_call(deployment: str, labels: Any = None, since: Any = None) -> Call[dict[str, Any]]:
    problems = []
    if not isinstance(labels, (str, type(None))):
        problems.append(f"labels= is {type(labels).__name__}, expected a text: 'table.column'")
    if not isinstance(since, (date, str, type(None))):
        problems.append(f"since= is {type(since).__name__}, expected a time, or a text in ISO 8601")
    if problems:
        raise InvalidArguments(call="shadow", problems=problems)
    options = {"labels": labels, "since": since.isoformat() if isinstance(since, date) else since}
    params = {name: value for name, value in options.items() if value is not None}
    return Call("GET", f"/v1/shadow/{segment(deployment)}", _read_object, params=params)


def fields_of(given: Given, what: str) -> dict[str, Any]:
    """The fields of one item as the wire has them."""
    if isinstance(given, str):
        return {"text": given}
    if isinstance(given, bytes):
        return {"text": data_url(given, what)}
    if isinstance(given, Mapping):
        found = {name: value for name, value in given.items() if value is not None}
        if isinstance(found.get("image"), bytes):
            found["text"] = data_url(found.pop("image"), f"the image of {what}")
        if "vector" in found:
            found["vector"] = numbers_of(found["vector"], f"the vector of {what}")
        return found
    return {"vector": numbers_of(given, what)}


def fingerprint_of(items: Sequence[Any]) -> str | None:
    """The encoder that vectors are marked with, where some are; InvalidArguments where two are."""
    vectors = [item.get("vector") if isinstance(item, Mapping) else item for item in items]
    marks = sorted({mark for vector in vectors if isinstance(mark := getattr(vector, "fingerprint", None), str)})
    if len(marks) > 1:
        raise InvalidArguments(
            call="ask a service", problems=[f"the vectors are of {len(marks)} encoders: send them apart"]
        )
    return marks[0] if marks else None


def numbers_of(vector: Any, what: str) -> list[float]:
    """A vector as numbers; what they are worth is looked at where they are used."""
    plain = vector.tolist() if hasattr(vector, "tolist") else vector
    if isinstance(plain, (list, tuple)) and plain and all(type(x) in (int, float) for x in plain):
        return list(plain)
    raise InvalidArguments(call="ask a service", problems=[f"{what} is no list of numbers, text or image bytes"])


def data_url(image: bytes, what: str) -> str:
    """An image file as it stands on the wire. InvalidArguments where its first bytes are of no known format."""
    kind = next((kind for magic, kind in _MAGIC if image.startswith(magic)), None)
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        kind = "webp"
    if kind is None:
        raise InvalidArguments(
            call="ask a service",
            problems=[f"{what} is no image file (PNG, JPEG, GIF, WebP, BMP or TIFF by its first bytes)"],
        )
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def to_json(body: Mapping[str, Any], call: str) -> bytes:
    """ASCII, so that whatever a text holds gets to the service; there it is judged.

    Raises:
        InvalidArguments: something JSON has no word for; it is named by its type.
    """
    kind = ""
    try:
        return json.dumps(body, allow_nan=False, separators=(",", ":"), default=_plain).encode("ascii")
    except _NoJson as error:
        kind = error.kind
    except ValueError:  # NaN, infinity, a structure that holds itself
        kind = "a number that is not finite, or a structure that holds itself"
    raise InvalidArguments(call=call, problems=[f"JSON has no word for {kind}"])


class _NoJson(Exception):
    def __init__(self, kind: str) -> None:
        self.kind = kind


def _plain(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    if hasattr(value, "item") and isinstance(found := value.item(), _SCALARS):  # NumPy's numbers
        return found
    raise _NoJson(f"a value of type {type(value).__name__}")


def segment(name: str) -> str:
    if not isinstance(name, str) or not name or name in (".", ".."):
        raise InvalidArguments(call="ask a service", problems=["a deployment or collection is named by a text"])
    return quote(name, safe="")


def _reader(model: type[M]) -> Callable[[bytes], M]:
    return lambda body: model.model_validate_json(body, extra="ignore")


def _read_object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _read_embeddings(body: bytes) -> Embeddings:
    value = _read_object(body)
    return Embeddings(
        vectors=[_floats(each["embedding"]) for each in sorted(value["data"], key=lambda each: each["index"])],
        model=str(value["model"]),
        fingerprint=str(value["fingerprint"]),
        tokens=int(value["usage"]["total_tokens"]),
        request_id=str(value["request_id"]),
    )


def _floats(packed: str) -> list[float]:
    data = base64.b64decode(packed)
    return list(struct.unpack(f"<{len(data) // 4}f", data))
