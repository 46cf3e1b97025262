"""A deployment's rules at work: before the head on a request, after it on an answer, in shadow on both.

Pure: no HTTP, no Ray. Twenty rules with a condition each cost about 15 us before and after together, hooks not counted. Texts are
seen here and nowhere kept; answers and errors hold names of rules, sentences of the file, and names that the file asks for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import replace
from typing import Any

from raystore.errors import ColumnsRequired, HookFailed, InvalidArguments, QuotaExceeded, RuleRefused
from raystore.serve.rules.facts import Facts
from raystore.serve.rules.gate import Place
from raystore.serve.rules.reads import reads_of
from raystore.serve.rules.ready import make_ready
from raystore.serve.rules.resting import Resting
from raystore.serve.rules.said import Passed, Said
from raystore.serve.rules.turn import Turn
from raystore.serve.spec.rules import RulesSpec


def _uncounted(rule: str, found: str) -> None:
    """What becomes of a failed hook where nobody counts them."""


class Rules:
    """Rules of one deployment, ready. Holds the counts of their quotas; safe in many threads as far as the hooks are."""

    def __init__(
        self,
        spec: RulesSpec,
        *,
        share: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        routes: Container[str] | None = None,
        failed: Callable[[str, str], None] = _uncounted,
    ) -> None:
        """
        Args:
            share: of every quota, what this replica takes: one by the number of replicas.
            clock: in seconds, never going back.
            routes: the deployments that a hook may route to; None: any, and the caller looks.
            failed: told the rule's name and 'raised KeyError at its line 3', or the like, whenever a hook fails.

        Raises:
            InvalidArguments: every condition that cannot be compiled, name that is not known and hook that cannot be imported.
        """
        ready = make_ready(spec, share=share, clock=clock, routes=routes)
        if ready.problems:
            raise InvalidArguments(call="rules", problems=list(ready.problems))
        self._ready = ready
        self._reads = reads_of(spec)
        self._failed = failed
        self._resting = Resting(clock)

    def before(self, facts: Facts, *, item: int = 0, n_items: int = 1) -> Passed:
        """The way of a request, in the order of the list; the first rule that refuses or routes ends it.

        A quota takes when its rule is reached. Where a later rule refuses, what was taken is given back; where the request is
        refused later on, the caller does that with `Passed.give_back`.

        Args:
            facts: see `facts.py`.
            item: its place in a request of `n_items`, for the sentence of a refusal.

        Raises:
            RuleRefused, ColumnsRequired, QuotaExceeded.
            HookFailed: a hook raised, or returned what it cannot. The request is not let through: a block list that is broken
                must not be open.
        """
        place = Place(item, n_items, [])
        try:
            for rule in self._ready.before:
                if rule.when is None or rule.when(facts):
                    route = rule.gate(facts, place)
                    if route is not None:
                        return Passed((rule.name,), route, tuple(place.taken))
        except Exception as error:
            for give_back in place.taken:
                give_back()
            if isinstance(error, HookFailed):
                self._failed(error.rule, error.found)
            raise
        return Passed(taken=tuple(place.taken))

    def after(self, facts: Facts, said: Said) -> Said:
        """What rules make of what a head said. Those that fired are added to `said.fired`.

        A hook that fails makes the prediction abstain for good, with its rule as the reason: nobody acts on an answer that a rule
        should have looked at and did not. Rules below can still send it to review; none gives it a label or ends the abstention.

        Args:
            facts: as before, with `head`, and of a head of classes `second` and `margin`; the rest is taken from `said`.
        """
        if not self._ready.after:
            return said
        turn = Turn(facts, said)
        fired = []
        for rule in self._ready.after:
            if rule.when is None or rule.when(turn.facts):
                try:
                    if rule.act(turn):
                        fired.append(rule.name)
                except HookFailed as error:
                    self._failed(error.rule, error.found)
                    turn.fail(rule.name)
                    fired.append(rule.name)
        return turn.said((*said.fired, *fired)) if fired else said

    def told(self, facts: Facts) -> dict[str, Any]:
        """Of the facts those that the rules in shadow look at: what `shadow` is asked with in another process."""
        return self._reads.of(facts)

    def shadow(self, facts: Facts, said: Said) -> dict[str, bool]:
        """The rules in shadow that would have fired, and whether that would have changed what becomes of the request.

        Each is looked at by itself, on the answer as it went out. A quota in shadow counts by itself. A hook that fails is told to
        `failed`, and its rule has not fired; one that fails three times in a row is not asked for a second, then for two, up to a
        minute, until it succeeds.

        Args:
            facts: as for `after`, the text left out; those of `told` will do.
        """
        ready = self._ready
        changes: dict[str, bool] = {}
        for early in ready.shadow_before:
            if (early.when is not None and not early.when(facts)) or self._resting.rests(early.name):
                continue
            try:
                if early.gate(facts, Place(0, 1, [])) is not None:
                    changes[early.name] = True
            except (RuleRefused, ColumnsRequired, QuotaExceeded):
                changes[early.name] = True
            except HookFailed as error:
                self._failed_in_shadow(error)
                continue
            self._resting.worked(early.name)
        if not ready.shadow_after:
            return changes
        now = Turn(facts, said).facts
        for rule in ready.shadow_after:
            if (rule.when is not None and not rule.when(now)) or self._resting.rests(rule.name):
                continue
            turn = Turn(facts, said)
            try:
                if rule.act(turn):
                    changes[rule.name] = turn.said(said.fired) != replace(said, why=turn.why)
            except HookFailed as error:
                self._failed_in_shadow(error)
                continue
            self._resting.worked(rule.name)
        return changes

    def _failed_in_shadow(self, error: HookFailed) -> None:
        self._failed(error.rule, error.found)
        self._resting.failed(error.rule)
