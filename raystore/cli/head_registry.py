"""Verbs on which heads there are: list, show, versions, alias, note, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raystore.cli.heads import HeadReference, head_facts
from raystore.cli.state import STATE
from raystore.cli.words import query_text
from raystore.errors import InvalidArguments

if TYPE_CHECKING:
    from raystore.train.heads import Head

HeadName = Annotated[str, typer.Argument(metavar="NAME", help="A head's name.")]
registry = typer.Typer(rich_markup_mode=None)  # its verbs stand among those of `head`

_COLUMNS = ("head", "aliases", "kind", "task", "score", "snapshot", "encoder", "note")
_SHOWN_CLASSES = 10


@registry.command("list")
def head_list() -> None:
    """The newest head of each name, with its task's main score and its aliases."""
    heads = STATE.open().heads
    _emit_rows([heads.versions(name)[0] for name in heads.names()])


@registry.command("versions")
def head_versions(name: HeadName) -> None:
    """All versions of a head, the newest first."""
    _emit_rows(STATE.open().heads.versions(name))


@registry.command("show")
def head_show(reference: HeadReference) -> None:
    """What a head is, where it comes from, what it is called and what was noted."""
    heads = STATE.open().heads
    found = heads.get(reference)
    aliases, notes = heads.aliases_of(found.label), heads.notes(found.label)

    def draw() -> None:
        about = {"head": found.label, "aliases": ", ".join(aliases), **_about(found)}
        STATE.out.table([{"field": field, "value": value} for field, value in about.items() if value])
        if notes:
            STATE.out.table(_noted(notes), title="Notes")
        STATE.out.say(f"\nIts report: raystore head report {found.label}")

    STATE.out.emit({**head_facts(found), "aliases": aliases, "notes": notes}, draw)


@registry.command("alias")
def head_alias(
    name: HeadName,
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="live and candidate are the usual ones.")],
    number: Annotated[int | None, typer.Argument(metavar="[NUMBER]", help="The version it means from now on.")] = None,
    drop: Annotated[bool, typer.Option("--drop", help="From now on it means none; its history stays.")] = False,
) -> None:
    """Say which version an alias means; without NUMBER, what it meant and since when. What is deployed stays until it is deployed
    again.
    """
    if drop and number is not None:
        raise InvalidArguments(call="head alias", problems=["NUMBER and --drop are two things: give one"])
    heads = STATE.open().heads
    if drop or number is not None:
        before = heads.drop_alias(name, alias) if number is None else heads.set_alias(name, alias, number)
        now = f"{name}@{number}" if number is not None else "no version"
        was = "" if before is None or before == number else f"; it was {name}@{before}"
        same = " already" if before == number else " now"
        facts = {"head": name, "alias": alias, "number": number, "before": before}
        STATE.out.emit(facts, lambda: STATE.out.say(f"{name}@{alias} means {now}{same}{was}"))
        return
    history = heads.alias_history(name, alias)
    rows = [{"since": _moment(e["at"]), "means": f"{name}@{e['number']}" if e["number"] else "no version"} for e in history]
    STATE.out.emit(history, lambda: STATE.out.table(rows))


@registry.command("note")
def head_note(
    reference: HeadReference, text: Annotated[str, typer.Argument(help="What to remember; '-' reads standard input.")]
) -> None:
    """Write a note beside one version of a head. Notes are added, never changed."""
    heads = STATE.open().heads
    label = "{}@{}".format(*heads.resolve(reference))
    heads.note(label, query_text(text))
    notes = heads.notes(label)
    said = f"{label} has {len(notes):,} note{'' if len(notes) == 1 else 's'}"
    STATE.out.emit({"head": label, "notes": len(notes)}, lambda: STATE.out.say(said))


@registry.command("notes")
def head_notes(reference: HeadReference) -> None:
    """The notes of one version, oldest first."""
    notes = STATE.open().heads.notes(reference)
    STATE.out.emit(notes, lambda: STATE.out.table(_noted(notes)) if notes else STATE.out.say(f"{reference} has no notes"))


def _emit_rows(rows: list[dict[str, Any]]) -> None:
    shown = [{**row, "aliases": ", ".join(row["aliases"])} for row in rows]
    STATE.out.emit(rows, lambda: STATE.out.table(shown, _COLUMNS))


def _about(found: Head) -> dict[str, str]:
    """A head in words, for a person; what is empty is left out."""
    from raystore.train.report.words import settings_said

    report, record = found.report, found.record
    few = ", ".join(found.classes[:_SHOWN_CLASSES]) + (", ..." if len(found.classes) > _SHOWN_CLASSES else "")
    return {
        "learns": "a number" if found.task == "number" else f"{len(found.classes):,} {found.task}: {few}",
        "kind": found.kind,
        "settings": settings_said(record.settings),
        "encoder": found.encoder,
        "snapshot" if found.record.voters is None else "asks": found.origin,
        "score": f"{report.headline_text} on {report.rows:,} rows of {report.split}",
        "abstains": f"below a confidence of {found.threshold:.3f}" if found.threshold is not None else "",
    }


def _noted(notes: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"at": _moment(note["at"]), "note": note["text"]} for note in notes]


def _moment(at: str) -> str:
    return f"{at[:19]}Z"
