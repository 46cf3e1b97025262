"""An answer while rules look at it, and what a rule can do to it.

An act changes the turn and says whether it did anything; a rule whose act did nothing has not fired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from raystore.serve.rules.facts import Facts
from raystore.serve.rules.hooks import Hook, ask_after
from raystore.serve.rules.said import Said
from raystore.serve.spec.rules import AfterRule

OTHERS = "*"  # of `least`: every label that is not named


class Turn:
    """`facts` are what a condition may name now; the rest is what no condition names."""

    __slots__ = ("_allowed", "_failed", "facts", "labels", "review", "why")

    def __init__(self, facts: Facts, said: Said) -> None:
        self.facts: dict[str, Any] = {
            **facts,
            "label": said.label,
            "value": said.value,
            "confidence": said.confidence,
            "abstained": said.abstained,
        }
        self.labels = said.labels
        self.why = said.why
        self.review = said.review
        self._failed = False  # a rule should have looked at the answer and did not: it stays an abstention
        # Actions by label, of the last rule that said any: a label that another rule gives later has that label's.
        self._allowed: Mapping[str | None, Sequence[str]] | None = None
        if said.actions is not None:
            self._allowed = {said.label: said.actions}

    def said(self, fired: tuple[str, ...]) -> Said:
        facts = self.facts
        label, abstained = facts["label"], facts["abstained"]
        actions: tuple[str, ...] | None = None
        if self._allowed is not None:
            actions = () if abstained else tuple(self._allowed.get(label, ()))
        return Said(
            label, self.labels, facts["value"], facts["confidence"], abstained, self.why, actions, self.review, fired
        )

    def abstain(self, why: str) -> bool:
        if self._failed:
            return False
        self.facts["abstained"] = True
        self.why = why
        return True

    def fail(self, why: str) -> None:
        """Abstain for good: whatever later rules do, nobody acts on this answer. Of several that fail the first is the reason."""
        self.abstain(why)
        self._failed = True

    def give(self, label: str) -> bool:
        """The label is this one. The head's confidence was in another, and an abstention is over: a rule does not guess."""
        facts = self.facts
        if self._failed:
            return False
        if self.labels is not None:
            if self.labels != (label,):
                self.labels, facts["confidence"] = (label,), None
        elif facts["label"] is None:
            return False  # a number
        elif facts["label"] != label:
            facts["label"], facts["confidence"] = label, None
        facts["abstained"], self.why = False, None
        return True

    def at_least(self, bounds: Mapping[str, float], why: str) -> bool:
        label, confidence = self.facts["label"], self.facts["confidence"]
        if label is None or confidence is None:
            return False
        bound = bounds.get(label, bounds.get(OTHERS))
        if bound is None or confidence >= bound:
            return False
        return self.abstain(why)

    def allow(self, actions: Mapping[str | None, Sequence[str]]) -> bool:
        self._allowed = actions
        return True

    def look(self) -> bool:
        self.review = True
        return True

    def ask(self, rule: str, hook: Hook) -> bool:
        """Whether the hook changed anything. Where one failed before it, it can send the answer to review, and no more. HookFailed."""
        before = self.said(())
        made = ask_after(rule, hook, self.facts, before)
        if made is not None and self._failed:
            made = replace(before, review=made.review)
        if made is None or replace(made, fired=()) == before:
            return False
        self.facts.update(label=made.label, value=made.value, confidence=made.confidence, abstained=made.abstained)
        self.labels, self.review = made.labels, made.review
        self.why = (made.why or rule) if made.abstained else None
        if made.actions != before.actions:
            self._allowed = None if made.actions is None else {made.label: made.actions}
        return True


Act = Callable[[Turn], bool]


def act_of(rule: AfterRule, hook: Hook | None) -> Act:
    """What a rule of the file does to a turn; `hook` is the function that its `call` names."""
    name = rule.name
    if rule.label is not None:
        label = rule.label
        return lambda turn: turn.give(label)
    if rule.least is not None:
        bounds = dict(rule.least)
        return lambda turn: turn.at_least(bounds, name)
    if rule.allow is not None:
        actions: dict[str | None, Sequence[str]] = {label: tuple(allowed) for label, allowed in rule.allow.items()}
        return lambda turn: turn.allow(actions)
    if rule.review:
        return lambda turn: turn.look()
    if hook is not None:
        return lambda turn: turn.ask(name, hook)
    return lambda turn: turn.abstain(name)
