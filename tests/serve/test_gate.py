"""The promotion gate: a small language over a report's figures, read by a whitelist, that never passes on what is missing."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raystore
from raystore.errors import InvalidArguments
from raystore.serve.shadow.gate import Comparison, Figure, Gate, Joined, Not, Number, Verdict
from raystore.serve.shadow.metrics import METRICS
from raystore.serve.shadow.report import shadow_reports
from tests.serve.kept_rows import said
from tests.serve.test_shadow_report import labels_of, report_of, table_of


@dataclass
class Figures:
    """A report of nothing but figures; the real one is met below."""

    values: dict[str, float | None]
    live: str = "refunds@2"
    shadow: str = "refunds@3"
    asked: list[str] = field(default_factory=list)

    def metrics(self) -> dict[str, float | None]:
        return dict.fromkeys(METRICS) | self.values

    def missing(self, name: str) -> str:
        self.asked.append(name)
        return "no pair has a label yet"


def refusal(text: str) -> str:
    with pytest.raises(InvalidArguments) as error:
        Gate.parse(text)
    return str(error.value)


GATE = "agreement > .97 and accuracy_gain.low > 0 and n_labelled >= 500"


def test_a_report_passes_where_every_clause_holds() -> None:
    report = Figures({"agreement": 0.98, "accuracy_gain.low": 0.001, "n_labelled": 500.0})
    verdict = Gate.parse(GATE).check(report)
    assert verdict.passed
    assert [(c.text, c.values, c.held) for c in verdict.clauses] == [
        ("agreement > 0.97", {"agreement": 0.98}, True),
        ("accuracy_gain.low > 0", {"accuracy_gain.low": 0.001}, True),
        ("n_labelled >= 500", {"n_labelled": 500.0}, True),
    ]
    assert verdict.missing == ()
    assert Verdict.model_validate_json(verdict.model_dump_json()) == verdict


def test_the_verdict_says_what_does_not_hold_and_what_has_no_value() -> None:
    verdict = Gate.parse(GATE).check(Figures({"agreement": 0.9, "n_labelled": 0.0}))
    assert not verdict.passed
    assert str(verdict) == (
        "refunds@3 does not pass: agreement > 0.97 and accuracy_gain.low > 0 and n_labelled >= 500\n"
        "  agreement > 0.97: does not hold (agreement = 0.9)\n"
        "  accuracy_gain.low > 0: cannot be told (accuracy_gain.low = no value)\n"
        "  n_labelled >= 500: does not hold (n_labelled = 0)\n"
        "  accuracy_gain.low has no value: no pair has a label yet."
    )


@pytest.mark.parametrize(
    "text",
    [
        "n_live >= 0 or mcnemar.p < 1",
        "not mcnemar.p < .05",
        "not (mcnemar.p < .05)",
        "mcnemar.p != 0",
        "mcnemar.p == mcnemar.p",
    ],
)
def test_a_figure_without_a_value_fails_wherever_it_stands(text: str) -> None:
    for nothing in (None, math.nan):
        verdict = Gate.parse(text).check(Figures({"n_live": 1.0, "mcnemar.p": nothing}))
        assert not verdict.passed
        assert verdict.missing == ("mcnemar.p has no value: no pair has a label yet.",)


def test_a_real_report_without_labels_does_not_pass_and_says_why() -> None:
    rows = table_of(said("refunds@2", ["card"] * 40), said("refunds@3", ["card"] * 40, role="shadow"))
    [report] = shadow_reports("triage", rows)
    gate = Gate.parse(
        "agreement >= 1 and coverage == 1 and mae_gain > 0 and accuracy_gain > 0 and correlation > 0 and hours > .5"
    )
    assert gate.check(report).missing == (
        "mae_gain has no value: it is no score of heads that predict classes.",
        "accuracy_gain has no value: it needs labels, and none were named (labels, or --labels: outcomes.outcome).",
        "correlation has no value: it is of numbers, and these heads predict classes.",
    )
    [labelled] = shadow_reports("triage", rows, labels=labels_of(["card"] * 40))
    assert (
        Gate.parse("agreement == 1 and accuracy.shadow >= .95 and latency.shadow.p95 <= latency.live.p95")
        .check(labelled)
        .passed
    )
    apart = report_of(["card"], ["card"]).model_copy(update={"n_paired": 0})
    assert Gate.parse("coverage > 0").check(apart).missing == (
        "coverage has no value: no request was seen by both refunds@2 and refunds@3.",
    )


def test_an_unknown_figure_is_refused_with_the_nearest_and_all_there_are() -> None:
    tops = (
        "absolute_difference, accuracy_gain, agreement, agreement_answered, confidence_shift, correlation, coverage, difference, "
        "gained, hours, lost, macro_f1_gain, mae_gain, micro_f1_gain, n_labelled, n_live, n_paired, r2_gain, rmse_gain, "
        "subset_accuracy_gain, worst_class"
    )
    assert refusal("agrement > .97 and secret > 1") == (
        f"gate: 'agrement' is no figure of a shadow report: did you mean agreement? there are {tops}, "
        "and their parts (docs/shadows.md); "
        f"'secret' is no figure of a shadow report: there are {tops}, and their parts (docs/shadows.md)."
    )
    assert "did you mean agreement.low?" in refusal("agreement.lo > 1")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it cannot be read at character 1"),
        ("agreement >", "it cannot be read at character 12"),
        ("agreement > > 1", "it cannot be read at character 13"),
        ("(" * 400 + "agreement > 1", None),
        ("agreement\0 > 1", None),
        ("x" * 1001, "it has 1,001 characters, expected at most 1,000"),
        ("agreement", "'agreement' is no comparison such as agreement > 0.97"),
        ("1 < 2", "it names no figure of a shadow report, so it would always say the same"),
        ("agreement > True", "'True' is neither a figure of the report nor a number"),
        ("agreement > '1'", "''1'' is neither a figure of the report nor a number"),
        ("agreement > 1e999", "'1e309' is neither a figure of the report nor a number"),
        ("agreement > " + "9" * 400, f"'{'9' * 77}...' is neither a figure of the report nor a number"),
        ("agreement > 1j", "'1j' is neither a figure of the report nor a number"),
        ("agreement + 1 > 2", "'agreement + 1' is neither a figure of the report nor a number"),
        ("agreement in coverage", "'in' is none of <, <=, >, >=, ==, !="),
        ("agreement is not coverage", "'is not' is none of <, <=, >, >=, ==, !="),
        (
            "__import__('os').system('true') > 1",
            "'__import__('os').system('true')' is neither a figure of the report nor a number",
        ),
        ("agreement.__class__ > 1", None),
        ("(lambda: 1)() > agreement", "'(lambda: 1)()' is neither a figure of the report nor a number"),
        ("agreement > 1 if coverage > 1 else hours > 1", None),
        ("(x := agreement) > 1", "'(x := agreement)' is neither a figure of the report nor a number"),
        ("[agreement > 1]", "'[agreement > 1]' is no comparison such as agreement > 0.97"),
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text: str, problem: str | None) -> None:
    said_of = refusal(text)
    assert problem is None or said_of == f"gate: {problem}."


def test_a_gate_is_written_as_it_is_read() -> None:
    text = "not (agreement < 0.5 or coverage != 1) and (hours >= 24 or -0.25 <= accuracy_gain.low < 1e-07)"
    gate = Gate.parse(text.replace(" and ", "\n  and "))
    assert str(gate) == text
    assert gate.figures == ["agreement", "coverage", "hours", "accuracy_gain.low"]


def test_the_page_names_every_figure() -> None:
    page = (Path(raystore.__file__).parent.parent / "docs" / "shadows.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([^`\n]+)`", page))
    bases = {re.sub(r"(\.low|\.high|(?<=_gain)\.p)$", "", name) for name in METRICS}
    scores = {base for base in bases if base.endswith((".live", ".shadow")) and base.split(".")[0] in named}
    latency = {base for base in bases if base.startswith("latency.")}
    assert sorted(bases - named - scores - latency) == []
    assert {"latency.live.p50", "latency.shadow.p50", ".p95", ".p99", "accuracy_gain.p", ".low", ".high"} <= named


# --- laws --------------------------------------------------------------------------------------------------------------

_NAMES = ["agreement", "agreement.low", "coverage", "hours", "latency.shadow.p95", "n_live"]
_SIGNS = ["<", "<=", ">", ">=", "==", "!="]
_OPERANDS = st.sampled_from(_NAMES).map(Figure) | (
    st.integers(-3, 3).map(float) | st.floats(allow_nan=False, allow_infinity=False)
).map(Number)


@st.composite
def _comparisons(draw: st.DrawFn) -> Comparison:
    operands = (draw(st.sampled_from(_NAMES).map(Figure)), *draw(st.lists(_OPERANDS, min_size=1, max_size=3)))
    return Comparison(operands, tuple(draw(st.sampled_from(_SIGNS)) for _ in operands[1:]))


_EXPRESSIONS = st.recursive(
    _comparisons(),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(Joined, st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(_EXPRESSIONS)
def test_what_is_written_is_read_as_the_same(expression: Any) -> None:
    text = str(expression)
    if len(text) <= 1_000:
        assert Gate.parse(text) == Gate(expression)


class _Part(float):
    """A number with parts: `agreement` and `agreement.low` at once."""


def _scope(values: dict[str, float]) -> dict[str, Any]:
    scope: dict[str, Any] = {}
    for name in sorted(values):  # a name stands before its parts
        first, *rest = name.split(".")
        if not rest:
            scope[name] = _Part(values[name])
            continue
        at = scope.setdefault(first, SimpleNamespace())
        for part in rest[:-1]:
            if not hasattr(at, part):
                setattr(at, part, SimpleNamespace())
            at = getattr(at, part)
        setattr(at, rest[-1], values[name])
    return scope


_VALUES = st.fixed_dictionaries({name: st.integers(-3, 3).map(float) | st.floats(-5, 5) for name in _NAMES})


@settings(deadline=None)
@given(_EXPRESSIONS, _VALUES)
def test_a_gate_says_what_python_would_say(expression: Any, values: dict[str, float]) -> None:
    verdict = Gate(expression).check(Figures(dict(values)))
    assert verdict.passed == eval(str(expression), {"__builtins__": {}}, _scope(values))
    assert None not in [clause.held for clause in verdict.clauses]


@settings(deadline=None)
@given(_EXPRESSIONS, _VALUES, st.sampled_from(_NAMES))
def test_nothing_passes_that_speaks_of_what_is_missing(expression: Any, values: dict[str, float], name: str) -> None:
    gate, report = Gate(expression), Figures({**values, name: None})
    verdict = gate.check(report)
    assert verdict.passed <= (name not in gate.figures)
    assert report.asked == [n for n in gate.figures if n == name]
