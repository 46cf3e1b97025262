"""Reading the deployment file: everything that is wrong in it at once, an unknown key with the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from raystore.errors import InvalidArguments
from raystore.serve.spec.app import AppSpec


class _Twice(Exception):
    """Keys that stand twice in one mapping: YAML forbids it, and its loader takes the last one."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(problems)
        self.problems = problems


class _Once(yaml.SafeLoader):
    def get_single_data(self) -> Any:
        node = self.get_single_node()
        problems = list(_twice(node, set())) if node is not None else []
        if problems:
            raise _Twice(problems)
        return None if node is None else self.construct_document(node)


def _twice(node: yaml.Node, looked: set[int]) -> Iterator[str]:
    if id(node) in looked or not isinstance(node, yaml.CollectionNode):  # an alias is its anchor's node once more
        return
    looked.add(id(node))
    first: dict[str, int] = {}
    for part in node.value:
        if isinstance(part, tuple) and isinstance(part[0], yaml.ScalarNode):
            key, line = part[0].value, part[0].start_mark.line + 1
            if key in first:
                yield f"line {line} has the key '{key}' once more, which stands in line {first[key]} already"
            first.setdefault(key, line)
        for each in part if isinstance(part, tuple) else (part,):
            yield from _twice(each, looked)


def load_spec(path: str | Path) -> AppSpec:
    """The deployment file at `path`.

    Raises:
        InvalidArguments: it cannot be read, is no YAML, or holds mistakes; all of them are named at once, an
            unknown key with the nearest known one.
    """
    call = f"serve '{path}'"
    try:
        value = yaml.load(Path(path).read_text(encoding="utf-8"), _Once)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise InvalidArguments(call=call, problems=[f"the file cannot be read ({error.strerror})"]) from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidArguments(call=call, problems=[f"line {line} is no YAML: {error.problem}"]) from None
    except _Twice as twice:
        raise InvalidArguments(call=call, problems=twice.problems) from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise InvalidArguments(call=call, problems=["the file is no YAML in UTF-8"]) from None
    if value is None:
        raise InvalidArguments(call=call, problems=["the file is empty, expected deployments: and what else it should set"])
    return parse_spec(value, call)


def parse_spec(value: object, call: str) -> AppSpec:
    """The spec in a mapping that YAML or Python made; InvalidArguments names everything that is wrong in it."""
    if not isinstance(value, Mapping):
        raise InvalidArguments(call=call, problems=["expected keys and values (deployments:, port:, ...)"])
    try:
        return AppSpec.model_validate(value)
    except ValidationError as error:
        problems = [_problem(e["type"], e["loc"], e["msg"]) for e in error.errors(include_input=False, include_url=False)]
        raise InvalidArguments(call=call, problems=list(dict.fromkeys(problems))) from None


def _problem(kind: str, where: tuple[int | str, ...], message: str) -> str:
    if kind == "extra_forbidden":
        known = _fields_at(where[:-1])
        near = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}"
        return f"{_path(where[:-1], 'the file')} has the unknown key '{where[-1]}': {hint}"
    if where and where[0] in ("collections", "models", "tables"):
        return f"{where[0]}: expected 'all' or a list of names"
    reason = message.removeprefix("Value error, ").removesuffix(".")
    return f"{_path(where)}: {reason[:1].lower()}{reason[1:]}"


def _path(where: tuple[int | str, ...], top: str = "") -> str:
    return ".".join(str(part) for part in where) or top


def _fields_at(where: tuple[int | str, ...]) -> list[str]:
    """The known keys of the model that stands at a path of the file, as they are written there."""
    kind: Any = AppSpec
    for part in where:
        kind = _below(kind, part)
    [model, *_] = [each for each in _kinds(kind) if _is_model(each)]
    return [field.alias or name for name, field in model.model_fields.items()]


def _below(kind: Any, part: int | str) -> Any:
    """The type of what stands at a key, or a place in a list, of a value of that type; None where nothing can."""
    for each in _kinds(kind):
        if _is_model(each):
            for name, field in each.model_fields.items():
                if part in (name, field.alias):
                    return field.annotation
        elif get_origin(each) is dict:
            return get_args(each)[1]  # a name the user chose
        elif get_origin(each) is list:
            return get_args(each)[0]
    return None


def _kinds(kind: Any) -> Iterator[Any]:
    """What a value of that type may be: of `Annotated[LogSpec, ...] | None`, LogSpec and NoneType."""
    if get_origin(kind) is Annotated:
        yield from _kinds(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for each in get_args(kind):
            yield from _kinds(each)
    else:
        yield kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
