"""The OpenAPI document held against the service: what fits it and what does not, sent to every operation with every kind of key.

schemathesis makes the requests from the document; a real uvicorn answers them over loopback from a real store. Every answer is held
against the document's statuses and schemas, every error against the one shape, and a word that stands in what was sent must not come
back in any. Bounded: the same requests each time, some per operation.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator
from schemathesis import Case, GenerationMode, Response
from schemathesis.config import GenerationConfig
from schemathesis.specs.openapi import checks as conformance

from raystore import errors
from raystore.access import ApiKeys, Verb
from raystore.errors import Quoting, RaystoreError
from raystore.serve.answer.loading import Rooms
from raystore.serve.door.auth import Door
from raystore.serve.door.problems import OWN_SENTENCE, answer_error
from raystore.serve.http.app import make_app
from raystore.serve.operate.operator import Operator
from raystore.serve.recording.recorder import Recorder
from raystore.serve.spec.app import AppSpec
from raystore.serve.spec.watch import Watch
from raystore.serve.watch.merger import Merger
from raystore.serve.watch.metrics import Metrics
from tests.serve.conftest import Served, make_store, recorded
from tests.serve.serving import running, told

pytestmark = pytest.mark.model

# A word that may stand in names, labels and texts alike.
CANARY = "uncanny7f3a"
PUBLIC = "public"
ANY_KEY = "any key"
# What each operation asks for. Written down here, so that neither the document nor the door is its own judge.
ASKED = {
    "GET /healthz": PUBLIC,
    "GET /readyz": PUBLIC,
    "GET /metrics": ANY_KEY,
    "POST /v1/predict/{deployment}": Verb.PREDICT,
    "POST /v1/predict/{deployment}/stream": Verb.PREDICT,
    "POST /v1/embeddings": Verb.PREDICT,
    "GET /v1/models": Verb.PREDICT,
    "GET /v1/models/{model}": Verb.PREDICT,
    "POST /v1/collections/{collection}/log": Verb.LOG,
    "POST /v1/collections/{collection}/search": Verb.SEARCH,
    "POST /v1/sql": Verb.SQL,
    "GET /v1/status": Verb.PREDICT,
    "GET /v1/deployments": Verb.PREDICT,
    "GET /v1/deployments/{deployment}": Verb.PREDICT,
    "POST /v1/deployments/{deployment}/promote": Verb.DEPLOY,
    "POST /v1/deployments/{deployment}/rollback": Verb.DEPLOY,
    "GET /v1/shadow/{deployment}": Verb.DEPLOY,
    "GET /v1/review/{deployment}": Verb.LABEL,
    "POST /v1/review/{deployment}": Verb.LABEL,
    "POST /v1/review/{deployment}/claim": Verb.LABEL,
    "POST /v1/review/{deployment}/release": Verb.LABEL,
}
# Names that are there, so that what is made up does not end at a 404.
NAMES = {"deployment": ["triage", "plain"], "collection": ["tickets"], "model": ["tiny"]}
STRANGERS = ("nobody", "a wrong key", "a revoked key")
SLOW = "POST /v1/sql"  # each takes a process of its own
CHECKS = [
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_schema_conformance,
    conformance.response_headers_conformance,
]
BY_DESIGN = (503, 504)  # what the service cannot do at the moment, and says so


@schemathesis.serializer("application/x-ndjson")
def _lines(_: Any, value: Any) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in (value if isinstance(value, list) else [value]))


@dataclass(frozen=True)
class Api:
    """A service, its document as it is and as requests are made from it, and the keys to it by who holds them."""

    url: str
    document: dict[str, Any]
    operations: dict[str, schemathesis.APIOperation]
    keys: dict[str, str | None]
    session: requests.Session

    def send(self, case: Case, who: str) -> Response:
        key = self.keys[who]
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return case.call(base_url=self.url, session=self.session, headers=headers, timeout=120)

    def of(self, operation: str) -> dict[str, Any]:
        method, path = operation.split(" ")
        found: dict[str, Any] = self.document["paths"][path][method.lower()]
        return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Served:
    """Of its own: what is made up is logged and labelled there."""
    return make_store(tmp_path_factory.mktemp("openapi") / "a store", tiny_model)


@pytest.fixture(scope="module")
def api(store: Served) -> Iterator[Api]:
    rooms, metrics = store.rooms, Metrics("ingress")
    limits = {"max_items": 64, "max_chars": 10_000, "max_body_bytes": 1_000_000}
    spec = AppSpec.model_validate({"limits": limits, "sql": {"timeout_s": 5}})
    records = {
        "triage": recorded(
            rooms, "triage", "refunds@1", shadow=["refunds@2"], log="kept", review={"table": "reviewed", "sample": 1}, keep=["product"]
        ),
        "plain": recorded(rooms, "plain", "refunds@2"),
    }  # fmt: skip
    recorder = Recorder(rooms, Watch(), Metrics("recording"))
    recorder.update(records)
    orchestrator = rooms.orchestrator(spec, metrics=metrics, threads=1, tell=lambda seen: recorder.take([seen]))
    orchestrator.update(rooms.live(records, metrics=metrics))
    operator = Operator(rooms, partial(told, Merger(), metrics))
    app = make_app(lambda: orchestrator, spec, Door(rooms_keys(rooms)), metrics, (), operator)
    document = app.openapi()
    schema = schemathesis.openapi.from_dict(narrowed(document, store.fingerprint), config=schemathesis.Config())
    operations = {found.ok().label: found.ok() for found in schema.get_all_operations()}
    session = requests.Session()
    session.trust_env = False
    with running(app) as url:
        yield Api(url, document, operations, made_keys(rooms), session)
    session.close()
    recorder.close()
    orchestrator.close()


def rooms_keys(rooms: Rooms) -> ApiKeys:
    return ApiKeys(rooms.layout, rooms.store_key)


def made_keys(rooms: Rooms) -> dict[str, str | None]:
    keys = rooms_keys(rooms)
    each: dict[str, str | None] = {verb.value: keys.create(f"only_{verb.name.lower()}", [verb]) for verb in Verb}
    dead = keys.create("dead", list(Verb))
    keys.revoke("dead")
    return {
        "nobody": None,
        "a wrong key": "rs.only_sql.nothing",
        "a revoked key": dead,
        **each,
        "all": keys.create("all", list(Verb)),
    }


def narrowed(document: dict[str, Any], fingerprint: str) -> dict[str, Any]:
    """The document with names that are there and fields that go together, so that more is answered than refused; the models as they
    are stand beside. Without keys: those are not made up."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    for methods in copy["paths"].values():
        for operation in methods.values():
            operation.pop("security", None)
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string", "enum": NAMES[parameter["name"]]}
    models = copy["components"]["schemas"]
    for name in ("PredictRequest", "SearchRequest", "LogRequest"):
        models[name]["properties"]["fingerprint"] = {"enum": [fingerprint, None]}
    models["EmbeddingsRequest"]["properties"]["model"] = {"enum": NAMES["model"]}
    models["PromoteRequest"]["properties"]["head"] = {"enum": ["refunds@1", "refunds@2"]}
    for name in ("like", "unlike"):
        models["SearchRequest"]["properties"][name] = {"type": "array", "items": {"enum": ["t-0", "t-1"]}, "maxItems": 2}
    for name, ways in {
        "PredictItem": [without(models["PredictItem"], "vector", asks="text")],
        "PredictRequest": [
            without(models["PredictRequest"], "vector", "items", asks="text"),
            without(models["PredictRequest"], "text", "vector", "id", "subject", "tenant", "time", "columns", asks="items"),
        ],
        "SearchRequest": [
            without(
                models["SearchRequest"],
                "id",
                "vector",
                "like",
                "unlike",
                "after",
                "through",
                "where",
                "columns",
                "distinct",
                asks="text",
            ),
            without(
                models["SearchRequest"],
                "id",
                "vector",
                "text",
                "unlike",
                "after",
                "through",
                "where",
                "distinct",
                asks="like",
            ),
        ],
        "LogRow": [without(models["LogRow"], "vector", "image", asks="text")],
    }.items():
        models[name] = {"anyOf": [*ways, models[name]]}
    return copy


def without(model: dict[str, Any], *names: str, asks: str) -> dict[str, Any]:
    fields = {name: each for name, each in model["properties"].items() if name not in names}
    fields[asks] = next((each for each in fields[asks].get("anyOf", ()) if each != {"type": "null"}), fields[asks])
    return {**model, "properties": fields, "required": [*model.get("required", ()), asks]}


# --- who may ---------------------------------------------------------------------------------------------------------


def expected(operation: str, who: str) -> int | None:
    """The status that the door gives; None: it lets the request in."""
    asked = ASKED[operation]
    if asked == PUBLIC or who == "all":
        return None
    if who in STRANGERS:
        return 401
    return None if asked in (ANY_KEY, who) else 403


def test_the_document_names_every_operation_and_the_verb_that_it_asks_for(api: Api) -> None:
    found = {}
    for label in api.operations:
        told = api.of(label)
        found[label] = told.get("x-verb", ANY_KEY) if told.get("security") else PUBLIC
    assert found == ASKED
    assert set(ASKED.values()) - {PUBLIC, ANY_KEY} <= set(Verb)


@pytest.mark.parametrize("operation", ASKED)
def test_an_operation_lets_in_who_holds_its_verb_and_nobody_else(api: Api, operation: str) -> None:
    for who in api.keys:
        answer = api.send(example(api, operation), who)
        allowed = expected(operation, who) is None
        assert (answer.status_code in (401, 403)) == (not allowed), (who, answer.text)
        if not allowed:
            assert answer.status_code == expected(operation, who), who
        check(api, operation, example(api, operation), answer, who)


def example(api: Api, operation: str) -> Case:
    """The request that the document shows."""
    made = api.operations[operation]
    names = {name: values[0] for name, values in NAMES.items() if f"{{{name}}}" in made.path}
    bodies = api.of(operation).get("requestBody", {}).get("content", {})
    if not bodies:
        return made.Case(path_parameters=names)
    return made.Case(path_parameters=names, body=model_of(api, operation)["examples"][0], media_type=next(iter(bodies)))


def model_of(api: Api, operation: str) -> dict[str, Any]:
    content = next(iter(api.of(operation)["requestBody"]["content"].values()))
    found: dict[str, Any] = api.document["components"]["schemas"][content["schema"]["$ref"].rsplit("/", 1)[-1]]
    return found


# --- what is made up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(GenerationMode), ids=["fits", "does not fit"])
@pytest.mark.parametrize("operation", ASKED)
def test_whatever_is_sent_is_answered_as_the_document_says_and_comes_back_in_no_error(
    api: Api, operation: str, mode: GenerationMode
) -> None:
    @settings(
        max_examples=5 if operation == SLOW else 25, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=api.operations[operation].as_strategy(generation_mode=mode))
    def asked(case: Case) -> None:
        turns = random.Random(repr(case))
        for each, who in [(case, "all"), (case, turns.choice(list(api.keys))), (marked_case(case, turns), "all")]:
            check(api, operation, each, api.send(each, who), who)

    try:
        asked()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # nothing can be wrong with it


@pytest.mark.parametrize("operation", ASKED)
def test_every_edge_of_the_document_is_answered_as_it_says(api: Api, operation: str) -> None:
    """Each bound of each field from both sides, fields left out, fields of another type, other methods."""
    whos, turns, made = list(api.keys), random.Random(operation), api.operations[operation]
    schema, modes = made.schema, list(GenerationMode)
    cases = list(schema.iter_coverage_cases(made, generation_modes=modes, generation_config=GenerationConfig()))
    for case in cases[:: 10 if operation == SLOW else 1 + len(cases) // 150]:
        for who in ("all", turns.choice(whos)):
            answer = api.send(case, who)
            if case.method.upper() == made.method.upper():
                check(api, operation, case, answer, who)
            else:
                assert answer.status_code == (401 if who in STRANGERS and ASKED[operation] != PUBLIC else 405)


def asks_evidence(case: Case, operation: str) -> bool:
    """Whether it asks for labelled rows, for which a key has to hold `search` too; in the query of an image and of a stream."""
    body = case.body if isinstance(case.body, dict) else {}
    return "/predict/" in operation and bool({**body, **(case.query or {})}.get("evidence"))


def check(api: Api, operation: str, case: Case, answer: Response, who: str) -> None:
    """The answer is one that the document tells of, from somebody who may have it, and no error repeats anything."""
    door = expected(operation, who)
    assert answer.status_code < 500 or answer.status_code in BY_DESIGN, answer.text
    if answer.status_code in (404, 405) and answer.json()["error"]["type"] in ("NoSuchRoute", "WrongMethod"):
        assert door != 401  # a name that was made up makes another path of it
    else:
        if asks_evidence(case, operation) and who == Verb.PREDICT and answer.status_code == 403:
            assert answer.json()["error"]["verb"] == Verb.SEARCH
            door = 403
        assert answer.status_code == door or (door is None and answer.status_code not in (401, 403)), (who, answer.text)
        case.validate_response(answer, checks=CHECKS)
    if answer.status_code >= 400:
        body = answer.json()
        assert list(body) == ["error"]
        check_error(body["error"], answer)
    elif operation.endswith("/stream"):
        lines = [json.loads(line) for line in answer.content.splitlines()]
        line_schema = {"$ref": "#/components/schemas/StreamLine", "components": api.document["components"]}
        for line in lines:
            Draft202012Validator(line_schema).validate(line)
            if "error" in line:
                check_error(line["error"], answer)
        assert lines[-1]["done"] >= lines[-1]["failed"]


def check_error(error: dict[str, Any], answer: Response) -> None:
    assert {name: type(error[name]) for name in ("type", "message", "request_id")} == {
        "type": str, "message": str, "request_id": str,
    }  # fmt: skip
    assert error["request_id"] == answer.headers["x-request-id"][0]
    if error["type"] != "IdConflict":  # which names ids of rows that are there
        assert CANARY not in json.dumps(error)


def marked_case(case: Case, turns: random.Random) -> Case:
    """The request with the canary in its texts, names and keys."""
    return case.operation.Case(
        path_parameters={k: CANARY if turns.random() < 0.3 else v for k, v in case.path_parameters.items()},
        headers=dict(case.headers),
        query=marked(dict(case.query), turns),
        body=marked(case.body, turns),
        media_type=case.media_type,
    )


def marked(value: Any, turns: random.Random) -> Any:
    if isinstance(value, dict):
        more = {CANARY: CANARY} if turns.random() < 0.1 else {}
        return {**{key: marked(each, turns) for key, each in value.items()}, **more}
    if isinstance(value, list):
        return [marked(each, turns) for each in value]
    if isinstance(value, str):
        return turns.choice(
            [
                CANARY, f"{CANARY} {value}", f"{value}{CANARY}", f"{CANARY}.{CANARY}", f"{CANARY}@1", f"'{CANARY}",
                f"{CANARY} > 1", f"agreement > .5 and {CANARY}", f'"{CANARY}" = 1', f"SELECT {CANARY} FROM tickets",
                f"data:image/png;base64,{CANARY}", f"data:image/{CANARY}",
            ]
        )  # fmt: skip
    return CANARY if value is None or (isinstance(value, (int, float)) and turns.random() < 0.1) else value


# --- edges that were found once --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    ["0001-01-01", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "9999-12-31T23:59:59Z", "-1", "1e300", "nan"],
)
def test_times_at_the_ends_of_the_calendar_are_answered_or_refused(api: Api, moment: str) -> None:
    for operation, sent in {
        "GET /v1/shadow/{deployment}": {"query": {"since": moment}},
        "POST /v1/deployments/{deployment}/promote": {
            "body": {"head": "refunds@2", "if": "agreement > 2", "since": moment}, "media_type": "application/json",
        },
        "POST /v1/predict/{deployment}": {"body": {"text": "a card", "time": moment}, "media_type": "application/json"},
        "POST /v1/collections/{collection}/log": {
            "body": {"rows": [{"id": f"at {moment}", "text": "a card", "time": moment}]}, "media_type": "application/json",
        },
    }.items():  # fmt: skip
        made = api.operations[operation]
        names = {name: values[0] for name, values in NAMES.items() if f"{{{name}}}" in made.path}
        case = made.Case(path_parameters=names, **sent)
        check(api, operation, case, api.send(case, "all"), "all")


@pytest.mark.parametrize("number", [10**400, -(10**400), 2**63, 1e308, 5e-324, float("nan"), float("-inf")], ids=range(7))
def test_numbers_that_no_machine_holds_are_answered_or_refused(api: Api, number: float) -> None:
    for operation, made in api.operations.items():
        case = example(api, operation)
        url, key = f"{api.url}{case.formatted_path}", {"authorization": f"Bearer {api.keys['all']}"}
        answers = [api.session.request(made.method, url, params={each.name: number}, headers=key) for each in made.query]
        if case.media_type == "application/json" and operation != SLOW:
            for name in model_of(api, operation)["properties"]:
                body = json.dumps({**case.body, name: number})
                answers.append(api.session.post(url, data=body, headers={**key, "content-type": "application/json"}))
        for answer in answers:
            check(api, operation, case, Response.from_any(answer), "all")


@pytest.mark.parametrize(
    "gate",
    [
        f"{CANARY} > 1",
        f"agreement > '{CANARY}'",
        f"{CANARY}()",
        f"agreement.{CANARY} > 1",
        "-" * 990 + "1 > 0",
        "(" * 999,
        "not " * 249 + "x",
    ],
    ids=range(7),
)
def test_a_gate_that_cannot_be_read_is_told_by_its_place(api: Api, gate: str) -> None:
    operation = "POST /v1/deployments/{deployment}/promote"
    sent = {"head": "refunds@2", "if": gate}
    case = api.operations[operation].Case(
        path_parameters={"deployment": "triage"}, body=sent, media_type="application/json"
    )
    answer = api.send(case, "all")
    check(api, operation, case, answer, "all")
    assert answer.status_code == 422


def quoting(cls: type[RaystoreError]) -> RaystoreError:
    """An error whose every text is one that was sent, but what the class says of itself."""
    samples = {
        "str": CANARY, "int": 7, "float": 0.5, "Sequence[str]": [Quoting(f"'{CANARY}' is wrong", unquoted="this is wrong")],
        "Sequence[int]": [1], "Sequence[tuple[int, str | None, str]]": [(0, CANARY, "the text is empty")],
        "Sequence[tuple[int, str]]": [(0, "is zero")], "Mapping[str, Any]": {CANARY: CANARY},
    }  # fmt: skip
    own = {"call": "promote", "where": "this store", "existing": ["tickets"], "rule": "old"}
    return cls(**{field.name: own.get(field.name, samples[str(field.type)]) for field in fields(cls)})


@pytest.mark.parametrize(
    "cls",
    [
        cls
        for _, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, RaystoreError)
        and cls not in (RaystoreError, *OWN_SENTENCE)
        and not issubclass(cls, (errors.QueryRefused, errors.HookFailed))  # whose texts are the service's own
    ],
    ids=lambda cls: cls.__name__,
)
def test_an_error_that_may_quote_what_was_sent_is_told_without_it(cls: type[RaystoreError]) -> None:
    told = bytes(answer_error(quoting(cls), "r-1").body)
    assert CANARY.encode() not in told
    assert json.loads(told)["error"]["type"] == cls.__name__
