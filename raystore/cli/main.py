"""`raystore`: global options, the verbs, and how errors end."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from typing import Annotated, Any

import typer

from raystore import __version__
from raystore.cli import (
    classify,
    collections,
    embed,
    encoders,
    fine_tune,
    head_registry,
    heads,
    index_tune,
    indexes,
    keys,
    lineage,
    migrate,
    pairs,
    plan,
    serving,
    snapshots,
    source,
    sql,
    system,
    tables,
)
from raystore.cli.output import INTERRUPTED, Output
from raystore.cli.state import STATE
from raystore.errors import InvalidArguments, RaystoreError
from raystore.session import no_core_files
from raystore.settings import setting

# What a wrong command line raises; typer publishes only the class below it.
_UsageError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="raystore",
    help="An embedding store on Ray. Run 'raystore demo' to see the whole of it at work.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        STATE.out.emit({"raystore": __version__}, lambda: STATE.out.say(f"raystore {__version__}"))
        raise typer.Exit


@app.callback()
def options(
    store: Annotated[str, typer.Option("--store", help="The store to work on (RAYSTORE_ROOT). Anywhere on the line.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document. Anywhere on the line.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    if store:
        STATE.root = store
    STATE.out.as_json = as_json


encoders.encoder.add_typer(fine_tune.runs)
encoders.encoder.command("migrate")(migrate.migrate)
encoders.encoder.command("bridge")(migrate.bridge)
encoders.encoder.command("compare")(migrate.compare)
encoders.encoder.command("pack")(source.pack)
app.add_typer(encoders.encoder, name="encoder")
collections.collection.add_typer(pairs.pairs)
app.add_typer(collections.collection, name="collection")
app.command("embed")(embed.embed)
app.add_typer(plan.plan, name="plan")
app.command("log")(embed.log)
app.add_typer(tables.table, name="table")
app.command("sql")(sql.sql)
app.add_typer(snapshots.snapshot, name="snapshot")
heads.head.add_typer(head_registry.registry)
heads.head.add_typer(classify.registered)
app.add_typer(heads.head, name="head")
app.command("fine-tune")(fine_tune.fine_tune)
app.command("improve")(fine_tune.improve)
indexes.index.add_typer(index_tune.tuning)
app.add_typer(indexes.index, name="index")
app.command("search")(indexes.search)
app.command("recommend")(indexes.recommend)
app.command("classify")(classify.classify)
app.command("lineage")(lineage.lineage)
app.command("impact")(lineage.impact)
app.command("serve")(serving.serve)
app.add_typer(serving.shadow, name="shadow")
app.command("promote")(serving.promote)
app.command("rollback")(serving.rollback)
app.add_typer(keys.key, name="key")
app.command("doctor")(system.doctor)
app.command("demo")(system.demo)


def _hoisted(arguments: list[str]) -> list[str]:
    """The arguments with --json and --store moved to the front, so that they may stand anywhere before a '--'."""
    front: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--json" or word.startswith("--store="):
            front.append(word)
        elif word == "--store":
            folder = next(words, "")
            if not folder:
                raise InvalidArguments(call="raystore", problems=["--store needs a folder"])
            front += [word, folder]
        else:
            rest.append(word)
    return [*front, *rest]


@cache
def _command() -> Any:
    """The tree of commands; `app()` makes it anew for each call, in 0.15 s."""
    return typer.main.get_command(app)


def main() -> None:
    """The entry point; exit codes stand in `output.py`."""
    STATE.root = setting("RAYSTORE_ROOT")
    STATE.out = Output(as_json="--json" in sys.argv[1:])
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    no_core_files()  # embed and log may run in this process
    try:
        code = _command().main(args=_hoisted(sys.argv[1:]), prog_name=app.info.name, standalone_mode=False) or 0
    except RaystoreError as error:
        code = STATE.out.fail(error)
    except _UsageError as error:
        code = STATE.out.misused(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:  # typer turns a Ctrl-C inside a verb into this code
        STATE.out.interrupted()
    sys.exit(code)
