from __future__ import annotations

from pathlib import Path

import pytest

from raystore.errors import InvalidArguments, PassportMismatch
from raystore.serve.spec.deployment import LogSpec
from raystore.serve.spec.read import load_spec, parse_spec
from raystore.serve.spec.records import deployment_records
from tests.serve.conftest import Served, recorded


def problems(value: object) -> list[str]:
    with pytest.raises(InvalidArguments) as raised:
        parse_spec(value, "serve 'app.yaml'")
    return list(raised.value.problems)


def test_a_file_with_a_deployment_alone_has_every_default(tmp_path: Path) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("deployments:\n  triage: {head: refunds@2}\n", encoding="utf-8")
    spec = load_spec(path)
    assert (spec.host, spec.port, spec.replicas.least, spec.collections) == ("127.0.0.1", 8000, 1, "all")
    assert spec.limits.model_dump() == {
        "max_body_bytes": 2**24,
        "max_items": 256,
        "max_chars": 100_000,
        "max_image_bytes": 10_000_000,
        "max_image_pixels": 50_000_000,
        "max_image_frames": 1_000,
        "max_requests": 128,
        "max_sending": 32,
        "max_streams": 32,
        "stream_idle_s": 60,
        "deadline_s": 30,
    }
    assert spec.deployments["triage"].head.name == "refunds@2"
    assert spec.serves("tickets")


def test_an_empty_file_is_refused_rather_than_taken_for_everything(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("", encoding="utf-8")
    with pytest.raises(InvalidArguments) as refused:
        load_spec(tmp_path / "app.yaml")
    assert str(refused.value) == (
        f"serve '{tmp_path / 'app.yaml'}': the file is empty, expected deployments: and what else it should set."
    )


def test_unknown_keys_are_named_with_the_nearest_known_one() -> None:
    assert problems({"prot": 1, "limits": {"max_item": 1}, "deployments": {"triage": {"heat": "a", "head": "a"}}}) == [
        "limits has the unknown key 'max_item': did you mean 'max_items'?",
        "deployments.triage has the unknown key 'heat': did you mean 'head'?",
        "the file has the unknown key 'prot': did you mean 'port'?",
    ]


@pytest.mark.parametrize(
    ("at", "wrong", "hint"),
    [
        ("deployments.d.log", "requird", "did you mean 'required'?"),  # a mapping for which a text may stand
        ("deployments.d.log", "colection", "did you mean 'collection'?"),
        ("deployments.d.log", "zzz", "known are collection, required, sample, queue"),
        ("deployments.d.review", "tabel", "did you mean 'table'?"),
        ("deployments.d.head", "gpus", "did you mean 'gpu'?"),
        ("deployments.d.head.replicas", "mni", "did you mean 'min'?"),
        ("deployments.d.shadow.0", "sampel", "did you mean 'sample'?"),  # a list of them
        ("deployments.d.canary", "precent", "did you mean 'percent'?"),
        ("deployments.d.rules.before.0", "requier", "did you mean 'require'?"),
        ("deployments.d.rules.before.0.quota", "windows", "did you mean 'window_s'?"),
        ("deployments.d.rules.after.0", "reviw", "did you mean 'review'?"),
        ("deployments.log", "heat", "did you mean 'head'?"),  # a deployment that is called as one of its keys
        ("deployments.log.log", "requird", "did you mean 'required'?"),
        ("replicas", "mn", "did you mean 'min'?"),  # a number may stand for it, and its keys have other names in Python
        ("replicas", "zzz", "known are min, max, ongoing"),
        ("encoders.port", "batsh", "did you mean 'batch'?"),
        ("encoders.port.batch", "max_tokns", "did you mean 'max_tokens'?"),
        ("encoders.port.replicas", "mx", "did you mean 'max'?"),
        ("recording", "memory", "did you mean 'memory_mb'?"),
        ("oidc", "isuer", "did you mean 'issuer'?"),
        ("rates", "requets", "did you mean 'requests_per_s'?"),
    ],
)
def test_an_unknown_key_is_answered_with_a_known_one_of_its_own_place(at: str, wrong: str, hint: str) -> None:
    value: object = {wrong: 1}
    for part in reversed(at.split(".")):
        value = [value] if part == "0" else {part: value}
    assert f"{at} has the unknown key '{wrong}': {hint}" in problems(value)


def test_an_unknown_key_like_no_other_is_answered_with_all_that_are_known() -> None:
    assert problems({"zzz": 1}) == [
        "the file has the unknown key 'zzz': known are store, host, port, limits, replicas, batch, colocate, encoders, deployments, "
        "collections, models, tables, sql, recording, watch, grpc, tls, oidc, rates"
    ]


def test_all_mistakes_are_told_together() -> None:
    found = problems(
        {"port": 0, "replicas": "many", "collections": 3, "deployments": {"T!": {"head": "x"}, "t": {"head": "A@0"}}}
    )
    assert found == [
        "port: input should be greater than or equal to 1",
        "replicas: expected a whole number, or min and max",
        "deployments.t.head.name: expected a head as 'refunds', 'refunds@2' or 'refunds@live'",
        "collections: expected 'all' or a list of names",
    ]
    assert problems({"deployments": {"T!": {"head": "x"}}}) == [
        "deployments: 'T!' is no name for a deployment: expected 1 to 63 characters, a small letter first, then small "
        "letters, digits, '_' or '-'"
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("- a", "expected keys and values (deployments:, port:, ...)"),
        ("port: 1\ndeployments: {}\nport: 2", "line 3 has the key 'port' once more, which stands in line 1 already"),
        (
            "deployments:\n  a: {head: h, log: {collection: c, required: true, required: false}}\n  a: {head: h}",
            "line 2 has the key 'required' once more, which stands in line 2 already; "
            "line 3 has the key 'a' once more, which stands in line 2 already",
        ),
        ("port: [1", "line 1 is no YAML: expected ',' or ']', but got '<stream end>'"),
        ("!!python/object/apply:os.system ['true']", "line 1 is no YAML: could not determine a constructor for the tag"),
    ],
)
def test_what_is_no_spec_is_refused_in_a_sentence(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "app.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InvalidArguments) as raised:
        load_spec(tmp_path / "app.yaml")
    assert problem in str(raised.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArguments, match="the file cannot be read"):
        load_spec(tmp_path / "no.yaml")


def test_a_deployment_is_recorded_once_and_again_when_it_changes(served: Served) -> None:
    rooms = served.rooms
    first = recorded(rooms, "recorded", "refunds@1")
    assert (first.number, first.head, first.fingerprint) == (1, "refunds@1", served.fingerprint)
    assert recorded(rooms, "recorded", "refunds@1") == first
    second = recorded(rooms, "recorded", "refunds", log="kept")
    assert (second.number, second.head, second.log) == (2, "refunds@2", LogSpec(collection="kept"))
    assert deployment_records(rooms.catalog)["recorded"] == second


def test_an_alias_is_looked_up_when_it_is_deployed_and_the_number_stays(served: Served) -> None:
    rooms = served.rooms
    rooms.heads.set_alias("refunds", "chosen", 1)
    assert (
        parse_spec({"deployments": {"t": {"head": "refunds@chosen"}}}, "serve").deployments["t"].head.name
        == "refunds@chosen"
    )
    first = recorded(rooms, "aliased", "refunds@chosen")
    assert (first.number, first.head) == (1, "refunds@1")
    rooms.heads.set_alias("refunds", "chosen", 2)
    assert deployment_records(rooms.catalog)["aliased"] == first
    assert rooms.live({"aliased": first})["aliased"].record.head == "refunds@1"
    again = recorded(rooms, "aliased", "refunds@chosen")
    assert (again.number, again.head) == (2, "refunds@2")


def test_a_log_of_another_encoder_is_refused_with_both_named(served: Served) -> None:
    with pytest.raises(PassportMismatch) as raised:
        recorded(served.rooms, "wrong", "refunds", log="strange")
    assert str(raised.value) == (
        "the log of deployment 'wrong', which holds what head 'refunds@2' encodes, expects "
        f"{served.label} ({served.fingerprint[:12]}), but was given collection 'strange' of {'f' * 12}. "
        "Log to a collection of the head's encoder."
    )
    assert "wrong" not in deployment_records(served.rooms.catalog)
