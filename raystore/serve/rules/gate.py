"""What a rule before the head can do with a request: let it be, refuse it, or send it on.

A gate raises where it refuses, returns the deployment where it routes, and adds to `taken` how its count is undone.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from raystore.errors import ColumnsRequired, HookFailed, QuotaExceeded, RuleRefused
from raystore.serve.rules.facts import Facts, Read
from raystore.serve.rules.hooks import Hook, ask_before
from raystore.serve.rules.quotas import Windows
from raystore.serve.rules.said import Refuse
from raystore.serve.spec.rules import BeforeRule, Quota


@dataclass(frozen=True)
class Place:
    """Which item of the request is looked at, for the sentence of a refusal; and what it took from quotas so far."""

    item: int
    n_items: int
    taken: list[Callable[[], None]]


Gate = Callable[[Facts, Place], str | None]


def gate_of(
    rule: BeforeRule,
    *,
    hook: Hook | None,
    named: dict[str, Read],
    routes: Container[str] | None,
    windows: Callable[[Quota], Windows],
) -> Gate:
    """What a rule of the file does with a request.

    Args:
        hook: the function that its `call` names.
        named: readers of the names that `require` or its quota's `per` has.
        routes: the deployments that a hook may route to; None: unknown here.
        windows: the counts of a quota.
    """
    name = rule.name
    if rule.refuse is not None:
        return _refusing(name, rule.refuse)
    if rule.require is not None:
        return _requiring(name, named)
    if rule.quota is not None:
        read = named[rule.quota.per] if rule.quota.per is not None else None
        return _counting(name, rule.quota, windows(rule.quota), read)
    if hook is not None:
        return _asking(name, hook, routes)
    return lambda _facts, _place: rule.route


def _refusing(rule: str, sentence: str) -> Gate:
    def gate(_: Facts, place: Place) -> str | None:
        raise RuleRefused(rule=rule, sentence=sentence, item=place.item, n_items=place.n_items)

    return gate


def _requiring(rule: str, named: dict[str, Read]) -> Gate:
    def gate(facts: Facts, place: Place) -> str | None:
        missing = [name for name, read in named.items() if read(facts) is None]
        if missing:
            raise ColumnsRequired(rule=rule, missing=missing, item=place.item, n_items=place.n_items)
        return None

    return gate


def _counting(rule: str, quota: Quota, windows: Windows, read: Read | None) -> Gate:
    def gate(facts: Facts, place: Place) -> str | None:
        value = None if read is None else read(facts)
        wait_s = windows.take(value)
        if wait_s > 0:
            raise QuotaExceeded(
                rule=rule,
                requests=quota.requests,
                window_s=quota.window_s,
                retry_after_s=round(wait_s, 3),
                item=place.item,
                n_items=place.n_items,
            )
        place.taken.append(lambda: windows.give_back(value))
        return None

    return gate


def _asking(rule: str, hook: Hook, routes: Container[str] | None) -> Gate:
    def gate(facts: Facts, place: Place) -> str | None:
        said = ask_before(rule, hook, facts)
        if isinstance(said, Refuse):
            raise RuleRefused(rule=rule, sentence=said.sentence, item=place.item, n_items=place.n_items)
        if said is None:
            return None
        if routes is not None and said.to not in routes:
            raise HookFailed(rule=rule, found="routed to a deployment that is not there")
        return said.to

    return gate
