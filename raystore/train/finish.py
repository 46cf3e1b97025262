"""From fitted arrays to a published head: temperature, thresholds, cost, report. Pure but for the publishing; knows no Ray."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from raystore.layout import Layout
from raystore.train import metrics
from raystore.train.calibration import fit_temperature
from raystore.train.heads import Head, HeadRecord, decide, probabilities_of, scores
from raystore.train.knn import Neighbours
from raystore.train.report.report import Baselines, measure
from raystore.train.source import Examples, Task, VectorSource
from raystore.train.thresholds import threshold_for_precision, thresholds_for_labels
from raystore.vectors import Matrix

log = logging.getLogger("raystore")

# The neighbours' baseline is a product of two row counts; beyond these it is taken on a slice, and the report says so.
KNN_TRAIN_ROWS = 200_000
KNN_ROWS = 20_000
_TIMED = 50  # single predictions whose median is the cost


class Rows(NamedTuple):
    """What a head is finished on. `train`: all training rows, or a slice where they are too many; the neighbours' baseline
    knows these. `n_train`: how many rows the head was fitted on."""

    source: VectorSource
    n_train: int
    train: Examples
    val: Examples
    test: Examples


def finish(
    layout: Layout,
    draft: HeadRecord,
    arrays: Mapping[str, Matrix],
    rows: Rows,
    *,
    precision: float | None,
    seconds: float,
) -> Head:
    """The head, published: its temperature and thresholds chosen on val, its report on test, else on val, else on train.

    Args:
        draft: the head's facts; temperature, thresholds and what is said of them are added here.
        precision: the wanted one, or None.
    """
    if gone := rows.source.erased:
        draft = _with(draft, {}, {"erased": gone})
        log.warning(
            "head '%s': %s rows of its snapshot are gone from the collection; it learned from the rest", draft.name, gone
        )
    near = Neighbours(rows.train) if draft.kind == "knn" else None
    record, on_val = _calibrated(draft, arrays, rows.val, precision, near)
    split, on = next((s, e) for s in ("test", "val", "train") if len((e := getattr(rows, s)).labels))
    found = on_val if split == "val" else scores(record, arrays, on.vectors, near)
    snapshot = "@".join(str(record.snapshot[part]) for part in ("name", "number") if part in record.snapshot)
    report = measure(
        record.name,
        split,
        on.labels,
        found if record.task == "number" else probabilities_of(record, found),
        list(record.classes),
        task=record.task,
        n={"train": rows.n_train, "val": len(rows.val.labels), "test": len(rows.test.labels)},
        temperature=record.temperature,
        threshold=record.threshold,
        precision=precision,
        thresholds=record.thresholds,
        baselines=_baselines(rows, on, len(record.classes), record.task),
        seconds=seconds,
        entities=rows.source.entities(split),
        cost_us=_cost_us(record, arrays, on.vectors[:1], near),
        settings=record.settings,
        encoder=record.encoder,
        snapshot=snapshot,
    )
    head = Head(record=record, arrays=arrays, report=report, near=near).save(layout)
    log.info("%s: %s on %s%s", head.label, report.headline_text, report.split, _said(record))
    return head


def _calibrated(
    draft: HeadRecord, arrays: Mapping[str, Matrix], val: Examples, precision: float | None, near: Neighbours | None
) -> tuple[HeadRecord, Matrix]:
    """The record with its temperature and thresholds, and the scores of the val rows."""
    found = scores(draft, arrays, val.vectors, near)
    temperature = fit_temperature(found, val.labels, val.weights, draft.task)
    record = draft.model_copy(update={"temperature": temperature})
    if not len(val.labels) or record.task == "number":
        return record, found
    probabilities = probabilities_of(record, found)
    more: dict[str, Any] = {} if precision is None else {"precision": precision}
    if record.task == "labels":
        chosen, missed = thresholds_for_labels(probabilities, val.labels, precision)
        if missed:
            more["not_reached"] = {record.classes[j]: _missed(best) for j, best in missed.items()}
        return _with(record, {"thresholds": tuple(chosen)}, more), found
    if precision is None:
        return record, found
    kept = threshold_for_precision(probabilities.max(axis=1), probabilities.argmax(axis=1) == val.labels, precision)
    more |= {"not_reached": _missed(kept.precision)} if kept.threshold is None else {"coverage_on_val": kept.coverage}
    return _with(record, {"threshold": kept.threshold}, more), found


def _with(record: HeadRecord, changes: dict[str, Any], settings: dict[str, Any]) -> HeadRecord:
    return record.model_copy(update={**changes, "settings": {**record.settings, **settings}})


def _missed(best: float) -> str:
    return f"not reached on val: best {best:.2f}"


def _said(record: HeadRecord) -> str:
    wanted = record.settings.get("precision")
    if wanted is None:
        return ""
    if record.task == "labels":
        missed = len(record.settings.get("not_reached", {}))
        return f"; precision {wanted} on val" + (f", {missed} of {len(record.classes)} labels excepted" if missed else "")
    if record.threshold is None:
        return f"; precision {wanted} {record.settings['not_reached']}, so it abstains from nothing"
    return f"; from confidence {record.threshold:.2f} on, {record.settings['coverage_on_val']:.1%} of val have precision {wanted}"


def _cost_us(record: HeadRecord, arrays: Mapping[str, Matrix], one: Matrix, near: Neighbours | None) -> float:
    """Median microseconds of a prediction of one vector."""
    taken = []
    for _ in range(_TIMED):
        start = time.perf_counter()
        decide(record, scores(record, arrays, one, near))
        taken.append(time.perf_counter() - start)
    return round(1e6 * statistics.median(taken), 1)


def _baselines(rows: Rows, on: Examples, n_classes: int, task: Task) -> Baselines:
    step = -(-len(on.labels) // KNN_ROWS)
    asked, truth = on.vectors[::step], on.labels[::step]
    train, labels = rows.train, rows.source.labels("train")
    mean_rmse = None
    if task == "classes":
        majority = metrics.majority_baseline(labels, on.labels, n_classes)
        knn10 = metrics.accuracy(truth, metrics.knn_predict(train.vectors, train.labels, asked, n_classes, k=10))
    else:
        voted = metrics.knn_mean(train.vectors, train.labels, asked, k=10)
        if task == "labels":
            majority = metrics.labels_baseline(labels, on.labels)
            knn10 = float(metrics.micro_f1(metrics.label_counts(truth != 0, voted >= 0.5)))
        else:
            majority, mean_rmse = metrics.number_baseline(labels, on.labels)
            knn10 = float(np.abs(truth - voted).mean())
    return Baselines(
        majority=majority,
        knn10=knn10,
        knn10_train_rows=len(train.labels),
        knn10_rows=len(truth),
        mean_rmse=mean_rmse,
    )
