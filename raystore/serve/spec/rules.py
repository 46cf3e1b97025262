"""Rules of a deployment, as they stand in its file: a name, a condition in the grammar of `where=`, and one thing to do.

What a condition may name and what is done is `raystore/serve/rules/`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from raystore.serve.spec.base import Strict

RuleName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
Condition = Annotated[str, StringConstraints(min_length=1, max_length=4000)]
Sentence = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=200)]
# A fact (key, subject) or a column; in double quotes always a column.
Named = Annotated[str, StringConstraints(min_length=1, max_length=202)]
Confidence = Annotated[float, Field(ge=0, le=1)]
# A function of a module that the service can import, 'acme.rules:known_spammer'.
Hook = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]


class Quota(Strict):
    """So many requests in a window, of each value of `per` (a column, subject, or key: who asks), or of all together."""

    requests: int = Field(ge=1, le=10_000_000, description="That are let through in the window.")
    window_s: float = Field(default=60, gt=0, le=86_400, description="How long the window is.")
    per: Named | None = Field(default=None, description="A column, subject, or key; by default all together.")


class _Rule(Strict):
    name: RuleName = Field(description="What the answer and the metrics call it.")
    when: Condition | None = Field(default=None, description="In the grammar of where=; without it, always.")
    shadow: bool = Field(default=False, description="Looked at after the answer and only counted: what would it have done?")

    @model_validator(mode="after")
    def _does_one_thing(self) -> _Rule:
        known = [name for name in type(self).model_fields if name not in _Rule.model_fields]
        given = [name for name in known if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a rule does one thing of {', '.join(known)}; found {' and '.join(given) or 'none'}")
        return self


class BeforeRule(_Rule):
    """Before anything is encoded. The first that refuses or routes ends the list."""

    refuse: Sentence | None = Field(default=None, description="403 with this sentence.")
    require: list[Named] | None = Field(
        default=None, min_length=1, description="What must be there and not null; else 422."
    )
    quota: Quota | None = Field(default=None, description="429 beyond it.")
    route: RuleName | None = Field(default=None, description="Another deployment answers.")
    call: Hook | None = Field(default=None, description="A Python function, 'acme.rules:known_spammer'.")

    @property
    def names(self) -> list[str]:
        """What it names outside its condition, as it is written there."""
        return self.require or ([self.quota.per] if self.quota is not None and self.quota.per is not None else [])


class AfterRule(_Rule):
    """After the head has spoken. All are looked at, in order; each sees what those before it changed."""

    abstain: Literal[True] | None = Field(default=None, description="The label is a guess that nobody should act on.")
    label: Label | None = Field(default=None, description="The answer's label instead of the head's.")
    least: dict[Label, Confidence] | None = Field(
        default=None, min_length=1, description="Confidence below which a label is abstained from; '*' for all others."
    )
    allow: dict[Label, list[Label]] | None = Field(
        default=None, min_length=1, description="Actions that each label allows; a label that is not named allows none."
    )
    review: Literal[True] | None = Field(default=None, description="Into the deployment's review queue.")
    call: Hook | None = Field(default=None, description="A Python function, 'acme.rules:known_spammer'.")


class RulesSpec(Strict):
    """Rules in order."""

    before: list[BeforeRule] = Field(default_factory=list, max_length=200, description="Before anything is encoded.")
    after: list[AfterRule] = Field(default_factory=list, max_length=200, description="After the head has spoken.")

    @model_validator(mode="after")
    def _names_differ(self) -> RulesSpec:
        names = [rule.name for rule in (*self.before, *self.after)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two rules are called {', '.join(twice)}")
        return self

    @property
    def shadow(self) -> tuple[BeforeRule | AfterRule, ...]:
        before = (rule for rule in self.before if rule.shadow)
        return (*before, *(rule for rule in self.after if rule.shadow))
