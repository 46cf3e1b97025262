"""Tokens of an identity provider: real signatures by keys made here, and a provider that is a file, a TLS server or a list."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import ipaddress
import json
import logging
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from pydantic import ValidationError

from raystore.access import Principal, Verb
from raystore.errors import KeyRequired, ProviderUnreachable
from raystore.serve.door.auth import MAX_CREDENTIAL
from raystore.serve.door.jwks import FRESH_S, RETRY_S, STALE_S, KeySet, parse_keys
from raystore.serve.door.oidc import Tokens, claim, roles
from raystore.serve.spec.door import Oidc

ISSUER, AUDIENCE = "https://id.example.org/", "raystore"
RSA = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
INVALID = (
    "a key is required: the one that was sent is not valid here. "
    "Make one with 'raystore key create NAME' and send it as 'Authorization: Bearer KEY'."
)


def public(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """The key as it stands in a JWK set."""
    kind = (
        RSAAlgorithm
        if isinstance(key, rsa.RSAPrivateKey)
        else ECAlgorithm
        if isinstance(key, ec.EllipticCurvePrivateKey)
        else OKPAlgorithm
    )
    found = kind.to_jwk(key.public_key(), as_dict=True)
    found.pop("key_ops", None)
    return {**found, **({"kid": kid} if kid is not None else {}), **more}


class Provider:
    """Answers with a JWK set that tests change, and counts how often it was asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.asked = 0
        self.broken: Exception | None = None

    def __call__(self, source: str) -> bytes:
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        return json.dumps({"keys": self.keys}).encode()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def spec(**more: Any) -> Oidc:
    return Oidc.model_validate(
        {
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "jwks": "https://id.example.org/keys",
            "algorithms": ["RS256"],
            "verbs": {"asker": ["predict", "search"], "owner": ["deploy"]},
            **more,
        }
    )


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {"iss": ISSUER, "aud": AUDIENCE, "sub": "anna", "exp": now + 300, "iat": now, "roles": ["asker"], **more}
    return {name: value for name, value in found.items() if value is not ...}


def signed(key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", headers: Any = None, **more: Any) -> str:
    """A token; a claim that is `...` is left out."""
    return jwt.encode(claims(**more), key, algorithm, {**({"kid": kid} if kid is not None else {}), **(headers or {})})


def raw(header: Any, payload: Any, signature: bytes = b"x", *, key: Any = None) -> str:
    """A token put together by hand, signed with RS256 where a key is given."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    body = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    if key is not None:
        signature = RSAAlgorithm(RSAAlgorithm.SHA256).sign(body, key)
    return (body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens(spec(), read=Provider(public(RSA, "one")))


def refused(tokens: Tokens, token: str) -> bool:
    """KeyRequired, in the words that everybody gets."""
    with pytest.raises(KeyRequired) as error:
        tokens.principal(token)
    assert error.value.__cause__ is None
    assert error.value.__context__ is None or error.value.__suppress_context__
    return str(error.value) == INVALID


def test_a_token_names_its_holder_and_the_verbs_of_its_roles(tokens: Tokens) -> None:
    end = int(time.time()) + 100
    assert tokens.principal(signed(exp=end)) == Principal(
        "anna",
        frozenset({Verb.PREDICT, Verb.SEARCH}),
        kind="token",
        expires_at=datetime.fromtimestamp(end, UTC),
    )
    assert tokens.principal(signed(roles=["asker", "owner", "stranger"])).verbs == {Verb.PREDICT, Verb.SEARCH, Verb.DEPLOY}


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [(RSA, "RS256"), (RSA, "RS512"), (RSA, "PS256"), (EC, "ES256"), (ED, "EdDSA")],
)
def test_each_algorithm_that_is_named_is_believed_and_no_other(key: Any, algorithm: str) -> None:
    provider = Provider(public(key, "one"))
    assert Tokens(spec(algorithms=[algorithm]), read=provider).principal(signed(key, algorithm)).name == "anna"
    assert refused(Tokens(spec(algorithms=["RS384"]), read=provider), signed(key, algorithm))


def test_a_key_that_names_its_algorithm_verifies_no_other() -> None:
    tokens = Tokens(spec(algorithms=["RS256", "PS256"]), read=Provider(public(RSA, "one", alg="PS256")))
    assert tokens.principal(signed(RSA, "PS256")).name == "anna"
    assert refused(tokens, signed(RSA, "RS256"))


def test_an_hmac_with_the_public_key_for_its_secret_is_no_signature(tokens: Tokens) -> None:
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = RSA.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), der, json.dumps(public(RSA, "one")).encode()):
        for algorithm in ("HS256", "RS256"):  # as it is, and under a name that is believed
            body = raw({"alg": algorithm, "kid": "one"}, claims()).rpartition(".")[0]
            signature = hmac.new(secret, body.encode(), hashlib.sha256).digest()
            token = f"{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
            assert refused(tokens, token)


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, 0, [], ["RS256"], {"RS256": 1}])
def test_a_token_without_a_signature_is_no_token(tokens: Tokens, algorithm: Any) -> None:
    for signature in (b"", b"x"):
        assert refused(tokens, raw({"alg": algorithm, "kid": "one"}, claims(), signature))


def test_a_header_without_an_algorithm_is_refused(tokens: Tokens) -> None:
    assert refused(tokens, raw({"kid": "one"}, claims(), key=RSA))


def test_another_key_signs_in_vain_even_if_the_token_brings_it_along(tokens: Tokens) -> None:
    own = public(OTHER, "one")
    assert refused(tokens, signed(OTHER))
    for headers in ({"jwk": own}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example"}, {"x5c": ["AA=="]}):
        assert refused(tokens, signed(OTHER, headers=headers))


def test_changed_claims_are_refused(tokens: Tokens) -> None:
    header, _, signature = signed().split(".")
    changed = base64.urlsafe_b64encode(json.dumps(claims(sub="root")).encode()).rstrip(b"=").decode()
    assert refused(tokens, f"{header}.{changed}.{signature}")


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://evil.example/"}, {"iss": ISSUER.rstrip("/")}, {"iss": [ISSUER]}, {"iss": ...}, {"iss": None},
        {"aud": "other"}, {"aud": ["other", "raystore2"]}, {"aud": ...}, {"aud": []}, {"aud": {"raystore": 1}}, {"aud": [["raystore"]]},
        {"exp": ...}, {"exp": 0}, {"exp": "soon"}, {"exp": None}, {"exp": True}, {"exp": [9e9]}, {"exp": "99999999999"},
        {"exp": 1_000_000_000}, {"nbf": 9_000_000_000}, {"nbf": "later"}, {"iat": 9_000_000_000},
        {"sub": ...}, {"sub": ""}, {"sub": 7}, {"sub": "a" * 201}, {"sub": "a\nb"}, {"sub": "a\u202eb"},
        {"sub": None}, {"sub": ["anna"]},
    ],
    ids=repr,
)  # fmt: skip
def test_claims_that_do_not_hold_are_refused(tokens: Tokens, wrong: dict[str, Any]) -> None:
    header = {"alg": "RS256", "kid": "one"}
    assert refused(tokens, raw(header, claims(**wrong), key=RSA))


def test_an_audience_may_be_one_of_several(tokens: Tokens) -> None:
    assert tokens.principal(signed(aud=["other", AUDIENCE])).name == "anna"


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    now = int(time.time())
    late, early = signed(exp=now - 100), signed(nbf=now + 100, iat=now + 100)
    wide, narrow = (Tokens(spec(leeway_s=s), read=Provider(public(RSA, "one"))) for s in (200, 10))
    assert [wide.principal(token).name for token in (late, early)] == ["anna", "anna"]
    assert refused(narrow, late)
    assert refused(narrow, early)


@pytest.mark.parametrize("end", ["1" + "0" * 400, "1e300", "253402300800"])
def test_an_end_beyond_the_calendar_is_its_last_day(tokens: Tokens, end: str) -> None:
    payload = json.dumps(claims(exp=0)).replace('"exp": 0', f'"exp": {end}').encode()
    holder = tokens.principal(raw({"alg": "RS256", "kid": "one"}, payload, key=RSA))
    assert holder.expires_at == datetime(9999, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("end", ["Infinity", "-Infinity", "NaN", "1e999", "9" * 5000])
def test_an_end_that_is_no_number_is_refused(tokens: Tokens, end: str) -> None:
    payload = json.dumps(claims(exp=0)).replace('"exp": 0', f'"exp": {end}').encode()
    assert refused(tokens, raw({"alg": "RS256", "kid": "one"}, payload, key=RSA))


@pytest.mark.parametrize(
    "kid",
    [
        "two",
        "",
        "../../../../etc/passwd",
        "/dev/null",
        "one\0",
        "ONE",
        "one'--",
        "https://evil.example",
        " one",
        "k" * 5000,
        "é",
    ],
)
def test_a_key_id_is_looked_up_among_the_keys_and_nowhere_else(tokens: Tokens, kid: str) -> None:
    assert refused(tokens, signed(kid=kid))


@pytest.mark.parametrize("kid", [7, None, ["one"], {"one": 1}, True])
def test_a_key_id_that_is_no_text_is_refused(tokens: Tokens, kid: Any) -> None:
    assert refused(tokens, raw({"alg": "RS256", "kid": kid}, claims(), key=RSA))


def test_without_a_key_id_the_only_key_there_is_counts() -> None:
    one, two = public(RSA, "one"), public(OTHER, "two")
    assert Tokens(spec(), read=Provider(one)).principal(signed(kid=None)).name == "anna"
    assert Tokens(spec(), read=Provider(public(RSA, None), public(EC, "e"))).principal(signed(kid=None)).name == "anna"
    assert refused(Tokens(spec(), read=Provider(one, two)), signed(kid=None))
    assert refused(Tokens(spec(), read=Provider(public(RSA, None))), signed(kid="one"))


@pytest.mark.parametrize(
    "key",
    [
        public(RSA, "one", use="enc"),
        public(RSA, "one", key_ops=["encrypt"]),
        public(RSA, "one", key_ops="verify"),
        public(RSA, "one", alg="HS256"),
        public(rsa.generate_private_key(65537, 1024), "one"),
        {**RSAAlgorithm.to_jwk(RSA, as_dict=True), "kid": "one"},
        {"kty": "oct", "kid": "one", "k": "c2VjcmV0"},
        {"kty": "RSA", "kid": "one", "n": "AA", "e": "AQAB"},
        {"kty": "RSA", "kid": "one"},
        {"kty": ["RSA"], "kid": "one"},
        "one",
    ],
    ids=[
        "encryption", "encrypts", "ops are no list", "another algorithm", "1024 bits", "private", "symmetric", "damaged", "empty",
        "odd", "text",
    ],
)  # fmt: skip
def test_a_key_that_is_for_something_else_verifies_nothing(key: Any) -> None:
    assert refused(Tokens(spec(), read=Provider(key)), signed())


def test_a_short_key_verifies_nothing_not_even_what_it_signed() -> None:
    weak = rsa.generate_private_key(65537, 1024)
    token = raw({"alg": "RS256", "kid": "one"}, claims(), key=weak)
    assert refused(Tokens(spec(), read=Provider(public(weak, "one"))), token)


def test_a_curve_is_for_its_own_algorithm() -> None:
    tokens = Tokens(spec(algorithms=["ES256", "ES384"]), read=Provider(public(EC, "one")))
    assert tokens.principal(signed(EC, "ES256")).name == "anna"
    assert refused(tokens, raw({"alg": "ES384", "kid": "one"}, claims(), b"x" * 96))


@pytest.mark.parametrize(
    "token",
    [
        "", ".", "..", "a.b", "a.b.c.d", "eyJhbGciOiJSUzI1NiJ9..x", "a.b.c", "é.b.c", "a b.c.d", "a.b.c\n", "\ud800.b.c",
        "x" * MAX_CREDENTIAL, "a." + "b" * MAX_CREDENTIAL + ".c", raw(b"[" * 9000, {}), raw(b"\xff", {}), raw([], {}), raw("RS256", {}),
        raw({"alg": "RS256", "kid": "one", "crit": ["exp"]}, claims(), key=RSA),
        raw({"alg": "RS256", "kid": "one", "b64": False, "crit": ["b64"]}, claims(), key=RSA),
        raw({"alg": "RS256", "kid": "one"}, b"[" * 5000, key=RSA), raw({"alg": "RS256", "kid": "one"}, [claims()], key=RSA),
        raw({"alg": "RS256", "kid": "one"}, b"", key=RSA),
    ],
    ids=lambda token: token[:20],
)  # fmt: skip
def test_what_is_no_token_is_refused(tokens: Tokens, token: str) -> None:
    assert refused(tokens, token)


def test_a_token_that_is_too_long_is_not_even_read() -> None:
    provider = Provider(public(RSA, "one"))
    tokens = Tokens(spec(), read=provider)
    assert refused(tokens, signed(padding="x" * MAX_CREDENTIAL))
    assert provider.asked == 0
    assert tokens.principal(signed(padding="x" * 8_000)).name == "anna"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["alg", "kid", "typ", "crit", "b64", "iss", "aud", "exp", "nbf", "iat", "sub", "jti", "roles"])
BELIEVING = Tokens(spec(), read=Provider(public(RSA, "one")))


@given(
    text=st.text(max_size=60)
    | st.from_regex(r"[A-Za-z0-9_-]{1,30}\.[A-Za-z0-9_-]{1,30}\.[A-Za-z0-9_-]{1,30}", fullmatch=True)
)
def test_no_text_is_a_token(text: str) -> None:
    assert refused(BELIEVING, text)


@given(header=st.dictionaries(names, json_values, max_size=3), payload=st.dictionaries(names, json_values, max_size=4))
def test_whatever_is_in_a_token_it_is_refused_in_the_same_words_or_names_somebody(header: Any, payload: Any) -> None:
    token = raw({"alg": "RS256", "kid": "one", **header}, {**claims(), **payload}, key=RSA)
    said, holder = INVALID, None
    try:
        holder = BELIEVING.principal(token)
    except KeyRequired as error:
        said = str(error)
    assert said == INVALID
    assert holder is None or (
        holder.kind == "token" and holder.name and holder.verbs <= {Verb.PREDICT, Verb.SEARCH, Verb.DEPLOY}
    )


def test_a_token_reaches_no_log_and_no_error(tokens: Tokens, caplog: pytest.LogCaptureFixture) -> None:
    sent = [
        signed(OTHER, sub="CANARY"),
        signed(sub="CANARY", exp=5),
        signed(kid="CANARY"),
        signed(sub="CANARY", roles={"CANARY": 1}),
    ]
    with caplog.at_level(logging.DEBUG):
        assert [refused(tokens, token) for token in sent[:3]] == [True] * 3
        assert tokens.principal(sent[3]).verbs == frozenset()
    assert [record.getMessage() for record in caplog.records if record.name == "raystore.serve"] == [
        "a token was refused: InvalidSignatureError",
        "a token was refused: ExpiredSignatureError",
        "a token was refused: InvalidKeyError",
    ]
    assert "CANARY" not in caplog.text
    assert not any(part in caplog.text for token in sent for part in token.split("."))


def test_roles_are_a_text_or_a_list_of_texts_and_anything_else_is_none() -> None:
    nested = {"realm_access": {"roles": ["a"]}, "https://example.org/roles": "b", "a.b": ["dots"], "a": {"b": ["steps"]}}
    assert roles(nested, "realm_access.roles") == {"a"}
    assert roles(nested, "https://example.org/roles") == {"b"}
    assert roles(nested, "a.b") == {"dots"}
    assert roles({"scope": "read write"}, "scope") == {"read", "write"}
    assert roles({"role": "not admin"}, "role") == {"not admin"}
    assert roles({"roles": ["a", 7, None, ["b"], {"c": 1}]}, "roles") == {"a"}
    for wrong in (7, None, True, {"asker": True}, 1.5, [], ""):
        assert roles({"roles": wrong}, "roles") == frozenset()
    for path in ("roles", "realm_access.roles.a", "realm_access", ".", "", "realm_access..roles"):
        assert roles({"realm_access": {"roles": "a"}}, path) == frozenset()
    assert claim({"a": {"b": 0}}, "a.b") == 0


def test_a_role_claim_of_a_wrong_type_gives_no_verb(tokens: Tokens) -> None:
    for wrong in (7, {"asker": 1}, None, [["asker"]], "asker owner"):
        assert tokens.principal(signed(roles=wrong)).verbs == frozenset()
    assert tokens.principal(signed(roles="asker")).verbs == {Verb.PREDICT, Verb.SEARCH}


def test_name_and_roles_are_found_inside_of_claims() -> None:
    tokens = Tokens(spec(name="user.email", roles="realm_access.roles"), read=Provider(public(RSA, "one")))
    holder = tokens.principal(signed(user={"email": "anna@example.org"}, realm_access={"roles": ["owner"]}))
    assert (holder.name, holder.verbs) == ("anna@example.org", {Verb.DEPLOY})
    assert refused(tokens, signed(user="anna"))


def test_the_file_pins_algorithms_and_takes_keys_by_tls_alone() -> None:
    for algorithm in ("none", "HS256", "HS512", "RS1", "rs256"):
        with pytest.raises(ValidationError):
            spec(algorithms=[algorithm])
    with pytest.raises(ValidationError):
        spec(algorithms=[])
    for address in (
        "http://id.example.org/keys",
        "ftp://id.example.org/keys",
        "HTTP://id.example.org/keys",
        "file:///etc/keys",
    ):
        with pytest.raises(ValidationError, match="expected an https:// address or a file"):
            spec(jwks=address)


# Keys that change, and a provider that does not answer.


def test_keys_are_read_once_and_again_after_five_minutes() -> None:
    provider, clock = Provider(public(RSA, "one")), Clock()
    tokens = Tokens(spec(), read=provider, clock=clock)
    for _ in range(5):
        tokens.principal(signed())
    clock.now += FRESH_S - 1
    tokens.principal(signed())
    assert provider.asked == 1
    clock.now += 1
    tokens.principal(signed())
    assert provider.asked == 2


def test_a_new_key_is_believed_with_the_first_token_it_signs_and_a_gone_one_no_longer() -> None:
    provider, clock = Provider(public(RSA, "one")), Clock()
    tokens = Tokens(spec(), read=provider, clock=clock)
    tokens.principal(signed())
    provider.keys = [public(OTHER, "two")]
    clock.now += RETRY_S
    assert tokens.principal(signed(OTHER, kid="two")).name == "anna"
    assert refused(tokens, signed())


def test_a_key_that_is_gone_is_no_longer_believed_after_five_minutes() -> None:
    provider, clock = Provider(public(RSA, "one")), Clock()
    tokens = Tokens(spec(), read=provider, clock=clock)
    tokens.principal(signed())
    provider.keys = []
    clock.now += FRESH_S
    assert refused(tokens, signed())


def test_unknown_key_ids_have_the_keys_read_every_ten_seconds_at_most() -> None:
    provider, clock = Provider(public(RSA, "one")), Clock()
    tokens = Tokens(spec(), read=provider, clock=clock)
    tokens.principal(signed())
    for i in range(50):
        assert refused(tokens, signed(OTHER, kid=f"k{i}"))
    assert provider.asked == 1
    clock.now += RETRY_S
    for i in range(50):
        assert refused(tokens, signed(OTHER, kid=f"k{i}"))
    assert provider.asked == 2


@pytest.mark.parametrize("failure", [OSError(), ValueError("CANARY"), TimeoutError()], ids=lambda e: type(e).__name__)
def test_keys_that_cannot_be_read_again_are_believed_for_an_hour(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    provider, clock = Provider(public(RSA, "one")), Clock()
    tokens = Tokens(spec(), read=provider, clock=clock)
    end = int(time.time()) + 10**6
    tokens.principal(signed())
    provider.broken = failure
    clock.now += FRESH_S
    for _ in range(20):
        assert tokens.principal(signed(exp=end)).name == "anna"
    assert provider.asked == 2
    assert caplog.messages == [f"the public keys of the identity provider were not read: {type(failure).__name__}"]
    clock.now += STALE_S - FRESH_S - 1
    tokens.principal(signed(exp=end))
    clock.now += 1
    with pytest.raises(ProviderUnreachable) as error:
        tokens.principal(signed(exp=end))
    assert (
        str(error.value) == "no token can be checked: the public keys of the identity provider cannot be read. Try again."
    )
    provider.broken = None
    clock.now += RETRY_S
    assert tokens.principal(signed(exp=end)).name == "anna"


def test_a_provider_that_never_answered_is_asked_every_ten_seconds_and_nobody_is_let_in() -> None:
    provider, clock = Provider(public(RSA, "one")), Clock()
    provider.broken = OSError()
    tokens = Tokens(spec(), read=provider, clock=clock)
    tokens.warm()
    for _ in range(20):
        with pytest.raises(ProviderUnreachable):
            tokens.principal(signed())
    assert provider.asked == 1
    assert refused(tokens, "nonsense")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": 7}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"keys": [' + b"{}," * 200 + b"{}]}",
    ],
)
def test_what_is_no_jwk_set_changes_nothing(text: bytes) -> None:
    clock = Clock()
    answers = [json.dumps({"keys": [public(RSA, "one")]}).encode(), text]
    tokens = Tokens(spec(), read=lambda _: answers.pop(0), clock=clock)
    tokens.principal(signed())
    clock.now += FRESH_S
    assert tokens.principal(signed()).name == "anna"
    assert answers == []


@given(
    st.lists(
        json_values
        | st.dictionaries(st.sampled_from(["kty", "kid", "n", "e", "crv", "x", "y", "use", "alg", "key_ops"]), json_values),
        max_size=4,
    )
)
def test_any_list_is_read_without_a_failure(listed: Any) -> None:
    algorithms = ["RS256", "PS256", "ES256", "ES384", "EdDSA"]
    kinds = [
        {"kty": kty, "crv": crv, "n": "AQAB", "e": "AQAB", "x": "AA", "y": "AA"}
        for kty in ("RSA", "EC", "OKP")
        for crv in ("P-256", "Ed25519", "Ed448")
    ]
    mixed = [{**kind, **each} if isinstance(each, dict) else each for each in listed for kind in kinds]
    parse_keys(json.dumps({"keys": mixed}).encode(), algorithms)


def test_while_one_thread_reads_known_keys_are_found_and_few_wait() -> None:
    clock = Clock()
    reading, go_on = threading.Event(), threading.Event()
    answers: list[Callable[[], bytes]] = []

    def read(source: str) -> bytes:
        return answers.pop(0)()

    def slow() -> bytes:
        reading.set()
        assert go_on.wait(30)
        return json.dumps({"keys": [public(RSA, "one"), public(OTHER, "two")]}).encode()

    answers += [lambda: json.dumps({"keys": [public(RSA, "one")]}).encode(), slow]
    keys = KeySet("https://id.example.org/keys", ["RS256"], read=read, clock=clock)
    assert keys.find("one", "RS256") is not None
    clock.now += FRESH_S
    found: list[object] = []

    def look() -> None:
        try:
            found.append(keys.find("two", "RS256"))
        except ProviderUnreachable as error:
            found.append(error)

    first = threading.Thread(target=look)
    first.start()
    assert reading.wait(30)
    assert keys.find("one", "RS256") is not None  # while the first one still reads
    others = [threading.Thread(target=look) for _ in range(10)]
    for thread in others:
        thread.start()
    while len(found) < 7:  # three wait, and seven are told to come again
        time.sleep(0.001)
    assert all(isinstance(each, ProviderUnreachable) for each in found)
    go_on.set()
    for thread in (first, *others):
        thread.join()
    assert len(found) == 11
    assert sum(isinstance(each, jwt.PyJWK) for each in found) == 4
    assert answers == []


def test_keys_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a set of keys.json"
    tokens = Tokens(spec(jwks=str(path)), clock=(clock := Clock()))
    with pytest.raises(ProviderUnreachable):
        tokens.principal(signed())
    path.write_text(json.dumps({"keys": [public(RSA, "one")]}))
    clock.now += RETRY_S
    assert tokens.principal(signed()).name == "anna"
    path.write_text(" " * 2**20 + path.read_text())  # more than a MiB is not read
    clock.now += FRESH_S
    assert tokens.principal(signed()).name == "anna"
    clock.now += STALE_S
    with pytest.raises(ProviderUnreachable):
        tokens.principal(signed())


@contextmanager
def tls_server(folder: Path, answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, Path]]:
    """An HTTPS server of this machine: its address, and the certificate to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}", folder / "cert.pem"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_keys_come_by_https_from_a_server_whose_certificate_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {
        "/keys": json.dumps({"keys": [public(RSA, "one")]}).encode(),
        "/large": b" " * (2**20 + 1) + json.dumps({"keys": [public(RSA, "one")]}).encode(),
    }

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        body = sets.get(handler.path, b"")
        handler.send_response(200 if body else 302 if handler.path == "/moved" else 500)
        if handler.path == "/moved":
            handler.send_header("location", "/keys")
        handler.end_headers()
        handler.wfile.write(body)

    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with tls_server(tmp_path, answer) as (url, certificate):
        with pytest.raises(ProviderUnreachable):
            Tokens(spec(jwks=f"{url}/keys")).principal(signed())
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert Tokens(spec(jwks=f"{url}/keys")).principal(signed()).name == "anna"
        for path in ("moved", "missing", "large"):
            with pytest.raises(ProviderUnreachable):
                Tokens(spec(jwks=f"{url}/{path}")).principal(signed())
    with pytest.raises(ProviderUnreachable):
        Tokens(spec(jwks=f"{url}/keys")).principal(signed())
