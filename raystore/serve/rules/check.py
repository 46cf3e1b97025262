"""All that is wrong with a deployment's rules, for whoever checks the file before it is served."""

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Iterator, Mapping

from raystore.errors import listed
from raystore.serve.rules.condition import labels_named
from raystore.serve.rules.ready import make_ready
from raystore.serve.rules.turn import OTHERS
from raystore.serve.spec.rules import RulesSpec
from raystore.train.source import Task

# What asks for a label of its own, or for one label at all, by the task of a head that has none.
_MEANINGLESS: dict[Task, tuple[str, ...]] = {
    "classes": (),
    "labels": ("least", "allow"),
    "number": ("label", "least", "allow"),
}
_TOLD: dict[Task, str] = {"classes": "one label", "labels": "any number of labels", "number": "a number"}


def problems(
    spec: RulesSpec,
    deployments: Mapping[str, RulesSpec],
    name: str,
    *,
    task: Task | None = None,
    labels: Collection[str] | None = None,
) -> list[str]:
    """What is wrong with the rules of the deployment `name`, each in a sentence that begins with its rule; hooks are imported.

    Args:
        deployments: the rules of all deployments there are, for routes.
        task: of the live head, where it is known.
        labels: all that its heads can give, where they are known.
    """
    found = list(make_ready(spec, share=1.0, clock=time.monotonic, routes=None).problems)
    for rule in spec.before:
        if rule.route is None:
            continue
        if rule.route not in deployments:
            near = difflib.get_close_matches(rule.route, deployments, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(deployments))}"
            found.append(f"rule '{rule.name}': it routes to '{rule.route}', which is no deployment: {hint}")
        elif not rule.shadow and (circle := _way(rule.route, name, deployments)):
            told = " -> ".join((name, *circle))
            found.append(f"rule '{rule.name}': it routes in a circle: {told}")
    if task is not None:
        for last in spec.after:
            does = [field for field in _MEANINGLESS[task] if getattr(last, field) is not None]
            if does:
                found.append(f"rule '{last.name}': {does[0]} means nothing of a head that gives {_TOLD[task]}")
    return found + ([] if labels is None else list(_strange_labels(spec, labels)))


def _strange_labels(spec: RulesSpec, labels: Collection[str]) -> Iterator[str]:
    """Labels that a rule names and that nothing gives: mistyped, a threshold of theirs would silently never apply.

    A hook may give a label of its own. Rules below it are not held against the known ones, nor is any `allow`, which holds for
    labels that are given after it too.
    """
    given = sorted({*labels, *(rule.label for rule in spec.after if rule.label is not None)})
    for i, rule in enumerate(spec.after):
        named = {
            "when": labels_named(rule.when) if rule.when is not None else [],
            "least": [label for label in rule.least or () if label != OTHERS],
            "allow": list(rule.allow or ()),
        }
        for field, its in named.items():
            hooked = any(each.call for each in (spec.after if field == "allow" else spec.after[:i]))
            for label in its if not hooked else ():
                if label not in given:
                    near = difflib.get_close_matches(label, given, n=1)
                    hint = f"did you mean '{near[0]}'?" if near else f"there are {listed(given)}"
                    yield f"rule '{rule.name}': {field} names '{label}', a label that no head and no rule gives: {hint}"


def _way(start: str, goal: str, deployments: Mapping[str, RulesSpec]) -> tuple[str, ...]:
    """The deployments from `start` to `goal` by live routes; nothing where none leads there. Breadth first, so the shortest."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    for way in ways:
        if way[-1] == goal:
            return way
        for rule in deployments[way[-1]].before if way[-1] in deployments else ():
            if rule.route is not None and not rule.shadow and rule.route not in seen:
                seen.add(rule.route)
                ways.append((*way, rule.route))
    return ()
