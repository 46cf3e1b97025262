"""key: who may ask the service, for what, how much and until when."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError

from raystore.access import SERVICE, KeyFacts, Rates, Sizes, Verb
from raystore.cli.state import STATE
from raystore.cli.words import moment
from raystore.errors import AlreadyExists, InvalidArguments, KeyNotFound

M = TypeVar("M", bound=BaseModel)
key = typer.Typer(help="API keys, demanded on any address but loopback.", no_args_is_help=True, rich_markup_mode=None)


@key.command("create")
def key_create(
    name: Annotated[str, typer.Argument(help="Who it is for.")],
    verb: Annotated[
        list[str], typer.Option(help=f"{', '.join(Verb)}; may be repeated; by default log, predict and search.")
    ] = [],  # noqa: B006
    expires: Annotated[
        str | None, typer.Option(help="12h, 30d or 8w from now, or a date or time (UTC) like 2027-01-01; by default never.")
    ] = None,
    requests_per_s: Annotated[
        float | None, typer.Option(help="Requests a second, in place of the service's limit.")
    ] = None,
    burst: Annotated[int | None, typer.Option(help="Of those, how many at once; by default two seconds' worth.")] = None,
    bytes_per_s: Annotated[float | None, typer.Option(help="Bytes of request bodies a second.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Bytes of a request, where the service allows more.")] = None,
    max_items: Annotated[int | None, typer.Option(help="Items of a request, where the service allows more.")] = None,
) -> None:
    """Make a key. It is shown once and not kept."""
    problems = [f"'{v}' is no verb, expected {', '.join(Verb)}" for v in verb if v not in set(Verb)]
    until = None
    try:
        until = moment(expires) if expires is not None else None
    except (ValueError, OverflowError):
        problems.append(f"--expires is '{expires}', expected 12h, 30d, 8w, or a date like 2027-01-01")
    if until is not None and until <= datetime.now(UTC):
        problems.append(f"--expires is '{expires}', which is past")
    rates, wrong = _limits(Rates, {"requests_per_s": requests_per_s, "burst": burst, "bytes_per_s": bytes_per_s})
    sizes, too = _limits(Sizes, {"max_body_bytes": max_body_bytes, "max_items": max_items})
    if problems or wrong or too:
        raise InvalidArguments(call="key create", problems=[*problems, *wrong, *too])
    store = STATE.open(create=True)
    if name in store.keys.names():
        raise AlreadyExists(noun="key", name=name, advice=f"Another name, or first: raystore key revoke {name}")
    made = store.keys.create(name, [Verb(v) for v in verb] or SERVICE, expires_at=until, rates=rates, sizes=sizes)
    STATE.out.emit({"name": name, "key": made}, lambda: STATE.out.say(made))


@key.command("list")
def key_list() -> None:
    """Every key there was, what it may do, and whether it is valid."""
    rows = [_row(facts) for facts in STATE.open().keys.facts()]
    shown = [{**row, "verbs": ", ".join(row["verbs"]), "rates": _told(row["rates"], row["sizes"])} for row in rows]
    STATE.out.emit(rows, lambda: STATE.out.table(shown, ["key", "verbs", "created", "expires", "state", "rates"]))


@key.command("revoke")
def key_revoke(name: Annotated[str, typer.Argument(help="As `key list` shows it.")]) -> None:
    """Make a key invalid everywhere, in running services within 5 seconds."""
    store = STATE.open()
    existing = [facts.name for facts in store.keys.facts() if facts.state != "revoked"]
    if name not in existing:
        raise KeyNotFound(name=name, where=f"store '{store.root}'", existing=existing)
    store.keys.revoke(name)
    STATE.out.emit({"revoked": name}, lambda: STATE.out.say(f"revoked {name}"))


def _limits(kind: type[M], given: Mapping[str, float | None]) -> tuple[M | None, list[str]]:
    """The limits, None where no option was given; and what is wrong with them."""
    named = {name: value for name, value in given.items() if value is not None}
    try:
        return (kind.model_validate(named) if named else None), []
    except ValidationError as error:
        found = [(e["loc"], e["msg"].removeprefix("Value error, ")) for e in error.errors(include_url=False)]
        return None, [
            f"--{str(where[0]).replace('_', '-')}: {said[:1].lower()}{said[1:]}" if where else said for where, said in found
        ]


def _row(facts: KeyFacts) -> dict[str, Any]:
    return {
        "key": facts.name,
        "verbs": [str(verb) for verb in facts.verbs],
        "created": _shown(facts.created_at),
        "expires": _shown(facts.expires_at),
        "state": facts.state,
        "rates": facts.rates.model_dump(exclude_none=True) if facts.rates is not None else None,
        "sizes": facts.sizes.model_dump(exclude_none=True) if facts.sizes is not None else None,
    }


def _shown(at: datetime | None) -> str | None:
    return at.isoformat(timespec="seconds") if at is not None else None


def _told(*limits: Mapping[str, float] | None) -> str | None:
    return ", ".join(f"{name} {value:.10g}" for each in limits if each for name, value in each.items()) or None
