"""Verbs on heads: train, sweep, compare, report, predict, export. Their names and notes stand in head_registry.py."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from raystore.cli.files import write_text
from raystore.cli.options import EncoderOption, HtmlFile, Workers
from raystore.cli.state import STATE
from raystore.cli.words import option_values, setting_of, settings_of
from raystore.errors import InvalidArguments
from raystore.train.heads import Kind

if TYPE_CHECKING:
    from raystore.train.heads import Head, Predictions

NewHead = Annotated[str, typer.Argument(help="Small letters, digits, '_' and '-'.")]
HeadReference = Annotated[str, typer.Argument(metavar="HEAD", help="NAME, NAME@NUMBER or NAME@ALIAS")]
Training = Annotated[str, typer.Option(help="NAME or NAME@NUMBER of the training set.")]
Precision = Annotated[
    float | None, typer.Option(help="Abstain where unsure, so that this share of what is answered is right: .95")
]
Seed = Annotated[int, typer.Option(help="Of the random parts (order, mlp's first weights).")]

head = typer.Typer(help="Heads: shallow models on an encoder's vectors.", no_args_is_help=True, rich_markup_mode=None)


@head.command("train")
def head_train(
    name: NewHead,
    snapshot: Training,
    kind: Annotated[Kind, typer.Option(help="What to train.")] = "linear",
    option: Annotated[
        list[str],
        typer.Option(
            "--option", "-o", help="NAME=VALUE: l2=1,10,100 takes the best on val, class_weight=balanced, hidden=256."
        ),
    ] = [],  # noqa: B006
    precision: Precision = None,
    encoder: EncoderOption = None,
    seed: Seed = 0,
    workers: Workers = None,
) -> None:
    """Train a head and print its report."""
    options = option_values(option, "head train")
    if taken := sorted(_OWN & options.keys()):
        problems = [f"'{o}' is no option of a head: {_OWN_SAID.get(o, f'say --{o}')}" for o in taken]
        raise InvalidArguments(call="head train", problems=problems)
    store = STATE.open()
    with STATE.out.progress(f"training {name}", "passes") as progress:
        made = store.train_head(
            name, snapshot=snapshot, kind=kind, encoder=encoder, seed=seed, workers=workers, precision=precision,
            progress=progress, **options,
        )  # fmt: skip
    STATE.out.emit(head_facts(made), lambda: STATE.out.say(f"{made!r}\n\n{made.report}"))


@head.command("sweep")
def head_sweep(
    name: NewHead,
    snapshot: Training,
    settings: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON or YAML: a list of settings like {kind: linear, l2: 1}.")
    ] = None,
    tried: Annotated[
        list[str], typer.Option("--try", metavar="SETTING", help="A setting: 'kind=linear,l2=1'; may be repeated.")
    ] = [],  # noqa: B006
    precision: Precision = None,
    encoder: EncoderOption = None,
    seed: Seed = 0,
    workers: Workers = None,
) -> None:
    """Try many settings side by side by their loss on val; the best one's head is published."""
    listed = settings_of(settings, "head sweep") if settings is not None else []
    listed += [setting_of(text, "head sweep") for text in tried]
    store = STATE.open()
    with STATE.out.progress(f"trying settings for {name}", "settings") as progress:
        swept = store.sweep_heads(
            name, snapshot=snapshot, settings=listed, encoder=encoder, seed=seed, workers=workers, precision=precision,
            progress=progress,
        )  # fmt: skip
    facts = {"head": swept.head.label, "tried": swept.to_dicts(), "report": swept.head.report.model_dump(mode="json")}
    said = f"{swept}\n\nOn {swept.head.report.split}: {swept.head.report.headline_text}. More: raystore head report {swept.head.label}"
    STATE.out.emit(facts, lambda: STATE.out.say(said))


@head.command("compare")
def head_compare(
    a: Annotated[str, typer.Argument(metavar="A", help="NAME, NAME@NUMBER or NAME@ALIAS; the one there is.")],
    b: Annotated[str, typer.Argument(metavar="B", help="NAME, NAME@NUMBER or NAME@ALIAS; the one that may be better.")],
    on: Annotated[
        str | None, typer.Option(help="NAME or NAME@NUMBER of the snapshot to ask both about; by default A's.")
    ] = None,
    html: HtmlFile = None,
) -> None:
    """What B gains and loses against A on the same rows: is one better, in which classes, on which rows."""
    store = STATE.open()
    STATE.out.step(f"comparing {a} and {b}")
    found = store.compare_heads(a, b, on=on)
    if html is None:
        STATE.out.emit({**found.to_dict(), "better": found.better}, lambda: STATE.out.say(str(found)))
        return
    write_text(html, found.to_html(), "head compare")
    STATE.out.emit({"a": found.a, "b": found.b, "html": html}, lambda: STATE.out.say(f"{found.a} and {found.b} to {html}"))


@head.command("report")
def head_report(reference: HeadReference, html: HtmlFile = None) -> None:
    """What a head scores, how sure that is, what it confuses, and where to set its threshold."""
    found = STATE.open().heads.get(reference)
    if html is None:
        STATE.out.emit(found.report.model_dump(mode="json"), lambda: STATE.out.say(str(found.report)))
        return
    write_text(html, found.report.to_html(), "head report")
    STATE.out.emit(
        {"head": found.label, "html": html},
        lambda: STATE.out.say(f"{found.label} ({found.report.headline_text}) to {html}"),
    )


@head.command("predict")
def head_predict(
    reference: HeadReference,
    text: Annotated[list[str], typer.Argument(help="Texts; none reads one a line from standard input.")] = [],  # noqa: B006
) -> None:
    """Predict labels of texts in this process."""
    store = STATE.open()
    found = store.heads.get(reference)
    texts = text or [line for line in sys.stdin.read().splitlines() if line.strip()]
    rows = _rows(found, found.predict(store.encoder(found.fingerprint).encode(texts)))
    shown = [{k: ", ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]
    STATE.out.emit(rows, lambda: STATE.out.table(shown))


@head.command("export")
def head_export(
    reference: HeadReference,
    target: Annotated[str, typer.Argument(help="A folder that is new or empty.")],
    format: Annotated[
        Literal["numpy", "onnx"], typer.Option(help="A 30-line NumPy program beside its arrays, or an ONNX graph.")
    ] = "numpy",
) -> None:
    """Write a head as a folder that predicts without raystore."""
    heads = STATE.open().heads
    label = "{}@{}".format(*heads.resolve(reference))
    folder = Path(heads.export(label, target, format=format))
    files = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    facts = {"head": label, "format": format, "folder": str(folder), "files": files}
    STATE.out.emit(facts, lambda: STATE.out.say(f"{label} to {folder}: {', '.join(files)}"))


# What `train_head` takes beside a head's options.
_OWN = {"kind", "encoder", "seed", "workers", "precision", "snapshot", "name", "progress"}
_OWN_SAID = {"name": "it is the first argument", "progress": "it is shown on a terminal"}


def head_facts(found: Head) -> dict[str, Any]:
    return {
        "head": found.label,
        "kind": found.kind,
        "task": found.task,
        "classes": found.classes,
        "encoder": found.encoder,
        "fingerprint": found.fingerprint,
        "snapshot": found.snapshot,
        "voters": found.record.voters.model_dump(mode="json") if found.record.voters else None,
        "temperature": found.temperature,
        "threshold": found.threshold,
        "report": found.report.model_dump(mode="json"),
    }


def _rows(found: Head, predicted: Predictions) -> list[dict[str, Any]]:
    """A row a text, by the head's task."""
    if found.task == "number":
        return [{"number": number} for number in predicted.labels]
    name = "label" if found.task == "classes" else "labels"
    rows: list[dict[str, Any]] = [
        {name: label, "confidence": float(c)} for label, c in zip(predicted.labels, predicted.confidence, strict=True)
    ]
    if found.task == "classes":
        rows = [{**row, "abstained": bool(a)} for row, a in zip(rows, predicted.abstained, strict=True)]
    return rows
