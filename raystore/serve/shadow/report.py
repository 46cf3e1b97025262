"""The paired shadow report: what a head in the shadow says, beside what the live head says, of the same requests.

Made of kept predictions, and of labels where they have arrived. The heads are compared on exactly the items that both saw, so
differences are paired. Pure: Arrow tables in; labels.py reads labels from a store.

Cost: 100,000 pairs of 77 classes take a second, and some five where all of them have labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raystore.errors import HeadNotFound, InvalidArguments
from raystore.serve.shadow import measures
from raystore.serve.shadow.measures import (
    LEAST_A_CLASS,
    Abstentions,
    ClassFlips,
    Drift,
    Estimate,
    Flip,
    Latency,
    Needed,
)
from raystore.serve.shadow.metrics import metrics_of, missing_because
from raystore.serve.shadow.pairs import Pairs, coded, heads_of, make_pairs, sets
from raystore.serve.shadow.show import report_page, report_text
from raystore.serve.spec.base import Strict
from raystore.train.compare.compare import Comparison, compare
from raystore.train.source import Floats, Targets, Task

FLIPS = 200  # kinds of flips that a report lists


class ShadowReport(Strict):
    """One head in the shadow beside the live head, on the items that both saw.

    Args:
        since, until: the first and the last pair.
        hours: between them.
        n_live: items that the live head saw since the first pair; `coverage` the share of them that the shadow saw.
        entities: different subjects among the pairs; an item without one is its own.
        agreement: share of pairs with the same label, or the same set of labels; None for numbers.
        agreement_answered: the same where neither abstains.
        worst_class: the lowest agreement of a class that the live head names at least 20 times.
        flips: the most frequent first, up to 200 kinds of `n_flips`.
        confidence_shift: the shadow's confidence less the live head's.
        difference, absolute_difference, correlation: of numbers, the shadow's less the live head's.
        with_labels: whether anyone said where labels stand.
        comparison: on the labelled pairs; what the shadow (b) gains over the live head (a).
        discordance: share of labelled pairs in which exactly one head is right; with `discordance_is_bound` the share of all
            pairs in which they differ, above which it cannot lie.
        needed: labelled pairs that tell gains of several sizes.
    """

    deployment: str
    live: str
    shadow: str
    task: Task
    since: datetime | None = None
    until: datetime | None = None
    hours: float = 0.0
    n_live: int = 0
    n_paired: int = 0
    coverage: float = 0.0
    entities: int = 0
    agreement: Estimate | None = None
    agreement_answered: Estimate | None = None
    worst_class: float | None = None
    flips: tuple[Flip, ...] = ()
    n_flips: int = 0
    per_class: tuple[ClassFlips, ...] = ()
    abstained: Abstentions | None = None
    confidence_live: float | None = None
    confidence_shadow: float | None = None
    confidence_shift: Estimate | None = None
    difference: Estimate | None = None
    absolute_difference: Estimate | None = None
    correlation: float | None = None
    latency_live: Latency | None = None
    latency_shadow: Latency | None = None
    drift_live: Drift | None = None
    drift_shadow: Drift | None = None
    with_labels: bool = False
    n_labelled: int = 0
    comparison: Comparison | None = None
    discordance: float | None = None
    discordance_is_bound: bool = True
    needed: tuple[Needed, ...] = ()

    def metrics(self) -> dict[str, float | None]:
        """Every figure by the name that a gate has for it; None where there is none yet."""
        return metrics_of(self)

    def missing(self, name: str) -> str:
        """Why a figure has no value, as the end of a sentence."""
        return missing_because(self, name)

    def text(self) -> str:
        """For a terminal of 100 columns."""
        return report_text(self)

    def to_html(self) -> str:
        """One HTML file, as a head's report."""
        return report_page(self)

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        return report_page(self, whole=False)


def shadow_reports(
    deployment: str,
    rows: pa.Table,
    *,
    live: str | None = None,
    heads: Sequence[str] | None = None,
    labels: pa.Table | None = None,
    seed: int = 0,
) -> list[ShadowReport]:
    """A report for each head beside the live one, in the order of their names; none where no other head was seen.

    Args:
        rows: kept predictions of the window, as `Predictions.read` gives them; pairs.COLUMNS are enough.
        live: by default the head that answered last as the live one.
        heads: which others; by default all there are in the rows.
        labels: (id, label) as `live_labels` gives them; an id stands once, a null is no label.

    Raises:
        HeadNotFound: a head that the rows do not have; names those they have.
        InvalidArguments: heads that predict different things, labels that are none for what they predict.
    """
    newest, others = heads_of(rows)
    there = sorted({*others, *([newest] if newest else [])})
    for head in [*([live] if live is not None else []), *(heads or ())]:
        if head not in there:
            raise HeadNotFound(name=head, where=f"the predictions of deployment '{deployment}'", existing=there)
    first = live or newest
    if first is None:
        return []
    asked = [head for head in (heads if heads is not None else there) if head != first]
    return [shadow_report(deployment, make_pairs(rows, first, head), labels, seed=seed) for head in asked]


def shadow_report(deployment: str, pairs: Pairs, labels: pa.Table | None = None, *, seed: int = 0) -> ShadowReport:
    """The report of two heads; see `shadow_reports`."""
    n, number = len(pairs), pairs.task == "number"
    listed, n_flips = measures.flips(pairs, FLIPS)
    per_class = measures.class_flips(pairs)
    same = None if number else measures.agree(pairs)
    answered = ~(pairs.live.abstained | pairs.shadow.abstained)
    apart = pairs.shadow.targets - pairs.live.targets if number else None
    comparison, n_labelled = _compared(pairs, labels, seed)
    agreement = None if same is None else measures.share(same, pairs.entities, seed=seed)
    discordance, is_bound = _discordance(comparison, agreement)
    since, until = (pairs.times[0].as_py(), pairs.times[n - 1].as_py()) if n else (None, None)
    shared = [c.agreement for c in per_class if c.live >= LEAST_A_CLASS]
    return ShadowReport(
        deployment=deployment,
        live=pairs.live_head,
        shadow=pairs.shadow_head,
        task=pairs.task,
        since=since,
        until=until,
        hours=(until - since).total_seconds() / 3600 if since and until else 0.0,
        n_live=pairs.n_live,
        n_paired=n,
        coverage=n / pairs.n_live if pairs.n_live else 0.0,
        entities=n if pairs.entities is None else len(np.unique(pairs.entities)),
        agreement=agreement,
        agreement_answered=None
        if same is None
        else measures.share(same[answered], None if pairs.entities is None else pairs.entities[answered], seed=seed),
        worst_class=min(shared, default=None),
        flips=listed,
        n_flips=n_flips,
        per_class=per_class,
        abstained=measures.abstentions(pairs),
        confidence_live=_mean(pairs.live.confidence),
        confidence_shadow=_mean(pairs.shadow.confidence),
        confidence_shift=measures.mean(pairs.shadow.confidence - pairs.live.confidence, pairs.entities),
        difference=None if apart is None else measures.mean(apart, pairs.entities),
        absolute_difference=None if apart is None else measures.mean(np.abs(apart), pairs.entities),
        correlation=measures.correlation(pairs) if number else None,
        latency_live=measures.latency(pairs.live),
        latency_shadow=measures.latency(pairs.shadow),
        drift_live=measures.drift(pairs.live, pairs.task),
        drift_shadow=measures.drift(pairs.shadow, pairs.task),
        with_labels=labels is not None,
        n_labelled=n_labelled,
        comparison=comparison,
        discordance=discordance,
        discordance_is_bound=is_bound,
        needed=() if discordance is None else measures.labels_needed(discordance, n_labelled),
    )


def _compared(pairs: Pairs, labels: pa.Table | None, seed: int) -> tuple[Comparison | None, int]:
    """The heads on the labelled pairs, and how many these are."""
    if labels is None or not len(pairs):
        return None, 0
    labels = labels.filter(pc.is_valid(labels.column("label")))
    at = pc.index_in(pa.array(pairs.ids, pa.string()), value_set=labels.column("id").combine_chunks())
    chosen = np.flatnonzero(at.is_valid().to_numpy(zero_copy_only=False))
    if not len(chosen):
        return None, 0
    truth = labels.column("label").take(pc.drop_null(at)).combine_chunks()
    classes = _with_labels(pairs, truth)
    compared = compare(
        pairs.live_head,
        pairs.shadow_head,
        coded(truth, pairs.task, classes),
        _recoded(pairs, pairs.live.targets[chosen], classes),
        _recoded(pairs, pairs.shadow.targets[chosen], classes),
        classes,
        task=pairs.task,
        ids=[pairs.ids[i] for i in chosen],
        entities=None if pairs.entities is None else pairs.entities[chosen],
        split="the labelled requests",
        seed=seed,
    )
    return compared, len(chosen)


def _with_labels(pairs: Pairs, truth: pa.Array) -> tuple[str, ...]:
    """The classes that the heads name and those of the labels. InvalidArguments where these are none for what the heads predict."""
    kind = truth.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    fits, expected = {
        "classes": (not is_list and not pa.types.is_floating(kind), "text, integers or booleans"),
        "labels": (is_list, "a list of text a row, as list(label) gives"),
        "number": (is_number, "numbers"),
    }[pairs.task]
    if not fits:
        problem = f"the labels are {kind}, expected {expected}: head '{pairs.live_head}' predicts {pairs.task}"
        raise InvalidArguments(call="shadow report", problems=[problem])
    if pairs.task == "number":
        return ()
    if pairs.task == "labels":
        return tuple(sorted({*pairs.classes, *(label for row in sets(truth) for label in row)}))
    return tuple(sorted({*pairs.classes, *pc.unique(truth.cast(pa.string())).to_pylist()}))


def _recoded(pairs: Pairs, targets: Targets, classes: Sequence[str]) -> Targets:
    """A head's targets among more classes."""
    if pairs.task == "number":
        return targets
    place = {label: i for i, label in enumerate(classes)}
    places = np.array([place[label] for label in pairs.classes], dtype=np.int64)
    if pairs.task == "classes":
        among: Targets = places[targets]
        return among
    wide = np.zeros((len(targets), len(classes)))
    wide[:, places] = targets
    return wide


def _discordance(comparison: Comparison | None, agreement: Estimate | None) -> tuple[float | None, bool]:
    """The share of pairs in which exactly one head is right, and whether it is only known not to lie above."""
    if comparison is not None and comparison.mcnemar is not None:
        m = comparison.mcnemar
        if m.only_a + m.only_b:
            return (m.only_a + m.only_b) / comparison.rows, False
    return (None, True) if agreement is None else (1 - agreement.value, True)


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
