from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raystore.errors import HookFailed, InvalidArguments, RuleRefused
from raystore.serve.rules import Passed, Rules, Said
from raystore.serve.spec.rules import RulesSpec

SECRET = "my number is 4711"
FACTS: dict[str, Any] = {"text": SECRET, "subject": "c-1", "columns": {"product": "card"}}
SAID = Said(label="refund", confidence=0.8)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Writes a module that rules can import; its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    name = f"hooks_of_{request.node.name.partition('[')[0]}_{abs(hash(request.node.name))}"

    def write(code: str) -> str:
        head = "from dataclasses import replace\nfrom raystore.serve.rules import Refuse, Route, Said\n"
        (tmp_path / f"{name}.py").write_text(head + textwrap.dedent(code), encoding="utf-8")
        return name

    return write


def rules(stage: str, hook: str, **more: Any) -> Rules:
    return Rules(RulesSpec.model_validate({stage: [{"name": "mine", "call": hook, **more.pop("rule", {})}]}), **more)


def test_a_hook_refuses_routes_or_lets_be(module: Callable[[str], str]) -> None:
    name = module(
        """
        def known(facts):
            if facts["subject"] == "spammer":
                return Refuse("This sender is blocked")
            if facts["columns"].get("product") == "loan":
                return Route("loans")
        """
    )
    mine = rules("before", f"{name}:known")
    assert mine.before(FACTS) == Passed()
    assert mine.before({**FACTS, "columns": {"product": "loan"}}) == Passed(fired=("mine",), route="loans")
    with pytest.raises(RuleRefused) as refused:
        mine.before({**FACTS, "subject": "spammer"})
    assert str(refused.value) == "rule 'mine' refuses this request: This sender is blocked."


def test_a_hook_is_asked_only_where_its_condition_holds(module: Callable[[str], str]) -> None:
    name = module("def no(facts):\n    return Refuse('No')\n")
    mine = rules("before", f"{name}:no", rule={"when": "product = 'loan'"})
    assert mine.before(FACTS) == Passed()


def test_a_hook_changes_an_answer_and_has_fired_only_where_it_did(module: Callable[[str], str]) -> None:
    name = module(
        """
        def quiet(facts, said):
            if "4711" in facts["text"]:
                return replace(said, abstained=True, review=True, actions=("call",))

        def same(facts, said):
            return replace(said)
        """
    )
    said = rules("after", f"{name}:quiet").after(FACTS, SAID)
    assert said == Said(
        label="refund", confidence=0.8, abstained=True, why="mine", actions=(), review=True, fired=("mine",)
    )
    assert rules("after", f"{name}:same").after(FACTS, SAID) is SAID


def test_a_hook_cannot_change_the_facts_that_other_rules_see(module: Callable[[str], str]) -> None:
    name = module("def change(facts):\n    facts['subject'] = 'me'\n")
    with pytest.raises(HookFailed) as failed:
        rules("before", f"{name}:change").before(FACTS)
    assert str(failed.value) == "the hook of rule 'mine' raised TypeError at its line 4. The request was not answered."


def test_a_before_hook_that_raises_lets_nothing_pass_and_its_text_goes_nowhere(module: Callable[[str], str]) -> None:
    name = module(
        """
        def broken(facts):
            raise ValueError(facts["text"])
        """
    )
    told: list[tuple[str, str]] = []
    mine = rules("before", f"{name}:broken", failed=lambda rule, found: told.append((rule, found)))
    with pytest.raises(HookFailed) as failed:
        mine.before(FACTS)
    assert failed.value.facts == {"rule": "mine", "found": "raised ValueError at its line 5"}
    assert SECRET not in str(failed.value)
    assert told == [("mine", "raised ValueError at its line 5")]


def test_an_after_hook_that_raises_makes_the_answer_abstain(module: Callable[[str], str]) -> None:
    name = module("def broken(facts, said):\n    return {}['x']\n")
    told: list[tuple[str, str]] = []
    mine = rules("after", f"{name}:broken", failed=lambda rule, found: told.append((rule, found)))
    assert mine.after(FACTS, SAID) == Said(label="refund", confidence=0.8, abstained=True, why="mine", fired=("mine",))
    assert told == [("mine", "raised KeyError at its line 4")]


@pytest.mark.parametrize("later", [{"label": "priority"}, {"call": "{module}:sure"}, {"abstain": True}])
def test_no_rule_below_ends_the_abstention_of_a_hook_that_failed(
    module: Callable[[str], str], later: dict[str, Any]
) -> None:
    name = module(
        """
        def broken(facts, said):
            return {}["x"]

        def sure(facts, said):
            return replace(said, label="priority", confidence=1.0, abstained=False, why=None, actions=("call",))
        """
    )
    if "call" in later:
        later = {"call": f"{name}:sure"}
    spec = {
        "after": [
            {"name": "broken", "call": f"{name}:broken"},
            {"name": "later", **later},
            {"name": "allowed", "allow": {"refund": ["reply"], "priority": ["call"]}},
            {"name": "again", "call": f"{name}:broken"},
            {"name": "look", "when": "abstained AND label = 'refund'", "review": True},
        ]
    }
    assert Rules(RulesSpec.model_validate(spec)).after(FACTS, SAID) == Said(
        label="refund", confidence=0.8, abstained=True, why="broken", actions=(), review=True,
        fired=("broken", "allowed", "again", "look"),
    )  # fmt: skip


def test_a_hook_below_one_that_failed_can_still_send_to_review(module: Callable[[str], str]) -> None:
    name = module(
        """
        def broken(facts, said):
            return {}["x"]

        def look(facts, said):
            return replace(said, label="priority", abstained=False, review=True)
        """
    )
    spec = {"after": [{"name": n, "call": f"{name}:{n}"} for n in ("broken", "look")]}
    assert Rules(RulesSpec.model_validate(spec)).after(FACTS, SAID) == Said(
        label="refund", confidence=0.8, abstained=True, why="broken", review=True, fired=("broken", "look")
    )


def test_a_hook_in_shadow_that_raises_is_told_and_has_not_fired(module: Callable[[str], str]) -> None:
    name = module("def broken(facts, said):\n    raise MemoryError\ndef no(facts):\n    return Refuse('No')\n")
    told: list[tuple[str, str]] = []
    failed = {"failed": lambda rule, found: told.append((rule, found))}
    assert rules("after", f"{name}:broken", rule={"shadow": True}, **failed).shadow(FACTS, SAID) == {}
    assert told == [("mine", "raised MemoryError at its line 4")]
    assert rules("before", f"{name}:no", rule={"shadow": True}).shadow(FACTS, SAID) == {"mine": True}


def test_a_hook_in_shadow_that_fails_again_and_again_is_asked_more_and_more_rarely(module: Callable[[str], str]) -> None:
    name = module(
        "asked = []\n"
        "def hook(facts, said):\n"
        "    asked.append(facts['now'])\n"
        "    if not facts['well']:\n"
        "        raise KeyError\n"
    )
    now = [0.0]
    spec = {"after": [{"name": each, "call": f"{name}:hook", "shadow": True} for each in ("one", "other")]}
    spec["after"][1]["when"] = "subject = 'other'"
    made = Rules(RulesSpec.model_validate(spec), clock=lambda: now[0])
    asked = importlib.import_module(name).asked

    def looked_at(seconds: int, well: bool, subject: str = "c-1") -> list[float]:
        """When it was asked, of ten requests a second from now on."""
        asked.clear()
        for _ in range(10 * seconds):
            made.shadow({**FACTS, "now": now[0], "well": well, "subject": subject}, SAID)
            now[0] = round(now[0] + 0.1, 1)
        return list(asked)

    assert looked_at(10, well=False) == [0.0, 0.1, 0.2, 1.2, 3.2, 7.2]
    assert looked_at(110, well=False)[-2:] == [31.2, 63.2], "a rest is doubled"
    assert looked_at(10, well=True)[:2] == [123.2, 123.3], "no more than a minute, and none once it succeeds"
    assert looked_at(1, well=False)[:3] == [130.0, 130.1, 130.2], "three in a row again"
    now[0] = 500.0
    assert len(looked_at(1, well=True, subject="other")) == 20, "each rule by itself"


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ("True", "returned bool, expected None, Refuse or Route"),
        ("Refuse", "returned type, expected None, Refuse or Route"),
        ("Refuse('')", "returned Refuse without a sentence of 1 to 200 characters"),
        ("Refuse('x' * 201)", "returned Refuse without a sentence of 1 to 200 characters"),
        ("Route(3)", "returned Route without a deployment's name"),
        ("Route('nowhere')", "routed to a deployment that is not there"),
    ],
)
def test_what_a_before_hook_cannot_return_is_a_failure(module: Callable[[str], str], returned: str, found: str) -> None:
    name = module(f"def hook(facts):\n    return {returned}\n")
    with pytest.raises(HookFailed) as failed:
        rules("before", f"{name}:hook", routes={"triage", "loans"}).before(FACTS)
    assert failed.value.found == found


@pytest.mark.parametrize(
    ("returned", "found"),
    [
        ("'refund'", "returned str, expected None or Said"),
        ("replace(said, label=3)", "returned Said whose label cannot be"),
        ("replace(said, label=None)", "returned Said whose label cannot be"),
        ("replace(said, value=1.0)", "returned Said whose value cannot be"),
        ("replace(said, actions=['pay'])", "returned Said whose actions cannot be"),
        ("replace(said, abstained=1)", "returned Said whose abstained cannot be"),
        ("replace(said, confidence='high')", "returned Said whose confidence cannot be"),
    ],
)
def test_what_an_after_hook_cannot_return_is_a_failure(module: Callable[[str], str], returned: str, found: str) -> None:
    name = module(f"def hook(facts, said):\n    return {returned}\n")
    told: list[str] = []
    mine = rules("after", f"{name}:hook", failed=lambda _, found: told.append(found))
    assert mine.after(FACTS, SAID).why == "mine"
    assert told == [found]


@pytest.mark.parametrize(
    ("code", "stage", "problem"),
    [
        ("def hook(facts): ...", "after", "which does not take (facts, said)"),
        ("def hook(facts, said): ...", "before", "which does not take (facts)"),
        ("async def hook(facts): ...", "before", "which is a coroutine function, expected a plain one"),
        ("hook = 3", "before", "which is no function"),
        ("", "before", "which cannot be imported: AttributeError"),
        ("raise RuntimeError('4711')", "before", "which cannot be imported: RuntimeError"),
        ("raise SystemExit(1)", "before", "which cannot be imported: SystemExit"),
        ("def hook(facts:", "before", "which cannot be imported: SyntaxError"),
    ],
)
def test_a_hook_that_cannot_be_had_is_refused_when_the_deployment_is_loaded(
    module: Callable[[str], str], code: str, stage: str, problem: str
) -> None:
    name = module(code)
    with pytest.raises(InvalidArguments) as refused:
        rules(stage, f"{name}:hook")
    assert str(refused.value) == f"rules: rule 'mine': it calls '{name}:hook', {problem}."


def test_a_module_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidArguments) as refused:
        rules("before", "no_such_module.rules:hook")
    assert str(refused.value) == (
        "rules: rule 'mine': it calls 'no_such_module.rules:hook', which cannot be imported: ModuleNotFoundError."
    )
