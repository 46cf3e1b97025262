"""The names by which a gate speaks of a shadow report's figures, and why one of them has no value. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raystore.serve.shadow.measures import LEAST_A_CLASS, Estimate
from raystore.train.compare.compare import Difference
from raystore.train.source import Task

if TYPE_CHECKING:
    from raystore.serve.shadow.report import ShadowReport

# Scores of a comparison by the task that has them. Of an error less is better, so its gain is what it fell by.
_SCORES: dict[Task, tuple[str, ...]] = {
    "classes": ("accuracy", "macro_f1"),
    "labels": ("micro_f1", "macro_f1", "subset_accuracy"),
    "number": ("mae", "rmse", "r2"),
}
_ERRORS = ("mae", "rmse")
_WORDS = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "subset_accuracy": "share of requests with all labels right",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "r2": "R²",
}
_ENDS = (".low", ".high")


def _figures() -> dict[str, str]:
    found = {
        "n_live": "requests that the live head saw since the first pair",
        "n_paired": "requests that both saw",
        "n_labelled": "pairs with a label",
        "hours": "from the first pair to the last",
        "coverage": "n_paired / n_live",
        "agreement": "share of pairs in which both say the same",
        "agreement_answered": "the same, where neither abstains",
        "worst_class": f"lowest agreement of a class that the live head names at least {LEAST_A_CLASS} times",
        "abstained.live": "share of pairs in which the live head abstains",
        "abstained.shadow": "share of pairs in which the shadow abstains",
        "confidence_shift": "the shadow's confidence less the live head's, on average",
        "difference": "of numbers: the shadow's less the live head's, on average",
        "absolute_difference": "of numbers: how far they lie apart, on average",
        "correlation": "of numbers: Pearson's",
        "drift.live": "population stability index of what the live head predicts, first half against last",
        "drift.shadow": "the same of the shadow",
        "mcnemar.p": "p-value of McNemar's test on the labelled pairs",
        "gained": "labelled pairs that the shadow alone gets right",
        "lost": "labelled pairs that the live head alone gets right",
    }
    for side in ("live", "shadow"):
        for quantile in ("p50", "p95", "p99"):
            found[f"latency.{side}.{quantile}"] = f"milliseconds of the {side} head alone"
    for score in _WORDS:
        found[f"{score}.live"] = f"{_WORDS[score]} of the live head on the labelled pairs"
        found[f"{score}.shadow"] = f"{_WORDS[score]} of the shadow on the labelled pairs"
        better = "what the error falls by" if score in _ERRORS else "the shadow's less the live head's"
        found[f"{score}_gain"] = f"{better}; above 0 the shadow is better"
        found[f"{score}_gain.p"] = "its p-value"
    with_intervals = [n for n in found if n.endswith("_gain")]
    with_intervals += ["agreement", "agreement_answered", "confidence_shift", "difference", "absolute_difference"]
    for name in with_intervals:
        for end in _ENDS:
            found[f"{name}{end}"] = "bound of its 95% interval"
    return dict(sorted(found.items()))


METRICS: dict[str, str] = _figures()


def metrics_of(report: ShadowReport) -> dict[str, float | None]:
    """Every name of METRICS and its value; None where it has none."""
    found: dict[str, float | None] = dict.fromkeys(METRICS)
    for name in ("n_live", "n_paired", "n_labelled", "hours"):
        found[name] = float(getattr(report, name))
    if report.n_paired:
        found["coverage"] = report.coverage
    found |= {"worst_class": report.worst_class, "correlation": report.correlation}
    for name in ("agreement", "agreement_answered", "confidence_shift", "difference", "absolute_difference"):
        found |= _estimated(name, getattr(report, name))
    for side in ("live", "shadow"):
        if report.abstained is not None and report.task == "classes":
            found[f"abstained.{side}"] = getattr(report.abstained, side)
        latency, drift = getattr(report, f"latency_{side}"), getattr(report, f"drift_{side}")
        if latency is not None:
            found |= {f"latency.{side}.{quantile}": getattr(latency, quantile) for quantile in ("p50", "p95", "p99")}
        if drift is not None:
            found[f"drift.{side}"] = drift.psi
    compared = report.comparison
    if compared is not None:
        for score, d in compared.differences.items():
            found |= _gained(score, d)
        found |= {"gained": float(compared.gained.count), "lost": float(compared.lost.count)}
        if compared.mcnemar is not None:
            found["mcnemar.p"] = compared.mcnemar.p
    return found


def missing_because(report: ShadowReport, name: str) -> str:
    """'no pair has a label yet'; of labels that nobody named, how to name them."""
    head = name.partition(".")[0]
    score = head.removesuffix("_gain")
    if not report.n_paired:
        return f"no request was seen by both {report.live} and {report.shadow}"
    if score in _WORDS and score not in _SCORES[report.task]:
        return f"it is no score of heads that predict {report.task}"
    if score in _WORDS or head in ("mcnemar", "gained", "lost"):
        if not report.with_labels:
            return "it needs labels, and none were named (labels, or --labels: outcomes.outcome)"
        return "no pair has a label yet" if report.comparison is None else "McNemar's test is of classes and sets of labels"
    if head in ("difference", "absolute_difference", "correlation") and report.task != "number":
        return f"it is of numbers, and these heads predict {report.task}"
    if head in ("agreement", "agreement_answered", "worst_class", "abstained") and report.task == "number":
        return "it is of labels, and these heads predict numbers"
    if head == "abstained":
        return "heads that give sets of labels do not abstain"
    if head == "agreement_answered":
        return "in every pair one of them abstains"
    if head == "worst_class":
        return f"no class was named {LEAST_A_CLASS} times"
    if head == "correlation":
        return "one of them always says the same number"
    if head == "drift":
        return "there are fewer than 2 pairs"
    return "the heads do not say it"  # a confidence, a latency


def _estimated(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {}
    return {name: estimate.value, f"{name}.low": estimate.low, f"{name}.high": estimate.high}


def _gained(score: str, d: Difference) -> dict[str, float | None]:
    value, low, high = (-d.value, -d.high, -d.low) if score in _ERRORS else (d.value, d.low, d.high)
    gain = f"{score}_gain"
    return {
        f"{score}.live": d.a,
        f"{score}.shadow": d.b,
        gain: value,
        f"{gain}.low": low,
        f"{gain}.high": high,
        f"{gain}.p": d.p,
    }
