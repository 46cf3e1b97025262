"""Labels that people give: checked, and written as events into a source table that snapshots can read.

Columns: id, label, reviewer, time, deployment; the key is `id`, the time of the event `time`. So `labels="reviewed.label"` and a
snapshot's `label="last"` mean the newest of each item. No event is ever changed. No error quotes a label that was sent.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raystore.catalog import Catalog
from raystore.data.columns import TYPES
from raystore.data.keyed import quoted
from raystore.data.rows import is_unicode
from raystore.data.tables.table import SourceTable, open_table, register_table, table_names
from raystore.errors import InvalidArguments, ItemNotFound, Quoting
from raystore.serve.kept.predictions import Predictions
from raystore.serve.spec.base import Strict
from raystore.train.source import Task

Label = str | Sequence[str] | float

_LABELS: dict[Task, pa.DataType] = {"classes": pa.string(), "labels": pa.list_(pa.string()), "number": pa.float64()}
_COLUMNS = ("id", "label", "reviewer", "time", "deployment")
_LONGEST = 200  # characters of a new label
_LOOKUP = 500


class Disagreement(Strict):
    """An item that another reviewer had labelled otherwise before."""

    id: str
    reviewer: str
    label: str | tuple[str, ...] | float


class Labelled(Strict):
    """What a call wrote: events added, labels that were known; `version` of the review table. `disagreements`: items that somebody
    else labelled otherwise; the newest event of an item counts."""

    added: int
    known: int
    version: int
    disagreements: tuple[Disagreement, ...] = ()


def check_labels(
    predictions: Predictions,
    deployment: str,
    labels: Sequence[tuple[str, Label]],
    task: Task,
    classes: Collection[str] | None,
) -> dict[str, Label]:
    """The labels by item, as the table holds them; of an item that stands twice with the same label one.

    Args:
        classes: what a label may be; None allows any.

    Raises:
        InvalidArguments, ItemNotFound.
    """
    checked: dict[str, Label] = {}
    problems = []
    for place, (id_, label) in enumerate(labels):
        value, reason = _checked(label, task, classes)
        if reason is None and id_ in checked and checked[id_] != value:
            reason = "is there twice, with different labels"
        if reason is not None:
            problems.append(Quoting(f"the label of item '{id_[:200]}' {reason}", unquoted=f"label {place} {reason}"))
        else:
            checked[id_] = value
    if problems:
        raise InvalidArguments(call=f"label in '{deployment}'", problems=problems)
    there = _answered(predictions, list(checked))
    missing = next((id_ for id_ in checked if id_ not in there), None)
    if missing is not None:
        raise ItemNotFound(name=missing[:200], where=f"the predictions of deployment '{deployment}'")
    return checked


def write_events(
    catalog: Catalog, table: str, deployment: str, reviewer: str, labels: dict[str, Label], task: Task
) -> Labelled:
    """Append those of the labels that are not the reviewer's own last word on the item.

    Raises:
        InvalidArguments, AlreadyExists: the table is of another kind.
    """
    call = f"label in '{deployment}'"
    present = open_table(catalog, table) if table in table_names(catalog) else None
    if present is not None and (problem := no_review_table(present, task)) is not None:
        raise InvalidArguments(call=call, problems=[problem])
    mine, others = _last_words(present, reviewer, list(labels))
    fresh = {id_: label for id_, label in labels.items() if id_ not in mine or mine[id_] != label}
    disagreements = tuple(
        Disagreement(id=id_, reviewer=who, label=said)
        for id_, (who, said) in others.items()
        if id_ in labels and said != labels[id_]
    )
    if fresh:
        n = len(fresh)
        present = register_table(
            catalog,
            table,
            pa.table(
                {
                    "id": pa.array(fresh, pa.string()),
                    "label": pa.array(list(fresh.values()), _LABELS[task]),
                    "reviewer": pa.array([reviewer] * n, pa.string()),
                    "time": pa.array([datetime.now(UTC)] * n, TYPES["timestamp"]),
                    "deployment": pa.array([deployment] * n, pa.string()),
                }
            ),
            id="id",
            time="time",
            mode="append",
        )
    return Labelled(
        added=len(fresh),
        known=len(labels) - len(fresh),
        version=present.version if present is not None else 0,
        disagreements=disagreements,
    )


def _checked(label: Any, task: Task, classes: Collection[str] | None) -> tuple[Label, str | None]:
    """The label as the table holds it, and why it cannot be."""
    if task == "number":
        if isinstance(label, bool) or not isinstance(label, (int, float)) or not math.isfinite(label):
            return 0.0, f"is {type(label).__name__}, expected a finite number"
        return float(label), None
    if task == "labels":
        if isinstance(label, str) or not isinstance(label, Sequence):
            return (), f"is {type(label).__name__}, expected a list of labels"
        reason = next((r for each in label if (r := _class_problem(each, classes))), None)
        return ("", reason) if reason else (tuple(sorted(set(label))), None)
    return label, _class_problem(label, classes)


def _class_problem(label: Any, classes: Collection[str] | None) -> str | None:
    if not isinstance(label, str):
        return f"is {type(label).__name__}, expected a string"
    if classes is not None and label not in classes:
        near = difflib.get_close_matches(label[:_LONGEST], classes, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"is none of the head's {len(classes):,} classes: {hint}allow_new takes it all the same"
    if not label.strip() or len(label) > _LONGEST or not is_unicode(label):
        return f"has {len(label):,} characters, expected 1 to {_LONGEST} and not blanks alone"
    return None


def _answered(predictions: Predictions, ids: Sequence[str]) -> set[str]:
    dataset = predictions.table.rows.dataset()
    found: set[str] = set()
    for start in range(0, len(ids), _LOOKUP):
        listed = ", ".join(quoted(id_) for id_ in ids[start : start + _LOOKUP])
        rows = dataset.to_table(columns=["request"], filter=f"request IN ({listed}) AND role <> 'shadow'")
        found.update(rows.column("request").to_pylist())
    return found


def no_review_table(table: SourceTable, task: Task) -> str | None:
    """Why the labels of a deployment cannot land in a table that is there; None where they can."""
    missing = [column for column in _COLUMNS if column not in table.columns]
    if missing:
        return f"table '{table.name}' has no column {', '.join(missing)}, so it is no review table: name another"
    if table.id != "id" or table.time != "time":
        return f"table '{table.name}' was not registered with id='id' and time='time', as a review table is"
    if (kind := table.dataset().schema.field("label").type) != _LABELS[task]:
        return f"the labels of table '{table.name}' are {kind}, those of this deployment {_LABELS[task]}: name another"
    return None


def _last_words(
    table: SourceTable | None, reviewer: str, ids: Sequence[str]
) -> tuple[dict[str, Label], dict[str, tuple[str, Any]]]:
    """What the reviewer said last of each item, and who of the others last said what."""
    mine: dict[str, Label] = {}
    others: dict[str, tuple[str, Any]] = {}
    if table is None or not ids:
        return mine, others
    chosen = pc.field("id").isin(list(ids)) & (pc.field("_added") >= table.since) & (pc.field("_added") <= table.version)
    rows = table.dataset().to_table(columns=["id", "label", "reviewer", "time", "_added"], filter=chosen)
    for row in rows.sort_by([("time", "ascending"), ("_added", "ascending")]).to_pylist():
        said = tuple(row["label"]) if isinstance(row["label"], list) else row["label"]
        if row["reviewer"] == reviewer:
            mine[row["id"]] = said
        else:
            others[row["id"]] = (row["reviewer"], said)
    return mine, others
