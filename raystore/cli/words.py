"""How the words of a command line are read: NAME=VALUE, option values, moments, settings, splits. Pure but for the files they name."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from raystore.errors import InvalidArguments

SPLIT_HELP = (
    "Fractions of train, val and test by the hash of the entity: .8,.1,.1; by time: time:.8,.1,.1 or from two moments on, "
    "time:2026-03-01,2026-04-01; by a column: group:COLUMN:.8,.1,.1; or given, by the SQL's own column split."
)
_SIDES = ("train", "val", "test")
_SPAN = re.compile(r"([0-9]{1,6})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_EXPECTED_SPLIT = (
    "expected .8,.1,.1, time:.8,.1,.1, time:2026-03-01,2026-04-01 (val and test from then on), "
    "group:COLUMN:.8,.1,.1 or given"
)


def query_text(text: str) -> str:
    """The text itself, or standard input where it is '-'."""
    return sys.stdin.read() if text == "-" else text


def moment(text: str, *, ago: bool = False) -> datetime:
    """A date or time, UTC where it names no zone; or hours, days, weeks (12h, 30d, 8w) from now, or `ago`.

    Raises ValueError, or OverflowError where no calendar has that date.
    """
    if span := _SPAN.fullmatch(text):
        away = timedelta(**{_UNITS[span[2]]: int(span[1])})
        return datetime.now(UTC) - away if ago else datetime.now(UTC) + away
    found = datetime.fromisoformat(text)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def pairs(options: Sequence[str], call: str) -> dict[str, str]:
    """NAME=VALUE options as a mapping; every bad one is named."""
    bad = [o for o in options if not o.partition("=")[0] or "=" not in o]
    if bad:
        raise InvalidArguments(call=call, problems=[f"'{o}' is not NAME=VALUE" for o in bad])
    return {name: value for name, _, value in (o.partition("=") for o in options)}


class _Yaml(yaml.SafeLoader):
    """YAML that takes 1e-3 for a number, as JSON does; by itself it is a text to it."""


_Yaml.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"(?:{_NUMBER.pattern})\Z"), list("+-.0123456789"))


def value_of(text: str) -> Any:
    """A number, a list of what stands between commas, JSON (or YAML: {card: .5}) where it begins like it, or the text itself.

    Raises:
        ValueError: it begins like JSON, and is neither.
    """
    if text[:1] in ("{", "["):
        return _structure(text)
    if "," in text:
        return [value_of(part.strip()) for part in text.split(",") if part.strip()]
    if _NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text)
    return text


def _structure(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        try:
            return yaml.load(text, _Yaml)  # noqa: S506  a SafeLoader
        except yaml.YAMLError:
            raise ValueError("neither JSON nor YAML") from None


def option_values(options: Sequence[str], call: str) -> dict[str, Any]:
    """NAME=VALUE options with their values read: l2=1,10,100 is a list of three numbers."""
    found: dict[str, Any] = {}
    problems = []
    for name, text in pairs(options, call).items():
        try:
            found[name] = value_of(text)
        except ValueError:
            problems.append(f"the value of {name} begins like JSON, and is neither that nor YAML")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return found


def setting_of(text: str, call: str) -> dict[str, Any]:
    """One setting of a sweep: "kind=linear,l2=1,10" is a linear head with a list of l2; what has no '=' goes on with the last."""
    options: list[str] = []
    for part in text.split(","):
        if "=" in part or not options:
            options.append(part.strip())
        else:
            options[-1] += f",{part.strip()}"
    return option_values(options, call)


def settings_of(file: str, call: str) -> list[dict[str, Any]]:
    """The settings of a sweep from a JSON or YAML file: a list of mappings."""
    try:
        text = Path(file).read_text(encoding="utf-8")
        found = json.loads(text) if file.endswith(".json") else yaml.load(text, _Yaml)  # noqa: S506
    except OSError as error:
        raise InvalidArguments(call=call, problems=[f"'{file}' cannot be read ({error.strerror})"]) from None
    except UnicodeDecodeError:
        raise InvalidArguments(call=call, problems=[f"'{file}' is not UTF-8"]) from None
    except (ValueError, yaml.YAMLError):
        kind = "JSON" if file.endswith(".json") else "YAML"
        raise InvalidArguments(call=call, problems=[f"'{file}' does not parse as {kind}"]) from None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        problem = f"'{file}' holds no list of settings, expected one like [{{kind: linear, l2: 1}}, {{kind: knn, k: 5}}]"
        raise InvalidArguments(call=call, problems=[problem])
    return [{str(name): value for name, value in each.items()} for each in found]


def split_of(text: str, call: str) -> dict[str, Any]:
    """What `snapshot(split=)` takes, from [WAY[:COLUMN]:]VALUES; see SPLIT_HELP."""
    if text == "given":
        return {"by": "given"}
    way, colon, rest = text.partition(":")
    rule: dict[str, Any] = {}
    if way in ("entity", "time", "group"):
        rule["by"] = way
        column = re.match(r"([^\W\d]\w*)(?::|$)", rest) if way != "entity" else None
        if column:
            rule["column"], rest = column[1], rest[column.end() :]
        if not rest:
            return rule
    elif colon:
        raise _no_split(text, call)
    else:
        rest = text
    parts = [part.strip() for part in rest.split(",")]
    if len(parts) <= len(_SIDES) and all(_NUMBER.fullmatch(part) for part in parts):
        return {**rule, **dict(zip(_SIDES, map(float, parts), strict=False))}
    if way == "time" and len(parts) == 2 and any(parts):
        return {**rule, **{name: moment for name, moment in zip(_SIDES[1:], parts, strict=True) if moment}}
    raise _no_split(text, call)


def _no_split(text: str, call: str) -> InvalidArguments:
    return InvalidArguments(call=call, problems=[f"--split is '{text[:80]}', {_EXPECTED_SPLIT}"])
