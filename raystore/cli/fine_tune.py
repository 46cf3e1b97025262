"""Verbs that make encoders better: fine-tune, improve, and the runs they leave (encoder runs, run, make-live)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from raystore.cli.files import write_text
from raystore.cli.state import STATE
from raystore.cli.words import option_values, setting_of, settings_of, split_of
from raystore.errors import InvalidArguments

if TYPE_CHECKING:
    from raystore.fine_tune.records import StoppedRun
    from raystore.fine_tune.result import FineTuned

NewName = Annotated[str, typer.Argument(help="What the encoder is called once it is live.")]
DataFiles = Annotated[list[str], typer.Argument(metavar="FILES...", help="Labelled files; patterns, folders.")]
Text = Annotated[str | None, typer.Option(help="The column of texts.")]
Image = Annotated[str | None, typer.Option(help="The column of images; folders and tars of images need neither.")]
Pair = Annotated[str | None, typer.Option(help="A second text that belongs to the first; then no label is needed.")]
Label = Annotated[str | None, typer.Option(help="The column of classes.")]
Parent = Annotated[str | None, typer.Option(help="A column of coarser classes.")]
Id = Annotated[str | None, typer.Option(help="The id column; without it, file name and row number.")]
Subject = Annotated[str | None, typer.Option(help="Whose row it is; a subject stands on one side of the split.")]
Test = Annotated[list[str], typer.Option(help="Files of the test side; may be repeated. By default a share of the data.")]
Pool = Annotated[list[str], typer.Option(help="Files with unlabelled items, for --set pretrain_steps=N; may be repeated.")]
ImprovedPool = Annotated[
    list[str],
    typer.Option(
        "--pool", help="Files with unlabelled items, embedded too (and see --set pretrain_steps=N); may be repeated."
    ),
]
Split = Annotated[
    str | None, typer.Option(metavar="FRACTIONS", help="Of train, val and test: .8,.1,.1; beside --test of train and val.")
]
OutOfScope = Annotated[str | None, typer.Option(help="A label that is no class: not trained on, but told apart.")]
RecipeName = Annotated[str | None, typer.Option(help="few-shot, many-classes, domain or image.")]
Settings = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="One number of the recipe: learning_rate=2e-5; may be repeated."),
]
Budget = Annotated[float | None, typer.Option("--budget-minutes", help="Of training; the steps are fitted into it.")]
TrainWorkers = Annotated[int, typer.Option(help="0 trains in this process, more on so many Ray Train workers.")]
Require = Annotated[list[str], typer.Option(help="A figure that must not fall: knn_accuracy, precision, head_accuracy ...")]
Force = Annotated[
    str | None, typer.Option(metavar="REASON", help="Make it live even if a figure fell; the reason is kept.")
]
Show = Annotated[
    list[str], typer.Option(metavar="ID", help="A test row whose neighbours the report shows; may be repeated.")
]
Items = Annotated[
    str | None,
    typer.Option(metavar="COLLECTION", help="One that keeps its content: the report shows the items beside the ids."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="NAME@NUMBER, or NAME for its newest that was finished.")]
Page = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Write the proof with its two maps as one HTML file too.")
]

runs = typer.Typer(rich_markup_mode=None)


def fine_tune(
    name: NewName,
    data: DataFiles,
    base: Annotated[str, typer.Option(help="The encoder to start from.")] = "minilm",
    text: Text = None,
    image: Image = None,
    pair: Pair = None,
    label: Label = None,
    parent: Parent = None,
    id: Id = None,
    subject: Subject = None,
    test: Test = [],  # noqa: B006
    pool: Pool = [],  # noqa: B006
    split: Split = None,
    out_of_scope: OutOfScope = None,
    recipe: RecipeName = None,
    settings: Settings = [],  # noqa: B006
    budget_minutes: Budget = None,
    workers: TrainWorkers = 0,
    require: Require = [],  # noqa: B006
    force: Force = None,
    show: Show = [],  # noqa: B006
    items: Items = None,
    html: Page = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take 5 steps and say memory, steps and time; train nothing that stays.")
    ] = False,
    sweep: Annotated[
        str | None, typer.Option(metavar="FILE", help="JSON or YAML: a list of settings to try in short runs instead.")
    ] = None,
    tried: Annotated[
        list[str], typer.Option("--try", help="A setting to try instead: 'learning_rate=2e-5'; may be repeated.")
    ] = [],  # noqa: B006
) -> None:
    """A better encoder from labels, with its proof; the name means it unless a required figure fell.

    Run it again after any interruption: it goes on from the last checkpoint.
    """
    chosen = option_values(settings, "fine-tune")
    fractions = _fractions(split, "fine-tune")
    if sweep is not None or tried:
        _alone(dry_run=dry_run, force=force, require=require, show=show, items=items, html=html)
    store = STATE.open(create=True)
    _check_items(store, items, "fine-tune")
    _default_base(store, base)
    asked: dict[str, Any] = {
        "base": base, "data": data, "text": text, "image": image, "pair": pair, "label": label, "parent": parent, "id": id,
        "subject": subject, "test": test or None, "pool": pool or None, "split": fractions, "out_of_scope": out_of_scope,
        "recipe": recipe,
    }  # fmt: skip
    if sweep is not None or tried:
        listed = settings_of(sweep, "fine-tune") if sweep is not None else []
        listed += [setting_of(each, "fine-tune") for each in tried]
        if budget_minutes is not None:
            asked["minutes"] = budget_minutes
        with STATE.out.progress(f"trying settings for {name}", "settings") as progress:
            swept = store.sweep_fine_tune(name, settings=listed, workers=workers, progress=progress, **chosen, **asked)
        STATE.out.emit({"best": swept.best, "tried": swept.to_dicts()}, lambda: STATE.out.say(str(swept)))
        return
    asked |= {"budget_minutes": budget_minutes, "workers": workers, "require": require or None}
    if dry_run:
        tried_out = store.fine_tune(name, dry_run=True, **asked, **chosen)
        STATE.out.emit(tried_out.to_dict(), lambda: STATE.out.say(str(tried_out)))
        return
    with STATE.out.progress(f"fine-tuning {name}", "steps") as progress:
        made = store.fine_tune(name, force=force, show=show or None, progress=progress, **asked, **chosen)
    _emit(made.to_dict(), made, items, html, "fine-tune")


def improve(
    labelled: Annotated[str, typer.Argument(metavar="LABELLED", help="Files with items and labels; quote a pattern.")],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[POOL...]", help="More of the pool, as a shell expands --pool RAW/*.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the encoder is called.")] = "improved",
    base: Annotated[str | None, typer.Option(help="The encoder to start from; for texts minilm by default.")] = None,
    text: Text = None,
    image: Image = None,
    pair: Pair = None,
    label: Label = None,
    parent: Parent = None,
    id: Id = None,
    subject: Subject = None,
    test: Test = [],  # noqa: B006
    pool: ImprovedPool = [],  # noqa: B006
    split: Split = None,
    out_of_scope: OutOfScope = None,
    collection: Annotated[str | None, typer.Option(help="Where the rows go; by default called like the encoder.")] = None,
    recipe: RecipeName = None,
    settings: Settings = [],  # noqa: B006
    budget_minutes: Annotated[float, typer.Option("--budget-minutes", help="Of training.")] = 30.0,
    workers: TrainWorkers = 0,
    require: Require = [],  # noqa: B006
    force: Force = None,
    items: Items = None,
    html: Page = None,
) -> None:
    """Check labelled files, fine-tune, prove, embed them and the pool, index; switch only if it is better and no row is lost.

    Run it again after any interruption: it goes on where it stopped.
    """
    if more and not pool:
        problem = f"expected one name or quoted pattern of labelled files, found {1 + len(more)}"
        raise InvalidArguments(call="improve", problems=[problem])
    asked = {
        "text": text, "image": image, "pair": pair, "label": label, "parent": parent, "id": id, "subject": subject,
        "test": test or None, "split": _fractions(split, "improve"), "out_of_scope": out_of_scope, "recipe": recipe,
        "workers": workers, "require": require or None, "force": force, **option_values(settings, "improve"),
    }  # fmt: skip
    store = STATE.open(create=True)
    _check_items(store, items, "improve")
    with STATE.out.progress(f"improving {name}", "steps") as progress:
        made = store.improve(
            labelled, name=name, base=base, pool=[*pool, *(more or [])] or None, collection=collection,
            budget_minutes=budget_minutes, progress=progress, **{k: v for k, v in asked.items() if v is not None},
        )  # fmt: skip
    _emit(made.to_dict(), made.run, items, html, "improve", str(made))


@runs.command("runs")
def encoder_runs(name: Annotated[str | None, typer.Argument(help="Of one name alone.")] = None) -> None:
    """The fine-tunings of this store: what each started from, what it came to, whether it is live."""
    found = STATE.open().runs
    rows = [
        {
            "run": run.label,
            "base": run.base,
            "encoder": "" if run.status == "stopped" else run.encoder,
            "recipe": run.recipe_name or "",
            "steps": run.training.steps,
            "minutes": round(run.training.seconds / 60, 1),
            "proof": "stopped" if run.status == "stopped" else "unchanged" if run.unchanged else run.judged.verdict,
            "live": found.is_live(run),
            "ended": run.ended,
        }
        for each in ([name] if name is not None else found.names())
        for run in found.of(each)
    ]
    STATE.out.emit(rows, lambda: STATE.out.table(rows) if rows else STATE.out.say("No encoder was fine-tuned here yet."))


@runs.command("run")
def encoder_run(run: RunName, items: Items = None, html: Page = None) -> None:
    """One run and its proof: before and after, the classes that got worse, neighbours side by side. Of a run that an alarm stopped:
    its sentence, data, curve and recipe."""
    store = STATE.open()
    record = store.runs.shown(run)
    if record.status == "stopped":
        _emit_stopped(record, items=items, html=html)
        return
    found = store.run(record.label)
    _emit(found.to_dict(), found, items, html, "encoder run")


@runs.command("make-live")
def encoder_make_live(run: RunName, force: Force = None) -> None:
    """Let the run's name mean its encoder; refused where a required figure fell, unless a reason is given."""
    made = STATE.open().run(run).make_live(force=force)
    facts = {"run": made.record.label, "encoder": made.encoder.label, "live": made.live}
    STATE.out.emit(facts, lambda: STATE.out.say(f"'{made.record.name}' means {made.encoder.label} from now on."))


def _default_base(store: Any, base: str) -> None:
    """The packaged MiniLM needs no registration of its own."""
    if base == "minilm" and base not in store.encoders:
        store.encoders.register("minilm", model="minilm")


def _alone(**given: Any) -> None:
    """A sweep trains nothing that stays, so what is said of a run means nothing to it."""
    named = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if named:
        verb = "goes" if len(named) == 1 else "go"
        problem = f"{' and '.join(named)} {verb} with one run, and --sweep and --try make many short ones: leave one or the other out"
        raise InvalidArguments(call="fine-tune", problems=[problem])


def _fractions(text: str | None, call: str) -> dict[str, float] | None:
    if text is None:
        return None
    found = split_of(text, call)
    if not found or "by" in found:
        problem = f"--split is '{text[:80]}', expected fractions of train, val and test: .8,.1,.1"
        raise InvalidArguments(call=call, problems=[problem])
    return found


def _check_items(store: Any, collection: str | None, call: str) -> None:
    """Said before hours of training, and not after."""
    if collection is not None and not store.collection(collection).keeps_source:
        problem = f"--items: collection '{collection}' keeps no content; only one made with --keep-source does"
        raise InvalidArguments(call=call, problems=[problem])


def _emit_stopped(run: StoppedRun, **of_proof: str | None) -> None:
    from raystore.fine_tune.result import stopped_text

    if named := [f"--{name}" for name, value in of_proof.items() if value is not None]:
        problem = f"{run.label} was stopped by an alarm, so there is no proof for {' and '.join(named)} to show"
        raise InvalidArguments(call="encoder run", problems=[problem])
    facts = {"run": run.label, "live": False, **run.model_dump(mode="json")}
    STATE.out.emit(facts, lambda: STATE.out.say(stopped_text(run)))


def _emit(facts: Any, run: FineTuned, items: str | None, html: str | None, call: str, said: str | None = None) -> None:
    if html is not None:
        write_text(html, run.to_html(collection=items), call)
        facts = {**facts, "html": html}
    page = f"\n\nThe page with the maps: {html}" if html is not None else ""
    STATE.out.emit(facts, lambda: STATE.out.say((said or run.to_text(collection=items)) + page))
