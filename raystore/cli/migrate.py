"""encoder migrate: a collection from one encoder to another, with a plan first; cut over, roll back, retire. encoder bridge: the map
between two encoders. encoder compare: what changes with the encoder."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from raystore.cli.options import CollectionName
from raystore.cli.state import STATE
from raystore.errors import InvalidArguments

CALL = "encoder migrate"
Label = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="A kept column of labels: what label searches keep is measured too.")
]


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
    planned, before = target.plan_migration(to), target.previous_encoder()

    def draw_plan() -> None:
        STATE.out.table(planned.table, title=planned.title)
        STATE.out.say(f"\n{planned.recommendation}")
        if before is not None:
            STATE.out.say(f"--roll-back takes the last cut-over back: {name} is then asked by {before.label}.")

    if plan:
        STATE.out.emit({**planned.to_dict(), "roll_back_to": before.label if before else None}, draw_plan)
        return
    if not STATE.out.as_json:
        draw_plan()
    with STATE.out.progress(f"migrating {name}") as progress:
        report = target.migrate(to, way, cut_over, progress=progress)
    facts_: dict[str, Any] = {"plan": planned.to_dict(), **report.to_dict()}
    STATE.out.emit(facts_, lambda: STATE.out.say(str(report)))


def bridge(
    collection: CollectionName,
    name: Annotated[str, typer.Argument(help="What the map from the old space into the new one is called.")],
    old: Annotated[str, typer.Option(metavar="ENCODER", help="The encoder whose vectors are mapped.")],
    new: Annotated[str, typer.Option(metavar="ENCODER", help="The encoder into whose space they are mapped.")],
    back: Annotated[str | None, typer.Option(metavar="NAME", help="Of the way back; by default NAME-back.")] = None,
    label: Label = None,
    kind: Annotated[
        list[str], typer.Option(help="procrustes, low-rank or mlp; may be repeated. By default all, and the best is taken.")
    ] = [],  # noqa: B006
    pairs: Annotated[int, typer.Option(help="Rows with a vector of both to fit it on, drawn at random, at most.")] = 20_000,
    seed: Annotated[int, typer.Option(help="The same pairs and seed give the same maps.")] = 0,
) -> None:
    """Fit the maps between two encoders' spaces on a collection's rows with a vector of both, and say what they find."""
    store = STATE.open()
    with STATE.out.progress(f"fitting {name}", "maps") as progress:
        made = store.build_bridge(
            name, old, new, collection=collection, back=back, pairs=pairs, kinds=kind or None, labels=label, seed=seed,
            progress=progress,
        )  # fmt: skip
    STATE.out.emit(made.to_dict(), lambda: STATE.out.say(str(made)))


def compare(
    collection: CollectionName,
    old: Annotated[str, typer.Argument(help="The encoder that is left.")],
    new: Annotated[str, typer.Argument(help="The one that is moved to, or a bridge to it.")],
    label: Label = None,
    head: Annotated[
        list[str], typer.Option(help="A head of the old encoder; may be repeated. By default the newest of each name.")
    ] = [],  # noqa: B006
    sample: Annotated[int, typer.Option(help="Rows with a vector of both, drawn at random.")] = 2_000,
    seed: Annotated[int, typer.Option(help="Which rows are drawn.")] = 0,
) -> None:
    """What changes with the encoder: recall@10 of bridged against re-embedded rows, and how often old heads say the same."""
    found = STATE.open().collection(collection).compare_encoders(
        old, new, labels=label, heads=head or None, sample=sample, seed=seed
    )  # fmt: skip

    def draw() -> None:
        STATE.out.table(found.rows, title=found.title)
        if found.advice:
            STATE.out.say(f"\n{found.advice}")

    STATE.out.emit(found.to_dict(), draw)
