"""Errors as they go out: one JSON shape that echoes nothing of the input.

    {"error": {"type": "IdConflict", "message": "...", "request_id": "...", <facts>}}

A raystore error is shown by its own sentence where its class can hold names of the service's own things and numbers only. Where it
may quote what was sent (a predicate, an id, a name), a sentence without it stands instead; a class that is not listed here shows its
type and nothing else, and so does an unknown error. What is repeated all the same: digests of encoders, and ids of rows that are
there already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from raystore import errors
from raystore.errors import RaystoreError

_GRAMMAR = "column, comparison, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT, literals"
# Waiting helps against these; the whole seconds in Retry-After where no fact `retry_after_s` says more.
_RETRY_AFTER_S = {503: 1.0, 429: 1.0}
# Facts that are names of the store's own things, numbers or digests. Every other fact stays inside.
_SAFE_FACTS = frozenset(
    (
        "allowed",
        "item",
        "n_items",
        "requests",
        "rule",
        "sentence",
        "window_s",
        "existing",
        "expected",
        "found",
        "limit",
        "unit",
        "ids",
        "missing",
        "cosine",
        "retry_after_s",
        "tolerance",
        "verb",
        "n_rows",
        "n_vectors",
    )
)


# Their sentences hold names of the service's own things, the words of its own files, numbers and digests.
OWN_SENTENCE = (
    errors.BodyTooLarge,
    errors.BodyTooSlow,
    errors.ColumnsRequired,
    errors.DeadlineMissed,
    errors.DimensionMismatch,
    errors.ExtraNotInstalled,
    errors.GateHeld,
    errors.GoldenMoved,
    errors.IdConflict,
    errors.InvalidVectors,
    errors.KeyRequired,
    errors.NoSuchRoute,
    errors.NotAllowed,
    errors.Overloaded,
    errors.PassportMismatch,
    errors.ProviderUnreachable,
    errors.QueryBusy,
    errors.QueryStopped,
    errors.QuotaExceeded,
    errors.RateExceeded,
    errors.RuleRefused,
    errors.ShardsMissing,
    errors.WrongMethod,
)


class InvalidRequestError(Exception):
    """A request that does not fit its model; `problems` are (field path, reason)."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self.problems = problems


def answer(status: int, kind: str, message: str, request_id: str, facts: Mapping[str, Any] | None = None) -> JSONResponse:
    facts = facts or {}
    body = {"type": kind, "message": message, "request_id": request_id, **facts}
    headers = {}
    if (retry_s := facts.get("retry_after_s", _RETRY_AFTER_S.get(status))) is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_s)))
    if status == 401:
        headers["www-authenticate"] = "Bearer"
    if "allowed" in facts:
        headers["allow"] = ", ".join(facts["allowed"])
    return JSONResponse({"error": body}, status_code=status, headers=headers)


def answer_error(error: RaystoreError, request_id: str) -> JSONResponse:
    """A raystore error as an answer; its class has the status."""
    message, facts = _public(error)
    return answer(error.status, type(error).__name__, message, request_id, facts)


def answer_unknown(error: BaseException, request_id: str) -> JSONResponse:
    message = f"the request could not be answered: {type(error).__name__}. Nothing is known of the cause to a caller."
    return answer(500, type(error).__name__, message, request_id)


def answer_invalid(problems: Sequence[tuple[str, str]], request_id: str) -> JSONResponse:
    told = errors.first_five([f"{field}: {reason}" for field, reason in problems])
    fields = "1 field" if len(problems) == 1 else f"{len(problems)} fields"
    verb = "is" if len(problems) == 1 else "are"
    facts = {"problems": [{"field": field, "reason": reason} for field, reason in problems[:100]]}
    return answer(422, "InvalidRequest", f"{fields} of this request {verb} wrong: {told}.", request_id, facts)


def field_problems(
    found: Iterable[Mapping[str, Any]],
    known_fields: frozenset[str],
    fields_at: Callable[[Sequence[int | str]], Sequence[str]] = lambda _: (),
) -> list[tuple[str, str]]:
    """(path, reason) for each of pydantic's findings; parts of a path that the caller chose read '?'.

    Args:
        known_fields: what a path may show.
        fields_at: the fields that there may be at a place; none where that is not known.
    """
    problems: list[tuple[str, str]] = []
    for error in found:
        kind, where = str(error["type"]), list(error["loc"])
        if kind == "json_invalid":
            problems.append((_path(where[:1], known_fields), "is no JSON"))
            continue
        if kind == "extra_forbidden":
            path = _path(where[:-1], known_fields)
            there = ", ".join(fields_at(where[:-1]))
            problems.append((path, f"has a field that is not known here{f': known are {there}' if there else ''}"))
            continue
        reason = str(error["msg"]).removeprefix("Value error, ").removesuffix(".")
        problems.append((_path(where, known_fields), f"{reason[:1].lower()}{reason[1:]}"))
    return list(dict.fromkeys(problems))


def _path(where: Sequence[int | str], known_fields: frozenset[str]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part if part in known_fields else '?'}" for part in where]
    return "".join(parts).removeprefix(".") or "body"


def _public(error: RaystoreError) -> tuple[str, dict[str, Any]]:
    facts = {name: value for name, value in error.facts.items() if name in _SAFE_FACTS}
    if isinstance(error, (errors.QueryRefused, errors.HookFailed)):
        return str(error), {"rule": error.rule} if isinstance(error, errors.HookFailed) else {}
    if isinstance(error, errors.SqlRefused):
        return f"where: it was not understood, or names a column that is not there. It may hold {_GRAMMAR}.", {}
    if isinstance(error, errors.ItemNotFound):
        return f"no item of that id in {error.where}.", {}
    if isinstance(error, errors.ColumnNotFound):
        return f"a column that was asked for is not in {error.where}. It has: {errors.listed(error.existing)}.", {
            "existing": list(error.existing)
        }
    if isinstance(error, (errors.EncoderNotFound, errors.InvalidName)):
        existing = list(getattr(error, "existing", ()))
        return f"no encoder of that name or fingerprint here. There are: {errors.listed(existing)}.", {"existing": existing}
    if isinstance(error, errors.InvalidRows):
        problems = [{"row": row, "reason": reason} for row, _, reason in error.problems[:100]]
        shown = "; ".join(f"row {p['row']}: {p['reason']}" for p in problems[:5])
        wrong = len({row for row, _, _ in error.problems})
        message = f"{wrong} of {error.n_rows} rows cannot be written: {shown}. Nothing was written."
        return message, {**facts, "problems": problems}
    if isinstance(error, errors.ItemsUnusable):
        return str(error), {"problems": [{"item": place, "reason": reason} for place, reason in error.problems[:100]]}
    if isinstance(error, errors.NotFound):
        message = f"no {error.noun} of that name here. There are: {errors.listed(error.existing)}."
        if isinstance(error, errors.TableNotFound):
            message += " The deployment file's tables and collections say which are served."
        return message, facts
    if isinstance(error, errors.InvalidArguments):
        bare = [each.unquoted if isinstance(each, errors.Quoting) else each for each in error.problems]
        return str(errors.InvalidArguments(call=error.call, problems=bare)), facts
    if isinstance(error, (errors.StoreUnusable, errors.ShardCorrupt, errors.DiskFull)) or error.status == 500:
        return (
            f"the service is not able to answer: {type(error).__name__}. Its operator finds more with 'raystore doctor'.",
            {},
        )
    if isinstance(error, errors.WriterBlocked):
        return f"waited {error.waited_s:.1f} s to write. Nothing was written. Repeat the call.", {}
    if isinstance(error, errors.LeaseLost):
        return "another writer took over before the commit. Nothing was written. Repeat the call.", {}
    if isinstance(error, OWN_SENTENCE):
        return str(error), facts
    return f"the request was refused: {type(error).__name__}. Nothing more can be told without repeating what was sent.", {}
