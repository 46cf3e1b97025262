from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydantic import ValidationError

from raystore.access import LOCAL, NOBODY, SERVICE, ApiKeys, KeyFacts, Principal, Rates, Verb, is_loopback
from raystore.errors import InvalidArguments, InvalidName, KeyRequired
from raystore.layout import Layout

INVALID = (
    "a key is required: the one that was sent is not valid here. "
    "Make one with 'raystore key create NAME' and send it as 'Authorization: Bearer KEY'."
)


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> ApiKeys:
    return ApiKeys(Layout(tmp_path), b"k" * 32, clock)


def test_the_person_at_this_machine_holds_every_verb() -> None:
    assert all(LOCAL.may(verb) for verb in Verb)
    assert not any(NOBODY.may(verb) for verb in Verb)


def test_the_verbs_are_these() -> None:
    assert " ".join(Verb) == "log predict search sql vectors hunt label read-audit export erase deploy"
    assert {Verb.LOG, Verb.PREDICT, Verb.SEARCH} == SERVICE


def test_a_key_names_its_holder_and_verbs(keys: ApiKeys) -> None:
    key = keys.create("service", frozenset({Verb.LOG}))
    assert key.startswith("rs.service.")
    holder = keys.principal(key)
    assert holder == Principal("service", frozenset({Verb.LOG}))
    assert holder.may(Verb.LOG)
    assert not holder.may(Verb.SEARCH)
    assert keys.principal(keys.create("all", frozenset(Verb))).verbs == frozenset(Verb)
    assert keys.principal(keys.create("unnamed")).verbs == {Verb.LOG, Verb.PREDICT, Verb.SEARCH}
    assert keys.names() == ["all", "service", "unnamed"]


def test_a_key_is_nowhere_in_the_store(keys: ApiKeys, tmp_path: Path) -> None:
    secret = keys.create("service").split(".", 2)[2]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files
    assert not any(secret in p.read_text() for p in files)


def test_a_new_key_under_a_name_replaces_the_old_one(keys: ApiKeys) -> None:
    old, new = keys.create("service"), keys.create("service")
    assert keys.principal(new).name == "service"
    with pytest.raises(KeyRequired):
        keys.principal(old)


def test_keys_made_at_the_same_time_under_one_name_leave_one_that_is_valid(keys: ApiKeys) -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(keys.create("service"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 8
    assert sum(_is_valid(keys, key) for key in made) == 1


def _is_valid(keys: ApiKeys, key: str) -> bool:
    try:
        return keys.principal(key).name == "service"
    except KeyRequired:
        return False


def test_a_key_ends_at_its_end(keys: ApiKeys, clock: Clock) -> None:
    key = keys.create("service", expires_at=NOON + timedelta(days=30))
    assert keys.principal(key).expires_at == NOON + timedelta(days=30)
    clock.now += timedelta(days=30) - timedelta(microseconds=1)
    assert keys.principal(key).name == "service"
    clock.now += timedelta(microseconds=1)
    with pytest.raises(KeyRequired) as refused:
        keys.principal(key)
    assert str(refused.value) == INVALID
    assert keys.names() == []
    assert keys.facts()[0].state == "expired"


def test_an_end_without_a_zone_is_utc_and_one_with_another_is_the_same_moment(keys: ApiKeys) -> None:
    east = timezone(timedelta(hours=9))
    keys.create("naive", expires_at=datetime(2027, 1, 1))
    keys.create("east", expires_at=datetime(2027, 1, 1, 9, tzinfo=east))
    assert [facts.expires_at for facts in keys.facts()] == [datetime(2027, 1, 1, tzinfo=UTC)] * 2


def test_a_key_carries_rates_of_its_own(keys: ApiKeys) -> None:
    rates = Rates(requests_per_s=5, burst=20, bytes_per_s=1e6)
    assert keys.principal(keys.create("service", rates=rates)) == Principal("service", SERVICE, rates=rates)
    assert keys.principal(keys.create("other")).rates is None


def test_the_facts_of_a_key_say_everything_but_the_key(keys: ApiKeys) -> None:
    rates = Rates(requests_per_s=5)
    secret = keys.create("a", [Verb.SQL, Verb.LOG], expires_at=NOON + timedelta(days=1), rates=rates).split(".", 2)[2]
    keys.create("b")
    keys.revoke("b")
    assert keys.facts() == [
        KeyFacts("a", (Verb.LOG, Verb.SQL), "valid", NOON, NOON + timedelta(days=1), rates),
        KeyFacts("b", (Verb.LOG, Verb.PREDICT, Verb.SEARCH), "revoked", NOON, None, None),
    ]
    assert secret not in repr(keys.facts())


def test_everything_that_is_wrong_with_a_key_is_said_at_once(keys: ApiKeys, tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments) as refused:
        keys.create("k", ["everything"], expires_at=NOON)  # type: ignore[list-item]
    assert str(refused.value) == (
        "keys.create('k'): 'everything' is no verb, expected log, predict, search, sql, vectors, hunt, label, read-audit, export, "
        "erase, deploy; expires_at is 2026-11-21T12:00:00+00:00, which is past."
    )
    with pytest.raises(InvalidArguments) as refused:
        keys.create("k", [])
    assert str(refused.value) == "keys.create('k'): it names no verb."
    assert list(tmp_path.iterdir()) == []


def test_a_verb_of_a_later_version_gives_nothing(keys: ApiKeys, tmp_path: Path) -> None:
    key = keys.create("service", [Verb.LOG])
    (path,) = tmp_path.glob("access/keys/service/1.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "verbs": ["log", "fly"]}))
    assert keys.principal(key).verbs == {Verb.LOG}


def test_a_key_made_before_keys_had_an_end_is_valid(keys: ApiKeys, tmp_path: Path) -> None:
    key = keys.create("service")
    (path,) = tmp_path.glob("access/keys/service/1.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps({name: record[name] for name in ("digest", "verbs", "revoked")}))
    assert keys.principal(key) == Principal("service", SERVICE)
    assert keys.facts() == [KeyFacts("service", (Verb.LOG, Verb.PREDICT, Verb.SEARCH), "valid", None, None, None)]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"burst": 3}, "burst says how many of requests_per_s may come at once: name that too"),
        ({"requests_per_s": 0}, "Input should be greater than or equal to 0.0001"),
        ({"requests_per_s": float("nan")}, "Input should be less than or equal to 1000000 "),
        ({"bytes_per_s": float("inf")}, "Input should be less than or equal to 1000000000000"),
        ({"burst": 0, "requests_per_s": 1}, "Input should be greater than or equal to 1"),
        ({"request_per_s": 1}, "Extra inputs are not permitted"),
    ],
)
def test_rates_that_limit_nothing_or_everything_are_refused(given: dict[str, float], found: str) -> None:
    with pytest.raises(ValidationError, match=found):
        Rates.model_validate(given)


def test_a_revoked_key_is_as_invalid_as_an_unknown_one(keys: ApiKeys) -> None:
    key = keys.create("service")
    keys.revoke("service")
    keys.revoke("nobody")
    assert keys.names() == []
    with pytest.raises(KeyRequired) as refused:
        keys.principal(key)
    assert str(refused.value) == INVALID


@pytest.mark.parametrize(
    "sent",
    [
        "rs.service.wrong", "rs.nobody.x", "rs..x", "rs.service", "rs", "x.service.y", "Bearer rs.service.x", "rs.../../x.y",
        "rs.service.", "rs.sérvice.ä", "rs.service.\0", "." * 9, "rs." + "a" * 300 + ".x", "rs.service.\ud800", "rs.\ud800.x",
        "RS.service.x", "rs.SERVICE.x", "rs./etc.x",
    ],
)  # fmt: skip
def test_a_key_that_is_not_valid_is_refused_and_not_quoted(keys: ApiKeys, sent: str) -> None:
    keys.create("service")
    with pytest.raises(KeyRequired) as refused:
        keys.principal(sent)
    assert str(refused.value) == INVALID


@pytest.mark.parametrize("sent", [None, ""])
def test_no_key_is_told_apart_from_a_wrong_one(keys: ApiKeys, sent: str | None) -> None:
    with pytest.raises(KeyRequired) as refused:
        keys.principal(sent)
    assert str(refused.value) == (
        "a key is required: the request carries none. "
        "Make one with 'raystore key create NAME' and send it as 'Authorization: Bearer KEY'."
    )


def test_a_key_of_another_store_is_not_valid_here(keys: ApiKeys, tmp_path: Path) -> None:
    key = keys.create("service")
    with pytest.raises(KeyRequired):
        ApiKeys(Layout(tmp_path), b"l" * 32).principal(key)


def test_a_secret_with_dots_in_it_is_a_secret(keys: ApiKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_urlsafe", lambda n: "a.b.c")
    assert keys.principal(keys.create("service")).name == "service"


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a.b"])
def test_a_name_that_can_be_no_key_is_refused(keys: ApiKeys, name: str) -> None:
    with pytest.raises(InvalidName):
        keys.create(name)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
        ("192.168.0.7", False), ("example.org", False), ("localhost.example.org", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_loopback_and_nothing_else(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
