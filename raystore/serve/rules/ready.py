"""Rules of the file made ready: conditions compiled, hooks imported, quotas with their counts. All that is wrong is found at once."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from raystore.errors import SqlRefused
from raystore.serve.rules.condition import Test, compile_condition
from raystore.serve.rules.facts import Read, Stage, written_reader
from raystore.serve.rules.gate import Gate, gate_of
from raystore.serve.rules.hooks import Hook, load_hook
from raystore.serve.rules.quotas import Windows
from raystore.serve.rules.turn import Act, act_of
from raystore.serve.spec.rules import AfterRule, BeforeRule, Quota, RulesSpec


@dataclass(frozen=True)
class Before:
    name: str
    when: Test | None
    gate: Gate


@dataclass(frozen=True)
class After:
    name: str
    when: Test | None
    act: Act


@dataclass(frozen=True)
class Ready:
    """`problems` are sentences that begin with their rule; where there are any, their rules are missing."""

    before: tuple[Before, ...]
    after: tuple[After, ...]
    shadow_before: tuple[Before, ...]
    shadow_after: tuple[After, ...]
    problems: tuple[str, ...]


def make_ready(spec: RulesSpec, *, share: float, clock: Callable[[], float], routes: Container[str] | None) -> Ready:
    problems: list[str] = []
    before: dict[bool, list[Before]] = {False: [], True: []}
    after: dict[bool, list[After]] = {False: [], True: []}

    def windows(quota: Quota) -> Windows:
        return Windows(quota.requests, quota.window_s, share=share, clock=clock)

    for rule in spec.before:
        stage: Stage = "shadow before" if rule.shadow else "before"
        when, hook, wrong = _parts(rule, stage, 1)
        named, unnamed = _named(rule, stage)
        problems += wrong + unnamed
        if not wrong and not unnamed:
            gate = gate_of(rule, hook=hook, named=named, routes=routes, windows=windows)
            before[rule.shadow].append(Before(rule.name, when, gate))
    for last in spec.after:
        when, hook, wrong = _parts(last, "shadow after" if last.shadow else "after", 2)
        problems += wrong
        if not wrong:
            after[last.shadow].append(After(last.name, when, act_of(last, hook)))
    return Ready(tuple(before[False]), tuple(after[False]), tuple(before[True]), tuple(after[True]), tuple(problems))


def _parts(rule: BeforeRule | AfterRule, stage: Stage, parameters: int) -> tuple[Test | None, Hook | None, list[str]]:
    """Its condition, its hook, and what is wrong with either."""
    when, hook, problems = None, None, []
    if rule.when is not None:
        try:
            when = compile_condition(rule.when, stage)
        except SqlRefused as error:
            advice = f". {error.advice.removesuffix('.')}" if error.advice else ""
            problems.append(f"rule '{rule.name}': {error.reason}{advice}")
    if rule.call is not None:
        try:
            hook = load_hook(rule.call, parameters)
        except ValueError as error:
            problems.append(f"rule '{rule.name}': it calls {error}")
    return when, hook, problems


def _named(rule: BeforeRule, stage: Stage) -> tuple[dict[str, Read], list[str]]:
    """Readers of the names a rule has outside its condition, and what is wrong with them."""
    readers: dict[str, Read] = {}
    problems = []
    for name in rule.names:
        try:
            readers[name] = written_reader(name, stage)
        except ValueError as error:
            problems.append(f"rule '{rule.name}': it names {error}")
    return readers, problems
