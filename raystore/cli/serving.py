"""serve and key."""

from __future__ import annotations

from typing import Annotated

import typer

from raystore.access import SERVICE, Verb
from raystore.cli.state import STATE
from raystore.errors import AlreadyExists, InvalidArguments, KeyNotFound

key = typer.Typer(help="API keys, demanded on any address but loopback.", no_args_is_help=True, rich_markup_mode=None)


def serve(
    file: Annotated[str | None, typer.Argument(help="app.yaml; without it, every deployment of the store.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; keys are demanded beyond loopback.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Serve deployments on Ray Serve until SIGTERM or Ctrl-C."""
    from raystore.serve.deploy import serve_app
    from raystore.serve.spec import AppSpec, load_spec, parse_spec

    spec = load_spec(file) if file else AppSpec()
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    spec = parse_spec({**spec.model_dump(), **changes}, "serve")
    serve_app(
        spec.store or STATE.root,
        spec,
        started=lambda running: STATE.out.emit(
            {"url": running.url},
            lambda: STATE.out.say(f"serving at {running.url}; API page at {running.url}/docs; Ctrl-C stops"),
        ),
    )


@key.command("create")
def key_create(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    verb: Annotated[
        list[str], typer.Option(help=f"{', '.join(Verb)}; may be repeated; by default log, predict and search.")
    ] = [],  # noqa: B006
) -> None:
    """Make a key. It is shown once and not kept."""
    unknown = [v for v in verb if v not in set(Verb)]
    if unknown:
        problems = [f"'{v}' is no verb, expected {', '.join(Verb)}" for v in unknown]
        raise InvalidArguments(call="key create", problems=problems)
    store = STATE.open(create=True)
    if name in store.keys.names():
        raise AlreadyExists(noun="key", name=name, advice=f"Another name, or first: raystore key revoke {name}")
    made = store.keys.create(name, frozenset(Verb(v) for v in verb) or SERVICE)
    STATE.out.emit({"name": name, "key": made}, lambda: STATE.out.say(made))


@key.command("list")
def key_list() -> None:
    """The keys that are valid."""
    names = STATE.open().keys.names()
    STATE.out.emit(names, lambda: STATE.out.table([{"key": n} for n in names], ["key"]))


@key.command("revoke")
def key_revoke(name: Annotated[str, typer.Argument(help="As `key list` shows it.")]) -> None:
    """Make a key invalid everywhere."""
    store = STATE.open()
    if name not in store.keys.names():
        raise KeyNotFound(name=name, where=f"store '{store.root}'", existing=store.keys.names())
    store.keys.revoke(name)
    STATE.out.emit({"revoked": name}, lambda: STATE.out.say(f"revoked {name}"))
