"""serve and its verbs, shadow, promote, rollback: deployments from the command line."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raystore.cli.state import STATE
from raystore.cli.words import moment
from raystore.errors import InvalidArguments

if TYPE_CHECKING:
    from raystore.serve.operate.promote import Promoted
    from raystore.serve.run.deploy import Running
    from raystore.serve.spec.app import AppSpec

shadow = typer.Typer(help="Heads that see what the live head sees.", no_args_is_help=True, rich_markup_mode=None)

File = Annotated[
    str | None, typer.Argument(metavar="[FILE]", help="triage.yaml; without it, every deployment of the store.")
]
Labels = Annotated[
    str | None, typer.Option(help="Where labels have arrived: table.column, or SQL that gives id and label.")
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Of predictions since then: 24h, 7d or 2w ago, or a date or time (UTC) like 2027-01-01."
    ),
]


def serve(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE | check | graph | schema]", help="A deployment file; without it, every deployment of the store."
        ),
    ] = None,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", help="Of check and graph.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; keys are demanded beyond loopback.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Serve deployments on Ray Serve until SIGTERM or Ctrl-C.

    `serve check FILE` says what would run and what does not fit, `serve graph FILE` draws it, `serve schema` prints the JSON schema
    of the file.
    """
    if what == "schema":
        schema()
    elif what in ("check", "graph"):
        check(file, drawing=what == "graph")
    elif file is not None:
        raise InvalidArguments(call="serve", problems=[f"one file is served, and there are two words: '{what}', '{file}'"])
    else:
        run(what, host, port)


def run(file: str | None, host: str | None, port: int | None) -> None:
    from raystore.serve.run.foreground import serve_app
    from raystore.serve.spec.read import parse_spec

    spec = _spec(file)
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    spec = parse_spec({**spec.model_dump(by_alias=True), **changes}, "serve")

    def started(running: Running) -> None:
        doing, ends = (
            ("changed what is served", "its own process ends it") if running.elsewhere else ("serving", "Ctrl-C stops")
        )
        said = f"{doing} at {running.url}; API page at {running.url}/docs; {ends}"
        STATE.out.emit({"url": running.url}, lambda: STATE.out.say(said))

    serve_app(spec.store or STATE.root, spec, started=started)


def check(file: str | None, *, drawing: bool) -> None:
    """What would run, and what does not fit: exit code 1 then."""
    from raystore.serve.answer.loading import Rooms
    from raystore.serve.operate.check import brought_back, content_kept
    from raystore.serve.operate.check import check as checked
    from raystore.serve.run.deploy import nodes_joined

    spec = _spec(file)
    rooms = Rooms(spec.store or STATE.root)
    found = checked(spec, rooms, nodes_joined())
    notes = brought_back(found, rooms) + content_kept(found, rooms)

    def draw() -> None:
        if drawing or found.fits:
            STATE.out.say(found.graph())
        for problem in found.problems:
            STATE.out.say(f"does not fit: {problem}")
        for warning in found.warnings:
            STATE.out.say(f"warning: {warning}")
        for note in notes:
            STATE.out.say(f"note: {note}")
        if found.fits and not drawing:
            STATE.out.say(f"{len(found.records)} deployment{'' if len(found.records) == 1 else 's'}: everything fits")

    records = {name: record.model_dump(mode="json", by_alias=True) for name, record in found.records.items()}
    sentences = {"problems": list(found.problems), "warnings": list(found.warnings), "notes": notes}
    STATE.out.emit({"fits": found.fits, **sentences, "deployments": records}, draw)
    if not found.fits:
        raise typer.Exit(1)


def schema() -> None:
    """The JSON schema of the deployment file, for editors."""
    from raystore.serve.spec.app import AppSpec

    found = AppSpec.model_json_schema(by_alias=True)
    STATE.out.emit(found, lambda: STATE.out.say(json.dumps(found, indent=2)))


def _spec(file: str | None) -> AppSpec:
    from raystore.serve.spec.app import AppSpec
    from raystore.serve.spec.read import load_spec

    return load_spec(file) if file else AppSpec()


@shadow.command("report")
def shadow_report(
    deployment: Annotated[str, typer.Argument(help="Its name.")],
    labels: Labels = None,
    since: Since = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Of predictions before then; written as --since.")
    ] = None,
    page: Annotated[Path | None, typer.Option("--html", help="Write an HTML page; {head} stands for the shadow.")] = None,
) -> None:
    """Each shadow beside the live head: agreement, flips, gain where labels have arrived, latency, what is needed to tell."""
    begin, end = _moments("shadow report", since=since, until=until)
    reports = STATE.open().deployments.reports(deployment, labels=labels, since=begin, until=end)

    def draw() -> None:
        if not reports:
            STATE.out.say(f"nothing was seen by a shadow of '{deployment}' yet")
        for report in reports:
            STATE.out.say(report.text())

    written = []
    for report in reports if page is not None else ():
        assert page is not None
        file = Path(str(page).replace("{head}", report.shadow.replace("@", "-")))
        file.write_text(report.to_html(), encoding="utf-8")
        written.append(str(file))
    STATE.out.emit([{**each.model_dump(mode="json"), "metrics": each.metrics()} for each in reports], draw)
    for each in written:
        STATE.out.say(f"written: {each}")


def promote(
    head: Annotated[str, typer.Argument(help="A shadow or canary: refunds@3.")],
    deployment: Annotated[str | None, typer.Option(help="Where it is a shadow of several.")] = None,
    gate: Annotated[
        str | None, typer.Option("--if", help="A condition on its report: 'agreement > .97 and accuracy_gain.low > 0'.")
    ] = None,
    labels: Labels = None,
    since: Since = None,
) -> None:
    """Let a shadow answer; a running service follows within a second or two, and no request fails."""
    [begin] = _moments("promote", since=since)
    done = STATE.open().deployments.promote(head, deployment=deployment, gate=gate, labels=labels, since=begin)
    _said(done)


def rollback(
    deployment: Annotated[str, typer.Argument(help="Its name.")],
    to: Annotated[
        int | None, typer.Option(help="The record to return to; by default the one with the head before.")
    ] = None,
) -> None:
    """Let the head answer that answered before."""
    _said(STATE.open().deployments.rollback(deployment, to=to))


def _moments(call: str, **given: str | None) -> list[datetime | None]:
    """InvalidArguments names every option that is no time."""
    found: list[datetime | None] = []
    problems = []
    for name, text in given.items():
        try:
            found.append(None if text is None else moment(text, ago=True))
        except (ValueError, OverflowError):
            problems.append(f"--{name} is '{text}', expected 24h, 7d, 2w, or a date like 2027-01-01")
    if problems:
        raise InvalidArguments(call=call, problems=problems)
    return found


def _said(done: Promoted) -> None:
    def draw() -> None:
        if done.verdict is not None:
            STATE.out.say(done.verdict.text())
        STATE.out.say(f"{done.deployment}: {done.after} answers now, {done.before} before (record {done.number})")
        if done.alias:
            STATE.out.say(f"{done.alias} means it")
        elif done.file_names != done.after:
            STATE.out.say(f"its file names {done.file_names}: change that, or the next deploy from it brings that back")

    found: dict[str, Any] = done.model_dump(mode="json")
    STATE.out.emit(found, draw)
