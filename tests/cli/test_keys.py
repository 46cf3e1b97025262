"""Verbs on API keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import raystore
from raystore.access import Rates, Sizes, Verb
from tests.cli.conftest import Cli


@pytest.fixture
def store(tmp_path: Path) -> tuple[str | Path, ...]:
    raystore.open(tmp_path / "store")
    return ("--store", tmp_path / "store")


def test_keys_are_made_shown_once_and_revoked(cli: Cli, store: tuple[str, ...]) -> None:
    made_key = cli(*store, "--json", "key", "create", "service", "--verb", "predict").json
    assert made_key["key"].startswith("rs.service.")
    (listed,) = cli(*store, "--json", "key", "list").json
    assert {name: value for name, value in listed.items() if name != "created"} == {
        "key": "service",
        "verbs": ["predict"],
        "expires": None,
        "state": "valid",
        "rates": None,
        "sizes": None,
    }
    assert datetime.fromisoformat(listed["created"]).tzinfo == UTC
    again = cli(*store, "key", "create", "service")
    assert again.code == 4
    assert again.err == "AlreadyExists: key 'service' exists already. Another name, or first: raystore key revoke service\n"
    assert cli(*store, "key", "revoke", "service").out == "revoked service\n"
    assert [row["state"] for row in cli(*store, "--json", "key", "list").json] == ["revoked"]
    assert cli(*store, "key", "revoke", "service").code == 3
    assert cli(*store, "key", "create", "service").out.startswith("rs.service.")


def test_a_key_is_made_with_an_end_rates_and_sizes_of_its_own(cli: Cli, store: tuple[str, ...]) -> None:
    options = ("--expires", "30d", "--requests-per-s", "5", "--burst", "20", "--bytes-per-s", "1e6", "--max-items", "8")
    made = cli(*store, "--json", "key", "create", "partner", *options).json["key"]
    holder = raystore.open(store[1]).keys.principal(made)
    assert holder.rates == Rates(requests_per_s=5, burst=20, bytes_per_s=1e6)
    assert holder.sizes == Sizes(max_items=8)
    assert holder.verbs == {Verb.LOG, Verb.PREDICT, Verb.SEARCH}
    assert holder.expires_at is not None
    assert timedelta(days=29) < holder.expires_at - datetime.now(UTC) <= timedelta(days=30)
    shown = cli(*store, "key", "list").out.splitlines()
    assert [word.strip() for word in shown[0].split("┃")] == ["key", "verbs", "created", "expires", "state", "rates"]
    row = [word.strip() for word in shown[2].split("│")]
    assert (row[0], row[1], row[4], row[5]) == (
        "partner",
        "log, predict, search",
        "valid",
        "requests_per_s 5, burst 20, bytes_per_s 1000000, max_items 8",
    )


@pytest.mark.parametrize(
    ("given", "read"),
    [("2099-01-01", "2099-01-01T00:00:00+00:00"), ("2099-01-01T12:00:00+02:00", "2099-01-01T10:00:00+00:00")],
)
def test_an_end_is_a_date_or_a_time_of_utc_unless_it_says_its_zone(
    cli: Cli, store: tuple[str, ...], given: str, read: str
) -> None:
    assert cli(*store, "key", "create", "partner", "--expires", given).code == 0
    assert cli(*store, "--json", "key", "list").json[0]["expires"] == read


def test_everything_that_is_wrong_with_a_key_is_said_at_once_and_no_store_is_made(cli: Cli, tmp_path: Path) -> None:
    said = cli("--store", tmp_path / "none", "key", "create", "k", "--verb", "all", "--expires", "soon", "--burst", "3")
    assert (said.code, said.err) == (
        2,
        "InvalidArguments: key create: 'all' is no verb, expected log, predict, search, sql, vectors, hunt, label, read-audit, "
        "export, erase, deploy; --expires is 'soon', expected 12h, 30d, 8w, or a date like 2027-01-01; "
        "burst says how many of requests_per_s may come at once: name that too.\n",
    )
    past = cli("--store", tmp_path / "none", "key", "create", "k", "--expires", "2020-01-01", "--requests-per-s", "0")
    assert (past.code, past.err) == (
        2,
        "InvalidArguments: key create: --expires is '2020-01-01', which is past; "
        "--requests-per-s: input should be greater than or equal to 0.0001.\n",
    )
    assert list(tmp_path.iterdir()) == []


def test_a_span_beyond_the_calendar_is_no_end(cli: Cli, store: tuple[str, ...]) -> None:
    said = cli(*store, "key", "create", "k", "--expires", "999999w")
    assert (said.code, said.err) == (
        2,
        "InvalidArguments: key create: --expires is '999999w', expected 12h, 30d, 8w, or a date like 2027-01-01.\n",
    )
