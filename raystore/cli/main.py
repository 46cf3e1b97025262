"""`raystore`: global options, the verbs, and how errors end."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import typer

from raystore import __version__
from raystore.cli import data, models, serving, system
from raystore.cli.output import Output
from raystore.cli.state import STATE
from raystore.errors import RaystoreError
from raystore.settings import setting

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
        sys.stdout.write(f"raystore {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    store: Annotated[str, typer.Option("--store", help="The store to work on (RAYSTORE_ROOT). Anywhere on the line.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document. Anywhere on the line.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    if store:
        STATE.root = store
    if as_json:
        STATE.out = Output(as_json=True)


app.add_typer(models.encoder, name="encoder")
app.add_typer(data.collection, name="collection")
app.command("embed")(data.embed)
app.command("log")(data.log)
app.add_typer(data.table, name="table")
app.command("sql")(data.sql)
app.add_typer(data.snapshot, name="snapshot")
app.add_typer(models.head, name="head")
app.add_typer(models.index, name="index")
app.command("search")(models.search)
app.command("lineage")(models.lineage)
app.command("serve")(serving.serve)
app.add_typer(serving.key, name="key")
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
            front += [word, next(words, "")]
        else:
            rest.append(word)
    return [*front, *rest]


def main() -> None:
    """The entry point; exit codes stand in `output.py`."""
    STATE.root = setting("RAYSTORE_ROOT")
    STATE.out = Output()
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(args=_hoisted(sys.argv[1:]), standalone_mode=True)
    except RaystoreError as error:
        sys.exit(STATE.out.fail(error))
    except KeyboardInterrupt:
        STATE.out.errors.print("interrupted; what was committed is safe, and the same command goes on from there")
        sys.exit(130)
