"""A deployment's rules, as its file has them, on requests and answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from raystore.errors import ColumnsRequired, InvalidArguments, QuotaExceeded, RuleRefused
from raystore.serve.rules import Passed, Rules, Said, problems
from raystore.serve.rules.facts import BEFORE
from raystore.serve.spec.read import parse_spec
from raystore.serve.spec.rules import RulesSpec

SECRET = "my number is 4711 and nobody may read it"
REFUND = Said(label="refund", confidence=0.8)


def spec(**lists: list[dict[str, Any]]) -> RulesSpec:
    return RulesSpec.model_validate(lists)


def before(*rules: dict[str, Any]) -> Rules:
    return Rules(spec(before=list(rules)))


def after(*rules: dict[str, Any]) -> Rules:
    return Rules(spec(after=list(rules)))


def facts(**known: Any) -> dict[str, Any]:
    named = {name: known.pop(name, None) for name in (*BEFORE, "head", "second", "margin")}
    return {**named, "columns": known}


# --- before -------------------------------------------------------------------------------------------------------------


def test_without_rules_everything_passes_and_nothing_is_changed() -> None:
    rules = Rules(RulesSpec())
    assert rules.before(facts(text=SECRET)) == Passed(fired=(), route=None)
    assert rules.after(facts(text=SECRET), REFUND) is REFUND
    assert rules.shadow(facts(), REFUND) == {}


def test_a_request_that_a_rule_refuses_is_told_the_rule_and_its_sentence_and_nothing_of_the_input() -> None:
    rules = before({"name": "no-numbers", "when": "text LIKE '%4711%'", "refuse": "Account numbers do not belong here"})
    with pytest.raises(RuleRefused) as refused:
        rules.before(facts(text=SECRET))
    assert str(refused.value) == "rule 'no-numbers' refuses this request: Account numbers do not belong here."
    assert refused.value.facts == {
        "rule": "no-numbers",
        "sentence": "Account numbers do not belong here",
        "item": 0,
        "n_items": 1,
    }
    assert rules.before(facts(text="hello")) == Passed()


def test_a_refusal_among_several_items_says_which() -> None:
    rules = before({"name": "closed", "refuse": "We are closed."})
    with pytest.raises(RuleRefused) as refused:
        rules.before(facts(), item=3, n_items=8)
    assert str(refused.value) == "rule 'closed' refuses item 3 of 8: We are closed."


def test_a_condition_that_is_null_does_not_match() -> None:
    rules = before({"name": "abroad", "when": "country != 'de'", "refuse": "Not here"})
    assert rules.before(facts()) == Passed()  # no country
    assert rules.before(facts(country=49)) == Passed()  # no text
    with pytest.raises(RuleRefused):
        rules.before(facts(country="fr"))


def test_what_a_rule_requires_and_is_not_there_or_null_is_named() -> None:
    rules = before({"name": "whole", "require": ["subject", "product", "amount", '"label"']})
    with pytest.raises(ColumnsRequired) as refused:
        rules.before(facts(amount=0, product=None))
    assert (
        str(refused.value)
        == "rule 'whole' requires what this request lacks, or has as null: 'subject', 'product', '\"label\"'."
    )
    assert rules.before(facts(subject="c-1", amount=0, product="card", label="x")) == Passed()


def test_a_rule_sends_a_request_to_another_deployment_and_ends_the_list() -> None:
    rules = before(
        {"name": "pictures", "when": "kind = 'image'", "route": "photos"},
        {"name": "nothing", "refuse": "Texts are not taken"},
    )
    assert rules.before(facts(kind="image")) == Passed(fired=("pictures",), route="photos")
    with pytest.raises(RuleRefused):
        rules.before(facts(kind="text"))


def test_the_first_rule_that_refuses_ends_the_list() -> None:
    rules = before({"name": "one", "refuse": "One"}, {"name": "two", "refuse": "Two"})
    with pytest.raises(RuleRefused) as refused:
        rules.before(facts())
    assert refused.value.rule == "one"


# --- quotas in the list -------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def counting(*rules: dict[str, Any], share: float = 1.0) -> tuple[Rules, Clock]:
    clock = Clock()
    return Rules(spec(before=list(rules)), clock=clock, share=share), clock


def test_a_quota_lets_as_many_pass_as_it_says_and_says_when_to_come_back() -> None:
    rules, clock = counting({"name": "calm", "quota": {"requests": 2, "window_s": 80, "per": "subject"}})
    for _ in range(2):
        rules.before(facts(subject="c-1"))
    with pytest.raises(QuotaExceeded) as refused:
        rules.before(facts(subject="c-1"))
    assert str(refused.value) == "rule 'calm' lets 2 pass in 80 s, and this request is one more. Try again in 90 s."
    assert refused.value.facts == {
        "rule": "calm",
        "requests": 2,
        "window_s": 80.0,
        "retry_after_s": 90.0,
        "item": 0,
        "n_items": 1,
    }
    rules.before(facts(subject="c-2"))
    clock.now += refused.value.retry_after_s
    rules.before(facts(subject="c-1"))


def test_a_quota_counts_by_a_column_by_who_asks_or_all_together() -> None:
    for per, one, other in (("product", {"product": "a"}, {"product": "b"}), ("key", {"key": "a"}, {"key": "b"})):
        rules, _ = counting({"name": "calm", "quota": {"requests": 1, "per": per}})
        rules.before(facts(**one))
        rules.before(facts(**other))
        with pytest.raises(QuotaExceeded):
            rules.before(facts(**one))
    rules, _ = counting({"name": "calm", "quota": {"requests": 1}})
    rules.before(facts(key="a"))
    with pytest.raises(QuotaExceeded):
        rules.before(facts(key="b"))


def test_requests_without_what_a_quota_counts_by_are_counted_together() -> None:
    rules, _ = counting({"name": "calm", "quota": {"requests": 1, "per": "subject"}})
    rules.before(facts())
    with pytest.raises(QuotaExceeded):
        rules.before(facts(product="x"))


def test_a_request_that_a_later_rule_refuses_does_not_count() -> None:
    rules, _ = counting(
        {"name": "calm", "quota": {"requests": 1}},
        {"name": "calmer", "quota": {"requests": 5, "per": "subject"}},
        {"name": "no", "when": "subject = 'c-1'", "refuse": "No"},
    )
    for _ in range(3):
        with pytest.raises(RuleRefused):
            rules.before(facts(subject="c-1"))
    rules.before(facts(subject="c-2"))
    with pytest.raises(QuotaExceeded):
        rules.before(facts(subject="c-2"))


def test_a_request_that_fails_after_the_rules_can_be_given_back() -> None:
    rules, _ = counting({"name": "calm", "quota": {"requests": 1}})
    passed = rules.before(facts())
    passed.give_back()
    rules.before(facts())


def test_a_request_that_is_routed_on_counts_where_it_came_in() -> None:
    rules, _ = counting({"name": "calm", "quota": {"requests": 1}}, {"name": "on", "route": "other"})
    assert rules.before(facts()).route == "other"
    with pytest.raises(QuotaExceeded):
        rules.before(facts())


# --- after --------------------------------------------------------------------------------------------------------------


def test_a_rule_abstains_and_is_the_reason() -> None:
    rules = after({"name": "legal", "when": "text LIKE '%lawyer%'", "abstain": True})
    assert rules.after(facts(text="my lawyer says"), REFUND) == Said(
        label="refund", confidence=0.8, abstained=True, why="legal", fired=("legal",)
    )
    assert rules.after(facts(text="hello"), REFUND) is REFUND


def test_rules_that_fired_are_added_to_those_before() -> None:
    rules = after(
        {"name": "a", "review": True}, {"name": "b", "when": "label = 'x'", "review": True}, {"name": "c", "abstain": True}
    )
    assert rules.after(facts(), Said(label="refund", confidence=0.8, fired=("from-before",))).fired == (
        "from-before",
        "a",
        "c",
    )


def test_a_rule_that_gives_the_label_ends_an_abstention_and_has_no_confidence_of_the_heads() -> None:
    rules = after({"name": "vip", "when": "tier = 'gold'", "label": "priority"})
    guessed = Said(label="refund", confidence=0.3, abstained=True, why="threshold")
    assert rules.after(facts(tier="gold"), guessed) == Said(label="priority", fired=("vip",))
    sure = Said(label="priority", confidence=0.9)
    assert rules.after(facts(tier="gold"), sure) == Said(label="priority", confidence=0.9, fired=("vip",))


def test_each_rule_sees_what_those_before_it_changed() -> None:
    rules = after(
        {"name": "one", "when": "label = 'refund'", "label": "money"},
        {"name": "two", "when": "label = 'money' AND confidence IS NULL", "review": True},
        {"name": "three", "when": "label = 'refund'", "abstain": True},
        {"name": "four", "when": "NOT abstained", "abstain": True},
        {"name": "five", "when": "abstained", "label": "end"},
    )
    assert rules.after(facts(), REFUND) == Said(label="end", review=True, fired=("one", "two", "four", "five"))


def test_labels_need_at_least_the_confidence_that_their_rule_says() -> None:
    rules = after({"name": "sure", "least": {"refund": 0.9, "*": 0.5}})

    def why(label: str, confidence: float) -> str | None:
        return rules.after(facts(), Said(label=label, confidence=confidence)).why

    assert (why("refund", 0.89), why("refund", 0.9)) == ("sure", None)
    assert (why("other", 0.49), why("other", 0.5)) == ("sure", None)
    assert why("refund", float("nan")) == "sure"
    alone = after({"name": "sure", "least": {"refund": 0.9}})
    assert alone.after(facts(), Said(label="other", confidence=0.1)).why is None


def test_an_answer_has_the_actions_of_its_label_and_others_have_none() -> None:
    rules = after({"name": "can", "allow": {"refund": ["pay", "reply"]}})
    assert rules.after(facts(), REFUND).actions == ("pay", "reply")
    assert rules.after(facts(), Said(label="other", confidence=1)).actions == ()
    assert after({"name": "x", "review": True}).after(facts(), REFUND).actions is None


def test_an_answer_that_abstains_allows_nothing_and_another_label_what_is_allowed_for_it() -> None:
    table = {"name": "can", "allow": {"refund": ["pay"], "reply": ["mail"]}}
    assert after(table, {"name": "no", "abstain": True}).after(facts(), REFUND).actions == ()
    assert after({"name": "no", "abstain": True}, table).after(facts(), REFUND).actions == ()
    assert after(table, {"name": "mail", "label": "reply"}).after(facts(), REFUND).actions == ("mail",)
    narrower = {"name": "less", "when": "amount > 100", "allow": {"refund": ["ask"]}}
    assert after(table, narrower).after(facts(amount=500), REFUND).actions == ("ask",)
    assert after(table, narrower).after(facts(amount=5), REFUND).actions == ("pay",)


def test_conditions_see_the_heads_second_label_margin_and_name() -> None:
    rules = after(
        {"name": "close", "when": "margin < 0.1 AND second = 'chargeback' AND head LIKE 'refunds@%'", "abstain": True}
    )
    known = facts(second="chargeback", margin=0.05, head="refunds@2")
    assert rules.after(known, REFUND).why == "close"
    assert rules.after({**known, "margin": 0.5}, REFUND).why is None


def test_many_labels_have_no_label_that_a_condition_could_name_and_a_number_has_its_value() -> None:
    rules = after({"name": "seen", "when": "label IS NULL AND value IS NULL", "review": True})
    assert rules.after(facts(), Said(labels=("a", "b"), confidence=0.7)).review
    dear = after({"name": "dear", "when": "value > 1000", "abstain": True})
    assert dear.after(facts(), Said(value=2000.0)) == Said(value=2000.0, abstained=True, why="dear", fired=("dear",))
    assert dear.after(facts(), Said(value=20.0)) == Said(value=20.0)


def test_a_label_of_a_rule_stands_alone_among_many_and_does_not_fit_a_number() -> None:
    rules = after({"name": "only", "label": "urgent"})
    assert rules.after(facts(), Said(labels=("a", "b"), confidence=0.7)) == Said(labels=("urgent",), fired=("only",))
    assert rules.after(facts(), Said(value=1.0)) == Said(value=1.0)


def test_a_column_called_label_is_not_taken_for_the_heads() -> None:
    rules = after(
        {"name": "a", "when": "label = 'blue'", "abstain": True},
        {"name": "b", "when": "\"label\" = 'blue'", "review": True},
    )
    assert rules.after(facts(label="blue"), REFUND).fired == ("b",)


# --- shadow -------------------------------------------------------------------------------------------------------------


def test_a_rule_in_shadow_does_nothing_but_is_counted_with_whether_it_would_change_anything() -> None:
    rules = Rules(
        spec(
            before=[
                {"name": "block", "when": "country = 'xx'", "refuse": "No", "shadow": True},
                {"name": "whole", "require": ["product"], "shadow": True},
                {"name": "on", "when": "kind = 'image'", "route": "photos", "shadow": True},
            ],
            after=[
                {"name": "live", "label": "money"},
                {"name": "same", "label": "money", "shadow": True},
                {"name": "other", "label": "refund", "shadow": True},
                {"name": "quiet", "when": "label = 'refund'", "abstain": True, "shadow": True},
                {"name": "sure", "least": {"*": 0.9}, "shadow": True},
                {"name": "look", "review": True, "shadow": True},
            ],
        )
    )
    asked = facts(country="xx", kind="text")
    assert rules.before(asked) == Passed()
    said = rules.after(asked, REFUND)
    assert said == Said(label="money", fired=("live",))
    assert rules.shadow(asked, said) == {"block": True, "whole": True, "same": False, "other": True, "look": True}


def test_a_condition_that_is_null_does_not_match_in_shadow_either() -> None:
    rules = Rules(
        spec(
            before=[{"name": "block", "when": "country != 'de'", "refuse": "No", "shadow": True}],
            after=[{"name": "quiet", "when": "country != 'de'", "abstain": True, "shadow": True}],
        )
    )
    assert rules.shadow(facts(), REFUND) == {}
    assert rules.shadow(facts(country="fr"), REFUND) == {"block": True, "quiet": True}


def test_an_abstention_in_shadow_changes_nothing_of_an_answer_that_abstained_for_another_reason() -> None:
    rules = after({"name": "quiet", "abstain": True, "shadow": True})
    assert rules.shadow(facts(), Said(label="a", confidence=0.1, abstained=True, why="threshold")) == {"quiet": False}


def test_a_quota_in_shadow_counts_by_itself() -> None:
    rules = Rules(spec(before=[{"name": "calm", "quota": {"requests": 1}, "shadow": True}]))
    assert [rules.shadow(facts(), REFUND) for _ in range(2)] == [{}, {"calm": True}]


# --- what is wrong in the file ------------------------------------------------------------------------------------------


def test_all_that_is_wrong_with_rules_is_told_at_once() -> None:
    wrong = spec(
        before=[
            {"name": "a", "when": "lower(text) = 'x'", "refuse": "No"},
            {"name": "b", "require": ["subjct"]},
            {"name": "c", "quota": {"requests": 1, "per": "label"}},
        ],
        after=[
            {"name": "d", "when": "confidence <", "abstain": True},
            {"name": "e", "when": "text = 'a'", "review": True, "shadow": True},
        ],
    )
    told = [
        "rule 'a': its condition holds LOWER, which is outside its grammar. It may hold column, comparison, IN, BETWEEN, LIKE, "
        "IS NULL, AND, OR, NOT and literals; ask for the rest in a hook (call:)",
        "rule 'b': it names 'subjct', which is no fact: did you mean 'subject'? Otherwise a column of that name is written "
        '"subjct", in double quotes',
        "rule 'c': it names 'label', which is known only after the head has spoken; a column of that name is written \"label\", in "
        "double quotes",
        "rule 'd': its condition does not parse. It may hold column, comparison, IN, BETWEEN, LIKE, IS NULL, AND, OR, NOT and literals",
        "rule 'e': its condition names 'text', which is gone when shadow rules are looked at, after the answer",
    ]
    assert problems(wrong, {"triage": wrong}, "triage") == told
    with pytest.raises(InvalidArguments) as refused:
        Rules(wrong)
    assert refused.value.facts == {"call": "rules", "problems": told}


def test_routes_lead_to_deployments_that_are_there_and_in_no_circle() -> None:
    def routes(*to: str, **more: Any) -> RulesSpec:
        return spec(before=[{"name": f"to-{name}", "when": "chars > 9", "route": name, **more} for name in to])

    deployments = {
        "triage": routes("billing", "pictues"),
        "billing": routes("disputes"),
        "pictures": routes(),
        "disputes": routes("triage"),
    }
    assert problems(deployments["triage"], deployments, "triage") == [
        "rule 'to-billing': it routes in a circle: triage -> billing -> disputes -> triage",
        "rule 'to-pictues': it routes to 'pictues', which is no deployment: did you mean 'pictures'?",
    ]
    assert problems(deployments["pictures"], deployments, "pictures") == []
    itself = {"a": routes("a"), "b": routes("zzz")}
    assert problems(itself["a"], itself, "a") == ["rule 'to-a': it routes in a circle: a -> a"]
    assert problems(itself["b"], itself, "b") == [
        "rule 'to-zzz': it routes to 'zzz', which is no deployment: there are a, b"
    ]
    dry = {"a": routes("a", shadow=True)}
    assert problems(dry["a"], dry, "a") == []


def test_what_a_heads_task_makes_meaningless_is_told_where_the_task_is_known() -> None:
    rules = spec(after=[{"name": "a", "least": {"x": 0.5}}, {"name": "b", "label": "x"}, {"name": "c", "abstain": True}])
    assert problems(rules, {"t": rules}, "t") == problems(rules, {"t": rules}, "t", task="classes") == []
    assert problems(rules, {"t": rules}, "t", task="labels") == [
        "rule 'a': least means nothing of a head that gives any number of labels"
    ]
    assert problems(rules, {"t": rules}, "t", task="number") == [
        "rule 'a': least means nothing of a head that gives a number",
        "rule 'b': label means nothing of a head that gives a number",
    ]


@pytest.mark.parametrize(
    ("lists", "problem"),
    [
        (
            {"before": [{"name": "a"}]},
            "a rule does one thing of refuse, require, quota, route, call; found none",
        ),
        (
            {"after": [{"name": "a", "abstain": True, "label": "x", "shadow": True}]},
            "a rule does one thing of abstain, label, least, allow, review, call; found abstain and label",
        ),
        ({"before": [{"name": "a", "refuse": "x"}], "after": [{"name": "a", "abstain": True}]}, "two rules are called a"),
        ({"after": [{"name": "a", "least": {"x": 1.5}}]}, "Input should be less than or equal to 1"),
    ],
)
def test_a_rule_of_the_file_has_a_name_of_its_own_and_does_one_thing(lists: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as refused:
        RulesSpec.model_validate(lists)
    assert [error["msg"].removeprefix("Value error, ") for error in refused.value.errors()] == [problem]


def test_an_unknown_key_of_a_rule_is_named_with_the_nearest_known_one() -> None:
    wrong = {"before": [{"name": "a", "refuze": "No"}], "after": [{"name": "b", "abstain": True, "wen": "TRUE"}]}
    with pytest.raises(InvalidArguments) as refused:
        parse_spec({"deployments": {"t": {"head": "x", "rules": wrong}}}, "serve 'app.yaml'")
    assert list(refused.value.problems) == [
        "deployments.t.rules.before.0 has the unknown key 'refuze': did you mean 'refuse'?",
        "deployments.t.rules.after.0 has the unknown key 'wen': did you mean 'when'?",
    ]


# --- laws ---------------------------------------------------------------------------------------------------------------

LABELS = st.sampled_from(["a", "b", "c"])
ACTS = st.one_of(
    st.just({"abstain": True}),
    st.just({"review": True}),
    LABELS.map(lambda label: {"label": label}),
    st.dictionaries(LABELS | st.just("*"), st.floats(0, 1), min_size=1).map(lambda least: {"least": least}),
    st.dictionaries(LABELS, st.lists(st.sampled_from(["pay", "mail"])), min_size=1).map(lambda allow: {"allow": allow}),
)
WHENS = st.sampled_from(
    [None, "abstained", "NOT abstained", "label = 'a'", "confidence < 0.5", "confidence IS NULL", "label != 'b'"]
)
RULES = st.lists(st.tuples(WHENS, ACTS), max_size=8).map(
    lambda drawn: [{"name": f"r{i}", "when": when, **act} for i, (when, act) in enumerate(drawn)]
)
ANSWERS = st.builds(Said, label=LABELS, confidence=st.floats(0, 1), abstained=st.booleans())


@settings(deadline=None)
@given(RULES, ANSWERS)
def test_whatever_the_rules_an_answer_that_abstained_allows_nothing_and_what_fired_stands_in_order(
    rules: list[dict[str, Any]], said: Said
) -> None:
    made = after(*rules).after(facts(), said)
    order = [rule["name"] for rule in rules]
    assert list(made.fired) == sorted(made.fired, key=order.index)
    assert made.actions in (None, ()) or not made.abstained
    assert made.label is not None
    if not made.fired:
        assert made is said


@settings(deadline=None)
@given(RULES, RULES, ANSWERS)
def test_two_lists_one_after_the_other_are_one_list(
    first: list[dict[str, Any]], then: list[dict[str, Any]], said: Said
) -> None:
    first = [
        rule for rule in first if "allow" not in rule
    ]  # what a list allows goes with its label, which the next may change
    then = [{**rule, "name": f"then-{rule['name']}"} for rule in then]
    assert after(*first, *then).after(facts(), said) == after(*then).after(facts(), after(*first).after(facts(), said))
