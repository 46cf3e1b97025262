"""Python hooks: functions named by import path, 'acme.rules:known_spammer', that a rule calls.

    before: f(facts) -> None | Refuse(sentence) | Route(deployment)
    after:  f(facts, said) -> None | Said

Imported once, when the deployment is loaded; the operator's own code, run in the service's process without a sandbox and without a
time limit. A hook that raises, or returns something else, is told from one that has nothing to say: `HookFailed`, with the rule and
the exception's type, never its text.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from raystore.errors import HookFailed
from raystore.serve.rules.facts import Facts
from raystore.serve.rules.said import Refuse, Route, Said

Hook = Callable[..., Any]
_MOST_CHARS = 200  # of a sentence, as in the file


def load_hook(path: str, parameters: int) -> Hook:
    """The function at a path.

    Raises:
        ValueError: the rest of a sentence ("it calls ..."): it cannot be imported, or takes other parameters.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 a module of the operator's can raise anything
        raise ValueError(f"'{path}', which cannot be imported: {type(error).__name__}") from None
    if not callable(found):
        raise ValueError(f"'{path}', which is no function")
    if inspect.iscoroutinefunction(found):
        raise ValueError(f"'{path}', which is a coroutine function, expected a plain one")
    try:
        inspect.signature(found).bind(*range(parameters))
    except TypeError:
        wanted = "(facts)" if parameters == 1 else "(facts, said)"
        raise ValueError(f"'{path}', which does not take {wanted}") from None
    except ValueError:  # a built-in function without a signature
        pass
    return found  # type: ignore[no-any-return]


def ask_before(rule: str, hook: Hook, facts: Facts) -> Refuse | Route | None:
    """What the hook says of a request. HookFailed."""
    said = _called(rule, hook, MappingProxyType(facts))
    if isinstance(said, Refuse):
        if not isinstance(said.sentence, str) or not 1 <= len(said.sentence) <= _MOST_CHARS:
            raise HookFailed(rule=rule, found=f"returned Refuse without a sentence of 1 to {_MOST_CHARS} characters")
    elif isinstance(said, Route):
        if not isinstance(said.to, str):
            raise HookFailed(rule=rule, found="returned Route without a deployment's name")
    elif said is not None:
        raise HookFailed(rule=rule, found=f"returned {type(said).__name__}, expected None, Refuse or Route")
    return said


def ask_after(rule: str, hook: Hook, facts: Facts, said: Said) -> Said | None:
    """What the hook makes of an answer; None where it changes nothing. HookFailed."""
    made = _called(rule, hook, MappingProxyType(facts), said)
    if made is None:
        return None
    if not isinstance(made, Said):
        raise HookFailed(rule=rule, found=f"returned {type(made).__name__}, expected None or Said")
    wrong = [name for name, fits in _FITS.items() if not fits(getattr(made, name))]
    wrong += [
        name
        for name in ("label", "labels", "value")
        if name not in wrong and (getattr(made, name) is None) != (getattr(said, name) is None)
    ]
    if wrong:
        raise HookFailed(rule=rule, found=f"returned Said whose {wrong[0]} cannot be")
    return made


def _called(rule: str, hook: Hook, *arguments: object) -> object:
    try:
        return hook(*arguments)
    except Exception as error:  # noqa: BLE001 a hook can raise anything; its text could hold content
        raise HookFailed(rule=rule, found=f"raised {type(error).__name__}{_line(error)}") from None


def _line(error: Exception) -> str:
    """Where in the hook, so that its author can find it without the exception's text."""
    inside = error.__traceback__.tb_next if error.__traceback__ else None
    return f" at its line {inside.tb_lineno}" if inside else ""


def _texts(value: object) -> bool:
    return value is None or (isinstance(value, tuple) and all(isinstance(each, str) for each in value))


def _number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _text(value: object) -> bool:
    return value is None or isinstance(value, str)


_FITS: dict[str, Callable[[object], bool]] = {
    "label": _text, "labels": _texts, "value": _number, "confidence": _number, "why": _text, "actions": _texts,
    "abstained": lambda value: isinstance(value, bool), "review": lambda value: isinstance(value, bool),
}  # fmt: skip
