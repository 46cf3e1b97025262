from __future__ import annotations

from pathlib import Path

import pytest

from raystore.access import LOCAL, ApiKeys, Principal, Verb, is_loopback
from raystore.errors import InvalidName, KeyRequired
from raystore.layout import Layout

INVALID = (
    "a key is required: the one that was sent is not valid here. "
    "Make one with 'raystore key create NAME' and send it as 'Authorization: Bearer KEY'."
)


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    return ApiKeys(Layout(tmp_path), b"k" * 32)


def test_the_person_at_this_machine_holds_every_verb() -> None:
    assert all(LOCAL.may(verb) for verb in Verb)


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
        "rs.service.", "rs.sérvice.ä", "rs.service.\0", "." * 9,
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
        "a key is required: this address is not loopback and the request carries none. "
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
