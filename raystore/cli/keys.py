"""key: who may ask the service, for what, how much and until when."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from raystore.access import SERVICE, KeyFacts, Rates, Verb
from raystore.cli.state import STATE
from raystore.errors import AlreadyExists, InvalidArguments, KeyNotFound

key = typer.Typer(help="API keys, demanded on any address but loopback.", no_args_is_help=True, rich_markup_mode=None)

_SPAN = re.compile(r"([0-9]{1,6})([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


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
) -> None:
    """Make a key. It is shown once and not kept."""
    problems = [f"'{v}' is no verb, expected {', '.join(Verb)}" for v in verb if v not in set(Verb)]
    until = None
    try:
        until = _moment(expires) if expires is not None else None
    except (ValueError, OverflowError):
        problems.append(f"--expires is '{expires}', expected 12h, 30d, 8w, or a date like 2027-01-01")
    if until is not None and until <= datetime.now(UTC):
        problems.append(f"--expires is '{expires}', which is past")
    rates, wrong = _rates({"requests_per_s": requests_per_s, "burst": burst, "bytes_per_s": bytes_per_s})
    if problems or wrong:
        raise InvalidArguments(call="key create", problems=[*problems, *wrong])
    store = STATE.open(create=True)
    if name in store.keys.names():
        raise AlreadyExists(noun="key", name=name, advice=f"Another name, or first: raystore key revoke {name}")
    made = store.keys.create(name, [Verb(v) for v in verb] or SERVICE, expires_at=until, rates=rates)
    STATE.out.emit({"name": name, "key": made}, lambda: STATE.out.say(made))


@key.command("list")
def key_list() -> None:
    """Every key there was, what it may do, and whether it is valid."""
    rows = [_row(facts) for facts in STATE.open().keys.facts()]
    shown = [{**row, "verbs": ", ".join(row["verbs"]), "rates": _told(row["rates"])} for row in rows]
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


def _moment(text: str) -> datetime:
    """UTC; ValueError where it is no span and no time."""
    if span := _SPAN.fullmatch(text):
        return datetime.now(UTC) + timedelta(**{_UNITS[span[2]]: int(span[1])})
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _rates(given: Mapping[str, float | None]) -> tuple[Rates | None, list[str]]:
    """The rates, None where no option was given; and what is wrong with them."""
    named = {name: value for name, value in given.items() if value is not None}
    try:
        return (Rates.model_validate(named) if named else None), []
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
    }


def _shown(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment is not None else None


def _told(rates: Mapping[str, float] | None) -> str | None:
    return ", ".join(f"{name} {value:.10g}" for name, value in rates.items()) if rates is not None else None
