"""Between the messages of `raystore.proto` and what the orchestrator takes and gives.

Requests pass the very models that JSON passes (`serve/wire`), so both faces refuse the same things with the same words. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import DecodeError, Message
from pydantic import ValidationError

from raystore.encoders.images import BadImage, ImageLimits, check_image
from raystore.encoders.items import Item
from raystore.errors import BodyTooLarge
from raystore.serve.answer.asked import Asked, item_ids
from raystore.serve.door.problems import InvalidRequestError
from raystore.serve.grpc import raystore_pb2 as pb
from raystore.serve.http.errors import body_problems
from raystore.serve.spec.app import Limits
from raystore.serve.wire.content import check_chars, check_count, is_image
from raystore.serve.wire.log import LogRequest
from raystore.serve.wire.predict import PredictItem, PredictOptions, PredictRequest

PLACE = "request"
_IMAGE = "an image"  # stands for its bytes while the model looks at the rest
_NOT_COLUMNS = frozenset(("id", "text", "image", "vector", "subject", "tenant", "time"))


def parse(kind: type[Message], data: bytes) -> Any:
    """The message. InvalidRequestError where the bytes are none."""
    try:
        return kind.FromString(data)
    except DecodeError:
        problem = f"is no raystore.v1.{kind.DESCRIPTOR.name}"
    raise InvalidRequestError([(PLACE, problem)])


def predict_request(
    sent: pb.PredictRequest, request_id: str, limits: Limits
) -> tuple[PredictOptions, list[Asked], list[str]]:
    """Options, items, and the fields that the items' contents came in."""
    check_count(len(sent.items), f"{PLACE}.items", limits)
    fields = {**options_of(sent), "items": [_item_fields(item) for item in sent.items]}
    try:
        read = PredictRequest.model_validate(fields)
    except ValidationError as error:
        raise body_problems(error, PLACE) from None
    paths = [f"{PLACE}.items[{i}]" for i in range(len(sent.items))]
    asked = _asked(read.asked, sent.items, paths, item_ids(request_id, [item.id for item in read.asked]), limits)
    return read, asked, [path for path, each in zip(paths, asked, strict=True) if each.item is not None]


def stream_item(sent: pb.PredictItem, id_: str, fingerprint: str | None, limits: Limits) -> Asked:
    """One item of a stream, named `id_` unless it has an id."""
    try:
        read = PredictItem.model_validate(_item_fields(sent))
    except ValidationError as error:
        raise body_problems(error, "item") from None
    if read.vector is not None and fingerprint is None:
        problem = "expected with vector, so that it is clear which encoder made it"
        raise InvalidRequestError([("options.fingerprint", problem)])
    [asked] = _asked([read], [sent], ["item"], [read.id or id_], limits)
    return asked


def stream_options(sent: pb.StreamOptions) -> PredictOptions:
    try:
        return PredictOptions.model_validate(options_of(sent))
    except ValidationError as error:
        raise body_problems(error, "options") from None


def log_rows(sent: pb.LogRequest, limits: Limits) -> tuple[list[dict[str, Any]], str | None]:
    """The rows as a collection's log takes them, and the fingerprint of their vectors."""
    check_count(len(sent.rows), f"{PLACE}.rows", limits)
    problems: list[tuple[str, str]] = []
    for i, row in enumerate(sent.rows):
        if _NOT_COLUMNS & row.columns.keys():
            problems.append(
                (f"{PLACE}.rows[{i}].columns", f"hold one of {', '.join(sorted(_NOT_COLUMNS))}, which are no columns")
            )
    if problems:
        raise InvalidRequestError(problems)
    fields = {"rows": [{**_row_fields(row), **_kept(row.columns)} for row in sent.rows]}
    try:
        read = LogRequest.model_validate({**fields, **_present(sent, "fingerprint")})
    except ValidationError as error:
        raise body_problems(error, PLACE) from None
    rows = [row.row() for row in read.rows]
    for i, (row, given) in enumerate(zip(rows, sent.rows, strict=True)):
        path = f"{PLACE}.rows[{i}]"
        if given.WhichOneof("content") == "text":
            check_chars(given.text, f"{path}.text", limits)
        elif given.WhichOneof("content") == "image":
            row["image"] = _image(given.image, path, limits, problems)
    if problems:
        raise InvalidRequestError(problems)
    return rows, read.fingerprint


def predict_answer(told: Mapping[str, Any]) -> pb.PredictAnswer:
    """What the orchestrator answered."""
    answer = pb.PredictAnswer(
        predictions=[prediction(each) for each in told["predictions"]],
        lineage=lineage(told["lineage"]),
        others=[lineage(each) for each in told["others"]],
        fingerprint=told["fingerprint"],
        request_id=told["request_id"],
        timings_ms=told["timings_ms"],
    )
    if told["bridged"] is not None:
        answer.bridged.CopyFrom(
            pb.BridgedBy(encoder=told["bridged"]["encoder"], fidelity=pb.Fidelity(**told["bridged"]["fidelity"]))
        )
    if told["logged"] is not None:
        answer.logged.CopyFrom(pb.Strings(values=told["logged"]))
    return answer


def prediction(told: Mapping[str, Any]) -> pb.Prediction:
    """One prediction of a head of any kind; what a kind has not stays unset."""
    plain = ("id", "by", "review", "label", "confidence", "abstained", "why", "value")
    found = pb.Prediction(
        **{name: told[name] for name in plain if told.get(name) is not None},
        rules=told.get("rules", ()),
        probabilities=[pb.Probability(**each) for each in told.get("probabilities", ())],
    )
    for name in ("actions", "labels"):
        if told.get(name) is not None:
            getattr(found, name).CopyFrom(pb.Strings(values=told[name]))
    if told.get("evidence") is not None:
        found.evidence.CopyFrom(pb.Evidence(rows=[pb.Evidence.Row(**each) for each in told["evidence"]]))
    return found


def lineage(told: Mapping[str, Any]) -> pb.Lineage:
    return pb.Lineage(**{name: value for name, value in told.items() if value is not None})


def log_answer(told: Mapping[str, Any]) -> pb.LogAnswer:
    return pb.LogAnswer(**told)


def options_of(sent: Any) -> dict[str, Any]:
    return _present(sent, "fingerprint", "top", "evidence")


def _asked(
    items: Sequence[PredictItem | PredictRequest],
    sent: Iterable[pb.PredictItem],
    paths: Sequence[str],
    ids: Sequence[str],
    limits: Limits,
) -> list[Asked]:
    """The items with their contents looked at; every content that cannot be used is named."""
    found: list[Asked] = []
    problems: list[tuple[str, str]] = []
    for item, given, path, id_ in zip(items, sent, paths, ids, strict=True):
        content: Item | None = None
        if given.WhichOneof("content") == "image":
            content = _image(given.image, path, limits, problems)
        elif given.WhichOneof("content") == "text":
            check_chars(given.text, f"{path}.text", limits)
            if not given.text.strip():
                problems.append((f"{path}.text", "is empty"))
            elif is_image(given.text):
                problems.append((f"{path}.text", "is an image: send its bytes as image"))
            content = given.text
        found.append(
            Asked(
                id=id_,
                item=content,
                vector=item.vector,
                subject=item.subject,
                tenant=item.tenant,
                time=item.time,
                columns=item.columns,
            )
        )
    if problems:
        raise InvalidRequestError(problems)
    return found


def _image(data: bytes, path: str, limits: Limits, problems: list[tuple[str, str]]) -> bytes:
    if len(data) > limits.max_image_bytes:
        raise BodyTooLarge(what=f"{path}.image", found=len(data), limit=limits.max_image_bytes)
    try:
        check_image(data, ImageLimits(limits.max_image_bytes, limits.max_image_pixels, limits.max_image_frames))
    except BadImage as error:
        problems.append((f"{path}.image", error.reason))
    return data


def _item_fields(item: pb.PredictItem) -> dict[str, Any]:
    kind = item.WhichOneof("content")
    content = {"text": item.text if kind == "text" else _IMAGE} if kind in ("text", "image") else {}
    return {**_known(item), **content, "columns": _kept(item.columns)}


def _row_fields(row: pb.LogRow) -> dict[str, Any]:
    kind = row.WhichOneof("content")
    content = {"text": row.text} if kind == "text" else {"image": _IMAGE} if kind == "image" else {}
    return {**_known(row), "id": row.id, **content}


def _known(given: pb.PredictItem | pb.LogRow) -> dict[str, Any]:
    """What both kinds of rows have in common."""
    found = _present(given, *(("id", "subject", "tenant") if isinstance(given, pb.PredictItem) else ("subject", "tenant")))
    if given.WhichOneof("content") == "vector":
        found["vector"] = list(given.vector.values)
    if given.HasField("time"):
        found["time"] = _time(given.time.seconds, given.time.nanos)
    return found


def _time(seconds: int, nanos: int) -> datetime:
    """InvalidRequestError where there is no such time."""
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanos // 1000)
    except (ValueError, OverflowError, OSError):
        pass
    raise InvalidRequestError([("time", "is not a time of this calendar")])


def _kept(columns: Mapping[str, pb.Kept]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in columns.items():
        kind = value.WhichOneof("value")
        found[name] = None if kind is None else getattr(value, kind)
    return found


def _present(message: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(message, name) for name in names if message.HasField(name)}
