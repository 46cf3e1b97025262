"""encoder migrate: a collection from one encoder to another, with a plan first; cut over, roll back, retire."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from raystore.cli.options import CollectionName
from raystore.cli.state import STATE
from raystore.errors import InvalidArguments

CALL = "encoder migrate"


def migrate(
    name: CollectionName,
    to: Annotated[str | None, typer.Option(help="The encoder to move to.")] = None,
    way: Annotated[
        Literal["auto", "kept", "files", "dual", "bridge", "through"],
        typer.Option(
            help="kept, files: re-embed; dual: both for new rows; bridge: map old rows; through: map queries; auto: what fits."
        ),
    ] = "auto",
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what each way would cover, take and cost; change nothing.")
    ] = False,
    cut_over: Annotated[
        bool, typer.Option("--cut-over", help="Ask the collection by it at the end, if no row lacks its vector.")
    ] = False,
    roll_back: Annotated[bool, typer.Option("--roll-back", help="Take the last cut-over back.")] = False,
    retire: Annotated[
        str | None, typer.Option(metavar="OLD", help="Drop this encoder's vectors and indexes here, bytes and all.")
    ] = None,
    force: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="With --retire: even if something stands on it; the reason is kept."),
    ] = None,
) -> None:
    """Move a collection to another encoder while it is used. The plan is said first; run it again after any interruption."""
    asked = [option for option, given in (("--to", to), ("--roll-back", roll_back), ("--retire", retire)) if given]
    problems = (
        [] if len(asked) == 1 else [f"give one of --to, --roll-back and --retire, found {' and '.join(asked) or 'none'}"]
    )
    problems += [
        f"{option} goes with --to" for option, given in (("--plan", plan), ("--cut-over", cut_over)) if given and not to
    ]
    problems += ["--force goes with --retire"] if force is not None and retire is None else []
    if problems:
        raise InvalidArguments(call=CALL, problems=problems)
    target = STATE.open().collection(name)
    if roll_back:
        back = target.roll_back_encoder()
        facts = {"collection": name, "current": back.label, "fingerprint": back.fingerprint}
        STATE.out.emit(facts, lambda: STATE.out.say(f"{name} is asked by {back.label} again"))
        return
    if retire is not None:
        with STATE.out.progress(f"rewriting {name}", "fragments") as progress:
            gone = target.retire_encoder(retire, force, progress=progress)
        STATE.out.emit(gone.to_dict(), lambda: STATE.out.say(str(gone)))
        return
    assert to is not None
    planned = target.plan_migration(to)

    def draw_plan() -> None:
        STATE.out.table(planned.table, title=planned.title)
        STATE.out.say(f"\n{planned.recommendation}")

    if plan:
        STATE.out.emit(planned.to_dict(), draw_plan)
        return
    if not STATE.out.as_json:
        draw_plan()
    with STATE.out.progress(f"migrating {name}") as progress:
        report = target.migrate(to, way, cut_over, progress=progress)
    facts_: dict[str, Any] = {"plan": planned.to_dict(), **report.to_dict()}
    STATE.out.emit(facts_, lambda: STATE.out.say(str(report)))
