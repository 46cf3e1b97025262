"""Verbs on snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raystore.cli.options import AsOf, EncoderOption, FailOnDrift, Parameters
from raystore.cli.state import STATE
from raystore.cli.words import SPLIT_HELP, pairs, query_text, split_of
from raystore.errors import InvalidArguments
from raystore.layout import numbers

if TYPE_CHECKING:
    from raystore.data.snapshots.snapshot import SnapshotRecord
    from raystore.store import Store

Reference = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="NAME or NAME@NUMBER")]
First = Annotated[str, typer.Argument(metavar="A", help="NAME or NAME@NUMBER; the one before.")]
Second = Annotated[str, typer.Argument(metavar="B", help="NAME or NAME@NUMBER; the one after.")]

snapshot = typer.Typer(help="Snapshots: frozen training sets.", no_args_is_help=True, rich_markup_mode=None)


@snapshot.command("create")
def snapshot_create(
    name: Annotated[str, typer.Argument(help="Small letters, digits and '_'.")],
    sql: Annotated[
        str,
        typer.Option(
            help="Gives id and, unless an event makes it, label; optionally entity, weight and split; "
            "'-' reads standard input."
        ),
    ],
    split: Annotated[str, typer.Option(help=SPLIT_HELP)] = ".8,.1,.1",
    label: Annotated[
        str | None,
        typer.Option(
            help="How the rows of an id become one label: first, last, majority, any, 'any:VALUE', 'sql: EXPRESSION', "
            "a defined rule's name, or an event: 'refund within 30 days of t.time'."
        ),
    ] = None,
    task: Annotated[
        Literal["classes", "labels", "number"], typer.Option(help="One class a row, a list of labels, or a number.")
    ] = "classes",
    feature: Annotated[list[str], typer.Option(help="NAME=TABLE.COLUMN, as of the row's time; may be repeated.")] = [],  # noqa: B006
    cap: Annotated[int | None, typer.Option(help="At most so many training rows of a class.")] = None,
    minimum: Annotated[int | None, typer.Option(help="Leave out classes with fewer rows, or none on train.")] = None,
    weights: Annotated[
        Literal["balanced"] | None, typer.Option(help="balanced gives every class the same weight in train.")
    ] = None,
    as_of: AsOf = None,
    param: Parameters = [],  # noqa: B006
) -> None:
    """Freeze a training set. The same rows by the same rules again make no new number."""
    how = split_of(split, "snapshot create")
    params, features = pairs(param, "snapshot create"), pairs(feature, "snapshot create")
    store = STATE.open()
    before = _newest(store, name)
    STATE.out.step(f"freezing {name}")
    made = store.snapshot(
        name, query_text(sql), params=params or None, label=label, task=task, split=how, features=features or None,
        cap=cap, minimum=minimum, weights=weights, as_of=as_of,
    )  # fmt: skip
    _emit_made(made, before)


@snapshot.command("refresh")
def snapshot_refresh(reference: Reference) -> None:
    """The same SQL and rules on today's data, under the next number; the same rows again make none."""
    store = STATE.open()
    record = store.snapshots[reference]
    before = _newest(store, record.name)
    STATE.out.step(f"freezing {record.name} again")
    _emit_made(store.snapshots.refresh(record), before)


@snapshot.command("rule")
def snapshot_rule(
    name: Annotated[str, typer.Argument(help="Small letters, digits and '_'; what --label calls it.")],
    expression: Annotated[
        str, typer.Argument(help="Any rule: 'sql: arg_max(label, at)', 'refund within 30 days of t.time'.")
    ],
) -> None:
    """Keep a label rule under a name and number. A snapshot holds the rule as it was when it was taken."""
    label = STATE.open().define_label_rule(name, expression)
    STATE.out.emit(
        {"rule": label, "expression": expression},
        lambda: STATE.out.say(f"{label}: raystore snapshot create ... --label {name}"),
    )


@snapshot.command("list")
def snapshot_list() -> None:
    """Snapshots with their newest number."""
    store = STATE.open()
    rows = [
        {
            "snapshot": s.label,
            "collection": s.collection,
            **s.spec["counts"],
            "classes": "numbers" if s.task == "number" else len(s.classes),
            "hash": s.hash[:12],
        }
        for s in (store.snapshots[n] for n in store.snapshots)
    ]
    STATE.out.emit(
        rows, lambda: STATE.out.table(rows, ["snapshot", "collection", "train", "val", "test", "classes", "hash"])
    )


@snapshot.command("show")
def snapshot_show(reference: Reference) -> None:
    """A snapshot's SQL, versions and rules."""
    found = STATE.open().snapshots[reference]

    def draw() -> None:
        STATE.out.say(repr(found))
        spec = {name: found.spec.get(name) for name in _MADE_FROM}
        rows = [{"field": name.replace("_", " "), "value": _worded(v)} for name, v in spec.items() if v not in _NOTHING]
        STATE.out.table(rows, ["field", "value"], title="Made from")
        STATE.out.say(f"\nIts classes by side: raystore snapshot report {found.label}")

    STATE.out.emit(_facts(found), draw)


@snapshot.command("report")
def snapshot_report(reference: Reference) -> None:
    """Class by side with shares, what was left out and why, conflicts."""
    found = STATE.open().snapshots[reference]
    told = ("counts", "classes", "by_class", "left_out", "too_small", "not_in_train", "conflicts")
    facts = {"snapshot": found.label, "hash": found.hash, **{key: found.spec[key] for key in told if key in found.spec}}
    STATE.out.emit(facts, lambda: STATE.out.say(found.report()))


@snapshot.command("rebuild")
def snapshot_rebuild(reference: Reference) -> None:
    """Run its SQL again as of its versions and compare the hash, less what was erased; exit code 1 when it differs."""
    store = STATE.open()
    STATE.out.step(f"making {reference} again")
    rebuilt = store.snapshots.rebuild(reference)
    facts = {"same": rebuilt.same, "hash": rebuilt.hash, "n_erased": rebuilt.n_erased, "erased": rebuilt.erased}

    def draw() -> None:
        says = "the same rows" if rebuilt.same else "other rows than were frozen"
        less = f", less {rebuilt.n_erased:,} that were erased" if rebuilt.n_erased else ""
        STATE.out.say(f"{says}{less}; hash {rebuilt.hash}")
        if rebuilt.erased:
            more = f" and {len(rebuilt.erased) - _SHOWN:,} more (--json)" if len(rebuilt.erased) > _SHOWN else ""
            STATE.out.say(f"erased: {', '.join(rebuilt.erased[:_SHOWN])}{more}")

    STATE.out.emit(facts, draw)
    if not rebuilt.same:
        raise typer.Exit(1)


@snapshot.command("diff")
def snapshot_diff(a: First, b: Second) -> None:
    """Rows in, out, relabelled, moved between sides, reweighted, with other features from A to B; by class."""
    found = STATE.open().snapshots.diff(a, b)
    STATE.out.emit(found.to_dict(), lambda: STATE.out.say(str(found)))


@snapshot.command("leaks")
def snapshot_leaks(
    reference: Reference,
    threshold: Annotated[float, typer.Option(help="The cosine from which two rows count as near-duplicates.")] = 0.98,
    encoder: EncoderOption = None,
    limit: Annotated[int, typer.Option(help="Pairs to list; all are counted.")] = 100,
) -> None:
    """Entities, ids and near-duplicates that stand on two sides of the split."""
    store = STATE.open()
    with STATE.out.progress(f"comparing the sides of {reference}", kept=False) as progress:
        found = store.snapshots.leaks(reference, encoder=encoder, threshold=threshold, limit=limit, progress=progress)
    STATE.out.emit(found.to_dict(), lambda: STATE.out.say(str(found)))


@snapshot.command("drift")
def snapshot_drift(
    a: First,
    b: Second,
    encoder: EncoderOption = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 0,
    fail_on_drift: FailOnDrift = False,
) -> None:
    """Whether B comes from where A came from: shares of the classes, and two tests of the embeddings."""
    store = STATE.open()
    STATE.out.step(f"comparing {a} and {b}")
    found = store.snapshots.drift(a, b, encoder=encoder, seed=seed)
    STATE.out.emit(found.to_dict(), lambda: STATE.out.say(str(found)))
    if fail_on_drift and found.alarm:
        raise typer.Exit(1)


@snapshot.command("export")
def snapshot_export(
    reference: Reference,
    target: Annotated[str, typer.Argument(help="A folder that is new or empty.")],
    format: Annotated[
        Literal["parquet", "huggingface"], typer.Option(help="huggingface is what datasets.load_dataset opens.")
    ] = "parquet",
    vectors: Annotated[bool, typer.Option("--vectors", help="A vector beside each row.")] = False,
    encoder: Annotated[str | None, typer.Option(help="With --vectors: whose, where the collection has several.")] = None,
) -> None:
    """Write the rows as files that others read. A later erase does not reach them."""
    if encoder is not None and not vectors:
        raise InvalidArguments(call="snapshot export", problems=["--encoder says whose vectors: give --vectors too"])
    store = STATE.open()
    record = store.snapshots[reference]
    STATE.out.step(f"exporting {record.label}")
    folder = store.snapshots.export(record, target, format=format, vectors=(encoder or True) if vectors else False)
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    facts = {"snapshot": record.label, "format": format, "folder": str(folder), "files": files}
    STATE.out.emit(facts, lambda: STATE.out.say(f"{record.label} to {folder}: {', '.join(files)}"))


_SHOWN = 20
_MADE_FROM = (
    "collection", "sql", "params", "versions", "as_of", "task", "label", "split", "features", "cap", "minimum", "weights",
    "class_weights", "created_at", "notes",
)  # fmt: skip
_NOTHING: tuple[Any, ...] = (None, "", {}, [], 0)


def _newest(store: Store, name: str) -> int:
    return (numbers(store.layout.snapshots(name)) or [0])[-1]


def _emit_made(made: SnapshotRecord, before: int) -> None:
    def draw() -> None:
        if made.number == before:
            STATE.out.say(f"The same rows by the same rules: {made.label} stays the newest.")
        STATE.out.say(made.report())

    STATE.out.emit({**_facts(made), "new": made.number != before}, draw)


def _facts(record: SnapshotRecord) -> dict[str, Any]:
    return {"snapshot": record.label, **record.spec}


def _worded(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_worded(v)}" for k, v in value.items() if v not in _NOTHING)
    return f"{value:.4g}" if isinstance(value, float) else " ".join(str(value).split())
